"""Finds the outputs and the layers of an unknown network, by running it on an empty picture, and on noise."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sfumato.data import labels as class_labels
from sfumato.layers.axes import Axes, Labels, following, summarise
from sfumato.layers.capture import plain_tensor, watched_calls
from sfumato.layers.tokens import Layout, LayoutError, layout
from sfumato.models.classifier import Classifier, Preparation
from sfumato.models.transforms import TransformPreparation
from sfumato.scores import logits_of

LAYER_METHODS = (
    "GradCAM",
    "LinearApproximation",
    "ExcitationBackprop",
    "ContrastiveExcitationBackprop",
    "ExtremalChannels",
)


def describe(
    name: str,
    net: nn.Module,
    preparation: Preparation | TransformPreparation,
    labels: tuple[str, ...] | None = None,
) -> Classifier:
    """The network as a `Classifier` in eval mode. It finds the layers and, if none are given, the labels.

    Raises `ValueError` if the network fails on its input, or if its outputs are not logits `(B, classes)`.
    """
    net = net.eval()
    example = torch.zeros(1, *preparation.shape, dtype=torch.float32, device="cpu")
    try:
        outputs, layer = _trace(net, example)
    except Exception as error:
        raise ValueError(
            f"model {name!r} fails on an input of shape {tuple(example.shape)} ({error}). If it expects another shape, "
            "return a sfumato.models.Classifier with a Preparation from its factory"
        ) from error
    logits = logits_of(outputs)
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
    """The network's outputs, and the name of the last module whose output has places that the outputs depend on.

    A container comes after its parts: the name is that of a block, not of the last activation in it. Of a transformer's modules
    only blocks and normalisations count. After the last attention, a class token is all that a network may read: then it is the
    normalisation before that attention.
    """
    try:
        outputs, seen = _run(net, example, watch=True)
    except Exception:  # noqa: BLE001  # a network may run although its operations cannot be watched
        outputs, seen = _run(net, example, watch=False)
    candidates = list(_with_places(net, seen, tuple(example.shape[2:])))
    return outputs, _last_of_effect(net, example, candidates)


Seen = tuple[str, tuple[int, ...], Axes | None]
"""The name of a module, the shape of its output, and what is known of its axes."""


def _run(net: nn.Module, example: Float[Tensor, "1 C *S"], watch: bool) -> tuple[Any, list[Seen]]:
    """The network's outputs, and what its modules put out, in this order."""
    outputs: list[tuple[str, tuple[int, ...], Labels | None]] = []

    with ExitStack() as effects, torch.no_grad():
        watcher = effects.enter_context(following(net, example)) if watch else None

        def returned(name: str, output: Any) -> None:
            if plain_tensor(output):
                outputs.append((name, tuple(output.shape), watcher.labels(output) if watcher else None))

        effects.enter_context(watched_calls(_parts(net), returned=returned))
        logits = net(example)
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
        if tokens and not (_is_block(parts[name]) or _is_normalisation(parts[name])):
            continue
        if math.prod(shape[1:]) > shape[laid.channels]:
            yield name, laid


def _is_block(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _is_normalisation(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.casefold()


def _last_of_effect(
    net: nn.Module, example: Float[Tensor, "1 C *S"], candidates: Sequence[tuple[str, Layout]]
) -> str | None:
    """The first of the candidates at whose places the outputs have a gradient.

    Where nothing has a gradient, as in a network that cannot be differentiated or has a new head of zeros, the first of all.
    """
    parts = _parts(net)
    captured: dict[str, Tensor] = {}
    generator = torch.Generator("cpu").manual_seed(0)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float32, device="cpu").to(like)

    picture = drawn(example)  # an empty one leaves rectifiers at zero
    gradients: dict[str, Tensor | None] = {}
    try:
        with ExitStack() as effects, torch.enable_grad():
            watched = {name: parts[name] for name, _ in candidates}
            effects.enter_context(watched_calls(watched, returned=captured.__setitem__))
            outputs = net(picture.requires_grad_())
        # At random, as the outputs' plain sum may not depend on what a normalisation before it puts out.
        score = picture.new_zeros(())
        for value in tree_flatten(logits_of(outputs))[0]:
            if isinstance(value, Tensor) and value.requires_grad:
                score = score + (value * drawn(value)).sum()
        names = [name for name in captured if captured[name].requires_grad]
        found = torch.autograd.grad(score, [captured[name] for name in names], allow_unused=True)
        gradients = dict(zip(names, found, strict=True))
    except Exception:  # noqa: BLE001  # it cannot be differentiated, so that nothing is known of effects
        gradients = {}
    for name, laid in candidates:
        gradient = gradients.get(name)
        if gradient is not None and bool(laid.places(gradient).any()):
            return name
    return next((name for name, _ in candidates), None)


def last_spatial(net: nn.Module, preparation: Preparation | TransformPreparation) -> str | None:
    """The name of the last module whose output has space, as `describe` finds it; `None` if there is none."""
    return _trace(net, torch.zeros(1, *preparation.shape, dtype=torch.float32, device=_device(net)))[1]


def _device(net: nn.Module) -> torch.device:
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
