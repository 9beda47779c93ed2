"""The subject of an explanation: a model, its inputs, and the score of its outputs. Every method begins with it."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from sfumato.model.arguments import WithArguments, split_arguments
from sfumato.model.effects import Model, frozen, saved_bytes
from sfumato.model.inputs import check_inputs, check_model, explain_failure, frames_of_ours
from sfumato.model.memory import rows_within
from sfumato.model.modes import Surroundings
from sfumato.model.outputs import (
    SORTED,
    as_tensors,
    last_step,
    same_first_row,
    same_outputs,
)
from sfumato.scores import (
    SIGMOID,
    SOFTMAX,
    Entropy,
    Linked,
    Logit,
    OfClass,
    Regression,
    Score,
    Sigmoid,
    as_score,
    check_finite,
    check_score,
    is_of_class,
    logits_of,
    parts,
)

WHOLE = "the whole inputs"
"""The words for unperturbed inputs in messages."""

BLACK_BOX = 16
"""Rows in one batch through a model whose memory cannot be measured."""


@dataclass
class Habits:
    """Properties of a model that are observed while it is called."""

    layouts: list[torch.memory_format]
    """The memory formats that the model's inputs may have, the fastest first. The last one is safe."""
    settled: bool = False
    """Whether the first format is known to change no outputs. Until then the last one is used."""
    together: bool = False
    """Whether the model has run correctly with several rows in one batch."""
    score: Score | None = None
    """The score as it is read for the model's outputs, once the model has run."""
    places: tuple[int, ...] = ()
    """The axes of places of the outputs over which the score of a class is a mean; empty if the outputs are no maps."""
    alone: bool = False
    """Whether rows go through the model one by one, because it takes only one, or because the rows of a batch influence each
    other's outputs."""
    row_bytes: int = 0
    """How many bytes a row keeps for its backward pass, once that was measured."""
    warned: bool = False
    """Whether a warning about outputs that are no logits was given."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, inputs and the score of `B` queries, checked, with the model frozen."""

    model: Model
    inputs: Float[Tensor, "B C *S"]
    score: Score
    surroundings: Surroundings
    habits: Habits
    more: WithArguments | None = field(default=None, kw_only=True)
    """Further arguments of the model, if it needs any."""

    @classmethod
    @contextmanager
    def prepared(
        cls,
        model: Model,
        inputs: Shaped[Tensor, "..."],
        targets: Any,
        meaning: str = "logit",
        seed: int = 0,
        deterministic: bool = False,
    ) -> Iterator["Subject"]:
        """Check the arguments, and freeze the model while the context lasts. Raises `ValueError` for what cannot be used.

        `meaning`, one of `OF_A_CLASS`, says what a class index among the targets means. `seed` is for models that draw random
        numbers. `deterministic` is that of `Surroundings`.
        """
        inputs = check_inputs(inputs)
        model, more = split_arguments(model)
        check_model(model, inputs)
        if more is not None:
            more.check(len(inputs))
        score = as_score(targets, len(inputs), meaning)
        surroundings = Surroundings.now(inputs.device, seed, deterministic)
        with frozen(model):
            with surroundings.computing():
                inputs = inputs.clone()  # a tensor made in inference mode cannot take part in a backward pass
            yield cls(model, inputs, score, surroundings, Habits(_layouts(model, inputs)), more=more)

    @property
    def query(self) -> Int[Tensor, " B"]:
        """The index of each input."""
        return torch.arange(len(self.inputs), dtype=torch.long, device=self.inputs.device)

    def asking(self, targets: Any, meaning: str = "logit") -> "Subject":
        """The same model and inputs with another score; `targets` and `meaning` are as for `prepared`."""
        score = as_score(targets, len(self.inputs), meaning)
        return replace(self, score=score, habits=replace(self.habits, score=None, places=()))

    def outputs(self, rows: Float[Tensor, "N C *S"], query: Int[Tensor, " N"]) -> Any:
        """The model's outputs for rows that belong to the queries.

        The rows are converted to the precision of the inputs, and the model runs under the caller's autocast.
        """
        rows, habits = rows.to(self.inputs.dtype), self.habits
        arguments, named = self.more.of(query) if self.more is not None else ((), {})
        try:
            batch = rows.contiguous(memory_format=habits.layouts[0 if habits.settled else -1])
            outputs = self.surroundings.call(self.model, batch, *arguments, **named)
        except RuntimeError as error:  # `.view` may fail for several rows although it works for one
            if not habits.settled or len(habits.layouts) == 1 or "view size is not compatible" not in str(error):
                raise
            habits.layouts.pop(0)
            return self.outputs(rows, query)
        return as_tensors(outputs, self.inputs.device)

    def settle_layout(self, outputs: Any, run: Callable[[Tensor], Any] | None = None) -> None:
        """Use the fastest memory format from now on, if the first input has the same `outputs` in it.

        A model that reads strides or storage has other outputs, and one that calls `.view` fails. `run` computes the outputs of
        one input `(1, C, *S)`; by default it calls the model.
        """
        habits, example = self.habits, self.inputs[:1]
        if habits.settled or len(habits.layouts) == 1:
            return
        run = run or (lambda row: self.outputs(row, self.query[:1]))
        with torch.no_grad():
            if bool((example == example.flatten()[0]).all()):  # a constant looks the same in all formats
                generator = torch.Generator("cpu").manual_seed(0)
                noise = torch.rand(example.shape, generator=generator, dtype=torch.float32, device="cpu")
                example = example + noise.to(example)
                outputs = run(example)
            habits.settled = True
            try:
                same = same_outputs(run(example), outputs, self.surroundings.rounding)
            except Exception:  # noqa: BLE001  # the model fails in this format, so it gets the other one
                same = False
            if not same:
                habits.layouts.pop(0)

    def phi(self, rows: Float[Tensor, "N C *S"], query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The scores of rows that belong to the queries."""
        if self.habits.alone and len(rows) > 1:
            pairs = zip(rows.split(1), query.split(1), strict=True)
            return torch.cat([self.phi(row, row_query) for row, row_query in pairs])
        try:
            outputs = self.outputs(rows, query)
        except Exception as error:
            if not self.can_retry_one_by_one(query, error, rows):
                raise
            return self.phi(rows, query)
        self.habits.together |= len(rows) > 1
        return self.scores_of(outputs, query)

    def scores_of(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The scores of the model's outputs for rows of the queries."""
        scores = check_score(self.score(outputs, query), outputs, len(query)).float()
        logits, first = logits_of(outputs), self.habits.score is None
        if first:
            self.habits.score = self.score.resolve(outputs)
            if isinstance(logits, Tensor) and math.prod(logits.shape[2:]) > 1 and is_of_class(self.score):
                self.habits.places = tuple(logits.shape[2:])
        if (step := last_step(logits, by_values=first)) and not self.habits.warned:
            self._warn_of(step)
        return scores

    def _warn_of(self, step: str) -> None:
        """Warn about outputs that are not the logits which the score takes them for, after the last step that made them."""
        asked, words = list(parts(self.score)), ""
        if step == SORTED and any(isinstance(score, OfClass) and not isinstance(score, Regression) for score in asked):
            words = (
                "the model's outputs are sorted by their size, so that an index names no class but a rank: explain the outputs "
                "before they are sorted"
            )
        if step == SIGMOID and any(isinstance(score, Linked | Sigmoid | Entropy) for score in asked):
            words = (
                "each of the model's outputs went through a sigmoid already, and the score makes a probability of it again: "
                'leave the sigmoid out of the model, or write score="logit" to explain them'
            )
        if step == SOFTMAX:
            begin = "the model's outputs are probabilities already, as each row sums to 1, and the score"
            if any(isinstance(score, Linked | Entropy) for score in asked):
                words = (
                    f"{begin} takes a softmax of them again: leave the softmax out of the model, or write "
                    'score="logit" to explain them'
                )
            elif any(isinstance(score, Logit) for score in asked) and isinstance(self.model, nn.Module):
                words = (
                    f"{begin} is one of them, not a logit: leave the softmax out of the model, as its gradient vanishes near 0 "
                    "and 1"
                )
        if words:
            self.habits.warned = True
            warnings.warn(words, stacklevel=1 + frames_of_ours())

    @property
    def used_score(self) -> Score:
        """The score as it was read for the model's outputs, for the `about` of a result."""
        return self.habits.score or self.score

    def can_retry_one_by_one(
        self, query: Int[Tensor, " N"], error: Exception, rows: Float[Tensor, "N C *S"] | None = None
    ) -> bool:
        """Whether the model, which failed with `error` on the rows of `query`, works on a single row. Rows then go one by one.

        An example is a program that was exported for a batch of one. `rows` are the rows on which it failed, by default the
        inputs.
        """
        unrecoverable = isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError)
        if len(query) == 1 or self.habits.together or unrecoverable:
            return False
        try:
            with torch.no_grad():
                self.outputs(self.inputs[query[:1]] if rows is None else rows[:1], query[:1])
        except Exception:  # noqa: BLE001  # the number of rows was not the reason
            return False
        self.habits.alone = True
        return True

    def rows_are_independent(self, query: Int[Tensor, " N"], outputs: Any) -> bool:
        """Whether the `outputs` of a batch of these queries are those of each query alone. Only the first one is compared.

        If not, rows go one by one from now on. Once a batch has agreed, no other is checked.
        """
        if len(query) > 1 and not self.habits.together:

            def run_first() -> Any:
                with torch.no_grad():
                    return self.outputs(self.inputs[query[:1]], query[:1])

            self._decide_batching(run_first(), outputs, run_first)
        return len(query) == 1 or not self.habits.alone

    def whole(self, rows: int | None = None) -> Float[Tensor, " B"]:
        r"""$\Phi(x)$, computed in chunks of `rows`. Raises `ValueError` if a score is not finite."""
        with self.surroundings.computing(), torch.no_grad():
            chunks = self.query.split(rows or len(self.inputs))
            return check_finite(torch.cat([self.phi(self.inputs[chunk], chunk) for chunk in chunks]), WHOLE)

    def probe(self, memory: float | None) -> tuple[int, Float[Tensor, " B"]]:
        r"""Run the model on a few inputs. Returns how many rows fit into one batch, and the scores $\Phi(x)$.

        The graph for a backward pass of so many rows fits into `memory` GiB, by default into what `memory.budget` says. A
        single row runs first, then a pair, which shows whether the rows of a batch influence each other. Raises
        `ValueError` if the model's outputs have no such score.
        """
        outputs: list[Any] = []
        query = self.query[:1]

        def run(row: Tensor) -> None:
            outputs.append(self.outputs(row, query))

        rows = self._rows_in_memory(memory, run)
        with self.surroundings.computing(), torch.no_grad():
            if not outputs:
                run(self.inputs[:1])
            self.settle_layout(outputs[0])
            first = self.scores_of(outputs[0], query).detach()  # the row that was measured had a graph
            # Moves the random state on, so that a model that draws random numbers does not draw the same ones again.
            torch.rand(1, dtype=torch.float32, device=self.inputs.device)
            self._compare_with_pair(outputs[0])
        return rows, check_finite(first, WHOLE) if len(self.inputs) == 1 else self.whole(rows)

    def _rows_in_memory(self, memory: float | None, run: Callable[[Tensor], object]) -> int:
        """How many rows fit into `memory` GiB, measured by running one row."""
        with self.surroundings.computing():
            row = self.inputs[:1].clone().requires_grad_()
            try:
                row_bytes = saved_bytes(lambda: run(row))
            except (RuntimeError, BufferError) as error:
                if "grad" in str(error):  # a black box may refuse a tensor with gradients, as numpy does
                    return BLACK_BOX
                explain_failure(self.inputs, error)
                raise
        self.habits.row_bytes = row_bytes
        return rows_within(memory, max(row_bytes, row.nbytes), row.device)

    def _compare_with_pair(self, single: Any) -> None:
        """Compare the outputs `single` of the first input with those that it has in a batch of two."""
        pair = torch.stack([self.inputs[0], self.inputs[-1] if len(self.inputs) > 1 else self.inputs[0] / 2])
        query = self.query[[0, -1]]
        try:
            outputs = self.outputs(pair, query)
        except Exception as error:
            if not self.can_retry_one_by_one(query, error, pair):
                raise
            return
        self._decide_batching(single, outputs, lambda: self.outputs(pair[:1], query[:1]))

    def _decide_batching(self, single: Any, batch: Any, repeat: Callable[[], Any]) -> None:
        """Decide whether rows go together, from the outputs of one row alone (`single`) and as the first of a `batch`.

        They go one by one if these differ although the row alone has the same outputs when it is repeated. A model that draws
        random numbers has other outputs then, too, and its rows go together. Warns of a model that has other outputs also for
        the same random numbers.
        """
        rounding = self.surroundings.rounding
        differs = not same_first_row(single, batch, rounding)
        self.habits.alone = differs and same_first_row(single, repeat(), rounding)
        self.habits.together = not self.habits.alone
        if differs and not self.habits.alone:
            outputs: list[Any] = []
            for _ in range(2):
                with self.surroundings.computing(), torch.no_grad():  # which begins with the seed
                    outputs.append(repeat())
            if not same_first_row(outputs[0], outputs[1], rounding):
                warnings.warn(
                    "the model gives other outputs for the same input and the same random numbers, as it keeps something "
                    "between its calls, or draws numbers of its own; the results depend on how often it was called",
                    stacklevel=1 + frames_of_ours(),
                )


