"""From masks to the model's scores, and back to gradients: chunked to a memory budget, row by row independent."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.games import Game
from sfumato.jitter import Move
from sfumato.perturbations import Perturbed
from sfumato.subject import Subject

STILL = Move()

DIFFERENTIABLE = (
    "the model must be differentiable from its input to the explained output (no .detach(), no torch.no_grad(), no argmax on "
    "the way); for one that is not, take a method without gradients: RISE(), or "
    "ExtremalPerturbation(ascent=EvolutionAscent())"
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    r"""Scores $\Phi(m \otimes x)$ of masks `(N, 1, *S)`, each of which belongs to the query that `query` `(N,)` names."""

    subject: Subject
    perturbed: Perturbed
    query: Tensor
    rows: int

    def scores(self, masks: Tensor) -> Tensor:
        """`(N,)` scores of what the masks keep."""
        with self.subject.surroundings.computing(), torch.no_grad():
            return torch.cat([self._phi(masks[rows], rows, STILL) for rows in self._chunks(len(masks))])

    def gradients(self, masks: Tensor, game: Game, move: Move) -> tuple[Tensor, Tensor]:
        """The game's value `(N,)` of each mask, and its gradient `(N, 1, *S)`, with the perturbed input moved."""
        values, gradients = [], []
        with self.subject.surroundings.computing():
            for rows in self._chunks(len(masks)):
                chunk = masks[rows].detach().requires_grad_()
                value = torch.zeros(len(chunk), device=chunk.device)
                if game.keep:
                    value = value + game.keep * self._phi(chunk, rows, move)
                if game.drop:
                    value = value - game.drop * self._phi(1 - chunk, rows, move)
                values.append(value.detach())
                gradients.append(_gradient(value, chunk))
        return torch.cat(values), torch.cat(gradients)

    def _phi(self, masks: Tensor, rows: slice, move: Move) -> Tensor:
        query = self.query[rows]
        try:
            return self.subject.phi(move(self.perturbed(masks, query)), query)
        except RuntimeError as error:
            if "that requires grad" in str(error):  # as numpy says
                raise ValueError(f"the model refuses inputs that require gradients; {DIFFERENTIABLE}") from error
            raise

    def _chunks(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self.rows):
            yield slice(start, min(start + self.rows, count))


def _gradient(value: Tensor, masks: Tensor) -> Tensor:
    gradient = torch.autograd.grad(value.sum(), masks, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        raise ValueError(f"the score has no gradient with respect to the input; {DIFFERENTIABLE}")
    if not torch.isfinite(gradient).all():
        raise ValueError(
            "the score's gradient is not finite; check the model, or use a wider type than its present one"
        )
    return gradient
