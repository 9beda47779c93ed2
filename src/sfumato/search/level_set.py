"""Gradient ascent on the outlines of sets, while their area shrinks and their edges sharpen."""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.masks.level_set import LevelSets
from sfumato.masks.parts import check_places
from sfumato.search.loop import Look, Stage, Step, climb
from sfumato.search.problem import Problem
from sfumato.search.pruning import Pruning
from sfumato.search.rules import like
from sfumato.search.schedules import AreaPath, ShrinkingAscent
from sfumato.search.windows import Windows
from sfumato.settings import check_number, check_whole

SHORTEST = 15
"""Steps for each area that a restart has, at least: fewer steps make fewer restarts."""


@dataclass(frozen=True)
class LevelSetAscent(ShrinkingAscent):
    r"""Ascent from nearly everything to sets of the wanted areas, for masks of the family `LevelSet`.

    At each step the mask is a ramp $\mathrm{clip}(\tfrac12 + k\,(f - \tfrac12), 0, 1)$ of a smooth field $f$, with a
    shift of the field that gives it the step's area exactly. A path begins with all places and gives up those that matter
    least: the area falls geometrically from `start` through all wanted ones, the largest first, and rests at each of them;
    `approach` is the share of the steps in which it falls. All restarts begin with the field that `windows` give, and while the
    area falls they are drawn to it (see `Windows`); or they begin with a flat one (`None`). With the area the slope $k$ grows
    from 1 to `sharpness`, and it has this value at all rests. Where edges are sharp, only outlines move, and half-transparent
    places do not carry the score.

    The gradient is divided by its largest entry and enters a velocity that keeps `momentum` of itself and moves the
    parameters by `rate`. What a path finds for an area is the mean of its fields at the rest: single steps wander among sets
    that do equally well; the set of their mean does better than the last one. For the same reason there are several
    `restarts`, which see other moves of the input: a last run, the share `refinement` of all steps, begins for each area from
    the mean of what they found, and stays there. Where nothing moves, as at a layer, they would be equal: there is one. Of
    several perturbations, a step sees one: each for two steps, as every second step's input is not moved.

    A path can only give up places, and loses those that do harm while the rest is seen, though they suffice alone. So where the
    set of the windows' field is better than that of the restarts' mean, the last run begins there.

    Where the set of one restart is much better than the last run's, it is the answer: better by more than `margin`, a share of
    the difference between the game's values of the whole input and of the hidden one. In the end, parts that do not matter are
    given up, see `Pruning`, or `None` for all parts.

    `steps` is the budget of one mask, in passes of one input. The last run takes the share `refinement` of it. R restarts share
    the rest of all V masks: a path has V / R times the remaining steps. 150 steps and three areas give three paths of 90. The
    windows come on top.

    How to choose: leave the defaults, and change the number of steps of the method first.

    - `restarts`: 1 for one long path, without `result.agreement`. Restarts need 15 steps for each area; with fewer steps there
      are fewer restarts.
    - `pruning`: `None` to keep parts that do not matter, so that all of the area is used.
    - `windows`: `None` to save the passes that they take on top of the steps.
    - `refinement`: 0 for no last run. The answer is then the mean of the restarts, which keeps less where they differ.
    """

    rate: float = 0.05
    approach: float = 0.7
    sharpness: float = 16
    restarts: int = 3
    refinement: float = 0.4
    margin: float = 0.25
    pruning: Pruning | None = Pruning()
    windows: Windows | None = Windows()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sharpness", self.sharpness, "the slope of an edge", least=1)
        check_whole("restarts", self.restarts)
        check_number("refinement", self.refinement, "a share of the steps", least=0, below=1)
        check_number("margin", self.margin, "a share of a difference between scores", least=0)
        if not (self.pruning is None or isinstance(self.pruning, Pruning)):
            raise ValueError(f"pruning must be Pruning(), or None for all parts; got {self.pruning!r}")
        if not (self.windows is None or isinstance(self.windows, Windows)):
            raise ValueError(f"windows must be Windows(), or None to begin with a flat field; got {self.windows!r}")

    @property
    def fewest(self) -> int | None:
        """With how many steps a search has restarts to compare; `None` if it never has."""
        return math.ceil(2 * SHORTEST / (1 - self.refinement)) if self.restarts > 1 and self.refinement else None

    def __call__(
        self, problem: Problem, steps: int, warm: Float[Tensor, "N 1 *L"] | None = None
    ) -> Iterator[Step | Stage]:
        """Ascend; from `warm` `(B · V, 1, *L)`, if given, by a last run only."""
        sets = problem.parametrisation
        if not isinstance(sets, LevelSets):
            raise TypeError(f"LevelSetAscent goes with masks of the family LevelSet; got {sets.family!r}")
        if self.pruning:
            check_places(math.prod(sets.shape))  # now, not after all steps
        ascent = replace(self, restarts=1) if problem.still else self
        count, path, last = ascent._lengths(steps, problem.areas.shape[1]) if warm is None else (0, 0, steps)
        found = None
        if warm is None:
            begin, pull = yield from self._begin(problem, sets)
            found = yield from self._descend(problem, sets, begin, pull, count, path, path + last)
            warm = (
                self._start_of_last_run(problem, sets, found.mean(1), begin) if self.windows and last else found.mean(1)
            )
        if last:
            yield from self._stay(problem, sets, warm, found, path, last)

    def _begin(
        self, problem: Problem, sets: LevelSets
    ) -> Generator[Stage, None, tuple[Float[Tensor, "B 1 *L"], Float[Tensor, "B 1 *L"]]]:
        """Return the field from which all restarts of a query begin, `(B, 1, *L)`, and what draws them to it, see `Windows`."""
        if self.windows:
            return (yield from self.windows(problem))
        flat = sets.start().expand(len(problem.areas), *[-1] * (len(sets.size) + 1))
        return flat, torch.zeros_like(flat)

    def _start_of_last_run(
        self,
        problem: Problem,
        sets: LevelSets,
        mean: Float[Tensor, "N 1 *L"],
        begin: Float[Tensor, "B 1 *L"],
    ) -> Float[Tensor, "N 1 *L"]:
        """From where the last run begins: the mean of what the restarts found, or the first field where its set is better."""
        areas = problem.areas.flatten()
        first = sets.settled(begin.repeat_interleave(problem.areas.shape[1], 0), areas)
        better = problem.values(first) > problem.values(sets.settled(mean, areas))
        return torch.where(like(better, first), first, mean)

    def _descend(
        self,
        problem: Problem,
        sets: LevelSets,
        begin: Float[Tensor, "B 1 *L"],
        pull: Float[Tensor, "B 1 *L"],
        count: int,
        length: int,
        steps: int,
    ) -> Generator[Step, None, Float[Tensor, "N R 1 *L"]]:
        """The steps of all restarts along the path of areas from `begin`; returns what they found, `(B · V, R, 1, *L)`."""
        queries, variants = problem.areas.shape
        path = AreaPath.over(length, self.approach, self.start, problem.areas.repeat(count, 1))
        query = problem.queries.query.repeat(count)  # rows in the order of restart, then query
        grouped = replace(problem, evaluation=replace(problem.evaluation, query=query), groups=count)
        begin, pull = (rows.repeat(count, *[1] * (rows.ndim - 1)) for rows in (begin, pull))

        def look(parameters: Float[Tensor, "N 1 *L"], index: int) -> Look:
            place = path.at(index)
            ramps = replace(grouped, parametrisation=sets.at(self.sharpness**place.progress))
            return ramps.look(parameters, place.areas, index // 2)

        def project(parameters: Float[Tensor, "N 1 *L"], index: int) -> Float[Tensor, "N 1 *L"]:
            place = path.at(index)
            ramps = replace(grouped, parametrisation=sets.at(self.sharpness**place.progress))
            return ramps.projected(parameters + (1 - place.progress) * pull, place.areas)

        def rows_by_query(rows: Float[Tensor, "N ..."]) -> Float[Tensor, "B V R ..."]:
            return rows.unflatten(0, (count, queries)).movedim(0, 1)[:, None].expand(-1, variants, *[-1] * rows.ndim)

        start = project(begin - (1 - path.at(0).progress) * pull, 0)  # nothing pulls before the first step
        found, values = rows_by_query(start).clone(), problem.areas.new_zeros(problem.areas.shape)
        areas = problem.areas.clone()
        sums, counts = torch.zeros_like(found), [0] * variants
        for step in climb(look, start, length, self.step_rule, project):
            column = path.at(step.index).column
            here = rows_by_query(step.parameters)
            if column is not None:
                sums[:, column] += here[:, column]
                counts[column] += 1
            for area_index in range(variants):  # smaller areas are still on the way
                if counts[area_index] == 0 or area_index == column:
                    found[:, area_index] = (
                        sums[:, area_index] / counts[area_index] if counts[area_index] else here[:, area_index]
                    )
                    values[:, area_index] = step.values.view(count, queries).mean(0)
                    areas[:, area_index] = step.areas[:queries]
            final = step.index == steps - 1
            parameters = found.mean(2).flatten(0, 1)
            yield replace(
                step,
                steps=steps,
                parameters=self._answer(problem, sets, parameters) if final else parameters,
                values=values.flatten().clone(),
                areas=areas.flatten().clone(),
                following=None,  # and what was seen: they are of the restarts' rows
                look=None,
            )
        return found.flatten(0, 1)

    def _stay(
        self,
        problem: Problem,
        sets: LevelSets,
        begin: Float[Tensor, "N 1 *L"],
        fields: Float[Tensor, "N R 1 *L"] | None,
        done: int,
        length: int,
    ) -> Iterator[Step]:
        """The steps at the wanted areas from `begin` `(B · V, 1, *L)`, after those that are `done`.

        The last one holds the set of their mean.
        """
        wanted = problem.areas.flatten()
        ramps = replace(problem, parametrisation=sets.at(self.sharpness))

        def look(parameters: Float[Tensor, "N 1 *L"], index: int) -> Look:
            return ramps.look(parameters, wanted, index // 2)

        def project(parameters: Float[Tensor, "N 1 *L"], _: int) -> Float[Tensor, "N 1 *L"]:
            return ramps.projected(parameters, wanted)

        total = torch.zeros_like(begin)
        for step in climb(look, project(begin, 0), length, self.step_rule, project):
            total = total + step.parameters
            numbered = replace(step, index=done + step.index, steps=done + length)
            if step.index == length - 1:
                runs = [] if fields is None else [sets.settled(run, wanted) for run in fields.unbind(1)]
                numbered = replace(
                    numbered,
                    parameters=self._answer(problem, sets, total / length, runs),
                    alternatives=torch.stack(runs, 1) if len(runs) > 1 else None,
                )
            yield numbered

    def _answer(
        self,
        problem: Problem,
        sets: LevelSets,
        mean: Float[Tensor, "N 1 *L"],
        runs: Sequence[Float[Tensor, "N 1 *L"]] = (),
    ) -> Float[Tensor, "N 1 *L"]:
        """The set of a mean of fields, or that of a run where it is much better, without parts that do not matter."""
        parameters = sets.settled(mean, problem.areas.flatten())
        if runs:
            whole, hidden = problem.bounds
            least = problem.values(parameters) + self.margin * (whole - hidden).abs()
            for run in runs:
                values = problem.values(run)
                parameters = torch.where(like(values > least, run), run, parameters)
                least = least.maximum(values)
        return self.pruning(problem, parameters) if self.pruning else parameters

    def _lengths(self, steps: int, areas: int) -> tuple[int, int, int]:
        """How many restarts there are, and how many steps the path and the last run have, for so many areas.

        >>> LevelSetAscent()._lengths(150, 3), LevelSetAscent()._lengths(150, 1), LevelSetAscent()._lengths(30, 1)
        ((3, 90, 60), (3, 30, 60), (1, 18, 12))
        """
        last = round(self.refinement * steps)
        if last == 0:
            return 1, steps * areas, 0
        count = max(1, min(self.restarts, (steps - last) // SHORTEST))
        return count, max(1, (steps - last) * areas // count), last
