"""A model that is only called: a session, a service, a function of arrays or pictures, with what its calls cost.

`BlackBox` sends inputs in batches that the function accepts, counts them against a budget, waits and tries again, and keeps
every answer. If no answer comes, it raises `NoAnswerError`; methods without gradients then return what they have found so far.
"""

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from hashlib import blake2b
from types import CodeType
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from sfumato.attribution import Attribution
from sfumato.model.answers import Answers, Rows
from sfumato.model.inputs import frames_of_ours, warn_of_training
from sfumato.model.outputs import as_tensors
from sfumato.settings import check_number, check_whole, dotted_path

CPU = torch.device("cpu")

BATCH = 16
"""Inputs in a call, to begin with."""

T = TypeVar("T")


class NoAnswerError(Exception):
    """A black box gave no answer. Those that it gave before are kept, and are not asked for again."""


class BudgetSpentError(NoAnswerError):
    """The budget of a `BlackBox` is spent."""


class CallFailedError(NoAnswerError):
    """The function of a `BlackBox` failed, also when it was called again."""


@dataclass(frozen=True)
class Spent:
    """What calls of a `BlackBox` cost."""

    inputs: int = 0
    """Inputs that were sent, also in calls that failed."""
    calls: int = 0
    """Calls of the function, each with one input or more."""
    failed: int = 0
    """Calls that failed."""
    repeated: int = 0
    """Inputs that were not sent, as their answers were known."""
    seconds: float = 0.0
    """Seconds in the function."""

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))


