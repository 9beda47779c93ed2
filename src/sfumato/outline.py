"""What layers a network has, and what each puts out: found by one pass with a hook on every module."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.inputs import check_batch_axis, check_inputs, check_model
from sfumato.probing import Model, frozen, hooked
from sfumato.surroundings import Surroundings
from sfumato.tokens import layout

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


def outline(model: Model, inputs: Tensor) -> tuple[LayerShape, ...]:
    """The layers that a pass over inputs `(B, C, *S)` calls, in the order of their first calls, each before its parts.

    The model runs once, in evaluation mode, and is left as it was; modules that take no part are left out, and a module
    with several names goes by the first. With two inputs or more the batch axis is sure; with one, whatever begins with an
    axis of length 1 is taken to have it.

    Raises `ValueError` where the model is no `nn.Module`, or is compiled or scripted, wholly or in part.
    """
    net = _watchable(model)
    inputs = check_inputs(inputs)
    check_model(net, inputs)
    modules = dict(net.named_modules())
    calls: dict[str, int] = {}
    outputs: dict[str, tuple[int, ...] | None] = {}

    def began(name: str, _arguments: Any) -> None:
        calls[name] = calls.get(name, 0) + 1

    def ended(name: str, output: Any) -> None:
        batched = isinstance(output, Tensor) and output.shape[:1] == inputs.shape[:1]
        outputs[name] = tuple(output.shape[1:]) if batched else None

    surroundings = Surroundings.now(inputs.device)
    with ExitStack() as effects:
        for effect in (frozen(net), surroundings.computing(), torch.no_grad()):
            effects.enter_context(effect)
        for name, module in list(modules.items())[1:]:  # the first is the model itself
            effects.enter_context(hooked(module, partial(began, name), partial(ended, name)))
        try:
            surroundings.call(net, inputs)
        except (RuntimeError, ValueError) as error:
            check_batch_axis(tuple(inputs.shape), error)
            raise
    return tuple(
        LayerShape(
            name=name,
            kind=type(modules[name]).__name__,
            shape=outputs.get(name),
            calls=count,
            heads=_heads(name, modules),
            parameters=sum(parameter.numel() for parameter in modules[name].parameters()),
        )
        for name, count in calls.items()
    )


def in_words(shape: Sequence[int] | None, space: Sequence[int]) -> str:
    """A layer's output for one input, as people read it; for tokens with where they lie in inputs of `space`.

    >>> in_words((1280, 7, 7), (224, 224)), in_words((7, 7, 768), (224, 224)), in_words((1000,), (224, 224))
    ('1280 × 7 × 7', '7 × 7 × 768, channels last', '1000')
    >>> in_words((257, 384), (224, 224)), in_words((256, 384), (224, 224)), in_words((90, 384), (224, 224))
    ('257 tokens × 384: 16 × 16 + 1', '256 tokens × 384: 16 × 16', '90 × 384')
    """
    if shape is None:
        return "–"
    sizes = _product(shape)
    try:
        found = layout((1, *shape), space, "")
    except ValueError:  # it has no places
        return sizes
    if found.grid is not None:
        leading = f" + {found.leading}" if found.leading else ""
        return f"{shape[0]} tokens × {shape[1]}: {_product(found.grid)}{leading}"
    return sizes if found.channels == 1 else f"{sizes}, channels last"


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
