"""`sfumato calibrate`: temperatures for probabilities of masked pictures, and the area at which answers survive."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import naming
from sfumato.cli.device import AUTO, Device, choose, in_words, place
from sfumato.cli.errors import SOME_FAILED, print_error, reporting_errors
from sfumato.cli.files import slug, writable
from sfumato.cli.outputs import Overwrite, refuse_existing
from sfumato.cli.tables import console, table
from sfumato.settings import percent

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sfumato.evidence.calibration import Calibration
    from sfumato.models import Classifier

AREAS = "0.05,0.1,0.2,0.4,0.6,0.8"
"""Of the sets whose answers are looked at, by default."""

KINDS = ("calibration", "survival")
"""What files are of."""


def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model; see `sfumato models`.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="PICTURE...", help="A few hundred pictures, or folders of them.")
    ],
    checkpoint: naming.Checkpoint = None,
    labels: naming.Labels = None,
    by_folder: Annotated[
        bool,
        typer.Option(
            "--by-folder",
            help="The right class of a picture is the name of its folder. [default: the network's own answer for the picture]",
        ),
    ] = False,
    survival: Annotated[
        bool,
        typer.Option(
            "--survival", help="Find too from which area on the network's answer survives: a search for each picture."
        ),
    ] = False,
    areas: Annotated[
        str | None,
        typer.Option(help=f"Fractions of the picture, for --survival. [default: {AREAS}]", show_default=False),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a search, for --survival. [default: the method's]")
    ] = None,
    device: Device = AUTO,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for MODEL.calibration.json and MODEL.survival.json. [default: this one]"
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find how much a model's probabilities for masked pictures mislead, and write what mends them, for certificates."""
    with reporting_errors("interrupted; only the files that were named before are written"):
        for option, given in (("--areas", areas), ("--steps", steps)):
            if given is not None and not survival:
                raise ValueError(f"{option} is for --survival; write both")
        fractions = naming.fractions(AREAS if areas is None else areas, "--areas")
        stem = (out or Path()) / slug(model if checkpoint is None else f"{model} {checkpoint.stem}")
        files = tuple(stem.with_name(f"{stem.name}.{kind}.json") for kind in KINDS[: 1 + survival])
        refuse_existing(files, overwrite)
        with writable(stem.parent):
            failed = _calibrate(model, images, checkpoint, labels, by_folder, fractions, steps, device, files)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _calibrate(
    model: str,
    images: Sequence[Path],
    checkpoint: Path | None,
    labels: Path | None,
    by_folder: bool,
    areas: tuple[float, ...],
    steps: int | None,
    device: str,
    files: tuple[Path, ...],
) -> int:
    """Calibrate, write and print. Returns how many pictures could not be used.

    `files`: of the calibration, and for the areas at which answers survive, if they are wanted.
    """
    from sfumato import models
    from sfumato.evidence.calibration import Calibrate
    from sfumato.evidence.surviving import fewest, survival
    from sfumato.methods import ExtremalPerturbation
    from sfumato.models.clips import check_takes_pictures

    where = choose(device)
    classifier = models.load(model, checkpoint, labels)
    check_takes_pictures(classifier, "sfumato calibrate")
    place(classifier.net, where)
    typer.echo(f"{classifier.name} runs on {in_words(where, device)}.")
    failures: list[str] = []
    calibration = Calibrate()(
        classifier.net,
        _batches(classifier, images, by_folder, failures, where),
        model if checkpoint is None else f"{model} {checkpoint.name}",
    )
    calibration.save(files[0])
    _print(calibration)
    typer.echo(str(files[0]))
    for file in files[1:]:
        settings: dict[str, Any] = {} if steps is None else {"steps": steps}
        method = ExtremalPerturbation(areas=areas, **settings)
        found = survival(
            method, classifier.net, (inputs for inputs, _ in _batches(classifier, images, False, None, where))
        )
        found.save(file)
        area, pictures = found.area(), len(found.areas)
        if area < 1:
            said = f"With 90 % confidence the answer survives on sets of {100 * area:.3g} % ({pictures} pictures)."
        elif pictures < fewest(0.9):
            said = f"Nothing can be said with 90 % confidence: it takes {fewest(0.9)} or more ({pictures} pictures)."
        else:
            said = f"On none of these areas does the answer survive with 90 % confidence ({pictures} pictures)."
        typer.echo(said)
        typer.echo(str(file))
    return len(failures)


def _batches(
    classifier: "Classifier",
    images: Sequence[Path],
    by_folder: bool,
    failures: list[str] | None,
    where: "torch.device",
) -> Iterator[tuple["Tensor", "Tensor | None"]]:
    """Each picture once as inputs `(1, C, H, W)` with its class `(1,)`, if it is known.

    Those that cannot be used are reported, unless they have been, and added to the failures.
    """
    import torch

    from sfumato.data import labels, pictures

    known: set[Path] = set()
    for image in images:
        for path in pictures.find(image) if image.is_dir() else [image]:
            if path.resolve() in known:  # twice would count as two pictures
                continue
            known.add(path.resolve())
            try:
                inputs = classifier.prepare(pictures.read(path))[None].to(where)
                right = (
                    torch.tensor([labels.find(classifier.labels, path.parent.name)], dtype=torch.long, device="cpu")
                    if by_folder
                    else None
                )
            except ValueError as error:
                if failures is not None:
                    failures.append(str(error))
                    print_error(error)
                continue
            yield inputs, right


def _print(calibration: "Calibration") -> None:
    """A row for each range of areas."""
    names = [type(perturbation).__name__ for perturbation in calibration.perturbations]
    rows = table("shown", *(f"temperature, {name}" for name in names), "error before", "after")
    for number, edge in enumerate(calibration.edges[1:]):
        temperatures = (f"{row[number]:.2f}" for row in calibration.temperatures)
        errors = (f"{values[number]:.3f}" for values in (calibration.errors_before, calibration.errors_after))
        rows.add_row(
            f"{percent(round(calibration.edges[number], 2))} to {percent(round(edge, 2))}", *temperatures, *errors
        )
    console().print(rows)
    console().print(f"Expected calibration errors on the {calibration.pictures} pictures themselves.")
