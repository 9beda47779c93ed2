r"""The energy-based pointing game: how much of the map lies on the object?

H. Wang, Z. Wang, M. Du, F. Yang, Z. Zhang, S. Ding, P. Mardziel, X. Hu: *Score-CAM: score-weighted visual explanations for
convolutional neural networks*, CVPR workshops 2020, arXiv 1910.01279.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sfumato.data.truth import within
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.pointing import check_ground, finite_map, grounded
from sfumato.metrics.protocol import Protocol

FLOORS = ("zero", "least")


@dataclass(frozen=True)
class EnergyPointing(Protocol):
    r"""$\sum_{u \in G} S^+(u) \big/ \sum_u S^+(u)$ over the picture's pixels that the network was shown.

    - `ground`: what G is, over all instances of the class: "boxes", as published; "finest", their segmentations, or the
      boxes of those that have none; or "segmentation", which refuses cases known by boxes.
    - `floor`: where energy begins. "zero" counts what is positive; "least" counts from the map's least value, for methods
      whose maps are all positive (RISE) or have no zero.

    A map without energy says that no place matters more than another: it gets what a constant map does, the share of the
    area that G takes, and is marked `empty`. That is chance, too, and kept as `area`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    ground: str = "boxes"
    floor: str = "zero"

    def __post_init__(self) -> None:
        check_ground(self.ground)
        if self.floor not in FLOORS:
            raise ValueError(f"floor must be one of {', '.join(FLOORS)}; got {self.floor!r}")

    def measure(self, case: Case) -> Row:
        """The share of energy, and of area, that the object has. Raises `ValueError` where the truth is missing."""
        truth = case.need("truth", "the energy-based pointing game")
        ground = grounded(truth, self.ground)
        saliency, seen = finite_map(case.map_of_picture, ground.shape), torch.ones_like(ground)
        if case.window is not None:
            window = case.window
            seen = within((window.left, window.top, window.right, window.bottom), window.size)
        if self.floor == "least":
            saliency = saliency - saliency[seen].min()
        energy = torch.where(seen, saliency, 0).clamp(min=0)
        area = int((ground & seen).sum()) / int(seen.sum())
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
