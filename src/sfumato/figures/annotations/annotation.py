"""A mask as an annotation: the picture, the class, the pixels, and how the mask was made."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
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
"""Characters that XML cannot have, and lone surrogates, which UTF-8 cannot have."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """The pixels of a picture that belong to a class. Raises `ValueError` for values that no format can hold."""

    picture: str
    """The picture's file, by the name that the annotation tool looks for."""
    label: int
    """The index of the class among the model's labels."""
    name: str
    """The label of the class."""
    mask: Bool[Tensor, "height width"]
    """On the CPU: as large as the picture, and with at least one pixel."""
    about: Mapping[str, Any]
    """How the mask was made, as plain JSON; see `annotated`."""

    def __post_init__(self) -> None:
        for name, text in (("picture", self.picture), ("name", self.name)):
            if not (isinstance(text, str) and text) or UNWRITABLE.search(text):
                raise ValueError(f"{name} must be text without control characters; got {text!r:.80}")
        if not is_whole(self.label, 0):
            raise ValueError(f"label must be the index of a class, from 0 up; got {self.label!r}")
        if self.mask.ndim != 2 or self.mask.dtype != torch.bool or self.mask.device.type != "cpu":
            form = f"{self.mask.dtype} {tuple(self.mask.shape)} on {self.mask.device}"
            raise ValueError(f"mask must be bool (height, width) on the CPU; got {form}")
        if not self.mask.any():
            raise ValueError(f"the mask of {self.name!r} in {self.picture!r} has no pixel; expected one or more")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        height, width = self.mask.shape
        return width, height

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the mask in pixels; right and bottom are the first pixels outside."""
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
    name: str = "",
) -> list[Annotation]:
    r"""The masks of one query as annotations, one for each variant: the pixels $p$ of the picture with $m(p) \geq$ `level`.

    The mask is interpolated linearly at the centres of the picture's pixels and then compared, so that its outline is as fine
    as the picture. Pixels that the model's preparation cuts off do not belong to it.

    - `picture`: the picture that was prepared for the network, upright, as `sfumato.data.pictures.read` returns it.
    - `file`: the name of the picture in the annotation.
    - `variants`: indices of masks; all by default.
    - `name`: what the masks are of, where that is not a class, such as "similarity to a.jpg"; `label` is then 0.
    - `weights`: the network's `sfumato.model.fingerprint.fingerprint`. By default it is computed, which reads all weights.

    The `about` of each annotation has `model`, `weights`, `method` (its settings), `score` (what was explained), `area_asked`
    and `area_achieved` (fractions of the input), `score_kept`, `score_whole` and `score_blank` (with nothing perturbed, and
    with everything perturbed), `level` and `sfumato` (the version that made the mask). A value that the result does not have
    is `None`.

    Raises `ValueError` if the result has no masks of pictures, is not of one query, does not fit the picture, or a mask reaches
    `level` nowhere. If the network takes all pictures in one size, a wrong picture of another size is not noticed.
    """
    check_number("level", level, "a value of the mask", above=0, below=1)
    if not name and not (is_whole(label, 0) and label < len(classifier.labels)):
        raise ValueError(f"label must be the index of one of the {len(classifier.labels)} classes; got {label!r}")
    masks = _masks(result, classifier, picture)
    indices = list(range(len(masks)) if variants is None else variants)
    if not all(isinstance(variant, int) and -len(masks) <= variant < len(masks) for variant in indices):
        raise ValueError(f"variants must be indices of the {len(masks)} masks; got {indices}")
    window = Window(picture.size, *classifier.preparation.window(picture.size))
    visible = box_pixels((window.left, window.top, window.right, window.bottom), picture.size)
    weights = weights or fingerprint(classifier.net)
    annotations = []
    for variant in indices:
        pixels = (on_picture(masks[variant], window) >= level) & visible
        about = _about(result, classifier.name, weights, variant, label) | {"level": float(level)}
        if not pixels.any():
            raise ValueError(
                f"mask {variant}, of area {about['area_asked'] or about['area_achieved']}, reaches level {level:g} in no "
                f"pixel of the picture: its largest value is {float(masks[variant].max()):.3g}; give a lower level, or "
                "variants=… without it"
            )
        annotations.append(Annotation(file, label, name or classifier.labels[label], pixels, about))
    return annotations


def _masks(result: Attribution, classifier: Classifier, picture: Image.Image) -> Float[Tensor, "V h w"]:
    """The masks of the result's query, float32 on the CPU. Raises `ValueError` if they are not of the picture."""
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
        raise ValueError("the masks must be finite; got NaN or infinity in them")
    size, expected = tuple(masks.shape[3:]), tuple(classifier.prepare(picture).shape[1:])
    at_layer = bool(result.method.get("layer"))
    if size != expected and not (at_layer and size[0] <= expected[0] and size[1] <= expected[1]):
        raise ValueError(
            f"the masks are of inputs of {size[1]} × {size[0]} pixels; a picture of {picture.width} × {picture.height} "
            f"makes an input of {expected[1]} × {expected[0]}: give the picture and the model that were explained"
        )
    return masks[0, :, 0]


def _about(result: Attribution, model: str, weights: str, variant: int, label: int) -> dict[str, Any]:
    """How a mask was made."""
    score = result.about.get("score")
    if isinstance(score, Mapping) and "target" in score:
        target = score["target"]
        if isinstance(target, list | tuple):  # a list of one; parts in old files have the targets of the whole batch
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


def _number(values: Shaped[Tensor, "..."] | None, *index: int) -> float | None:
    """The value at an index, for JSON, with the digits of float32."""
    return None if values is None else number(values[index], 7)
