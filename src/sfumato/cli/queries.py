"""The queries of a command: a classifier, and pictures with their targets, which are read one batch at a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.device import choose, in_words, place
from sfumato.cli.errors import FAILED, SOME_FAILED, print_error
from sfumato.cli.files import results_in, writable
from sfumato.cli.inputs import shown
from sfumato.cli.naming import check_count
from sfumato.cli.outputs import MADE_FROM, Outputs, digest_of, made_from
from sfumato.cli.questions import Details, question

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from sfumato.models import Classifier
    from sfumato.models.questions import Asked, Question

ON_GPU, ON_CPU = 8, 1
"""How many queries go through the model together. On the CPU, several take about as long as one after the other, and the
first results come later."""

TOP = 5
"""How many classes are named."""

BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="N",
        help=f"How many pictures and targets are explained together. [default: {ON_GPU} on a GPU, {ON_CPU} on the CPU]",
        show_default=False,
    ),
]
"""The option --batch."""


@dataclass(frozen=True)
class Request:
    """What a command is asked for, besides the method: the options that `explain` and `channels` have in common."""

    images: Sequence[Path]
    model: str
    out: Path
    targets: Sequence[str] = ()
    checkpoint: Path | None = None
    device: str = "auto"
    batch: int | None = None
    overwrite: bool = False
    resume: bool = False
    labels: Path | None = None
    """A file with the names of the classes."""
    resumable: bool = True
    """Whether the same command can go on where it stopped: not into a bundle, which is of one run."""
    score: str | None = None
    """What is asked, a value of --score; `None` for the method's default."""
    details: Details = Details()


