"""Image classifiers of Hugging Face's transformers, e.g. "hf:./folder" or "hf:google/vit-base-patch16-224"."""

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from sfumato.models.anatomy import described
from sfumato.models.checkpoint import load_weights_, requiring
from sfumato.models.classifier import Classifier, Preparation
from sfumato.space.normalisation import IMAGENET_MEAN, IMAGENET_STD

OFFERS = 'a model of that library: pip install "sfumato[hf]"'
"""What `sfumato models` says of the source."""


class Logits(nn.Module):
    """A network of transformers that answers with its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=inputs).logits
        return logits


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network in a local folder, or of a repository downloaded at first use; a checkpoint replaces its weights."""
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
            f"transformers cannot load an image classifier from {name!r}; expected a local folder or a repository that "
            "can be reached, with config.json, preprocessor_config.json and weights"
        ) from error
    if checkpoint is not None:
        load_weights_(net, checkpoint)
    labels = tuple(config.id2label[index] for index in range(config.num_labels))
    return described(full_name, Logits(net), _preparation(processing), labels)


def _preparation(processing: dict[str, Any]) -> Preparation:
    """The parts of a preprocessor_config.json that matter here, in the words of its many versions."""
    size, crop = _side(processing.get("size", 224)), _side(processing.get("crop_size", 224))
    cropped = processing.get("do_center_crop", False)
    return Preparation(
        size=crop if cropped else size,
        resize=max(size, crop) if cropped else None,
        mean=tuple(processing.get("image_mean") or IMAGENET_MEAN),
        std=tuple(processing.get("image_std") or IMAGENET_STD),
        resampling=Image.Resampling(processing.get("resample", Image.Resampling.BILINEAR)),
    )


def _side(size: int | dict[str, int]) -> int:
    return size if isinstance(size, int) else size.get("shortest_edge") or size["height"]
