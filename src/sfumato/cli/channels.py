"""`sfumato channels`: which channels of a layer a class needs, in one picture or over all pictures of a class."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import naming, summaries
from sfumato.cli.class_sheet import class_sheet
from sfumato.cli.device import AUTO, Device
from sfumato.cli.errors import SOME_FAILED, reporting_errors
from sfumato.cli.files import writable, write_json
from sfumato.cli.inversion import invert_masks
from sfumato.cli.outputs import Overwrite, Resume
from sfumato.cli.queries import Batch, BatchSize, Query, Request, Task, prepared, summary_of
from sfumato.cli.questions import check_has_classes
from sfumato.cli.tables import console, table
from sfumato.settings import number, percent

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.methods import ExtremalChannels
    from sfumato.methods.sufficient import SmallestArea
    from sfumato.models import Classifier

TOP = 8
"""How many channels are named and drawn."""


def channels(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them.")],
    layer: Annotated[
        str | None, typer.Option(help="The layer; see `sfumato layers`. [default: the model's own]")
    ] = None,
    at: Annotated[str, typer.Option(help="Mask the layer's output or its input: output or input.")] = "output",
    groups: Annotated[
        int | None, typer.Option(help="Mask channels in groups, such as attention heads: the number of groups.")
    ] = None,
    model: naming.Model = "lite0",
    checkpoint: naming.Checkpoint = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A class, by index or label; may be repeated. [default: the top class]")
    ] = None,
    counts: Annotated[str | None, typer.Option(help="Numbers of channels. [default: 5,10,25,50]")] = None,
    game: Annotated[
        str,
        typer.Option(help="preserve: which channels suffice; delete: without which it is lost; dual: both."),
    ] = "preserve",
    keep: Annotated[
        float,
        typer.Option("--smallest", metavar="KEEP", help="The share of the score that the smallest set must keep."),
    ] = 0.9,
    steps: Annotated[int | None, typer.Option(help="Steps of the ascent. [default: the method's, 100]")] = None,
    score: Annotated[
        str,
        typer.Option(
            help="What a class means: logit, probability, log-odds, or sigmoid for networks with several labels."
        ),
    ] = "logit",
    invert: Annotated[
        bool,
        typer.Option(help="Draw pictures that excite the layer in the same way. This takes a minute for each picture."),
    ] = True,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Explain all pictures as one class, --target, in one sheet."),
    ] = False,
    seed: Annotated[int, typer.Option(help="The seed of all random numbers.")] = 0,
    set_: naming.Setting = None,
    device: Device = AUTO,
    batch: BatchSize = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("sfumato-out"),
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Find the channels of a layer that a class needs. Writes a sheet, the masks and a summary for each picture."""
    with reporting_errors():
        from sfumato.games import GAMES
        from sfumato.layers.capture import SIDES
        from sfumato.models.clips import check_takes_pictures
        from sfumato.scores import OF_A_CLASS, link_of_meaning

        naming.check_choice("--at", at, tuple(SIDES))
        naming.check_choice("--game", game, tuple(GAMES))
        naming.check_choice("--score", score, tuple(OF_A_CLASS))
        naming.check_share("--smallest", keep)
        naming.check_count("--steps", steps, 100)
        naming.check_count("--groups", groups, 12)
        numbers = None if counts is None else naming.whole_numbers(counts, "--counts")
        options = {"layer": layer, "at": at, "groups": groups, "counts": numbers, "game": game, "steps": steps}
        options |= {"score": score, "seed": seed}
        defaults = {"at": "output", "game": "preserve", "score": "logit", "seed": 0}
        given = {name: value for name, value in options.items() if value is not None and value != defaults.get(name)}
        (method,) = naming.build_methods("extremal-channels", given, set_ or []).values()
        if per_class:
            if not target or len(target) > 1:
                raise ValueError(
                    f"--per-class is for the pictures of one class; name one class with --target; got {target}"
                )
            with writable(out):
                left_out = class_sheet(images, method, model, checkpoint, target[0], keep, invert, out, device)
            raise typer.Exit(SOME_FAILED if left_out else 0)
        request = Request(images, model, out, target or [], checkpoint, device, batch, overwrite, resume)
        with prepared(request, link_of_meaning(method.score)) as task:
            check_has_classes(task.classifier, "sfumato channels")
            check_takes_pictures(task.classifier, "sfumato channels")
            method = naming.place_at_layer(method, task.classifier, model, needed=True)
            with task.working():
                _explain(method, task, keep, invert)


def _explain(method: "ExtremalChannels", task: Task, keep: float, invert: bool) -> None:
    """Explain the queries, and write and print their results."""
    from sfumato import sheets
    from sfumato.cli.progress import progress_bar
    from sfumato.figures.panels import save

    classifier, out = task.classifier, task.request.out
    for batch in task.batches(method=method, keep=keep, inversions=invert):
        with progress_bar(batch.title, left=batch.left) as progress:
            result = method(classifier.net, batch.inputs, batch.targets, progress=progress)
        with progress_bar(f"{batch.title}: the smallest set", left=batch.left) as progress:
            searches = _smallest(method, classifier, batch, result.whole, keep, progress)
        for index, query in enumerate(batch.queries):
            part, search = result[index], searches.get(index)
            inversions = _invert(method, classifier, batch.inputs[index], part) if invert else {}
            part, search = part.cpu(), search if search is None else search.cpu()
            sheet = sheets.channels(
                part,
                query.picture,
                count=TOP,
                found=search,
                inversions=inversions,
                title=query.title,
                classifier=classifier,
            )
            task.replace(query)
            save(sheet, out / f"{query.stem}.png")
            part.save(out / f"{query.stem}.safetensors")
            write_json(out / f"{query.stem}.json", _summary(part, search, query, classifier, keep) | summary_of(query))
            task.written += 1
            _print(part, search, query, keep)


