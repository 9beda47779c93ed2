"""What layers a network has, and what each puts out: found by one pass with a hook on every module."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.layers.axes import Labels, following, in_short
from sfumato.layers.capture import plain_tensor, watched_calls
from sfumato.layers.tokens import Layout, LayoutError, layout
from sfumato.model.effects import Model, frozen
from sfumato.model.inputs import check_batch_axis, check_inputs, check_model
from sfumato.model.modes import Surroundings

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "h")
PROJECTIONS = ("proj", "out_proj", "o_proj", "c_proj", "to_out", "dense")
"""What libraries call the number of an attention block's heads, and the projection of their joined outputs."""


@dataclass(frozen=True)
class LayerShape:
    """A layer of a network, as one pass finds it."""

    name: str
    """Dotted, as in `model.named_modules()`."""
    kind: str
    """The module's class."""
    shape: tuple[int, ...] | None
    """What it puts out for one input, without the batch axis, at its last call; None where that is no tensor, or none that
    begins with the batch axis."""
    calls: int
    """How often a pass calls it."""
    heads: int | None
    """How many attention heads are joined in its input, where the names of its block say that it projects them."""
    parameters: int
    """How many numbers are learnt in it and its parts."""
    layout: Layout | None = None
    """How methods read what it puts out: where the channels and the places are; None where it has no places, or where they
    must be told."""
    reason: str = ""
    """How that is known, or why there is none."""
    readings: tuple[str, ...] = ()
    """Where it must be told, the values of `layout` that fit."""


def outline(model: Model, inputs: Tensor) -> tuple[LayerShape, ...]:
    """The layers that a pass over inputs `(B, C, *S)` calls, in the order of their first calls, each before its parts.

    The model runs once, in evaluation mode (twice where its operations cannot be watched), and is left as it was; modules
    that take no part are left out, and a module with several names goes by the first. With two inputs or more the batch
    axis is sure; with one, whatever begins with an axis of length 1 is taken to have it.

    Raises `ValueError` where the model is no `nn.Module`, or is compiled or scripted, wholly or in part.
    """
    net = _watchable(model)
    inputs = check_inputs(inputs)
    check_model(net, inputs)
    modules = dict(net.named_modules())
    try:
        calls, outputs, labels = _passed(net, inputs, modules, watch=True)
    except Exception:  # noqa: BLE001  # a network may run where its operations cannot be watched
        calls, outputs, labels = _passed(net, inputs, modules, watch=False)
    return tuple(
        LayerShape(
            name=name,
            kind=type(modules[name]).__name__,
            shape=outputs.get(name),
            calls=count,
            heads=_heads(name, modules),
            parameters=sum(parameter.numel() for parameter in modules[name].parameters()),
            **_reading(name, inputs, outputs.get(name), labels.get(name)),
        )
        for name, count in calls.items()
    )


def _passed(
    net: nn.Module, inputs: Tensor, modules: Mapping[str, nn.Module], watch: bool
) -> tuple[dict[str, int], dict[str, tuple[int, ...] | None], dict[str, Labels]]:
    """How often a pass calls each layer, what that puts out for one input, and what is known of the axes."""
    calls: dict[str, int] = {}
    outputs: dict[str, tuple[int, ...] | None] = {}
    labels: dict[str, Labels] = {}
    surroundings = Surroundings.now(inputs.device)
    with ExitStack() as effects:
        for effect in (frozen(net), surroundings.computing(), torch.no_grad()):
            effects.enter_context(effect)
        watcher = effects.enter_context(following(net, inputs)) if watch else None

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
            check_batch_axis(tuple(inputs.shape), error)
            raise
    return calls, outputs, labels


def _reading(name: str, inputs: Tensor, shape: Sequence[int] | None, labels: Labels | None) -> dict[str, Any]:
    """How methods read the output of a layer: the fields of `LayerShape` that say it."""
    if shape is None or len(shape) < 2:
        return {}
    space = tuple(inputs.shape[2:])
    try:
        laid = layout((len(inputs), *shape), space, name, None if labels is None else in_short(labels, space))
    except LayoutError as error:
        return {"reason": error.why, "readings": error.readings}
    return {"layout": laid, "reason": laid.reason}


def in_words(layer: LayerShape) -> str:
    """A layer's output for one input, as people read it; for tokens with where they lie in the input.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2))
    >>> [in_words(layer) for layer in outline(net, torch.zeros(2, 3, 16, 24))]
    ['8 × 4 × 6', '8 × 24 tokens: 4 × 6']
    """
    if layer.shape is None:
        return "–"
    sizes, laid = _product(layer.shape), layer.layout
    if laid is None:
        return sizes
    last = laid.channels == -1
    if laid.grid is None:
        return f"{sizes}, channels last" if last else sizes
    outside = "".join(f" + {count}" for count in (laid.leading + laid.trailing,) if count)
    tokens = f"{layer.shape[0]} tokens × {layer.shape[1]}" if last else f"{layer.shape[0]} × {layer.shape[1]} tokens"
    return f"{tokens}: {_product(laid.grid)}{outside}"


def _product(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes)) or "one number"


def _heads(name: str, modules: Mapping[str, nn.Module]) -> int | None:
    """The heads of the block that ends with this projection. No more than a guess by names, which blocks share."""
    module = modules[name]
    block, _, own = name.removesuffix(".0").rpartition(".")  # "to_out" may be a chain: the projection, dropout
    if isinstance(module, nn.Linear) and own in PROJECTIONS:
        for attribute in HEADS:
            heads = getattr(modules[block], attribute, None)
            if type(heads) is int and heads > 0 and module.in_features % heads == 0:
                return heads
    return None


def _watchable(model: Model) -> nn.Module:
    """The model, if every part of it is called from Python, where it can be watched."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"only an nn.Module has layers that can be listed; the model is a {type(model).__name__}")
    for name, part in model.named_modules():
        scripted = isinstance(part, torch.jit.ScriptModule)
        if scripted or hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            what = f"its part {name!r}" if name else "the model"
            how = "torch.jit" if scripted else "torch.compile"
            raise ValueError(
                f"{what} is compiled by {how}, inside which no layer can be watched; list the layers of the model from before"
            )
    return model
