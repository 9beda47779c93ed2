"""The classifiers, segmenters and detectors of torchvision, e.g. "torchvision:resnet50"."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from sfumato.models.anatomy import describe
from sfumato.models.checkpoint import downloading, loaded, requiring
from sfumato.models.class_names import filled
from sfumato.models.classifier import Classifier
from sfumato.models.detector import Detector
from sfumato.models.transforms import prepared_by
from sfumato.settings import near

OFFERS = 'a classifier, detector or segmentation of that library: pip install "sfumato[vision]"'
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
    return [name for part in (models, *(getattr(models, part) for part in OTHERS)) for name in models.list_models(part)]


OTHERS = ("detection", "segmentation")
"""The modules of torchvision.models with other networks of pictures than classifiers."""

LEAST_SURE = 0.01
"""Boxes of which a detector is less sure are dropped. torchvision drops those below .05; but a box that is dropped gives a
search no slope."""


class Maps(nn.Module):
    """A segmentation of torchvision that returns its maps of logits (N, K, H, W) alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K H W"]:
        maps: Tensor = self.net(inputs)["out"]
        return maps


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network with torchvision's default weights, downloaded on first use, or with the weights of a checkpoint.

    A checkpoint uses the preparation of the default weights. It may have another number of classes, in which that of a detector
    or a segmentation includes the background.
    """
    full_name = f"torchvision:{name}"
    with requiring("vision", full_name):
        from torchvision import models
    others = {part: models.list_models(getattr(models, part)) for part in OTHERS}
    kind = next((part for part, names in others.items() if name in names), "")
    known = models.list_models(models)
    if not kind and name not in known:
        offered = [*known, *(other for names in others.values() for other in names)]
        raise ValueError(f"torchvision has no classifier, segmentation or detector {name!r}{near(name, offered)}")
    weights = models.get_model_weights(name).DEFAULT
    own = weights.meta["categories"]
    count = len(own)
    settings: dict[str, Any] = AS_TRAINED if name in ("googlenet", "inception_v3") else {}
    settings = {"weights_backbone": None} if kind else settings

    def build(classes: int | None) -> nn.Module:
        nonlocal count
        count = count if classes is None else classes
        net: nn.Module = models.get_model(name, **settings, **({} if classes is None else {"num_classes": classes}))
        return net

    if checkpoint is None:
        with downloading(f"the weights of {full_name!r}"):
            net, labels = models.get_model(name, weights=weights), None
    else:
        net, labels = loaded(build, checkpoint, count if kind == "detection" else None)
    if kind:
        labels = filled(labels or (own if count == len(own) else None), count)
    if kind == "detection":
        return _detector(full_name, net, labels or ())
    return describe(full_name, Maps(net) if kind else net, prepared_by(weights.transforms()), labels, maps=bool(kind))


def _detector(name: str, net: Any, labels: tuple[str, ...]) -> Detector:
    """The detector, with boxes of which it is little sure.

    It resizes and normalises its inputs itself. So pictures are resized as it does it, and keep their values.
    """
    with requiring("vision", name):
        from torchvision import ops

        empty = torch.zeros(1, 4, dtype=torch.float32, device="cpu")
        ops.nms(empty, empty[:, 0], 0.5)  # raises where torchvision does not fit torch
    for part in net.modules():
        if isinstance(getattr(part, "score_thresh", None), float):
            part.score_thresh = min(part.score_thresh, LEAST_SURE)
    net = net.eval()
    return Detector(name, net, prepared_by(Resizing(net.transform), repr(net.transform)), labels)


@dataclass(frozen=True)
class Resizing:
    """How a detector of torchvision resizes its inputs in eval mode, as a function from one picture to its values in [0, 1].

    A detector finds nothing to resize in inputs of such a size, but for few sizes of pictures, in which rounding down makes a
    side a pixel shorter than it wants.
    """

    transform: Any
    """The detector's `transform`."""

    def __call__(self, picture: Image.Image | Float[Tensor, "3 h w"]) -> Float[Tensor, "3 H W"]:
        """The values of a picture, or of a tensor of its values in [0, 1]."""
        from torchvision.transforms.functional import pil_to_tensor

        values = picture if isinstance(picture, Tensor) else pil_to_tensor(picture).float() / 255
        resized: Tensor = self.transform.resize(values, None)[0]
        return resized
