r"""What is explained: a scalar $\Phi$ of the model's outputs for every query.

A score maps outputs of `N` evaluations and the index `(N,)` of the query that each belongs to, to `(N,)` numbers. Scores
add, subtract and scale: `Logit(281) - 0.5 * Logit(282)`. Targets are one class for all queries or one per query.

A model with one output $z$ per input, `(N, 1, …)`, is read as one with two classes: class 0 is the output itself, with the
probability $\sigma(z) = 1 / (1 + e^{-z})$, and class 1 is its complement, with $1 - \sigma(z)$. These are the softmax of the
logits $z$ and 0, so that the same class index means the same in all scores.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sfumato.settings import PER_QUERY, is_whole

Target = int | tuple[int, ...]


class Score(ABC):
    """Base of all scores."""

    @abstractmethod
    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """One number for each of `N` evaluations, which belong to the queries `query`."""

    def check(self, queries: int) -> None:  # noqa: B027  # most scores serve any number
        """Raise `ValueError` if this score cannot serve so many queries."""

    def resolve(self, outputs: Any) -> "Score":  # noqa: ARG002
        """The score as it is read for such outputs, with no setting left to "auto": what a result's file says."""
        return self

    def __add__(self, other: "Score") -> "Score":
        if not isinstance(other, Score):
            return NotImplemented
        return Combined(((1.0, self), (1.0, other)))

    def __sub__(self, other: "Score") -> "Score":
        if not isinstance(other, Score):
            return NotImplemented
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

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return torch.stack([weight * score(outputs, query) for weight, score in self.terms]).sum(0)

    def check(self, queries: int) -> None:
        for _, score in self.terms:
            score.check(queries)

    def resolve(self, outputs: Any) -> "Combined":
        return replace(self, terms=tuple((weight, score.resolve(outputs)) for weight, score in self.terms))


@dataclass(frozen=True)
class Output(Score):
    """Any function of the model's outputs for `N` evaluations, whatever their type, giving `(N,)`."""

    function: Callable[[Any], Float[Tensor, " N"]]

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return check_score(self.function(outputs), outputs, len(query))


def check_score(values: Any, outputs: Any, rows: int) -> Float[Tensor, " {rows}"]:
    """The values that a score gives for the outputs of so many evaluations; `ValueError` unless they are one for each."""
    if isinstance(values, Tensor) and values.shape == (rows,):
        return values
    if isinstance(outputs, Tensor) and outputs.ndim > 1:
        check_rows(outputs, rows)  # where it is the model that has other rows, say so
    found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
    raise ValueError(
        f"a score function must return one number per evaluation, a tensor of shape ({rows},); got {found}"
    )


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
        return _largest(self.target)

    def column(self, outputs: Any, query: Int[Tensor, " N"], target: Target | None = None) -> Int[Tensor, "N 1 *P"]:
        """Each evaluation's class in `outputs`, as an index that `gather(1, …)` takes.

        Raises `ValueError` where there is no such class, or not one row for each of the `N` evaluations.
        """
        logits = class_scores(outputs, len(query))
        highest = self._highest if target is None else _largest(target)
        target = self.target if target is None else target
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
        highest = self._highest if target is None else max(self._highest, _largest(target))
        if highest > 1:
            raise ValueError(f"target {highest} is out of range: {ONE_OUTPUT}")
        return two_classes(logits)


ONE_OUTPUT = (
    "the model has one output per input; class 0 is that output, with the probability sigmoid(output), and class 1 its "
    "complement"
)


def _largest(target: Target) -> int:
    return max(target) if isinstance(target, tuple) else target


def _out_of_range(target: int, classes: int) -> str:
    if classes == 1:
        remedy = ". For the complement write targets=-Logit(0), Probability(1) or LogOdds(1)" if target == 1 else ""
        return f"target {target} is out of range: {ONE_OUTPUT}{remedy}"
    return f"target {target} is out of range: the model has {classes} outputs (0 to {classes - 1})"


def two_classes(logits: Float[Tensor, "N K *P"]) -> Float[Tensor, "N M *P"]:
    """Logits of two classes or more: for one output $z$, `(N, 1, …)`, the logits $z$ and 0, `(N, 2, …)`; others as they are."""
    return torch.cat([logits, torch.zeros_like(logits)], 1) if logits.shape[1] == 1 else logits


