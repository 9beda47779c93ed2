"""What one takes away from the page: the result itself, its masks as annotations, an animation."""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from sfumato.annotations import annotated, as_coco
from sfumato.attribution import Attribution
from sfumato.models import Classifier
from sfumato.report import html
from sfumato.report.encoded import eight_bits
from sfumato.web.desk import Job
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


def safetensors(job: Job, _: Classifier) -> File:
    """All of the result, as `sfumato.load` reads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.safetensors"
        job.result.save(path)
        return File("result.safetensors", "application/octet-stream", path.read_bytes())


def coco(job: Job, classifier: Classifier) -> File:
    """The masks as COCO annotations of the picture."""
    asked, shown = job.about
    masks = job.result.masks
    if masks is None or job.result.activation is not None:
        raise ValueError("only masks of the picture can be annotations; this result has none")
    clear = [variant for variant, mask in enumerate(masks[0]) if mask.max() >= LEVEL]
    if not clear:
        raise ValueError("no mask is clear enough to have an outline; take more steps")
    found = annotated(job.result, classifier, shown.picture, "picture.png", asked.target, LEVEL, clear)
    content = as_coco(found, labels=classifier.labels)
    return File("annotations.json", "application/json", json.dumps(content, indent=1).encode())


def animation(job: Job, classifier: Classifier) -> File:
    """What the masks show, from the smallest area to the whole picture, as an animated PNG."""
    frames = _frames(job.result, classifier, job)
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=FRAME, loop=0)
    return File("masks.png", "image/apng", file.getvalue())


def gif(job: Job, classifier: Classifier) -> File:
    """The same as a GIF, with 256 colours."""
    frames = _frames(job.result, classifier, job)
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=FRAME, loop=0)
    return File("masks.gif", "image/gif", file.getvalue())


def report(job: Job, classifier: Classifier) -> File:
    """A page with the slider that needs no server."""
    asked, shown = job.about
    label = classifier.labels[asked.target]
    content = html(job.result, shown.inputs, classifier, label=label)
    return File("report.html", "text/html; charset=utf-8", content.encode())


def _frames(result: Attribution, classifier: Classifier, job: Job) -> list[Image.Image]:
    """The picture with what each mask hides blurred, and the whole picture last."""
    if result.masks is None or result.activation is not None:
        raise ValueError("only masks of the picture can be shown one after the other; this result has none")
    picture = classifier.restore(job.about[1].inputs)[0].cpu()
    hidden = blurred(picture)
    masks = torch.cat([result.masks[0, :, 0].cpu(), torch.ones(1, *picture.shape[1:])])
    shown = [mask * picture + (1 - mask) * hidden for mask in masks]
    return [Image.fromarray(eight_bits(each.permute(1, 2, 0))) for each in shown]


KINDS: dict[str, Callable[[Job, Classifier], File]] = {
    "safetensors": safetensors,
    "coco": coco,
    "apng": animation,
    "gif": gif,
    "html": report,
}
"""By the last part of their address."""
