"""Scores of a class: its logit, its probability, its log-odds, and its contrast with rivals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.scores.link import AUTO, SIGMOID, check_link, link_of
from sfumato.scores.score import Combined, Output, PlaceScore, Score, class_scores, two_classes
from sfumato.settings import PER_QUERY, is_whole

Target = int | tuple[int, ...]


@dataclass(frozen=True)
class OfClass(PlaceScore):
    """Base of scores of one class: `target` is its index, or one index per query (a sequence or an integer tensor)."""

    target: Target = field(metadata=PER_QUERY)

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", as_target(self.target))

    def check(self, queries: int) -> None:
        if isinstance(self.target, tuple) and len(self.target) != queries:
            raise ValueError(
                f"got {len(self.target)} targets for {queries} inputs; give one per input, or a single one for all"
            )

    def column(self, outputs: Any, query: Int[Tensor, " N"], target: Target | None = None) -> Int[Tensor, "N 1 *P"]:
        """Each evaluation's class in `outputs`, as an index that `gather(1, …)` takes.

        Raises `ValueError` where there is no such class, or not one row for each of the `N` evaluations.
        """
        logits = class_scores(outputs, len(query))
        target = self.target if target is None else target
        highest = int(np.max(target))
        if highest >= logits.shape[1]:
            raise ValueError(_out_of_range(highest, logits.shape[1]))
        wanted = torch.as_tensor(target, dtype=torch.long, device=logits.device)
        wanted = wanted[query] if wanted.ndim else wanted.expand(len(query))
        return wanted.view(-1, *[1] * (logits.ndim - 1)).expand(-1, 1, *logits.shape[2:])

    def logits(self, outputs: Any, query: Int[Tensor, " N"], target: Target | None = None) -> Float[Tensor, "N K *P"]:
        """The logits of two classes or more: those of one output $z$ are $z$ and 0.

        Raises `ValueError` where the highest class, or the highest of `target`, is none of the two.
        """
        logits = class_scores(outputs, len(query))
        if logits.shape[1] != 1:
            return logits
        highest = int(max(np.max(self.target), 0 if target is None else np.max(target)))
        if highest > 1:
            raise ValueError(f"target {highest} is out of range: {ONE_OUTPUT}")
        return two_classes(logits)


ONE_OUTPUT = (
    "the model has one output per input; class 0 is that output, with the probability sigmoid(output), and class 1 its "
    "complement"
)


def _out_of_range(target: int, classes: int) -> str:
    if classes == 1:
        remedy = ". For the complement write targets=-Logit(0), Probability(1) or LogOdds(1)" if target == 1 else ""
        return f"target {target} is out of range: {ONE_OUTPUT}{remedy}"
    return f"target {target} is out of range: the model has {classes} outputs (0 to {classes - 1})"


def without(logits: Float[Tensor, "N K *P"], column: Int[Tensor, "N 1 *P"]) -> Float[Tensor, "N K *P"]:
    """The rivals of each evaluation's class: the logits with minus infinity in that class's place."""
    return logits.scatter(1, column, -torch.inf)


@dataclass(frozen=True)
class Logit(OfClass):
    """The class's own output, before any softmax or sigmoid; its mean over space where the outputs are maps.

    A model with one output has `Logit(0)` alone; `-Logit(0)` is for the complement.
    """

    def at_places(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:
        return class_scores(outputs, len(query)).gather(1, self.column(outputs, query))


@dataclass(frozen=True)
class Sigmoid(OfClass):
    r"""The class's own probability, whatever the others have: $\sigma(y_c) = 1 / (1 + e^{-y_c})$.

    For networks trained to say yes or no to each of several classes, and those with one output $z$, whose class 0 has
    $\sigma(z)$ and class 1 the complement $1 - \sigma(z)$.
    """

    def at_places(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:
        return _own_log_odds(self, outputs, query).sigmoid()


@dataclass(frozen=True)
class Linked(OfClass):
    """Base of scores of a class's probability; `link`, of `LINKS`, says how probabilities are made of the outputs."""

    link: str = AUTO

    def __post_init__(self) -> None:
        super().__post_init__()
        check_link(self.link)

    def resolve(self, outputs: Any) -> "Linked":
        return replace(self, link=link_of(self.link, class_scores(outputs).shape[1]))


