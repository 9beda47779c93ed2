"""Smoothing and interpolation over 1, 2 or 3 axes of space.

Tensors are `(N, C, *S)`; every operation is separable and runs axis by axis, so the same code serves audio, pictures
and volumes. Lengths are in places (samples, pixels, voxels).
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

TRUNCATE = 4.0
"""Gaussian kernels end at this many standard deviations, where they have fallen to 3e-4 of their peak."""


def reflect(index: Int[Tensor, "*P"], length: int) -> Int[Tensor, "*P"]:
    """Fold any integer position into `[0, length)` as a row of mirrors would: … 1 0 | 0 1 2 | 2 1 …"""
    index = index % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def extend(x: Float[Tensor, "N C *S"], axis: int, amount: int, border: str) -> Float[Tensor, "N C *M"]:
    """`x` with `amount` more places at both ends of an axis: a reflection, or zeros."""
    if border == "zeros":
        sides = [0, 0] * (x.ndim - 1 - axis) + [amount, amount]
        return torch.nn.functional.pad(x, sides)
    length = x.shape[axis]
    places = torch.arange(-amount, length + amount, dtype=torch.long, device=x.device)
    return x.index_select(axis, reflect(places, length))


BORDERS = ("reflect", "zeros")


def gaussian_blur(
    x: Float[Tensor, "N C *S"], sigma: float | Sequence[float], border: str = "reflect"
) -> Float[Tensor, "N C *S"]:
    r"""Convolve every axis of space with a Gaussian.

    `x` is `(N, C, *S)`; `sigma` in places, one number or one per axis, 0 for none. `border` says what lies beyond the
    edge: "reflect" (the default; keeps the mean) or "zeros" (darkens borders).
    """
    axes = range(2, x.ndim)
    for axis, width in zip(axes, per_axis(sigma, len(axes)), strict=True):
        if width > 0:
            x = _blur_axis(x, axis, width, border)
    return x


def _blur_axis(x: Float[Tensor, "N C *S"], axis: int, sigma: float, border: str) -> Float[Tensor, "N C *S"]:
    kernel = gaussian(sigma, torch.promote_types(x.dtype, torch.float32), x.device).to(x.dtype)
    padded = extend(x, axis, len(kernel) // 2, border).movedim(axis, -1)
    blurred = torch.nn.functional.conv1d(padded.reshape(-1, 1, padded.shape[-1]), kernel[None, None])
    return blurred.reshape(*padded.shape[:-1], x.shape[axis]).movedim(-1, axis)


def gaussian(sigma: float, dtype: torch.dtype, device: torch.device | None = None) -> Float[Tensor, " K"]:
    """The Gaussian's weights at whole places from -R to R, with a sum of one; for `sigma` 0, one weight of 1."""
    radius = math.ceil(TRUNCATE * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=dtype, device=device)
    weights = torch.exp(-0.5 * (offsets / sigma).square()) if sigma else torch.ones_like(offsets)
    return weights / weights.sum()


