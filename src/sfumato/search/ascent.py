r"""Climbing to the mask of a given area that plays the game best: the optimisation loop, as a generator of steps.

Two ascents: `ProjectedAscent` keeps every iterate at its area exactly; `PenalisedAscent` is the published one, which adds
the area as a penalty. They compute with gradients on, in the modes of `Surroundings.computing`, which whoever advances
them enters.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.games import Game
from sfumato.masks.penalties import area_penalty
from sfumato.masks.smooth import Lattice
from sfumato.model.evaluate import Evaluation
from sfumato.search.schedules import Geometric
from sfumato.settings import check_number
from sfumato.space.jitter import Move


@dataclass(frozen=True, eq=False)
class Step:
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


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be climbed: for `B` queries, masks of the areas `(B, V)`, rows in the order of query, then area."""

    evaluation: Evaluation
    lattice: Any
    areas: Tensor
    game: Game
    moves: Iterator[Move]
    seed: int = 0
    """Of what an ascent draws, unless it names a seed itself."""

    @property
    def near(self) -> float:
        """How far a mask's area may be off during the ascent."""
        return min(NEARLY, self.lattice.finest / 20)

    def flat(self, value: float) -> Tensor:
        """Parameters `(B · V, 1, *L)`, all of one value."""
        return self.areas.new_full((self.areas.numel(), 1, *self.lattice.size), value)


class Ascent(Protocol):
    """A way to the best masks."""

    def __call__(self, problem: Problem, steps: int, warm: Tensor | None = None) -> Iterator[Step]:
        """Ascend for the problem's areas, from `warm` parameters `(B · V, 1, *L)` if there are any."""


