"""The connected parts of sets of places."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool1d, max_pool2d, max_pool3d

POOLS = {1: max_pool1d, 2: max_pool2d, 3: max_pool3d}
"""By the number of axes of space."""

JUMPS = 6
"""How often a pointer is followed in a round: 64 links."""


MOST = 2**24 - 1
"""Of places: whole numbers that float32, in which neighbours are compared, still tells apart."""


def check_places(places: int) -> None:
    """Raise `ValueError` where sets have too many places for their parts to be told apart."""
    if places > MOST:
        raise ValueError(
            f"sets whose parts are looked for may have at most {MOST} places; got {places}. Write "
            "ascent=LevelSetAscent(pruning=None) to keep all parts, or give smaller inputs"
        )


def largest_nearby(values: Float[Tensor, "N 1 *S"]) -> Float[Tensor, "N 1 *S"]:
    """The largest of the values at each place and its neighbours, also across corners, `(N, 1, *S)`."""
    return POOLS[values.ndim - 2](values, 3, 1, 1)


def label_parts(sets: Bool[Tensor, "N 1 *S"]) -> Int[Tensor, "N 1 *S"]:
    """The number of the part at each place of sets `(N, 1, *S)`: from 1, the largest first; 0 outside.

    Places are connected to all their neighbours, also across corners. Parts of equal size are in the order of their last
    places, the later first.
    """
    places = math.prod(sets.shape[1:])
    check_places(places)
    outside = ~sets
    # Each place points to a later one of its part, in the end to the last; 0 is no place.
    target = (
        torch.arange(1, places + 1, dtype=torch.long, device=sets.device)
        .view(1, *sets.shape[1:])
        .masked_fill(outside, 0)
    )
    while True:
        nearby = largest_nearby(target.float()).long().masked_fill(outside, 0)
        # The place to which a group of places points gets the latest of all that their neighbours point to.
        roots = torch.arange(places + 1, dtype=torch.long, device=sets.device).repeat(len(sets), 1)
        roots.scatter_reduce_(1, target.flatten(1), nearby.flatten(1), "amax")
        roots[:, 0] = 0
        for _ in range(JUMPS):
            roots = roots.gather(1, roots)
        following = roots.gather(1, target.flatten(1)).view_as(target)
        if torch.equal(following, target):
            break
        target = following
    sizes = torch.zeros(len(sets), places + 1, dtype=torch.long, device=sets.device)
    sizes.scatter_add_(1, target.flatten(1), torch.ones_like(target).flatten(1))
    sizes[:, 0] = 0
    order = (sizes * (places + 1) + torch.arange(places + 1, dtype=torch.long, device=sets.device)).argsort(
        1, descending=True
    )
    number = torch.zeros_like(order).scatter_(
        1, order, torch.arange(1, places + 2, dtype=torch.long, device=sets.device).expand_as(order)
    )
    return number.gather(1, target.flatten(1)).view_as(target).masked_fill(outside, 0)
