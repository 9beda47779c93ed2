"""What protocols ask a model: the scores of parts of a picture, by a map's order or by masks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.methods.rise import IN_CACHE
from sfumato.metrics.case import Case
from sfumato.model.evaluate import Evaluation
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbation, seeded
from sfumato.space.smoothing import enlarged

AT_ONCE = 128
"""Rows at once through the model where it is not on a processor; fewer where memory is short."""

MEMORY = 2.0
"""GiB."""


@dataclass(frozen=True, eq=False)
class Question:
    """A case's model, held still, to be asked for the scores of parts of its picture."""

    subject: Subject
    rows: int
    whole: float
    r"""$\Phi(x)$."""
    seed: int = 0
    """Of what a perturbation draws, unless it names a seed itself."""

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
            perturbed = seeded(perturbation, self.seed)(self.subject.inputs)
        scores = []
        for some in masks:
            query = torch.zeros(len(some), dtype=torch.long, device=some.device)
            scores.append(Evaluation(self.subject, perturbed, query, self.rows).scores(some))
        return torch.cat(scores).cpu().double()


@contextmanager
def questioned(case: Case, score: str, who: str) -> Iterator[Question]:
    """The case's model, for questions about its picture; `ValueError` where the case lacks model, inputs or target."""
    model, inputs, target = (case.need(name, who) for name in ("model", "inputs", "target"))
    if len(inputs) != 1:
        raise ValueError(f"a case is one query, with inputs (1, C, *S); got {len(inputs)} of them")
    with Subject.prepared(model, inputs, target, score) as subject:
        at_once = IN_CACHE if inputs.device.type == "cpu" else AT_ONCE
        rows, whole = subject.probe(MEMORY)
        yield Question(subject, min(at_once, rows), float(whole), case.seed)


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


def check_perturbation(name: str, value: Any) -> None:
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"{name} must be a perturbation such as Blur() or Constant(); got {value!r}")
