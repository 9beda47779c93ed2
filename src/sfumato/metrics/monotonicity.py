r"""Monotonicity: whether the score grows with the area that is shown (Fong et al. 2019, section 4)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.methods.extremal import check_areas
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import order, spearman
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.question import (
    check_perturbation,
    finite,
    masks_of_places,
    questioned,
)
from sfumato.perturbations import Blur, Perturbation
from sfumato.scores import check_finite, check_meaning

AREAS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Monotonicity(Protocol):
    r"""The rank correlation of $\Phi(m_a \otimes x)$ with a, and whether it grows strictly.

    - `masks`: whether the method's own masks are looked at, where it has two or more, with the scores that it reports for
      them; otherwise, and for all other methods, $m_a$ is the highest share a of the map's places.
    - `areas`: those shares.
    - `perturbation`: what hides the rest, and `score`: "probability", "logit", "log-odds" or "sigmoid" of a class index, any
      other target being a score itself: both for what the method has not reported itself.

    A row holds `rank_correlation` (Spearman's; NaN where all scores are equal), `strict`, whether each larger area has a
    larger score, `growing`, the share of neighbouring areas of which the larger has the larger score, and `masks`, whether
    masks were looked at.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    areas: tuple[float, ...] = AREAS
    perturbation: Perturbation = Blur()
    score: str = "probability"
    masks: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.areas, Iterable):
            object.__setattr__(self, "areas", tuple(self.areas))
        object.__setattr__(self, "areas", check_areas(self.areas))
        if len(self.areas) < 2:
            raise ValueError(f"areas must be two or more, to see whether the score grows; got {self.areas}")
        check_perturbation("perturbation", self.perturbation)
        check_meaning(self.score)

    def measure(self, case: Case) -> Row:
        found = case.attribution
        of_masks = self.masks and found.masks is not None and found.masks.shape[1] > 1
        if of_masks and found.scores is not None and found.achieved is not None:
            areas, scores = found.achieved[0].detach().cpu().double(), found.scores[0].detach().cpu().double()
        else:
            areas, scores = self._asked(case, of_masks)
        check_finite(scores, "a mask")
        by_area = scores[areas.argsort(stable=True)]
        growing = by_area[1:] > by_area[:-1]
        return {
            "rank_correlation": spearman(areas, scores),
            "strict": bool(growing.all()),
            "growing": float(growing.double().mean()),
            "masks": of_masks,
        }

    def _asked(self, case: Case, of_masks: bool) -> tuple[Tensor, Tensor]:
        """Areas and scores, both `(n,)`."""
        masks = masks_of_places(case) if of_masks else None
        with questioned(case, self.score, "Monotonicity") as question:
            if masks is not None:
                return masks.cpu().double().flatten(1).mean(1), question.of_masks(self.perturbation, masks)
            importance = order(finite(case.map))
            places = importance.numel()
            counts = torch.tensor([round(area * places) for area in self.areas], dtype=torch.long, device="cpu")
            if (counts[1:] == counts[:-1]).any():
                raise ValueError(
                    f"a map of {importance.numel()} places has no parts of {self.areas} that differ; give areas wider apart"
                )
            return counts.double(), question.of_parts(self.perturbation, importance, counts)

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002
        return (
            Measure("rank correlation", mean("rank_correlation")),
            Measure("strictly growing", mean("strict"), percent=True),
            Measure("growing steps", mean("growing"), percent=True),
        )
