"""Scores of parts of a picture, for protocols: parts in the order of a map, or parts that masks keep."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.methods.sampled import IN_CACHE
from sfumato.metrics.case import Case
from sfumato.metrics.likeness import order
from sfumato.model.evaluate import Evaluation
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbation, seeded
from sfumato.space.smoothing import enlarged

AT_ONCE = 128
"""Rows in one batch of the model on an accelerator; fewer if memory is short."""

LEAST = 0.01
"""Of the score that hiding everything takes away, as a share of the larger of both scores, at least. Where it takes less,
places have no worth."""


@dataclass(frozen=True, eq=False)
class PartScorer:
    """Computes the scores of parts of a case's picture with the case's model."""

    subject: Subject
    rows: int
    """Rows in one batch of the model."""
    whole_score: float
    r"""$\Phi(x)$, the score of the whole picture."""
    seed: int = 0
    """The seed of what a perturbation draws, unless the perturbation has a seed of its own."""

    def of_parts(
        self,
        perturbation: Perturbation,
        importance: Int[Tensor, "*S"],
        counts: Int[Tensor, " n"],
        without: bool = False,
    ) -> Float[Tensor, " n"]:
        """Scores, float64, of the `counts` most important places; `without`: of all places but these."""
        importance = importance.to(self.subject.inputs.device)
        masks = (
            (importance < batch.to(importance.device).view(-1, *[1] * importance.ndim)) ^ without
            for batch in counts.split(self.rows)
        )
        return self._scores(perturbation, (mask[:, None].float() for mask in masks))

    def of_masks(self, perturbation: Perturbation, masks: Float[Tensor, "V 1 *S"]) -> Float[Tensor, " V"]:
        """Scores, float64, of what masks keep."""
        return self._scores(perturbation, iter(masks.to(self.subject.inputs.device).split(self.rows)))

    def _scores(self, perturbation: Perturbation, masks: Iterator[Float[Tensor, "N 1 *S"]]) -> Float[Tensor, " V"]:
        with self.subject.surroundings.computing(), torch.no_grad():
            perturbed = seeded(perturbation, self.seed)(self.subject.inputs)
        scores = []
        for batch in masks:
            query = torch.zeros(len(batch), dtype=torch.long, device=batch.device)
            scores.append(Evaluation(self.subject, (perturbed,), query, self.rows).scores(batch))
        return torch.cat(scores).double().cpu()


@contextmanager
def part_scores(case: Case, score: str, who: str) -> Iterator[PartScorer]:
    """A scorer of parts of the case's picture. Raises `ValueError` if the case lacks the model, inputs or target."""
    model, inputs, target = (case.need(name, who) for name in ("model", "inputs", "target"))
    if len(inputs) != 1:
        raise ValueError(f"a case is one query and needs inputs (1, C, *S); got {len(inputs)} inputs")
    with Subject.prepared(model, inputs, target, score) as subject:
        most = IN_CACHE if inputs.device.type == "cpu" else AT_ONCE
        rows, score_of_whole = subject.probe(None)
        yield PartScorer(subject, min(most, rows), float(score_of_whole), case.seed)


def masks_of_places(case: Case) -> Float[Tensor, "V 1 *S"] | None:
    """The masks of the result, in float32 at the inputs' size, the smallest first; `None` if it has no masks.

    Masks over the places of a layer are enlarged linearly. Raises `ValueError` for masks of channels.
    """
    masks = case.attribution.masks
    if masks is None:
        return None
    space = case.map.shape
    if masks.shape[2] != 1 or masks.ndim != 3 + len(space) or case.attribution.activation is not None:
        raise ValueError(
            "masks must hide places of the picture; got masks of channels. Use a method such as ExtremalPerturbation"
        )
    masks = enlarged(masks[0].detach().float().cpu(), space)
    return masks[masks.flatten(1).mean(1).argsort(stable=True)]


def kept_parts(case: Case, area: float) -> tuple[Float[Tensor, "V 1 *S"], bool]:
    """What a method keeps of the picture, and whether these are its masks: else the first share `area` of the places."""
    masks = masks_of_places(case)
    if masks is not None:
        return masks, True
    importance = importance_of(case)
    return (importance < max(1, round(area * importance.numel())))[None, None].float(), False


def span(whole: Float[Tensor, "*N"], hidden: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """What hiding everything takes away from the scores of whole inputs; NaN where it is too little, see `LEAST`."""
    difference = whole - hidden
    return torch.where(difference <= LEAST * whole.abs().maximum(hidden.abs()), torch.nan, difference)


def importance_of(case: Case) -> Int[Tensor, "*S"]:
    """The place of each of the inputs' places in a case's order, 0 for the first. Equal values keep their order.

    Raises `ValueError` if a value is not finite.
    """
    return order(finite(case.order))


def finite(values: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """The values themselves, of a map or an order. Raises `ValueError` if one is not finite."""
    if not torch.isfinite(values).all():
        raise ValueError("the map, or the order, has values that are not finite; check the method and its model")
    return values


def check_positive(whole_score: float) -> None:
    """Raise `ValueError` unless the score of the whole picture is positive, so that shares of it have a meaning."""
    if whole_score <= 0:
        raise ValueError(
            f"the score of the whole picture must be positive, as shares of it are measured; got {whole_score:g}. "
            'Use a positive score such as score="probability"'
        )


def check_perturbation(name: str, value: Any) -> None:
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"{name} must be a perturbation such as Blur() or Constant(); got {value!r}")