@dataclass(frozen=True)
class ProjectedAscent:
    r"""Gradient ascent with every iterate put back to its area exactly, while the area shrinks to the wanted one.

    The gradient is divided by its largest entry, so `rate` is the most that a parameter moves in a step before momentum.
    After each step the parameters are shifted by one number and clipped to [0, 1], such that the mask's mean over the
    visible input is the step's area: no penalty, hence no weight to tune.

    The steps are divided into `rounds`. In each the area falls geometrically to the wanted one during the share `approach`
    of its steps, and stays there: in the first from `start`, from a flat mask; in the others from `regrowth` times the
    wanted area, from the best mask so far, so that what it missed can still enter. Of the steps at the wanted area that
    saw the input unmoved, the best is the answer.
    """

    rate: float = 0.1
    momentum: float = 0.5
    start: float = 0.9
    approach: float = 0.5
    rounds: int = 2
    regrowth: float = 4

    def __post_init__(self) -> None:
        check_number("rate", self.rate, "how far a parameter moves in a step", above=0)
        check_number("momentum", self.momentum, "a factor", least=0, below=1)
        check_number("start", self.start, "an area", above=0, below=1)
        check_number("approach", self.approach, "a share of the steps", least=0, below=1)
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise ValueError(f"rounds must be a whole number from 1 up; got {self.rounds!r}")
        check_number("regrowth", self.regrowth, "a multiple of the area", least=1)

    def __call__(self, problem: Problem, steps: int, warm: Tensor | None = None) -> Iterator[Step]:
        """Ascend; from `warm` `(B · V, 1, *L)`, if given, in one round, at the wanted areas at once."""
        wanted = problem.areas.flatten()
        best, best_value = problem.flat(0.5) if warm is None else warm, torch.full_like(wanted, LOWEST)
        first = wanted.clamp(min=self.start) if warm is None else wanted
        index = 0
        for length in self._lengths(steps) if warm is None else [steps]:
            if index:
                first = (self.regrowth * wanted).clamp(max=self.start).maximum(wanted)
            arrival = min(round(self.approach * length), length - 1) if warm is None else 0
            parameters = project(problem.lattice, best, first if arrival else wanted, EXACTLY)
            velocity = torch.zeros_like(parameters)
            for place in range(length):
                progress = min(1.0, place / arrival) if arrival else 1.0
                area = first ** (1 - progress) * wanted**progress
                if place:
                    parameters = project(problem.lattice, parameters + self.rate * velocity, area, problem.near)
                move = next(problem.moves)
                values, gradient = _climb(problem, parameters, move)
                if progress == 1.0 and move.still:
                    better = improves(values, best_value)
                    best_value = torch.where(better, values, best_value)
                    best = torch.where(like(better, best), parameters, best)
                if index == steps - 1:
                    found = best_value > LOWEST
                    best = torch.where(like(found, best), best, parameters)
                    parameters = project(problem.lattice, best, wanted, EXACTLY)
                    values = torch.where(found, best_value, values)
                yield Step(index, steps, parameters, values, area)
                velocity = self.momentum * velocity + _normalised(gradient)
                index += 1

    def _lengths(self, steps: int) -> list[int]:
        """How many steps each round has.

        >>> ProjectedAscent(rounds=3)._lengths(100), ProjectedAscent(rounds=3)._lengths(25)
        ([33, 33, 34], [12, 13])
        """
        rounds = max(1, min(self.rounds, steps // SHORTEST))
        ends = [number * steps // rounds for number in range(rounds + 1)]
        return [end - begin for begin, end in pairwise(ends)]


SHORTEST = 10
"""Steps of a round, at least: fewer steps make fewer rounds."""

LOWEST = torch.finfo(torch.float32).min


def improves(values: Tensor, best: Tensor) -> Tensor:
    """Better by more than a thousandth: else rounding, which differs between batches, would choose among equals."""
    return values > best + 1e-3 * best.abs()


def _normalised(gradient: Tensor) -> Tensor:
    """Each row of `(N, 1, *L)` divided by its largest magnitude."""
    return gradient / like(gradient.abs().flatten(1).amax(1).clamp(min=1e-30), gradient)


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

    def __call__(self, problem: Problem, steps: int, warm: Tensor | None = None) -> Iterator[Step]:
        """Ascend for areas of the canvas; from `warm` `(B · V, 1, *L)`, or from masks that show everything."""
        areas = problem.areas.flatten()
        parameters = (problem.flat(1.0) if warm is None else warm).clone().requires_grad_()
        optimiser = torch.optim.SGD(
            [parameters], lr=self.rate, momentum=self.momentum, dampening=self.dampening, maximize=True
        )
        for index in range(steps):
            canvas = problem.lattice.nodes(parameters)
            masks = problem.lattice.masks(canvas)
            values, gradient = problem.evaluation.gradients(masks, problem.game, next(problem.moves))
            penalty = self.weight(index) * area_penalty(canvas, areas).sum()
            optimiser.zero_grad()
            torch.autograd.backward([masks, -penalty], [gradient, torch.ones_like(penalty)])
            yield Step(index, steps, parameters.detach().clone(), values, areas)
            optimiser.step()
            with torch.no_grad():
                parameters.clamp_(0, 1)


def _climb(problem: Problem, parameters: Tensor, move: Move) -> tuple[Tensor, Tensor]:
    """The game's values `(N,)` and their gradient with respect to the parameters."""
    leaf = parameters.detach().requires_grad_()
    masks = problem.lattice(leaf)
    values, gradient = problem.evaluation.gradients(masks, problem.game, move)
    (gradient,) = torch.autograd.grad(masks, leaf, gradient)
    return values, gradient


NEARLY, EXACTLY = 1e-3, 1e-5
"""How far a mask's area may be off during the ascent at most, and in its answer."""

TRIALS = 24
"""Of a shift, at most; three to five are enough during the ascent."""


def project(lattice: Lattice, parameters: Tensor, areas: Tensor, tolerance: float) -> Tensor:
    """The parameters `(N, 1, *L)` shifted by one number each and clipped to [0, 1], for masks of the given areas `(N,)`.

    The area grows with the shift; its root is bracketed and found by the Illinois variant of regula falsi. The first trial
    within the tolerance counts, so that no row depends on how long another takes.
    """
    # Shifts at which every parameter is clipped to 0, and to 1, and how far the areas are off there.
    low, high = -parameters.flatten(1).amax(1).clamp(min=1), 1 - parameters.flatten(1).amin(1).clamp(max=0)
    below, above = -areas, lattice.everything - areas
    shift, side = torch.zeros_like(areas), torch.zeros_like(areas)
    nearest, gap = shift, torch.full_like(areas, torch.inf)
    for trial in range(TRIALS):
        off = lattice.areas(lattice.nodes((parameters + like(shift, parameters)).clamp(0, 1))) - areas
        # A smooth maximum can fall while weak seeds rise, so there may be two roots: the first found is kept.
        nearer = (off.abs() < gap) & (gap > tolerance)
        nearest, gap = torch.where(nearer, shift, nearest), torch.where(nearer, off.abs(), gap)
        if (gap <= tolerance).all():
            break
        # The end that stays a second time counts half, or it would stay for good.
        too_much = off > 0
        below = torch.where(too_much, torch.where(side > 0, below / 2, below), off)
        above = torch.where(too_much, off, torch.where(side < 0, above / 2, above))
        low, high = torch.where(too_much, low, shift), torch.where(too_much, shift, high)
        side = torch.where(too_much, 1.0, -torch.ones_like(side))
        falsi = low - below * (high - low) / (above - below)
        # Most steps are small: first look twice as far as a slope of one suggests, to bracket the root closely.
        close = shift - 2 * off
        shift = torch.where((close > low) & (close < high), close, falsi) if trial == 0 else falsi
    return (parameters + like(nearest, parameters)).clamp(0, 1)


def like(rows: Tensor, other: Tensor) -> Tensor:
    """`(N,)` with axes of length one appended, to broadcast against `other`."""
    return rows.view(-1, *[1] * (other.ndim - 1))
