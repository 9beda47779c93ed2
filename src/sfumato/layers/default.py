"""The default layer of a network: the last one with places that the outputs depend on, found by running it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sfumato.layers.axes import Axes, Labels, following, summarise
from sfumato.layers.capture import plain_tensor, watched_calls
from sfumato.layers.tokens import Layout, LayoutError, layout
from sfumato.model.inputs import compiled_part, explain_failure
from sfumato.model.subject import Subject
from sfumato.scores import is_of_class, logits_of


def default_layer(subject: Subject, below: bool = False) -> str:
    """The name of the last module of a subject's network with places that the outputs depend on; empty if there is none.

    With `below`, it is the last one that lies below the last weights too, for methods that pass back through these.

    It is the same for all inputs of one shape. For classes it is one on which any class depends. For other scores, which may
    read only a part of the outputs, it is one on which the score of the first query depends. A compiled network, and a model
    that is not a network, have none. Raises what the network raises.
    """
    net = subject.model
    if not isinstance(net, nn.Module) or compiled_part(net):
        return ""
    with subject.surroundings.computing():
        example = torch.zeros_like(subject.inputs[:1])
        try:
            query = subject.query[:1]
            score = None if is_of_class(subject.score) else lambda outputs: subject.score(outputs, query)
            found = traced(net, example, lambda rows: subject.outputs(rows, query), score, below)
        except Exception as error:
            explain_failure(subject.inputs, error)
            raise
    return (found.below if below else found.layer) or ""


class Traced(NamedTuple):
    """What a run of a network shows."""

    outputs: Any
    """Its outputs for one input."""
    layer: str | None
    """The last module with places that the outputs depend on, if there is one."""
    below: str | None
    """The last of those that also lie below the last weights, if it was asked for."""


def traced(
    net: nn.Module,
    example: Float[Tensor, "1 C *S"],
    run: Callable[[Tensor], Any] | None = None,
    score: Callable[[Any], Tensor] | None = None,
    below: bool = False,
) -> Traced:
    """The network's outputs for one input, and the names of the last modules with places that the outputs depend on.

    A container comes after its parts: the name is that of a block, not of the last activation in it. Of a transformer's modules
    only blocks and normalisations count. After the last attention, a class token is all that a network may read: then it is the
    normalisation before that attention. Where the outputs are maps themselves, as in segmentation, it is the last one below
    the weights that make them; of a detector, the last one on which both its boxes and their scores depend. `None` if no module
    has places. It takes three forward passes and a backward pass. With `below` also the last one below the last weights is
    asked for; it takes one of each more where the two are not the same, as in a network whose classifier is a convolution.

    `run` computes the network's outputs for an input, if it needs more than the input. `score` is of these outputs what is to
    depend on the layer, by default all. Effects are those on noise, so that the
    layer depends on the network and on the shape of the inputs alone. Raises what the network raises.
    """
    run = run or net
    outputs, seen = modules_seen(net, example, run)
    seen_below = _below_the_last_weights(net, seen)
    if _are_maps(outputs):
        seen = seen_below
    if _are_boxes(outputs):  # a head that makes only boxes, or only their scores, has no places of what was seen
        score = None

    def last(among: list["Seen"]) -> str | None:
        candidates = list(_with_places(net, among, tuple(example.shape[2:])))
        chosen = score and _last_of_effect(net, example, run, candidates, score)
        return chosen or _last_of_effect(net, example, run, candidates) or next((name for name, _ in candidates), None)

    layer = last(seen)
    if not below:
        return Traced(outputs, layer, None)
    is_below = layer is None or any(name == layer for name, _, _ in seen_below)
    return Traced(outputs, layer, layer if is_below else last(seen_below))


def _are_maps(outputs: Any) -> bool:
    """Whether a part of the outputs has more axes than rows and classes."""
    values = tree_flatten(logits_of(outputs))[0]
    return any(isinstance(value, Tensor) and math.prod(value.shape[2:]) > 1 for value in values)


BOXES = frozenset({"boxes", "scores"})
"""What a detector says of each input."""


def _are_boxes(outputs: Any) -> bool:
    """Whether the outputs are those of a detector: a list of mappings with boxes and scores for each input."""
    return (
        isinstance(outputs, list | tuple)
        and bool(outputs)
        and all(isinstance(found, Mapping) and found.keys() >= BOXES for found in outputs)
    )


def _below_the_last_weights(net: nn.Module, seen: list["Seen"]) -> list["Seen"]:
    """Those modules that put something out before the last one with weights of its own does."""
    parts = _parts(net)
    weighted = [
        place
        for place, (name, _, _) in enumerate(seen)
        if any(weight.ndim > 1 for weight in parts[name].parameters(recurse=False))
    ]
    return seen[: weighted[-1]] if weighted else seen


Seen = tuple[str, tuple[int, ...], Axes | None]
"""The name of a module, the shape of its output, and what is known of its axes."""


def modules_seen(
    net: nn.Module, example: Float[Tensor, "1 C *S"], run: Callable[[Tensor], Any]
) -> tuple[Any, list[Seen]]:
    """The network's outputs for one input, and what its modules put out, in this order; without axes if they are not known."""
    try:
        return _run(net, example, run, watch=True)
    except Exception:  # noqa: BLE001  # a network may run although its operations cannot be watched
        return _run(net, example, run, watch=False)


