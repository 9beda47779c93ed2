"""Results as files: the result itself, its masks as annotations, an animation, a report."""

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
from sfumato.figures.report.numbers import mask_rows
from sfumato.models import Classifier
from sfumato.space.smoothing import enlarged
from sfumato.web import uploads
from sfumato.web.explaining import Answer
from sfumato.web.images import blur

LEVEL = 0.5
"""The lowest value of a mask's pixels in an annotation."""

FRAME = 700
"""Milliseconds for which an animation shows each mask."""


def named(answer: Answer, ending: str) -> str:
    """The name of a file made of an answer: that of the picture and of what was explained."""
    stem = Path(answer.picture.file).stem
    return uploads.file_name(f"{stem}-{answer.label.replace(', ', '-').replace(' ', '-')}{ending}")


class File(NamedTuple):
    """A file for the browser to save."""

    name: str
    type: str
    content: bytes


def safetensors(answer: Answer, _: Classifier) -> File:
    """The complete result, for `sfumato.load`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.safetensors"
        answer.result.save(path)
        return File(named(answer, ".safetensors"), "application/octet-stream", path.read_bytes())


def coco(answer: Answer, classifier: Classifier, row: int | None = None) -> File:
    """The masks as COCO annotations of the picture, or only that of a row of the panel.

    Raises `ValueError` if there are none.
    """
    result, file = answer.result, answer.picture.file
    if result.masks is None or result.activation is not None:
        raise ValueError("only masks of the picture can be annotations; this result has none")
    rows = mask_rows(result)
    if row is not None and not 0 <= row < len(rows):
        raise ValueError(f"there is no mask {row}; expected a number from 0 to {len(rows) - 1}")
    wanted = range(len(rows)) if row is None else [rows[row].variant]
    variants = [variant for variant in wanted if result.masks[0, variant].max() >= LEVEL]
    if not variants:
        raise ValueError(f"no mask that is wanted reaches {LEVEL:g} anywhere, so none has an outline; take more steps")
    picture = uploads.picture(answer.picture.content)
    annotations = annotated(result, classifier, picture, file, answer.asked.target, LEVEL, variants)
    content = as_coco(annotations, labels=classifier.labels)
    return File(named(answer, "-coco.json"), "application/json", json.dumps(content, indent=1).encode())


def animation(file_format: str, media_type: str, answer: Answer, classifier: Classifier) -> File:
    """The picture as the network saw it with each mask, by growing area, then the whole picture. A GIF has 256 colours."""
    frames = _frames(answer, classifier)
    file = io.BytesIO()
    frames[0].save(file, file_format, save_all=True, append_images=frames[1:], duration=FRAME, loop=0)
    return File(named(answer, f"-masks.{file_format.lower()}"), media_type, file.getvalue())


def report(answer: Answer, classifier: Classifier) -> File:
    """An HTML report with a slider."""
    content = html({answer.question.title: answer.result}, answer.picture.inputs, classifier, label=answer.label)
    return File(named(answer, ".html"), "text/html; charset=utf-8", content.encode())


def _frames(answer: Answer, classifier: Classifier) -> list[Image.Image]:
    """The picture as the network saw it with each mask, or without it in the deletion game; the whole picture is the last.

    If that cannot be shown, such as for masks at a layer, the hidden places are blurred. Raises `ValueError` for a result
    without masks of places.
    """
    result, inputs = answer.result, answer.picture.inputs
    if result.masks is None or result.activation is not None:
        raise ValueError("only masks of the picture can be shown one after the other; this result has none")
    picture = classifier.restore(inputs)[0].cpu()
    masks = 1 - result.masks if deletes(result) else result.masks
    masks = enlarged(masks[0].cpu(), picture.shape[1:])  # masks at a layer are smaller
    masks = torch.cat([masks, torch.ones_like(masks[:1])])
    try:
        perturbed = shown_perturbation(result).perturbation(inputs.cpu())
        pictures = classifier.restore(perturbed(masks, torch.zeros(len(masks), dtype=torch.long, device="cpu")))
    except ValueError:
        pictures = masks * picture + (1 - masks) * blur(picture)
    return [Image.fromarray(eight_bits(frame.permute(1, 2, 0))) for frame in pictures]


KINDS: dict[str, Callable[[Answer, Classifier], File]] = {
    "safetensors": safetensors,
    "coco": coco,
    "apng": partial(animation, "PNG", "image/apng"),
    "gif": partial(animation, "GIF", "image/gif"),
    "html": report,
}
"""The exports, by the last part of their address."""
