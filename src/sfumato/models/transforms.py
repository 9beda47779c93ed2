"""A preparation that is the transform of another library. What it does to values and places is read from its results."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from sfumato.settings import Settings, dotted_path
from sfumato.space.normalisation import Normalisation

PROBE = 96
"""Shorter side in pixels of the pictures that are shown to a transform to learn what it does."""
ODD = (131, 101)
"""A size whose multiples show whether a transform cuts first, to whole pixels of the picture, and then resizes."""
COLOURS = {"black": (0, 0, 0), "white": (1, 1, 1), "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
DIGITS = 6
"""Decimals of `mean` and `std`. They come out of single precision, with seven digits."""
FILTER = 3
"""Half the width of the widest filter (Lanczos), in pixels of the coarser grid."""
EXACT, ROUNDED = 0.02, 0.3
"""How far from whole pixels a resized length and the corner of a crop may be measured: of real numbers, of bytes."""

MOST_PIXELS = 2**24
"""The largest number of pixels that a picture may have when it is resized for a network, before it is cropped. A file with few
pixels can be long: of 1 × 100,000 pixels, one whose shorter side becomes 256 pixels has 6.5 thousand million."""
MARGIN = 1.25
"""How much longer than the input's longer side the shorter side of a resized picture may be, before the crop. Transforms that
crop most keep four fifths of it."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class TransformPreparation(Settings):
    """Converts a picture to a network's input by another library's transform, and back. Make it by `prepared_by`.

    - `transform`: from an RGB picture to a tensor (C, H, W): a transform of torchvision or timm for evaluation, or an image
      processor of transformers. It resizes, cuts, pads and normalises.
    - `described`: the transform in words. It belongs to the identity of runs, instead of the function.
    - `mean`, `std`: the normalisation of values in [0, 1], one for each channel of the input.
    - `order`: which of red (0), green (1) and blue (2) each channel of the input is; empty if the input is grey.
    - `scale`: the value of white in the pictures (3, H, W) of real numbers that the transform takes too; 0 if it takes none.
    - `proportional`: whether the input shows the same part of a picture after this picture has been enlarged.
    """

    transform: Callable[[Any], Float[Tensor, "C H W"]] = field(compare=False)
    described: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    order: tuple[int, ...] = (0, 1, 2)
    scale: float = 0
    proportional: bool = False
    _windows: dict[tuple[int, int], Box] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation of a picture's values, in the order of the input's channels."""
        return Normalisation(self.mean, self.std)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the input for a square picture."""
        channels, height, width = self._input(Image.new("RGB", (PROBE, PROBE))).shape
        return channels, height, width

    def __call__(self, picture: Image.Image) -> Float[Tensor, "C H W"]:
        """The picture as a tensor, normalised.

        Raises `ValueError` for a picture that is so long that the transform may need too much memory. A transform does not
        say what it makes in between; most make the shorter side a little longer than the input, and crop then.
        """
        self._check_length(picture.size)
        return self._input(picture)

    def _check_length(self, size: tuple[int, int]) -> None:
        shorter, longer = sorted(size)
        side = MARGIN * max(self.shape[1:])
        resized = int(side), int(side * longer / shorter)
        if resized[0] * resized[1] > MOST_PIXELS:
            raise too_long(size, resized if size[0] == shorter else resized[::-1])

    def _input(self, picture: Image.Image) -> Float[Tensor, "C H W"]:
        return _one_input(self.transform(picture.convert("RGB")), picture.size)

    def restore(self, inputs: Float[Tensor, "*N C H W"]) -> Float[Tensor, "*N 3 H W"]:
        """The pictures of inputs: RGB in [0, 1], on the inputs' device."""
        values = self.normalisation.pictures(inputs, axes=2).clamp(0, 1)
        if not self.order:
            return values.expand(*values.shape[:-3], 3, *values.shape[-2:])
        return values[..., [self.order.index(colour) for colour in range(3)], :, :]

    def normalised(self, pictures: Float[Tensor, "*N 3 H W"]) -> Float[Tensor, "*N C H W"]:
        """The inputs of pictures, RGB in [0, 1]: the inverse of `restore`."""
        values = pictures[..., list(self.order), :, :] if self.order else pictures.mean(-3, keepdim=True)
        return self.normalisation.seen(values, axes=2)

    def window(self, size: tuple[int, int]) -> Box:
        """The part of a picture of `size` (width, height) that the input shows: left, top, right, bottom, in its pixels.

        For an input of width W, the pixel of column c covers the picture from l + c (r - l) / W to l + (c + 1) (r - l) / W,
        where l is left and r is right. If the transform pads, the window is larger than the picture.
        Raises `ValueError` for a size that is too long, as a call does.
        """
        self._check_length(size)
        if size not in self._windows:
            self._windows[size] = _window(self, size)
        return self._windows[size]


