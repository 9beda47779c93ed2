"""The smallest sufficient part of the picture, in the order of a map.

After eq. 3 of R. Fong, M. Patrick, A. Vedaldi: *Understanding deep networks via extremal perturbations and smooth masks*, ICCV
2019, arXiv 1910.08485.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.insertion_deletion import evenly
from sfumato.metrics.part_scores import (
    PartScorer,
    check_perturbation,
    check_positive,
    importance_of,
    masks_of_places,
    part_scores,
)
from sfumato.metrics.protocol import Protocol
from sfumato.perturbations import Blur, Perturbation
from sfumato.scores import check_meaning
from sfumato.settings import check_number, check_whole


@dataclass(frozen=True)
class SufficientArea(Protocol):
    r"""$a^* = \min \{ a : \Phi(m_a \otimes x) \geq \mathrm{keep} \cdot \Phi(x) \}$, where $m_a$ shows the share a of the
    places, the highest of the map, or the first of the result's `order`.

    - `keep`: the share of the whole picture's score that suffices.
    - `steps`: areas grow from 0 in steps of 1 / `steps`, up to the first that suffices. The last step is then bisected until
      it is 1 / (16 `steps`) wide, or one place.
    - `perturbation`: what hides the other places.
    - `score`: what a class index means, "probability", "logit", "log-odds" or "sigmoid"; any other target is a score itself.
    - `masks`: whether to use the masks of a method that makes masks, instead of parts of the map. The result is then the area
      of the smallest sufficient mask, or 1, the whole picture, if no mask suffices.

    The score need not grow with the area; $a^*$ is the first crossing on the grid of steps. A row holds `area`, a fraction of
    the picture; `reached`, whether less than the whole picture suffices; `masks`, whether masks were used; and `whole`, the
    score of the whole picture. `measure` raises `ValueError` if that score is not positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    keep: float = 0.9
    steps: int = 100
    perturbation: Perturbation = Blur()
    score: str = "probability"
    masks: bool = False

    def __post_init__(self) -> None:
        check_number("keep", self.keep, "the share of the whole picture's score that suffices", above=0)
        if self.keep > 1:
            raise ValueError(f"keep is a share of the whole picture's score and must lie in (0, 1]; got {self.keep:g}")
        check_whole("steps", self.steps)
        check_perturbation("perturbation", self.perturbation)
        check_meaning(self.score)

    def measure(self, case: Case) -> Row:
        masks = masks_of_places(case) if self.masks else None
        with part_scores(case, self.score, "SufficientArea") as scorer:
            check_positive(scorer.whole_score)
            goal = self.keep * scorer.whole_score
            if masks is None:
                area = self._of_map(scorer, case, goal)
            else:
                enough = scorer.of_masks(self.perturbation, masks) >= goal
                areas = masks.cpu().double().flatten(1).mean(1)
                area = float(areas[enough].min()) if enough.any() else 1.0
            whole_score = scorer.whole_score
        return {"area": area, "reached": area < 1, "masks": masks is not None, "whole": whole_score}

    def _of_map(self, scorer: PartScorer, case: Case, goal: float) -> float:
        """The smallest share of the first places whose score reaches the goal."""
        importance = importance_of(case)
        places = importance.numel()
        counts = evenly(self.steps, places)
        low, high = 0, places  # numbers of places: `low` does not suffice, `high` does
        for batch in counts[:-1].split(scorer.rows):  # the last count is the whole picture, which suffices
            enough = scorer.of_parts(self.perturbation, importance, batch) >= goal
            if enough.any():
                high = int(batch[enough][0])
                break
        if high:
            low = int(counts[counts < high][-1])
        while high - low > max(1.0, places / (16 * self.steps)):
            middle = (low + high) // 2
            count = torch.tensor([middle], dtype=torch.long, device="cpu")
            score = scorer.of_parts(self.perturbation, importance, count)
            low, high = (low, middle) if score >= goal else (middle, high)
        return high / places

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002
        return (
            Measure("smallest area", mean("area"), higher_is_better=False, percent=True),
            Measure("less than the whole suffices", mean("reached"), percent=True),
        )
