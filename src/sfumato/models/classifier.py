"""A network together with all that is needed to show it pictures and to read its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preparation:
    """What turns a picture into a network's input, and back; `Preparation()` is what most ImageNet networks expect.

    `size` is the input's height and width in pixels. The picture's shorter side becomes `resize` pixels and the centre
    is cut out; with `resize=None` the whole picture is squeezed into the square instead. `mean` and `std` are for
    values in [0, 1]; a single one makes the input grey.
    """

    size: int = 224
    resize: int | None = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resampling: Image.Resampling = Image.Resampling.BILINEAR

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize must be at least size = {self.size}, to crop from; got {self.resize}")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must have 1 or 3 values each; got {self.mean} and {self.std}")

    def __call__(self, picture: Image.Image) -> Tensor:
        """The picture as a float tensor (C, size, size), normalised."""
        picture = self._square(picture.convert("RGB" if len(self.mean) == 3 else "L"))
        values = torch.from_numpy(np.array(picture)).float().reshape(self.size, self.size, -1).permute(2, 0, 1) / 255
        return (values - _per_channel(self.mean, values)) / _per_channel(self.std, values)

    def restore(self, inputs: Tensor) -> Tensor:
        """Inputs (…, C, H, W) as they are seen: RGB (…, 3, H, W) in [0, 1], on the inputs' device."""
        values = (inputs * _per_channel(self.std, inputs) + _per_channel(self.mean, inputs)).clamp(0, 1)
        return values.expand(*values.shape[:-3], 3, *values.shape[-2:])

    def _square(self, picture: Image.Image) -> Image.Image:
        if self.resize is None:
            return picture.resize((self.size, self.size), self.resampling)
        scale = self.resize / min(picture.size)
        width, height = (max(self.size, round(side * scale)) for side in picture.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = picture.resize((width, height), self.resampling)
        return resized.crop((left, top, left + self.size, top + self.size))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network in eval mode, which answers inputs (B, C, H, W) with logits (B, classes).

    `layers` holds by method, e.g. "GradCAM", the dotted name of the module where that method best looks into the
    network.
    """

    name: str
    net: nn.Module
    preparation: Preparation
    labels: Sequence[str]
    layers: Mapping[str, str] = field(default_factory=dict)

    def prepare(self, picture: Image.Image) -> Tensor:
        """The network's input (C, H, W) for a picture; stack several to a batch."""
        return self.preparation(picture)

    def restore(self, inputs: Tensor) -> Tensor:
        """Inputs (…, C, H, W) as they are seen: RGB (…, 3, H, W) in [0, 1]."""
        return self.preparation.restore(inputs)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values).reshape(-1, 1, 1)
