"""The classifiers of torchvision, e.g. "torchvision:resnet50"."""

from pathlib import Path

from torch import nn

from sfumato.models.anatomy import describe
from sfumato.models.checkpoint import loaded, requiring
from sfumato.models.classifier import Classifier
from sfumato.models.transforms import prepared_by
from sfumato.settings import near

OFFERS = 'a model of that library: pip install "sfumato[vision]"'
"""The description of this source in `sfumato models`."""


WELL_KNOWN = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mobilenet_v2", "resnet101",
    "resnet152", "resnet18", "resnet34", "resnet50", "squeezenet1_1", "swin_t", "vgg16", "vgg19", "vit_b_16",
)  # fmt: skip
"""Some of the models, for suggestions where torchvision is not installed."""

AS_TRAINED = {"aux_logits": False, "init_weights": False, "transform_input": True}
"""What GoogLeNet and Inception need to compute as with torchvision's own weights, on which checkpoints are based: they
normalise their input once more, and their heads for training take no part."""


def names() -> list[str]:
    """The names of the models; some of them if torchvision is not installed, or does not fit torch."""
    try:
        from torchvision import models
    except (ModuleNotFoundError, RuntimeError):
        return list(WELL_KNOWN)
    return list(models.list_models(models))


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network with torchvision's default weights, downloaded on first use, or with the weights of a checkpoint.

    A checkpoint uses the preparation of the default weights. It may have another number of classes.
    """
    full_name = f"torchvision:{name}"
    with requiring("vision", full_name):
        from torchvision import models
    if name not in (known := models.list_models(models)):
        raise ValueError(f"torchvision has no classifier {name!r}{near(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    preparation = prepared_by(weights.transforms())
    if checkpoint is None:
        return describe(full_name, models.get_model(name, weights=weights), preparation)

    def build(classes: int | None) -> nn.Module:
        settings = AS_TRAINED if name in ("googlenet", "inception_v3") else {}
        return models.get_model(name, **settings, **({} if classes is None else {"num_classes": classes}))

    net, labels = loaded(build, checkpoint)
    return describe(full_name, net, preparation, labels)
