"""Image classifiers of Hugging Face's transformers, e.g. "hf:./folder" or "hf:google/vit-base-patch16-224"."""

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from sfumato.models.anatomy import describe
from sfumato.models.checkpoint import load_weights_, requiring
from sfumato.models.classifier import Classifier, Preparation
from sfumato.space.normalisation import IMAGENET_MEAN, IMAGENET_STD

OFFERS = 'a model of that library: pip install "sfumato[hf]"'
"""The description of this source in `sfumato models`."""


class Logits(nn.Module):
    """A network of transformers, wrapped so that it returns only its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=inputs).logits
        return logits


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network of a local folder, or of a repository that is downloaded on first use. A checkpoint replaces its weights.

    Raises `ValueError` if it cannot be loaded.
    """
    full_name = f"hf:{name}"
    with requiring("hf", full_name):
        from transformers import AutoConfig, AutoModelForImageClassification
        from transformers.image_processing_base import ImageProcessingMixin
    try:
        config = AutoConfig.from_pretrained(name)
        processing, _ = ImageProcessingMixin.get_image_processor_dict(name)
        if checkpoint is None:
            net = AutoModelForImageClassification.from_pretrained(name)
        else:
            net = AutoModelForImageClassification.from_config(config)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"transformers cannot load an image classifier from {name!r}; expected a local folder or a repository "
            "within reach, with config.json, preprocessor_config.json and weights"
        ) from error
    if checkpoint is not None:
        load_weights_(net, checkpoint)
    labels = tuple(config.id2label[index] for index in range(config.num_labels))
    return describe(full_name, Logits(net), _preparation(processing), labels)


def _preparation(processing: dict[str, Any]) -> Preparation:
    """The preparation of a preprocessor_config.json, whose keys differ between versions of transformers."""
    size, crop = _side(processing.get("size", 224)), _side(processing.get("crop_size", 224))
    has_crop = processing.get("do_center_crop", False)
    return Preparation(
        size=crop if has_crop else size,
        resize=max(size, crop) if has_crop else None,
        mean=tuple(processing.get("image_mean") or IMAGENET_MEAN),
        std=tuple(processing.get("image_std") or IMAGENET_STD),
        resampling=Image.Resampling(processing.get("resample", Image.Resampling.BILINEAR)),
    )


def _side(size: int | dict[str, int]) -> int:
    return size if isinstance(size, int) else size.get("shortest_edge") or size["height"]
