"""What a network unknown to us is made of, seen by showing it one empty picture."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
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


def described(name: str, net: nn.Module, preparation: Preparation, labels: tuple[str, ...] | None = None) -> Classifier:
    """The network as a `Classifier`, with its labels and layers found out where they are not given."""
    net = net.eval()
    example = torch.zeros(1, *preparation.shape, dtype=torch.float32, device="cpu")
    try:
        logits, layer = _traced(net, example)
    except Exception as error:
        raise ValueError(
            f"model {name!r} fails on an input of shape {tuple(example.shape)} ({error}); where it expects another, "
            "let its factory return a sfumato.models.Classifier with its own Preparation"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model {name!r} must answer with logits of shape (B, classes); got {found}: wrap it to do so")
    return Classifier(
        name=name,
        net=net,
        preparation=preparation,
        labels=labels or class_labels.numbered(logits.shape[1]),
        layers=dict.fromkeys(LAYER_METHODS, layer) if layer else {},
    )


def _traced(net: nn.Module, example: Tensor) -> tuple[Any, str | None]:
    """The network's answer, and the module whose output is the last one with space, if it ends by pooling feature maps.

    A container counts after its parts: of a block and its last activation, the block is named.
    """
    try:
        return _passed(net, example, watch=True)
    except Exception:  # noqa: BLE001  # a network may run where its operations cannot be watched
        return _passed(net, example, watch=False)


def _passed(net: nn.Module, example: Tensor, watch: bool) -> tuple[Any, str | None]:
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
    short = [(name, shape, None if known is None else summarise(known, space)) for name, shape, known in outputs]
    return logits, _last_spatial(short, space)


def _last_spatial(outputs: Sequence[tuple[str, tuple[int, ...], Axes | None]], space: tuple[int, ...]) -> str | None:
    for name, shape, axes in reversed(outputs):
        if len(shape) == 3:  # tokens: a transformer, whose only feature maps are its patches
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
    """The module whose output is the last one with space, seen as `described` sees it; `None` where there is none."""
    return _traced(net, torch.zeros(1, *preparation.shape, dtype=torch.float32, device=_device(net)))[1]


def _device(net: nn.Module) -> torch.device:
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
