r"""What is explained: a scalar $\Phi$ of the model's outputs for every query.

A score maps outputs of `N` evaluations and the index `(N,)` of the query that each belongs to, to `(N,)` numbers. Scores
add, subtract and scale: `Logit(281) - 0.5 * Logit(282)`. Targets are one class for all queries or one per query.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.configuration import PER_QUERY

Target = int | tuple[int, ...]


class Score:
    """Base of all scores."""

    def __call__(self, outputs: Any, query: Tensor) -> Tensor:
        raise NotImplementedError

    def check(self, queries: int) -> None:
        """Raise `ValueError` if this score cannot serve so many queries."""

    def __add__(self, other: "Score") -> "Score":
        return Combined(((1.0, self), (1.0, other)))

    def __sub__(self, other: "Score") -> "Score":
        return Combined(((1.0, self), (-1.0, other)))

    def __mul__(self, weight: float) -> "Score":
        return Combined(((float(weight), self),))

    def __neg__(self) -> "Score":
        return self * -1.0

    __rmul__ = __mul__


@dataclass(frozen=True)
class Combined(Score):
    """A weighted sum of scores."""

    terms: tuple[tuple[float, Score], ...]

    def __call__(self, outputs: Any, query: Tensor) -> Tensor:
        return torch.stack([weight * score(outputs, query) for weight, score in self.terms]).sum(0)

    def check(self, queries: int) -> None:
        for _, score in self.terms:
            score.check(queries)


@dataclass(frozen=True)
class Output(Score):
    """Any function of the model's outputs for `N` evaluations, whatever their type, giving `(N,)`."""

    function: Callable[[Any], Tensor]

    def __call__(self, outputs: Any, query: Tensor) -> Tensor:
        values = self.function(outputs)
        if not isinstance(values, Tensor) or values.shape != query.shape:
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"a score function must return one number per evaluation, a tensor of shape ({len(query)},); got {found}"
            )
        return values


@dataclass(frozen=True)
class OfClass(Score):
    """Base of scores of one class: `target` is its index, or one index per query (a sequence or an integer tensor)."""

    target: Target = field(metadata=PER_QUERY)

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", as_target(self.target))

    def check(self, queries: int) -> None:
        if isinstance(self.target, tuple) and len(self.target) != queries:
            raise ValueError(
                f"got {len(self.target)} targets for {queries} inputs; give one per input, or a single one for all"
            )

    @cached_property
    def _highest(self) -> int:
        return max(self.target) if isinstance(self.target, tuple) else self.target

    def column(self, outputs: Any, query: Tensor, target: Target | None = None) -> Tensor:
        """Each evaluation's class in `outputs` `(N, K, …)`, as an index that `gather(1, …)` takes."""
        logits = class_scores(outputs)
        target = self.target if target is None else target
        highest = self._highest if target is self.target else (max(target) if isinstance(target, tuple) else target)
        if highest >= logits.shape[1]:
            raise ValueError(
                f"target {highest} is out of range: the model has {logits.shape[1]} outputs (0 to {logits.shape[1] - 1})"
            )
        wanted = torch.as_tensor(target, device=logits.device)
        wanted = wanted[query] if wanted.ndim else wanted.expand(len(query))
        return wanted.view(-1, *[1] * (logits.ndim - 1)).expand(-1, 1, *logits.shape[2:])


def class_scores(outputs: Any) -> Tensor:
    """The outputs, if they are a tensor `(N, K, …)`; otherwise a `ValueError` that says how to pick from them."""
    if not isinstance(outputs, Tensor):
        kind = type(outputs).__name__
        keys = f" with keys {', '.join(map(repr, outputs))}" if isinstance(outputs, dict) else ""
        pick = f"outputs[{next(iter(outputs))!r}]" if isinstance(outputs, dict) and outputs else "outputs[0]"
        raise ValueError(
            f"the model returns a {kind}{keys}, not a tensor of class scores; say what to explain with a function of the "
            f"outputs, e.g. targets=Output(lambda outputs: {pick}[:, 281])"
        )
    if outputs.ndim < 2:
        raise ValueError(
            f"the model returns a tensor of shape {tuple(outputs.shape)}, not (N, classes); say what to explain with a "
            "function of the outputs, e.g. targets=Output(lambda outputs: outputs)"
        )
    return outputs.float()


