"""Looking into a network: what a layer puts out, and how the score changes with it.

All methods that read one backward pass share `explained`: they differ in the rules under which it runs and in how they
make a map of activations and gradients.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sfumato.attribution import Attribution, versions
from sfumato.axes import Axes, axes_of
from sfumato.configuration import as_json, check_number
from sfumato.inputs import check_batch_axis
from sfumato.probing import Model, saved_bytes
from sfumato.rules import EXCITATION, BackwardRules, check_visible
from sfumato.space import enlarged, gaussian_blur
from sfumato.subject import GIB, Subject
from sfumato.tokens import check_axes, check_layout, laid_out


class Capture:
    """What a layer puts out, once the model has run."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self._output: Tensor | None = None

    @property
    def output(self) -> Tensor:
        """The layer's output; of its last call if the model calls it several times."""
        if self._output is None:
            raise ValueError(
                f"the model did not call its layer {self.layer!r}; name one that takes part, and none within a part that is "
                "compiled or scripted"
            )
        return self._output

    def keep(self, output: Any, cut: bool) -> Tensor:
        """Remember the output; what the model is to go on with, a copy, may be changed in place."""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"the layer {self.layer!r} puts out a {kind}, not a tensor of floating-point numbers; name a layer within it"
            )
        self._output = output.detach().requires_grad_() if cut else output
        return self._output.clone()


@contextmanager
def captured(model: Model, layer: str, cut: bool = False) -> Iterator[Capture]:
    """Capture the output of a submodule, named as in `model.named_modules()`; "" means the model's input.

    With `cut`, what is captured is a new leaf of the graph that requires gradients: nothing flows back below the layer.
    The hook goes when the context is left. Raises `ValueError` where there is no such layer, or none that can be watched.
    """
    capture = Capture(layer)
    module = find_layer(model, layer)
    if layer:
        handle = module.register_forward_hook(lambda _module, _inputs, output: capture.keep(output, cut))
    else:
        handle = module.register_forward_pre_hook(
            lambda _, arguments: (capture.keep(arguments[0], cut), *arguments[1:])
        )
    try:
        yield capture
    finally:
        handle.remove()


def find_layer(model: Model, layer: str) -> nn.Module:
    """The submodule of this name."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"layer={layer!r} names a part of an nn.Module; the model is a {type(model).__name__}, which has none"
        )
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            "the model is compiled by torch.compile, inside which no layer can be watched; give the one from before, "
            "model._orig_mod"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    if layer not in modules:
        names = [name for name in modules if name]
        close = difflib.get_close_matches(layer, names, n=5, cutoff=0.5) or names[-5:]
        raise ValueError(
            f"the model has no layer {layer!r}. Did you mean {' or '.join(map(repr, close)) or 'none: it has no layers'}? "
            "All: [name for name, _ in model.named_modules()]"
        )
    return modules[layer]


WATCHED = 2
"""Inputs in the pass that tells what the axes of a layer's values are."""


def axes_at(
    model: Model, layer: str, at: str, inputs: Tensor, run: Callable[[Tensor], Any], told: str = ""
) -> Axes | None:
    """What the axes of a layer's output, or `at` the "input" of what it takes in, stand for; None where that is not known.

    `run` runs the model for inputs `(N, C, *S)`, of which the first two are taken, unless all is `told` by a `layout`. Raises
    `LayoutError` where the first axis is not the batch, and `ValueError` where there is no such layer.
    """
    module = find_layer(model, layer)
    if not layer or not isinstance(model, nn.Module) or (told and "N" not in told):
        return None
    axes = axes_of(model, module, at, inputs[:WATCHED], run)
    if not told:
        check_axes(axes, layer)
    return axes


@dataclass(frozen=True)
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
    (found,) = flowing([scores.sum()], [output])
    return found


