r"""Smooth masks from a few parameters, by max-convolution.

A mask is $m(u) = \max_v k(u - v)\,\bar m(v)$ over the seeds $v$ of a coarse lattice, with parameters
$\bar m(v) \in [0, 1]$ and a smooth kernel $k$, $k(0) = 1$ (Fong et al. 2019, section 3.2). Unlike a convolution, the
maximum does not damp peaks, and the mask inherits the kernel's smoothness.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.configuration import check_number
from sfumato.space import along_each_axis, cubic_spline_matrix, per_axis

NEGLIGIBLE = 1 / 255
"""The kernel is followed until it has fallen to this value, one grey level."""


def kernel(distance: Tensor) -> Tensor:
    r"""The kernel's value at a distance in units of $\sigma$: $\exp(-2 \max(0, d - \tfrac12)^2)$, flat at the top."""
    return torch.exp(-2 * (distance - 0.5).clamp(min=0).square())


REACH = 0.5 + math.sqrt(-math.log(NEGLIGIBLE) / 2)
"""The distance, in units of sigma, at which the kernel becomes negligible."""


def smooth_max(values: Tensor, temperature: float, dim: int) -> Tensor:
    r"""A differentiable maximum: the mean of the values weighted by how large they are.

    $\mathrm{smax}(f) = \sum f\,w(f) / \sum w(f)$ with $w(f) = e^{Tf} - 1$, for values in [0, 1].

    The paper's weight is $e^{Tf}$. Its zeros weigh one each, so that the result would depend on how many far-away
    seeds are counted, and a kernel with full support has no natural end; less one, seeds without influence have none.
    """
    weights = torch.expm1(temperature * values)
    return (values * weights).sum(dim) / weights.sum(dim).clamp(min=TINY)


TINY = 1e-12
"""Keeps 0/0 at 0 where no seed has any influence."""


