"""Activations and gradients at a layer: what it puts out, and how the score changes with it.

All methods that read one backward pass share `flows`: they differ in the rules under which it runs and in how they make a
map of activations and gradients (see `sfumato.methods.method.LayerMethod`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sfumato.layers.axes import Axes, axes_of
from sfumato.layers.capture import Capture, captured, check_rows, find_layer, number_of_call
from sfumato.layers.tokens import check_axes
from sfumato.model.backward.rule import BackwardRule
from sfumato.model.backward.rules import BackwardRules
from sfumato.model.effects import Model, saved_bytes
from sfumato.model.inputs import check_batch_axis
from sfumato.model.subject import GIB, Subject, backward_pass

WATCHED = 2
"""Inputs in the pass that tells what the axes of a layer's values are."""


def axes_at(
    model: Model,
    layer: str,
    at: str,
    inputs: Tensor,
    run: Callable[[Tensor], Any],
    layout: str = "",
    call: int = -1,
) -> Axes | None:
    """What the axes of a layer's output, or `at` the "input" of what it takes in, stand for; None where that is not known.

    `run` runs the model for inputs `(N, C, *S)`, of which the first two are taken; it does not where a `layout` says all.
    Raises `LayoutError` where the first axis is not the batch, and `ValueError` where there is no such layer.
    """
    module = find_layer(model, layer)
    if not layer or not isinstance(model, nn.Module) or (layout and "N" not in layout):
        return None
    axes = axes_of(model, module, at, inputs[:WATCHED], run, call)
    if not layout:
        check_axes(axes, layer)
    return axes


@dataclass(frozen=True, eq=False)
class Flow:
    """What went up and came down through a layer, for `N` queries."""

    activation: Tensor
    """`(N, C, *L)`, or `(N, tokens, C)`."""
    gradient: Tensor
    """Of the score, under the rules; same shape."""
    scores: Tensor
    r"""$\Phi(x)$, `(N,)`."""


Descent = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]
"""From scores `(N,)`, the layer's output and the outputs of other layers watched to what flows back to the layer."""


def gradient(scores: Tensor, output: Tensor, watched: Sequence[Tensor] = ()) -> Tensor:  # noqa: ARG001  # a Descent
    r"""$\partial \Phi / \partial a$ for every query; each depends on its own row alone."""
    (gradients,) = flowing([scores.sum()], [output])
    return gradients


def flowing(of: Sequence[Tensor], to: Sequence[Tensor], signals: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
    """`torch.autograd.grad`, keeping the graph, with an error that says what is the matter where nothing flows."""
    gradients: Sequence[Tensor | None] = [None]
    if all(output.requires_grad for output in of):
        with backward_pass():
            gradients = torch.autograd.grad(of, to, signals, retain_graph=True, allow_unused=True)
    if any(values is None for values in gradients):
        raise ValueError(
            "the score does not depend on the layer, or the input, as far as gradients tell; name a layer that lies between "
            "the input and the score, and see that the model is differentiable from there (no .detach(), no torch.no_grad())"
        )
    return tuple(values for values in gradients if values is not None)


def flows(
    subject: Subject,
    layer: str,
    rules: BackwardRule | str | None,
    memory: float,
    watch: Sequence[str] = (),
    descent: Descent = gradient,
    call: int = -1,
) -> Iterator[Flow]:
    """For every query what flows through the layer, in chunks of queries that fit into `memory` GiB.

    The first goes alone and tells how much the others need, so that no pass is made for that alone.
    """
    forward = ForwardPass(subject, layer, rules, watch, call)
    start, rows = 0, 1
    while start < len(subject.inputs):
        query = subject.query[start : start + (1 if subject.habits.alone else rows)]
        with subject.surroundings.computing():
            if start == 0 and len(subject.inputs) > 1:
                passed, saved = _measured(subject, forward, query)
                rows = max(1, int(memory * GIB / max(saved, subject.inputs[0].nbytes)))
            else:
                try:
                    passed = forward(query)
                except Exception as error:
                    if not subject.takes_one(query, error):
                        raise
                    continue
            if start == 0 and len(subject.inputs) > 1:
                subject.settle_layout(passed.outputs)
            if not subject.look_beside(query, passed.outputs):
                continue
            signal = descent(passed.scores, passed.output, passed.watched)
            flow = Flow(passed.output.detach(), signal.detach(), passed.scores.detach())
        yield flow
        start += len(query)


class Passed(NamedTuple):
    """What a pass gives, with its graph."""

    outputs: Any
    """The model's."""
    scores: Tensor
    """`(N,)`"""
    output: Tensor
    """The layer's."""
    watched: list[Tensor]
    """The outputs of the other layers watched."""


def _measured(subject: Subject, forward: "ForwardPass", query: Tensor) -> tuple[Passed, int]:
    """What the forward pass gives, and the bytes that its graph keeps."""
    passes: list[Passed] = []
    try:
        saved = saved_bytes(lambda: passes.append(forward(query)))
    except RuntimeError as error:
        check_batch_axis(tuple(subject.inputs.shape), error)
        raise
    return passes[0], saved


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """A forward pass in which the layer is captured, for any queries."""

    subject: Subject
    layer: str
    rules: BackwardRule | str | None
    watch: Sequence[str]
    call: int

    def __call__(self, query: Tensor) -> Passed:
        model, inputs = self.subject.model, self.subject.inputs[query]
        call = self.call
        if self.layer and call < -1:  # which one that is shows when the network has run
            call = number_of_call(
                find_layer(model, self.layer), self.layer, call, lambda: self.subject.outputs(inputs, query)
            )
        rules = BackwardRules(self.rules) if self.rules else None
        # Probabilities are shared out among all that comes from the input, also by ways that go round the layer.
        cut = not (rules and rules.conserves)
        with ExitStack() as effects:
            capture = Capture("", cut=True)
            if not (self.layer and cut):  # needs no hook, so that any callable will do
                inputs = capture.keep(inputs)
            if self.layer:
                capture = effects.enter_context(captured(model, self.layer, cut, call))
            watched = [effects.enter_context(captured(model, name)) for name in self.watch]
            effects.enter_context(rules or nullcontext())
            outputs = self.subject.outputs(inputs, query)
        scores = self.subject.scored(outputs, query)
        output = capture.output
        check_rows(output, len(query), self.layer, places=True)
        others = [other.output for other in watched]
        if rules and query[0] == 0:
            rules.check(scores, [output, *others])
        return Passed(outputs, scores, output, others)
