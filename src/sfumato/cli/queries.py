"""The queries of a command: a classifier, and pictures with their targets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sfumato.cli.errors import FAILED, print_error
from sfumato.cli.files import check_writable, slug

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.models import Classifier

CHUNK = 8
"""The largest number of queries in a batch."""

TOP = 5
"""How many classes are named."""


@dataclass(frozen=True, eq=False)
class Query:
    """One picture `(C, H, W)` with one target; `probabilities` `(classes,)` are the model's for the whole picture.

    A model with one output has one class, 0, whose probability is the sigmoid of the output.
    """

    source: Path
    inputs: "Tensor"
    probabilities: "Tensor"
    target: int
    label: str
    checkpoint: Path | None = None
    """The file of the model's weights, if they are not the model's own."""

    @property
    def title(self) -> str:
        """The title of a figure."""
        return f"{self.source.name}: {self.label} ({self.target})"

    @property
    def stem(self) -> str:
        """The beginning of the names of its files. `files.Names` makes them unique."""
        return f"{self.source.stem}-{slug(self.label)}"

    @property
    def top(self) -> list[tuple[int, float]]:
        """The classes with the largest probabilities, and these."""
        values, indices = self.probabilities.topk(min(TOP, len(self.probabilities)))
        return list(zip(indices.tolist(), values.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Batch:
    """Queries that go through the model together: `inputs` `(B, C, H, W)` and `targets` `(B,)`."""

    queries: Sequence[Query]
    inputs: "Tensor"
    targets: "Tensor"
    title: str
    """The numbers of the queries, such as "1–8 of 20"; empty if there is one batch."""


@dataclass(frozen=True, eq=False)
class Task:
    """The task of a command: its classifier and its queries, and how many pictures could not be used."""

    classifier: "Classifier"
    queries: Sequence[Query]
    failed: int

    def batches(self) -> Iterator[Batch]:
        """The queries in their order, in batches of at most `CHUNK`."""
        import torch

        count = len(self.queries)
        start = 0
        while start < count:
            chunk = _same_shape(self.queries[start : start + CHUNK])
            inputs = torch.stack([query.inputs for query in chunk])
            targets = torch.tensor([query.target for query in chunk], dtype=torch.long, device="cpu")
            title = f"{start + 1}–{start + len(chunk)} of {count}" if count > CHUNK else ""
            yield Batch(chunk, inputs, targets, title)
            start += len(chunk)


def _same_shape(queries: Sequence[Query]) -> Sequence[Query]:
    """The first queries whose inputs have the same shape. Shapes differ if the model's preparation does not resize pictures."""
    shape = queries[0].inputs.shape
    return list(takewhile(lambda query: query.inputs.shape == shape, queries))


def prepare(
    images: Sequence[Path],
    model: str,
    targets: Sequence[str],
    out: Path,
    checkpoint: Path | None = None,
    link: str = "auto",
    names: Path | None = None,
) -> Task:
    """Load the classifier and the pictures, and make a query of each picture and each target.

    `link`, of `scores.LINKS`, is how outputs become probabilities; `names` is a file with names of classes. Raises
    `ValueError` for a model, a target or a folder that cannot be used, before the work begins.
    """
    from sfumato import models, plots
    from sfumato.data import labels

    plots.check_matplotlib()
    check_writable(out)
    classifier = models.load(model, checkpoint, names)
    indices = dict.fromkeys(labels.find(classifier.labels, text) for text in targets)
    return _make_queries(images, classifier, list(indices), checkpoint, link)


def _make_queries(
    images: Sequence[Path], classifier: "Classifier", targets: Sequence[int], checkpoint: Path | None, link: str
) -> Task:
    """A query of each picture and each target, or its top class. Pictures that cannot be used are reported and counted."""
    import torch

    from sfumato.data import labels, pictures
    from sfumato.scores import probabilities, top_class

    queries, failed = [], 0
    resolved_paths: set[Path] = set()
    for image in images:
        try:
            paths = pictures.find(image)
        except ValueError as error:
            failed += 1
            print_error(error)
            continue
        for path in paths:
            if path.resolve() in resolved_paths:
                continue
            resolved_paths.add(path.resolve())
            try:
                inputs = classifier.prepare(pictures.read(path))
                with torch.no_grad():
                    class_probabilities = probabilities(classifier.logits(inputs[None]), link)[0]
                predicted = top_class(class_probabilities)
            except ValueError as error:
                failed += 1
                print_error(error)
                continue
            for target in targets or [predicted]:
                label = labels.synonyms(classifier.labels[target])[0]
                queries.append(Query(path, inputs, class_probabilities, target, label, checkpoint))
    if not queries:
        raise typer.Exit(FAILED)  # each failure has been reported
    return Task(classifier, queries, failed)
