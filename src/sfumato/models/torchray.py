"""TorchRay's VGG16 and ResNet50, fine-tuned for the classes of VOC and COCO, e.g. "torchray:vgg16_voc".

They are the networks of the pointing game's tables (Fong, Patrick, Vedaldi 2019). Their weights were made with Caffe (Zhang et
al. 2018, arXiv 1608.00507): in the published files, colours are BGR, a normalisation is two layers, and the classifier is
linear. This module converts them: the networks take RGB values from 0 to 255 minus their mean, of pictures with a shorter side
of 224 pixels.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from sfumato.data import labels
from sfumato.models.caffe import VGG16, ResNet50
from sfumato.models.checkpoint import downloading, fit_, state_dict
from sfumato.models.classifier import Classifier, Preparation
from sfumato.settings import near

LABELS = {"voc": labels.VOC, "coco": labels.COCO}  # in the order of the networks' outputs

ADDRESS = "https://dl.fbaipublicfiles.com/torchray/"
FILES = {
    "vgg16_voc": "vgg16_voc-b050e8c3.pth.tar",
    "resnet50_voc": "resnet50_voc-9ca920d6.pth.tar",
    "vgg16_coco": "vgg16_coco-d82c8150.pth.tar",
    "resnet50_coco": "resnet50_coco-e99468c5.pth.tar",
}

OFFERS = f"VGG16 and ResNet50 for VOC and COCO, downloaded at first use: {', '.join(FILES)}"
"""The description of this source in `sfumato models`."""

PREPARATION = Preparation(
    size=None,
    resize=224,
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    std=(1 / 255,) * 3,
    resampling=Image.Resampling.BILINEAR,
    antialias=False,
)


class Architecture(NamedTuple):
    """The differences between the two networks."""

    first: str
    """The first layer, whose input channels are the colours."""
    linear: dict[str, int]
    """The layers that are linear in the files, each with the kernel size of its convolution."""
    layers: dict[str, str]
    """The layer of each method in TorchRay's benchmark."""


ARCHITECTURES = {
    "vgg16": Architecture(
        first="features.0",
        linear={"classifier.0": 7, "classifier.3": 1, "classifier.6": 1},
        layers={
            "GradCAM": "features.29",
            "LinearApproximation": "features.29",
            "ExcitationBackprop": "features.23",
            "ContrastiveExcitationBackprop": "features.23",  # contrasted by default at what TorchRay names, classifier.4
            "ExtremalChannels": "features.29",
        },
    ),
    "resnet50": Architecture(
        first="conv1",
        linear={"fc": 1},
        layers={
            "GradCAM": "layer4",
            "LinearApproximation": "layer4",
            "ExcitationBackprop": "layer3",
            "ContrastiveExcitationBackprop": "layer3",  # contrasted by default at what TorchRay names, avgpool
            "ExtremalChannels": "layer4",
        },
    ),
}


def names() -> list[str]:
    """The names of the models."""
    return list(FILES)


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network with TorchRay's weights, downloaded on first use, or with the weights of a file in the same layout.

    A file may hold a narrower network; its width is that of the first layer. The outputs for inputs (B, 3, H, W) are maps of
    logits (B, classes, h, w); the score is their mean over space. The maps of ResNet50 have one place. Raises `ValueError` for
    an unknown name, or for a file of another layout.
    """
    if name not in FILES:
        raise ValueError(f"TorchRay has no model {name!r}{near(name, FILES)}; expected {', '.join(FILES)}")
    kind, _, dataset = name.partition("_")
    architecture, classes = ARCHITECTURES[kind], LABELS[dataset]
    path = _download(name) if checkpoint is None else checkpoint
    weights = _convert(state_dict(path), architecture, path)
    net = _vgg16(weights, len(classes)) if kind == "vgg16" else _resnet50(weights, len(classes))
    fit_(net, weights, path)
    return Classifier(
        name=f"torchray:{name}",
        net=net.eval(),
        preparation=PREPARATION,
        labels=classes,
        layers=architecture.layers,
        layer=architecture.layers["GradCAM"],
    )


def _convert(weights: dict[str, Tensor], architecture: Architecture, path: Path) -> dict[str, Tensor]:
    """The weights of a published file, with the names, the order of colours and the shapes of our networks."""
    converted = {_merged_name(name): value for name, value in weights.items()}
    for name, side in architecture.linear.items():
        matrix = converted.get(f"{name}.weight")
        if matrix is None:  # `fit_` names the missing weights
            continue
        if matrix.ndim != 2 or matrix.shape[1] % side**2:
            raise ValueError(
                f"checkpoint {str(path)!r} is not in TorchRay's layout: {name}.weight is {tuple(matrix.shape)}, not that "
                f"of a linear layer over {side} × {side} places; expected a file such as {FILES['vgg16_voc']}"
            )
        converted[f"{name}.weight"] = matrix.reshape(len(matrix), -1, side, side)
    kernel = f"{architecture.first}.weight"
    if kernel in converted and converted[kernel].ndim == 4:
        converted[kernel] = converted[kernel].flip(1)  # BGR to RGB
    return converted


def _merged_name(name: str) -> str:
    """The name of a weight if a normalisation is one layer. In Caffe it is two: 0 for the statistics and 1 for the scale.

    >>> _merged_name("layer1.0.bn2.0.running_mean"), _merged_name("layer1.0.downsample.1.1.bias")
    ('layer1.0.bn2.running_mean', 'layer1.0.downsample.1.bias')
    >>> _merged_name("layer1.0.bn2.bias")
    'layer1.0.bn2.bias'
    """
    return re.sub(r"\b(bn\d|downsample\.\d)\.[01]\.(?=\w+$)", r"\1.", name)


def _vgg16(weights: dict[str, Tensor], classes: int) -> nn.Module:
    return VGG16(classes, _length(weights, "features.0.bias", 64), _length(weights, "classifier.0.bias", 4096))


def _resnet50(weights: dict[str, Tensor], classes: int) -> nn.Module:
    return ResNet50(classes, _length(weights, "conv1.bias", 64))


def _length(weights: dict[str, Tensor], name: str, default: int) -> int:
    return len(weights[name]) if name in weights and weights[name].ndim == 1 else default


def _download(name: str) -> Path:
    """The published file in torch.hub's folder. It is downloaded if it is missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILES[name]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with downloading(ADDRESS + FILES[name]):
            torch.hub.download_url_to_file(ADDRESS + FILES[name], os.fspath(path), progress=False)
    return path
