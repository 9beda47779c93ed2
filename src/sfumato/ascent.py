r"""Climbing to the mask of a given area that plays the game best: the optimisation loop, as a generator of steps.

Two ascents: `ProjectedAscent` keeps every iterate at its area exactly; `PenalisedAscent` is the published one, which adds
the area as a penalty. Both treat the `N` masks as independent rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.canvas import Canvas
from sfumato.evaluate import Evaluation
from sfumato.games import Game
from sfumato.jitter import Move
from sfumato.masks import Lattice
from sfumato.penalties import area_penalty
from sfumato.schedules import Geometric


class Step(NamedTuple):
    """One step of an ascent. The last one holds the answer."""

    index: int
    """From 0."""
    steps: int
    """How many there will be."""
    parameters: Tensor
    """`(N, 1, *L)`, the masks' parameters."""
    values: Tensor
    """What the game gives for them, `(N,)`; of the moved input where the step's jitter moved it."""
    areas: Tensor
    """The area that they are held to at this step, `(N,)`."""


@dataclass(frozen=True)
class ProjectedAscent:
    r"""Gradient ascent with every iterate put back to its area exactly, while the area shrinks to the wanted one.

    The gradient is divided by its largest entry, so `rate` is the most that a parameter moves in a step before momentum.
    After each step the parameters are shifted by one number and clipped to [0, 1], such that the mask's mean over the
    visible input is the step's area: no penalty, hence no weight to tune. The area falls geometrically from `start` to
    the wanted one during the share `approach` of the steps and stays there; among the steps at that area that saw the
    input unmoved, the best is the answer.
    """

    rate: float = 0.1
    momentum: float = 0.5
    start: float = 0.9
    approach: float = 0.5

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be positive; got {self.rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1); got {self.momentum}")
        if not 0 < self.start < 1:
            raise ValueError(f"start is an area and must lie in (0, 1); got {self.start}")
        if not 0 <= self.approach < 1:
            raise ValueError(f"approach is a share of the steps and must lie in [0, 1); got {self.approach}")

    def __call__(
        self,
        evaluation: Evaluation,
        lattice: Lattice,
        areas: Tensor,
        game: Game,
        moves: Iterator[Move],
        steps: int,
        warm: Tensor | None = None,
    ) -> Iterator[Step]:
        """Ascend for `areas` `(N,)`; from `warm` `(N, 1, *L)`, if given, at the wanted area at once."""
        if warm is None:
            start = areas.clamp(min=self.start)
            parameters = project(lattice, areas.new_full((len(areas), 1, *lattice.size), 0.5), start, EXACTLY)
        else:
            start = areas
            parameters = project(lattice, warm, areas, EXACTLY)
        velocity = torch.zeros_like(parameters)
        best, best_value = parameters, torch.full_like(areas, -math.inf)
        arrival = round(self.approach * steps) if warm is None else 0
        for index in range(steps):
            progress = min(1.0, index / arrival) if arrival else 1.0
            area = start ** (1 - progress) * areas**progress
            parameters = project(lattice, parameters + self.rate * velocity, area, NEARLY) if index else parameters
            move = next(moves)
            values, gradient = _climb(evaluation, lattice, parameters, game, move)
            if progress == 1.0 and move.still:
                better = values > best_value
                best_value = torch.where(better, values, best_value)
                best = torch.where(_like(better, best), parameters, best)
            if index == steps - 1:
                found = _like(best_value > -math.inf, best)
                parameters = project(lattice, torch.where(found, best, parameters), areas, EXACTLY)
                values = torch.where(best_value > -math.inf, best_value, values)
            yield Step(index, steps, parameters, values, area)
            largest = gradient.abs().flatten(1).amax(1).clamp(min=1e-30)
            velocity = self.momentum * velocity + gradient / _like(largest, gradient)


@dataclass(frozen=True)
class PenalisedAscent:
    r"""Maximise the game's value less $\lambda R_a(m)$ by gradient steps with momentum, as TorchRay does.

    $\lambda$ is `weight` at each step; `dampening` scales what enters the momentum after the first step. As there, the
    answer is the mask before the last update.
    """

    rate: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.9
    weight: Geometric = field(default_factory=lambda: Geometric(300, 1.0035))

    def __call__(
        self,
        evaluation: Evaluation,
        lattice: Canvas,
        areas: Tensor,
        game: Game,
        moves: Iterator[Move],
        steps: int,
        warm: Tensor | None = None,
    ) -> Iterator[Step]:
        """Ascend for `areas` `(N,)` of the canvas, from `warm` `(N, 1, *L)` or from masks that show everything."""
        parameters = areas.new_ones((len(areas), 1, *lattice.size)) if warm is None else warm
        parameters = parameters.clone().requires_grad_()
        optimiser = torch.optim.SGD(
            [parameters], lr=self.rate, momentum=self.momentum, dampening=self.dampening, maximize=True
        )
        for index in range(steps):
            with evaluation.surroundings.computing():
                canvas = lattice.nodes(parameters)
                masks = lattice.masks(canvas)
                values, gradient = evaluation.gradients(masks, game, next(moves))
                penalty = self.weight(index) * area_penalty(canvas, areas).sum()
                optimiser.zero_grad()
                torch.autograd.backward([masks, -penalty], [gradient, torch.ones_like(penalty)])
            yield Step(index, steps, parameters.detach().clone(), values, areas)
            with evaluation.surroundings.computing(), torch.no_grad():
                optimiser.step()
                parameters.clamp_(0, 1)


def _climb(
    evaluation: Evaluation, lattice: Lattice, parameters: Tensor, game: Game, move: Move
) -> tuple[Tensor, Tensor]:
    """The game's values `(N,)` and their gradient with respect to the parameters."""
    with evaluation.surroundings.computing():
        leaf = parameters.detach().requires_grad_()
        masks = lattice(leaf)
        values, gradient = evaluation.gradients(masks, game, move)
        (gradient,) = torch.autograd.grad(masks, leaf, gradient)
    return values, gradient


NEARLY, EXACTLY = 3, 16
"""Trials of the shift during the ascent (areas within about 0.002) and for its answer (within 1e-4)."""


def project(lattice: Lattice, parameters: Tensor, areas: Tensor, trials: int) -> Tensor:
    """The parameters `(N, 1, *L)` shifted by one number each and clipped to [0, 1], for masks of the given areas `(N,)`.

    The area grows with the shift; its root is found by secant steps, kept inside a shrinking bracket. Every row runs
    the same number of trials, so that none depends on another.
    """
    low, high = torch.full_like(areas, -1), torch.ones_like(areas)
    shift, slope = torch.zeros_like(areas), torch.ones_like(areas)
    last_shift, last_area = shift, areas
    for trial in range(trials):
        area = lattice.areas(lattice.nodes((parameters + _like(shift, parameters)).clamp(0, 1)))
        low = torch.where(area <= areas, shift, low)
        high = torch.where(area >= areas, shift, high)
        moved = shift - last_shift
        if trial:
            secant = (area - last_area) / torch.where(moved == 0, 1, moved)
            slope = torch.where((moved != 0) & (secant > 0), secant, slope)
        last_shift, last_area = shift, area
        guess = shift + (areas - area) / slope
        shift = torch.where((guess > low) & (guess < high), guess, (low + high) / 2)
    return (parameters + _like(shift, parameters)).clamp(0, 1)


def _like(rows: Tensor, other: Tensor) -> Tensor:
    """`(N,)` with axes of length one appended, to broadcast against `other`."""
    return rows.view(-1, *[1] * (other.ndim - 1))
