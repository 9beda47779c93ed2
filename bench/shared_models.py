"""The real models beside the pictures that `SFUMATO_SHARED` names, as classifiers: for plans, which name them by dotted path.

`zoo.py` there loads each; here is what it is shown, what its classes are called, and at which layers methods look.
"""

import importlib.util
import os
from collections import OrderedDict
from functools import cache
from pathlib import Path
from types import ModuleType

from torch import nn

import sfumato
from sfumato.data import labels
from sfumato.models import Classifier, Preparation
from sfumato.models.anatomy import LAYER_METHODS

SHARED = Path(os.environ.get("SFUMATO_SHARED", Path(__file__).parents[1] / "../shared/data"))


@cache
def zoo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo", SHARED / "zoo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def coco_classes() -> tuple[str, ...]:
    return tuple((SHARED / "models/coco_classes.txt").read_text(encoding="utf-8").split("\n")[:80])


def squeezenet() -> Classifier:
    """SqueezeNet 1.1, ImageNet."""
    return described("squeezenet", zoo().squeezenet1_1(), 227, labels.imagenet(), "features")


def resnet50() -> Classifier:
    """ResNet-50, ImageNet: the paper's own architecture."""
    return of_zoo("resnet50")


def vit_tiny() -> Classifier:
    """ViT-Ti/16, ImageNet."""
    return of_zoo("vit_tiny")


def vgg16_coco() -> Classifier:
    """VGG16's convolutions, and a linear head for the 80 classes of COCO on the mean of their maps."""
    return described("vgg16_coco", zoo().vgg16_coco(), 224, coco_classes(), "features")


def squeezenet_coco() -> Classifier:
    return described("squeezenet_coco", zoo().squeezenet_coco(), 320, coco_classes(), "features")


def lite0_coco() -> Classifier:
    """EfficientNet-Lite0 as sfumato lays it out, with the zoo's head for COCO in place of ImageNet's."""
    trunk = sfumato.models.load("lite0")
    parts = OrderedDict(trunk.net.named_children())
    parts["classifier"] = zoo().efficientnet_lite0_coco().classifier
    mean, std = trunk.preparation.mean, trunk.preparation.std
    net = nn.Sequential(parts).eval()
    preparation = Preparation(size=320, resize=None, mean=mean, std=std)
    return Classifier("lite0_coco", net, preparation, coco_classes(), dict.fromkeys(LAYER_METHODS, "head"))


def vit_s14_coco() -> Classifier:
    return described("vit_s14_coco", zoo().vit_s14_coco(), 224, coco_classes(), "0.norm")


def described(name: str, net: nn.Module, size: int, classes: tuple[str, ...], layer: str) -> Classifier:
    """Pictures are squeezed into the square, as the networks were trained."""
    mean, std = net.norm
    preparation = Preparation(size=size, resize=None, mean=mean, std=std)
    return Classifier(name, net, preparation, classes, dict.fromkeys(LAYER_METHODS, layer))


IMAGENET = {"squeezenet1_1": "features", "resnet50": "layer4", "vit_tiny": "0.norm", "efficientnet_lite0": "features"}
"""The zoo's networks for ImageNet, and at which layer methods look."""


@cache
def of_zoo(name: str) -> Classifier:
    """One of the networks for ImageNet, by the zoo's name."""
    size = 227 if name == "squeezenet1_1" else 224
    return described(name, getattr(zoo(), name)(), size, labels.imagenet(), IMAGENET[name])
