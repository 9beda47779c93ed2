r"""Smooth masks from a few parameters, by max-convolution.

A mask is $m(u) = \max_v k(u - v)\,\bar m(v)$ over the seeds $v$ of a coarse lattice, with parameters
$\bar m(v) \in [0, 1]$ and a smooth kernel $k$, $k(0) = 1$. Unlike a convolution, the maximum does not damp peaks, and the mask
inherits the kernel's smoothness.

R. Fong, M. Patrick, A. Vedaldi: *Understanding deep networks via extremal perturbations and smooth masks*, ICCV 2019,
arXiv 1910.08485, section 3.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.masks.lengths import LEAST, as_lengths, fitting, for_each_axis, over_layer, too_small
from sfumato.settings import Settings, check_number
from sfumato.space.smoothing import Interpolation, along_each_axis, cubic_spline

NEGLIGIBLE = 1 / 255
"""The kernel is followed until it has fallen to this value, one grey level."""


def kernel(distance: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    r"""The kernel's value at a distance in units of $\sigma$: $\exp(-2 \max(0, d - \tfrac12)^2)$, flat at the top."""
    return torch.exp(-2 * (distance - 0.5).clamp(min=0).square())


REACH = 0.5 + math.sqrt(-math.log(NEGLIGIBLE) / 2)
"""The distance, in units of sigma, at which the kernel becomes negligible."""


SHARP = 60.0
"""The temperature up to which exp(T) and sums of it are finite in single precision."""

FLAT = 1e-6
"""The least temperature that differs from its limit, the mean of the values weighted by themselves."""


def _weighed(
    values: Float[Tensor, "*P"], temperature: float, dim: int
) -> tuple[Float[Tensor, "*P"], Float[Tensor, "*P"] | None]:
    r"""The weights of a smooth maximum, and above `SHARP` also the exponentials that are one more than they are.

    A smooth maximum is the mean of the values weighted by how large they are: $\mathrm{smax}(f) = \sum f\,w(f) / \sum w(f)$
    with $w(f) = e^{Tf} - 1$, for values in [0, 1]. The paper's weight is $e^{Tf}$. Its zeros weigh one each, so that the result
    would depend on how many far-away seeds are counted, and a kernel with full support has no natural end; less one, seeds
    without influence have none.

    There both are divided by the exponential of the largest value along `dim`, which would overflow, and which cancels in
    the maximum.
    """
    temperature = max(temperature, FLAT)
    if temperature <= SHARP:
        return torch.expm1(temperature * values), None
    powers = torch.exp(temperature * (values - values.amax(dim, keepdim=True)))
    return -powers * torch.expm1(-temperature * values), powers


def _floor(temperature: float) -> float:
    """What a sum of weights is at least: it grows with the temperature from nothing."""
    return TINY * min(1.0, max(temperature, FLAT))


TINY = 1e-12
"""Keeps 0/0 at 0 where no seed has any influence."""


