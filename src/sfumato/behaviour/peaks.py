"""Where in pictures the channels of a layer have their largest activation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.layers.axes import Axes
from sfumato.layers.tokens import channel_layout, laid_out
from sfumato.methods.extremal_channels import ExtremalChannels
from sfumato.space.smoothing import gaussian_blur

AROUND = 0.1
"""The width of the surroundings of a place, as a fraction of the shorter side."""


SQUARE = 0.4
"""The side of the part of a picture that is shown around a place, as a share of the picture's shorter side."""


def square_around(
    picture: Float[Tensor, "3 H W"], place: Sequence[float], side: float = SQUARE
) -> Float[Tensor, "3 s s"]:
    """The square around a place, in fractions of the height and the width, within the picture."""
    size = max(1, round(side * min(picture.shape[1:])))
    top, left = (
        min(max(int(middle * length - size / 2 + 0.5), 0), length - size)
        for middle, length in zip(place, picture.shape[1:], strict=True)
    )
    return picture[:, top : top + size, left : left + size]


@dataclass(frozen=True, eq=False)
class Peaks:
    """The largest activation of each of `K` channels in each of `n` pictures, and where it is.

    For groups of channels, it is the largest of the group.
    """

    pictures: tuple[Path, ...]
    values: Float[Tensor, "n K"]
    """The largest activation."""
    around: Float[Tensor, "n K"]
    """The mean activation around its place, under a Gaussian of `AROUND` times the shorter side. It decides between
    places, or pictures, with the same largest activation, which are common for bounded activations (ReLU6)."""
    places: Float[Tensor, "n K 2"]
    """The centre of its place, in fractions of the height and the width of the network's input. NaN if the channel
    has one value everywhere, or if the layer has no places."""


def peaks_of(
    activation: Float[Tensor, "1 ..."], space: tuple[int, ...], method: ExtremalChannels, axes: Axes | None = None
) -> dict[str, Tensor]:
    """The fields of `Peaks` for one input, from the layer's activation in its own layout, which `axes` may describe."""
    try:
        maps = laid_out(activation, space, method.layer, axes, method.layout)[0].float()
    except ValueError:  # the layer has no places
        laid = channel_layout(activation.shape, space, method.layer, axes, method.layout, method.at)
        maps = laid.places(activation)[0].flatten(1).float()
    grid, flat = maps.shape[1:], maps.flatten(1)
    surroundings = gaussian_blur(maps[None], AROUND * min(grid)).flatten(2)[0] if len(grid) == len(space) else flat
    values, around, where = largest(flat, surroundings)
    places = values.new_full((len(values), len(space)), torch.nan)
    if len(grid) == len(space):
        middles = (torch.stack(torch.unravel_index(where, grid), 1) + 0.5) / values.new_tensor(grid)
        places = torch.where((values > flat.amin(1))[:, None], middles, places)
    if method.groups:
        places = places.unflatten(0, (method.groups, -1))
        values, around, where = largest(*(part.unflatten(0, (method.groups, -1)) for part in (values, around)))
        places = places[torch.arange(method.groups, dtype=torch.long, device=where.device), where]
    return {"values": values.cpu(), "around": around.cpu(), "places": places.cpu()}


def largest(
    values: Float[Tensor, "N P"], around: Float[Tensor, "N P"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Int[Tensor, " N"]]:
    """The largest of each row of values, the value around it, and its index; of ties, the one with most around it."""
    most = values.amax(1)
    around, where = around.masked_fill(values < most[:, None], -torch.inf).max(1)
    return most, around, where
