"""`sfumato channels`: which channels of a layer a class needs, in each picture, or over all pictures of a class."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import naming, summaries
from sfumato.cli.class_sheet import class_sheet
from sfumato.cli.files import Names, say_where, write_json
from sfumato.cli.inverted import inverted
from sfumato.cli.queries import Batch, Prepared, Query, prepare
from sfumato.cli.speaking import SOME_FAILED, speaking_plainly
from sfumato.cli.tables import console, table
from sfumato.settings import number

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.methods import ExtremalChannels
    from sfumato.methods.sufficient import SmallestArea
    from sfumato.models import Classifier

TOP = 8  # channels named and drawn


def channels(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them.")],
    layer: Annotated[
        str | None, typer.Option(help="The layer; see `sfumato layers`. [default: the model's own]")
    ] = None,
    at: Annotated[str, typer.Option(help="Mask what the layer puts out (output) or takes in (input).")] = "output",
    groups: Annotated[int | None, typer.Option(help="Mask so many groups of channels, as attention heads.")] = None,
    model: naming.Model = "lite0",
    checkpoint: naming.Checkpoint = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A class, by index or label; may be repeated. [default: the top class]")
    ] = None,
    counts: Annotated[str | None, typer.Option(help="Numbers of channels, e.g. 5,10,25,50. [default: these]")] = None,
    game: Annotated[str, typer.Option(help="preserve, delete or dual.")] = "preserve",
    keep: Annotated[
        float, typer.Option("--smallest", metavar="KEEP", help="The share of the score that the smallest set keeps.")
    ] = 0.9,
    steps: Annotated[int | None, typer.Option(help="Steps of the ascent. [default: the method's]")] = None,
    score: Annotated[
        str,
        typer.Option(help="What a class means: logit, probability, log-odds, or sigmoid for heads of several labels."),
    ] = "logit",
    invert: Annotated[
        bool, typer.Option(help="Draw pictures that excite the layer alike; takes a minute each.")
    ] = True,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Take all pictures as of one class, --target: one sheet for them together."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of all that is random.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("sfumato-out"),
) -> None:
    """Find the channels of a layer that a class needs: writes a sheet, the masks and a summary for each picture."""
    with speaking_plainly():
        from sfumato.methods import ExtremalChannels
        from sfumato.scores import link_of_meaning

        settings: dict[str, Any] = {"layer": layer or "", "at": at, "groups": groups, "game": game, "seed": seed}
        settings["score"] = score
        settings |= {} if counts is None else {"counts": naming.whole_numbers(counts, "--counts")}
        settings |= {} if steps is None else {"steps": steps}
        method = ExtremalChannels(**settings)
        if per_class:
            if not target or len(target) > 1:
                raise ValueError(
                    f"--per-class is for the pictures of one class; name it once with --target, not {target}"
                )
            left_out = class_sheet(images, method, model, checkpoint, target[0], keep, invert, out)
            raise typer.Exit(SOME_FAILED if left_out else 0)
        prepared = prepare(images, model, target or [], out, checkpoint, link_of_meaning(score))
        method = prepared.classifier.placed(method)
        if not method.layer:
            raise ValueError(
                f"model {model!r} names no layer for this; give one with --layer; see: sfumato layers {model}"
            )
        _explain(method, prepared, keep, invert, out)
    if prepared.failed:
        raise typer.Exit(SOME_FAILED)


def _explain(method: "ExtremalChannels", prepared: Prepared, keep: float, invert: bool, out: Path) -> None:
    from sfumato import sheets
    from sfumato.cli.progress import progress_bar
    from sfumato.figures.panels import save

    classifier = prepared.classifier
    names = Names()
    for batch in prepared.batches():
        with progress_bar(batch.title) as progress:
            result = method(classifier.net, batch.inputs, batch.targets, progress=progress)
        with progress_bar("smallest sets") as progress:
            searched = _smallest(method, classifier, batch, result.whole, keep, progress)
        for place, query in enumerate(batch.queries):
            each, found = result[place], searched.get(place)
            pictures = _inverted(method, classifier, batch.inputs[place], each) if invert else {}
            stem = names.unused(query.stem)
            shown = classifier.restore(query.inputs)
            sheet = sheets.channels(each, shown, count=TOP, found=found, inversions=pictures, title=query.title)
            save(sheet, out / f"{stem}.png")
            each.save(out / f"{stem}.safetensors")
            write_json(out / f"{stem}.json", _summary(each, found, query, classifier, keep))
            _print(each, found, query, keep)
    say_where(len(prepared.queries), out)


def _smallest(
    method: "ExtremalChannels", classifier: "Classifier", batch: Batch, whole: Any, keep: float, progress: Any
) -> "dict[int, SmallestArea]":
    """The smallest sets by place in the batch, where they mean anything: in a game that only keeps a positive score."""
    from sfumato.methods.sufficient import smallest

    places = [place for place, score in enumerate(whole.tolist()) if score > 0]
    if method.game.drop or not places:  # type: ignore[union-attr]  # a Game by now
        return {}
    found = smallest(method, classifier.net, batch.inputs[places], batch.targets[places], keep, progress=progress)
    return {place: found[row] for row, place in enumerate(places)}


def _inverted(
    method: "ExtremalChannels", classifier: "Classifier", inputs: "Tensor", result: "Attribution"
) -> "dict[str, Tensor]":
    """Pictures that excite the layer as the picture does, as the channels of the largest mask do, and as the others do."""
    import torch

    from sfumato.layers.below import activations

    full = activations(classifier.net, method.layer, inputs[None], method.at, method.call)
    mask = result.channel_masks[0, -1]
    kept = round(float(mask.sum()))
    parts = {
        "all channels, inverted": torch.ones_like(mask),
        f"these {kept}, inverted": mask,
        "the others, inverted": 1 - mask,
    }
    return dict(zip(parts, inverted(classifier, method, full, torch.stack(list(parts.values()))), strict=True))


def _summary(
    result: "Attribution", found: "SmallestArea | None", query: Query, classifier: "Classifier", keep: float
) -> dict[str, Any]:
    """What the JSON file says."""
    masks = result.channel_masks[0]
    kept = [mask.nonzero()[:, 0].tolist() for mask in masks.round()]
    scores, complements = result.scores, result.complements
    assert scores is not None  # noqa: S101  # for the type checker: methods with masks give these
    assert complements is not None  # noqa: S101
    rows = zip(kept, scores[0].tolist(), complements[0].tolist(), strict=True)
    return summaries.picture(query, classifier) | {
        "whole": number(result.whole),
        "blank": number(result.blank),
        "channels_of_layer": masks.shape[1],
        "counts": [
            {
                "count": len(channels),
                "channels": channels,
                "score": number(score),
                "without": number(rest),
            }
            for channels, score, rest in rows
        ],
        "top": [{"channel": channel, "weight": number(weight)} for channel, weight in _top(result)],
        "smallest": None if found is None else {"keep": keep, "count": _count(found), "curve": _curve(found)},
        **summaries.about(result, query),
    }


def _top(result: "Attribution") -> list[tuple[int, float]]:
    indices, weights = result.channels(min(TOP, result.channel_masks.shape[2]))
    return list(zip(indices[0].tolist(), weights[0].tolist(), strict=True))


def _count(found: "SmallestArea") -> int | None:
    return int(found.count) if found.reached else None  # type: ignore[arg-type]  # a search of channels counts them


def _curve(found: "SmallestArea") -> list[dict[str, Any]]:
    """The score against the number of channels."""
    counts = (found.curve_areas * found.attribution.channel_masks.shape[2]).round().int().tolist()
    scores = map(number, found.curve_scores[0].tolist())
    return [{"count": count, "score": score} for count, score in zip(counts, scores, strict=True)]


def _print(result: "Attribution", found: "SmallestArea | None", query: Query, keep: float) -> None:
    from sfumato.figures.panels import percent

    plain = console()
    plain.print(f"{query.source}: {query.label} ({query.target})", style="bold", soft_wrap=True)
    lines = table("channels", "score")
    lines.add_row(f"all {result.channel_masks.shape[2]}", f"{float(result.whole):.2f}")  # type: ignore[arg-type]
    for mask, score in zip(result.channel_masks[0], result.scores[0].tolist(), strict=True):  # type: ignore[index]
        lines.add_row(f"{float(mask.sum()):g}", f"{score:.2f}")
    plain.print(lines)
    plain.print("Those that weigh most: " + ", ".join(str(channel) for channel, _ in _top(result)))
    if found is not None:
        count = _count(found)
        reach = "No number of channels reaches" if count is None else f"{count} channels keep"
        plain.print(f"{reach} {percent(keep)} of the score.")
        if count is not None and found.blank_suffices:
            plain.print("No channel at all keeps as much: this number says nothing of the picture.")
    plain.print()
