"""What is explained: a model, its inputs, and the score of its outputs. Every method begins here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.model.arguments import WithArguments, parted
from sfumato.model.effects import Model, frozen, saved_bytes
from sfumato.model.inputs import check_batch_axis, check_inputs, check_model
from sfumato.model.modes import Surroundings
from sfumato.model.outputs import as_tensors, same_first_row, same_outputs
from sfumato.scores import Score, as_score, check_finite, check_score

GIB = 2**30

WHOLE = "the whole inputs"
"""What messages call them."""

BLACK_BOX = 16
"""Rows at once through a model of whose memory nothing can be seen."""


@dataclass
class Habits:
    """What is found out about a model while it is called."""

    layouts: list[torch.memory_format]
    """How the numbers of what the model sees may lie in memory, the fastest first; the last one is safe."""
    settled: bool = False
    """Whether the first of them is known to change nothing. Until then the last one is used."""
    together: bool = False
    """Whether it has taken several rows at once."""
    score: Score | None = None
    """The score as it is read for the model's outputs, once there are some."""
    alone: bool = False
    """Whether rows go through it one by one: it takes no more, or lets the rows of a batch change one another's outputs."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, inputs `(B, C, *S)` and the score of `B` queries, checked, with the model held still."""

    model: Model
    inputs: Tensor
    score: Score
    surroundings: Surroundings
    habits: Habits
    more: WithArguments | None = field(default=None, kw_only=True)
    """What the model needs besides its input."""

    @classmethod
    @contextmanager
    def prepared(
        cls,
        model: Model,
        inputs: Tensor,
        targets: Any,
        meaning: str = "logit",
        seed: int = 0,
        deterministic: bool = False,
    ) -> Iterator["Subject"]:
        """Check what was given, and hold the model frozen meanwhile. Raises `ValueError` for what cannot be used.

        `meaning` is that of a class index, of `OF_A_CLASS`. `seed` is that of a model which draws random numbers.
        """
        inputs = check_inputs(inputs)
        model, more = parted(model)
        check_model(model, inputs)
        if more is not None:
            more.check(len(inputs))
        score = as_score(targets, len(inputs), meaning)
        surroundings = Surroundings.now(inputs.device, seed, deterministic)
        with frozen(model):
            with surroundings.computing():
                inputs = inputs.clone()  # what was made in inference mode cannot serve a backward pass
            yield cls(model, inputs, score, surroundings, Habits(_layouts(model, inputs)), more=more)

    @property
    def query(self) -> Tensor:
        """The index of each input, `(B,)`."""
        return torch.arange(len(self.inputs), dtype=torch.long, device=self.inputs.device)

    def outputs(self, seen: Tensor, query: Tensor) -> Any:
        """The model's outputs for `(N, C, *S)`, in the inputs' precision and under the caller's autocast.

        The rows belong to the queries `(N,)`.
        """
        seen, habits = seen.to(self.inputs.dtype), self.habits
        arguments, named = self.more.of(query) if self.more is not None else ((), {})
        try:
            laid = seen.contiguous(memory_format=habits.layouts[0 if habits.settled else -1])
            outputs = self.surroundings.call(self.model, laid, *arguments, **named)
        except RuntimeError as error:  # of several rows, after one has gone well
            if not habits.settled or len(habits.layouts) == 1 or "view size is not compatible" not in str(error):
                raise
            habits.layouts.pop(0)
            return self.outputs(seen, query)
        return as_tensors(outputs, self.inputs.device)

    def settle_layout(self, outputs: Any, run: Callable[[Tensor], Any] | None = None) -> None:
        """Use the faster layout from now on, if the first input has these outputs in it too.

        A model that reads strides or storage answers otherwise, and one that calls `.view` fails. `run` computes outputs of
        one input `(1, C, *S)`, by default those of the model.
        """
        habits, example = self.habits, self.inputs[:1]
        if habits.settled or len(habits.layouts) == 1:
            return
        run = run or (lambda one: self.outputs(one, self.query[:1]))
        with torch.no_grad():
            if bool((example == example.flatten()[0]).all()):  # which reads the same in any order
                generator = torch.Generator("cpu").manual_seed(0)
                noise = torch.rand(example.shape, generator=generator, dtype=torch.float32, device="cpu")
                example = example + noise.to(example)
                outputs = run(example)
            habits.settled = True
            try:
                same = same_outputs(run(example), outputs, self.surroundings.rounding)
            except Exception:  # noqa: BLE001  # whatever the model does not stand, it need not
                same = False
            if not same:
                habits.layouts.pop(0)

    def phi(self, seen: Tensor, query: Tensor) -> Tensor:
        """The scores `(N,)` of `seen` `(N, C, *S)`, whose rows belong to the queries `(N,)`."""
        if self.habits.alone and len(seen) > 1:
            one_by_one = zip(seen.split(1), query.split(1), strict=True)
            return torch.cat([self.phi(row, its_query) for row, its_query in one_by_one])
        try:
            outputs = self.outputs(seen, query)
        except Exception as error:
            if not self.takes_one(query, error, seen):
                raise
            return self.phi(seen, query)
        self.habits.together |= len(seen) > 1
        return self.scored(outputs, query)

    def scored(self, outputs: Any, query: Tensor) -> Tensor:
        """The scores `(N,)` of the model's outputs for rows of the queries `(N,)`."""
        scores = check_score(self.score(outputs, query), outputs, len(query)).float()
        if self.habits.score is None:
            self.habits.score = self.score.resolve(outputs)
        return scores

    @property
    def used_score(self) -> Score:
        """The score as it was read for the model's outputs: what a result says of itself."""
        return self.habits.score or self.score

    def takes_one(self, query: Tensor, error: Exception, seen: Tensor | None = None) -> bool:
        """Whether the model, which failed with this error on the rows of `query`, takes a single one. Then they go one by one.

        As through a program that was exported for a batch of one. `seen` is what it failed on, by default the inputs.
        """
        broken = isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError)
        if len(query) == 1 or self.habits.together or broken:
            return False
        try:
            with torch.no_grad():
                self.outputs(self.inputs[query[:1]] if seen is None else seen[:1], query[:1])
        except Exception:  # noqa: BLE001  # then the number of rows was not what was wrong
            return False
        self.habits.alone = True
        return True

    def look_beside(self, query: Tensor, outputs: Any) -> bool:
        """Whether the outputs of these inputs, had together, are those that they have alone; the first tells for all.

        Where they are not, rows go one by one from now on. Once several have gone together well, this is not looked at again.
        """
        if len(query) > 1 and not self.habits.together:

            def first() -> Any:
                with torch.no_grad():
                    return self.outputs(self.inputs[query[:1]], query[:1])

            self._judge(first(), outputs, first)
        return len(query) == 1 or not self.habits.alone

    def whole(self, rows: int | None = None) -> Tensor:
        r"""$\Phi(x)$, `(B,)`, in chunks of `rows`; raises `ValueError` where it is not finite."""
        with self.surroundings.computing(), torch.no_grad():
            chunks = self.query.split(rows or len(self.inputs))
            return check_finite(torch.cat([self.phi(self.inputs[chunk], chunk) for chunk in chunks]), WHOLE)

    def looked_at(self, gib: float) -> tuple[int, Tensor]:
        r"""How many rows may go through the model at once, if what it keeps for a backward pass is to fit into so many GiB,
        and `whole`.

        A single row goes first, which shows whether the score can be had of it, and then a pair, which shows whether the
        rows of a batch leave one another alone.
        """
        outputs: list[Any] = []
        query = self.query[:1]

        def run(one: Tensor) -> None:
            outputs.append(self.outputs(one, query))

        rows = self._rows(gib, run)
        with self.surroundings.computing(), torch.no_grad():
            if not outputs:
                run(self.inputs[:1])
            self.settle_layout(outputs[0])
            first = self.scored(outputs[0], query)
            # A model that draws must not draw the same again.
            torch.rand(1, dtype=torch.float32, device=self.inputs.device)
            self._look_at_a_pair(outputs[0])
        return rows, check_finite(first, WHOLE) if len(self.inputs) == 1 else self.whole(rows)

    def _rows(self, gib: float, run: Callable[[Tensor], object]) -> int:
        with self.surroundings.computing():
            one = self.inputs[:1].clone().requires_grad_()
            try:
                kept = saved_bytes(lambda: run(one))
            except (RuntimeError, BufferError) as error:
                if "grad" in str(error):  # a black box may refuse a tensor with gradients, as numpy does
                    return BLACK_BOX
                check_batch_axis(tuple(self.inputs.shape), error)
                raise
        return max(1, int(gib * GIB / max(kept, one.nbytes)))

    def _look_at_a_pair(self, alone: Any) -> None:
        """Find out whether the first input has the outputs that it has `alone` also beside another one."""
        pair = torch.stack([self.inputs[0], self.inputs[-1] if len(self.inputs) > 1 else self.inputs[0] / 2])
        query = self.query[[0, -1]]
        try:
            beside = self.outputs(pair, query)
        except Exception as error:
            if not self.takes_one(query, error, pair):
                raise
            return
        self._judge(alone, beside, lambda: self.outputs(pair[:1], query[:1]))

    def _judge(self, alone: Any, beside: Any, again: Callable[[], Any]) -> None:
        """Rows go together if one has the same outputs beside others as alone; else one by one, if it has them again.

        A model that draws random numbers has others again, whatever is beside it.
        """
        rounding = self.surroundings.rounding
        self.habits.alone = not same_first_row(alone, beside, rounding) and same_first_row(alone, again(), rounding)
        self.habits.together = not self.habits.alone


@contextmanager
def backward_pass() -> Iterator[None]:
    """Around a backward pass through a model, to say what is the matter where the model computes parts again in it."""
    try:
        yield
    except RuntimeError as error:
        if "checkpoint" not in str(error):
            raise
        raise ValueError(
            "the model computes a part of itself again in the backward pass (torch.utils.checkpoint), without what a method "
            "did to it; turn checkpointing off, e.g. model.gradient_checkpointing_disable()"
        ) from error


LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _layouts(model: Model, inputs: Tensor) -> list[torch.memory_format]:
    """Channels last where the caller has them so, or where that is faster: a processor's convolutions.

    Models that call `.view` on what a convolution gives cannot take it: they get ordinary inputs after all.
    """
    last, ordinary = LAST.get(inputs.ndim), torch.contiguous_format
    if last is None:
        return [ordinary]
    if inputs.is_contiguous(memory_format=last) and not inputs.is_contiguous():
        return [last]
    # A compiled model chooses for itself; what is no module may be a session that wants its own.
    fast = inputs.device.type == "cpu" and isinstance(model, nn.Module) and not hasattr(model, "_orig_mod")
    return [last, ordinary] if fast else [ordinary]
