"""The loop of every search and descent here: gradient, step, projection, one step at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from sfumato.search.rules import Backtracking, Rule


class Look(NamedTuple):
    """What is seen at parameters `(N, …)`."""

    values: Float[Tensor, " N"]
    """The objective, which is to grow, `(N,)`."""
    gradient: Float[Tensor, " N *L"]
    """The direction in which it grows, `(N, …)`."""
    areas: Float[Tensor, " N"]
    """Of the masks, `(N,)`: those that they are held to, or have."""
    counts: bool = True
    """Whether this may be the answer: the input is not moved, and the mask has its area."""
    tried: Float[Tensor, "N K *L"] | None = None
    """Other parameters that were looked at, `(N, K, …)`, for a gradient that is estimated from them."""
    tried_values: Float[Tensor, "N K"] | None = None
    """What the objective is for them, `(N, K)`."""
    again: Callable[[Float[Tensor, " M *L"], Int[Tensor, " M"]], Float[Tensor, " M"]] | None = None
    """The objective, `(M,)`, for other parameters `(M, …)` of some rows, which `(M,)` names, with the random numbers of this
    look: for a line search."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a loop. The last one holds the answer."""

    index: int
    """From 0."""
    steps: int
    """How many there will be."""
    parameters: Float[Tensor, " N *L"]
    """`(N, 1, *L)`, the masks' parameters."""
    values: Float[Tensor, " N"]
    """The objective for them, `(N,)`; of the moved input where the step's jitter moved it."""
    areas: Float[Tensor, " N"]
    """The area that they are held to at this step, `(N,)`."""
    following: Float[Tensor, " N *L"] | None = field(default=None, repr=False)
    """Where the step leads, the next one's parameters."""
    look: Look | None = field(default=None, repr=False)
    alternatives: Float[Tensor, "N R *L"] | None = field(default=None, repr=False)
    """In the last step of a loop with restarts: what each of them found, `(N, R, 1, *L)`."""
    order: Float[Tensor, " B *L"] | None = field(default=None, repr=False)
    """In the last step of a search for nested sets: the one field, `(B, 1, *L)`, whose level sets they are."""


@dataclass(frozen=True)
class Stage:
    """Work that an ascent does before its first step, such as looking at windows. It has no masks yet."""

    what: str
    """The work in a few words, such as "looking at windows"."""
    done: int
    """How many of its parts are done, from 0."""
    count: int
    """How many parts there are."""


class AnyStep(Protocol):
    """The fields that all steps have, also those of methods that do not search for masks."""

    @property
    def index(self) -> int:
        """The number of the step, from 0."""
        ...

    @property
    def steps(self) -> int:
        """The number of all steps."""
        ...

    @property
    def values(self) -> Float[Tensor, " N"]:
        """The objective of each mask or query, `(N,)`."""
        ...

    @property
    def areas(self) -> Float[Tensor, " N"]:
        """The area of each mask, `(N,)`; 1 for a method without masks."""
        ...


Progress = Callable[[Any], object]
"""A callback of a method that works in steps: a progress bar, a log, a live picture. It is called with each step, which has the
fields of `AnyStep`. One that has a method `stage` as well, see `StageProgress`, is told what is done before the first step."""


@runtime_checkable
class StageProgress(Protocol):
    """A `Progress` that also shows the work before the first step."""

    def __call__(self, step: Any, /) -> object:
        """See a step."""

    def stage(self, stage: Stage, /) -> object:
        """See how much of a stage is done."""


def climb(
    look: Callable[[Float[Tensor, " N *L"], int], Look],
    parameters: Float[Tensor, " N *L"],
    steps: int,
    rule: Rule | Backtracking,
    project: Callable[[Float[Tensor, " N *L"], int], Float[Tensor, " N *L"]],
) -> Iterator[Step]:
    """Climb from parameters `(N, …)`. They must be projected already: only what follows is projected here.

    `look` sees the objective at parameters at a step of an index from 0; `rule` says where its gradient leads; `project` brings
    that back to what is allowed at the index of the next step. Raises `ValueError` for a line search with looks that have no
    `again`.
    """
    state = None
    for index in range(steps):
        seen = look(parameters, index)
        if isinstance(rule, Backtracking):
            following = _searched(rule, parameters, seen, project, index + 1)
        else:
            following, state = rule(parameters, seen.gradient, state, index / steps)
            following = project(following, index + 1)
        yield Step(index, steps, parameters, seen.values, seen.areas, following, seen)
        parameters = following


def _searched(
    rule: Backtracking,
    parameters: Float[Tensor, " N *L"],
    seen: Look,
    project: Callable[[Float[Tensor, " N *L"], int], Float[Tensor, " N *L"]],
    index: int,
) -> Float[Tensor, " N *L"]:
    """Where a line search leads, projected for the step of this index."""
    if seen.again is None:
        raise ValueError(
            "a line search needs the objective at other parameters, which this search does not give; got rule=Backtracking(). "
            "Take a rule that follows the gradient alone, e.g. rule=Momentum(0.1, 0.5)"
        )
    return rule.follow(parameters, seen.values, seen.gradient, seen.again, lambda moved: project(moved, index))