@dataclass(frozen=True)
class Probability(Linked):
    """The class's probability: its softmax, or with `link="sigmoid"` its own sigmoid.

    Give `link="sigmoid"` for a head of several labels, each with a yes or no of its own. By default, "auto", it is the
    softmax, and for a model with one output the sigmoid: class 0 has that, and class 1 its complement.
    """

    def at_places(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:
        logits = class_scores(outputs, len(query))
        if link_of(self.link, logits.shape[1]) == SIGMOID:
            return _own_log_odds(self, logits, query).sigmoid()
        return logits.softmax(1).gather(1, self.column(logits, query))


@dataclass(frozen=True)
class LogOdds(Linked):
    r"""The class's logit against all others': $y_c - \log \sum_{c' \neq c} e^{y_{c'}} = \log \frac{p_c}{1 - p_c}$.

    It grows with the softmax probability $p_c$, and does not flatten where that is near 0 or 1. With `link="sigmoid"`, for a
    head of several labels, $p_c$ is the class's own sigmoid, and its log-odds are the logit $y_c$ itself. So they are for a
    model with one output $z$: $z$ for class 0, and $-z$ for class 1.
    """

    def at_places(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:
        logits = class_scores(outputs, len(query))
        if link_of(self.link, logits.shape[1]) == SIGMOID:
            return _own_log_odds(self, logits, query)
        column = self.column(logits, query)
        rivals = without(logits, column).logsumexp(1, keepdim=True)
        return logits.gather(1, column) - rivals


def _own_log_odds(score: OfClass, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:
    """`(N, 1, …)`: the class's logit; of one output $z$, $z$ for class 0 and $-z$ for class 1."""
    logits = class_scores(outputs, len(query))
    if logits.shape[1] == 1:
        logits = score.logits(logits, query)
        column = score.column(logits, query)
        return logits.gather(1, column) - logits.gather(1, 1 - column)
    return logits.gather(1, score.column(logits, query))


@dataclass(frozen=True)
class Contrastive(OfClass):
    r"""The class's logit less its rival's: $y_c - \max_{c' \neq c} y_{c'}$, or $y_c - y_{\mathrm{against}}$.

    Of a model with one output $z$ the two classes have the logits $z$ and 0: the contrast is $z$ for class 0, $-z$ for class 1.
    """

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

    def at_places(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:
        logits = self.logits(outputs, query, self.against)
        column = self.column(logits, query)
        if self.against is None:
            rival = without(logits, column).amax(1, keepdim=True)
        else:
            rival = logits.gather(1, self.column(logits, query, self.against))
        return logits.gather(1, column) - rival


def as_target(target: Any) -> Target:
    """A class index, or a tuple of them, from an int, a sequence or an integer tensor."""
    if isinstance(target, np.ndarray | np.integer):
        target = torch.from_numpy(np.array(target))
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool or target.ndim > 1:
            raise ValueError(
                f"targets must be integers of shape () or (B,); got {target.dtype} of shape {tuple(target.shape)}. Write "
                "targets.long() for indices, or outputs.argmax(1) for the top classes"
            )
        target = target.tolist()
    if isinstance(target, bool) or not isinstance(target, int | Sequence) or isinstance(target, str | bytes):
        raise ValueError(
            f"a target is a class index, one per input, a Score or a function of the outputs; got {target!r}{_remedy(target)}"
        )
    return tuple(map(_index, target)) if isinstance(target, Sequence) else _index(target)


def _index(value: Any) -> int:
    """A class index as an int: also numpy's and torch's integers, as a list may hold them."""
    scalar = isinstance(value, np.generic) or (isinstance(value, Tensor) and value.ndim == 0)
    plain = value.item() if scalar else value
    if not is_whole(plain):
        raise ValueError(f"a target is an integer class index; got {value!r}{_remedy(value)}")
    if plain < 0:
        raise ValueError(f"a target is a class index from 0 up; got {plain}")
    return plain


def _remedy(value: Any) -> str:
    """The end of an error about a target that is no index: the line to write."""
    if isinstance(value, str):
        return f". Write targets=sfumato.data.labels.find(classifier.labels, {value!r})"
    return ". Write e.g. targets=281, or targets=model(inputs).argmax(1) for the top classes"


OF_A_CLASS: Mapping[str, type[OfClass]] = {
    "logit": Logit,
    "probability": Probability,
    "log-odds": LogOdds,
    "sigmoid": Sigmoid,
}
"""What a class index may mean, by its name."""


def is_of_class(score: Score) -> bool:
    """Whether a score, or a part of a sum of scores, is of a class or another output: in maps of outputs a mean over places."""
    if isinstance(score, Combined):
        return any(is_of_class(part) for _, part in score.terms)
    return isinstance(score, PlaceScore)


def link_of_meaning(meaning: str) -> str:
    """The link, of `LINKS`, by which a table of probabilities goes with what a class index means."""
    return SIGMOID if OF_A_CLASS[meaning] is Sigmoid else AUTO


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
    elif isinstance(targets, type) and issubclass(targets, Score):
        raise ValueError(f"targets must be a score, e.g. {targets.__name__}(…), not its class; got {targets!r}")
    elif callable(targets):
        score = Output(targets)
    else:
        score = OF_A_CLASS[meaning](targets)
    score.check(queries)
    return score
