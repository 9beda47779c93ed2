"""Finds the outputs and the layers of an unknown network, by running it on an empty picture, and on noise."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.layers.default import traced
from sfumato.model.outputs import last_step
from sfumato.models.checkpoint import EMBEDDING
from sfumato.models.class_names import filled
from sfumato.models.classifier import Classifier, OtherPreparation, Preparation
from sfumato.models.transforms import TransformPreparation
from sfumato.scores import SIGMOID, class_scores, logits_of

BELOW = "ContrastiveExcitationBackprop"
"""The method whose default layer lies below the last weights."""
LAYER_METHODS = (
    "GradCAM",
    "LinearApproximation",
    "ExcitationBackprop",
    BELOW,
    "ExtremalChannels",
)


def describe(
    name: str,
    net: nn.Module,
    preparation: Preparation | TransformPreparation,
    labels: tuple[str, ...] | None = None,
    maps: bool = False,
) -> Classifier:
    """The network as a `Classifier` in eval mode. It finds the layers and, if none are given, the labels.

    With `maps`, it is a segmentation. Raises `ValueError` if the network fails on its input, or if its outputs are not logits
    `(B, classes)`, or with `maps` `(B, classes, H, W)`.
    """
    net = net.eval()
    example = torch.zeros(1, *preparation.shape, dtype=torch.float32, device="cpu")
    try:
        outputs, layer, below = traced(net, example, below=True)
    except Exception as error:
        if isinstance(error, TypeError) and "required positional argument" in str(error):
            raise ValueError(
                f"model {name!r} takes more than its pictures ({error}); give the rest in Python, with "
                "sfumato.WithArguments(net, …), or return a module from the factory that has them itself"
            ) from error
        raise ValueError(
            f"model {name!r} fails on an input of shape {tuple(example.shape)} ({error}). If it expects another shape, "
            "return a sfumato.models.Classifier from its factory, with a Preparation, or a ClipPreparation for clips or volumes"
        ) from error
    logits = logits_of(outputs)
    if not isinstance(logits, Tensor) or logits.ndim != (4 if maps else 2):
        kind = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        remedy = "Wrap it in a module that does" + _for_example(outputs)
        if isinstance(logits, Tensor) and logits.ndim == 4:
            remedy += ", or, if these are maps of a segmentation, return a sfumato.models.Classifier from its factory"
        elif isinstance(logits, Tensor) and logits.ndim == 3:
            remedy = f"For embeddings write --score similarity --to PICTURE; else {remedy[0].lower()}{remedy[1:]}"
        elif isinstance(outputs, list) and all(isinstance(one, Mapping) and "boxes" in one for one in outputs):
            remedy = "For a detector, return a sfumato.models.Detector from the factory"
        form = "(B, classes, H, W)" if maps else "(B, classes)"
        raise ValueError(f"model {name!r} must return logits of shape {form}; got {kind}. {remedy}")
    return Classifier(
        name=name,
        net=net,
        preparation=preparation,
        labels=filled(labels, logits.shape[1]),
        layers=(dict.fromkeys(LAYER_METHODS, layer) | ({BELOW: below} if below else {})) if layer else {},
        layer=layer or "",
    )


def _for_example(outputs: Any) -> str:
    """The end of an error about outputs that are several: where logits could be among them; empty if nothing looks so."""
    items = (
        outputs.items() if isinstance(outputs, Mapping) else enumerate(outputs if isinstance(outputs, tuple) else ())
    )
    keys = [key for key, value in items if isinstance(value, Tensor) and value.ndim == 2]
    return f", e.g. one that returns outputs[{keys[0]!r}]" if keys else ""


def last_function(classifier: Classifier) -> str:
    """What was done to the logits last, "softmax", "sigmoid" or "sorted"; empty if the outputs are logits, or fail.

    It is known by the graph. Of a network without gradients a softmax and an order are known by the outputs for noise, a
    sigmoid by outputs that stay in [0, 1] for inputs of any size.
    """
    noise = _noise(classifier)
    try:
        with torch.enable_grad():
            quiet = [class_scores(classifier.net(row), 1) for row in noise.clone().requires_grad_().split(1)]
        loud = [] if quiet[0].requires_grad else [class_scores(classifier.net(LOUD * row), 1) for row in noise.split(1)]
    except Exception:  # noqa: BLE001  # a network may raise anything; whoever asks it something will hear of it
        return ""
    steps = {last_step(outputs) for outputs in quiet}
    if len(steps) == 1 and (step := steps.pop()):
        return step
    if loud:
        return SIGMOID if all(bool(((values >= 0) & (values <= 1)).all()) for values in (*quiet, *loud)) else ""
    return ""


def _noise(classifier: Classifier) -> Float[Tensor, "N C *S"]:
    """Two inputs of noise, on the network's device; some networks take one at a time."""
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(2, *classifier.preparation.shape, generator=generator, dtype=torch.float32, device="cpu")
    return noise.to(_device(classifier.net))


LOUD = 100.0
"""How much larger noise is to which logits answer with large numbers."""

LENGTH = 1e-3
"""How far the length of an embedding of length 1 may be from it."""


def check_has_classes(classifier: Classifier) -> None:
    """Raise `ValueError` if the outputs have the length 1 for whatever input, as embeddings have and logits have not."""
    with torch.no_grad():
        outputs = torch.cat([classifier.logits(row).float() for row in _noise(classifier).split(1)])
    lengths = outputs.norm(dim=1)
    if outputs.shape[1] > 2 and bool((outputs < 0).any() and ((lengths - 1).abs() < LENGTH).all()):
        raise ValueError(
            f"model {classifier.name!r} gives {outputs.shape[1]} numbers that have the length 1 together, as embeddings have, "
            f"and no logits of classes; {EMBEDDING}"
        )


def last_spatial(net: nn.Module, preparation: Preparation | TransformPreparation | OtherPreparation) -> str | None:
    """The name of the last module whose output has space, as `describe` finds it; `None` if there is none."""
    return traced(net, torch.zeros(1, *preparation.shape, dtype=torch.float32, device=_device(net))).layer


def _device(net: nn.Module) -> torch.device:
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
