"""Reads pictures from files, arrays and tensors. A picture from a file is always RGB, upright, with 8 bits a channel."""

import io
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sfumato.data.formats import HEAD, HEIC, INSTALL, missing, no_picture, open_more, reads_heic

# `find` takes files with these suffixes from a folder, and HEIC pictures if the extra `heic` is installed. A file that is named
# itself may have any suffix.
EXTENSIONS = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

BEYOND = 0.01
"""How far values may lie outside [0, 1], as values of resized pictures do. They are clamped to [0, 1]."""

ROWS = 256
"""How many rows of a picture of more than 8 bits are converted at once."""

AnyPath = str | os.PathLike[str]


def find(paths: AnyPath | Iterable[AnyPath], *, recursive: bool = False) -> list[Path]:
    """The picture files of `paths`, without repetition: files in the order given, and the pictures of a folder sorted.

    Hidden files of a folder are ignored, and its subfolders too unless `recursive`. Raises `ValueError` if a path does not
    exist or a folder has no pictures.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    files: dict[Path, None] = {}  # an ordered set
    for path in map(Path, paths):
        if path.is_dir():
            files |= dict.fromkeys(_pictures_in(path, recursive))
        elif path.exists():
            files[path] = None
        elif path.parts and path.parts[0].casefold() in ("http:", "https:"):
            address = f"{path.parts[0]}//{'/'.join(path.parts[1:])}"  # a path has one stroke where there were two
            raise ValueError(f"{address!r} is an address, not a file; save the picture, and give the path of the file")
        else:
            raise ValueError(
                f"no file or folder {str(path)!r}; expected the path of a picture or of a folder of pictures"
            )
    return list(files)


def _pictures_in(folder: Path, recursive: bool) -> list[Path]:
    endings = (*EXTENSIONS, *HEIC)
    found = sorted(
        path
        for path in (folder.rglob("*") if recursive else folder.iterdir())
        if path.suffix.lower() in endings and path.is_file()
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    files = [path for path in found if path.suffix.lower() not in HEIC or reads_heic()]
    if found and not files:
        raise ValueError(f"folder {str(folder)!r} holds only HEIC pictures, which need pillow-heif; run: {INSTALL}")
    if not files:
        where = "it or its subfolders" if recursive else "it (its subfolders are not searched)"
        raise ValueError(f"folder {str(folder)!r} holds no pictures; expected files such as .jpg or .png in {where}")
    return files


def read(path: AnyPath, paper: str = "white") -> Image.Image:
    """The picture in a file, in mode RGB, rotated upright by its EXIF orientation, and on `paper` where it is transparent.

    Grey values of more than 8 bits are scaled, not clipped. 16-bit values are scaled by the range of their type. 32-bit and
    float values are scaled by the smallest usual full scale that is not below the largest value: 255, 65535 or 2³¹ - 1; for
    floats 1, 255 or 65535. An animation or a file with several pages gives its first picture, with a warning.

    Raises `ValueError` if the file cannot be read, for any reason.
    """
    path = Path(path)
    if not path.exists():
        raise _unreadable(path, "there is no such file", "the path of a picture")
    if not path.is_file():  # a pipe or device would block
        raise _unreadable(path, "it is a folder" if path.is_dir() else "it is not a regular file", "a picture file")
    return _upright_rgb(path, path, paper=paper)


def upright(picture: Image.Image, paper: str = "white") -> Image.Image:
    """A picture that is open already, as `read` gives that of a file: in mode RGB, upright, on `paper` where it is transparent.

    Raises `ValueError` for values of more than 8 bits that are negative, or no numbers.
    """
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    if picture.mode == "RGB" and not turned and not picture.has_transparency_data:
        return picture
    return _rgb(ImageOps.exif_transpose(picture), paper)


def decode(
    content: bytes, name: str, formats: tuple[str, ...] | None = None, most: int | None = None, paper: str = "white"
) -> Image.Image:
    """Like `read`, from the bytes of a file. Errors and warnings call it `name`.

    `formats` lists the allowed formats, by Pillow's names. `most` is the allowed number of pixels, which is checked before the
    picture is decoded.
    """
    return _upright_rgb(io.BytesIO(content), name, formats, most, paper)


def _upright_rgb(
    source: Path | io.BytesIO,
    path: AnyPath,
    formats: tuple[str, ...] | None = None,
    most: int | None = None,
    paper: str = "white",
) -> Image.Image:
    picture = _decode(source, path, formats, most)
    try:
        return _rgb(picture, paper)
    except ValueError as error:
        raise _unreadable(path, str(error), "grey, RGB or CMYK values from 0 up") from error


def _decode(source: Path | io.BytesIO, path: AnyPath, formats: tuple[str, ...] | None, most: int | None) -> Image.Image:
    """The first picture of the file, upright, in its own mode."""
    head = b""
    try:
        head = _head(source)
        if formats is None:
            open_more(head)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=formats) as picture:
                if most is not None and picture.width * picture.height > most:
                    raise Image.DecompressionBombError
                picture.load()
                frames = getattr(picture, "n_frames", 1)
                layout = picture.format
                upright = ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        if formats is None and (needs := missing(head)):
            raise ValueError(f"cannot read picture {str(path)!r}: {needs}") from None
        if formats is None and (says := no_picture(Path(path))):
            raise ValueError(f"cannot read picture {str(path)!r}: {says}") from None
        raise _unreadable(path, "it is not a picture of a known kind", "e.g. a JPEG, PNG, TIFF or WebP file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"{most} pixels" if most else f"{Image.MAX_IMAGE_PIXELS} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
        raise _unreadable(path, "it claims to be huge", f"at most {limit}") from error
    except PermissionError as error:
        raise _unreadable(path, "permission is denied", "a file that you may read") from error
    except Exception as error:  # for damaged files, decoders raise errors of any type
        raise _unreadable(path, str(error) or type(error).__name__, "an undamaged picture") from error
    if frames > 1 and layout != "MPO":  # a phone's MPO file is one photograph with a depth map or a second view
        warnings.warn(f"{path} holds {frames} pictures; only the first is used.", stacklevel=4)
    return upright


def _head(source: Path | io.BytesIO) -> bytes:
    """The first bytes of a file."""
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:HEAD]
    with source.open("rb") as file:
        return file.read(HEAD)


def _unreadable(path: AnyPath, reason: str, expected: str) -> ValueError:
    return ValueError(f"cannot read picture {str(path)!r}: {reason}; expected {expected}")


def _rgb(picture: Image.Image, paper: str = "white") -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _eight_bits(picture).convert("RGB")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        whole = Image.new("RGBA", coloured.size, paper)
        whole.alpha_composite(coloured)  # in place, as pictures can be large
        del coloured
        return whole.convert("RGB")
    return picture.convert("RGB")  # makes a copy even of RGB, independent of the file


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture with more than 8 bits, scaled so that its full scale becomes 255."""
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and np.isfinite(high)):  # also true for NaN
        raise ValueError(f"its values lie between {low:g} and {high:g}")
    scales = {"F": (1, 255, 65535), "I": (255, 65535, 2**31 - 1)}.get(picture.mode, (65535,))
    scale = next((scale for scale in scales if high <= scale), high)
    scaled = np.empty(values.shape, np.uint8)
    for rows in range(0, len(values), ROWS):  # a large picture in double precision would take much memory
        band = values[rows : rows + ROWS].astype(np.float64)
        scaled[rows : rows + ROWS] = np.round(band * (255 / scale))
    return Image.fromarray(scaled)