def logits_of(outputs: Any) -> Any:
    """The tensor `logits` of an object or mapping, as transformers returns it; other outputs as they are.

    Logits with three axes remain where they are: they are those of a detector's boxes or of tokens, and which of them count is
    for the user to say.

    >>> logits_of({"logits": torch.zeros(2, 10), "hidden_states": None}).shape
    torch.Size([2, 10])
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    return logits if isinstance(logits, Tensor) and logits.ndim in (2, 4, 5) else outputs


def class_scores(outputs: Any, rows: int | None = None) -> Float[Tensor, "N K *P"]:
    """The outputs for `rows` inputs, if they are a real tensor `(rows, K, …)` or hold one as `logits`, in float32.

    Otherwise a `ValueError` says how to pick from them.
    """
    if not isinstance(outputs, Tensor):
        outputs = logits_of(outputs)
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
    if rows is not None:
        check_rows(outputs, rows)
    if outputs.is_complex():
        raise ValueError(
            f"the model returns complex numbers ({outputs.dtype}), which have no order; say what to explain with a function of "
            "the outputs, e.g. targets=Output(lambda outputs: outputs[:, 281].abs())"
        )
    if outputs.is_quantized:
        outputs = outputs.dequantize()
    elif outputs.layout != torch.strided:
        outputs = outputs.to_dense()
    return outputs.float()


def check_rows(outputs: Shaped[Tensor, " N *P"], rows: int) -> None:
    """Raise `ValueError` unless the outputs have one row for each of so many inputs."""
    count = len(outputs)
    if count == rows:
        return
    if outputs.ndim > 2 and outputs.shape[1] == rows:
        pick = f"outputs.mean(0)[:, {min(281, outputs.shape[2] - 1)}]"
    elif count > rows and count % rows == 0:
        pick = f"outputs[:len(outputs) // {count // rows}, {min(281, outputs.shape[1] - 1)}]"
    else:
        raise ValueError(
            f"the model returns a tensor of shape {tuple(outputs.shape)} for {_inputs(rows)}, not one row for each; a model "
            "must answer each input of a batch by itself: wrap one that does not, e.g. model=lambda inputs: "
            "torch.cat([net(one) for one in inputs.split(1)])"
        )
    raise ValueError(
        f"the model returns a tensor of shape {tuple(outputs.shape)} for {_inputs(rows)}, not one row for each; say which of "
        f"its numbers count with a function of the outputs, e.g. targets=Output(lambda outputs: {pick})"
    )


def _inputs(count: int) -> str:
    return "1 input" if count == 1 else f"{count} inputs"


def mean_over_space(values: Float[Tensor, "N 1 *P"]) -> Float[Tensor, " N"]:
    """The outputs of fully convolutional models have places, whose mean counts."""
    return values.flatten(1).mean(1)


def without(logits: Float[Tensor, "N K *P"], column: Int[Tensor, "N 1 *P"]) -> Float[Tensor, "N K *P"]:
    """The rivals of each evaluation's class: the logits with minus infinity in that class's place."""
    return logits.scatter(1, column, -torch.inf)


SOFTMAX, SIGMOID, AUTO = "softmax", "sigmoid", "auto"

LINKS = (AUTO, SOFTMAX, SIGMOID)
"""What makes probabilities of logits: one softmax over all classes, of which one is right; a sigmoid for each class, of
which several may be right; or, "auto", the softmax, but for one output the sigmoid."""


def check_link(link: Any) -> None:
    """Raise `ValueError` unless it is one of `LINKS`."""
    if not isinstance(link, str) or link not in LINKS:
        raise ValueError(f"link must be one of {', '.join(LINKS)}; got {link!r}")


def link_of(link: str, classes: int) -> str:
    """The link that is meant for so many outputs: "softmax" or "sigmoid". Raises `ValueError` for a softmax over one."""
    if link == SOFTMAX and classes == 1:
        raise ValueError(
            'link="softmax" over the only output of a model is 1 whatever the input; give link="sigmoid" or leave it out'
        )
    return link if link != AUTO else SIGMOID if classes == 1 else SOFTMAX


def probabilities(logits: Float[Tensor, "N K *P"], link: str = AUTO) -> Float[Tensor, "N K *P"]:
    """The probabilities of classes; that of one output is its sigmoid."""
    return logits.sigmoid() if link_of(link, logits.shape[1]) == SIGMOID else logits.softmax(1)


def top_class(scores: Float[Tensor, " K"]) -> int:
    """The class with the largest of scores: logits or probabilities. Raises `ValueError` where one is NaN.

    A model with one output has one class to name, 0, whatever its score.
    """
    if scores.isnan().any():
        raise ValueError(
            f"{int(scores.isnan().sum())} of the model's {len(scores)} outputs are NaN, so that no class comes first; check "
            "the model and how the input was prepared"
        )
    return int(scores.argmax())


@dataclass(frozen=True)
class Logit(OfClass):
    """The class's own output, before any softmax or sigmoid; its mean over space where the outputs are maps.

    A model with one output has `Logit(0)` alone; `-Logit(0)` is for the complement.
    """

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return mean_over_space(class_scores(outputs, len(query)).gather(1, self.column(outputs, query)))


@dataclass(frozen=True)
class Sigmoid(OfClass):
    r"""The class's own probability, whatever the others have: $\sigma(y_c) = 1 / (1 + e^{-y_c})$.

    For networks trained to say yes or no to each of several classes, and those with one output $z$, whose class 0 has
    $\sigma(z)$ and class 1 the complement $1 - \sigma(z)$.
    """

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return mean_over_space(_own_log_odds(self, outputs, query).sigmoid())


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

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        logits = class_scores(outputs, len(query))
        if link_of(self.link, logits.shape[1]) == SIGMOID:
            return mean_over_space(_own_log_odds(self, logits, query).sigmoid())
        return mean_over_space(logits.softmax(1).gather(1, self.column(logits, query)))


@dataclass(frozen=True)
class LogOdds(Linked):
    r"""The class's logit against all others': $y_c - \log \sum_{c' \neq c} e^{y_{c'}} = \log \frac{p_c}{1 - p_c}$.

    It grows with the softmax probability $p_c$, and does not flatten where that is near 0 or 1. With `link="sigmoid"`, for a
    head of several labels, $p_c$ is the class's own sigmoid, and its log-odds are the logit $y_c$ itself. So they are for a
    model with one output $z$: $z$ for class 0, and $-z$ for class 1.
    """

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        logits = class_scores(outputs, len(query))
        if link_of(self.link, logits.shape[1]) == SIGMOID:
            return mean_over_space(_own_log_odds(self, logits, query))
        column = self.column(logits, query)
        rivals = without(logits, column).logsumexp(1, keepdim=True)
        return mean_over_space(logits.gather(1, column) - rivals)


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

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        logits = self.logits(outputs, query, self.against)
        column = self.column(logits, query)
        if self.against is None:
            rival = without(logits, column).amax(1, keepdim=True)
        else:
            rival = logits.gather(1, self.column(logits, query, self.against))
        return mean_over_space(logits.gather(1, column) - rival)


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
    """Whether a score, or a part of a sum of scores, is of a class. In maps of outputs it is a mean over places."""
    if isinstance(score, Combined):
        return any(is_of_class(part) for _, part in score.terms)
    return isinstance(score, OfClass)


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


def check_finite(
    scores: Float[Tensor, " N"],
    of: str,
    where: Callable[[int], str] | None = None,
    remedy: str = "check the model",
) -> Float[Tensor, " N"]:
    """The scores `(N,)` themselves; `ValueError` where one is NaN or infinite.

    `of` says what they are the scores of, `where` tells of the first row that is not finite, by default its number.
    """
    finite = torch.isfinite(scores)
    if not finite.all():
        row = int(finite.int().argmin())
        place = where(row) if where is not None else f"input {row}" if len(scores) > 1 else ""
        value = f"{float(scores[row].detach()):g}" + (f" for {place}" if place else "")
        raise ValueError(f"the score of {of} is not finite: {value}; {remedy}")
    return scores


def quantity(about: Any) -> str:
    """What a score is, in words, from its JSON in a result's `about["score"]`.

    >>> from sfumato.settings import as_json
    >>> quantity(as_json(Probability(3, link="sigmoid"))), quantity(as_json(Logit(3)))
    ('sigmoid probability', 'logit')
    """
    path = about.get("class", "") if isinstance(about, Mapping) else ""
    link = about.get("link", SOFTMAX) if isinstance(about, Mapping) else AUTO  # files from before links have a softmax
    module, _, name = path.rpartition(":")
    own = module.split(".")[0] == __name__.split(".")[0]
    words = QUANTITIES.get(name, name) if own else name or "score of its own"
    if own and name == LogOdds.__name__ and link == SIGMOID:
        return QUANTITIES[Logit.__name__]  # the same number
    if own and name == Probability.__name__:
        return {SIGMOID: QUANTITIES[Sigmoid.__name__], SOFTMAX: f"softmax {words}"}.get(link, words)
    return words


QUANTITIES: Mapping[str, str] = {
    Logit.__name__: "logit",
    Probability.__name__: "probability",
    LogOdds.__name__: "log-odds",
    Sigmoid.__name__: "sigmoid probability",
    Contrastive.__name__: "contrast with a rival",
    Combined.__name__: "sum of scores",
    Output.__name__: "function of the outputs",
}
"""What scores are called in tables."""


def differing(quantities: Mapping[str, str]) -> str:
    """A sentence that says which quantity each method explains, by the methods' names; empty where all explain the same.

    >>> differing({"grad-cam": "logit", "rise": "probability"})
    'The methods explain different quantities: grad-cam the logit, rise the probability.'
    >>> differing({"grad-cam": "logit", "gradient": "logit"})
    ''
    """
    if len(set(quantities.values())) < 2:
        return ""
    listed = ", ".join(f"{name} the {words}" for name, words in quantities.items())
    return f"The methods explain different quantities: {listed}."