def flowing(of: Sequence[Tensor], to: Sequence[Tensor], signals: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
    """`torch.autograd.grad`, keeping the graph, with an error that says what is the matter where nothing flows."""
    found: Sequence[Tensor | None] = [None]
    if all(each.requires_grad for each in of):
        found = torch.autograd.grad(of, to, signals, retain_graph=True, allow_unused=True)
    if any(each is None for each in found):
        raise ValueError(
            "the score does not depend on the layer, as far as gradients tell; name a layer that lies between the input "
            "and the score, and see that the model does not compute it under torch.no_grad()"
        )
    return tuple(each for each in found if each is not None)


def flows(
    subject: Subject,
    layer: str,
    rules: str | None,
    memory: float,
    watch: Sequence[str] = (),
    descent: Descent = gradient,
) -> Iterator[Flow]:
    """For every query what flows through the layer, in chunks of queries that fit into `memory` GiB.

    The first goes alone and tells how much the others need, so that no pass is made for that alone.
    """
    ascent = Ascent(subject, layer, rules, watch)
    start, rows = 0, 1
    while start < len(subject.inputs):
        query = subject.query[start : start + rows]
        with subject.surroundings.computing():
            if start == 0 and len(subject.inputs) > 1:
                (scores, output, watched), kept = _measured(subject, ascent, query)
                rows = max(1, int(memory * GIB / max(kept, subject.inputs[0].nbytes)))
            else:
                scores, output, watched = ascent(query)
            flow = Flow(output.detach(), descent(scores, output, watched).detach(), scores.detach())
        yield flow
        start += len(query)


Climbed = tuple[Tensor, Tensor, list[Tensor]]
"""Scores `(N,)`, the layer's output, and those of the layers watched, with their graph."""


def _measured(subject: Subject, ascent: Callable[[Tensor], Climbed], query: Tensor) -> tuple[Climbed, int]:
    """What the ascent gives, and the bytes that its graph keeps."""
    climbed: list[Climbed] = []
    try:
        kept = saved_bytes(lambda: climbed.append(ascent(query)))
    except RuntimeError as error:
        check_batch_axis(tuple(subject.inputs.shape), error)
        raise
    return climbed[0], kept


@dataclass(frozen=True)
class Ascent:
    """The way up, for any queries."""

    subject: Subject
    layer: str
    rules: str | None
    watch: Sequence[str]

    def __call__(self, query: Tensor) -> Climbed:
        model, seen = self.subject.model, self.subject.inputs[query]
        # Excitation shares out among all that comes from the input, also by ways that go round the layer.
        cut = self.rules != EXCITATION
        with ExitStack() as effects:
            capture = Capture("")
            if not (self.layer and cut):  # needs no hook, so that any callable will do
                seen = capture.keep(seen, cut=True)
            if self.layer:
                capture = effects.enter_context(captured(model, self.layer, cut))
            watched = [effects.enter_context(captured(model, each)) for each in self.watch]
            effects.enter_context(BackwardRules(self.rules) if self.rules else nullcontext())
            outputs = self.subject.outputs(seen, query)
        scores = self.subject.score(outputs, query).float()
        output = capture.output
        if output.ndim < 3 or len(output) != len(query):
            raise ValueError(
                f"the layer {self.layer!r} puts out shape {tuple(output.shape)} for {len(query)} inputs, not (N, C, *L): it "
                "has no places to show; name a layer further down"
            )
        return scores, output, [each.output for each in watched]


class LayerMethod(Protocol):
    """What the methods here have in common.

    - `layer`: the dotted name of the module at whose output the method looks, "" for the model's input.
    - `layout`: which axis of that output is which, as "BHWC"; "" to find out.
    - `smooth`: width of the Gaussian that smooths the map, as a fraction of its shortest side.
    - `resize`: whether the map is interpolated linearly to the inputs' size, or stays as large as the layer.
    - `memory`: GiB that the model may keep for its backward pass; more queries than fit go through it in turns.
    """

    @property
    def layer(self) -> str: ...
    @property
    def layout(self) -> str: ...
    @property
    def smooth(self) -> float: ...
    @property
    def resize(self) -> bool: ...
    @property
    def memory(self) -> float: ...


def check_options(method: LayerMethod) -> None:
    """Raise `ValueError` unless the options that the methods share can be used."""
    if not isinstance(method.layer, str):
        raise ValueError(f'layer is the dotted name of a module, "" for the input; got {method.layer!r}')
    check_layout(method.layout)
    if not isinstance(method.resize, bool):
        raise ValueError(f"resize is True or False; got {method.resize!r}")
    check_number("smooth", method.smooth, "a fraction of the map's shortest side", least=0)
    check_number("memory", method.memory, "in GiB", above=0)


def explained(
    method: LayerMethod,
    model: Model,
    inputs: Tensor,
    targets: Any,
    read: Callable[[Tensor, Tensor], Tensor],
    rules: str | None = None,
    watch: Sequence[str] = (),
    descent: Descent = gradient,
) -> Attribution:
    """The attribution for inputs `(B, C, *S)` whose maps `(N, 1, *L)` `read` makes of activations and gradients `(N, C, *L)`.

    A transformer's tokens `(N, tokens, C)` are laid out as in the picture: see `tokens.layout`.
    """
    if rules:
        check_visible(model)
    with Subject.prepared(model, inputs, targets) as subject:
        space = tuple(subject.inputs.shape[2:])
        axes = None
        if method.layer:
            with subject.surroundings.computing():
                axes = axes_at(model, method.layer, "output", subject.inputs, partial(_outputs, subject), method.layout)
        maps, whole = [], []
        for flow in flows(subject, method.layer, rules, method.memory, watch, descent):
            with subject.surroundings.computing(), torch.no_grad():
                activation, found = (
                    laid_out(each.float() if each.itemsize < 4 else each, space, method.layer, axes, method.layout)
                    for each in (flow.activation, flow.gradient)
                )
                maps.append(_finished(method, read(activation, found).float(), space))
            whole.append(flow.scores)
        about = {"method": as_json(method), "score": as_json(subject.score), "versions": versions()}
        with subject.surroundings.computing(), torch.no_grad():
            attribution = Attribution(map=torch.cat(maps), whole=torch.cat(whole), about=about)
            if not torch.isfinite(torch.cat(whole)).all():
                scores = torch.cat(whole).tolist()
                raise ValueError(f"the score of the whole inputs is not finite: {scores}; check the model")
    return attribution


def _outputs(subject: Subject, inputs: Tensor) -> Any:
    """The model's outputs for the first inputs."""
    return subject.outputs(inputs, subject.query[: len(inputs)])


def _finished(method: LayerMethod, saliency: Tensor, space: tuple[int, ...]) -> Tensor:
    if method.resize:
        saliency = enlarged(saliency, space)
    if method.smooth:
        saliency = gaussian_blur(saliency, method.smooth * min(saliency.shape[2:]))
    return saliency.contiguous()


CHANNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_abs": lambda values: values.abs().amax(1, keepdim=True),
    "sum_abs": lambda values: values.abs().sum(1, keepdim=True),
    "norm": lambda values: values.norm(dim=1, keepdim=True),
    "sum": lambda values: values.sum(1, keepdim=True),
}
"""From `(N, C, *L)` to `(N, 1, *L)`: the largest magnitude (Simonyan et al. 2014), the sum of magnitudes, the Euclidean
norm, and the sum, which keeps the sign."""


def check_reduction(reduction: str) -> None:
    """Raise `ValueError` unless it is one of `CHANNELS`."""
    if reduction not in CHANNELS:
        raise ValueError(f"reduction must be one of {', '.join(CHANNELS)}; got {reduction!r}")
