"""Activations of a layer, and the gradients of the score by them.

All methods that read one backward pass share `flows`. They differ in the backward rules of that pass, and in how they make a
map of activations and gradients (see `sfumato.methods.method.LayerMethod`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfumato.layers.axes import Axes, axes_of
from sfumato.layers.capture import Capture, captured, check_rows, find_layer, number_of_call
from sfumato.layers.tokens import check_axes
from sfumato.model.backward.rule import BackwardRule
from sfumato.model.backward.rules import BackwardRules
from sfumato.model.effects import Model, saved_bytes
from sfumato.model.inputs import explain_failure
from sfumato.model.memory import rows_within
from sfumato.model.subject import Subject, backward_pass

INPUTS_FOR_AXES = 2
"""The number of inputs in the pass from which the axes of a layer's values are read. Two tell the batch from an axis of one."""


def axes_at(
    model: Model,
    layer: str,
    at: str,
    inputs: Float[Tensor, "N C *S"],
    run: Callable[[Tensor], Any],
    layout: str = "",
    call: int = -1,
) -> Axes | None:
    """The meaning of the axes of a layer's output, or with `at="input"` of its input; None if they are not known.

    `run` runs the model for the first two of the inputs. It is not called if `layout` names all axes, as "BHWC"
    does and "BNC" does not. Raises `LayoutError` if the first axis is not the batch, `ValueError` if there is no such layer.
    """
    module = find_layer(model, layer)
    if not layer or not isinstance(model, nn.Module) or (layout and "N" not in layout):
        return None
    axes = axes_of(model, module, at, inputs[:INPUTS_FOR_AXES], run, call)
    if not layout:
        check_axes(axes, layer, at=at)
    return axes


@dataclass(frozen=True, eq=False)
class Flow:
    """The activation of a layer and the signal that flows back to it, for `N` queries."""

    activation: Float[Tensor, " N *P"]
    """`(N, C, *L)`, or `(N, tokens, C)`, in the layer's own order of axes."""
    gradient: Float[Tensor, " N *P"]
    """The gradient of the score under the backward rules."""
    scores: Float[Tensor, " N"]
    r"""$\Phi(x)$."""


Backward = Callable[
    [Float[Tensor, " N"], Float[Tensor, " N *P"], Sequence[Float[Tensor, "..."]]], Float[Tensor, " N *P"]
]
"""From scores, the layer's output and the outputs of other watched layers to the signal at the layer's output."""


def gradient(
    scores: Float[Tensor, " N"],
    output: Float[Tensor, " N *P"],
    watched: Sequence[Float[Tensor, "..."]] = (),  # noqa: ARG001  # a Backward
) -> Float[Tensor, " N *P"]:
    r"""$\partial \Phi / \partial a$ for every query, by one pass from the sum of the scores, as no row influences another."""
    (gradients,) = signals_at([scores.sum()], [output])
    return gradients


def signals_at(
    outputs: Sequence[Float[Tensor, "..."]],
    inputs: Sequence[Float[Tensor, "..."]],
    signals: Sequence[Float[Tensor, "..."]] | None = None,
) -> tuple[Float[Tensor, "..."], ...]:
    """`torch.autograd.grad` with the graph retained. Raises `ValueError` if no signal reaches one of the inputs."""
    gradients: Sequence[Tensor | None] = [None]
    if all(output.requires_grad for output in outputs):
        with backward_pass():
            gradients = torch.autograd.grad(outputs, inputs, signals, retain_graph=True, allow_unused=True)
    if any(values is None for values in gradients):
        raise ValueError(
            "the score does not depend on the layer, or the input: no gradient flows back to it; name a layer between the "
            "input and the score, and see that the model is differentiable from there (no .detach(), no torch.no_grad()); for "
            "a model without gradients use RISE() or ExtremalPerturbation(ascent=EvolutionAscent())"
        )
    return tuple(values for values in gradients if values is not None)


def flows(
    subject: Subject,
    layer: str,
    rules: BackwardRule | str | None,
    memory: float | None,
    watch: Sequence[str] = (),
    backward: Backward = gradient,
    call: int = -1,
) -> Iterator[Flow]:
    """The flow through the layer for all queries, in chunks that fit into `memory` GiB.

    The first query runs alone. Its pass also measures how much memory a query needs.
    """
    forward = ForwardPass(subject, layer, rules, watch, call)
    start, rows = 0, 1
    while start < len(subject.inputs):
        query = subject.query[start : start + (1 if subject.habits.alone else rows)]
        with subject.surroundings.computing():
            if start == 0 and len(subject.inputs) > 1:
                result, saved = _run_and_measure(subject, forward, query)
                rows = rows_within(memory, max(saved, subject.inputs[0].nbytes), query.device)
            else:
                try:
                    result = forward(query)
                except Exception as error:
                    if not subject.can_retry_one_by_one(query, error):
                        explain_failure(subject.inputs, error)
                        raise
                    continue
            if start == 0 and len(subject.inputs) > 1:
                subject.settle_layout(result.outputs)
            if not subject.rows_are_independent(query, result.outputs):
                continue
            signal = backward(result.scores, result.output, result.watched)
            flow = Flow(result.output.detach(), signal.detach(), result.scores.detach())
        yield flow
        start += len(query)


class ForwardResult(NamedTuple):
    """The results of a forward pass, with their graph."""

    outputs: Any
    """The outputs of the model."""
    scores: Float[Tensor, " N"]
    """The scores."""
    output: Float[Tensor, " N *P"]
    """The output of the layer."""
    watched: list[Float[Tensor, "..."]]
    """The outputs of the other watched layers."""


def _run_and_measure(subject: Subject, forward: "ForwardPass", query: Int[Tensor, " N"]) -> tuple[ForwardResult, int]:
    """The results of a forward pass, and the number of bytes that its graph keeps."""
    passes: list[ForwardResult] = []
    try:
        saved = saved_bytes(lambda: passes.append(forward(query)))
    except RuntimeError as error:
        explain_failure(subject.inputs, error)
        raise
    return passes[0], saved


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """A forward pass for any queries that captures the output of the layer."""

    subject: Subject
    layer: str
    rules: BackwardRule | str | None
    watch: Sequence[str]
    call: int

    def __call__(self, query: Int[Tensor, " N"]) -> ForwardResult:
        model, inputs = self.subject.model, self.subject.inputs[query]
        call = self.call
        if self.layer and call < -1:  # a cut needs the number, which is known only after a pass
            call = number_of_call(
                find_layer(model, self.layer), self.layer, call, lambda: self.subject.outputs(inputs, query)
            )
        rules = BackwardRules(self.rules) if self.rules else None
        # A rule of probabilities divides them among all that comes from the input, also by paths around the layer.
        cut = not (rules and rules.conserves)
        with ExitStack() as effects:
            capture = Capture("", cut=True)
            if not (self.layer and cut):  # needs no hook, so that it works for any callable
                inputs = capture.keep(inputs)
            if self.layer:
                capture = effects.enter_context(captured(model, self.layer, cut, call))
            watched = [effects.enter_context(captured(model, name)) for name in self.watch]
            effects.enter_context(rules or nullcontext())
            outputs = self.subject.outputs(inputs, query)
        scores = self.subject.scores_of(outputs, query)
        output = capture.output
        check_rows(output, len(query), self.layer, places=True)
        watched_outputs = [entry.output for entry in watched]
        if rules and query[0] == 0:
            rules.check(scores, [output, *watched_outputs])
        return ForwardResult(outputs, scores, output, watched_outputs)
