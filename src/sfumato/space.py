"""Smoothing and interpolation over 1, 2 or 3 axes of space.

Tensors are `(N, C, *S)`; every operation is separable and runs axis by axis, so the same code serves audio, pictures
and volumes. Lengths are in places (samples, pixels, voxels).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TRUNCATE = 4.0
"""Gaussian kernels end at this many standard deviations, where they have fallen to 3e-4 of their peak."""


def reflect(index: Tensor, length: int) -> Tensor:
    """Fold any integer position into `[0, length)` as a row of mirrors would: … 1 0 | 0 1 2 | 2 1 …"""
    index = index % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def extend(x: Tensor, axis: int, amount: int, border: str) -> Tensor:
    """`x` with `amount` more places at both ends of an axis: a reflection, or zeros."""
    if border == "zeros":
        sides = [0, 0] * (x.ndim - 1 - axis) + [amount, amount]
        return torch.nn.functional.pad(x, sides)
    length = x.shape[axis]
    return x.index_select(axis, reflect(torch.arange(-amount, length + amount, device=x.device), length))


BORDERS = ("reflect", "zeros")


def gaussian_blur(x: Tensor, sigma: float | Sequence[float], border: str = "reflect") -> Tensor:
    r"""Convolve every axis of space with a Gaussian.

    `x` is `(N, C, *S)`; `sigma` in places, one number or one per axis, 0 for none. `border` says what lies beyond the
    edge: "reflect" (the default; keeps the mean) or "zeros" (darkens borders).
    """
    axes = range(2, x.ndim)
    for axis, width in zip(axes, per_axis(sigma, len(axes)), strict=True):
        if width > 0:
            x = _blur_axis(x, axis, width, border)
    return x


def _blur_axis(x: Tensor, axis: int, sigma: float, border: str) -> Tensor:
    radius = math.ceil(TRUNCATE * sigma)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (kernel / kernel.sum()).to(x.dtype)
    padded = extend(x, axis, radius, border).movedim(axis, -1)
    blurred = torch.nn.functional.conv1d(padded.reshape(-1, 1, padded.shape[-1]), kernel[None, None])
    return blurred.reshape(*padded.shape[:-1], x.shape[axis]).movedim(-1, axis)


def cubic_spline_matrix(nodes: Tensor, places: Tensor) -> Tensor:
    """Weights `(places, nodes)` of the uniform cubic B-spline with these control points, in one dimension.

    The rows are non-negative and sum to one wherever a node lies at least one spacing beyond the place on both sides,
    so a curve through values in [0, 1] stays in [0, 1]; it is twice continuously differentiable.
    """
    spacing = nodes[1] - nodes[0]
    distance = ((places[:, None] - nodes[None]) / spacing).abs()
    near = 2 / 3 - distance.square() + distance.pow(3) / 2
    far = (2 - distance).clamp(min=0).pow(3) / 6
    return torch.where(distance < 1, near, far)


def along_each_axis(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix `(out, in)` to each axis of space of `x` `(N, C, *S)`."""
    for axis, matrix in enumerate(matrices, start=2):
        x = torch.matmul(x.movedim(axis, -1), matrix.mT).movedim(-1, axis)
    return x


def per_axis(value: float | Sequence[float], axes: int) -> tuple[float, ...]:
    """One number for every axis, from one number for all or a sequence of them."""
    if isinstance(value, Sequence):
        if len(value) != axes:
            raise ValueError(
                f"got {len(value)} values {tuple(value)} for an input with {axes} axes of space; give one per axis, "
                "or a single number for all"
            )
        return tuple(value)
    return (value,) * axes


def enlarged(x: Tensor, space: Sequence[int]) -> Tensor:
    """`x` `(N, C, *L)` interpolated linearly to `(N, C, *space)`, or as it is where it is as large."""
    if x.shape[2:] == tuple(space):
        return x
    mode = ("linear", "bilinear", "trilinear")[len(space) - 1]
    return torch.nn.functional.interpolate(x, tuple(space), mode=mode, align_corners=False)
