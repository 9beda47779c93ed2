"""What is climbed: the game's value of masks of given areas."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.games import Game
from sfumato.masks.family import Parametrisation
from sfumato.masks.level_set import LevelSets
from sfumato.model.evaluate import Evaluation
from sfumato.search.loop import Look, Stage, Step
from sfumato.search.projection import EXACTLY, NEARLY, project
from sfumato.space.jitter import Move


@dataclass(frozen=True, eq=False)
class Problem:
    """For `B` queries, masks of the areas `(B, V)`; rows are in the order of query, then area."""

    evaluation: Evaluation
    parametrisation: Parametrisation
    areas: Float[Tensor, "B V"]
    game: Game
    moves: Iterator[Move]
    seed: int = 0
    """Of what an ascent draws, unless it names a seed itself."""
    still: bool = False
    """Whether no move changes the input. Restarts would then be equal."""
    groups: int = 1
    """How many groups of consecutive rows there are, of equal sizes. Each group, a restart, has its own move in a step."""

    @property
    def near(self) -> float:
        """How far a mask's area may be off during the ascent."""
        return min(NEARLY, self.parametrisation.finest / 20)

    @property
    def queries(self) -> Evaluation:
        """The evaluation with one row for each query, in place of one for each of its areas."""
        return replace(self.evaluation, query=self.evaluation.query[:: self.areas.shape[1]])

    def flat(self, value: float) -> Float[Tensor, "N 1 *L"]:
        """Parameters `(B · V, 1, *L)`, all of one value."""
        return self.areas.new_full((self.areas.numel(), 1, *self.parametrisation.size), value)

    @property
    def of_sets(self) -> bool:
        """Whether the masks are sets, whose area follows a shift in jumps of one place."""
        return isinstance(self.parametrisation, LevelSets) and math.isinf(self.parametrisation.sharpness)

    def start(self) -> Float[Tensor, "N 1 *L"]:
        """Parameters `(B · V, 1, *L)` that know nothing."""
        if isinstance(self.parametrisation, LevelSets):
            return self.parametrisation.start().expand(self.areas.numel(), *[-1] * (len(self.parametrisation.size) + 1))
        return self.flat(0.5)

    def look(self, parameters: Float[Tensor, "N 1 *L"], areas: Float[Tensor, " N"], turn: int | None = None) -> Look:
        """The game's values `(N,)` and their gradient with respect to the parameters, with the input moved by the next moves.

        With a `turn`, only one of several perturbations is used: the one of this number, modulo how many there are.
        """
        if self.of_sets:
            raise ValueError(
                "sets have no gradient; climb on ramps, with replace(problem, parametrisation=problem.parametrisation.at(16)), "
                "or take masks that have one, mask=SmoothMask()"
            )
        # Every second move is still. So an odd number is drawn: each group is then still in every second step.
        moves = list(islice(self.moves, self.groups + (self.groups + 1) % 2))[: self.groups]
        leaf = parameters.detach().requires_grad_()
        masks = self.parametrisation(leaf)
        values, gradient = self.evaluation.gradients(masks, self.game, *moves, turn=turn)
        (gradient,) = torch.autograd.grad(masks, leaf, gradient)
        return Look(values, gradient, areas, counts=all(move.still for move in moves))

    def values(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, " N"]:
        """The game's values `(N,)` of the masks, with nothing moved; of several perturbations, the mean."""
        return self.evaluation.values(self.parametrisation(parameters), self.game)

    @cached_property
    def bounds(self) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """The game's values of the whole input, and of the hidden one, `(N,)` each."""
        variants = self.areas.shape[1]
        whole = torch.ones_like(self.parametrisation(self.start()[::variants]))
        values = (self.queries.values(masks, self.game) for masks in (whole, torch.zeros_like(whole)))
        shown, hidden = (value.repeat_interleave(variants) for value in values)
        return shown, hidden

    def projected(self, parameters: Float[Tensor, "N 1 *L"], areas: Float[Tensor, " N"]) -> Float[Tensor, "N 1 *L"]:
        """The parameters shifted and clipped for masks of the areas `(N,)`, nearly."""
        if self.of_sets:
            return self.exactly(parameters, areas)
        return project(self.parametrisation, parameters, areas, self.near)

    def exactly(self, parameters: Float[Tensor, "N 1 *L"], areas: Float[Tensor, " N"]) -> Float[Tensor, "N 1 *L"]:
        """The same as exactly as an answer is."""
        if isinstance(self.parametrisation, LevelSets) and self.of_sets:
            return self.parametrisation.settled(parameters, areas).clamp(0, 1)
        return project(self.parametrisation, parameters, areas, EXACTLY)


class Ascent(Protocol):
    """A way to the best masks."""

    def __call__(
        self, problem: Problem, steps: int, warm: Float[Tensor, "N 1 *L"] | None = None
    ) -> Iterator[Step | Stage]:
        """Ascend for the problem's areas, from `warm` parameters `(B · V, 1, *L)` if there are any.

        What is done before the first step may be told by a `Stage` now and then.
        """
