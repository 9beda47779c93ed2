r"""The smallest part of the picture that suffices, in the order that a map gives (after Fong et al. 2019, eq. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.insertion_deletion import evenly
from sfumato.metrics.likeness import order
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.question import Question, check_perturbation, check_positive, finite, masks_of_places, questioned
from sfumato.perturbations import Blur, Perturbation
from sfumato.scores import check_meaning
from sfumato.settings import check_number, check_whole


@dataclass(frozen=True)
class SufficientArea(Protocol):
    r"""$a^* = \min \{ a : \Phi(m_a \otimes x) \geq \mathrm{keep} \cdot \Phi(x) \}$, where $m_a$ shows the highest share a of
    the map's places.

    - `keep`: the share of the whole picture's score that suffices.
    - `steps`: areas are tried from 0 upwards, 1 / `steps` apart, up to the first that suffices; the bracket before it is
      then halved until it is 1 / (16 `steps`) wide, or one place.
    - `perturbation`: what hides the rest. `score`: "probability", "logit", "log-odds" or "sigmoid" of a class
      index; any other target is a score itself, and stays.
    - `masks`: whether the method's own masks are tried, where it has some, in place of the map's parts: the answer is then
      the area of the smallest that suffices, or 1, the whole picture, where none does.

    As the score need not grow with the area, $a^*$ is the first crossing on that grid. A row holds `area`, a fraction of the
    picture, `reached`, whether less than the whole suffices, `masks`, whether masks were tried, and `whole`, the score of the
    whole picture. Raises `ValueError` where that is not positive.
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
            raise ValueError(
                f"keep is the share of the whole picture's score and must lie in (0, 1]; got {self.keep:g}"
            )
        check_whole("steps", self.steps)
        check_perturbation("perturbation", self.perturbation)
        check_meaning(self.score)

    def measure(self, case: Case) -> Row:
        masks = masks_of_places(case) if self.masks else None
        with questioned(case, self.score, "SufficientArea") as question:
            check_positive(question.whole)
            wanted = self.keep * question.whole
            if masks is None:
                area = self._of_map(question, case, wanted)
            else:
                enough = question.of_masks(self.perturbation, masks) >= wanted
                areas = masks.cpu().double().flatten(1).mean(1)
                area = float(areas[enough].min()) if enough.any() else 1.0
            whole = question.whole
        return {"area": area, "reached": area < 1, "masks": masks is not None, "whole": whole}

    def _of_map(self, question: Question, case: Case, wanted: float) -> float:
        importance = order(finite(case.map))
        places = importance.numel()
        counts = evenly(self.steps, places)
        upper, lower = places, 0
        for some in counts[:-1].split(question.rows):  # the last is the whole picture, which suffices
            enough = question.of_parts(self.perturbation, importance, some) >= wanted
            if enough.any():
                upper = int(some[enough][0])
                break
        if upper:
            lower = int(counts[counts < upper][-1])
        while upper - lower > max(1.0, places / (16 * self.steps)):
            middle = (lower + upper) // 2
            score = question.of_parts(
                self.perturbation, importance, torch.tensor([middle], dtype=torch.long, device="cpu")
            )
            lower, upper = (lower, middle) if score >= wanted else (middle, upper)
        return upper / places

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002
        return (
            Measure("smallest area", mean("area"), higher_is_better=False, percent=True),
            Measure("less than the whole suffices", mean("reached"), percent=True),
        )