@contextmanager
def backward_pass() -> Iterator[None]:
    """Explains the error of a backward pass in which the model computes parts again (activation checkpointing)."""
    try:
        yield
    except RuntimeError as error:
        if "checkpoint" not in str(error):
            raise
        raise ValueError(
            "the model computes a part of itself again in the backward pass (torch.utils.checkpoint), without the changes that "
            "the method made; turn checkpointing off, e.g. model.gradient_checkpointing_disable()"
        ) from error


LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The memory formats with the channels last, by the number of the inputs' axes."""


def _layouts(model: Model, inputs: Float[Tensor, "B C *S"]) -> list[torch.memory_format]:
    """The memory formats to try: channels last if the inputs have it, or if it is faster, as for convolutions on a CPU.

    Models that call `.view` on the output of a convolution fail with it. They get contiguous inputs.
    """
    last, ordinary = LAST.get(inputs.ndim), torch.contiguous_format
    if last is None:
        return [ordinary]
    if inputs.is_contiguous(memory_format=last) and not inputs.is_contiguous():
        return [last]
    # A compiled model chooses the format itself; a callable that is no module may be a session that needs its own.
    fast = inputs.device.type == "cpu" and isinstance(model, nn.Module) and not hasattr(model, "_orig_mod")
    return [last, ordinary] if fast else [ordinary]
