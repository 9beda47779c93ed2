r"""How well a detector still finds a box: D-RISE's similarity.

V. Petsiuk, R. Jain, V. Manjunatha, V. I. Morariu, A. Mehra, V. Ordonez, K. Saenko: *Black-box explanation of object detectors
via saliency maps*, CVPR 2021, arXiv 2006.03204, section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.scores.detections import Detections, Reader, overlaps, read_detections
from sfumato.scores.of_class import as_target
from sfumato.scores.region import as_boxes
from sfumato.scores.score import Score
from sfumato.settings import PER_QUERY

Vectors = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Box(Score):
    r"""The largest similarity of a detection with the wanted one: $\max_j \mathrm{IoU}(L, L_j)\, \cos(P, P_j)\, O_j$.

    $L_j$ are the boxes that the detector finds, $P_j$ the probabilities of their classes, and $O_j$ their objectness.

    - `box`: the wanted box $L$: left, top, right and bottom; or one per query. It has the unit of the detector's boxes.
    - `target`: its class; one index, or one per query. Then $P$ is 1 for this class and 0 for others. Published are the
      probabilities of a detection's classes: give them as a tensor `(K,)`, or `(B, K)`. A detector that says only one class
      for each box has $P_j$ of 1 for it and 0 for others.
    - `detections`: how the outputs are read: `TorchvisionDetections()`, `DetrDetections()`, `YoloDetections()`, or a function
      from the outputs to a list with `Detections` for each input; None for what torchvision's detectors and DETR return.

    Without a detection the score is 0 and has no slope: lower the detector's own threshold, e.g. torchvision's
    `box_score_thresh`. A search does not mirror the input for it.
    """

    names_places = True

    box: Any = field(metadata=PER_QUERY)
    target: Any = field(metadata=PER_QUERY)
    detections: Reader | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", as_boxes(self.box))
        object.__setattr__(self, "target", _classes(self.target))
        if self.detections is not None and (isinstance(self.detections, type) or not callable(self.detections)):
            raise ValueError(
                "detections is a function from the outputs to Detections, e.g. TorchvisionDetections(), or None; got "
                f"{self.detections!r}"
            )

    def check(self, queries: int) -> None:
        for values, what in ((self.box, "boxes"), (self.target, "classes of boxes")):
            if len(values) not in (1, queries):
                raise ValueError(f"got {len(values)} {what} for {queries} inputs; give one per input, or one for all")

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        rows = (self.detections or read_detections)(outputs)
        if len(rows) != len(query):
            raise ValueError(
                f"the detections are of {len(rows)} inputs, but the model was given {len(query)}; give a function from the "
                "outputs to a list with sfumato.Detections for each input"
            )
        return torch.stack([self._best(found, number) for found, number in zip(rows, query.tolist(), strict=True)])

    def _best(self, found: Detections, query: int) -> Float[Tensor, ""]:
        boxes, classes, objectness = found
        box = boxes.new_tensor(self.box[query if len(self.box) > 1 else 0])
        target = self.target[query if len(self.target) > 1 else 0]
        values = overlaps(boxes, box) * similarity_of_classes(classes, target) * objectness
        # The sum of nothing is a zero that a backward pass accepts.
        return values.amax() if len(values) else values.sum()


def similarity_of_classes(
    classes: Float[Tensor, "n K"] | Int[Tensor, " n"], target: int | Sequence[float]
) -> Float[Tensor, " n"]:
    """The cosine of detections' probabilities of classes with those of a wanted class, or with wanted probabilities.

    >>> similarity_of_classes(torch.tensor([[0.6, 0.8]]), 1), similarity_of_classes(torch.tensor([3, 4]), 4)
    (tensor([0.8000]), tensor([0., 1.]))
    """
    if not classes.is_floating_point():
        if isinstance(target, int):
            return (classes == target).float()
        wanted = torch.tensor(target, dtype=torch.float32, device=classes.device)
        shares = (wanted / wanted.norm())[classes.clamp(max=len(wanted) - 1)]
        return torch.where(classes < len(wanted), shares, 0.0)
    if isinstance(target, int):
        if target >= classes.shape[1]:
            raise ValueError(
                f"the class {target} of a Box is out of range: the detector has {classes.shape[1]} classes (0 to "
                f"{classes.shape[1] - 1})"
            )
        return classes[:, target] / classes.norm(dim=1).clamp(min=TINY)
    wanted = torch.tensor(target, dtype=torch.float32, device=classes.device)
    if len(wanted) != classes.shape[1]:
        raise ValueError(
            f"a Box has the probabilities of {len(wanted)} classes, but the detector has {classes.shape[1]} classes"
        )
    return classes @ wanted / (classes.norm(dim=1) * wanted.norm()).clamp(min=TINY)


TINY = 1e-12
"""The least length of a vector by which is divided."""


def _classes(target: Any) -> tuple[int, ...] | Vectors:
    """Class indices, or vectors of probabilities, one for each query or one for all."""
    if isinstance(target, Tensor) and target.is_floating_point():
        target = target.tolist()
    rows = [target] if isinstance(target, list | tuple) and target and isinstance(target[0], float) else target
    if isinstance(rows, list | tuple) and rows and all(isinstance(row, list | tuple) for row in rows):
        if any(not isinstance(value, int | float) or value < 0 for row in rows for value in row):
            raise ValueError(f"the probabilities of a box's classes are numbers from 0 up; got {target!r}")
        if not all(any(row) for row in rows):
            raise ValueError("the probabilities of a box's classes are all 0; at least one must be positive")
        return tuple(tuple(map(float, row)) for row in rows)
    indices = as_target(target)
    return indices if isinstance(indices, tuple) else (indices,)
