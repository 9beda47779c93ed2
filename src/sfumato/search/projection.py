"""Bringing masks back to their areas."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.masks.family import Parametrisation
from sfumato.masks.level_set import LevelSets
from sfumato.search.rules import like

NEARLY, EXACTLY = 1e-3, 1e-5
"""How far a mask's area may be off during the ascent at most, and in its answer."""

TRIALS = 24
"""Of a shift, at most; three to five are enough during the ascent."""


def project(
    masks: Parametrisation, parameters: Float[Tensor, "N 1 *L"], areas: Float[Tensor, " N"], tolerance: float
) -> Float[Tensor, "N 1 *L"]:
    """The parameters `(N, 1, *L)` shifted by one number each and clipped to [0, 1], for masks of the given areas `(N,)`."""

    def clipped(shift: Float[Tensor, " N"]) -> Float[Tensor, "N 1 *L"]:
        return (parameters + like(shift, parameters)).clamp(0, 1)

    # At the least shift every parameter is clipped to 0, at the greatest to 1.
    least, greatest = -parameters.flatten(1).amax(1).clamp(min=1), 1 - parameters.flatten(1).amin(1).clamp(max=0)
    return clipped(
        _shift(
            lambda shift: masks.areas(masks.nodes(clipped(shift))), areas, least, greatest, masks.everything, tolerance
        )
    )


def shifted(
    ramps: LevelSets, parameters: Float[Tensor, "N 1 *L"], areas: Float[Tensor, " N"], tolerance: float
) -> Float[Tensor, "N 1 *L"]:
    """The parameters `(N, 1, *L)` of a field, shifted by one number each for ramps of the given areas `(N,)`; not clipped.

    The field is shifted with them, so its places stay in their order.
    """
    nodes = ramps.nodes(parameters)
    half = 0.5 / ramps.sharpness  # of the width of a ramp
    least, greatest = 0.5 - half - nodes.flatten(1).amax(1), 0.5 + half - nodes.flatten(1).amin(1)
    shift = _shift(
        lambda shift: ramps.areas(nodes + like(shift, nodes)), areas, least, greatest, ramps.everything, tolerance
    )
    return parameters + like(shift, parameters)


def _shift(
    area: Callable[[Float[Tensor, " N"]], Float[Tensor, " N"]],
    areas: Float[Tensor, " N"],
    least: Float[Tensor, " N"],
    greatest: Float[Tensor, " N"],
    most: Float[Tensor, " 1"],
    tolerance: float,
) -> Float[Tensor, " N"]:
    """The shifts `(N,)` at which `area` has the wanted values; it is 0 at the least shifts, and `most` at the greatest.

    The area grows with the shift; its root is bracketed and found by the Illinois variant of regula falsi. The first trial
    within the tolerance counts, so that no row depends on how long another takes.
    """
    low, high = least, greatest
    below, above = -areas, most - areas
    shift, side = torch.zeros_like(areas), torch.zeros_like(areas)
    nearest, gap = shift, torch.full_like(areas, torch.inf)
    for trial in range(TRIALS):
        off = area(shift) - areas
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
    return nearest