def prepared_by(
    transform: Callable[[Any], Float[Tensor, "C H W"]], described: str | None = None
) -> TransformPreparation:
    """The preparation that a transform makes: the values' normalisation, the order of the channels, and the window.

    They are found by showing it a few small pictures. Raises `ValueError` if its results are no pictures.

    >>> def shrunk(picture):
    ...     pixels = np.array(picture.resize((8, 8)))[..., ::-1] / 255  # blue, green, red
    ...     return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() * 2 - 1
    >>> preparation = prepared_by(shrunk)
    >>> preparation.shape, preparation.order, preparation.mean, preparation.window((30, 20))
    ((3, 8, 8), (2, 1, 0), (0.5, 0.5, 0.5), (0.0, 0.0, 30.0, 20.0))
    """
    seen = {name: _centre(transform, _plain(colour), PROBE) for name, colour in COLOURS.items()}
    black, white = seen["black"], seen["white"]
    change = torch.stack([seen[name] - black for name in ("red", "green", "blue")])  # (colour, channel)
    span = white - black
    shares = change / span
    grey = len(span) == 1
    plain = bool((span > 0).all()) and (grey or bool(((shares.abs() < 1e-3) | ((shares - 1).abs() < 1e-3)).all()))
    order = () if grey else tuple(shares.argmax(0).tolist())
    if not plain or not (grey or sorted(order) == [0, 1, 2]):
        raise ValueError(
            "a transform must keep the colours of a picture, each in one channel, or make it grey; this one makes "
            f"{[round(value, 3) for value in black.tolist()]} of black, {[round(value, 3) for value in white.tolist()]} of "
            "white"
        )
    if described is None:
        described = dotted_path(transform) if hasattr(transform, "__qualname__") else repr(transform)
    preparation = TransformPreparation(
        transform,
        described,
        mean=tuple(round(value, DIGITS) for value in (0.0 - black / span).tolist()),
        std=tuple(round(value, DIGITS) for value in (1 / span).tolist()),
        order=order,
        scale=_scale(transform, seen),
    )
    width, height = ODD
    windows = [preparation.window((times * width, times * height)) for times in (1, 2, 3)]
    proportional = all(
        abs(value / times - one) < 1e-6 * PROBE
        for times, window in enumerate(windows, 1)
        for value, one in zip(window, windows[0], strict=True)
    )
    return replace(preparation, proportional=proportional)


def _scale(transform: Callable[[Any], Any], seen: dict[str, Float[Tensor, " C"]]) -> float:
    """The value of white in the tensors that the transform takes as it takes pictures; 0 if it takes none."""
    return next((scale for scale in (1, 255) if _takes_tensors(transform, scale, seen)), 0)


def _takes_tensors(transform: Callable[[Any], Any], scale: float, seen: dict[str, Float[Tensor, " C"]]) -> bool:
    ramp = torch.linspace(0, 1, 2 * PROBE, dtype=torch.float32, device="cpu").expand(3, PROBE, -1)
    try:
        for values in (ramp, ramp.mT):  # some pad and resize pictures only, and constant tensors
            transform(values * scale)
        found = {name: _centre(transform, _tensor(COLOURS[name]) * scale, PROBE) for name in seen}
    except Exception:  # noqa: BLE001  # it takes pictures only
        return False
    return all(torch.allclose(found[name], values, atol=1e-4) for name, values in seen.items())


def _plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (PROBE, PROBE), tuple(255 * value for value in colour))


def _tensor(colour: tuple[int, int, int]) -> Float[Tensor, "3 H W"]:
    return torch.tensor(colour, dtype=torch.float32, device="cpu").view(3, 1, 1).repeat(1, PROBE, PROBE)