def mean_over_space(values: Tensor) -> Tensor:
    """`(N, 1, …)` to `(N,)`: the outputs of fully convolutional models have places, whose mean counts."""
    return values.flatten(1).mean(1)


def without(logits: Tensor, column: Tensor) -> Tensor:
    """The rivals of each evaluation's class: `(N, K, …)` with minus infinity in that class's place."""
    return logits.scatter(1, column, -torch.inf)


@dataclass(frozen=True)
class Logit(OfClass):
    """The class's own output, before any softmax; its mean over space where the outputs are maps."""

    def __call__(self, outputs: Any, query: Tensor) -> Tensor:
        return mean_over_space(class_scores(outputs).gather(1, self.column(outputs, query)))


@dataclass(frozen=True)
class Probability(OfClass):
    """The class's softmax probability."""

    def __call__(self, outputs: Any, query: Tensor) -> Tensor:
        return mean_over_space(class_scores(outputs).softmax(1).gather(1, self.column(outputs, query)))


@dataclass(frozen=True)
class LogOdds(OfClass):
    r"""The class's logit against all others': $y_c - \log \sum_{c' \neq c} e^{y_{c'}} = \log \frac{p_c}{1 - p_c}$.

    It grows with the softmax probability $p_c$, and does not flatten where that is near 0 or 1.
    """

    def __call__(self, outputs: Any, query: Tensor) -> Tensor:
        logits = class_scores(outputs)
        column = self.column(outputs, query)
        rivals = without(logits, column).logsumexp(1, keepdim=True)
        return mean_over_space(logits.gather(1, column) - rivals)


@dataclass(frozen=True)
class Contrastive(OfClass):
    r"""The class's logit less its rival's: $y_c - \max_{c' \neq c} y_{c'}$, or $y_c - y_{\mathrm{against}}$."""

    against: Target | None = field(default=None, metadata=PER_QUERY)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.against is not None:
            object.__setattr__(self, "against", as_target(self.against))

    def check(self, queries: int) -> None:
        super().check(queries)
        if isinstance(self.against, tuple) and len(self.against) != queries:
            raise ValueError(
                f"got {len(self.against)} classes to contrast with for {queries} inputs; give one per input"
            )

    def __call__(self, outputs: Any, query: Tensor) -> Tensor:
        logits = class_scores(outputs)
        column = self.column(outputs, query)
        if self.against is None:
            rival = without(logits, column).amax(1, keepdim=True)
        else:
            rival = logits.gather(1, self.column(outputs, query, self.against))
        return mean_over_space(logits.gather(1, column) - rival)


def as_target(target: Any) -> Target:
    """A class index, or a tuple of them, from an int, a sequence or an integer tensor."""
    if isinstance(target, np.ndarray | np.integer):
        target = torch.as_tensor(target)
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool or target.ndim > 1:
            raise ValueError(
                f"targets must be integers of shape () or (B,); got {target.dtype} of shape {tuple(target.shape)}"
            )
        target = target.tolist()
    if isinstance(target, bool) or not isinstance(target, int | Sequence) or isinstance(target, str):
        raise ValueError(
            f"a target is a class index, one per input, a Score or a function of the outputs; got {target!r}"
        )
    for index in target if isinstance(target, Sequence) else (target,):
        if isinstance(index, bool) or not isinstance(index, int):
            raise ValueError(f"a target is an integer class index; got {index!r}")
        if index < 0:
            raise ValueError(f"a target is a class index from 0 up; got {index}")
    return tuple(target) if isinstance(target, Sequence) else target


OF_A_CLASS: Mapping[str, type[OfClass]] = {
    "logit": Logit,
    "probability": Probability,
    "log-odds": LogOdds,
}
"""What a class index may mean, by its name."""


def check_meaning(score: Any) -> None:
    """Raise `ValueError` unless it names what a class index may mean."""
    if not isinstance(score, str) or score not in OF_A_CLASS:
        raise ValueError(f"score must be one of {', '.join(OF_A_CLASS)}; got {score!r}")


def as_score(targets: Any, queries: int, meaning: str = "logit") -> Score:
    """The score that `targets` means, for so many queries.

    A class index, one per query, or a tensor `(B,)` of them mean the `meaning` of `OF_A_CLASS`; a `Score` means itself; any
    other callable is a function of the model's outputs.
    """
    if isinstance(targets, Score):
        score = targets
    elif callable(targets):
        score = Output(targets)
    else:
        score = OF_A_CLASS[meaning](targets)
    score.check(queries)
    return score
