"""`sfumato explain`: its options, and the choice between masks of one method and maps of several."""

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import naming
from sfumato.cli.compare import compare
from sfumato.cli.errors import SOME_FAILED, reporting_errors
from sfumato.cli.masks import explain_with_masks


def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them.")],
    model: naming.Model = "lite0",
    checkpoint: naming.Checkpoint = None,
    labels: naming.Labels = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A class, by index or label; may be repeated. [default: the top class]")
    ] = None,
    method: Annotated[
        str, typer.Option(help="A method, or several, separated by commas; see `sfumato methods`.")
    ] = "extremal",
    layer: Annotated[
        str | None, typer.Option(help="The layer, for methods that use one. [default: the model's own]")
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
    alternatives: Annotated[
        bool,
        typer.Option("--alternatives", help="Draw the outlines of what each restart of the search found for itself."),
    ] = False,
    score: Annotated[
        str | None,
        typer.Option(
            help="What a class means, for all methods: logit, probability, log-odds, or sigmoid for networks with several "
            "labels. [default: the method's]"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of all random numbers. [default: the method's]")] = None,
    set_: naming.Setting = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("sfumato-out"),
) -> None:
    """Explain what a network sees in pictures. Writes a figure, the masks and a summary for each picture and target."""
    with reporting_errors():
        from sfumato.games import GAMES
        from sfumato.scores import OF_A_CLASS

        naming.check_share("--smallest", smallest)
        naming.check_choice("--game", game, tuple(GAMES))
        naming.check_choice("--score", score, tuple(OF_A_CLASS))
        naming.check_count("--steps", steps, 150)
        fractions = None if areas is None else naming.fractions(areas, "--areas")
        options = {"areas": fractions, "game": game, "steps": steps, "seed": seed, "layer": layer, "score": score}
        given = {name: value for name, value in options.items() if value is not None}
        methods = naming.build_methods(method, given, set_ or [])
        first = next(iter(methods.values()))
        draws_masks = len(methods) == 1 and naming.makes_masks(first)
        if smallest is not None and not (draws_masks and first.finds_smallest):
            without = ", without --layer" if layer else ""
            raise ValueError(
                f"--smallest is for one method that makes masks of an area, e.g. --method extremal{without}"
            )
        if smallest is not None and first.game.drop:
            raise ValueError(f"--smallest is for masks that keep the score; got --game {game}. Write --game preserve")
        if alternatives and not draws_masks:
            raise ValueError("--alternatives is for one method that makes masks, e.g. --method extremal")
        if draws_masks:
            failed, _ = explain_with_masks(
                images, model, target or [], first, out, smallest, fractions, checkpoint, alternatives, labels
            )
        else:
            failed = compare(images, model, target or [], methods, out, checkpoint, labels)
    if failed:
        raise typer.Exit(SOME_FAILED)
