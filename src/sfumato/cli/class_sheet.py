"""`sfumato channels --per-class`: the channels that a class needs over many pictures, in one sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sfumato.cli.files import check_writable, slug, write_json
from sfumato.cli.inverted import inverted
from sfumato.cli.speaking import complain
from sfumato.settings import number

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.behaviour.per_class import ClassChannels, Finished
    from sfumato.methods import ExtremalChannels

CHANNELS, EXAMPLES = 6, 6  # drawn


def class_sheet(
    images: Sequence[Path],
    method: "ExtremalChannels",
    model: str,
    checkpoint: Path | None,
    target: str,
    keep: float,
    invert: bool,
    out: Path,
) -> int:
    """Find and draw the channels of one class; returns how many pictures could not be used.

    What is found out about a picture stays in the folder `out`/masks, so that a run which was broken off goes on.
    """
    from sfumato import models, sheets
    from sfumato.behaviour.per_class import class_channels
    from sfumato.data import labels
    from sfumato.figures import panels

    panels.check_matplotlib()
    check_writable(out)
    classifier = models.load(model, checkpoint)
    index = labels.find(classifier.labels, target)
    label = labels.synonyms(classifier.labels[index])[0]
    method = classifier.placed(method)
    if not method.layer:
        raise ValueError(f"model {model!r} names no layer for this; give one with --layer; see: sfumato layers {model}")
    found = class_channels(method, classifier, images, index, keep=keep, out=out / "masks", progress=_tell)
    inversions = _alone(found, method) if invert else {}
    title = f"{label} ({index}): {method.layer} of {classifier.name}"
    sheet = sheets.of_class(found, min(CHANNELS, len(found.mean)), EXAMPLES, inversions, title)
    panels.save(sheet, out / f"{slug(label)}.png")
    write_json(out / f"{slug(label)}.json", _summary(found, label, index))
    channels, weights = found.top(min(CHANNELS, len(found.mean)))
    typer.echo(
        f"{label} ({index}): {len(found)} pictures, {float(found.counts.float().mean()):.1f} channels each on average"
    )
    typer.echo(
        "Those that weigh most: "
        + ", ".join(f"{c} ({w:.2f})" for c, w in zip(channels.tolist(), weights.tolist(), strict=True))
    )
    typer.echo(f"The sheet is {out / f'{slug(label)}.png'}")
    return len(found.left_out)


def _tell(finished: "Finished") -> None:
    if finished.reason:
        complain(finished.reason)


def _alone(found: "ClassChannels", method: "ExtremalChannels") -> "dict[int, Tensor]":
    """For each channel drawn, a picture that excites it as its best example does, and no other channel."""
    import torch

    from sfumato.data import pictures
    from sfumato.layers.below import activations

    classifier = found.classifier
    channels = found.top(min(CHANNELS, len(found.mean)))[0].tolist()
    best = found.peaks.values.argmax(0)
    inputs = [classifier.prepare(pictures.read(found.peaks.pictures[best[channel]])) for channel in channels]
    excited = activations(classifier.net, method.layer, torch.stack(inputs), method.at, method.call)
    masks = torch.eye(len(found.mean), dtype=torch.float32, device="cpu")[channels]
    return dict(zip(channels, inverted(classifier, method, excited, masks), strict=True))


def _summary(found: "ClassChannels", label: str, index: int) -> dict[str, Any]:
    """What the JSON file says."""
    channels, weights = found.top(len(found.mean))
    rows = zip(channels.tolist(), weights.tolist(), found.spread[channels].tolist(), strict=True)
    each = zip(found.pictures, found.counts.tolist(), found.scores.tolist(), found.whole.tolist(), strict=True)
    return {
        "target": {"index": index, "label": label},
        "pictures": [
            {"picture": str(path), "count": count, "score": number(score), "whole": number(whole)}
            for path, count, score, whole in each
        ],
        "left_out": [{"picture": str(path), "reason": reason} for path, reason in found.left_out],
        "channels": [
            {"channel": channel, "weight": number(weight), "spread": number(spread)}
            for channel, weight, spread in rows
            if weight > 0
        ],
        **found.about,
    }
