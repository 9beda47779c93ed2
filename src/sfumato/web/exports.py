"""What one takes away from the page: the result itself, its masks as annotations, an animation."""

import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from sfumato.figures.annotations import annotated, as_coco
from sfumato.figures.panels import deletes, shown_perturbation
from sfumato.figures.report import html
from sfumato.figures.report.encoding import eight_bits
from sfumato.models import Classifier
from sfumato.space.smoothing import enlarged
from sfumato.web.explaining import Found
from sfumato.web.images import blurred

LEVEL = 0.5
"""The value of a mask from which on a place belongs to it."""

FRAME = 700
"""Milliseconds for which an animation shows each mask."""


class File(NamedTuple):
    """Something to be saved."""

    name: str
    type: str
    content: bytes


def safetensors(found: Found, _: Classifier) -> File:
    """All of the result, as `sfumato.load` reads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.safetensors"
        found.result.save(path)
        return File("result.safetensors", "application/octet-stream", path.read_bytes())


def coco(found: Found, classifier: Classifier) -> File:
    """The masks as COCO annotations of the picture."""
    masks = found.result.masks
    if masks is None or found.result.activation is not None:
        raise ValueError("only masks of the picture can be annotations; this result has none")
    clear = [variant for variant, mask in enumerate(masks[0]) if mask.max() >= LEVEL]
    if not clear:
        raise ValueError("no mask is clear enough to have an outline; take more steps")
    each = annotated(found.result, classifier, found.shown.picture, "picture.png", found.asked.target, LEVEL, clear)
    content = as_coco(each, labels=classifier.labels)
    return File("annotations.json", "application/json", json.dumps(content, indent=1).encode())


def animation(kind: str, media: str, found: Found, classifier: Classifier) -> File:
    """What the network saw with each mask, from the smallest area on, and the whole picture last; a GIF has 256 colours."""
    frames = _frames(found, classifier)
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=FRAME, loop=0)
    return File(f"masks.{kind.lower()}", media, file.getvalue())


def report(found: Found, classifier: Classifier) -> File:
    """A page with the slider that needs no server."""
    label = classifier.labels[found.asked.target]
    content = html(found.result, found.shown.inputs, classifier, label=label)
    return File("report.html", "text/html; charset=utf-8", content.encode())


def _frames(found: Found, classifier: Classifier) -> list[Image.Image]:
    """The picture with what each mask hides as the network saw it, in the deletion game what it marks; and the whole picture
    last. Where that cannot be shown, as of a layer, it is blurred."""
    result = found.result
    if result.masks is None or result.activation is not None:
        raise ValueError("only masks of the picture can be shown one after the other; this result has none")
    picture = classifier.restore(found.shown.inputs)[0].cpu()
    masks = 1 - result.masks if deletes(result) else result.masks
    masks = enlarged(masks[0].cpu(), picture.shape[1:])  # at a layer they are smaller
    masks = torch.cat([masks, torch.ones_like(masks[:1])])
    try:
        perturbed = shown_perturbation(result).perturbation(found.shown.inputs.cpu())
        shown = classifier.restore(perturbed(masks, torch.zeros(len(masks), dtype=torch.long, device="cpu")))
    except ValueError:
        shown = masks * picture + (1 - masks) * blurred(picture)
    return [Image.fromarray(eight_bits(each.permute(1, 2, 0))) for each in shown]


KINDS: dict[str, Callable[[Found, Classifier], File]] = {
    "safetensors": safetensors,
    "coco": coco,
    "apng": partial(animation, "PNG", "image/apng"),
    "gif": partial(animation, "GIF", "image/gif"),
    "html": report,
}
"""By the last part of their address."""
