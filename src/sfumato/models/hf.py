"""Image classifiers of Hugging Face's transformers, e.g. "hf:./folder" or "hf:google/vit-base-patch16-224"."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from sfumato.models.anatomy import describe
from sfumato.models.checkpoint import EMBEDDING, SHOWN, loaded, requiring
from sfumato.models.classifier import Classifier
from sfumato.models.transforms import TransformPreparation, prepared_by

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


@dataclass(frozen=True)
class Processing:
    """An image processor of transformers as a function from one picture to its pixel values."""

    processor: Any

    def __call__(self, picture: Image.Image | Float[Tensor, "3 H W"]) -> Any:
        """The pixel values of a picture, or of a tensor of its values from 0 to 255."""
        form = {"input_data_format": "channels_first"} if isinstance(picture, Tensor) else {}
        prepared = self.processor(images=picture, return_tensors="pt", **form)
        if "pixel_values" not in prepared:
            raise ValueError(
                f"{type(self.processor).__name__} makes {', '.join(prepared)} of a picture; expected pixel_values (B, C, H, W)"
            )
        return prepared["pixel_values"][0]


def load(name: str, checkpoint: Path | None = None) -> Classifier:
    """The network of a local folder, or of a repository that is downloaded on first use. A checkpoint replaces its weights.

    A checkpoint may have another number of classes. Raises `ValueError` if there is no such network, or if its weights lack the
    classifier.
    """
    full_name = f"hf:{name}"
    with requiring("hf", full_name):
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
    names = None
    with _loading(name):
        config = AutoConfig.from_pretrained(name)
        processor = AutoImageProcessor.from_pretrained(name)
    if checkpoint is None:
        with _loading(name):
            net, info = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True)
        _check_weights(full_name, config, info["missing_keys"])
    else:

        def build(classes: int | None) -> nn.Module:
            if classes is not None:
                config.num_labels = classes  # and the names become LABEL_0, LABEL_1, …
            return AutoModelForImageClassification.from_config(config)

        net, names = loaded(build, checkpoint)
    labels = names or tuple(config.id2label[index] for index in range(config.num_labels))
    return describe(full_name, Logits(net), preparation(full_name, processor), labels)


def preparation(name: str, processor: Any) -> TransformPreparation:
    """The preparation of pictures by an image processor. Raises `ValueError` if it makes no inputs (C, H, W) of pictures."""
    try:
        return prepared_by(Processing(processor), processor.to_json_string())
    except Exception as error:
        raise ValueError(
            f"the image processor {type(processor).__name__} of {name!r} fails on a picture ({error}); check its "
            "preprocessor_config.json, or give a sfumato.models.Classifier with a Preparation from a factory"
        ) from error


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Explains the errors of files that transformers cannot find or read."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"transformers cannot load an image classifier from {name!r}; expected a local folder or a repository "
            "within reach, with config.json, preprocessor_config.json and weights"
        ) from error


def _check_weights(name: str, config: Any, missing: Collection[str]) -> None:
    """Raise `ValueError` if weights are missing: transformers draws them at random."""
    if missing:
        listed = ", ".join(sorted(missing)[:SHOWN])
        kind = f", a {' or '.join(config.architectures)}," if config.architectures else ""
        raise ValueError(f"{name!r}{kind} has no weights for {listed} of an image classifier; {EMBEDDING}")
