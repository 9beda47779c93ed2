"""Where a transformer's tokens lie in the picture."""

import math
from collections.abc import Sequence

from torch import Tensor

MOST_LEADING = 16
"""Tokens before those of the picture: its class, registers, prompts."""


def laid_out(values: Tensor, space: tuple[int, ...], layer: str) -> Tensor:
    """Values `(N, C, *L)` as they are; a transformer's `(N, *L, C)`, or `(N, tokens, C)` for pictures, as `(N, C, *L)`.

    The tokens' grid has the picture's proportions and divides it into whole patches, so for a square picture their number
    is a square; as few leading tokens (class, registers) as that takes are dropped. Channels come last where that alone
    gives the proportions of the inputs' `space`. Raises `ValueError` where nothing fits.
    """
    if values.ndim == 2 + len(space):
        last = not _proportional(values.shape[2:], space) and _proportional(values.shape[1:-1], space)
        return values.movedim(-1, 1) if last and len(space) > 1 else values
    if values.ndim == 3 and len(space) == 2:
        sides = [side // math.gcd(*space) for side in space]
        tokens = values.shape[1]
        for leading in range(min(MOST_LEADING + 1, tokens)):
            times = math.isqrt((tokens - leading) // math.prod(sides))
            if times and times**2 * math.prod(sides) == tokens - leading and math.gcd(*space) % times == 0:
                grid = values[:, leading:].unflatten(1, [times * side for side in sides])
                return grid.movedim(-1, 1)
        raise ValueError(
            f"the layer {layer!r} puts out {tokens} tokens, which with up to {MOST_LEADING} leading ones left out are no "
            f"grid of the proportions of a {space[0]} × {space[1]} picture; name a layer whose output has places"
        )
    raise ValueError(
        f"the layer {layer!r} puts out shape {tuple(values.shape)} for inputs with {len(space)} axes of space; name a layer "
        f"whose output is (N, C, *L) with as many"
    )


def _proportional(size: Sequence[int], space: Sequence[int]) -> bool:
    return all(side * space[0] == size[0] * length for side, length in zip(size, space, strict=True))
