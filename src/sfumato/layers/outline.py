"""The layers of a network with the shapes of their outputs, listed by one pass with a hook on every module."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.layers.axes import Labels, following, summarise
from sfumato.layers.capture import plain_tensor, watched_calls
from sfumato.layers.tokens import Layout, LayoutError, layout
from sfumato.model.effects import Model, frozen
from sfumato.model.inputs import check_inputs, check_model, compiled_part, explain_failure
from sfumato.model.modes import Surroundings

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "h")
PROJECTIONS = ("proj", "out_proj", "o_proj", "c_proj", "to_out", "dense")
"""The names that libraries give to the number of heads of an attention block, and to the projection of its joined heads."""


@dataclass(frozen=True)
class LayerShape:
    """A layer of a network, as seen in one pass."""

    name: str
    """The dotted name, as in `model.named_modules()`."""
    kind: str
    """The module's class."""
    shape: tuple[int, ...] | None
    """The shape of its output for one input, without the batch axis, at its last call; None if the output is no tensor, or
    does not begin with the batch axis."""
    calls: int
    """How often a pass calls it."""
    heads: int | None
    """How many attention heads are joined in its input, if the names in its block say that it projects them."""
    parameters: int
    """The number of learnt values in the layer and its parts."""
    layout: Layout | None = None
    """Where the channels and the places are in its output, as methods read it; None if it has no places, or if the user must
    say where they are."""
    reason: str = ""
    """How the layout is known, or why there is none."""
    readings: tuple[str, ...] = ()
    """If the user must say it: the values of `layout` that fit."""


def outline(model: Model, inputs: Float[Tensor, "B C *S"]) -> tuple[LayerShape, ...]:
    """The layers that a pass over the inputs calls, in the order of their first calls, each before its parts.

    The model runs once in evaluation mode (twice if its operations cannot be watched), and is left unchanged. Modules that
    take no part are left out. A module with several names has the first. With two inputs or more the batch axis is certain;
    with one, an output whose first axis has length 1 is assumed to begin with the batch.

    Raises `ValueError` if the model is no `nn.Module`, or is compiled or scripted, wholly or in part.
    """
    net = _check_watchable(model)
    inputs = check_inputs(inputs)
    check_model(net, inputs)
    modules = dict(net.named_modules())
    try:
        calls, outputs, labels = _run_watched(net, inputs, modules, follow_axes=True)
    except Exception:  # noqa: BLE001  # a network may run although its operations cannot be watched
        calls, outputs, labels = _run_watched(net, inputs, modules, follow_axes=False)
    return tuple(
        LayerShape(
            name=name,
            kind=type(modules[name]).__name__,
            shape=outputs.get(name),
            calls=count,
            heads=_heads(name, modules),
            parameters=sum(parameter.numel() for parameter in modules[name].parameters()),
            **_layout_fields(name, inputs, outputs.get(name), labels.get(name)),
        )
        for name, count in calls.items()
    )


def _run_watched(
    net: nn.Module, inputs: Float[Tensor, "B C *S"], modules: Mapping[str, nn.Module], follow_axes: bool
) -> tuple[dict[str, int], dict[str, tuple[int, ...] | None], dict[str, Labels]]:
    """The number of calls of each layer in a pass, the shape of its output for one input, and the labels of its axes."""
    calls: dict[str, int] = {}
    outputs: dict[str, tuple[int, ...] | None] = {}
    labels: dict[str, Labels] = {}
    surroundings = Surroundings.now(inputs.device)
    with ExitStack() as effects:
        for effect in (frozen(net), surroundings.computing(), torch.no_grad()):
            effects.enter_context(effect)
        watcher = effects.enter_context(following(net, inputs)) if follow_axes else None

        def called(name: str) -> None:
            calls[name] = calls.get(name, 0) + 1

        def returned(name: str, output: Any) -> None:
            batched = plain_tensor(output) and output.shape[:1] == inputs.shape[:1]
            outputs[name] = tuple(output.shape[1:]) if batched else None
            if batched and watcher is not None:
                labels[name] = watcher.labels(output)

        parts = {name: module for name, module in modules.items() if name}  # without the model itself
        effects.enter_context(watched_calls(parts, called, returned))
        try:
            surroundings.call(net, inputs)
        except (RuntimeError, ValueError) as error:
            explain_failure(inputs, error)
            raise
    return calls, outputs, labels


def _layout_fields(
    name: str, inputs: Float[Tensor, "B C *S"], shape: Sequence[int] | None, labels: Labels | None
) -> dict[str, Any]:
    """The fields of `LayerShape` that say how methods read the output of a layer."""
    if shape is None or len(shape) < 2:
        return {}
    space = tuple(inputs.shape[2:])
    try:
        output_layout = layout((len(inputs), *shape), space, name, None if labels is None else summarise(labels, space))
    except LayoutError as error:
        return {"reason": error.why, "readings": error.readings}
    return {"layout": output_layout, "reason": output_layout.reason}


def in_words(layer: LayerShape) -> str:
    """The shape of a layer's output for one input in words; for tokens with the grid that they form.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2))
    >>> [in_words(layer) for layer in outline(net, torch.zeros(2, 3, 16, 24))]
    ['8 × 4 × 6', '8 × 24 tokens: 4 × 6']
    """
    if layer.shape is None:
        return "–"
    sizes, output_layout = _product(layer.shape), layer.layout
    if output_layout is None:
        return sizes
    last = output_layout.channels == -1
    if output_layout.grid is None:
        return f"{sizes}, channels last" if last else sizes
    outside = output_layout.leading + output_layout.trailing
    tokens = f"{layer.shape[0]} tokens × {layer.shape[1]}" if last else f"{layer.shape[0]} × {layer.shape[1]} tokens"
    return f"{tokens}: {_product(output_layout.grid)}" + (f" + {outside}" if outside else "")


def _product(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes)) or "one number"


def _heads(name: str, modules: Mapping[str, nn.Module]) -> int | None:
    """The number of heads of the block that ends with this projection, guessed from names that many libraries share."""
    module = modules[name]
    block, _, last_name = name.removesuffix(".0").rpartition(".")  # "to_out" may be a chain: the projection, dropout
    if isinstance(module, nn.Linear) and last_name in PROJECTIONS:
        for attribute in HEADS:
            heads = getattr(modules[block], attribute, None)
            if type(heads) is int and heads > 0 and module.in_features % heads == 0:
                return heads
    return None


def _check_watchable(model: Model) -> nn.Module:
    """The model. Raises `ValueError` unless all its parts are called from Python, where they can be watched."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"only an nn.Module has layers that can be listed; the model is a {type(model).__name__}")
    compiled = compiled_part(model)
    if compiled is not None:
        part, compiler = compiled
        raise ValueError(
            f"{part} is compiled by {compiler}, inside which no layer can be watched; list the layers of the model from before"
        )
    return model
