r"""Monotonicity: whether the score grows with the area that is shown.

R. Fong, M. Patrick, A. Vedaldi: *Understanding deep networks via extremal perturbations and smooth masks*, ICCV 2019, arXiv
1910.08485, section 4.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.methods.extremal import check_areas
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import spearman
from sfumato.metrics.part_scores import check_perturbation, importance_of, masks_of_places, part_scores
from sfumato.metrics.protocol import Protocol
from sfumato.perturbations import Blur, Perturbation
from sfumato.scores import check_finite, check_meaning

AREAS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Monotonicity(Protocol):
    r"""The rank correlation of $\Phi(m_a \otimes x)$ with a, and whether it grows strictly.

    - `masks`: whether to use the masks of a method that makes two or more, with the scores that its result reports. If not,
      and for all other methods, $m_a$ is the share a of the places, the highest of the map, or the first of the result's
      `order`.
    - `areas`: the shares a.
    - `perturbation`: what hides the other places.
    - `score`: what a class index means, "probability", "logit", "log-odds" or "sigmoid"; any other target is a score itself.
      Neither `perturbation` nor `score` counts for scores that the result reports.

    A row holds `rank_correlation` (Spearman's; NaN if all scores are equal); `strict`, whether each larger area has a larger
    score; `growing`, the share of neighbouring areas of which the larger has the larger score; and `masks`, whether masks were
    used.
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
        result = case.attribution
        of_masks = self.masks and result.masks is not None and result.masks.shape[1] > 1
        if of_masks and result.scores is not None and result.achieved is not None:
            areas, scores = result.achieved[0].detach().cpu().double(), result.scores[0].detach().cpu().double()
        else:
            areas, scores = self._measured(case, of_masks)
        check_finite(scores, "a mask")
        by_area = scores[areas.argsort(stable=True)]
        growing = by_area[1:] > by_area[:-1]
        return {
            "rank_correlation": spearman(areas, scores),
            "strict": bool(growing.all()),
            "growing": float(growing.double().mean()),
            "masks": of_masks,
        }

    def _measured(self, case: Case, of_masks: bool) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Compute areas and scores of the masks or of parts of the map."""
        masks = masks_of_places(case) if of_masks else None
        with part_scores(case, self.score, "Monotonicity") as scorer:
            if masks is not None:
                return masks.cpu().double().flatten(1).mean(1), scorer.of_masks(self.perturbation, masks)
            importance = importance_of(case)
            places = importance.numel()
            counts = torch.tensor([round(area * places) for area in self.areas], dtype=torch.long, device="cpu")
            if (counts[1:] == counts[:-1]).any():
                raise ValueError(
                    f"areas must be further apart for a map of {places} places: two of {self.areas} are the same places"
                )
            return counts.double(), scorer.of_parts(self.perturbation, importance, counts)

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002
        return (
            Measure("rank correlation", mean("rank_correlation")),
            Measure("strictly growing", mean("strict"), percent=True),
            Measure("growing steps", mean("growing"), percent=True),
        )
