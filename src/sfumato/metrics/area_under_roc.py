r"""The area under the ROC curve of a map: how well it tells the object's pixels from the others.

J. Hanley, B. McNeil: *The meaning and use of the area under a receiver operating characteristic (ROC) curve*, Radiology 1982.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.pointing import check_ground, finite_map, ground_pixels, seen_pixels
from sfumato.metrics.protocol import Protocol


@dataclass(frozen=True)
class AreaUnderROC(Protocol):
    """How often a pixel of the object is higher in the map than another pixel; of equal ones half counts.

    All pairs of a pixel of G and a pixel outside count, of what the network saw: 1 if every pixel of G is higher than all
    others, 0.5 for a constant map. Only the order of the values counts, so no map gains by sharpness.

    - `ground`: what G is, as for `EnergyPointing`: "boxes", "finest" or "segmentation".

    A row holds `auc`; `area`, the share of the area that G takes; `difficult` and `label`. Where G is all or nothing of
    what the network saw, nothing can be told apart, and `auc` is NaN.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    ground: str = "boxes"

    def __post_init__(self) -> None:
        check_ground(self.ground)

    def measure(self, case: Case) -> Row:
        """The area under the curve. Raises `ValueError` if the truth is missing, or the map is not finite."""
        truth = case.need("truth", "the area under the ROC curve")
        ground = ground_pixels(truth, self.ground)
        saliency, in_window = finite_map(case.map_of_picture, ground.shape), seen_pixels(case, ground.shape)
        return {
            "auc": area_under_roc(saliency[in_window], ground[in_window]),
            "area": int((ground & in_window).sum()) / int(in_window.sum()),
            "difficult": truth.difficult,
            "label": truth.label,
        }

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all
        """The mean over the cases, and over the difficult ones."""
        return (Measure("AUC", mean("auc")), Measure("AUC, difficult", mean("auc", "difficult")))


def area_under_roc(values: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """The share of pairs of a positive and a negative whose positive one is higher; equal ones count half. NaN without pairs.

    >>> area_under_roc(torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, False, True, False]))
    0.875
    """
    negatives = values[~positive].sort().values
    lower = torch.searchsorted(negatives, values[positive], side="left")
    not_higher = torch.searchsorted(negatives, values[positive], side="right")
    pairs = len(negatives) * len(lower)
    return float((lower + not_higher).sum()) / (2 * pairs) if pairs else float("nan")
