"""The preparation of inputs with three axes of space: clips `(C, T, H, W)` and volumes `(C, D, H, W)`."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from sfumato.models.classifier import Classifier, Preparation
from sfumato.settings import Settings, is_whole


@dataclass(frozen=True)
class ClipPreparation(Settings):
    """Converts a clip or a volume to a network's input `(C, T, H, W)`, and back.

    - `frames`: how many frames, or slices, the input has. Of a clip that has more, evenly spread ones are taken.
    - `frame`: how each frame is prepared; its `size` is not None.

    A clip of 8 bits is `(T, H, W, C)`, `(C, T, H, W)`, or `(T, H, W)` if it is grey: its frames are resized and normalised.
    Real numbers are an input that is prepared already, of the input's own shape; a volume of one channel may be `(D, H, W)`.
    """

    frames: int
    frame: Preparation = field(default_factory=Preparation)

    def __post_init__(self) -> None:
        if not is_whole(self.frames, 1):
            raise ValueError(f"frames is how many frames an input has, a whole number from 1 up; got {self.frames!r}")
        if not isinstance(self.frame, Preparation) or self.frame.size is None:
            raise ValueError(f"frame is a Preparation with a size in pixels; got {self.frame!r}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape `(C, T, H, W)` of the input."""
        channels, height, width = self.frame.shape
        return channels, self.frames, height, width

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of the normalisation of values in [0, 1], one for each channel."""
        return self.frame.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The deviation of the normalisation of values in [0, 1], one for each channel."""
        return self.frame.std

    def __call__(self, clip: Any) -> Float[Tensor, "C T H W"]:
        """The input of a clip, a tensor or an array. Raises `ValueError` for other shapes and kinds of numbers, and for too few
        frames."""
        if isinstance(clip, np.ndarray):
            clip = torch.from_numpy(np.ascontiguousarray(clip))
        if not isinstance(clip, Tensor):
            raise ValueError(
                f"a clip is a tensor or an array; got {type(clip).__name__}. Read a file with "
                "sfumato.data.clips.read_clip(path)"
            )
        if clip.is_floating_point():
            return self._prepared(clip.float())
        if clip.dtype != torch.uint8:
            raise ValueError(
                f"a clip is of 8 bits (uint8), or real numbers as the model takes them; got {clip.dtype}. Convert it, e.g. by "
                "array.astype('float32') after scaling"
            )
        frames = self._frames(clip)
        if len(frames) < self.frames:
            raise ValueError(
                f"the clip has {len(frames)} frames, and the model takes {self.frames}; give a longer clip, or repeat frames"
            )
        chosen = [int((part + 0.5) * len(frames) / self.frames) for part in range(self.frames)]
        mode = "RGB" if frames.shape[3] == 3 else "L"
        pictures = [Image.fromarray(frames[index].squeeze(-1).numpy()).convert(mode) for index in chosen]
        return torch.stack([self.frame(picture) for picture in pictures], 1)

    def _prepared(self, clip: Float[Tensor, "..."]) -> Float[Tensor, "C T H W"]:
        values = clip[None] if clip.ndim == 3 and self.shape[0] == 1 else clip
        if tuple(values.shape) != self.shape:
            raise ValueError(
                f"an array of real numbers is the model's input, of shape {self.shape}; got {tuple(clip.shape)}. Give frames "
                "(T, H, W, C) of 8 bits (uint8) to have them resized and normalised"
            )
        if not bool(values.isfinite().all()):
            raise ValueError("the clip has values that are not finite numbers; replace them first")
        return values

    def _frames(self, clip: Shaped[Tensor, "..."]) -> Shaped[Tensor, "T H W c"]:
        """A clip of 8 bits with its colours last."""
        shape = tuple(clip.shape)
        if clip.ndim == 3:
            return clip[..., None]
        last, first = clip.ndim == 4 and shape[3] in (1, 3), clip.ndim == 4 and shape[0] in (1, 3)
        if last == first:
            why = (
                "its first and its last length could both be the colours" if last else "neither end has 1 or 3 colours"
            )
            raise ValueError(f"a clip of 8 bits is (T, H, W, C) or (C, T, H, W); got {shape}, of which {why}")
        return clip if last else clip.movedim(0, -1)

    def restore(self, inputs: Float[Tensor, "*N C T H W"]) -> Float[Tensor, "*N 3 T H W"]:
        """The frames of inputs: RGB in [0, 1], on the inputs' device."""
        return self.frame.restore(inputs.transpose(-4, -3)).transpose(-4, -3)

    def normalised(self, clips: Float[Tensor, "*N 3 T H W"]) -> Float[Tensor, "*N C T H W"]:
        """The inputs of clips, RGB in [0, 1]: the inverse of `restore`."""
        return self.frame.normalised(clips.transpose(-4, -3)).transpose(-4, -3)

    def window(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of a frame of `size` (width, height) that the input shows: left, top, right, bottom, in its pixels."""
        return self.frame.window(size)


def takes_clips(classifier: Classifier) -> bool:
    """Whether the network's inputs are clips or volumes."""
    return isinstance(classifier.preparation, ClipPreparation)


def check_takes_pictures(classifier: Classifier, command: str) -> None:
    """Raise `ValueError` for a network of clips, which the command cannot use."""
    if takes_clips(classifier):
        raise ValueError(
            f"{command} is for pictures, and model {classifier.name!r} takes clips of shape "
            f"{classifier.preparation.shape}; explain one with sfumato explain CLIP"
        )