class BlackBox:
    """A model made of any function, for methods that need no gradients; use it in the place of a model.

    The function takes a batch of inputs, and returns one row for each: tensors, arrays, lists of numbers, dicts or tuples of
    them, or a list with anything for each input, as detectors return it. `spent` says what all calls together cost; a result's
    `about["black_box"]` says it of the result alone.

    - `takes`: what the function takes: "tensor", a detached one; "numpy", an array; or "pil", a list of PIL pictures of 8 bits.
      For these, `restore` makes RGB pictures in [0, 1] of inputs, e.g. `classifier.restore`; by default they are that already.
    - `batch`: inputs in a call, at most. By default 16, and half as many after each failure, until a call with several inputs
      succeeds: 1 serves a function that takes one input only.
    - `budget`: inputs that may be sent, at most, also those in calls that fail; None for any number. `box.budget += 1000` adds
      to it.
    - `rate`: calls in a second, at most.
    - `retries`: how often a call is made again after an error of `retry_on`; the first time after `wait` seconds, and after
      twice as many each further time. Name the errors that pass, of which `OSError` has those of the network in Python's own
      library and in requests.
    - `cache`: True to keep all answers in memory, so that equal inputs are sent once; a path to keep them in a file as well,
      where a later process finds them; False to keep none. A file is for one function: delete it if the function changes.

    Where the budget is spent or a call fails, the methods that need no gradients return what they have found, with a warning.
    The same call of the method with a larger budget goes on from there, as all methods ask the same for the same seed.

    Raises `BudgetSpentError` or `CallFailedError`, both `NoAnswerError`, if there is nothing to return yet.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        takes: str = "tensor",
        batch: int | None = None,
        budget: int | None = None,
        rate: float | None = None,
        retries: int = 3,
        wait: float = 1.0,
        retry_on: type[Exception] | tuple[type[Exception], ...] = OSError,
        cache: bool | str | os.PathLike[str] = True,
        restore: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not callable(function) or isinstance(function, type | BlackBox):
            raise ValueError(f"a BlackBox is made of a function of a batch of inputs; got {function!r}")
        if isinstance(function, nn.Module) and function.training:
            raise ValueError("the network is in training mode; write BlackBox(net.eval())")
        warn_of_training(function)
        if takes not in TAKES:
            raise ValueError(f"takes must be one of {', '.join(TAKES)}; got {takes!r}")
        for name, value, least in (("batch", batch, 1), ("budget", budget, 0), ("retries", retries, 0)):
            if value is not None:
                check_whole(name, value, least)
        if rate is not None:
            check_number("rate", rate, "calls in a second", above=0)
        check_number("wait", wait, "in seconds", least=0)
        if not isinstance(cache, bool | str | os.PathLike):
            raise ValueError(f"cache must be True, False or the path of a file; got {cache!r}")
        for kind in retry_on if isinstance(retry_on, tuple) else (retry_on,):
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise ValueError(f"retry_on must be a class of errors such as OSError, or several; got {retry_on!r}")
        if restore is not None and not callable(restore):
            raise ValueError(f"restore must be a function from inputs to pictures, or None; got {restore!r}")
        self.function, self.takes, self.restore = function, takes, restore
        self.batch, self.budget, self.rate, self.retries, self.wait, self.retry_on = (
            batch, budget, rate, retries, wait, retry_on,
        )  # fmt: skip
        self.answers = Answers(cache, _told_apart(function))
        self.spent = Spent()
        self.stopped = ""
        """Why the last answer did not come; empty if it came."""
        self._most = batch or BATCH
        self._settled = batch is not None
        """Whether a call with several inputs has succeeded, so that a failure is not due to their number."""
        self._held = 0
        self._last = -float("inf")
        self._lock = threading.RLock()

    def __call__(self, inputs: Float[Tensor, "N C *S"], *arguments: Any, **named: Any) -> Any:
        """The function's outputs for the inputs, as tensors.

        With further arguments, which `WithArguments` passes, the function is called once for all inputs.
        """
        inputs = inputs.detach()
        with self._lock, torch.no_grad():
            outputs = self._with_arguments(inputs, arguments, named) if arguments or named else self._by_row(inputs)
            return tree_map(lambda value: value.to(inputs.device) if isinstance(value, Tensor) else value, outputs)

    def begin(self) -> Spent:
        """What was spent before a method begins; it forgets why an earlier one stopped."""
        self.stopped = ""
        return self.spent

    @contextmanager
    def holding_back(self, inputs: int) -> Iterator[None]:
        """A context in which so many inputs of the budget are kept for what comes after it."""
        self._held += inputs
        try:
            yield
        finally:
            self._held -= inputs

    def _by_row(self, inputs: Float[Tensor, "N C *S"]) -> Any:
        """The outputs, of which those that are known are not asked for again."""
        keys: list[Any] = [_digest(row) for row in inputs] if self.answers.kept else list(range(len(inputs)))
        rows = {key: row for key in dict.fromkeys(keys) if (row := self.answers.get(key)) is not None}
        first = {key: place for place, key in reversed(list(enumerate(keys)))}  # equal inputs are sent once
        asked = sorted(place for key, place in first.items() if key not in rows)
        self.spent += Spent(repeated=len(inputs) - len(asked))
        while asked:
            places = asked[: self._left(min(self._most, len(asked)))]
            # Fewer where it was too many.
            fresh = {keys[place]: row for place, row in zip(places, self._answered(inputs[places]), strict=False)}
            rows |= fresh
            self.answers.put(fresh)
            asked = asked[len(fresh) :]
        return Rows.joined([rows[key] for key in keys])

    def _with_arguments(self, inputs: Shaped[Tensor, "N C *S"], arguments: Any, named: Any) -> Any:
        key = _digest(inputs, *_marked_leaves((arguments, named)))
        if (known := self.answers.get(key)) is not None:
            self.spent += Spent(repeated=len(inputs))
            return known.value
        if self._left(len(inputs)) < len(inputs):
            raise self._budget_spent()
        outputs = self._tried(inputs, lambda given: as_tensors(self.function(given, *arguments, **named), CPU))
        self.answers.put({key: Rows(outputs, False)})
        return outputs

    def _answered(self, inputs: Float[Tensor, "N C *S"]) -> Sequence[Rows]:
        """The answers to the first of the inputs: to all, or to as many as the function accepts at once."""
        while True:
            try:
                rows = self._tried(inputs, lambda given: Rows.split(as_tensors(self.function(given), CPU), len(given)))
            except CallFailedError:
                if len(inputs) == 1 or self._settled:
                    raise
                self._most = len(inputs) // 2
                inputs = inputs[: self._left(self._most)]
                self.stopped = ""
            else:
                self._settled |= len(inputs) > 1
                return rows

    def _tried(self, inputs: Shaped[Tensor, "N C *S"], call: Callable[[Any], T]) -> T:
        """What a call returns, tried again after errors that pass. Raises `CallFailedError`."""
        for attempt in range(self.retries + 1):
            given = TAKES[self.takes](self, inputs.clone())  # anew: a function may change what it is given
            self._wait_for_turn()
            begin = time.monotonic()
            self._last = begin
            sent = Spent(inputs=len(inputs), calls=1)
            try:
                return call(given)
            except Exception as error:
                sent = replace(sent, failed=1)
                again = isinstance(error, self.retry_on) and attempt < self.retries
                shape, kind = tuple(inputs.shape), type(error).__name__
                if not again:
                    self.stopped = f"the function failed on inputs of shape {shape} ({kind}: {error})"
                    raise CallFailedError(
                        f"{self.stopped}; the answers before it are kept: the same call goes on from there"
                    ) from error
            finally:
                self.spent += replace(sent, seconds=time.monotonic() - begin)
            time.sleep(self.wait * 2**attempt)
            if self._left(len(inputs)) < len(inputs):
                raise self._budget_spent()
        raise AssertionError("the last attempt returns or raises")

    def _wait_for_turn(self) -> None:
        if self.rate is not None:
            time.sleep(max(0.0, self._last + 1 / self.rate - time.monotonic()))

    def _left(self, wanted: int) -> int:
        """How many of so many inputs the budget still has, at least one. Raises `BudgetSpentError`."""
        if self.budget is None:
            return wanted
        left = min(wanted, self.budget - self._held - self.spent.inputs)
        if left < 1:
            raise self._budget_spent()
        return left

    def _budget_spent(self) -> BudgetSpentError:
        held = f", of which {self._held} are kept for the scores of the result" if self._held else ""
        self.stopped = f"the budget of {self.budget} inputs is spent{held}"
        return BudgetSpentError(
            f"{self.stopped}; the answers are kept: add to it, e.g. box.budget += 1000, and the same call goes on from there"
        )

    def __repr__(self) -> str:
        return f"BlackBox({self.function!r}, batch={self._most}, budget={self.budget}, spent={self.spent})"


def _as_tensor(_box: BlackBox, inputs: Shaped[Tensor, "N C *S"]) -> Shaped[Tensor, "N C *S"]:
    return inputs


def _as_array(_box: BlackBox, inputs: Shaped[Tensor, "N C *S"]) -> Any:
    return inputs.cpu().float().numpy() if inputs.dtype == torch.bfloat16 else inputs.cpu().numpy()


def _as_pictures(box: BlackBox, inputs: Shaped[Tensor, "N C H W"]) -> list[Image.Image]:
    values = (inputs if box.restore is None else box.restore(inputs)).float().cpu()
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise ValueError(
            f'takes="pil" needs inputs (N, 3, H, W) or (N, 1, H, W); got {tuple(values.shape)}. Give restore, a function from '
            "inputs to RGB pictures"
        )
    if box.restore is None and not box.spent.calls and (values.min() < -ROUNDING or values.max() > 1 + ROUNDING):
        raise ValueError(
            f'takes="pil" needs values in [0, 1]; got {float(values.min()):.3g} to {float(values.max()):.3g}. Give restore, '
            "which undoes the normalisation, e.g. restore=classifier.restore"
        )
    levels = (values.clamp(0, 1) * 255).round().byte().movedim(1, 3).numpy()
    return [Image.fromarray(level.squeeze(2) if level.shape[2] == 1 else level) for level in levels]


ROUNDING = 1e-3
"""How far a picture's value may lie outside of [0, 1]."""

