r"""The energy-based pointing game: which share of the map's energy lies on the object?

H. Wang, Z. Wang, M. Du, F. Yang, Z. Zhang, S. Ding, P. Mardziel, X. Hu: *Score-CAM: score-weighted visual explanations for
convolutional neural networks*, CVPR workshops 2020, arXiv 1910.01279.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.pointing import check_ground, finite_map, ground_pixels, seen_pixels
from sfumato.metrics.protocol import Protocol

FLOORS = ("zero", "least")


@dataclass(frozen=True)
class EnergyPointing(Protocol):
    r"""$\sum_{u \in G} S^+(u) \big/ \sum_u S^+(u)$ over the pixels of the picture that the network was shown.

    - `ground`: what G is, over all instances of the class. "boxes": their boxes, as published. "finest": their segmentations,
      and the boxes of instances without one. "segmentation": their segmentations; instances with a box only are an error.
    - `floor`: the value from which energy is counted. "zero" counts the positive values. "least" counts from the map's least
      value, for methods whose maps are all positive (RISE) or have no zero.

    A row holds `energy`, the share above; `area`, the share of the area that G takes, which is the share to expect by chance;
    `above`, their difference; `empty`, whether the map has no energy; `difficult` and `label`. A map without energy says that
    no place matters more than another. So its `energy` is that of a constant map, which is `area`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    ground: str = "boxes"
    floor: str = "zero"

    def __post_init__(self) -> None:
        check_ground(self.ground)
        if self.floor not in FLOORS:
            raise ValueError(f"floor must be one of {', '.join(FLOORS)}; got {self.floor!r}")

    def measure(self, case: Case) -> Row:
        """The object's shares of energy and of area. Raises `ValueError` if the truth is missing, or the map is not finite."""
        truth = case.need("truth", "the energy-based pointing game")
        ground = ground_pixels(truth, self.ground)
        saliency, in_window = finite_map(case.map_of_picture, ground.shape), seen_pixels(case, ground.shape)
        if self.floor == "least":
            saliency = saliency - saliency[in_window].min()
        energy = torch.where(in_window, saliency, 0).clamp(min=0)
        area = int((ground & in_window).sum()) / int(in_window.sum())
        total = float(energy.sum(dtype=torch.float64))
        share = float((energy * ground).sum(dtype=torch.float64)) / total if total > 0 else area
        return {
            "energy": share,
            "area": area,
            "above": share - area,
            "empty": total <= 0,
            "difficult": truth.difficult,
            "label": truth.label,
        }

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all
        """The mean share of energy, of all and of the difficult cases, and how far it lies above the share of area."""
        return (
            Measure("energy", mean("energy"), percent=True),
            Measure("energy, difficult", mean("energy", "difficult"), percent=True),
            Measure("energy above chance", mean("above"), percent=True),
        )
