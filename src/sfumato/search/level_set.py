"""Gradient ascent on the outlines of sets, while their area shrinks and their edges sharpen."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from sfumato.masks.level_set import LevelSets
from sfumato.search.consensus import consensus
from sfumato.search.loop import Look, Step, climb
from sfumato.search.problem import Problem
from sfumato.search.rules import Momentum
from sfumato.search.schedules import ShrinkingAreas, ShrinkingAscent, split_steps
from sfumato.settings import check_number, check_whole


@dataclass(frozen=True)
class LevelSetAscent(ShrinkingAscent):
    r"""Ascent from nearly everything to a set of the wanted area, for masks of the family `LevelSet`.

    At each step the mask is a ramp $\mathrm{clip}(\tfrac12 + k\,(f - \tfrac12), 0, 1)$ of a smooth field $f$, with a
    shift of the field that gives it the step's area exactly. In the first share `approach` of a run's steps the area
    falls geometrically from `start` to the wanted one, and the slope $k$ grows from 1 to `sharpness`. So a run begins
    with all places and gives up those that matter least; where edges are sharp, only outlines move, and no
    half-transparent places carry the score.

    The gradient is divided by its largest entry and enters a velocity that keeps `momentum` of itself and moves the
    parameters by `rate`. A run's result is the mean of its fields at the wanted area: single steps wander among sets
    that do equally well; the set of their mean does better than the last one. For the same reason there are several
    `restarts`, which see other moves of the input: a last run, the share `refinement` of all steps, begins from the
    mean of their fields and stays at the wanted area. Of several perturbations, a step sees one: each for two steps, as every
    second step's input is not moved.
    """

    rate: float = 0.05
    approach: float = 0.7
    sharpness: float = 16
    restarts: int = 3
    refinement: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sharpness", self.sharpness, "the slope of an edge", least=1)
        check_whole("restarts", self.restarts)
        check_number("refinement", self.refinement, "a share of the steps", least=0, below=1)

    def __call__(self, problem: Problem, steps: int, warm: Float[Tensor, "N 1 *L"] | None = None) -> Iterator[Step]:
        """Ascend; from `warm` `(B · V, 1, *L)`, if given, by a last run only."""
        sets = problem.lattice
        if not isinstance(sets, LevelSets):
            raise TypeError(f"LevelSetAscent goes with masks of the family LevelSet; got {sets.family!r}")
        wanted = problem.areas.flatten()
        lengths = self._lengths(steps) if warm is None else [steps]
        refines = warm is not None or len(lengths) > 1

        def climb_from(begin: Float[Tensor, "N 1 *L"], number: int, length: int) -> Iterator[Step]:
            areas = ShrinkingAreas.over(length, self.approach, wanted.clamp(min=self.start), wanted)
            if refines and number == len(lengths) - 1:
                areas = ShrinkingAreas(wanted, wanted, 0)

            def ramps(index: int) -> Problem:
                return replace(problem, lattice=sets.at(self.sharpness ** areas.progress(index)))

            def look(parameters: Float[Tensor, "N 1 *L"], index: int) -> Look:
                return ramps(index).look(parameters, areas(index), index // 2)._replace(counts=areas.arrived(index))

            def project(parameters: Float[Tensor, "N 1 *L"], index: int) -> Float[Tensor, "N 1 *L"]:
                return ramps(index).projected(parameters, areas(index))

            return climb(look, project(begin, 0), length, Momentum(self.rate, self.momentum), project)

        start = sets.start().expand(len(wanted), *[-1] * (len(sets.size) + 1)) if warm is None else warm
        return consensus(start, lengths, climb_from, lambda mean: sets.settled(mean, wanted))

    def _lengths(self, steps: int) -> list[int]:
        """How many steps each run has: the restarts, and the last one from their mean.

        >>> LevelSetAscent()._lengths(150), LevelSetAscent()._lengths(30)
        ([40, 40, 40, 30], [30])
        """
        last = round(self.refinement * steps)
        restarts = min(self.restarts, (steps - last) // SHORTEST)
        if restarts < 2 or last == 0:
            return [steps]
        return [*split_steps(steps - last, restarts), last]


SHORTEST = 20
"""Steps of a restart, at least: fewer steps make fewer restarts."""
