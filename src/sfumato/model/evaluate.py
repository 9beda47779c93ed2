"""From masks to the model's scores, and back to gradients: chunked to a memory budget, row by row independent."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.games import Game
from sfumato.model.subject import Subject, backward_pass
from sfumato.perturbations import Perturbed
from sfumato.scores import check_finite

Moved = Callable[[Float[Tensor, "N C *S"]], Float[Tensor, "N C *S"]]
"""What is done to perturbed inputs before the model sees them, such as a `Move`."""

DIFFERENTIABLE = (
    "the model must be differentiable from its input to the explained output (no .detach(), no torch.no_grad(), no argmax on "
    "the way); for one that is not, take a method without gradients: RISE(), or "
    "ExtremalPerturbation(ascent=EvolutionAscent())"
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    r"""Scores $\Phi(m \otimes x)$ of masks `(N, 1, *S)`, each of which belongs to the query that `query` `(N,)` names.

    With several perturbations a score is the mean of the scores under each of them.
    """

    subject: Subject
    perturbed: tuple[Perturbed, ...]
    query: Int[Tensor, " N"]
    batch_rows: int
    """How many rows go through the model together."""
    rounded: Subject | None = None
    """The subject in a lower precision, if one is to be used for gradients, and for scores that only say where to begin."""

    @property
    def roughly(self) -> "Evaluation":
        """The same evaluation, with the `rounded` subject also for scores."""
        return self if self.rounded is None else replace(self, subject=self.rounded)

    def scores(self, masks: Float[Tensor, "N K *S"], *moves: Moved) -> Float[Tensor, " N"]:
        """The scores of what the masks keep, with the perturbed input moved as in `gradients`."""
        with self.subject.surroundings.computing(), torch.no_grad():
            chunks = ((rows, _split(moves, rows, len(masks))) for rows in self._chunks(len(masks)))
            return torch.cat([self._mean_phi(masks[rows], rows, parts) for rows, parts in chunks])

    def values(self, masks: Float[Tensor, "N K *S"], game: Game) -> Float[Tensor, " N"]:
        """The game's value of each mask."""
        value = torch.zeros(len(masks), dtype=torch.float32, device=masks.device)
        if game.keep:
            value = value + game.keep * self.scores(masks)
        if game.drop:
            value = value - game.drop * self.scores(1 - masks)
        return value

    def gradients(
        self, masks: Float[Tensor, "N K *S"], game: Game, *moves: Moved, turn: int | None = None
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N K *S"]]:
        """The game's value of each mask, and its gradient, with the perturbed input moved.

        Each move, or other change of the perturbed input, is that of a group of rows; the groups follow each other and have
        equal sizes. With several perturbations, of
        the mean of the scores; or, at a `turn`, of the score under one of them, taken in turn. Both may be `rounded`.
        """
        used = self.roughly
        values, gradients = [], []
        perturbed = self.perturbed if turn is None else (self.perturbed[turn % len(self.perturbed)],)
        with self.subject.surroundings.computing():
            for rows in self._chunks(len(masks)):
                chunk = masks[rows].detach().requires_grad_()
                value = torch.zeros(len(chunk), dtype=torch.float32, device=chunk.device)
                gradient = torch.zeros_like(chunk)
                # One after the other: `batch_rows` fit into memory with the graph of a single pass.
                for weight, drops in ((game.keep, False), (-game.drop, True)):
                    for hidden in perturbed if weight else ():
                        shown = 1 - chunk if drops else chunk
                        part = weight / len(perturbed) * used._phi(hidden, shown, rows, _split(moves, rows, len(masks)))
                        gradient += _gradient(part, chunk)
                        value += part.detach()
                values.append(value)
                gradients.append(gradient)
        return torch.cat(values), torch.cat(gradients)

    def _mean_phi(
        self, masks: Float[Tensor, "N K *S"], rows: slice, moves: Sequence[tuple[Moved, int]] = ()
    ) -> Float[Tensor, " N"]:
        return torch.stack([self._phi(hidden, masks, rows, moves) for hidden in self.perturbed]).mean(0)

    def _phi(
        self,
        perturbed: Perturbed,
        masks: Float[Tensor, "N K *S"],
        rows: slice,
        moves: Sequence[tuple[Moved, int]] = (),
    ) -> Float[Tensor, " N"]:
        query = self.query[rows]
        if not callable(perturbed):
            raise ValueError(
                "a perturbation, called with inputs, must return a function of masks and queries; got "
                f"{type(perturbed).__name__}. See sfumato.perturbations"
            )
        inputs = perturbed(masks, query)
        expected = (len(masks), *self.subject.inputs.shape[1:])
        if tuple(inputs.shape) != expected:
            raise ValueError(
                f"a perturbation must give inputs of the shape {expected} for masks {tuple(masks.shape)}; got "
                f"{tuple(inputs.shape)}. See sfumato.perturbations"
            )
        if moves:
            parts = inputs.split([count for _, count in moves])
            inputs = torch.cat([move(part) for (move, _), part in zip(moves, parts, strict=True)])
        try:
            scores = self.subject.phi(inputs, query)
        except RuntimeError as error:
            if "that requires grad" in str(error):  # as numpy says
                raise ValueError(f"the model refuses inputs that require gradients; {DIFFERENTIABLE}") from error
            raise
        return check_finite(scores, "a masked input", lambda row: _seen(masks[row], query[row]), OTHERWISE)

    def _chunks(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self.batch_rows):
            yield slice(start, min(start + self.batch_rows, count))


def _split(moves: Sequence[Moved], rows: slice, total: int) -> list[tuple[Moved, int]]:
    """The moves of some of all rows, each with the number of consecutive rows that it moves."""
    if not moves:
        return []
    size = total // len(moves)
    first, last = rows.start // size, (rows.stop - 1) // size
    ends = [min(rows.stop, (group + 1) * size) for group in range(first, last + 1)]
    return list(zip(moves[first : last + 1], map(int.__sub__, ends, [rows.start, *ends[:-1]]), strict=True))


def _seen(mask: Float[Tensor, " K *S"], query: Int[Tensor, ""]) -> str:
    """Which input it is, and how much of it the mask shows."""
    area = float(mask.detach().mean())
    shown = "none of it shown" if area == 0 else "all of it shown" if area == 1 else f"{area:.2g} of it shown"
    return f"input {int(query)}, with {shown}"


OTHERWISE = "check the model, or take another perturbation, e.g. perturbation=Noise()"
"""What may help where what a mask shows has no score."""


def _gradient(value: Float[Tensor, " N"], masks: Float[Tensor, "N K *S"]) -> Float[Tensor, "N K *S"]:
    gradient = None
    if value.requires_grad:
        with backward_pass():
            (gradient,) = torch.autograd.grad(value.sum(), masks, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the score has no gradient with respect to the input; {DIFFERENTIABLE}")
    if not torch.isfinite(gradient).all():
        raise ValueError(
            "the score's gradient is not finite; check the model, or use a wider type than its present one"
        )
    return gradient
