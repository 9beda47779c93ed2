"""A network with the preparation of its inputs, the labels of its outputs, and its layers for methods."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sfumato.data.clips import read_clip
from sfumato.data.labels import find
from sfumato.data.pictures import read, upright
from sfumato.models.transforms import MOST_PIXELS, TransformPreparation, too_long
from sfumato.scores import AUTO, SIGMOID, class_scores
from sfumato.settings import Settings
from sfumato.space.normalisation import IMAGENET_MEAN, IMAGENET_STD, Normalisation

M = TypeVar("M")


@dataclass(frozen=True)
class Preparation(Settings):
    """Converts a picture to a network's input, and back. The defaults are those of most ImageNet networks.

    - `size`: the height and width of the input in pixels. The picture's shorter side is resized to `resize` pixels, and the
      centre is cropped. With `size=None` nothing is cropped: inputs `(C, H, W)` have min(H, W) = `resize`.
    - `resize`: `None` to resize the whole picture to the square instead, without a crop.
    - `mean`, `std`: the normalisation of values in [0, 1], one for each channel; a single one makes the input grey.
    - `antialias`: False for networks that were trained on pictures resized from the four nearest pixels only.
    """

    size: int | None = 224
    resize: int | None = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resampling: Image.Resampling = Image.Resampling.BILINEAR
    antialias: bool = True

    def __post_init__(self) -> None:
        if self.size is None and self.resize is None:
            raise ValueError(
                "size=None needs resize, the length of the picture's shorter side in pixels; got resize=None"
            )
        if self.size is not None and self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize must be at least size = {self.size}, which is cropped from it; got {self.resize}")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must have 1 or 3 values each; got {self.mean} and {self.std}")
        if not self.antialias and self.resampling != Image.Resampling.BILINEAR:
            raise ValueError(f"antialias=False is for bilinear resampling; got {self.resampling!r}")

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation of a picture's values."""
        return Normalisation(self.mean, self.std)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape `(C, H, W)` of the input for a square picture; for every picture unless `size` is None."""
        side = self.size or self.resize
        assert side is not None  # noqa: S101  # for the type checker: `__post_init__` has checked it
        return len(self.mean), side, side

    def __call__(self, picture: Image.Image) -> Float[Tensor, "C H W"]:
        """The picture as a tensor, normalised.

        Of a picture that is very long, only the part that the input shows is resized, so that memory has a bound. Raises
        `ValueError` if the input itself would be too large, or if the part cannot be resized alone.
        """
        (width, height), crop = self._resized(picture.size)
        is_long = width * height > MOST_PIXELS
        if is_long and (self.size is None or not self.antialias):
            raise too_long(picture.size, (width, height))
        picture = picture.convert("RGB" if len(self.mean) == 3 else "L")
        if is_long:
            picture = picture.resize((crop[2] - crop[0], crop[3] - crop[1]), self.resampling, self.window(picture.size))
            return self.normalisation.seen(_as_tensor(picture), axes=2)
        if self.antialias:
            picture = picture.resize((width, height), self.resampling)
        values = _as_tensor(picture)
        if not self.antialias:
            values = interpolate(values[None], (height, width), mode="bilinear", align_corners=False)[0]
        left, top, right, bottom = crop
        values = values[:, top:bottom, left:right]
        return self.normalisation.seen(values, axes=2)

    def restore(self, inputs: Float[Tensor, "*N C H W"]) -> Float[Tensor, "*N 3 H W"]:
        """The pictures of inputs: RGB in [0, 1], on the inputs' device."""
        values = self.normalisation.pictures(inputs, axes=2).clamp(0, 1)
        return values.expand(*values.shape[:-3], 3, *values.shape[-2:])

    def normalised(self, pictures: Float[Tensor, "*N 3 H W"]) -> Float[Tensor, "*N C H W"]:
        """The inputs of pictures, RGB in [0, 1]: the inverse of `restore`."""
        values = pictures.mean(-3, keepdim=True) if len(self.mean) == 1 else pictures
        return self.normalisation.seen(values, axes=2)

    def window(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of a picture of `size` (width, height) that the input shows: left, top, right, bottom, in its pixels.

        For an input of width W, the pixel of column c covers the picture from l + c (r - l) / W to l + (c + 1) (r - l) / W,
        where l is left and r is right.
        """
        (width, height), (left, top, right, bottom) = self._resized(size)
        w, h = size  # multiply before dividing: then the borders of the picture are exact
        return left * w / width, top * h / height, right * w / width, bottom * h / height

    def _resized(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """The (width, height) to which a picture is resized, and the crop (left, top, right, bottom): all in whole pixels."""
        if self.resize is None:
            _, height, width = self.shape
            return (width, height), (0, 0, width, height)
        shorter = min(size)
        if self.size is None:
            width, height = (side * self.resize // shorter for side in size)
            return (width, height), (0, 0, width, height)
        width, height = (max(self.size, round(side * (self.resize / shorter))) for side in size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return (width, height), (left, top, left + self.size, top + self.size)


OF_SEVERAL = {"probability": "sigmoid", "log-odds": "logit"}
"""What the probability and the log-odds of a class are where each class has a sigmoid of its own."""


class OtherPreparation(Protocol):
    """What a `Classifier` needs of another preparation, such as that of clips."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape `(C, *S)` of the input."""

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of the normalisation of values in [0, 1], one for each channel."""

    @property
    def std(self) -> tuple[float, ...]:
        """The deviation of the normalisation of values in [0, 1], one for each channel."""

    def __call__(self, clip: Any) -> Float[Tensor, "..."]:
        """The network's input `(C, *S)`."""

    def restore(self, inputs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What inputs `(*N, C, *S)` show: RGB in [0, 1], `(*N, 3, *S)`."""

    def normalised(self, clips: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The inverse of `restore`."""

    def window(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of a picture of `size` (width, height) that the input shows: left, top, right, bottom."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network in eval mode, whose outputs for inputs `(B, C, H, W)` are logits (B, classes).

    The outputs of a fully convolutional network are maps of logits (B, classes, h, w); the score is their mean over space.
    `layers` holds the default layer of methods by their names, as dotted names, e.g. {"GradCAM": "layer4"}; `layer` is that of
    all other methods that need one. `multi_label` says that each class has a probability of its own, the sigmoid of its logit,
    as several may be right.
    """

    name: str
    net: nn.Module
    preparation: Preparation | TransformPreparation | OtherPreparation
    labels: Sequence[str]
    layers: Mapping[str, str] = field(default_factory=dict)
    layer: str = ""
    multi_label: bool = False

    def __repr__(self) -> str:
        """One line, without the layers of the network."""
        return f"Classifier({self.name!r}, {type(self.net).__name__}, {len(self.labels)} classes)"

    def prepare(self, picture: Any) -> Float[Tensor, "..."]:
        """The network's input `(C, *S)` for a PIL picture, a path, or an array `(H, W)` or `(H, W, 3)` of 8 bits; for a network
        of clips, for a path or a clip as `sfumato.data.clips.read_clip` reads it. Stack several to make a batch.

        A picture is read as from a file: turned upright by its EXIF orientation, on white where it is transparent, and with 8
        bits a channel. Raises `ValueError` for anything else.
        """
        return self.preparation(self._opened(picture))

    def _opened(self, picture: Any) -> Any:
        return _opened(picture) if len(self.preparation.shape) == 3 else _opened_clip(picture)

    def restore(self, inputs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The pictures of inputs `(*N, C, *S)`: RGB in [0, 1], `(*N, 3, *S)`."""
        return self.preparation.restore(inputs)

    def opened(self, pictures: Any) -> Any:
        """The pictures of `inputs_of` in a list, read from their files where they are paths; a tensor as it is."""
        if isinstance(pictures, Tensor):
            return pictures
        return [self._opened(picture) for picture in (pictures if isinstance(pictures, list | tuple) else [pictures])]

    def inputs_of(self, pictures: Any) -> Shaped[Tensor, "..."]:
        """The network's inputs `(B, C, *S)` for pictures, a batch on its device: PIL pictures, paths, or arrays `(H, W)` or
        `(H, W, 3)` of 8 bits, one or a list; for clips, paths or arrays. A tensor is the inputs themselves."""
        if isinstance(pictures, Tensor):
            return pictures
        inputs = [self.prepare(picture) for picture in self.opened(pictures)]
        if len({value.shape for value in inputs}) != 1:
            shapes = ", ".join(str(tuple(value.shape)) for value in inputs) or "none"
            raise ValueError(
                f"pictures of one batch must have inputs of one shape; got {shapes}. Explain them one by one"
            )
        first = next((value for value in self.net.parameters() if value.is_floating_point()), inputs[0])
        return torch.stack(inputs).to(first.device, first.dtype)

    def shape_of(self, size: tuple[int, int]) -> float:
        """The width, by the height, of what the network sees of a picture of `size` (width, height)."""
        left, top, right, bottom = self.preparation.window(size)
        return round((right - left) / (bottom - top), 4)

    def shapes_of(self, pictures: Any) -> list[float] | None:
        """For each of the `pictures` of `inputs_of`, the shape of what the network sees of it; `None` for tensors and clips."""
        if isinstance(pictures, Tensor) or len(self.preparation.shape) != 3:
            return None
        return [self.shape_of(picture.size) for picture in self.opened(pictures)]

    def targets_of(self, targets: Any, inputs: Shaped[Tensor, "B C *S"]) -> Any:
        """Targets with an index for each name of a class; the top class of each input for `None`.

        Raises `ValueError` for a name that fits no class, or several.
        """
        if targets is None:
            with torch.no_grad():
                return self.logits(inputs).argmax(1)
        if isinstance(targets, str):
            return find(self.labels, targets)
        if isinstance(targets, list | tuple):
            return [find(self.labels, target) if isinstance(target, str) else target for target in targets]
        return targets

    def shown(self, inputs: Float[Tensor, "B C *S"]) -> UInt8[Tensor, "B 3 H W"] | None:
        """What the network sees: RGB pictures of 8 bits; `None` for clips and volumes."""
        if inputs.ndim != 4:
            return None
        return (255 * self.restore(inputs.detach().float())).round().to(torch.uint8)

    def logits(self, inputs: Float[Tensor, "B C *S"]) -> Float[Tensor, "B classes"]:
        """The logits for inputs. Maps of logits are averaged over space."""
        outputs = class_scores(self.net(inputs), len(inputs))
        return outputs.flatten(2).mean(2) if outputs.ndim > 2 else outputs

    def probability_link(self, link: str = AUTO) -> str:
        """What makes probabilities of the logits, of `sfumato.scores.LINKS`: `link`, or for "auto" what fits the network.

        >>> Classifier("tags", nn.Identity(), Preparation(), ("cat", "dog"), multi_label=True).probability_link()
        'sigmoid'
        """
        return SIGMOID if self.multi_label and link == AUTO else link

    def meaning(self, score: str) -> str:
        """What a class index means for this network, of `OF_A_CLASS`: for several labels, "probability" is each label's own."""
        return OF_SEVERAL.get(score, score) if self.multi_label else score

    def placed(self, method: M) -> M:
        """The method with its default layer, if it needs a layer and has none, and with the `meaning` of a class index.

        A protocol has a meaning of a class index too.
        """
        score = getattr(method, "score", "")
        if isinstance(score, str) and self.meaning(score) != score:
            method = replace(method, score=self.meaning(score))  # type: ignore[type-var]
        layer = self.default_layer(type(method))
        if not layer or getattr(method, "needs_layer", None) is False or getattr(method, "layer", True):
            return method
        return replace(method, layer=layer)  # type: ignore[type-var]

    def default_layer(self, method: type) -> str:
        """The default layer of a class of methods; empty if it needs none, or if there is none."""
        return self.layers.get(method.__name__) or (self.layer if getattr(method, "needs_layer", None) is True else "")


def _opened(picture: Any) -> Image.Image:
    """A picture from a path or an array of 8 bits; one that is open already as from a file."""
    if isinstance(picture, Image.Image):
        return upright(picture)
    if isinstance(picture, str | os.PathLike):
        return read(picture)
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim in (2, 3):
        return Image.fromarray(picture)
    what = (
        f"an array of {picture.dtype} of shape {picture.shape}"
        if isinstance(picture, np.ndarray)
        else type(picture).__name__
    )
    raise ValueError(
        f"a picture is a PIL picture, a path, or an array (H, W, 3) of 8 bits; got {what}. Inputs that are prepared already "
        "are a tensor (B, C, H, W)"
    )


def _opened_clip(clip: Any) -> Any:
    """What a file holds, or a clip as it is given."""
    return read_clip(clip) if isinstance(clip, str | os.PathLike) else clip


def _as_tensor(picture: Image.Image) -> Float[Tensor, "C H W"]:
    """The values in [0, 1]."""
    width, height = picture.size
    return torch.from_numpy(np.array(picture)).float().reshape(height, width, -1).permute(2, 0, 1) / 255
