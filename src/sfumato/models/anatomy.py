"""Finds the outputs and the layers of an unknown network, by running it on an empty picture, and on noise."""

import torch
from torch import Tensor, nn

from sfumato.data import labels as class_labels
from sfumato.layers.default import traced
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
    maps: bool = False,
) -> Classifier:
    """The network as a `Classifier` in eval mode. It finds the layers and, if none are given, the labels.

    With `maps`, it is a segmentation. Raises `ValueError` if the network fails on its input, or if its outputs are not logits
    `(B, classes)`, or with `maps` `(B, classes, H, W)`.
    """
    net = net.eval()
    example = torch.zeros(1, *preparation.shape, dtype=torch.float32, device="cpu")
    try:
        outputs, layer = traced(net, example)
    except Exception as error:
        raise ValueError(
            f"model {name!r} fails on an input of shape {tuple(example.shape)} ({error}). If it expects another shape, "
            "return a sfumato.models.Classifier with a Preparation from its factory"
        ) from error
    logits = logits_of(outputs)
    if not isinstance(logits, Tensor) or logits.ndim != (4 if maps else 2):
        kind = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        remedy = "Wrap it in a module that does"
        if isinstance(logits, Tensor) and logits.ndim == 4:
            remedy += ", or, if these are maps of a segmentation, return a sfumato.models.Classifier from its factory"
        form = "(B, classes, H, W)" if maps else "(B, classes)"
        raise ValueError(f"model {name!r} must return logits of shape {form}; got {kind}. {remedy}")
    return Classifier(
        name=name,
        net=net,
        preparation=preparation,
        labels=labels or class_labels.default_labels(logits.shape[1]),
        layers=dict.fromkeys(LAYER_METHODS, layer) if layer else {},
        layer=layer or "",
    )


def last_spatial(net: nn.Module, preparation: Preparation | TransformPreparation) -> str | None:
    """The name of the last module whose output has space, as `describe` finds it; `None` if there is none."""
    return traced(net, torch.zeros(1, *preparation.shape, dtype=torch.float32, device=_device(net)))[1]


def _device(net: nn.Module) -> torch.device:
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
