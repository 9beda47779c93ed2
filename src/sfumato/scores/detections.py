"""What a detector found in each input, read from the outputs of the usual kinds of detectors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sfumato.scores.link import SIGMOID, SOFTMAX
from sfumato.settings import Settings, check_flag, check_whole, is_whole, later


class Detections(NamedTuple):
    """The `n` detections of one input."""

    boxes: Float[Tensor, "n 4"]
    """Left, top, right, bottom."""
    classes: Float[Tensor, "n K"] | Int[Tensor, " n"]
    """The probabilities of the classes; or one class each, for detectors that give no more."""
    objectness: Float[Tensor, " n"]
    """How sure the detector is that there is an object."""


Reader = Callable[[Any], Sequence[Detections]]
"""A function from a detector's outputs for `N` inputs to the `N` inputs' detections."""


@dataclass(frozen=True)
class TorchvisionDetections(Settings):
    """Of torchvision's detectors: a list with a dict for each input, with `boxes`, `labels` and `scores`.

    The score is taken as the objectness. Detections without `labels` are of class 0.
    """

    def __call__(self, outputs: Any) -> list[Detections]:
        if not isinstance(outputs, list | tuple) or not all(
            isinstance(found, Mapping) and {"boxes", "scores"} <= found.keys() for found in outputs
        ):
            raise ValueError(
                "TorchvisionDetections reads a list with a dict for each input, with the keys boxes, labels and scores; got "
                f"{_described(outputs)}"
            )
        return [
            Detections(
                found["boxes"].float(),
                found["labels"].long() if "labels" in found else torch.zeros_like(found["scores"], dtype=torch.long),
                found["scores"].float(),
            )
            for found in outputs
        ]


@dataclass(frozen=True)
class DetrDetections(Settings):
    r"""Of DETR and its relatives in transformers: `logits` `(N, n, K)`, and `pred_boxes` `(N, n, 4)` as fractions of the input.

    - `size`: the height and width of the input; boxes are then in its pixels. By default they stay fractions.
    - `link`: "softmax" if the last of the K logits means "no object", as in DETR, YOLOS and Table Transformer: the objectness
      is $1 - p_{\mathrm{none}}$. "sigmoid" for models without it, such as Conditional and Deformable DETR and RT-DETR: the
      objectness is the largest probability.
    """

    size: tuple[int, int] | None = None
    link: str = SOFTMAX

    def __post_init__(self) -> None:
        if self.size is not None:
            size = tuple(self.size)
            if len(size) != 2 or not all(is_whole(length, 1) for length in size):
                raise ValueError(f"size is the height and width of the input in pixels, or None; got {self.size!r}")
            object.__setattr__(self, "size", size)
        if self.link not in (SOFTMAX, SIGMOID):
            raise ValueError(f"link must be softmax or sigmoid; got {self.link!r}")

    def __call__(self, outputs: Any) -> list[Detections]:
        logits, centres = _part(outputs, "logits"), _part(outputs, "pred_boxes")
        if not isinstance(logits, Tensor) or not isinstance(centres, Tensor):
            raise ValueError(f"DetrDetections reads outputs with logits and pred_boxes; got {_described(outputs)}")
        if self.link == SIGMOID:
            classes = logits.float().sigmoid()
            objectness = classes.amax(2)
        else:
            probabilities = logits.float().softmax(2)
            classes, objectness = probabilities[..., :-1], 1 - probabilities[..., -1]
        boxes = corners(centres.float())
        if self.size is not None:
            height, width = self.size
            boxes = boxes * boxes.new_tensor([width, height, width, height])
        return [Detections(*parts) for parts in zip(boxes, classes, objectness, strict=True)]


@dataclass(frozen=True)
class YoloDetections(Settings):
    """Of YOLO models before non-maximum suppression: centres, widths and heights in pixels, and probabilities.

    - `objectness`: True for a tensor `(N, n, 5 + K)` with the objectness after the box (YOLOv5 to v7, YOLOX); False for
      `(N, 4 + K, n)` (YOLOv8 and later), whose largest probability is taken as the objectness.
    - `classes`: the number K of classes, for models that return more after them: the coefficients of masks, the places of key
      points, the angle of a box. By default all that is left is probabilities of classes.

    If the model returns a tuple or a list, its first tensor is read. The box is the one without its angle: for oriented boxes
    write a function that returns `Detections` with the boxes around them. Raises `ValueError` where a probability is not in
    [0, 1].
    """

    objectness: bool = True
    classes: int | None = later(None)

    def __post_init__(self) -> None:
        check_flag("objectness", self.objectness)
        if self.classes is not None:
            check_whole("classes", self.classes)

    def __call__(self, outputs: Any) -> list[Detections]:
        table = outputs[0] if isinstance(outputs, list | tuple) and outputs else outputs
        first = 5 if self.objectness else 4
        axis = 2 if self.objectness else 1
        if not isinstance(table, Tensor) or table.ndim != 3 or table.shape[axis] < first + (self.classes or 1):
            form = "(N, n, 5 + K)" if self.objectness else "(N, 4 + K, n)"
            most = f" with K of at least {self.classes}" if self.classes else ""
            raise ValueError(
                f"YoloDetections(objectness={self.objectness}) reads a tensor {form}{most}; got {_described(table)}"
            )
        rows = table.float() if self.objectness else table.float().transpose(1, 2)
        classes = rows[..., first:] if self.classes is None else rows[..., first : first + self.classes]
        shares = rows[..., 4 : first + classes.shape[2]].detach()
        if len(shares) and (shares.amin() < -ROUNDING or shares.amax() > 1 + ROUNDING):
            raise ValueError(
                f"{self} reads numbers from {float(shares.amin()):.3g} to {float(shares.amax()):.3g} as probabilities, in "
                f"{_described(table)}; say how many classes there are if more follows them, e.g. "
                f"YoloDetections(objectness={self.objectness}, classes=80), write objectness={not self.objectness} for the "
                "other layout, or apply the sigmoid to logits first"
            )
        objectness = rows[..., 4] if self.objectness else classes.amax(2)
        return [Detections(*parts) for parts in zip(corners(rows[..., :4]), classes, objectness, strict=True)]


ROUNDING = 1e-3
"""How far a probability may lie outside of [0, 1]."""


def read_detections(outputs: Any) -> Sequence[Detections]:
    """The detections of outputs of torchvision's kind, or of DETR's; `ValueError` names the readers for others."""
    if isinstance(outputs, list | tuple) and all(isinstance(found, Mapping) for found in outputs):
        return TorchvisionDetections()(outputs)
    if isinstance(_part(outputs, "logits"), Tensor) and isinstance(_part(outputs, "pred_boxes"), Tensor):
        return DetrDetections()(outputs)
    raise ValueError(
        f"no detections are known in {_described(outputs)}; say how to read them, e.g. detections=YoloDetections() for YOLO "
        "models, or a function from outputs to a list of sfumato.Detections(boxes, classes, objectness)"
    )


def corners(centres: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Left, top, right and bottom of boxes given by centre, width and height."""
    middle, half = centres[..., :2], centres[..., 2:] / 2
    return torch.cat([middle - half, middle + half], -1)


def overlaps(boxes: Float[Tensor, "n 4"], box: Float[Tensor, " 4"]) -> Float[Tensor, " n"]:
    """The intersection over the union of boxes with one; 0 for boxes without an area.

    >>> overlaps(torch.tensor([[0.0, 0, 2, 1], [4, 4, 5, 5]]), torch.tensor([1.0, 0, 3, 1]))
    tensor([0.3333, 0.0000])
    """
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) + (box[2:] - box[:2]).prod() - shared
    return shared / union


def _part(outputs: Any, name: str) -> Any:
    """An attribute of outputs, or the item of a mapping."""
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _described(outputs: Shaped[Tensor, "..."] | Any) -> str:
    if isinstance(outputs, Tensor):
        return f"a tensor of shape {tuple(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} with keys {', '.join(map(repr, outputs))}"
    return f"a {type(outputs).__name__}"
