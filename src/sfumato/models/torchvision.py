"""The classifiers of torchvision, e.g. "torchvision:resnet50"."""

from pathlib import Path

from PIL import Image

from sfumato.models.anatomy import describe
from sfumato.models.checkpoint import load_weights_, requiring
from sfumato.models.classifier import Classifier, Preparation
from sfumato.settings import near

OFFERS = 'a model of that library: pip install "sfumato[vision]"'
"""The description of this source in `sfumato models`."""


WELL_KNOWN = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mobilenet_v2", "resnet101",
    "resnet152", "resnet18", "resnet34", "resnet50", "squeezenet1_1", "swin_t", "vgg16", "vgg19", "vit_b_16",
)  # fmt: skip
"""Some of the models, for suggestions where torchvision is not installed."""


def names() -> list[str]:
    """The names of the models; some of them if torchvision is not installed."""
    try:
        from torchvision import models
    except ModuleNotFoundError:
        return list(WELL_KNOWN)
    return list(models.list_models(models))


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network with torchvision's default weights, downloaded on first use, or with the weights of a checkpoint.

    A checkpoint uses the preparation of the default weights.
    """
    full_name = f"torchvision:{name}"
    with requiring("vision", full_name):
        from torchvision import models
    if name not in (known := models.list_models(models)):
        raise ValueError(f"torchvision has no classifier {name!r}{near(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    net = models.get_model(name, weights=weights if checkpoint is None else None)
    if checkpoint is not None:
        load_weights_(net, checkpoint)
    preparation = Preparation(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resampling=Image.Resampling[preset.interpolation.name],
    )
    return describe(full_name, net, preparation)
