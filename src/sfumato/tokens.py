"""Where the channels and the places are in what a layer puts out, and where a transformer's tokens lie in the picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_LEADING = 16
"""Tokens before those of the picture: its class, registers, prompts."""


@dataclass(frozen=True)
class Layout:
    """From values in a network's own form to `(N, C, *L)`, and back.

    `channels` is the axis of channels. Where places are tokens, the first `leading` of them are none, and the others form
    the `grid`. Values without places, `(N, C)`, have one: `vector`.
    """

    channels: int = 1
    leading: int = 0
    grid: tuple[int, ...] | None = None
    vector: bool = False

    def places(self, values: Tensor) -> Tensor:
        """Values in the network's own form as `(N, C, *L)`."""
        if self.vector:
            return values.unsqueeze(-1)
        if self.grid is not None:
            values = values[:, self.leading :].unflatten(1, self.grid)
        return values.movedim(self.channels, 1)

    def own(self, places: Tensor, leading: Tensor) -> Tensor:
        """`(N, C, *L)` in the network's own form, behind the tokens `leading` `(N, leading, C)` if it has such."""
        if self.vector:
            return places.squeeze(-1)
        values = places.movedim(1, self.channels)
        if self.grid is not None:
            values = values.flatten(1, len(self.grid))
        return torch.cat([leading.to(values.dtype), values], 1) if self.leading else values


def layout(shape: Sequence[int], space: Sequence[int], layer: str) -> Layout:
    """How `shape` lies over inputs of `space`: `(N, C, *L)`, or a transformer's `(N, *L, C)` or `(N, tokens, C)`.

    The tokens' grid has the picture's proportions and divides it into whole patches, so for a square picture their number
    is a square; as few leading tokens (class, registers) as that takes are left out. Channels come last where that alone
    gives the proportions of the inputs' `space`. Raises `ValueError` where nothing fits.
    """
    if len(shape) == 2 + len(space):
        last = not _proportional(shape[2:], space) and _proportional(shape[1:-1], space)
        return Layout(channels=-1 if last and len(space) > 1 else 1)
    if len(shape) == 3 and len(space) == 2:
        sides = [side // math.gcd(*space) for side in space]
        tokens = shape[1]
        for leading in range(min(MOST_LEADING + 1, tokens)):
            times = math.isqrt((tokens - leading) // math.prod(sides))
            if times and times**2 * math.prod(sides) == tokens - leading and math.gcd(*space) % times == 0:
                return Layout(channels=-1, leading=leading, grid=tuple(times * side for side in sides))
        raise ValueError(
            f"the layer {layer!r} puts out {tokens} tokens, which with up to {MOST_LEADING} leading ones left out are no "
            f"grid of the proportions of a {space[0]} × {space[1]} picture; name a layer whose output has places"
        )
    raise ValueError(
        f"the layer {layer!r} puts out shape {tuple(shape)} for inputs with {len(space)} axes of space; name a layer "
        f"whose output is (N, C, *L) with as many"
    )


def channel_layout(shape: Sequence[int], space: Sequence[int]) -> Layout:
    """The same for what is done to channels alone: all tokens count, whether or not they form a grid, and vectors do."""
    if len(shape) == 2:
        return Layout(vector=True)
    if len(shape) == 2 + len(space):
        return layout(shape, space, "")
    return Layout(channels=-1 if len(shape) == 3 else 1)


def laid_out(values: Tensor, space: Sequence[int], layer: str) -> Tensor:
    """Values of a layer over inputs of `space` as `(N, C, *L)`: see `layout`."""
    return layout(values.shape, space, layer).places(values)


def _proportional(size: Sequence[int], space: Sequence[int]) -> bool:
    return all(side * space[0] == size[0] * length for side, length in zip(size, space, strict=True))
