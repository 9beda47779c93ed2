r"""Insertion and deletion: how fast the score comes and goes with the places that a map calls important.

V. Petsiuk, A. Das, K. Saenko: *RISE: Randomized Input Sampling for Explanation of Black-box Models*, BMVC 2018,
arXiv 1806.07421, section 4. Also here: what other protocols share with it, the scores of a picture's parts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.evaluate import Evaluation
from sfumato.methods.rise import IN_CACHE
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import order
from sfumato.metrics.protocol import Protocol
from sfumato.perturbations import Blur, Constant, Perturbation
from sfumato.scores import Logit, Probability, Score
from sfumato.space import enlarged
from sfumato.subject import Subject

SCORES = ("probability", "logit")

AT_ONCE = 128
"""Rows at once through the model where it is not on a processor; fewer where memory is short."""

MEMORY = 2.0
"""GiB."""


@dataclass(frozen=True)
class InsertionDeletion(Protocol):
    r"""$\int_0^1 \Phi(m_a \otimes x)\, da$ and $\int_0^1 \Phi((1 - m_a) \otimes x)\, da$, where $m_a$ shows the highest
    share a of the map's places.

    Insertion shows the places on a perturbed picture, the most important first, and deletion takes them away; the areas
    under both curves are sums of trapezoids over the fraction of places. High insertion and low deletion are good.

    - `steps`: in how many the picture is inserted or deleted, of equally many places to one; as published, 224 for 224 × 224.
      A picture with fewer places takes one at a time. The model is asked `steps + 1` times for each curve.
    - `insertion`: what hides the places that are not yet inserted; as published, a Gaussian blur of 5 places. (The authors'
      code cuts its kernel off at 11 places, which blurs less.) `deletion`: what hides those that are deleted; as published,
      zero, which is the mean colour of pictures that were normalised.
    - `score`: "probability" (published) or "logit" of a class index; any other target is a score itself, and stays.
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
        check_count("steps", self.steps)
        check_perturbation("insertion", self.insertion)
        check_perturbation("deletion", self.deletion)
        check_score(self.score)

    def measure(self, case: Case) -> Row:
        importance = order(finite(case.map))
        counts = evenly(self.steps, importance.numel())
        shares = counts.double() / importance.numel()
        with questioned(case, self.score, "InsertionDeletion") as question:
            inserted = question.of_parts(self.insertion, importance, counts)
            deleted = question.of_parts(self.deletion, importance, counts, without=True)
            whole = question.whole
        insertion, deletion = trapezoids(shares, inserted), trapezoids(shares, deleted)
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


def trapezoids(places: Tensor, values: Tensor) -> float:
    """The area under the broken line through values `(n,)` at growing places `(n,)`.

    >>> trapezoids(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, 1.0]))
    0.75
    """
    return float(((values[1:] + values[:-1]) / 2 * (places[1:] - places[:-1])).sum())


def evenly(steps: int, places: int) -> Tensor:
    """How many places are shown after 0, …, `steps` steps, `(steps + 1,)`; fewer steps where there are fewer places."""
    steps = min(steps, places)
    return torch.tensor([round(step * places / steps) for step in range(steps + 1)])


@dataclass(frozen=True)
class Question:
    """A case's model, held still, to be asked for the scores of parts of its picture."""

    subject: Subject
    rows: int
    whole: float
    r"""$\Phi(x)$."""

    def of_parts(self, perturbation: Perturbation, importance: Tensor, counts: Tensor, without: bool = False) -> Tensor:
        """The scores `(n,)`, float64, of the `counts` `(n,)` most important places, or of what is left without them."""
        importance = importance.to(self.subject.inputs.device)
        masks = (
            (importance < some.to(importance.device).view(-1, *[1] * importance.ndim)) ^ without
            for some in counts.split(self.rows)
        )
        return self._asked(perturbation, (mask[:, None].float() for mask in masks))

    def of_masks(self, perturbation: Perturbation, masks: Tensor) -> Tensor:
        """The scores `(V,)`, float64, of what masks `(V, 1, *S)` keep."""
        return self._asked(perturbation, iter(masks.to(self.subject.inputs.device).split(self.rows)))

    def _asked(self, perturbation: Perturbation, masks: Iterator[Tensor]) -> Tensor:
        with self.subject.surroundings.computing(), torch.no_grad():
            perturbed = perturbation(self.subject.inputs)
        scores = []
        for some in masks:
            query = torch.zeros(len(some), dtype=torch.long, device=some.device)
            scores.append(Evaluation(self.subject, perturbed, query, self.rows).scores(some))
        values = torch.cat(scores).double().cpu()
        if not torch.isfinite(values).all():
            raise ValueError("the score of a part of the picture is not finite; check the model")
        return values


@contextmanager
def questioned(case: Case, score: str, who: str) -> Iterator[Question]:
    """The case's model, for questions about its picture; `ValueError` where the case lacks model, inputs or target."""
    model, inputs, target = (case.need(name, who) for name in ("model", "inputs", "target"))
    if len(inputs) != 1:
        raise ValueError(f"a case is one query, with inputs (1, C, *S); got {len(inputs)} of them")
    with Subject.prepared(model, inputs, scored(target, score)) as subject:
        at_once = IN_CACHE if inputs.device.type == "cpu" else AT_ONCE
        rows = min(at_once, subject.rows_in_memory(MEMORY))
        yield Question(subject, rows, float(subject.whole()))


def scored(target: Any, score: str) -> Any:
    """What is asked of the model: the probability or the logit of a class, or the target itself where it is no class."""
    if isinstance(target, Score) or callable(target):
        return target
    return Probability(target) if score == "probability" else Logit(target)


def masks_of_places(case: Case) -> Tensor | None:
    """The result's masks `(V, 1, *S)`, as large as the inputs and float32, the smallest first; `None` where it has none.

    Masks of a layer's places are enlarged linearly. Raises `ValueError` for masks of channels.
    """
    masks = case.attribution.masks
    if masks is None:
        return None
    space = case.map.shape
    if masks.shape[2] != 1 or masks.ndim != 3 + len(space) or case.attribution.activation is not None:
        raise ValueError("these masks are of channels, and hide no places of the picture; take a method whose masks do")
    masks = enlarged(masks[0].detach().float().cpu(), space)
    return masks[masks.flatten(1).mean(1).argsort(stable=True)]


def finite(values: Tensor) -> Tensor:
    """The map itself; `ValueError` where it cannot be ordered."""
    if not torch.isfinite(values).all():
        raise ValueError("the map holds values that are not finite; check the method and its model")
    return values


def check_positive(whole: float) -> None:
    """Raise `ValueError` where a share of the whole picture's score means nothing."""
    if whole <= 0:
        raise ValueError(
            f"a share of the score means nothing where the whole picture's is not positive: {whole:g}; "
            'take a positive score, e.g. score="probability"'
        )


def check_score(score: Any) -> None:
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}; got {score!r}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} up; got {value!r}")


def check_perturbation(name: str, value: Any) -> None:
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"{name} must be a perturbation such as Blur() or Constant(); got {value!r}")