TAKES: dict[str, Callable[[BlackBox, Tensor], Any]] = {
    "tensor": _as_tensor,
    "numpy": _as_array,
    "pil": _as_pictures,
}
"""What functions take, by name."""


def _told_apart(function: Any) -> str:
    """The name of a function, with a hash of its code where it has no name of its own, as a lambda or one within another."""
    name = dotted_path(function if hasattr(function, "__qualname__") else type(function))
    code = getattr(function, "__code__", None)
    if code is None or "<" not in name:
        return name
    return f"{name} ({_digest(*_parts_of(code)).hex()[:12]})"


def _parts_of(code: CodeType) -> Iterator[Any]:
    """What a function does, and what the functions within it do, without where it is written."""
    yield from (code.co_code, code.co_names, code.co_varnames)
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _parts_of(value)
        else:
            yield (
                sorted(map(repr, value)) if isinstance(value, frozenset) else value
            )  # whose order differs between processes


def _marked_leaves(arguments: Any) -> Iterator[Any]:
    """What arguments hold, after how they are nested and named; before each that is no tensor, the length of its text."""
    leaves, form = tree_flatten(arguments)
    yield repr(form)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            yield str(len(repr(leaf)))
        yield leaf


def _digest(*values: Any) -> bytes:
    """The name of equal values: a hash of their bytes, types and shapes."""
    digest = blake2b(digest_size=20)
    for value in values:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.digest()


@contextmanager
def held_back(model: Any, inputs: int) -> Iterator[None]:
    """A context in which a `BlackBox` keeps so many inputs of its budget for what comes after it; nothing for other models."""
    if isinstance(model, BlackBox):
        with model.holding_back(inputs):
            yield
    else:
        yield


def warn_of_stop(error: NoAnswerError) -> None:
    """Warn that a result is what was found until no answer came."""
    warnings.warn(f"{error}. The result is what was found until then", stacklevel=1 + frames_of_ours())


def noted(result: Attribution, box: BlackBox, before: Spent) -> Attribution:
    """The result with what the calls of a box have cost since `before`, in `about["black_box"]`."""
    spent = box.spent - before
    about: dict[str, Any] = {
        "inputs": spent.inputs,
        "calls": spent.calls,
        "failed": spent.failed,
        "repeated": spent.repeated,
        "seconds": round(spent.seconds, 3),
        "batch": box.batch or box._most,
        "budget": box.budget,
    }
    if box.stopped:
        about["stopped"] = box.stopped
    return replace(result, about={**result.about, "black_box": about})