def _smallest(
    method: "ExtremalChannels", classifier: "Classifier", batch: Batch, whole: Any, keep: float, progress: Any
) -> "dict[int, SmallestArea]":
    """The smallest sets of channels, by the index of the query in the batch.

    A query has one if its score is positive and the game only keeps.
    """
    from sfumato.methods.sufficient import smallest

    indices = [index for index, score in enumerate(whole.tolist()) if score > 0]
    if method.game.drop or not indices:  # type: ignore[union-attr]  # a Game by now
        return {}
    searches = smallest(method, classifier.net, batch.inputs[indices], batch.targets[indices], keep, progress=progress)
    return {index: searches[row] for row, index in enumerate(indices)}


def _invert(
    method: "ExtremalChannels", classifier: "Classifier", inputs: "Tensor", result: "Attribution"
) -> "dict[str, Tensor]":
    """Pictures that excite the layer like all channels, like those of the largest mask, and like the others."""
    import torch

    from sfumato.layers.below import activations

    activation = activations(classifier.net, method.layer, inputs[None], method.at, method.call)
    mask = result.channel_masks[0, -1]
    masks = {
        "all channels, inverted": torch.ones_like(mask),
        f"these {round(float(mask.sum()))}, inverted": mask,
        "the others, inverted": 1 - mask,
    }
    pictures = invert_masks(classifier, method, activation, torch.stack(list(masks.values())))
    return dict(zip(masks, pictures, strict=True))


def _summary(
    result: "Attribution", search: "SmallestArea | None", query: Query, classifier: "Classifier", keep: float
) -> dict[str, Any]:
    """The content of the JSON file."""
    masks = result.channel_masks[0]
    sets = [mask.nonzero()[:, 0].tolist() for mask in masks.round()]
    scores, complements = result.scores, result.complements
    assert scores is not None  # noqa: S101  # for the type checker: methods with masks give these
    assert complements is not None  # noqa: S101
    rows = zip(sets, scores[0].tolist(), complements[0].tolist(), strict=True)
    return summaries.picture(query, classifier) | {
        "whole": number(result.whole),
        "blank": number(result.blank),
        "channels_of_layer": masks.shape[1],
        "counts": [
            {
                "count": len(channels),
                "channels": channels,
                "score": number(score),
                "without": number(complement),
            }
            for channels, score, complement in rows
        ],
        "top": [{"channel": channel, "weight": number(weight)} for channel, weight in _top(result)],
        "smallest": None if search is None else {"keep": keep, "count": _count(search), "curve": _curve(search)},
        **summaries.about(result, query),
    }


def _top(result: "Attribution") -> list[tuple[int, float]]:
    """The channels with the largest weights, and these weights."""
    indices, weights = result.channels(min(TOP, result.channel_masks.shape[2]))
    return list(zip(indices[0].tolist(), weights[0].tolist(), strict=True))


def _count(search: "SmallestArea") -> int | None:
    """The smallest number of channels; `None` if no number suffices."""
    return int(search.count) if search.reached else None  # type: ignore[arg-type]  # a search of channels counts them


def _curve(search: "SmallestArea") -> list[dict[str, Any]]:
    """The score against the number of channels."""
    counts = (search.curve_areas * search.attribution.channel_masks.shape[2]).round().int().tolist()
    scores = map(number, search.curve_scores[0].tolist())
    return [{"count": count, "score": score} for count, score in zip(counts, scores, strict=True)]


def _print(result: "Attribution", search: "SmallestArea | None", query: Query, keep: float) -> None:
    """Print the scores, the channels with the largest weights, and the smallest number of channels."""
    from sfumato.figures.panels import name_of_score

    terminal = console()
    terminal.print(f"{query.source}: {query.asked.caption}", style="bold", soft_wrap=True)
    name = name_of_score(result)
    scores = table("channels", name, score=name)
    scores.add_row(f"all {result.channel_masks.shape[2]}", f"{float(result.whole):.2f}")  # type: ignore[arg-type]
    for mask, score in zip(result.channel_masks[0], result.scores[0].tolist(), strict=True):  # type: ignore[index]
        scores.add_row(f"{float(mask.sum()):g}", f"{score:.2f}")
    terminal.print(scores)
    terminal.print("Channels with the largest weights: " + ", ".join(str(channel) for channel, _ in _top(result)))
    if search is not None:
        count = _count(search)
        subject = "No number of channels reaches" if count is None else f"{count} channels keep"
        terminal.print(f"{subject} {percent(keep)} of the score.")
        if count is not None and search.blank_suffices:
            terminal.print("No channels at all keep as much, so this number says nothing about the picture.")
    terminal.print()
