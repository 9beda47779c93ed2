"""What annotation tools want to know of a mask: which picture, which class, which pixels, and how it was come by."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sfumato.about import versions
from sfumato.attribution import Attribution
from sfumato.data.truth import box_pixels
from sfumato.metrics.case import Window, on_picture
from sfumato.model.fingerprint import fingerprint
from sfumato.models import Classifier
from sfumato.settings import check_number, is_whole, number

UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML cannot hold, and halves of characters, which UTF-8 cannot either."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """The pixels of a picture that belong to a class, and where this is known from."""

    picture: str
    """The picture's file, as the reader of the annotations is to look for it."""
    label: int
    """The class's index among the model's labels."""
    name: str
    """The class's label."""
    mask: Tensor
    """`(height, width)`, bool, on the CPU: as large as the picture, and with at least one pixel."""
    about: Mapping[str, Any]
    """Where it is from: plain JSON, see `annotated`."""

    def __post_init__(self) -> None:
        for what, text in (("picture", self.picture), ("name", self.name)):
            if not (isinstance(text, str) and text) or UNWRITABLE.search(text):
                raise ValueError(f"{what} must be text without control characters; got {text!r:.80}")
        if not is_whole(self.label, 0):
            raise ValueError(f"label is the index of a class, from 0 up; got {self.label!r}")
        if self.mask.ndim != 2 or self.mask.dtype != torch.bool or self.mask.device.type != "cpu":
            found = f"{self.mask.dtype} {tuple(self.mask.shape)} on {self.mask.device}"
            raise ValueError(f"mask must be bool (height, width) on the CPU; got {found}")
        if not self.mask.any():
            raise ValueError(f"the mask of {self.name!r} in {self.picture!r} has no pixel; expected one or more")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        height, width = self.mask.shape
        return width, height

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the pixels; right and bottom lie just outside."""
        rows, columns = (self.mask.any(axis).nonzero().flatten() for axis in (1, 0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def annotated(
    result: Attribution,
    classifier: Classifier,
    picture: Image.Image,
    file: str,
    label: int,
    level: float = 0.5,
    variants: Sequence[int] | None = None,
    weights: str | None = None,
) -> list[Annotation]:
    r"""The masks of one query as annotations, one a variant: the pixels $p$ of the picture with $m(p) \geq$ `level`.

    The mask is interpolated linearly at the centres of the picture's pixels before it is compared, so that its outline is as
    fine as the picture. Where the network saw nothing, beyond the cut that its preparation makes, no pixel belongs to it.

    `picture` is what was prepared for the network, upright as `sfumato.data.pictures.read` gives it, and `file` the name that
    the formats are to call it. `variants` are indices of masks, all by default. `weights` is the network's
    `sfumato.model.fingerprint.fingerprint`, for those who have it; else it is computed, which reads all weights.

    Each annotation's `about` says `model`, `weights`, `method` (its configuration), `score` (what was explained),
    `area_asked` and `area_achieved` (fractions of the input), `score_kept`, `score_whole` and `score_blank` (with nothing
    perturbed, and everything), `level` and `sfumato` (the version that made the mask). `None` stands for what the result
    does not say.

    Raises `ValueError` where the result has no masks of pictures, is not of one query, does not fit the picture, or a mask
    nowhere reaches `level`. A network that sees every picture in one size does not tell pictures of other sizes apart.
    """
    check_number("level", level, "a value of the mask", above=0, below=1)
    if not (is_whole(label, 0) and label < len(classifier.labels)):
        raise ValueError(f"label must be the index of one of the {len(classifier.labels)} classes; got {label!r}")
    masks = _masks(result, classifier, picture)
    shown = list(range(len(masks)) if variants is None else variants)
    if not all(isinstance(variant, int) and -len(masks) <= variant < len(masks) for variant in shown):
        raise ValueError(f"variants must be indices of the {len(masks)} masks; got {shown}")
    window = Window(picture.size, *classifier.preparation.window(picture.size))
    seen = box_pixels((window.left, window.top, window.right, window.bottom), picture.size)
    weights = weights or fingerprint(classifier.net)
    annotations = []
    for variant in shown:
        pixels = (on_picture(masks[variant], window) >= level) & seen
        about = _about(result, classifier.name, weights, variant, label) | {"level": float(level)}
        if not pixels.any():
            raise ValueError(
                f"mask {variant}, of area {about['area_asked'] or about['area_achieved']}, reaches level {level:g} in no "
                f"pixel of the picture: its largest value is {float(masks[variant].max()):.3g}; take a lower level, or "
                "variants=… without this one"
            )
        annotations.append(Annotation(file, label, classifier.labels[label], pixels, about))
    return annotations


def _masks(result: Attribution, classifier: Classifier, picture: Image.Image) -> Tensor:
    """The masks of the result's query, `(V, h, w)`, float32 on the CPU, once it is sure that they are of this picture."""
    if result.masks is None:
        raise ValueError("the result has no masks; give one made by a method with masks, e.g. ExtremalPerturbation")
    masks = result.masks.detach().float().cpu()
    if result.activation is not None or masks.ndim != 5 or masks.shape[2] != 1:
        raise ValueError(
            f"only masks of pictures, (B, V, 1, H, W), can be annotated; got {tuple(masks.shape)}"
            + (", masks of a layer's channels" if result.activation is not None else "")
        )
    if len(masks) != 1:
        raise ValueError(f"the result must be of one query; got {len(masks)}: annotate result[0], result[1] and so on")
    if not masks.isfinite().all():
        raise ValueError("the masks must be finite; they hold NaN or infinity")
    found, expected = tuple(masks.shape[3:]), tuple(classifier.prepare(picture).shape[1:])
    at_layer = bool(result.method.get("layer"))
    if found != expected and not (at_layer and found[0] <= expected[0] and found[1] <= expected[1]):
        raise ValueError(
            f"the masks are of inputs of {found[1]} × {found[0]} pixels; a picture of {picture.width} × {picture.height} "
            f"makes one of {expected[1]} × {expected[0]}: give the picture and the model that were explained"
        )
    return masks[0, :, 0]


def _about(result: Attribution, model: str, weights: str, variant: int, label: int) -> dict[str, Any]:
    score = result.about.get("score")
    if isinstance(score, Mapping) and "target" in score:
        target = score["target"]
        if isinstance(target, list | tuple):  # of one query it is the only one; old parts have the batch's several
            score = {**score, "target": target[0] if len(target) == 1 else label}
    return {
        "model": model,
        "weights": weights,
        "method": dict(result.method) or None,
        "score": score,
        "area_asked": _number(result.areas, variant),
        "area_achieved": _number(result.achieved, 0, variant),
        "score_kept": _number(result.scores, 0, variant),
        "score_whole": _number(result.whole, 0),
        "score_blank": _number(result.blank, 0),
        "sfumato": result.about.get("versions", versions())["sfumato"],
    }


def _number(values: Tensor | None, *place: int) -> float | None:
    """A number as JSON has them, to the digits that float32 has."""
    return None if values is None else number(values[place], 7)
