"""`sfumato compare-models`: whether two networks see the same, as a report, a JSON file and an exit code."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import naming
from sfumato.cli.errors import LIMIT_BROKEN, SOME_FAILED, print_error, reporting_errors
from sfumato.cli.files import check_writable, write_json
from sfumato.settings import number

if TYPE_CHECKING:
    from sfumato.models import Classifier

CHUNK = 8
"""Pictures in a batch."""


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
            "repeated. Measures: answer, iou, iou_self, kept, kept_back, changed, new, grew.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="The method: extremal or extremal-order.")] = "extremal",
    areas: Annotated[str | None, typer.Option(help="Fractions of the picture. [default: the method's]")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a search. [default: the method's]")] = None,
    settings: naming.Setting = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report.html and comparison.json.")] = Path(
        "sfumato-compare-models"
    ),
) -> None:
    """Ask two models the same questions: where they need other places, and where the answer stays and the reason changes."""
    with reporting_errors():
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
        broken, failed = _compare(built, (model, other), (checkpoint, other_checkpoint), images, limits, out)
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
    out: Path,
) -> tuple[bool, int]:
    """Compare, write and print. Returns whether a limit is broken, and how many pictures could not be used."""
    import torch

    from sfumato import models
    from sfumato.evidence.two_models import compare_models, summarise
    from sfumato.figures.report.differences import Compared, differences_page
    from sfumato.figures.report.page import write_page
    from sfumato.methods import ExtremalPerturbation

    (method,) = built.values() if len(built) == 1 else (None,)
    if not isinstance(method, ExtremalPerturbation):
        raise ValueError("compare-models takes one method that finds sets of places: extremal or extremal-order")
    check_writable(out)
    first, second = (models.load(name, checkpoint) for name, checkpoint in zip(names, checkpoints, strict=True))
    if len(first.labels) != len(second.labels):
        raise ValueError(
            f"the models must have the same classes; {names[0]} has {len(first.labels)}, {names[1]} {len(second.labels)}"
        )
    pictures, failed = _read(first, second, images)
    compared = []
    for start in range(0, len(pictures), CHUNK):
        chunk = pictures[start : start + CHUNK]
        inputs = torch.stack([prepared for _, prepared in chunk])
        for differences in compare_models(method, first.net, second.net, [inputs]):
            restored = first.restore(inputs)
            for row, (path, _) in enumerate(chunk):
                part = differences.part(row)
                answers = int(part.answer[0]), int(part.other_answer[0])
                labels = first.labels[answers[0]], second.labels[answers[1]]
                compared.append(Compared(path.name, restored[row], part, labels))
                values = compared[-1].row
                typer.echo(f"{path.name}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()))
    summary = summarise([one.differences for one in compared])
    broken = [limit for limit in limits if limit.broken_by(summary)]
    titles = _titles(names, checkpoints)
    write_page(differences_page(compared, summary, titles, broken, limits), out / "report.html")
    write_json(
        out / "comparison.json",
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
    typer.echo(str(out / "report.html"))
    for limit in broken:
        print_error(f"the limit is not kept: {limit} (mean {summary[limit.measure].value:.3g})")
    return bool(broken), failed


def _read(first: "Classifier", second: "Classifier", images: Sequence[Path]) -> tuple[list[tuple[Path, Any]], int]:
    """The pictures as both models take them, and how many could not be used."""
    import torch

    from sfumato.data import pictures

    found, failed = [], 0
    for path in _paths(images):
        try:
            picture = pictures.read(path)
            inputs, others = first.prepare(picture), second.prepare(picture)
        except ValueError as error:
            failed += 1
            print_error(error)
            continue
        if inputs.shape != others.shape or not torch.allclose(inputs, others, atol=1e-4):
            raise ValueError(
                "the models must take the same inputs, as each sees the other's sets; they prepare pictures differently. "
                "Load the second as package.module:factory with the first one's preparation"
            )
        found.append((path, inputs))
    if not found:
        raise ValueError("there are no pictures to compare on")
    return found, failed


def _paths(images: Sequence[Path]) -> Iterator[Path]:
    """The pictures, and those in folders. What is neither is yielded too, so that reading it says why."""
    from sfumato.data import pictures

    for image in images:
        yield from pictures.find(image) if image.is_dir() else (image,)


def _titles(names: tuple[str, str], checkpoints: tuple[Path | None, Path | None]) -> tuple[str, str]:
    """Names that tell the two apart."""
    full = [
        f"{name} ({checkpoint.name})" if checkpoint else name
        for name, checkpoint in zip(names, checkpoints, strict=True)
    ]
    return (full[0], full[1]) if full[0] != full[1] else (f"{full[0]}, A", f"{full[1]}, B")
