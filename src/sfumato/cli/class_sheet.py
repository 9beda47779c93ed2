"""`sfumato channels --per-class`: the channels that a class needs in many pictures, in one sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sfumato.cli import naming
from sfumato.cli.device import AUTO, choose, in_words, place
from sfumato.cli.errors import print_error
from sfumato.cli.files import slug, write_json
from sfumato.cli.inversion import invert_masks
from sfumato.settings import number

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.behaviour.per_class import ClassChannels, Finished
    from sfumato.methods import ExtremalChannels

CHANNELS, EXAMPLES = 6, 6
"""How many channels are drawn, and how many pictures of each."""


def class_sheet(
    images: Sequence[Path],
    method: "ExtremalChannels",
    model: str,
    checkpoint: Path | None,
    target: str,
    keep: float,
    invert: bool,
    out: Path,
    device: str = AUTO,
) -> int:
    """Find and draw the channels of one class; returns how many pictures could not be used.

    The masks of each picture are stored in the folder `out`/masks, so that the command can be resumed after an interruption.
    """
    from sfumato import models, sheets
    from sfumato.behaviour.per_class import class_channels
    from sfumato.data import labels
    from sfumato.figures import panels
    from sfumato.models.clips import check_takes_pictures

    panels.check_matplotlib()
    chosen = choose(device)
    classifier = models.load(model, checkpoint)
    check_takes_pictures(classifier, "--per-class")
    place(classifier.net, chosen)
    index = labels.find(classifier.labels, target)
    label = labels.synonyms(classifier.labels[index])[0]
    method = naming.place_at_layer(method, classifier, model, needed=True)
    typer.echo(f"{classifier.name} runs on {in_words(chosen, device)}.")
    result = class_channels(method, classifier, images, index, keep=keep, out=out / "masks", progress=_print_reason)
    inversions = _invert_channels(result, method) if invert else {}
    title = f"{label} ({index}): {method.layer} of {classifier.name}"
    sheet = sheets.of_class(result, min(CHANNELS, len(result.mean)), EXAMPLES, inversions, title)
    panels.save(sheet, out / f"{slug(label)}.png")
    write_json(out / f"{slug(label)}.json", _summary(result, label, index))
    channels, weights = result.top(min(CHANNELS, len(result.mean)))
    mean_count = float(result.counts.float().mean())
    typer.echo(f"{label} ({index}): {len(result)} pictures, {mean_count:.1f} channels on average")
    typer.echo(
        "Channels with the largest weights: "
        + ", ".join(f"{c} ({w:.2f})" for c, w in zip(channels.tolist(), weights.tolist(), strict=True))
    )
    typer.echo(f"The sheet is {out / f'{slug(label)}.png'}")
    return len(result.left_out)


def _print_reason(finished: "Finished") -> None:
    """Print why a picture could not be used."""
    if finished.reason:
        print_error(finished.reason)


def _invert_channels(result: "ClassChannels", method: "ExtremalChannels") -> "dict[int, Tensor]":
    """For each channel of the sheet, a picture that excites it like its best example, and excites no other channel."""
    import torch

    from sfumato.data import pictures
    from sfumato.layers.below import activations
    from sfumato.model.effects import device_of

    classifier = result.classifier
    channels = result.top(min(CHANNELS, len(result.mean)))[0].tolist()
    best = result.peaks.values.argmax(0)
    inputs = [classifier.prepare(pictures.read(result.peaks.pictures[best[channel]])) for channel in channels]
    stacked = torch.stack(inputs).to(device_of(classifier.net))
    values = activations(classifier.net, method.layer, stacked, method.at, method.call)
    masks = torch.eye(len(result.mean), dtype=torch.float32, device="cpu")[channels]
    return dict(zip(channels, invert_masks(classifier, method, values, masks), strict=True))


def _summary(result: "ClassChannels", label: str, index: int) -> dict[str, Any]:
    """The content of the JSON file."""
    channels, weights = result.top(len(result.mean))
    rows = zip(channels.tolist(), weights.tolist(), result.spread[channels].tolist(), strict=True)
    pictures = zip(result.pictures, result.counts.tolist(), result.scores.tolist(), result.whole.tolist(), strict=True)
    return {
        "target": {"index": index, "label": label},
        "pictures": [
            {"picture": str(path), "count": count, "score": number(score), "whole": number(whole)}
            for path, count, score, whole in pictures
        ],
        "left_out": [{"picture": str(path), "reason": reason} for path, reason in result.left_out],
        "channels": [
            {"channel": channel, "weight": number(weight), "spread": number(spread)}
            for channel, weight, spread in rows
            if weight > 0
        ],
        **result.about,
    }
