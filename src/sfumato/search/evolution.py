r"""Climbing to the best mask of a given area from scores alone, for models without gradients.

An evolution strategy: the gradient of a Gaussian-smoothed objective is estimated from pairs of opposite perturbations
(T. Salimans et al.: *Evolution strategies as a scalable alternative to reinforcement learning*, arXiv 1703.03864, 2017).
Here the perturbations are smooth fields over the mask's lattice, and everything tried is a mask of the step's area.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.search.best import best_of
from sfumato.search.loop import Look, Step, climb
from sfumato.search.problem import Problem
from sfumato.search.schedules import ShrinkingAreas, ShrinkingAscent
from sfumato.settings import check_number, check_seed, check_whole
from sfumato.space.smoothing import TRUNCATE, gaussian_blur


@dataclass(frozen=True)
class EvolutionAscent(ShrinkingAscent):
    r"""Ascent along $g = \sum_k \bigl(v(\bar m + \sigma\epsilon_k) - v(\bar m - \sigma\epsilon_k)\bigr)\,\epsilon_k$.

    $v$ is the game's value of the mask with the given parameters $\bar m$, shifted and clipped to the step's area exactly
    as in `ProjectedAscent`; $\epsilon_k$ are `pairs` Gaussian fields of unit variance, smoothed over `width` nodes of the
    lattice. $g$ is divided by its largest entry and enters a velocity that keeps `momentum` of itself and moves the
    parameters by `rate`. `deviation` is $\sigma$.

    The area falls geometrically from `start` to the wanted one during the share `approach` of the steps and stays there. Of
    all masks tried at the wanted area, the best is the answer. A step takes `evaluations` looks at the model, one fewer than
    that many of them random; a game with both parts takes twice as many.

    Every row of a problem gets the same fields, drawn from `seed`, by default the method's, so that none depends on its
    batch. The problem's moves (its jitter) are not made: each score is that of an answer.
    """

    pairs: int = 5
    width: float = 2.0
    deviation: float = 0.2
    rate: float = 0.05
    momentum: float = 0.9
    approach: float = 0.8
    seed: int | None = None

    def __post_init__(self) -> None:
        check_whole("pairs", self.pairs)
        check_number("width", self.width, "a length in nodes of the lattice", least=0)
        check_number("deviation", self.deviation, "how far parameters are moved to try them", above=0)
        super().__post_init__()
        if self.seed is not None:
            check_seed(self.seed)

    @property
    def evaluations(self) -> int:
        """Of masks, in a step, for each row of the problem."""
        return 2 * self.pairs + 1

    def __call__(self, problem: Problem, steps: int, warm: Float[Tensor, "N 1 *L"] | None = None) -> Iterator[Step]:
        """Ascend; from `warm` `(B · V, 1, *L)`, if given, at the wanted areas at once."""
        generator = torch.Generator("cpu").manual_seed(problem.seed if self.seed is None else self.seed)
        wanted = problem.areas.flatten()
        areas = ShrinkingAreas(wanted, wanted, 0)
        if warm is None:
            areas = ShrinkingAreas.over(steps, self.approach, wanted.clamp(min=self.start), wanted)

        def look(parameters: Float[Tensor, "N 1 *L"], index: int) -> Look:
            fields = self.fields(problem.parametrisation.size, generator).to(parameters)
            tried, values = _tried(problem, parameters, self.deviation * fields, areas(index))
            slope = torch.einsum("nk,k...->n...", _differences(values), fields)
            return Look(values[:, 0], slope, areas(index), areas.arrived(index), tried[:, 1:], values[:, 1:])

        def climb_from(best: Float[Tensor, "N 1 *L"], _: int, length: int) -> Iterator[Step]:
            rule = self.step_rule
            start = problem.exactly(best, areas(0))
            return climb(look, start, length, rule, lambda found, index: problem.projected(found, areas(index)))

        start = problem.start() if warm is None else warm
        return best_of(start, [steps], climb_from, lambda parameters: problem.exactly(parameters, wanted))

    def fields(self, size: Sequence[int], generator: torch.Generator) -> Float[Tensor, "K 1 *L"]:
        """Smooth Gaussian fields `(pairs, 1, *L)` of mean 0 and variance 1 at every node."""
        margin = math.ceil(TRUNCATE * self.width)
        noise = torch.randn(
            self.pairs,
            1,
            *(length + 2 * margin for length in size),
            generator=generator,
            dtype=torch.float32,
            device="cpu",
        )
        fields = gaussian_blur(noise, self.width)
        for axis, length in enumerate(size, start=2):
            fields = fields.narrow(axis, margin, length)
        # A white field's deviation shrinks to the root of the sum of the squared weights, axis by axis.
        spike = torch.zeros(1, 1, 2 * margin + 1, dtype=torch.float32, device="cpu")
        spike[..., margin] = 1
        return fields / gaussian_blur(spike, self.width).square().sum().sqrt() ** len(size)


@torch.no_grad()
def _tried(
    problem: Problem,
    parameters: Float[Tensor, "N 1 *L"],
    moves: Float[Tensor, "K 1 *L"],
    areas: Float[Tensor, " N"],
) -> tuple[Float[Tensor, "N 2*K+1 1 *L"], Float[Tensor, "N 2*K+1"]]:
    """The parameters, and with every move `(K, 1, *L)` added, then taken away, all of the areas: with their values.

    From `(N, 1, *L)` to `(N, 2K + 1, 1, *L)` and `(N, 2K + 1)`; as many at once as go through the model at once.
    """
    moves = torch.cat([torch.zeros_like(moves[:1]), moves, -moves])
    at_once = max(1, problem.evaluation.batch_rows // len(parameters))
    tried, values = [], []
    for some in moves.split(at_once):
        candidates = (parameters[:, None] + some).flatten(0, 1)
        candidates = problem.projected(candidates, areas.repeat_interleave(len(some)))
        query = problem.evaluation.query.repeat_interleave(len(some))
        value = replace(problem.evaluation, query=query).values(problem.parametrisation(candidates), problem.game)
        tried.append(candidates.unflatten(0, (-1, len(some))))
        values.append(value.unflatten(0, (-1, len(some))))
    return torch.cat(tried, 1), torch.cat(values, 1)


def _differences(values: Float[Tensor, "N M"]) -> Float[Tensor, " N (M-1)/2"]:
    """Of the opposite moves' values in `(N, 2K + 1)`, `(N, K)`; zero where they may be rounding, which would be magnified."""
    up, down = values[:, 1:].chunk(2, 1)
    return torch.where((up - down).abs() > 1e-5 * (up.abs() + down.abs()), up - down, 0.0)