@dataclass(frozen=True)
class SmoothMask(Settings):
    """The family of masks with seeds every `step` places, kernels of width `sigma` places, and a smooth maximum.

    `step` and `sigma` are one number for all axes or one per axis; `temperature` is the inverse softness of the
    maximum. By default both lengths suit the input's shape, axis by axis: for pictures of 224 pixels, and up to twice as many,
    they are 7 and 16, and for other shapes such that a mask of one seed covers as much, 1 to 2 % (`for_shape` gives them).
    Where only `step` is given, `sigma` is 16/7 of it. Step and temperature are the published ones; the published `sigma`, 21,
    goes with a kernel that is cut off, and with 16 the whole kernel makes borders as wide as those.

    The maximum is taken at the lattice's nodes, and its values there are the control points of a cubic B-spline: the
    mask is twice differentiable everywhere, in [0, 1], and its area is a fixed weighted sum of the nodes' values.
    """

    step: float | tuple[float, ...] | None = None
    sigma: float | tuple[float, ...] | None = None
    temperature: float = 20

    def __post_init__(self) -> None:
        for name in ("step", "sigma"):
            object.__setattr__(self, name, as_lengths(name, getattr(self, name), "a length", above=0))
        check_number("temperature", self.temperature, "the inverse softness of the maximum", above=0)

    def for_shape(self, shape: Sequence[int]) -> "SmoothMask":
        """The same family with its lengths set, for inputs whose axes of space have the lengths `shape`.

        >>> SmoothMask().for_shape((224, 224))
        SmoothMask(step=(7.0, 7.0), sigma=(16.0, 16.0), temperature=20)
        >>> SmoothMask(temperature=30).for_shape((16, 112, 112))
        SmoothMask(step=(1.0, 7.0, 7.0), sigma=(2.2857142857142856, 16.0, 16.0), temperature=30)
        """
        if self.step is not None and self.sigma is not None:
            return self
        return SmoothMask(*fitting(self.step, self.sigma, shape, (STEP, SIGMA), LEAST), self.temperature)

    def divided(self, stride: Sequence[float]) -> "SmoothMask":
        """The same family over a layer whose places are `stride` places of the input apart, one number per axis.

        Its lengths are divided by the strides. A step stays at half a place at least, as finer ones could not be seen, and
        sigma with it. The lengths must be set: see `for_shape`.
        """
        return SmoothMask(*over_layer(self, self.step, self.sigma, stride), self.temperature)

    def on(
        self, shape: Sequence[int], device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "Lattice":
        """The lattice for inputs whose axes of space have the lengths `shape`."""
        return Lattice(self.for_shape(shape), tuple(shape), device, dtype)


STEP, SIGMA = 7, 16
"""For pictures of 224 pixels."""


class Lattice:
    """A mask family laid over one shape of input: parameters `(N, 1, *L)` to masks `(N, 1, *S)`."""

    def __init__(
        self, family: SmoothMask, shape: tuple[int, ...], device: torch.device | None, dtype: torch.dtype | None
    ) -> None:
        steps, sigmas = for_each_axis(family, family.step, family.sigma, shape)
        if any(length < 2 * step for length, step in zip(shape, steps, strict=True)):
            raise too_small(shape, f"step={family.step}", SmoothMask().for_shape(shape))
        self.family = family
        self.shape = shape
        # Nodes are centred, with one beyond each end for the spline.
        self.size = tuple(math.ceil((length - 1) / step) + 3 for length, step in zip(shape, steps, strict=True))
        dtype = dtype or torch.float32
        self._splines = [
            Interpolation(
                length,
                count,
                start=(count - 1) / 2 - (length - 1) / (2 * step),
                pace=1 / step,
                reach=2,
                weight=cubic_spline,
                dtype=dtype,
                device=device,
            )
            for length, count, step in zip(shape, self.size, steps, strict=True)
        ]
        self._share = self._splines[0].share
        for spline in self._splines[1:]:
            self._share = self._share[..., None] * spline.share
        # No seed is farther from a node than the lattice is wide, however long the kernel; and the next is out of reach of
        # a kernel that is narrow enough, however narrow.
        spacing = [min(step / sigma, 2 * REACH) for step, sigma in zip(steps, sigmas, strict=True)]
        radius = [math.ceil(min(REACH / apart, size - 1)) for apart, size in zip(spacing, self.size, strict=True)]
        offsets, kernels = _within_reach(radius, spacing)
        windows = _Windows if len(offsets) * math.prod(self.size) <= TABLED else _Slices
        self._windows = windows(self.size, radius, offsets, kernels.to(device=device, dtype=dtype))
        self.everything = self.areas(self.nodes(torch.ones(1, 1, *self.size, device=device, dtype=dtype)))
        """The largest area that a mask of this family has, `(1,)`."""

    finest = 0.02
    """The smallest area that can be told from zero, as a fraction of the input."""

    def check(self, areas: Sequence[float]) -> None:
        """Raise `ValueError` if no mask of this family covers so much."""
        everything = self.everything.item()
        if max(areas) > everything + 0.004:
            raise ValueError(
                f"no mask of {self.family} covers more than {everything:.3f} of the input; got the area {max(areas)}"
            )

    def nodes(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *L"]:
        """The smooth max-convolution of the parameters at the lattice's nodes, `(N, 1, *L)`."""
        flat = parameters.reshape(len(parameters), -1)
        return SmoothMaxConvolution.apply(flat, self._windows, self.family.temperature).view_as(parameters)

    def masks(self, nodes: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *S"]:
        """The spline through control points `(N, 1, *L)`, at every place: `(N, 1, *S)`."""
        return along_each_axis(nodes, self._splines)

    def areas(self, nodes: Float[Tensor, "N 1 *L"]) -> Float[Tensor, " N"]:
        """The mean over the visible input of the mask with these control points, `(N,)`, without making the mask."""
        return (nodes * self._share).flatten(1).sum(1)

    def __call__(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *S"]:
        """Masks `(N, 1, *S)` for parameters `(N, 1, *L)`."""
        return self.masks(self.nodes(parameters))


def _within_reach(radius: Sequence[int], spacing: Sequence[float]) -> tuple[Int[Tensor, "K axes"], Float[Tensor, " K"]]:
    """Offsets `(K, axes)` between nodes within the kernel's reach, and its values there `(K,)`.

    Along each axis the nodes are `spacing` sigmas apart, and those up to `radius` nodes away are looked at.
    """
    steps = [torch.arange(-r, r + 1, dtype=torch.long, device="cpu") for r in radius]
    offsets = torch.cartesian_prod(*steps).view(-1, len(radius))
    distance = (offsets * torch.tensor(spacing, dtype=torch.float64, device="cpu")).square().sum(1).sqrt()
    near = distance <= REACH
    return offsets[near], kernel(distance[near])


TABLED = 2**18
"""Pairs of a node and a seed in its reach whose indices are kept in tables, 16 bytes each; the lattice over 224 pixels
has 89,000. Of more, sums are taken offset by offset, over slices of the lattice."""


class _Windows:
    """Which seeds each node sees, and how strongly: offsets within the kernel's reach, as indices into flat lattices.

    `kernel` is `(K, 1)`, one value an offset. `seen` `(K, nodes)` is the seed at node + offset, `seeing` `(K, nodes)` the
    node at seed − offset, both pointing to one extra, empty place where that lies off the lattice.
    """

    def __init__(
        self,
        size: Sequence[int],
        radius: Sequence[int],  # noqa: ARG002
        offsets: Int[Tensor, "K axes"],
        kernels: Float[Tensor, " K"],
    ) -> None:
        self.kernel = kernels.unsqueeze(1)
        places = [torch.arange(length, dtype=torch.long, device="cpu") for length in size]
        nodes = torch.cartesian_prod(*places).view(-1, len(size))
        self.seen = _flat(nodes + offsets[:, None], size).to(kernels.device)
        rows = torch.arange(len(offsets), dtype=torch.long, device="cpu")[:, None] * (len(nodes) + 1)
        self.seeing = (_flat(nodes - offsets[:, None], size) + rows).to(kernels.device)

    def forward(self, parameters: Float[Tensor, "N nodes"], temperature: float) -> tuple[Float[Tensor, "N ..."], ...]:
        """The smooth maxima `(N, nodes)`, and what `backward` needs."""
        seeds = torch.nn.functional.pad(parameters, (0, 1))[:, self.seen]
        values = seeds.mul_(self.kernel)
        weights, powers = _weighed(values, temperature, 1)
        total = weights.sum(1).clamp_(min=_floor(temperature))
        result = (values * weights).sum(1).div_(total)
        return result, values, weights, total, *([] if powers is None else [powers])

    def backward(
        self, gradient: Float[Tensor, "N nodes"], temperature: float, saved: tuple[Float[Tensor, "N ..."], ...]
    ) -> Float[Tensor, "N nodes"]:
        """The gradient with respect to the parameters, `(N, nodes)`, of that with respect to the maxima."""
        result, values, weights, total, *powers = saved
        slope = (values - result.unsqueeze(1)).mul_(max(temperature, FLAT)).mul_(powers[0] if powers else weights + 1)
        slope.add_(weights).mul_((gradient / total).unsqueeze(1)).mul_(self.kernel)
        scattered = torch.nn.functional.pad(slope, (0, 1)).flatten(1)[:, self.seeing]
        return scattered.sum(1)


def _flat(positions: Int[Tensor, "*P axes"], size: Sequence[int]) -> Int[Tensor, "*P"]:
    """Row-major index of positions `(…, axes)`; the number of places where a position lies outside."""
    lengths = torch.tensor(size, dtype=torch.long, device="cpu")
    strides = [math.prod(size[axis + 1 :]) for axis in range(len(size))]
    inside = ((positions >= 0) & (positions < lengths)).all(-1)
    index = (positions * torch.tensor(strides, dtype=torch.long, device="cpu")).sum(-1)
    return torch.where(inside, index, math.prod(size))


class _Slices:
    """The same sums offset by offset, over slices of a lattice with empty margins: their memory is that of a few lattices.

    Offsets of the same kernel value share what depends on the seed alone.
    """

    def __init__(
        self,
        size: Sequence[int],
        radius: Sequence[int],
        offsets: Int[Tensor, "K axes"],
        kernels: Float[Tensor, " K"],
    ) -> None:
        self.size = tuple(size)
        self.margins = tuple(radius)
        rings: dict[float, list[tuple[_Index, _Index]]] = {}
        for offset, value in zip(offsets.tolist(), kernels.tolist(), strict=True):
            back = [-shift for shift in offset]
            rings.setdefault(value, []).append((self._at(offset), self._at(back)))
        self.rings = rings
        """By the kernel's value: the parts of a lattice with margins at an offset from every node, and at its opposite."""

    def forward(self, parameters: Float[Tensor, "N nodes"], temperature: float) -> tuple[Float[Tensor, "N ..."], ...]:
        """The smooth maxima `(N, nodes)`, and what `backward` needs."""
        temperature = max(temperature, FLAT)
        seeds = self._padded(parameters)
        total = seeds.new_zeros(len(seeds), *self.size)
        above, top = torch.zeros_like(total), torch.zeros_like(total)
        if temperature > SHARP:
            for value, offsets in self.rings.items():
                for there, _ in offsets:
                    torch.maximum(top, value * seeds[there], out=top)
        for value, offsets in self.rings.items():
            values = value * seeds
            weights = torch.expm1((-temperature if temperature > SHARP else temperature) * values)
            products = weights * values
            for there, _ in offsets:
                if temperature > SHARP:
                    powers = torch.exp(temperature * (values[there] - top))
                    total.addcmul_(powers, weights[there], value=-1)
                    above.addcmul_(powers, products[there], value=-1)
                else:
                    total += weights[there]
                    above += products[there]
        total.clamp_(min=_floor(temperature))
        return above.div_(total).flatten(1), parameters, total, top

    def backward(
        self, gradient: Float[Tensor, "N nodes"], temperature: float, saved: tuple[Float[Tensor, "N ..."], ...]
    ) -> Float[Tensor, "N nodes"]:
        """The gradient with respect to the parameters, `(N, nodes)`, of that with respect to the maxima."""
        temperature = max(temperature, FLAT)
        result, parameters, total, top = saved
        seeds = parameters.view(-1, *self.size)
        share = gradient.view_as(total) / total
        shares, products, tops = (self._padded(each) for each in (share, share * result.view_as(total), top))
        slope = torch.zeros_like(seeds)
        for value, offsets in self.rings.items():
            values = value * seeds
            # Of every seed: the sums over the nodes that see it, of their shares and of their shares times maxima.
            one, other = torch.zeros_like(seeds), torch.zeros_like(seeds)
            for _, back in offsets:
                if temperature > SHARP:
                    powers = torch.exp(temperature * (values - tops[back]).clamp(max=0))
                    one.addcmul_(powers, shares[back])
                    other.addcmul_(powers, products[back])
                else:
                    one += shares[back]
                    other += products[back]
            weights = torch.expm1((-temperature if temperature > SHARP else temperature) * values)
            if temperature > SHARP:  # both are divided by the exponential, which the sums hold
                slope += value * (one * (temperature * values - weights) - temperature * other)
            else:
                powers = temperature * (weights + 1)
                slope += value * (one * (weights + powers * values) - powers * other)
        return slope.flatten(1)

    def _padded(self, values: Float[Tensor, " N *L"]) -> Float[Tensor, " N *M"]:
        """Values `(N, *L)`, or `(N, nodes)` of the flat lattice, with empty margins: `(N, *M)`."""
        margins = [margin for margin in reversed(self.margins) for _ in range(2)]
        return torch.nn.functional.pad(values.view(-1, *self.size), margins)

    def _at(self, offset: Sequence[int]) -> "_Index":
        """The part of a lattice `(N, *M)` with margins that lies at an offset from every node, `(N, *L)`."""
        starts = [margin + shift for margin, shift in zip(self.margins, offset, strict=True)]
        return (..., *(slice(start, start + length) for start, length in zip(starts, self.size, strict=True)))


_Index = tuple[EllipsisType | slice, ...]
"""What `tensor[…]` takes."""


class SmoothMaxConvolution(torch.autograd.Function):
    r"""The smooth maximum of kernel × seeds in every node's window: parameters `(N, nodes)` to values `(N, nodes)`.

    The gradient is written out because automatic differentiation of the windows costs several times as much. With
    $S = \sum w$ and $m$ the result, $\partial m / \partial f = (w + T (f - m)(w + 1)) / S$.
    """

    @staticmethod
    def forward(
        ctx: Any, parameters: Float[Tensor, "N nodes"], windows: _Windows | _Slices, temperature: float
    ) -> Float[Tensor, "N nodes"]:
        result, *saved = windows.forward(parameters, temperature)
        ctx.save_for_backward(result, *saved)
        ctx.windows, ctx.temperature = windows, temperature
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "N nodes"]) -> tuple[Float[Tensor, "N nodes"], None, None]:
        return ctx.windows.backward(gradient, ctx.temperature, ctx.saved_tensors), None, None
