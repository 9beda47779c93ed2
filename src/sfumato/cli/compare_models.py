"""`sfumato compare-models`: whether two networks see the same, as a report, a JSON file and an exit code."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import naming
from sfumato.cli.device import AUTO, Device, choose, in_words, place
from sfumato.cli.errors import LIMIT_BROKEN, SOME_FAILED, print_error, reporting_errors
from sfumato.cli.files import writable, write_json
from sfumato.cli.outputs import Overwrite, refuse_existing
from sfumato.settings import batched, number

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.models import Classifier


CHUNK = 8
"""Pictures in a batch, at most."""

REPORT, NUMBERS = "report.html", "comparison.json"
"""The files of a comparison."""


def compare_models(
    model: Annotated[str, typer.Argument(metavar="A", help="A model; see `sfumato models`.")],
    other: Annotated[str, typer.Argument(metavar="B", help="The other model, the candidate.")],
    images: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Pictures, or folders of them.")],
    checkpoint: naming.Checkpoint = None,
    other_checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same for the model B. [default: the model's own weights]")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT",
            help='A condition at which the command ends with the exit code 3, e.g. "iou < .6" or "changed > .05"; may be '
            "repeated. Measures: answer, iou, iou_self, kept, kept_back, kept_self, changed, new, grew.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="The method: extremal or extremal-order.")] = "extremal",
    areas: Annotated[str | None, typer.Option(help="Fractions of the picture. [default: the method's]")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a search. [default: the method's]")] = None,
    settings: naming.Setting = None,
    device: Device = AUTO,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report.html and comparison.json.")] = Path(
        "sfumato-compare-models"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Ask two models the same questions: where they need other places, and where the answer stays and the reason changes."""
    with reporting_errors("interrupted; nothing is written, as the report is of all pictures"):
        from sfumato.evidence.limits import Limit
        from sfumato.evidence.two_models import MEASURES

        names = {measure.name: measure for measure in MEASURES}
        limits = [Limit.parse(text, names) for text in fail_if or ()]
        options: dict[str, Any] = {}
        if areas is not None:
            options["areas"] = naming.fractions(areas, "areas")
        if steps is not None:
            options["steps"] = steps
        built = naming.build_methods(method, options, settings or ())
        refuse_existing((out / name for name in (REPORT, NUMBERS)), overwrite)
        with writable(out):
            broken, failed = _compare(
                built, (model, other), (checkpoint, other_checkpoint), images, limits, device, out
            )
    if broken:
        raise typer.Exit(LIMIT_BROKEN)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _compare(
    built: dict[str, Any],
    names: tuple[str, str],
    checkpoints: tuple[Path | None, Path | None],
    images: Sequence[Path],
    limits: Sequence[Any],
    device: str,
    out: Path,
) -> tuple[bool, int]:
    """Compare, write and print. Returns whether a limit is broken, and how many pictures could not be used."""
    import torch

    from sfumato import models
    from sfumato.data.labels import name_of
    from sfumato.evidence.two_models import compare_models, summarise
    from sfumato.figures.report.differences import Compared, differences_page
    from sfumato.figures.report.page import write_page
    from sfumato.methods import ExtremalPerturbation
    from sfumato.models.clips import check_takes_pictures

    (method,) = built.values() if len(built) == 1 else (None,)
    if not isinstance(method, ExtremalPerturbation):
        raise ValueError("compare-models takes one method that finds sets of places: extremal or extremal-order")
    where = choose(device)
    first, second = (models.load(name, checkpoint) for name, checkpoint in zip(names, checkpoints, strict=True))
    _check_classes(names, first.labels, second.labels)
    for classifier in (first, second):
        check_takes_pictures(classifier, "sfumato compare-models")
        place(classifier.net, where)
    typer.echo(f"The models run on {in_words(where, device)}.")
    paths, failures = _paths(images), list[str]()
    shown = dict(zip(paths, _names(paths), strict=True))
    compared = []
    for chunk in _of_one_shape(_prepared(first, second, paths, failures)):
        inputs = torch.stack([prepared for _, prepared in chunk])
        for found in compare_models(method, first.net, second.net, [inputs.to(where)]):
            differences, restored = found.cpu(), first.restore(inputs)
            for row, (path, _) in enumerate(chunk):
                part = differences.part(row)
                answers = int(part.answer[0]), int(part.other_answer[0])
                labels = name_of(first.labels, answers[0]), name_of(second.labels, answers[1])
                compared.append(Compared(shown[path], restored[row], part, labels))
                values = compared[-1].row
                typer.echo(f"{shown[path]}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()))
    if not compared:
        raise ValueError("there are no pictures to compare on")
    summary = summarise([one.differences for one in compared])
    broken = [limit for limit in limits if limit.broken_by(summary)]
    titles = _titles(names, checkpoints)
    write_page(differences_page(compared, summary, titles, broken, limits), out / REPORT)
    write_json(
        out / NUMBERS,
        {
            "models": list(titles),
            "limits": {str(limit): limit in broken for limit in limits},
            "means": {
                name: [number(bound) for bound in (value.value, value.low, value.high)]
                for name, value in summary.items()
            },
            "pictures": {one.name: {name: number(value) for name, value in one.row.items()} for one in compared},
        },
    )
    for name, value in summary.items():
        interval = "too few pictures for an interval" if value.few else f"{value.low:.2f} to {value.high:.2f}"
        typer.echo(f"{name}: {value.value:.2f} ({interval})")
    typer.echo(str(out / REPORT))
    for limit in broken:
        print_error(f"the limit is not kept: {limit} (mean {summary[limit.measure].value:.3g})")
    return bool(broken), len(failures)


def _check_classes(names: tuple[str, str], first: Sequence[str], second: Sequence[str]) -> None:
    """Raise `ValueError` unless a class has one index in both models, as far as their names say."""
    from sfumato.data import labels

    if len(first) != len(second):
        raise ValueError(
            f"the models must have the same classes; {names[0]} has {len(first)}, {names[1]} {len(second)}"
        )
    one, other = ([labels.synonyms(label)[0].casefold() for label in some] for some in (first, second))
    count = Counter(one), Counter(other)
    places = {label: index for index, label in enumerate(other) if count[1][label] == 1}
    moved = [index for index, label in enumerate(one) if count[0][label] == 1 and places.get(label, index) != index]
    if len(moved) > 1:  # a swap moves two
        label = one[moved[0]]
        raise ValueError(
            f"the models must have the same classes in the same order; {label!r} is class {moved[0]} of {names[0]} and class "
            f"{places[label]} of {names[1]}"
        )
    nameless = [f"class {index}" for index in range(len(first))]
    if not set(one) & set(other) and nameless not in (one, other):
        raise ValueError(
            f"the models must have the same classes; class 0 is {first[0]!r} in {names[0]} and {second[0]!r} in {names[1]}, "
            "and no other class has one name in both"
        )


def _paths(images: Iterable[Path]) -> list[Path]:
    """The pictures, and those in folders, each once. What is neither is named too, so that reading it says why."""
    from sfumato.data import pictures

    found: dict[Path, Path] = {}
    for image in images:
        for path in pictures.find(image) if image.is_dir() else (image,):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of pictures: those of the files, with their folders where several files have one name.

    >>> _names([Path("a/cat.png"), Path("b/cat.png"), Path("b/dog.png")])
    ['a/cat.png', 'b/cat.png', 'dog.png']
    """
    count = Counter(path.name for path in paths)
    return [path.name if count[path.name] == 1 else path.as_posix() for path in paths]


def _prepared(
    first: "Classifier", second: "Classifier", paths: Iterable[Path], failures: list[str]
) -> "Iterator[tuple[Path, Tensor]]":
    """The pictures as both models take them, read when their turn comes. Those that cannot be used are reported."""
    import torch

    from sfumato.data import pictures

    for path in paths:
        try:
            picture = pictures.read(path)
            inputs, others = first.prepare(picture), second.prepare(picture)
        except ValueError as error:
            failures.append(str(error))
            print_error(error)
            continue
        if inputs.shape != others.shape or not torch.allclose(inputs, others, atol=1e-4):
            raise ValueError(
                "the models must take the same inputs, as each sees the other's sets; they prepare pictures differently. "
                "Load the second as package.module:factory with the first one's preparation"
            )
        yield path, inputs


def _of_one_shape(prepared: "Iterable[tuple[Path, Tensor]]") -> "Iterator[list[tuple[Path, Tensor]]]":
    """Batches of pictures in their order: of one shape, as networks may take pictures in different sizes."""
    for _, group in groupby(prepared, key=lambda pair: pair[1].shape):
        yield from batched(group, CHUNK)


def _titles(names: tuple[str, str], checkpoints: tuple[Path | None, Path | None]) -> tuple[str, str]:
    """Names that tell the two apart."""
    full = [
        f"{name} ({checkpoint.name})" if checkpoint else name
        for name, checkpoint in zip(names, checkpoints, strict=True)
    ]
    return (full[0], full[1]) if full[0] != full[1] else (f"{full[0]}, A", f"{full[1]}, B")
