"""Numbers that change during an optimisation, as functions of the step, and the bases of ascents."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.search.rules import Momentum, Rule
from sfumato.settings import Settings, check_number


@dataclass(frozen=True)
class Geometric(Settings):
    """`start · ratio**step`, with `step` counted from 0."""

    start: float
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.start <= 0 or self.ratio <= 0:
            raise ValueError(f"start and ratio must be positive; got start={self.start}, ratio={self.ratio}")

    def __call__(self, step: int) -> float:
        return self.start * self.ratio**step


@dataclass(frozen=True, eq=False)
class ShrinkingAreas(Settings):
    """Areas `(N,)` that fall geometrically from `first` to `wanted` in the first `arrival` steps, and then stay there."""

    first: Float[Tensor, " N"]
    wanted: Float[Tensor, " N"]
    arrival: int

    @classmethod
    def over(
        cls, steps: int, approach: float, first: Float[Tensor, " N"], wanted: Float[Tensor, " N"]
    ) -> "ShrinkingAreas":
        """For so many steps, of which `approach` is the share in which areas fall; the last step is at the wanted area."""
        return cls(first, wanted, min(round(approach * steps), steps - 1))

    def __call__(self, step: int) -> Float[Tensor, " N"]:
        """The areas at a step, counted from 0."""
        progress = self.progress(step)
        return self.first ** (1 - progress) * self.wanted**progress

    def progress(self, step: int) -> float:
        """The share of the way to the wanted areas at a step, counted from 0, in [0, 1]."""
        return min(1.0, step / self.arrival) if self.arrival else 1.0

    def arrived(self, step: int) -> bool:
        """Whether the areas at a step are the wanted ones."""
        return step >= self.arrival


@dataclass(frozen=True, eq=False)
class AreaPath(Settings):
    """Areas `(N,)` that fall from `first` through the wanted ones `(N, V)`, the largest first, and rest at each of them.

    The logarithm of the area falls by equal parts in all steps that do not rest.
    """

    first: Float[Tensor, " N"]
    wanted: Float[Tensor, "N V"]
    falls: tuple[int, ...]
    """The steps of each fall."""
    rest: int
    """The steps of each rest."""

    @classmethod
    def over(cls, steps: int, approach: float, first: float, wanted: Float[Tensor, "N V"]) -> "AreaPath":
        """For so many steps, of which `approach` is the share in which areas fall; at least one step rests at each area."""
        count = wanted.shape[1]
        largest = wanted.amax(1)
        begin = torch.where(largest < first, first, (1 + largest) / 2)
        rest = max(1, min(round((1 - approach) * steps / count), steps // count))
        heights = torch.cat([begin[:, None], wanted.flip(1)], 1).log().mean(0).cpu()
        falling = max(0, steps - rest * count)
        share = (heights[0] - heights[1:]) / (heights[0] - heights[-1]).clamp(min=1e-9)
        ends = (falling * share.clamp(min=LEAST_FALL)).round().long().tolist()
        return cls(begin, wanted, tuple(end - before for before, end in pairwise([0, *ends])), rest)

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return sum(self.falls) + self.rest * len(self.falls)

    def at(self, step: int) -> "Place":
        """The place at a step, counted from 0; after the last step, the last one."""
        goal, above, fallen, column = self.first, self.first, 0, 0
        for column, fall in zip(reversed(range(self.wanted.shape[1])), self.falls, strict=True):
            goal = self.wanted[:, column]
            if step < fall:
                part = step / fall
                return Place(above ** (1 - part) * goal**part, (fallen + step) / sum(self.falls), None)
            step, fallen, above = step - fall, fallen + fall, goal
            if step < self.rest:
                break
            step -= self.rest
        return Place(goal, 1.0, column)


LEAST_FALL = 0.25
"""The share of all falling steps that the first fall has at least, however large the largest area is: edges sharpen in it."""


class Place(NamedTuple):
    """Where an `AreaPath` is at a step."""

    areas: Float[Tensor, " N"]
    progress: float
    """The share of the way; 1 also at each rest."""
    column: int | None
    """Of the wanted areas, where the path rests at them."""


def split_steps(steps: int, count: int) -> list[int]:
    """So many steps in parts of nearly equal length.

    >>> split_steps(100, 3)
    [33, 33, 34]
    """
    ends = [number * steps // count for number in range(count + 1)]
    return [end - begin for begin, end in pairwise(ends)]


@dataclass(frozen=True)
class GradientAscent(Settings):
    """The settings of ascents along a gradient.

    - `rate`: the most that a parameter moves in a step, before momentum.
    - `momentum`: the share of the velocity that stays from step to step.
    - `rule`: the rule of the step, in place of `Momentum(rate, momentum)`; see `sfumato.search.rules`.
    """

    rate: float = 0.1
    momentum: float = 0.5
    rule: Rule | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_number("rate", self.rate, "how far a parameter moves in a step", above=0)
        check_number("momentum", self.momentum, "a factor", least=0, below=1)
        if self.rule is not None and (isinstance(self.rule, type) or not callable(self.rule)):
            raise ValueError(f"rule must be a rule of the step such as Momentum(0.1, 0.5); got {self.rule!r}")

    @property
    def step_rule(self) -> Rule:
        """Where a gradient leads."""
        return self.rule or Momentum(self.rate, self.momentum)


@dataclass(frozen=True)
class ShrinkingAscent(GradientAscent):
    """The settings of ascents whose areas shrink while the parameters climb: of every `GradientAscent`, and two more.

    - `start`: the first area.
    - `approach`: the share of the steps in which the area falls to the wanted one.
    """

    start: float = 0.9
    approach: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("start", self.start, "an area", above=0, below=1)
        check_number("approach", self.approach, "a share of the steps", least=0, below=1)
