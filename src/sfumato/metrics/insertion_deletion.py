r"""Insertion and deletion: how fast the score comes and goes with the places that a map calls important.

V. Petsiuk, A. Das, K. Saenko: *RISE: Randomized Input Sampling for Explanation of Black-box Models*, BMVC 2018,
arXiv 1806.07421, section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import order
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.question import check_perturbation, finite, questioned
from sfumato.perturbations import Blur, Constant, Perturbation
from sfumato.scores import check_meaning
from sfumato.settings import check_whole


@dataclass(frozen=True)
class InsertionDeletion(Protocol):
    r"""$\int_0^1 \Phi(m_a \otimes x)\, da$ and $\int_0^1 \Phi((1 - m_a) \otimes x)\, da$, where $m_a$ shows the highest
    share a of the map's places.

    Insertion shows the places on a perturbed picture, the most important first, and deletion takes them away; the areas
    under both curves are sums of trapezoids over the fraction of places. High insertion and low deletion are good.

    - `steps`: in how many the picture is inserted or deleted, of equally many places to one; as published, 224 for 224 × 224.
      A picture with fewer places takes one at a time. The model is asked `steps + 1` times for each curve.
    - `insertion`: what hides the places that are not yet inserted; a Gaussian blur of 5 places, as with the authors' code,
      which cuts its kernel off at 11 places and so blurs less. `deletion`: what hides those that are deleted; as there, zero,
      which is the mean colour of pictures that were normalised.
    - `score`: "probability" (published), "logit", "log-odds" or "sigmoid" of a class index; any other target stays.
    - `curves`: whether a row also holds `insertion_curve` and `deletion_curve`, lists of `steps + 1` scores.

    Of places with one value the earlier go first. A row holds `insertion`, `deletion`, their `difference`, and `whole`, the
    score of the whole picture; all in the score's units.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    steps: int = 224
    insertion: Perturbation = Blur(max_sigma=5, levels=2)
    deletion: Perturbation = Constant()
    score: str = "probability"
    curves: bool = False

    def __post_init__(self) -> None:
        check_whole("steps", self.steps)
        check_perturbation("insertion", self.insertion)
        check_perturbation("deletion", self.deletion)
        check_meaning(self.score)

    def measure(self, case: Case) -> Row:
        importance = order(finite(case.map))
        counts = evenly(self.steps, importance.numel())
        shares = counts.double() / importance.numel()
        with questioned(case, self.score, "InsertionDeletion") as question:
            inserted = question.of_parts(self.insertion, importance, counts)
            deleted = question.of_parts(self.deletion, importance, counts, without=True)
            whole = question.whole
        insertion, deletion = (float(torch.trapezoid(scores, shares)) for scores in (inserted, deleted))
        row: dict[str, Any] = {
            "insertion": insertion,
            "deletion": deletion,
            "difference": insertion - deletion,
            "whole": whole,
        }
        if self.curves:
            row |= {"insertion_curve": inserted.tolist(), "deletion_curve": deleted.tolist()}
        return row

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002
        return (
            Measure("insertion", mean("insertion")),
            Measure("deletion", mean("deletion"), higher_is_better=False),
            Measure("insertion - deletion", mean("difference")),
        )


def evenly(steps: int, places: int) -> Tensor:
    """How many places are shown after 0, …, `steps` steps, `(steps + 1,)`; fewer steps where there are fewer places."""
    steps = min(steps, places)
    return torch.tensor([round(step * places / steps) for step in range(steps + 1)], dtype=torch.long, device="cpu")
