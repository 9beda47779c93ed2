r"""Insertion and deletion: how fast the score grows and falls when important places are shown or hidden.

V. Petsiuk, A. Das, K. Saenko: *RISE: Randomized Input Sampling for Explanation of Black-box Models*, BMVC 2018,
arXiv 1806.07421, section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from sfumato.masks.regions import Regions, check_regions, labels_of
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import order
from sfumato.metrics.part_scores import check_perturbation, importance_of, part_scores
from sfumato.metrics.protocol import Protocol
from sfumato.perturbations import Blur, Constant, Perturbation
from sfumato.scores import check_meaning
from sfumato.settings import check_whole, later


@dataclass(frozen=True)
class InsertionDeletion(Protocol):
    r"""$\int_0^1 \Phi(m_a \otimes x)\, da$ and $\int_0^1 \Phi((1 - m_a) \otimes x)\, da$, where $m_a$ shows the highest
    share a of the places, in the order of the attribution or else of its map.

    Insertion starts from a perturbed picture and shows its places, the most important first. Deletion starts from the picture
    and hides them in the same order. The areas under both curves are trapezoid sums over the fraction of places. A high
    insertion and a low deletion are good.

    - `steps`: the number of steps, with the same number of places in each; as published, 224 for 224 × 224. A picture with
      fewer places has a step for each place. The model computes one score more than there are steps for each curve.
    - `insertion`: what hides the places that are not yet inserted; a Gaussian blur of 5 places, as in the authors' code,
      which cuts its kernel at 11 places and therefore blurs less.
    - `deletion`: what hides the deleted places; zero, as in the authors' code: the mean colour of normalised pictures.
    - `score`: what a class index means, "probability" (published), "logit", "log-odds" or "sigmoid"; any other target is a
      score itself.
    - `regions`: what is shown or hidden as a whole, such as `Superpixels()`, in the order of the mean rank of its places; the
      curves then have a step for each region, as in the papers of the greedy order. By default places come by themselves.
    - `curves`: whether a row also holds `insertion_curve` and `deletion_curve`, lists of the scores
      before the first step and after each.

    Among places of equal value, the earlier place goes first. A row holds `insertion`, `deletion`, their `difference`, and
    `whole`, the score of the whole picture; all in the score's units.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    steps: int = 224
    insertion: Perturbation = Blur(max_sigma=5, levels=2)
    deletion: Perturbation = Constant()
    score: str = "probability"
    curves: bool = False
    regions: Regions | None = later(None)

    def __post_init__(self) -> None:
        check_whole("steps", self.steps)
        check_perturbation("insertion", self.insertion)
        check_perturbation("deletion", self.deletion)
        check_meaning(self.score)
        if self.regions is not None:
            check_regions(self.regions)

    def measure(self, case: Case) -> Row:
        importance = importance_of(case)
        counts = evenly(self.steps, importance.numel())
        if self.regions is not None:
            labels = labels_of(self.regions, case.need("inputs", "InsertionDeletion"))[0].cpu()
            importance, counts = by_region(importance, labels)
        shares = counts.double() / importance.numel()
        with part_scores(case, self.score, "InsertionDeletion") as scorer:
            inserted = scorer.of_parts(self.insertion, importance, counts)
            deleted = scorer.of_parts(self.deletion, importance, counts, without=True)
            whole_score = scorer.whole_score
        insertion, deletion = (float(torch.trapezoid(scores, shares)) for scores in (inserted, deleted))
        row: dict[str, Any] = {
            "insertion": insertion,
            "deletion": deletion,
            "difference": insertion - deletion,
            "whole": whole_score,
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


def evenly(steps: int, places: int) -> Int[Tensor, " n"]:
    """How many places are shown after 0, …, `steps` steps, `(steps + 1,)`; with fewer places, as many steps as places."""
    steps = min(steps, places)
    return torch.tensor([round(step * places / steps) for step in range(steps + 1)], dtype=torch.long, device="cpu")


def by_region(importance: Int[Tensor, "*S"], labels: Int[Tensor, "*S"]) -> tuple[Int[Tensor, "*S"], Int[Tensor, " n"]]:
    """The places in the order of their regions, and how many are shown after 0, 1, … of the n - 1 regions.

    `importance` holds the place of each in the order, 0 for the first; a region comes at the mean of its places.
    """
    _, region, sizes = labels.flatten().unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(sizes), dtype=torch.float64, device="cpu").index_add_(
        0, region, importance.flatten().double()
    )
    position = order(-sums / sizes)  # of each region
    counts = torch.zeros(len(sizes) + 1, dtype=torch.long, device="cpu")
    counts[1:] = sizes[position.argsort()].cumsum(0)
    return order(-position[region].double()).view(importance.shape), counts
