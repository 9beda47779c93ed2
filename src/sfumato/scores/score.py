r"""What every score is: a scalar $\Phi$ of the model's outputs for every query; and the outputs as scores read them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sfumato.settings import Settings


class Score(Settings, ABC):
    """Base of all scores."""

    names_places: bool = False
    """Whether the score is of certain places of the input, so that a search must not mirror what the model sees."""

    @abstractmethod
    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """One number for each of `N` evaluations, which belong to the queries `query`."""

    def check(self, queries: int) -> None:  # most scores serve any number
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "names_places", any(score.names_places for _, score in self.terms))

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return torch.stack([weight * score(outputs, query) for weight, score in self.terms]).sum(0)

    def check(self, queries: int) -> None:
        for _, score in self.terms:
            score.check(queries)

    def resolve(self, outputs: Any) -> "Combined":
        return replace(self, terms=tuple((weight, score.resolve(outputs)) for weight, score in self.terms))


def parts(score: Score) -> Iterator[Score]:
    """A score; of a sum its terms, and of a score of several places, such as a `Region`, that of one place."""
    inner = [part for _, part in score.terms] if isinstance(score, Combined) else [getattr(score, "score", None)]
    if scores := [part for part in inner if isinstance(part, Score)]:
        for part in scores:
            yield from parts(part)
    else:
        yield score


class PlaceScore(Score):
    """Base of scores that are one number for each place where the outputs are maps `(N, K, *P)`, of which the mean counts.

    `Region` takes the mean over some of the places instead. A subclass defines `at_places`.
    """

    def at_places(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:  # noqa: ARG002
        """The score at each place, `(N, 1, *P)`; `(N, 1)` where the outputs have no places."""
        raise ValueError(f"{type(self).__name__} gives one number for all places; define at_places(outputs, query)")

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return mean_over_space(self.at_places(outputs, query))


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