def cubic_spline(distance: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """The uniform cubic B-spline at a distance from its centre, in spacings of its control points; 0 from 2 on.

    The values at all whole distances from any place sum to one and are not negative, so that a curve through control points
    in [0, 1] stays in [0, 1]; it is twice continuously differentiable.
    """
    distance = distance.abs()
    near = 2 / 3 - distance.square() + distance.pow(3) / 2
    far = (2 - distance).clamp(min=0).pow(3) / 6
    return torch.where(distance < 1, near, far)


DENSE = 2**16
"""Entries of a matrix that is kept as it is; a larger one is kept as blocks. 512 places with a node every 7 have 38,000."""

BLOCK = 64
"""Places of a block."""


class Interpolation:
    """Values at `count` nodes of one axis to its `length` places, each a weighted sum of the nodes near it.

    Place p lies `start + p * pace` spacings behind the first node, and a node that lies d spacings behind a place has there
    the weight `weight(d)`, which is zero from a distance of `reach` on. Nodes outside have no weight; with `mirrored` they are
    mirror images of those inside. The matrix is `(length, count)`; of a long axis only the band that is not zero is kept, in
    blocks of places, each with the nodes that it needs: its memory is that of the places, not of places times nodes.
    """

    def __init__(
        self,
        length: int,
        count: int,
        start: float,
        pace: float,
        reach: float,
        weight: Callable[[Float[Tensor, "*P"]], Float[Tensor, "*P"]],
        *,
        mirrored: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        rows = length if length * count <= DENSE else BLOCK
        blocks = math.ceil(length / rows)
        places = torch.arange(blocks * rows, dtype=torch.float64, device="cpu").view(blocks, rows)
        position = start + pace * places
        width = math.ceil((rows - 1) * pace + 2 * reach) + 2
        offsets = torch.arange(width, dtype=torch.long, device="cpu")
        nodes = (position[:, :1] - reach).floor().long() + offsets  # (blocks, width)
        columns = reflect(nodes, count) if mirrored else nodes.clamp(0, count - 1)
        weights = weight(nodes[:, None] - position[..., None])  # (blocks, rows, width)
        weights *= (places < length)[..., None]
        if not mirrored:
            weights *= (columns == nodes)[:, None]
        share = torch.zeros(count, dtype=torch.float64, device="cpu")
        share.index_add_(0, columns.flatten(), weights.sum(1).flatten())
        if blocks == 1:
            matrix = torch.zeros(rows, count, dtype=torch.float64, device="cpu")
            weights = matrix.index_add_(1, columns[0], weights[0])[None]
        self.length = length
        self.share = (share / length).to(device=device, dtype=dtype)
        """The mean over the places of each node's weight, `(count,)`."""
        self._columns = columns.to(device)
        self._weights = weights.to(device=device, dtype=dtype)

    def __call__(self, x: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
        """`x` with its axis of nodes as one of places."""
        x = x.movedim(axis, -1)
        if len(self._weights) == 1:
            return torch.matmul(x, self._weights[0].mT).movedim(-1, axis)
        near = x.index_select(-1, self._columns.flatten()).unflatten(-1, self._columns.shape)
        places = torch.einsum("...bw,bpw->...bp", near, self._weights).flatten(-2)
        return places[..., : self.length].movedim(-1, axis)


def along_each_axis(x: Float[Tensor, "N C *L"], interpolations: Sequence[Interpolation]) -> Float[Tensor, "N C *S"]:
    """Each axis of space of `x` `(N, C, *L)` interpolated: `(N, C, *S)`."""
    for axis, interpolation in enumerate(interpolations, start=2):
        x = interpolation(x, axis)
    return x


PICTURE = 224
"""Pixels along the side of the pictures that the published lengths are meant for."""

PARTS = {1: 256, 2: 32, 3: 16}
"""By the number of axes, how many steps of the published 7 pixels in 224 an axis has. With as many, a mask of one seed covers
2 % of an input, whatever its number of axes."""


def scales(shape: Sequence[int]) -> tuple[float, ...]:
    """How many places along each axis correspond to one pixel of a picture of 224 x 224, for lengths in places.

    Axes of like length, none more than twice another, are of one kind, such as a picture's height and width, and share what
    suits the shortest; others, such as the frames of a clip, go by their own length. Up to twice 224 pixels are as 224: of
    larger pictures masks may show more, down to half as large a share. See the decision "Lengths that are not said come from
    the shape" for why an axis alone has more steps and three have fewer.

    >>> scales((224, 224)), scales((320, 400)), scales((896, 896)), scales((16, 112, 112))
    ((1.0, 1.0), (1.0, 1.0), (2.0, 2.0), (0.14285714285714285, 1.0, 1.0))
    """
    parts = PARTS[max(1, sum(length > 1 for length in shape))]
    shortest: dict[int, int] = {}
    first = 0
    for length in sorted(shape):
        first = first if 0 < length <= 2 * first else length
        shortest[length] = first
    parted = [shortest[length] * PARTS[2] / (PICTURE * parts) for length in shape]
    return tuple(scale if scale <= 1 else max(1.0, scale / 2) for scale in parted)


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


def rounded(lengths: float | tuple[float, ...] | None) -> str:
    """Lengths to three digits, as they are written in a call."""
    return repr(tuple(float(f"{length:.3g}") for length in lengths) if isinstance(lengths, tuple) else lengths)


def enlarged(x: Float[Tensor, "N C *L"], space: Sequence[int]) -> Float[Tensor, "N C *S"]:
    """`x` `(N, C, *L)` interpolated linearly to `(N, C, *space)`, or as it is where it is as large."""
    if x.shape[2:] == tuple(space):
        return x
    mode = ("linear", "bilinear", "trilinear")[len(space) - 1]
    return torch.nn.functional.interpolate(x, tuple(space), mode=mode, align_corners=False)
