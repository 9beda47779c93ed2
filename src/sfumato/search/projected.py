"""Gradient ascent with every mask put back to its area."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sfumato.search.best import best_of
from sfumato.search.loop import Look, Step, climb
from sfumato.search.problem import Problem
from sfumato.search.schedules import ShrinkingAreas, ShrinkingAscent, split_steps
from sfumato.settings import check_number, check_whole


@dataclass(frozen=True)
class ProjectedAscent(ShrinkingAscent):
    r"""Gradient ascent with every iterate put back to its area exactly, while the area shrinks to the wanted one.

    The gradient is divided by its largest entry, so `rate` is the most that a parameter moves in a step before momentum.
    After each step the parameters are shifted by one number and clipped to [0, 1], such that the mask's mean over the
    visible input is the step's area: no penalty, hence no weight to tune.

    The steps are divided into `rounds`. In each the area falls geometrically to the wanted one during the share `approach`
    of its steps, and stays there: in the first from `start`, from a flat mask; in the others from `regrowth` times the
    wanted area, from the best mask so far, so that what it missed can still enter. Of the steps at the wanted area that
    saw the input unmoved, the best is the answer.
    """

    rounds: int = 2
    regrowth: float = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("rounds", self.rounds)
        check_number("regrowth", self.regrowth, "a multiple of the area", least=1)

    def __call__(self, problem: Problem, steps: int, warm: Float[Tensor, "N 1 *L"] | None = None) -> Iterator[Step]:
        """Ascend; from `warm` `(B · V, 1, *L)`, if given, in one round, at the wanted areas at once."""
        wanted = problem.areas.flatten()
        rule = self.step_rule

        def climb_from(best: Float[Tensor, "N 1 *L"], number: int, length: int) -> Iterator[Step]:
            areas = ShrinkingAreas(wanted, wanted, 0)
            if warm is None:
                first = (self.regrowth * wanted).clamp(max=self.start).maximum(wanted)
                first = first if number else wanted.clamp(min=self.start)
                areas = ShrinkingAreas.over(length, self.approach, first, wanted)

            def look(parameters: Float[Tensor, "N 1 *L"], index: int) -> Look:
                seen = problem.look(parameters, areas(index))
                return seen._replace(counts=seen.counts and areas.arrived(index))

            def project(parameters: Float[Tensor, "N 1 *L"], index: int) -> Float[Tensor, "N 1 *L"]:
                return problem.projected(parameters, areas(index))

            return climb(look, problem.exactly(best, areas(0)), length, rule, project)

        lengths = self._lengths(steps) if warm is None else [steps]
        start = problem.start() if warm is None else warm
        return best_of(start, lengths, climb_from, lambda parameters: problem.exactly(parameters, wanted))

    def _lengths(self, steps: int) -> list[int]:
        """How many steps each round has.

        >>> ProjectedAscent(rounds=3)._lengths(100), ProjectedAscent(rounds=3)._lengths(25)
        ([33, 33, 34], [12, 13])
        """
        rounds = max(1, min(self.rounds, steps // SHORTEST))
        return split_steps(steps, rounds)


SHORTEST = 10
"""Steps of a round, at least: fewer steps make fewer rounds."""
