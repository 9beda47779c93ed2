"""Lengths of mask families: a spacing and a width in places, each one number for all axes of space or one for each."""

from collections.abc import Sequence
from typing import Any

from sfumato.settings import check_number
from sfumato.space.smoothing import per_axis, rounded, scales

Lengths = float | tuple[float, ...] | None

LEAST = 0.5
"""The smallest step of a lattice that is derived, in places: finer ones could not be seen."""


def as_lengths(name: str, value: Any, meaning: str, **bounds: float) -> Any:
    """A setting as it is kept: a sequence as a tuple. Raises `ValueError` where one of its numbers is out of bounds."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = tuple(value)
    for length in value if isinstance(value, tuple) else () if value is None else (value,):
        check_number(name, length, f"{meaning} in places, or one for each axis", **bounds)
    return value


def fitting(
    spacing: Lengths, width: Lengths, shape: Sequence[int], published: tuple[float, float], least: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both lengths for each axis of an input, where one or both are not given: in the proportion of the published ones.

    The published lengths are those for pictures of 224 pixels; a spacing that is not given is `least` at least.
    """
    if spacing is None:
        spacings = tuple(max(least, published[0] * scale) for scale in scales(shape))
    else:
        spacings = per_axis(spacing, len(shape))
    if width is not None:
        return spacings, per_axis(width, len(shape))
    return spacings, tuple(spacing * published[1] / published[0] for spacing in spacings)


def for_each_axis(
    family: object, spacing: Lengths, width: Lengths, shape: Sequence[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both lengths of a family for each axis of an input. Raises `ValueError` where one of them is not given."""
    if spacing is None or width is None:
        raise ValueError(f"the lengths of {family} are not set; write {family}.on(shape)")
    return per_axis(spacing, len(shape)), per_axis(width, len(shape))


def over_layer(
    family: object, spacing: Lengths, width: Lengths, stride: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Both lengths for a layer whose places are `stride` places of the input apart, one number per axis.

    They are divided by the strides. A spacing stays at `LEAST` at least, and the width in proportion.
    Raises `ValueError` where a length is not given.
    """
    if spacing is None or width is None:
        name = type(family).__name__
        raise ValueError(f"the lengths of {family} are not set; write {name}().for_shape(shape).divided(stride)")
    spacings, widths = per_axis(spacing, len(stride)), per_axis(width, len(stride))
    factors = [min(1.0, max(1 / places, LEAST / length)) for places, length in zip(stride, spacings, strict=True)]
    spacings, widths = (
        tuple(length * factor for length, factor in zip(lengths, factors, strict=True))
        for lengths in (spacings, widths)
    )
    return spacings, widths


def too_small(shape: Sequence[int], given: str, suiting: Any) -> ValueError:
    """The error for an input with less than two spacings along an axis; `suiting` is the family that suits the shape."""
    lengths = ", ".join(f"{name}={rounded(value)}" for name, value in vars(suiting).items() if name in LENGTHS)
    return ValueError(
        f"an input of {' x '.join(map(str, shape))} places is too small for a mask with {given}; give none, to have what suits "
        f"the shape, or a smaller one for each axis, e.g. mask={type(suiting).__name__}({lengths})"
    )


LENGTHS = ("step", "scale", "sigma")
"""What the settings are called that are lengths."""