def _centre(transform: Callable[[Any], Any], picture: Any, side: int) -> Float[Tensor, " C"]:
    """The values that a square picture of one colour gets; its border may be padded."""
    values = _one_input(transform(picture), (side, side))
    return values[:, values.shape[1] // 2, values.shape[2] // 2].double()


def too_long(size: tuple[int, int], resized: tuple[int, int]) -> ValueError:
    """The error about a picture of `size` (width, height) that would be resized to too many pixels."""
    return ValueError(
        f"a picture of {size[0]} × {size[1]} pixels would be resized to {resized[0]} × {resized[1]} for the network; expected "
        f"at most {MOST_PIXELS} pixels. Crop it first: its longer side is too many times its shorter one"
    )


def _one_input(values: Any, size: tuple[int, int]) -> Float[Tensor, "C H W"]:
    if not isinstance(values, Tensor) or values.ndim != 3 or len(values) not in (1, 3):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"a transform must make one input (C, H, W) with 1 or 3 channels of a picture; got {got} for a picture of "
            f"{size[0]} × {size[1]} pixels"
        )
    return values.detach().float()


def _window(preparation: TransformPreparation, size: tuple[int, int]) -> Box:
    """The window of pictures of `size`, measured on one of them, or on a picture of these proportions that is easier."""
    shown = size
    if preparation.proportional:
        sides = [side // math.gcd(*size) for side in size]
        times = math.ceil(PROBE / min(sides))
        shown = sides[0] * times, sides[1] * times
    across, down, inside = _places(preparation, shown)
    exact = preparation.scale > 0
    left, right = _borders(across, inside.any(0), shown[0], size[0], exact)
    top, bottom = _borders(down, inside.any(1), shown[1], size[1], exact)
    return left, top, right, bottom


def _places(
    preparation: TransformPreparation, size: tuple[int, int]
) -> tuple[Float[Tensor, " W"], Float[Tensor, " H"], Bool[Tensor, "H W"]]:
    """Which place of a picture each column and each row of the input shows, in [0, 1], and which pixels show any place."""
    width, height = size
    across = ((torch.arange(width, dtype=torch.float32, device="cpu") + 0.5) / width).expand(height, width)
    down = ((torch.arange(height, dtype=torch.float32, device="cpu") + 0.5) / height)[:, None].expand(height, width)
    maps = torch.stack([across, down, torch.ones(height, width, dtype=torch.float32, device="cpu")])
    if preparation.order:
        seen = _shown(preparation, maps)
        across, down, presence = seen[[preparation.order.index(colour) for colour in range(3)]].double()
    else:
        across, down, presence = (_shown(preparation, one.expand(3, -1, -1))[0].double() for one in maps)
    inside = (presence - 1).abs() < 0.01  # what is padded has another colour
    if not inside.any():  # white, as the middle of the picture
        inside = torch.ones_like(inside)
    return across[inside.any(1)].mean(0), down[:, inside.any(0)].mean(1), inside


def _shown(preparation: TransformPreparation, maps: Float[Tensor, "3 h w"]) -> Float[Tensor, "C H W"]:
    """The input's values for a picture in [0, 1], without its normalisation."""
    if preparation.scale:
        shown: Any = maps * preparation.scale
    else:
        shown = Image.fromarray((maps.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
    values = _one_input(preparation.transform(shown), (maps.shape[2], maps.shape[1]))
    return preparation.normalisation.pictures(values, axes=2)


def _borders(
    places: Float[Tensor, " n"], inside: Bool[Tensor, " n"], length: int, final: int, exact: bool
) -> tuple[float, float]:
    """Where the input begins and ends, in pixels of a picture of length `final`, from the place that each pixel shows.

    The places, in [0, 1], were measured on a picture of `length` pixels.
    """
    count = len(places)
    if not inside.all():  # where something is padded, the whole picture is inside
        resized, start = float(inside.sum()), -float(inside.nonzero()[0])
        return start * final / resized, (start + count) * final / resized
    index = torch.arange(count, dtype=torch.float64, device="cpu")
    third = count // 3
    step, offset = _line(index[third : count - third], places[third : count - third])
    # Near a border of the picture a pixel shows less than its filter wants, so the line is laid through the others.
    margin, expected = FILTER * max(step, 1 / length), offset + step * index
    free = (expected > margin) & (expected < 1 - margin)
    if int(free.sum()) > 1:
        step, offset = _line(index[free], places[free])
    resized = 1 / step  # the length of the whole picture, in pixels of the input
    start = (offset - step / 2) * resized
    if max(abs(resized - round(resized)), abs(start - round(start))) < (EXACT if exact else ROUNDED):
        resized, start = round(resized), round(start)
    return start * final / resized, (start + count) * final / resized


def _line(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> tuple[float, float]:
    """Slope and intercept of the line through points, by least squares."""
    dx = x - x.mean()
    slope = float((dx * (y - y.mean())).sum() / (dx**2).sum())
    return slope, float(y.mean() - slope * x.mean())