@dataclass(frozen=True, eq=False)
class Query:
    """One picture, as inputs `(C, H, W)` on the CPU, with what is asked of it. A clip is `(C, T, H, W)`.

    A model with one output has one class, 0, whose probability is the sigmoid of the output.
    """

    source: Path
    picture: "Image | Tensor"
    """The picture of the file; of a clip, the frames that the network sees, `(3, T, H, W)`."""
    inputs: "Tensor"
    asked: "Asked"
    stem: str
    """The beginning of the names of its files."""
    made_from: Mapping[str, Any] = field(default_factory=dict)
    """From what its result is made."""
    checkpoint: Path | None = None
    """The file of the model's weights, if they are not the model's own."""

    @property
    def target(self) -> int:
        """The index of the class, or of another target."""
        return self.asked.target

    @property
    def probabilities(self) -> "Tensor | None":
        """Those of the classes for the whole picture, `(classes,)`, on the CPU, if the question is about classes."""
        return self.asked.probabilities

    @property
    def title(self) -> str:
        """The title of a figure."""
        return f"{self.source.name}: {self.asked.caption}"

    @property
    def top(self) -> list[tuple[int, float]]:
        """The classes with the largest probabilities, and these."""
        if self.probabilities is None:
            return []
        values, indices = self.probabilities.topk(min(TOP, len(self.probabilities)))
        return list(zip(indices.tolist(), values.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Batch:
    """Queries that go through the model together: `inputs` `(B, C, H, W)` on the model's device."""

    queries: Sequence[Query]
    inputs: "Tensor"
    targets: Any
    """What a method takes: classes `(B,)`, or a score with a row for each query."""
    title: str
    """The first query, and which of all these are."""
    left: float
    """How many batches like this one are left, this one included."""


@dataclass(eq=False)
class Task:
    """The work of a command: its classifier and its pictures. It counts what is done.

    A query is read when its turn comes: no more than a batch of pictures is in memory.
    """

    request: Request
    classifier: "Classifier"
    paths: Sequence[Path]
    targets: Sequence[int]
    """The targets of all pictures. Without any, the target of a picture is its top class."""
    device: "torch.device"
    question: "Question"
    failed: int = 0
    """How many pictures could not be used."""
    written: int = 0
    """How many results are written."""
    skipped: int = 0
    """How many results were there already."""
    passed: int = 0
    """How many queries are done with, in one way or another."""

    @property
    def total(self) -> int:
        """How many queries there are, also those of pictures that cannot be used."""
        return len(self.paths) * max(1, len(self.targets))

    def replace(self, query: Query) -> None:
        """Remove the summary of an earlier result: stopped while its other files are replaced, it would count as done."""
        (self.request.out / f"{query.stem}.json").unlink(missing_ok=True)

    @contextmanager
    def working(self) -> Iterator[None]:
        """A context for the work. It says at the end, and also after Ctrl-C, which results there are.

        Raises `typer.Exit` with an exit code if any pictures could not be used.
        """
        try:
            yield
        except KeyboardInterrupt:
            done = results_in(self.written, self.request.out)
            before = f", besides {self.skipped} that were there before" if self.skipped else ""
            remedy = "; the same command with --resume does the others" if self.written + self.skipped else ""
            if not self.request.resumable:
                remedy = "; the bundle is not finished: remove it, or write another --bundle"
            raise KeyboardInterrupt(f"interrupted; {done}{before}{remedy}") from None
        if self.written or self.skipped:
            there = f"; {self.skipped} {'was' if self.skipped == 1 else 'were'} there already" if self.skipped else ""
            typer.echo(f"{results_in(self.written, self.request.out)}{there}")
        if self.failed:  # each failure has been reported
            raise typer.Exit(SOME_FAILED if self.written or self.skipped else FAILED)

    def batches(self, **settings: Any) -> Iterator[Batch]:
        """The queries in their order, in batches of one shape, without those that are done.

        `settings` are what the results depend on, besides the network and the picture. Raises `ValueError` if results would be
        overwritten, before anything is computed.
        """
        outputs = Outputs(
            self.request.out,
            self.paths,
            self.question.names,
            made_from(self.classifier, **settings, **self.question.key),
            self.request.overwrite,
            self.request.resume,
        )
        outputs.check(self.targets)
        if not self.paths:  # each has been reported
            return
        typer.echo(f"{self.classifier.name} runs on {in_words(self.device, self.request.device)}.")
        size = self.request.batch or (ON_CPU if self.device.type == "cpu" else ON_GPU)
        group: list[Query] = []
        for query in self._queries(outputs):
            if group and (len(group) == size or query.inputs.shape != group[0].inputs.shape):
                yield self._batch(group)
                group = []
            group.append(query)
            if len(group) == size:  # not only when the next one is read, which may take long
                yield self._batch(group)
                group = []
        if group:
            yield self._batch(group)

    def _batch(self, group: Sequence[Query]) -> Batch:
        import torch

        first = self.passed - len(group) + 1
        where = f"{first}–{self.passed}" if len(group) > 1 else f"{first}"
        title = group[0].title
        inputs = torch.stack([query.inputs for query in group]).to(self.device)
        return Batch(
            tuple(group),
            inputs,
            self.question.joined([query.asked for query in group], inputs),
            f"{title} ({where} of {self.total})" if self.total > 1 else title,
            1 + (self.total - self.passed) / len(group),
        )

    def _queries(self, outputs: Outputs) -> Iterator[Query]:
        """The queries that are not done. Pictures that cannot be used are reported and counted."""
        for path in self.paths:
            before = self.passed
            try:
                for query in self._queries_of(path, outputs):
                    self.passed += 1
                    yield query
            except ValueError as error:
                self.report(error)
            self.passed = before + max(1, len(self.targets))

    def _queries_of(self, path: Path, outputs: Outputs) -> Iterator[Query]:
        """The queries of one picture that are not done."""
        digest = digest_of(path)
        targets = [target for target in self.targets if not outputs.is_done(path, target, digest)]
        self.skipped += len(self.targets) - len(targets)
        if self.targets and not targets:
            return
        picture, size, inputs = shown(path, self.classifier)
        for asked in self.question.ask(size, inputs, targets):
            if not self.targets and outputs.is_done(path, asked.target, digest):
                self.skipped += 1
                return
            stem = outputs.stem(path, asked.target)
            yield Query(path, picture, inputs, asked, stem, outputs.about(digest), self.request.checkpoint)

    def report(self, error: object) -> None:
        """Report and count a picture that cannot be used."""
        self.failed += 1
        print_error(error)


@contextmanager
def prepared(request: Request, link: str = "auto") -> Iterator[Task]:
    """Load the classifier and find the pictures. Pictures that are not there are reported and counted.

    A context in which the folder for the results is there; a new one in which nothing was written is removed at the end.

    `link`, of `scores.LINKS`, is how outputs become probabilities. Raises `ValueError` for a model, a target, a device or a
    folder that cannot be used.
    """
    from sfumato import plots

    check_count("--batch", request.batch, ON_GPU)
    plots.check_matplotlib()
    with writable(request.out):
        yield _task(request, link)


def _task(request: Request, link: str) -> Task:
    from sfumato import models
    from sfumato.data import pictures
    from sfumato.data.clips import find_clips
    from sfumato.models.clips import takes_clips
    from sfumato.models.questions import SIMILARITY

    device = choose(request.device)
    embeds = request.score == SIMILARITY
    classifier = models.load(request.model, request.checkpoint, request.labels, embeds)
    place(classifier.net, device)
    asks = question(request.score, classifier, device, request.details, link)
    for remark in models.remarks(classifier) if asks.names_classes else ():
        typer.echo(f"{remark}.")
    targets = list(dict.fromkeys(map(asks.find, request.targets)))
    task = Task(request, classifier, [], targets, device, asks)
    paths: dict[Path, Path] = {}
    find = find_clips if takes_clips(classifier) else pictures.find
    for image in request.images:
        try:
            for path in find(image):
                paths.setdefault(path.resolve(), path)  # a picture that is named twice is explained once
        except ValueError as error:
            task.report(error)
    task.paths = list(paths.values())
    request.details.check(request.score, len(task.paths))
    return task


def summary_of(query: Query) -> dict[str, Any]:
    """The entry of a summary that --resume reads."""
    return {MADE_FROM: dict(query.made_from)}
