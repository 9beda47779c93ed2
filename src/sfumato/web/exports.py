"""Results as files: the result itself, its masks as annotations, an animation, a report."""

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from sfumato.figures.annotations import Annotation, annotated, as_coco, as_cvat, as_labelme, as_png
from sfumato.figures.panels import deletes, shown_perturbation
from sfumato.figures.report.encoding import eight_bits
from sfumato.figures.report.numbers import mask_rows
from sfumato.figures.report.page import page
from sfumato.figures.report.pictures import shape_seen
from sfumato.figures.report.results import TITLE, section
from sfumato.model.fingerprint import fingerprint
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
    """The name of a file made of an answer: that of the picture, of what was explained, and of the network among several."""
    asked = "-".join(filter(None, (answer.label, answer.question.model)))
    name = asked.replace(", ", "-").replace(" ", "-").replace(":", "-").replace("/", "-")
    return uploads.file_name(f"{Path(answer.picture.file).stem}-{name}{ending}")


class File(NamedTuple):
    """A file for the browser to save."""

    name: str
    type: str
    content: bytes


def safetensors(answer: Answer, classifier: Classifier) -> File:
    """The complete result, for `sfumato.load`. It knows its picture, the model and what was asked, for `sfumato report`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.safetensors"
        replace(answer.result, about={**answer.result.about, **_about(answer, classifier)}).save(path)
        return File(named(answer, ".safetensors"), "application/octet-stream", path.read_bytes())


def _about(answer: Answer, classifier: Classifier) -> dict[str, Any]:
    """What the files of `sfumato explain` say too: the picture by its name and the hash of its content, the model, the
    question."""
    asked = answer.asked
    target = {"index": asked.target, "label": classifier.labels[asked.target]} if asked.is_of_class else None
    return {
        "picture": answer.picture.file,
        "made_from": {"picture": hashlib.sha256(answer.picture.content).hexdigest()},
        "model": classifier.name,
        "question": answer.label,
        **({} if target is None else {"target": target}),
    }


def _variants(answer: Answer, row: int | None) -> list[int]:
    """The indices of the masks for annotations: all, or that of a row of the panel.

    Raises `ValueError` if there are none.
    """
    result = answer.result
    if result.masks is None or result.activation is not None:
        raise ValueError("only masks of the picture can be annotations; this result has none")
    rows = mask_rows(result)
    if row is not None and not 0 <= row < len(rows):
        raise ValueError(f"there is no mask {row}; expected a number from 0 to {len(rows) - 1}")
    wanted = [one.variant for one in rows] if row is None else [rows[row].variant]
    variants = [variant for variant in wanted if result.masks[0, variant].max() >= LEVEL]
    if not variants:
        raise ValueError(f"no mask that is wanted reaches {LEVEL:g} anywhere, so none has an outline; take more steps")
    return variants


def _annotations(answer: Answer, classifier: Classifier, variants: Sequence[int]) -> Iterator[Annotation]:
    """The masks in the pixels of the picture, one after the other: that of a large picture has many."""
    picture, weights, asked = uploads.picture(answer.picture.content), fingerprint(classifier.net), answer.asked
    name = "" if asked.is_of_class else answer.label
    for variant in variants:
        yield from annotated(
            answer.result, classifier, picture, answer.picture.file, asked.target, LEVEL, [variant], weights, name
        )


def coco(answer: Answer, classifier: Classifier, row: int | None = None) -> File:
    """The masks as COCO annotations of the picture, or only that of a row of the panel.

    Raises `ValueError` if there are none.
    """
    annotations = _annotations(answer, classifier, _variants(answer, row))
    content = as_coco(annotations, labels=classifier.labels if answer.asked.is_of_class else None)
    return File(named(answer, "-coco.json"), "application/json", json.dumps(content, indent=1).encode())


def labelme(answer: Answer, classifier: Classifier, row: int | None = None) -> File:
    """The same as LabelMe's JSON. LabelMe looks for the picture in the folder of the file."""
    content = as_labelme(_annotations(answer, classifier, _variants(answer, row)))
    return File(named(answer, "-labelme.json"), "application/json", json.dumps(content, indent=1).encode())


def cvat(answer: Answer, classifier: Classifier, row: int | None = None) -> File:
    """The same as CVAT for images 1.1."""
    content = as_cvat(_annotations(answer, classifier, _variants(answer, row)))
    return File(named(answer, "-cvat.xml"), "application/xml", content.encode())


def masks(answer: Answer, classifier: Classifier, row: int | None = None) -> File:
    """The same as grey PNGs of the picture's size: one as it is, several in a zip file."""
    variants = _variants(answer, row)
    rows = {one.variant: (number, one.achieved) for number, one in enumerate(mask_rows(answer.result), 1)}
    files = []
    for variant, mask in zip(variants, _annotations(answer, classifier, variants), strict=True):
        number, area = rows[variant]
        files.append(File(named(answer, f"-{number:02}-{100 * area:.3g}-percent.png"), "image/png", as_png(mask)))
    if row is not None:
        return files[0]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(file.name), file.content)
    return File(named(answer, "-masks.zip"), "application/zip", content.getvalue())


def animation(file_format: str, media_type: str, answer: Answer, classifier: Classifier) -> File:
    """The picture as the network saw it with each mask, by growing area, then the whole picture. A GIF has 256 colours."""
    frames = _frames(answer, classifier)
    file = io.BytesIO()
    frames[0].save(file, file_format, save_all=True, append_images=frames[1:], duration=FRAME, loop=0)
    return File(named(answer, f"-masks.{file_format.lower()}"), media_type, file.getvalue())


def report(answer: Answer, classifier: Classifier) -> File:
    """An HTML report with a slider."""
    content = page(TITLE, section(answer.entry(classifier), 0))
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
    shown = 1 - result.masks if deletes(result) else result.masks
    shown = enlarged(shown[0].cpu(), picture.shape[1:])  # masks at a layer are smaller
    shown = torch.cat([shown, torch.ones_like(shown[:1])])
    try:
        perturbed = shown_perturbation(result).perturbation(inputs.cpu())
        pictures = classifier.restore(perturbed(shown, torch.zeros(len(shown), dtype=torch.long, device="cpu")))
    except ValueError:
        pictures = shown * picture + (1 - shown) * blur(picture)
    frames = [Image.fromarray(eight_bits(frame.permute(1, 2, 0))) for frame in pictures]
    if shape := shape_seen(classifier, answer.picture.size):
        frames = [_in_shape(frame, shape) for frame in frames]
    return frames


def _in_shape(frame: Image.Image, shape: float) -> Image.Image:
    """The frame in the shape (width by height) of what the network sees of the picture; one side is enlarged."""
    width, height = frame.size
    return frame.resize(
        (max(width, round(height * shape)), max(height, round(width / shape))), Image.Resampling.BICUBIC
    )


OF_MASKS: dict[str, Callable[..., File]] = {"coco": coco, "labelme": labelme, "cvat": cvat, "masks": masks}
"""The exports of all masks, or with `row=` of that in a row of the panel, by the last part of their address."""

KINDS: dict[str, Callable[..., File]] = {
    "safetensors": safetensors,
    "apng": partial(animation, "PNG", "image/apng"),
    "gif": partial(animation, "GIF", "image/gif"),
    "html": report,
    **OF_MASKS,
}
"""All exports, by the last part of their address."""
