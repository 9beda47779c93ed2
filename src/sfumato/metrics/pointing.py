r"""The pointing game: does the map's highest place lie on the object?

J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff: *Top-down neural attention by excitation backprop*, ECCV 2016, arXiv
1608.00507; with the rules of R. Fong, M. Patrick and A. Vedaldi (ICCV 2019), as in TorchRay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.data.truth import Truth, box_pixels
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean, mean_of_classes
from sfumato.metrics.protocol import Protocol
from sfumato.settings import check_number

GROUNDS = ("finest", "boxes", "segmentation")


@dataclass(frozen=True)
class PointingGame(Protocol):
    r"""A hit: $\min_{u \in G} \lVert u - u^* \rVert < \mathrm{tolerance}$ for $u^* = \arg\max_u S(u)$ over the picture.

    - `tolerance`: in pixels of the whole picture, published as 15. A pixel at exactly this distance does not count. With 1,
      the point itself must lie on the object.
    - `ground`: what G is, over all instances of the class. "finest": their segmentations, and the boxes of instances without
      one. "boxes": their boxes, as published for VOC. "segmentation": their segmentations, as published for COCO; instances
      with a box only are an error.

    Among equal places the first counts, row by row from the top: a constant map points at the top left corner.

    A row holds `hit`, the point's `x` and `y` (column and row), its `distance` to the nearest pixel of G, whether the case
    is `difficult`, and the class, `label`. The published numbers, "all" and "difficult", are means over classes of the shares
    of hits; a class without cases is left out. "all, by case" and "difficult, by case" are the shares of hits of all cases.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    tolerance: float = 15
    ground: str = "finest"

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, "a length in pixels", above=0)
        check_ground(self.ground)

    def measure(self, case: Case) -> Row:
        """Where the map points, and whether that is a hit. Raises `ValueError` if the truth is missing or has no pixels."""
        truth = case.need("truth", "the pointing game")
        ground = ground_pixels(truth, self.ground)
        saliency = finite_map(case.map_of_picture, ground.shape)
        y, x = divmod(int(saliency.flatten().argmax()), saliency.shape[1])
        rows, columns = ground.nonzero().unbind(1)
        if not len(rows):
            raise ValueError(
                "no pixel of the picture belongs to the class, so there is nothing to hit; leave this case out"
            )
        square = int(((rows - y).square() + (columns - x).square()).min())  # an integer: no rounding at the border
        return {
            "hit": square < self.tolerance**2,
            "difficult": truth.difficult,
            "distance": square**0.5,
            "x": x,
            "y": y,
            "label": truth.label,
        }

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all
        """The share of hits, of all and of the difficult cases: as a mean over classes, then over cases."""
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


def ground_pixels(truth: Truth, ground: str) -> Bool[Tensor, "height width"]:
    """The pixels that count as the class, for one of `GROUNDS`."""
    if ground == "boxes":
        height, width = truth.places.shape
        boxes = [
            box_pixels((left, top, right, bottom), (width, height)) for left, top, right, bottom in truth.boxes.tolist()
        ]
        return torch.stack(boxes).any(0)
    if ground == "segmentation" and not truth.segmented:
        raise ValueError(
            f'ground="segmentation" needs a segmentation of every instance; an instance of class {truth.label} has a box only. '
            'Use ground="finest" or ground="boxes"'
        )
    return truth.places


def seen_pixels(case: Case, shape: Sequence[int]) -> Bool[Tensor, "height width"]:
    """The pixels of a picture of this shape that the network was shown: those in the case's window, or all without one.

    Raises `ValueError` where it was shown none.
    """
    if case.window is None:
        return torch.ones(tuple(shape), dtype=torch.bool, device="cpu")
    window = case.window
    seen = box_pixels((window.left, window.top, window.right, window.bottom), window.size)
    if not seen.any():
        raise ValueError(f"no pixel of the picture lies in the part that the network was shown, {window}")
    return seen


def finite_map(saliency: Float[Tensor, "*S"], shape: Sequence[int]) -> Float[Tensor, "*S"]:
    """The map itself. Raises `ValueError` unless it is finite and has the shape of the truth."""
    if tuple(saliency.shape) != tuple(shape):
        places, pixels = (" × ".join(map(str, size)) for size in (saliency.shape, shape))
        raise ValueError(
            f"the map covers {places} places and the truth {pixels} pixels; give the part of the picture that the inputs show, "
            "as Case(window=Window(…))"
        )
    if not torch.isfinite(saliency).all():
        raise ValueError("the map has values that are not finite; check the method and its model")
    return saliency
