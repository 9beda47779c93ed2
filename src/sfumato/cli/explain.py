"""`sfumato explain`: what is asked, and who answers it."""

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import naming
from sfumato.cli.compare import compare
from sfumato.cli.masks import explain_with_masks
from sfumato.cli.speaking import SOME_FAILED, speaking_plainly


def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them.")],
    model: naming.Model = "lite0",
    checkpoint: naming.Checkpoint = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A class, by index or label; may be repeated. [default: the top class]")
    ] = None,
    method: Annotated[
        str, typer.Option(help="A method, or several with commas between, side by side; see `sfumato methods`.")
    ] = "extremal",
    layer: Annotated[
        str | None, typer.Option(help="The layer for methods that look into one. [default: the model's own]")
    ] = None,
    areas: Annotated[
        str | None, typer.Option(help="Fractions of the picture to show, e.g. 0.05,0.1,0.2. [default: the method's]")
    ] = None,
    game: Annotated[str | None, typer.Option(help="preserve, delete or dual. [default: the method's]")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the ascent. [default: the method's]")] = None,
    smallest: Annotated[
        float | None,
        typer.Option(metavar="KEEP", help="Find the smallest area that keeps this share of the score, e.g. 0.9."),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="What a class means, to all methods: logit, probability, log-odds, or sigmoid, for heads of several labels. "
            "[default: the method's]"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is random. [default: the method's]")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("sfumato-out"),
) -> None:
    """Explain what a network sees in pictures: writes a figure, the masks and a summary for each picture and target."""
    with speaking_plainly():
        shown = None if areas is None else naming.numbers(areas, "--areas")
        settings = {"areas": shown, "game": game, "steps": steps, "seed": seed, "layer": layer, "score": score}
        made = naming.methods_named(method, {name: value for name, value in settings.items() if value is not None})
        (first, *others) = made.values()
        alone = not others and naming.makes_masks(first)
        if smallest is not None and not (alone and hasattr(first, "areas")):
            without = ", without --layer" if layer else ""
            raise ValueError(
                f"--smallest is for one method that makes masks of an area, e.g. --method extremal{without}"
            )
        if not alone:
            failed = compare(images, model, target or [], made, out, checkpoint)
        else:
            failed, _ = explain_with_masks(images, model, target or [], first, out, smallest, shown, checkpoint)
    if failed:
        raise typer.Exit(SOME_FAILED)
