"""Where in pictures the channels of a layer are excited most."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfumato.layers.axes import Axes
from sfumato.layers.tokens import channel_layout, laid_out
from sfumato.methods.extremal_channels import ExtremalChannels
from sfumato.space.smoothing import gaussian_blur

AROUND = 0.1
"""Of the shorter side: the width of a place's surroundings."""


@dataclass(frozen=True, eq=False)
class Peaks:
    """What excites each of `K` channels, or groups of them, most in each of `n` pictures, and where; a group's largest."""

    pictures: tuple[Path, ...]
    values: Tensor
    """The largest activation, `(n, K)`."""
    around: Tensor
    """The mean activation about its place, `(n, K)`, under a Gaussian of `AROUND` times the shorter side. It decides where
    several places, or pictures, have the same largest activation, as where that is bounded (ReLU6)."""
    places: Tensor
    """The middle of its place, in fractions of the height and the width of the network's input, `(n, K, 2)`; NaN where
    the channel is the same everywhere, or the layer has no places."""


def peaks_of(
    activation: Tensor, space: tuple[int, ...], method: ExtremalChannels, axes: Axes | None = None
) -> dict[str, Tensor]:
    """The `Peaks` of one input's activation, in the layer's own form, whose `axes` are known from a watched pass."""
    try:
        maps = laid_out(activation, space, method.layer, axes, method.layout)[0].float()
    except ValueError:  # it has no places
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
        values, around, where = largest(*(each.unflatten(0, (method.groups, -1)) for each in (values, around)))
        places = places[torch.arange(method.groups, dtype=torch.long, device=where.device), where]
    return {"values": values.cpu(), "around": around.cpu(), "places": places.cpu()}


def largest(values: Tensor, around: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of values `(N, P)`, and of those with this value the one with most around it: both, and its index, `(N,)`."""
    most = values.amax(1)
    around, where = around.masked_fill(values < most[:, None], -torch.inf).max(1)
    return most, around, where
