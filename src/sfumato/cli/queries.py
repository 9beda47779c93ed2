"""What a command is asked about: a classifier and pictures, each with its targets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sfumato.cli.files import check_writable, slug
from sfumato.cli.speaking import FAILED, complain

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.models import Classifier

CHUNK = 8  # queries in a batch
TOP = 5  # classes named


@dataclass(frozen=True, eq=False)
class Query:
    """One picture `(C, H, W)` with one target; `probabilities` `(classes,)` are the model's for the whole picture.

    Of a model with one output there is one class, 0, with the output's sigmoid.
    """

    source: Path
    inputs: "Tensor"
    probabilities: "Tensor"
    target: int
    label: str
    checkpoint: Path | None = None
    """Where the model's weights are from, if they are not its own."""

    @property
    def title(self) -> str:
        """What stands above a figure."""
        return f"{self.source.name}: {self.label} ({self.target})"

    @property
    def stem(self) -> str:
        """How files of its results begin; `files.Names` tells two of one stem apart."""
        return f"{self.source.stem}-{slug(self.label)}"

    @property
    def top(self) -> list[tuple[int, float]]:
        """The likeliest classes with their probabilities."""
        values, indices = self.probabilities.topk(min(TOP, len(self.probabilities)))
        return list(zip(indices.tolist(), values.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Batch:
    """Queries that go through the model together: `inputs` `(B, C, H, W)` and `targets` `(B,)`."""

    queries: Sequence[Query]
    inputs: "Tensor"
    targets: "Tensor"
    title: str
    """Which of how many they are, where one batch does not hold all."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that a command needs before the work begins, and how many pictures could not be used."""

    classifier: "Classifier"
    queries: Sequence[Query]
    failed: int

    def batches(self) -> Iterator[Batch]:
        """The queries in their order, as many at once as are quick together."""
        import torch

        count = len(self.queries)
        start = 0
        while start < count:
            chunk = _alike(self.queries[start : start + CHUNK])
            inputs = torch.stack([query.inputs for query in chunk])
            targets = torch.tensor([query.target for query in chunk], dtype=torch.long, device="cpu")
            title = f"{start + 1}–{start + len(chunk)} of {count}" if count > CHUNK else ""
            yield Batch(chunk, inputs, targets, title)
            start += len(chunk)


def _alike(queries: Sequence[Query]) -> Sequence[Query]:
    """Those from the first on whose inputs can be stacked: a preparation without a size leaves pictures their shapes."""
    shape = queries[0].inputs.shape
    return list(takewhile(lambda query: query.inputs.shape == shape, queries))


def prepare(
    images: Sequence[Path],
    model: str,
    targets: Sequence[str],
    out: Path,
    checkpoint: Path | None = None,
    link: str = "auto",
) -> Prepared:
    """The classifier of that name, and each picture with each target; what cannot work fails before the work begins.

    `link` is how probabilities are made of the outputs, of `scores.LINKS`.
    """
    from sfumato import models, plots
    from sfumato.data import labels

    plots.check_matplotlib()
    check_writable(out)
    classifier = models.load(model, checkpoint)
    wanted = [labels.find(classifier.labels, text) for text in targets]
    return _prepared(images, classifier, list(dict.fromkeys(wanted)), checkpoint, link)


def _prepared(
    images: Sequence[Path], classifier: "Classifier", targets: Sequence[int], checkpoint: Path | None, link: str
) -> Prepared:
    """Each picture with each target, or with its top class; pictures that cannot be used are reported and counted."""
    import torch

    from sfumato.data import labels, pictures
    from sfumato.scores import probabilities, top_class

    queries, failed = [], 0
    seen: set[Path] = set()
    for image in images:
        try:
            paths = pictures.find(image)
        except ValueError as error:
            failed += 1
            complain(error)
            continue
        for path in paths:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            try:
                inputs = classifier.prepare(pictures.read(path))
                with torch.no_grad():
                    shares = probabilities(classifier.logits(inputs[None]), link)[0]
                likeliest = top_class(shares)
            except ValueError as error:
                failed += 1
                complain(error)
                continue
            for target in targets or [likeliest]:
                label = labels.synonyms(classifier.labels[target])[0]
                queries.append(Query(path, inputs, shares, target, label, checkpoint))
    if not queries:
        raise typer.Exit(FAILED)  # each failure has been reported
    return Prepared(classifier, queries, failed)