def rgb(picture: Any, size: Sequence[int] | None = None) -> Tensor:
    """A picture in any usual form, converted to RGB `(3, H, W)`, float32 in [0, 1], on the CPU.

    - `picture`: a PIL picture; or an array or tensor `(3, H, W)`, `(H, W, 3)`, `(H, W)` or with one channel, also with a batch
      axis of length 1. Its values are whole numbers to 255 (uint8), or floating-point numbers in [0, 1].
    - `size`: the height and width that the picture must have.

    Raises `ValueError` for other forms, for example for a picture that was prepared for a network.
    """
    if isinstance(picture, Image.Image):
        values = torch.from_numpy(np.array(_rgb(picture))).movedim(-1, 0)
    else:
        values = _channels_first(_values(picture), isinstance(picture, Tensor), size)
    if size is not None and tuple(values.shape[1:]) != tuple(size):
        shape = "{} × {}".format(*values.shape[1:]) if isinstance(picture, Image.Image) else _shape(picture)
        raise ValueError(_wrong_shape(shape, size))
    return _bounded(values).expand(3, -1, -1)


def _values(picture: Any) -> Tensor:
    """The numbers of an array or tensor."""
    if isinstance(picture, Tensor):
        return picture.detach().cpu()
    if not hasattr(picture, "__array__"):
        raise ValueError(
            f"a picture must be a PIL picture, an array or a tensor; got {type(picture).__name__}. Read a file with "
            "sfumato.data.pictures.read(path)"
        )
    array = np.array(picture)  # a copy: the user's array may be read-only or have negative strides
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        raise ValueError(_wrong_type(array.dtype))
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)


