"""Bringing masks back to their areas."""

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.masks.family import Parametrisation
from sfumato.search.rules import like

NEARLY, EXACTLY = 1e-3, 1e-5
"""How far a mask's area may be off during the ascent at most, and in its answer."""

TRIALS = 24
"""Of a shift, at most; three to five are enough during the ascent."""


def project(
    masks: Parametrisation,
    parameters: Float[Tensor, "N 1 *L"],
    areas: Float[Tensor, " N"],
    tolerance: float,
    bounded: bool = True,
) -> Float[Tensor, "N 1 *L"]:
    """The parameters `(N, 1, *L)` shifted by one number each and clipped to [0, 1], for masks of the given areas `(N,)`.

    Not `bounded`, they are only shifted. This is for families whose field moves with the shift: its places keep their order.

    The area grows with the shift; its root is bracketed and found by the Illinois variant of regula falsi. The first trial
    within the tolerance counts, so that no row depends on how long another takes.
    """
    nodes = parameters if bounded else masks.nodes(parameters)
    # Shifts at which every mask is empty, and full, and how far the areas are off there.
    if bounded:
        low, high = -parameters.flatten(1).amax(1).clamp(min=1), 1 - parameters.flatten(1).amin(1).clamp(max=0)
    else:
        low, high = -nodes.flatten(1).amax(1), 1 - nodes.flatten(1).amin(1)
    below, above = -areas, masks.everything - areas
    shift, side = torch.zeros_like(areas), torch.zeros_like(areas)
    nearest, gap = shift, torch.full_like(areas, torch.inf)
    for trial in range(TRIALS):
        moved = (
            masks.nodes((parameters + like(shift, parameters)).clamp(0, 1)) if bounded else nodes + like(shift, nodes)
        )
        off = masks.areas(moved) - areas
        # A smooth maximum can fall while weak seeds rise, so there may be two roots: the first found is kept.
        nearer = (off.abs() < gap) & (gap > tolerance)
        nearest, gap = torch.where(nearer, shift, nearest), torch.where(nearer, off.abs(), gap)
        if (gap <= tolerance).all():
            break
        # The end that stays a second time counts half, or it would stay for good.
        too_much = off > 0
        below = torch.where(too_much, torch.where(side > 0, below / 2, below), off)
        above = torch.where(too_much, off, torch.where(side < 0, above / 2, above))
        low, high = torch.where(too_much, low, shift), torch.where(too_much, shift, high)
        side = torch.where(too_much, 1.0, -torch.ones_like(side))
        falsi = low - below * (high - low) / (above - below)
        # Most steps are small: first look twice as far as a slope of one suggests, to bracket the root closely.
        close = shift - 2 * off
        shift = torch.where((close > low) & (close < high), close, falsi) if trial == 0 else falsi
    shifted = parameters + like(nearest, parameters)
    return shifted.clamp(0, 1) if bounded else shifted
