r"""The pointing game: does the map's highest place lie on the object?

J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff: *Top-down neural attention by excitation backprop*, ECCV 2016, arXiv
1608.00507; played as R. Fong, M. Patrick and A. Vedaldi (ICCV 2019) played it with TorchRay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.data.truth import Truth, within
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean, mean_of_classes
from sfumato.metrics.protocol import Protocol
from sfumato.settings import check_number

GROUNDS = ("finest", "boxes", "segmentation")


@dataclass(frozen=True)
class PointingGame(Protocol):
    r"""A hit: $\min_{u \in G} \lVert u - u^* \rVert < \mathrm{tolerance}$ for $u^* = \arg\max_u S(u)$ over the picture.

    - `tolerance`: in pixels of the whole picture, which is published as 15; a pixel exactly that far away does not count. 1
      asks that the point itself lie on the object.
    - `ground`: what G is, over all instances of the class: "finest", their segmentations, or the boxes of those that have
      none; "boxes", as published for VOC; or "segmentation", as published for COCO, which refuses cases known by boxes.

    Of equal places the first counts, row by row from the top: a constant map points at the upper left corner.

    A row holds `hit`, the point's `x` and `y` (column and row), its `distance` to the nearest pixel of G, whether the case
    is `difficult`, and the class, `label`. The published numbers, "all" and "difficult", are means over classes of each
    class's share of hits; a class without cases is left out. The shares of hits over cases stand beside them.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    tolerance: float = 15
    ground: str = "finest"

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, "a length in pixels", above=0)
        check_ground(self.ground)

    def measure(self, case: Case) -> Row:
        """Where the map points, and whether that is a hit. Raises `ValueError` where the truth or its pixels are missing."""
        truth = case.need("truth", "the pointing game")
        ground = grounded(truth, self.ground)
        saliency = finite_map(case.map_of_picture, ground.shape)
        y, x = divmod(int(saliency.flatten().argmax()), saliency.shape[1])
        rows, columns = ground.nonzero().unbind(1)
        if not len(rows):
            raise ValueError(
                "no pixel of the picture belongs to the class, so that nothing can be hit; leave the case out"
            )
        square = int(((rows - y).square() + (columns - x).square()).min())  # a whole number: no rounding at the border
        return {
            "hit": square < self.tolerance**2,
            "difficult": truth.difficult,
            "distance": square**0.5,
            "x": x,
            "y": y,
            "label": truth.label,
        }

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all
        """The share of hits: by class, of all and of the difficult cases, then by case."""
        return (
            Measure("all", mean_of_classes("hit"), percent=True),
            Measure("difficult", mean_of_classes("hit", "difficult"), percent=True),
            Measure("all, by case", mean("hit"), percent=True),
            Measure("difficult, by case", mean("hit", "difficult"), percent=True),
        )


def check_ground(ground: str) -> None:
    """Raise `ValueError` unless it is one of `GROUNDS`."""
    if ground not in GROUNDS:
        raise ValueError(f"ground must be one of {', '.join(GROUNDS)}; got {ground!r}")


def grounded(truth: Truth, ground: str) -> Tensor:
    """The pixels `(height, width)`, bool, that count as the class, for one of `GROUNDS`."""
    if ground == "boxes":
        height, width = truth.places.shape
        boxes = [
            within((left, top, right, bottom), (width, height)) for left, top, right, bottom in truth.boxes.tolist()
        ]
        return torch.stack(boxes).any(0)
    if ground == "segmentation" and not truth.segmented:
        raise ValueError(
            f'ground="segmentation" needs a segmentation of every instance, and class {truth.label} has boxes only; '
            'take "boxes", or "finest"'
        )
    return truth.places


def finite_map(saliency: Tensor, shape: Sequence[int]) -> Tensor:
    """The map of a picture, if it is finite and as large as the truth; else a `ValueError`."""
    if tuple(saliency.shape) != tuple(shape):
        found, wanted = (" × ".join(map(str, size)) for size in (saliency.shape, shape))
        raise ValueError(
            f"the map covers {found} places and the truth {wanted} pixels; say with window=Window(…) what part of the picture "
            "the inputs show"
        )
    if not torch.isfinite(saliency).all():
        raise ValueError("the map is not finite, so that it points nowhere; check the method and the model")
    return saliency
