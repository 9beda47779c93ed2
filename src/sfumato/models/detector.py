"""A detector with the preparation of its inputs, and the names of its classes: boxes in place of logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.data.labels import find, synonyms
from sfumato.models.classifier import Classifier
from sfumato.scores import SIGMOID, Box, Detections, DetrDetections, TorchvisionDetections
from sfumato.settings import is_whole

LEAST = 1.0
"""The shortest side of a box that is explained without being named, in pixels of the input."""


class Detected(NamedTuple):
    """A box that a detector found."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom, in pixels of the input."""
    target: int
    """The index of its class."""
    sureness: float
    """The score that the library gives it. For DETR it is the probability of the class, which says that there is an object."""


@dataclass(frozen=True, eq=False)
class Detector(Classifier):
    """A network in eval mode that finds boxes in inputs `(B, C, H, W)`, with the labels of their classes.

    Methods take it as they take a `Classifier`: `method(detector, picture)` explains the box that it is surest of,
    `method(detector, picture, "person")` its surest box of a class, `method(detector, inputs, Box(box, 1, detector.reader(…)))`
    any box.

    `link` says what the network returns: `None` for a list with one dict for each input, as in torchvision, whose boxes are in
    pixels of the input; "softmax" or "sigmoid" for `logits` and `pred_boxes`, as in DETR; see `DetrDetections`.
    """

    link: str | None = None

    def __repr__(self) -> str:
        """One line, without the layers of the network."""
        return f"Detector({self.name!r}, {type(self.net).__name__}, {len(self.labels)} classes)"

    def reader(self, shape: Sequence[int]) -> TorchvisionDetections | DetrDetections:
        """What reads the outputs for inputs of `shape` `(H, W)`, with boxes in pixels of the input."""
        if self.link is None:
            return TorchvisionDetections()
        height, width = shape
        return DetrDetections((height, width), self.link)

    def detections(self, inputs: Float[Tensor, "B C H W"]) -> list[Detections]:
        """What the network finds in each input, with boxes in pixels of the input."""
        with torch.no_grad():
            return self.reader(inputs.shape[2:])(self.net(inputs))

    def found(self, inputs: Float[Tensor, "B C H W"]) -> list[list[Detected]]:
        """The boxes that the network finds in each input, each with its class, the surest first."""
        return [_sorted(one, self.link == SIGMOID) for one in self.detections(inputs)]

    def surest(self, inputs: Float[Tensor, "B C H W"], target: Any = None) -> Box:
        """The score of the box in each input of which the network is surest, or of the surest one of a class.

        `target` is an index or a name of a class, or a list with one for each input. Raises `ValueError` for an input in which
        nothing is found.
        """
        targets = list(target) if isinstance(target, list | tuple | Tensor) else [target] * len(inputs)
        if len(targets) != len(inputs):
            raise ValueError(f"got {len(targets)} targets for {len(inputs)} inputs; give one per input, or one for all")
        chosen = []
        for row, (found, wanted) in enumerate(zip(self.found(inputs), targets, strict=True)):
            index = None if wanted is None else self._index(wanted)
            of_class = [one for one in found if index in (None, one.target)]
            if not of_class:
                what = "nothing" if index is None else f"no {synonyms(self.labels[index])[0]}"
                others = dict.fromkeys(synonyms(self.labels[one.target])[0] for one in found)
                there = f"it finds {', '.join(list(others)[:3])}; " if others else ""
                where = f" in input {row}" if len(inputs) > 1 else ""
                raise ValueError(
                    f"{self.name} finds {what}{where}; {there}name another class, or give a box, as left, top, right and "
                    "bottom, to ask how near it comes to one there"
                )
            chosen.append(of_class[0])
        return Box(
            [one.box for one in chosen], [one.target for one in chosen], detections=self.reader(inputs.shape[2:])
        )

    def targets_of(self, targets: Any, inputs: Float[Tensor, "B C H W"]) -> Any:
        """Classes, by index or name, and `None` mean the surest boxes; other targets are scores themselves."""
        several = targets if isinstance(targets, list | tuple) else [targets]
        of_tensor = isinstance(targets, Tensor) and not targets.is_floating_point()
        if of_tensor or all(target is None or isinstance(target, str) or is_whole(target) for target in several):
            return self.surest(inputs, targets.tolist() if isinstance(targets, Tensor) else targets)
        return targets

    def logits(self, inputs: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:  # noqa: ARG002
        """A detector has none: raises `ValueError`."""
        raise ValueError(
            f"{self.name} is a detector, which gives boxes and no logits of classes; explain one of its boxes: "
            "sfumato explain --score box, or targets=detector.surest(inputs)"
        )

    def _index(self, target: Any) -> int:
        if is_whole(target, 0) and target >= len(self.labels):
            raise ValueError(f"there is no class {target}; expected an index from 0 to {len(self.labels) - 1}")
        return find(self.labels, str(target))


def _sorted(found: Detections, several: bool) -> list[Detected]:
    """The detections of one input, the surest first, without those that are narrower than a pixel.

    With `several`, a box may be of several classes, each with a probability of its own: as in the library, as many pairs of a
    box and a class are taken as there are boxes. Raises `ValueError` for scores that are NaN.
    """
    boxes, classes, objectness = found
    if not classes.is_floating_point():
        sureness, targets = objectness, classes
    elif several:
        sureness, pairs = classes.flatten().topk(len(boxes))
        boxes, targets = boxes[pairs // classes.shape[1]], pairs % classes.shape[1]
    else:
        sureness, targets = classes.max(1)
    if sureness.isnan().any():
        raise ValueError(
            f"{int(sureness.isnan().sum())} of the detector's {len(sureness)} scores are NaN, so that no box comes first; "
            "check the model and how the input was prepared"
        )
    wide = ((boxes[:, 2:] - boxes[:, :2]) >= LEAST).all(1)
    order = [row for row in sureness.argsort(descending=True, stable=True).tolist() if wide[row]]
    return [Detected(tuple(boxes[row].tolist()), int(targets[row]), float(sureness[row])) for row in order]