def _channels_first(values: Tensor, is_tensor: bool, size: Sequence[int] | None) -> Tensor:
    """The values as `(C, H, W)`.

    If both the first and the last axis could be the channels, `size` decides. Otherwise tensors have them first, arrays last.
    """
    shape = _shape(values)
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(_wrong_shape(shape, size))
    channels_first = (values, values.shape[0] in (1, 3))
    channels_last = (values.movedim(-1, 0), values.shape[-1] in (1, 3, 4))
    views = (channels_first, channels_last) if is_tensor else (channels_last, channels_first)
    possible = [view for view, fits in views if fits]
    if not possible:
        raise ValueError(_wrong_shape(shape, size))
    of_size = [view for view in possible if size is not None and tuple(view.shape[1:]) == tuple(size)]
    view = (of_size or possible)[0]
    if len(view) < 4:
        return view
    if view.dtype != torch.uint8:
        raise ValueError(
            f"a picture with transparency must have whole numbers (uint8); got {values.dtype}. Give its RGB channels only"
        )
    return torch.from_numpy(np.array(_rgb(Image.fromarray(view.movedim(0, -1).numpy())))).movedim(-1, 0)


def _bounded(values: Tensor) -> Tensor:
    """The values in [0, 1], float32."""
    if values.dtype == torch.uint8:
        return values.float() / 255
    if not values.is_floating_point():
        raise ValueError(_wrong_type(values.dtype))
    values = values.float()
    low, high = float(values.min()), float(values.max())
    if not (low >= -BEYOND and high <= 1 + BEYOND):  # also true for NaN
        if low >= 0 and 2 < high <= 255:
            advice = "Divide them by 255 if they are numbers to 255"
        else:
            advice = "If it was prepared for a network, give classifier.restore(inputs)"
        raise ValueError(f"a picture's values must lie in [0, 1]; got {low:.3g} to {high:.3g}. {advice}")
    return values.clamp(0, 1)


def _shape(picture: Any) -> str:
    return f"shape {tuple(picture.shape)}"


def _wrong_shape(got: str, size: Sequence[int] | None) -> str:
    of_size = "" if size is None else " of the masks' size, with {} × {} pixels".format(*size)
    return f"a picture must be RGB or grey, (3, H, W) or (H, W, 3){of_size}; got {got}"


def _wrong_type(dtype: Any) -> str:
    return (
        f"a picture's values must be floating-point numbers in [0, 1], or whole numbers to 255 of type uint8; got {dtype}. "
        "Convert it, e.g. picture.to(torch.uint8) or array.astype('uint8')"
    )
