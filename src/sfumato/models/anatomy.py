"""Finds the outputs and the layers of an unknown network, by running it on one empty picture."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.data import labels as class_labels
from sfumato.layers.axes import Axes, Labels, following, summarise
from sfumato.layers.capture import plain_tensor, watched_calls
from sfumato.layers.tokens import LayoutError, layout
from sfumato.models.classifier import Classifier, Preparation

LAYER_METHODS = (
    "GradCAM",
    "LinearApproximation",
    "ExcitationBackprop",
    "ContrastiveExcitationBackprop",
    "ExtremalChannels",
)


def describe(name: str, net: nn.Module, preparation: Preparation, labels: tuple[str, ...] | None = None) -> Classifier:
    """The network as a `Classifier` in eval mode. It finds the layers and, if none are given, the labels.

    Raises `ValueError` if the network fails on its input, or if its outputs are not logits `(B, classes)`.
    """
    net = net.eval()
    example = torch.zeros(1, *preparation.shape, dtype=torch.float32, device="cpu")
    try:
        logits, layer = _trace(net, example)
    except Exception as error:
        raise ValueError(
            f"model {name!r} fails on an input of shape {tuple(example.shape)} ({error}). If it expects another shape, "
            "return a sfumato.models.Classifier with a Preparation from its factory"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        kind = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"model {name!r} must return logits of shape (B, classes); got {kind}. Wrap it in a module that does"
        )
    return Classifier(
        name=name,
        net=net,
        preparation=preparation,
        labels=labels or class_labels.default_labels(logits.shape[1]),
        layers=dict.fromkeys(LAYER_METHODS, layer) if layer else {},
        layer=layer or "",
    )


def _trace(net: nn.Module, example: Float[Tensor, "1 C *S"]) -> tuple[Any, str | None]:
    """The network's outputs, and the name of the last module whose output has space, if the network ends by pooling maps.

    A container comes after its parts: the name is that of a block, not of the last activation in it.
    """
    try:
        return _run(net, example, watch=True)
    except Exception:  # noqa: BLE001  # a network may run although its operations cannot be watched
        return _run(net, example, watch=False)


def _run(net: nn.Module, example: Float[Tensor, "1 C *S"], watch: bool) -> tuple[Any, str | None]:
    outputs: list[tuple[str, tuple[int, ...], Labels | None]] = []

    with ExitStack() as effects, torch.no_grad():
        watcher = effects.enter_context(following(net, example)) if watch else None

        def returned(name: str, output: Any) -> None:
            if plain_tensor(output):
                outputs.append((name, tuple(output.shape), watcher.labels(output) if watcher else None))

        parts = {name: module for name, module in net.named_modules() if name}
        effects.enter_context(watched_calls(parts, returned=returned))
        logits = net(example)
    space = tuple(example.shape[2:])
    with_axes = [(name, shape, None if labels is None else summarise(labels, space)) for name, shape, labels in outputs]
    return logits, _last_spatial(with_axes, space)


def _last_spatial(outputs: Sequence[tuple[str, tuple[int, ...], Axes | None]], space: tuple[int, ...]) -> str | None:
    for name, shape, axes in reversed(outputs):
        if len(shape) == 3:  # tokens: a transformer, which has no feature maps but its patches
            return None
        if len(shape) != 2 + len(space):
            continue
        try:
            laid = layout(shape, space, name, axes)
        except LayoutError:
            continue
        if math.prod(shape[1:]) > shape[laid.channels]:
            return name
    return None


def last_spatial(net: nn.Module, preparation: Preparation) -> str | None:
    """The name of the last module whose output has space, as `describe` finds it; `None` if there is none."""
    return _trace(net, torch.zeros(1, *preparation.shape, dtype=torch.float32, device=_device(net)))[1]


def _device(net: nn.Module) -> torch.device:
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
