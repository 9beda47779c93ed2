"""Rules of the step: where a gradient leads. Each is a value; what it remembers of earlier steps is handed back to it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sfumato.settings import Settings, check_number, check_whole


class Rule(Protocol):
    """A rule of the step."""

    def __call__(
        self, parameters: Float[Tensor, " N *L"], gradient: Float[Tensor, " N *L"], state: Any, progress: float
    ) -> tuple[Float[Tensor, " N *L"], Any]:
        """The parameters `(N, …)` after a step uphill, and the state to hand over at the next; at first it is `None`.

        `progress` is the share of the steps that are done, in [0, 1).
        """


def by_largest(gradient: Float[Tensor, " N *L"]) -> Float[Tensor, " N *L"]:
    """Each row of `(N, …)` divided by its largest magnitude."""
    return gradient / like(gradient.abs().flatten(1).amax(1).clamp(min=1e-30), gradient)


def by_size(gradient: Float[Tensor, " N *L"]) -> Float[Tensor, " N *L"]:
    """Each row of `(N, …)` divided by its root mean square."""
    flat = gradient.flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)  # so that no square vanishes
    size = flat.square().mean(1, keepdim=True).sqrt().clamp(min=torch.finfo(flat.dtype).tiny)
    return (flat / size).view_as(gradient)


def constant(progress: float) -> float:  # noqa: ARG001  # a schedule
    """1 at every step."""
    return 1.0


def half_cosine(progress: float) -> float:
    """From 1 down to 0 along half a cosine."""
    return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Momentum(Settings):
    """A velocity keeps `momentum` of itself, takes in `share` of the normalised gradient, and moves parameters by `rate`.

    `schedule` gives the factor of the rate by the share of the steps that are done.
    """

    rate: float
    momentum: float
    normalise: Callable[[Float[Tensor, " N *L"]], Float[Tensor, " N *L"]] = by_largest
    share: float = 1.0
    schedule: Callable[[float], float] = constant

    def __call__(
        self, parameters: Float[Tensor, " N *L"], gradient: Float[Tensor, " N *L"], state: Any, progress: float
    ) -> tuple[Float[Tensor, " N *L"], Any]:
        """See `Rule`."""
        velocity = torch.zeros_like(parameters) if state is None else state
        velocity = self.momentum * velocity + self.share * self.normalise(gradient)
        return parameters + self.rate * self.schedule(progress) * velocity, velocity


@dataclass(frozen=True)
class TorchOptimiser(Settings):
    """One of `torch.optim`, made for a list of tensors: `TorchOptimiser(lambda leaves: torch.optim.Adam(leaves, lr=0.1))`."""

    make: Callable[[list[Tensor]], torch.optim.Optimizer]

    def __call__(
        self,
        parameters: Float[Tensor, " N *L"],
        gradient: Float[Tensor, " N *L"],
        state: Any,
        progress: float,  # noqa: ARG002
    ) -> tuple[Float[Tensor, " N *L"], Any]:
        """See `Rule`."""
        if state is None:
            leaf = parameters.detach().clone().requires_grad_()
            state = leaf, self.make([leaf])
        leaf, optimiser = state
        with torch.no_grad():
            leaf.copy_(parameters)
            leaf.grad = -gradient  # torch's optimisers go downhill
        with torch.device("cpu"):  # where they count their steps, whatever the caller's default
            optimiser.step()
        return leaf.detach().clone(), state


@dataclass(frozen=True)
class Backtracking(Settings):
    r"""A line search: of the steps $\alpha, \alpha\eta, \dots$ along the gradient $g$, the first that gains enough.

    Enough is $F(p') - F(p) \ge c \langle g, p' - p \rangle$, where $p'$ is $p + \alpha g$ projected: Armijo's
    $c\,\alpha \lVert g \rVert^2$, without what the projection takes away. Each row has a step of its own.

    - `rate`: the longest step, $\alpha$.
    - `shrink`: $\eta$, the length of a step as a share of the one tried before.
    - `enough`: $c$, a share of what a straight slope would gain.
    - `tries`: the most lengths. The shortest is taken as it is, so each but this one costs an evaluation of the objective.

    Unlike a `Rule` it asks for the objective, so the `Look` of its loop must have `again`.
    """

    rate: float = 8.0
    shrink: float = 0.2
    enough: float = 1e-4
    tries: int = 8

    def __post_init__(self) -> None:
        check_number("rate", self.rate, "the longest step along the gradient", above=0)
        check_number("shrink", self.shrink, "a step as a share of the one before", above=0, below=1)
        check_number("enough", self.enough, "a share of what a straight slope would gain", least=0, below=1)
        check_whole("tries", self.tries, 1)

    def follow(
        self,
        parameters: Float[Tensor, " N *L"],
        values: Float[Tensor, " N"],
        gradient: Float[Tensor, " N *L"],
        again: Callable[[Float[Tensor, " M *L"], Int[Tensor, " M"]], Float[Tensor, " M"]],
        project: Callable[[Float[Tensor, " N *L"]], Float[Tensor, " N *L"]],
    ) -> Float[Tensor, " N *L"]:
        """The projected parameters `(N, …)` after a step uphill.

        `values` `(N,)` are the objective at `parameters`; `again` gives it for other parameters `(M, …)` of the rows that
        `(M,)` names.
        """
        rates = torch.full_like(values, self.rate)
        pending = torch.arange(len(values), dtype=torch.long, device=values.device)
        for _ in range(self.tries - 1):
            following = project(parameters + like(rates, gradient) * gradient)
            slope = (gradient * (following - parameters)).flatten(1).sum(1)[pending]
            gain = again(following[pending], pending) - values[pending]
            pending = pending[(gain < self.enough * slope) & (slope > 0)]  # without a slope, no length moves anything
            if not len(pending):
                return following
            rates[pending] *= self.shrink
        return project(parameters + like(rates, gradient) * gradient)


def like(rows: Shaped[Tensor, " N"], other: Shaped[Tensor, " N *L"]) -> Shaped[Tensor, " N *ones"]:
    """`(N,)` with axes of length one appended, to broadcast against `other`."""
    return rows.view(-1, *[1] * (other.ndim - 1))
