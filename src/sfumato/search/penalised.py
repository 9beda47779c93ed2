"""The published ascent of TorchRay, with the area as a penalty."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.masks.penalties import area_penalty
from sfumato.search.loop import Look, Step, climb
from sfumato.search.problem import Problem
from sfumato.search.rules import TorchOptimiser
from sfumato.search.schedules import Geometric
from sfumato.settings import Settings


@dataclass(frozen=True)
class PenalisedAscent(Settings):
    r"""Maximise the game's value less $\lambda R_a(m)$ by gradient steps with momentum, as TorchRay does.

    $\lambda$ is `weight` at each step; `dampening` scales what enters the momentum after the first step. As there, the
    answer is the mask before the last update.
    """

    rate: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.9
    weight: Geometric = field(default_factory=lambda: Geometric(300, 1.0035))

    def __call__(self, problem: Problem, steps: int, warm: Float[Tensor, "N 1 *L"] | None = None) -> Iterator[Step]:
        """Ascend for areas of the canvas; from `warm` `(B · V, 1, *L)`, or from masks that show everything."""
        areas = problem.areas.flatten()
        rule = TorchOptimiser(
            lambda leaves: torch.optim.SGD(leaves, lr=self.rate, momentum=self.momentum, dampening=self.dampening)
        )

        def look(parameters: Float[Tensor, "N 1 *L"], index: int) -> Look:
            leaf = parameters.detach().requires_grad_()
            canvas = problem.parametrisation.nodes(leaf)
            masks = problem.parametrisation.masks(canvas)
            values, gradient = problem.evaluation.gradients(masks, problem.game, next(problem.moves))
            penalty = self.weight(index) * area_penalty(canvas, areas).sum()
            (gradient,) = torch.autograd.grad([masks, -penalty], leaf, [gradient, torch.ones_like(penalty)])
            return Look(values, gradient, areas)

        start = problem.flat(1.0) if warm is None else warm
        return climb(look, start, steps, rule, lambda parameters, _: parameters.clamp(0, 1))