def _run(
    net: nn.Module, example: Float[Tensor, "1 C *S"], run: Callable[[Tensor], Any], watch: bool
) -> tuple[Any, list[Seen]]:
    """The network's outputs, and what its modules put out, in this order."""
    outputs: list[tuple[str, tuple[int, ...], Labels | None]] = []

    with ExitStack() as effects, torch.no_grad():
        watcher = effects.enter_context(following(net, example)) if watch else None

        def returned(name: str, output: Any) -> None:
            if plain_tensor(output):
                outputs.append((name, tuple(output.shape), watcher.labels(output) if watcher else None))

        effects.enter_context(watched_calls(_parts(net), returned=returned))
        logits = run(example)
    space = tuple(example.shape[2:])
    return logits, [
        (name, shape, None if labels is None else summarise(labels, space)) for name, shape, labels in outputs
    ]


def _parts(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if name}


def _with_places(net: nn.Module, seen: Sequence[Seen], space: tuple[int, ...]) -> Iterator[tuple[str, Layout]]:
    """The modules whose outputs are maps of places, and how to read them; the last first."""
    parts = _parts(net)
    for name, shape, axes in reversed(seen):
        if len(shape) not in (3, 2 + len(space)):
            continue
        try:
            laid = layout(shape, space, name, axes)
        except LayoutError:
            continue
        tokens = laid.channels != 1 or len(shape) != 2 + len(space)
        if tokens and not (is_block(parts[name]) or _is_normalisation(parts[name])):
            continue
        if math.prod(shape[1:]) > shape[laid.channels]:
            yield name, laid


def is_block(module: nn.Module) -> bool:
    """Whether a module has parts."""
    return next(module.children(), None) is not None


def _is_normalisation(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.casefold()


def _last_of_effect(
    net: nn.Module,
    example: Float[Tensor, "1 C *S"],
    run: Callable[[Tensor], Any],
    candidates: Sequence[tuple[str, Layout]],
    score: Callable[[Any], Tensor] | None = None,
) -> str | None:
    """The first of the candidates at whose places the outputs, or the score of them, have a gradient; of a detector's outputs,
    both the boxes and the scores.

    `None` where nothing has, as in a network that cannot be differentiated or has a new head of zeros.
    """
    parts = _parts(net)
    captured: dict[str, Tensor] = {}
    generator = torch.Generator("cpu").manual_seed(0)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float32, device="cpu").to(like)

    picture = drawn(example)  # an empty one leaves rectifiers at zero
    effects_of: list[dict[str, Tensor | None]] = []
    try:
        with ExitStack() as effects, torch.enable_grad():
            watched = {name: parts[name] for name, _ in candidates}
            effects.enter_context(watched_calls(watched, returned=captured.__setitem__))
            outputs = run(picture.requires_grad_())
        # At random, as the outputs' plain sum may not depend on what a normalisation before it puts out.
        names = [name for name in captured if captured[name].requires_grad]
        for part in _parts_of(score(outputs) if score else logits_of(outputs)):
            total = picture.new_zeros(())
            for value in tree_flatten(part)[0]:
                if isinstance(value, Tensor) and value.requires_grad:
                    total = total + (value * drawn(value)).sum()
            watched_outputs = [captured[name] for name in names]
            found = torch.autograd.grad(total, watched_outputs, retain_graph=True, allow_unused=True)
            effects_of.append(dict(zip(names, found, strict=True)))
    except Exception:  # noqa: BLE001  # it cannot be differentiated, so that nothing is known of effects
        return None

    def has_effect(gradient: Tensor | None, laid: Layout) -> bool:
        return gradient is not None and bool(laid.places(gradient).any())

    def is_connected(gradient: Tensor | None, _: Layout) -> bool:
        return gradient is not None

    # A detector may be saturated on noise, or find nothing; but its graph tells the heads from what lies before all of them.
    for test in (has_effect, is_connected) if len(effects_of) > 1 else (has_effect,):
        for name, laid in candidates:
            if all(test(gradients.get(name), laid) for gradients in effects_of):
                return name
    return None


def _parts_of(outputs: Any) -> list[Any]:
    """The parts of outputs that must all depend on a layer: of a detector the boxes and the scores, else all of them as one."""
    return [[found[key] for found in outputs] for key in sorted(BOXES)] if _are_boxes(outputs) else [outputs]