@dataclass(frozen=True)
class SmoothMask:
    """The family of masks with seeds every `step` places, kernels of width `sigma` places, and a smooth maximum.

    `step` and `sigma` are one number for all axes or one per axis; `temperature` is the inverse softness of the
    maximum. The defaults suit pictures of about 224 pixels: step and temperature are the published ones; the published
    `sigma`, 21, goes with a kernel that is cut off, and with 16 the whole kernel makes borders as wide as those.

    The maximum is taken at the lattice's nodes, and its values there are the control points of a cubic B-spline: the
    mask is twice differentiable everywhere, in [0, 1], and its area is a fixed weighted sum of the nodes' values.
    """

    step: float | tuple[float, ...] = 7
    sigma: float | tuple[float, ...] = 16
    temperature: float = 20

    def __post_init__(self) -> None:
        for name in ("step", "sigma"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
            for length in getattr(self, name) if isinstance(getattr(self, name), tuple) else (value,):
                check_number(name, length, "a length in places, or one for each axis", above=0)
        check_number("temperature", self.temperature, "the inverse softness of the maximum", above=0)

    def divided(self, stride: Sequence[float]) -> "SmoothMask":
        """The same family over a layer whose places are `stride` places of the input apart, one number per axis.

        Its lengths are divided by the strides. A step stays at half a place at least, as finer ones could not be seen, and
        sigma with it.
        """
        steps, sigmas = per_axis(self.step, len(stride)), per_axis(self.sigma, len(stride))
        shrunk = [min(1.0, max(1 / each, HALF / step)) for each, step in zip(stride, steps, strict=True)]
        return SmoothMask(
            tuple(step * by for step, by in zip(steps, shrunk, strict=True)),
            tuple(sigma * by for sigma, by in zip(sigmas, shrunk, strict=True)),
            self.temperature,
        )

    def on(
        self, shape: Sequence[int], device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "Lattice":
        """The lattice for inputs whose axes of space have the lengths `shape`."""
        return Lattice(self, tuple(shape), device, dtype)


HALF = 0.5


class Lattice:
    """A mask family laid over one shape of input: parameters `(N, 1, *L)` to masks `(N, 1, *S)`."""

    def __init__(
        self, family: SmoothMask, shape: tuple[int, ...], device: torch.device | None, dtype: torch.dtype | None
    ) -> None:
        steps = per_axis(family.step, len(shape))
        sigmas = per_axis(family.sigma, len(shape))
        for length, step in zip(shape, steps, strict=True):
            if length < 2 * step:
                raise ValueError(
                    f"an input of {' x '.join(map(str, shape))} places is too small for a mask with step={family.step}; "
                    f"give a smaller one, e.g. mask=SmoothMask(step={max(1, min(shape) // 8)}, "
                    f"sigma={max(1, 3 * (min(shape) // 8))})"
                )
        axes = [_nodes(length, step) for length, step in zip(shape, steps, strict=True)]
        self.family = family
        self.shape = shape
        self.size = tuple(len(nodes) for nodes in axes)
        dtype = dtype or torch.float32
        self._spline = [
            cubic_spline_matrix(nodes, torch.arange(length, dtype=torch.float64)).to(device=device, dtype=dtype)
            for nodes, length in zip(axes, shape, strict=True)
        ]
        self._share = self._spline[0].mean(0)
        for matrix in self._spline[1:]:
            self._share = self._share[..., None] * matrix.mean(0)
        # No seed is farther from a node than the lattice is wide, however long the kernel.
        radius = [
            min(math.ceil(REACH * sigma / step), size - 1)
            for sigma, step, size in zip(sigmas, steps, self.size, strict=True)
        ]
        self._windows = _Windows(
            self.size,
            radius,
            [step / sigma for step, sigma in zip(steps, sigmas, strict=True)],
            device,
            dtype,
        )
        self.everything = self.areas(self.nodes(torch.ones(1, 1, *self.size, device=device, dtype=dtype)))
        """The largest area that a mask of this family has, `(1,)`."""

    finest = 0.02
    """The smallest area that tells anything, as a fraction of the input."""

    def check(self, areas: Sequence[float]) -> None:
        """Raise `ValueError` if no mask of this family covers so much."""
        everything = self.everything.item()
        if max(areas) > everything + 0.004:
            raise ValueError(
                f"no mask of {self.family} covers more than {everything:.3f} of the input; got the area {max(areas)}"
            )

    def nodes(self, parameters: Tensor) -> Tensor:
        """The smooth max-convolution of the parameters at the lattice's nodes, `(N, 1, *L)`."""
        flat = parameters.reshape(len(parameters), -1)
        return SmoothMaxConvolution.apply(flat, self._windows, self.family.temperature).view_as(parameters)

    def masks(self, nodes: Tensor) -> Tensor:
        """The spline through control points `(N, 1, *L)`, at every place: `(N, 1, *S)`."""
        return along_each_axis(nodes, self._spline)

    def areas(self, nodes: Tensor) -> Tensor:
        """The mean over the visible input of the mask with these control points, `(N,)`, without making the mask."""
        return (nodes * self._share).flatten(1).sum(1)

    def __call__(self, parameters: Tensor) -> Tensor:
        """Masks `(N, 1, *S)` for parameters `(N, 1, *L)`."""
        return self.masks(self.nodes(parameters))


def _nodes(length: int, step: float) -> Tensor:
    """Positions of the lattice's nodes along one axis: centred, and one beyond each end for the spline."""
    count = math.ceil((length - 1) / step) + 3
    centre = (length - 1) / 2
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * step + centre


class _Windows:
    """Which seeds each node sees, and how strongly: offsets within the kernel's reach, as indices into flat lattices.

    `kernel` is `(K, 1)`, one value an offset. `seen` `(K, nodes)` is the seed at node + offset, `seeing` `(K, nodes)` the
    node at seed − offset, both pointing to one extra, empty place where that lies off the lattice.
    """

    def __init__(
        self,
        size: Sequence[int],
        radius: Sequence[int],
        spacing: Sequence[float],
        device: torch.device | None,
        dtype: torch.dtype,
    ) -> None:
        offsets = torch.cartesian_prod(*(torch.arange(-r, r + 1) for r in radius)).view(-1, len(size))
        distance = (offsets * torch.tensor(spacing, dtype=torch.float64)).square().sum(1).sqrt()
        offsets, distance = offsets[distance <= REACH], distance[distance <= REACH]
        self.kernel = kernel(distance).unsqueeze(1).to(device=device, dtype=dtype)
        nodes = torch.cartesian_prod(*(torch.arange(length) for length in size)).view(-1, len(size))
        self.seen = _flat(nodes + offsets[:, None], size).to(device)
        self.seeing = _flat(nodes - offsets[:, None], size).to(device)
        self.seeing += torch.arange(len(offsets), device=device)[:, None] * (len(nodes) + 1)


def _flat(positions: Tensor, size: Sequence[int]) -> Tensor:
    """Row-major index of positions `(…, axes)`; the number of places where a position lies outside."""
    lengths = torch.tensor(size)
    strides = torch.tensor([math.prod(size[axis + 1 :]) for axis in range(len(size))])
    inside = ((positions >= 0) & (positions < lengths)).all(-1)
    return torch.where(inside, (positions * strides).sum(-1), math.prod(size))


class SmoothMaxConvolution(torch.autograd.Function):
    r"""`smooth_max` of kernel × seeds in every node's window: parameters `(N, nodes)` to values `(N, nodes)`.

    It equals `smooth_max(windows.kernel * seeds, T, dim=1)`; the gradient is written out because automatic
    differentiation of the windows costs several times as much. With $S = \sum w$ and $m$ the result,
    $\partial m / \partial f = (w + T (f - m)(w + 1)) / S$.
    """

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, windows: _Windows, temperature: float) -> Tensor:
        seeds = torch.nn.functional.pad(parameters, (0, 1))[:, windows.seen]
        values = seeds.mul_(windows.kernel)
        weights = torch.expm1(temperature * values)
        total = weights.sum(1).clamp_(min=TINY)
        result = (values * weights).sum(1).div_(total)
        ctx.save_for_backward(values, weights, total, result)
        ctx.windows, ctx.temperature = windows, temperature
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        values, weights, total, result = ctx.saved_tensors
        slope = (values - result.unsqueeze(1)).mul_(ctx.temperature).mul_(weights + 1).add_(weights)
        slope.mul_((gradient / total).unsqueeze(1)).mul_(ctx.windows.kernel)
        scattered = torch.nn.functional.pad(slope, (0, 1)).flatten(1)[:, ctx.windows.seeing]
        return scattered.sum(1), None, None
