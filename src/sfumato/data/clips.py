"""Reads clips and volumes from files: arrays of NumPy and safetensors, and animations."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image, ImageSequence, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sfumato.data.formats import ARRAYS, is_video
from sfumato.data.pictures import AnyPath, find, rgb

ANIMATIONS = (".apng", ".gif", ".png", ".webp")
"""Files of pictures that may hold several, one for each moment."""

LONGEST = 100
"""The longest time between two moments of an animation whose pictures are not shown equally long, in milliseconds."""

MOST_VALUES = 2**29
"""The largest number of values of a clip: half a gigabyte of 8 bits."""


def find_clips(path: AnyPath) -> list[Path]:
    """The file, or the arrays and animations in a folder, sorted. Raises `ValueError` if there is none."""
    folder = Path(path)
    if not folder.is_dir():
        return find(path)
    endings = (*ARRAYS, *ANIMATIONS)
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in endings and file.is_file() and not file.name.startswith(".")
    )
    if not files:
        raise ValueError(
            f"folder {str(folder)!r} holds no clips; expected files such as .npy, .safetensors or .gif in it"
        )
    return files


def read_clip(path: AnyPath) -> Shaped[Tensor, "..."]:
    """What a file holds: the array of an .npy, .npz or .safetensors file as it is; of an animation, `(T, H, W, 3)` of 8 bits.

    Raises `ValueError` for other files, for a picture that does not move, and for a file with several arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise _unreadable(path, "there is no such file")
    if path.suffix.lower() not in ARRAYS:
        return _animation(path)
    try:
        arrays = dict(_arrays(path))
    except (ValueError, OSError, EOFError, SafetensorError, KeyError) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else " ".join(str(error).split())
        raise _unreadable(path, reason) from error
    if len(arrays) != 1:
        names = ", ".join(list(arrays)[:3])
        raise _unreadable(path, f"it holds {len(arrays)} arrays ({names}), and a file of one clip holds one")
    (values,) = arrays.values()
    if values.numel() > MOST_VALUES:
        raise _unreadable(path, f"it has {values.numel()} values, and at most {MOST_VALUES} are read")
    return values


def _arrays(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The arrays in a file by name. Code in it is not run."""
    if path.suffix.lower() == ".safetensors":
        yield from load_file(path).items()
        return
    content = np.load(path, allow_pickle=False)
    named = {"": content} if isinstance(content, np.ndarray) else content
    for name in named:
        array = np.ascontiguousarray(named[name])
        try:
            yield name, torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
        except TypeError as error:
            raise ValueError(f"it holds {array.dtype}") from error


def _animation(path: Path) -> Shaped[Tensor, "T H W 3"]:
    """The pictures of an animation at evenly spaced moments."""
    if is_video(path):
        raise _unreadable(path, "it is a video, whose frames sfumato does not decode")
    try:
        with Image.open(path) as picture:
            count = getattr(picture, "n_frames", 1)
            if count == 1:
                raise _unreadable(path, "it holds one picture, and the model takes clips")
            if count * picture.width * picture.height * 3 > MOST_VALUES:
                raise _unreadable(path, f"its {count} pictures have more than {MOST_VALUES} values")
            frames, lengths = list[Tensor](), list[int]()
            for frame in ImageSequence.Iterator(picture):
                frames.append((255 * rgb(frame.convert("RGBA"))).round().byte())
                lengths.append(int(frame.info.get("duration", 0)))
    except UnidentifiedImageError as error:
        raise _unreadable(path, "it is no array and no animation") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # of damaged files
        raise _unreadable(path, str(error)) from error
    return torch.stack([frames[index] for index in in_time(lengths)]).movedim(1, -1)


def in_time(lengths: Sequence[int]) -> list[int]:
    """Which picture of an animation is seen at each of evenly spaced moments, from how long each is shown, in milliseconds.

    Programs that write animations join pictures that are the same.

    >>> in_time([40, 40, 40]), in_time([100, 300, 100]), in_time([0, 0])
    ([0, 1, 2], [0, 1, 1, 1, 2], [0, 1])
    """
    if len(set(lengths)) == 1 or not all(lengths):
        return list(range(len(lengths)))
    common = math.gcd(*lengths)
    moments = [length // common * math.ceil(common / LONGEST) for length in lengths]
    return [index for index, count in enumerate(moments) for _ in range(count)]


def _unreadable(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"cannot read clip {str(path)!r}: {reason}; expected an animated GIF or WebP, or an array in .npy, .npz or "
        ".safetensors: frames (T, H, W, C) of 8 bits, or the model's input (C, T, H, W) of real numbers"
    )
