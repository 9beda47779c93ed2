r"""Sets with smooth outlines: the places where a smooth field is above a level.

A mask is the set $\{u : f(u) > \tfrac12\}$ of a field $f$, the Gaussian-weighted mean of the parameters on a coarse
lattice (level sets: S. Osher, J. Sethian: *Fronts propagating with curvature-dependent speed*, Journal of Computational Physics
1988). Its outline is as smooth as the field. It may have several parts, which can merge, split and vanish while the
parameters move.

A set has no gradient. A search climbs on ramps instead, $m(u) = \mathrm{clip}(\tfrac12 + k\,(f(u) - \tfrac12), 0,
1)$, whose sharpness $k$ it lets grow: only places in the band where $0 < m < 1$ have a gradient, so the outline moves
and the inside stays.
"""

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.masks.lengths import LEAST, Lengths, as_lengths, fitting, for_each_axis, over_layer, too_small
from sfumato.settings import Settings, check_number, later
from sfumato.space.smoothing import (
    Interpolation,
    along_each_axis,
    gaussian_blur,
    scales,
)


@dataclass(frozen=True)
class LevelSet(Settings):
    """The family of sets whose outlines are level lines of a smooth field.

    The field has a node every `step` places and is smoothed by a Gaussian of `sigma` places, each one number for all
    axes or one per axis. By default they suit the input's shape, axis by axis: 8 places for pictures of 224 pixels, in
    proportion for other shapes (`for_shape` says them), and a `detail` above 1 makes them as many times shorter; it goes with
    no `step`. `sigma` must
    be at least 0.6 steps, as narrower Gaussians would show the lattice. A smaller sigma lets outlines follow finer parts; a
    larger one makes fewer and rounder parts.
    `edge` is how many places the mask needs at an outline to fall from 0.9 to 0.1; 0 gives masks of zeros and ones.
    Without a `step`, it shrinks in proportion for inputs of fewer than 224 places.

    >>> LevelSet().for_shape((224, 300))
    LevelSet(step=(8.0, 8.0), sigma=(8.0, 8.0), edge=1.5, detail=1.0)
    """

    step: Lengths = None
    sigma: Lengths = None
    edge: float = 1.5
    detail: float = later(1.0)

    def __post_init__(self) -> None:
        for name in ("step", "sigma"):
            object.__setattr__(self, name, as_lengths(name, getattr(self, name), "a length", above=0))
        check_number("detail", self.detail, "how many times shorter the lengths are by default", above=0)
        check_number("edge", self.edge, "the width of an edge in places", least=0)
        if self.step is not None and self.detail != 1:
            raise ValueError(
                f"detail changes the lengths that suit an input, step says them; give one of the two; got step={self.step}, "
                f"detail={self.detail:g}"
            )

    def for_shape(self, shape: Sequence[int]) -> "LevelSet":
        """The same family with its lengths said, for inputs whose axes of space have the lengths `shape`."""
        steps, sigmas = fitting(self.step, self.sigma, shape, (LENGTH / self.detail, LENGTH / self.detail), LEAST)
        for step, sigma in zip(steps, sigmas, strict=True):
            if sigma < NARROWEST * step:
                raise ValueError(f"sigma must be at least {NARROWEST} steps; got step={step:g}, sigma={sigma:g}")
        if self.step is None and any(
            length < 2 * step for length, step in zip(shape, steps, strict=True) if step > LEAST
        ):
            raise too_small(tuple(shape), f"detail={self.detail:g}", LevelSet().for_shape(shape))
        edge = self.edge if self.step is not None else self.edge * min(1.0, *scales(shape))
        return LevelSet(steps, sigmas, edge)

    def divided(self, stride: Sequence[float]) -> "LevelSet":
        """The same family over a layer whose places are `stride` places of the input apart, one number per axis.

        Its lengths are divided by the strides. A step stays at half a place at least, as finer ones could not be
        seen, and sigma in proportion. The lengths must be said: see `for_shape`.
        """
        return LevelSet(*over_layer(self, self.step, self.sigma, stride), self.edge / max(1.0, *stride))

    def on(
        self, shape: Sequence[int], device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "LevelSets":
        """The level sets over inputs whose axes of space have the lengths `shape`."""
        return LevelSets(self.for_shape(shape), tuple(shape), device, dtype)


LENGTH = 8
"""Of a step, and of sigma, for pictures of 224 pixels."""

NARROWEST = 0.6
"""Of sigma, in steps: the field of equal parameters is then flat to one part in a thousand."""

TENTHS = 2.563
"""How many standard deviations of a Gaussian lie between a tenth and nine tenths of its integral."""


class LevelSets:
    """Level sets over one shape of input: parameters `(N, 1, *L)` to masks `(N, 1, *S)`."""

    def __init__(
        self, family: LevelSet, shape: tuple[int, ...], device: torch.device | None, dtype: torch.dtype | None
    ) -> None:
        steps, sigmas = for_each_axis(family, family.step, family.sigma, shape)
        if any(length < 2 * step for length, step in zip(shape, steps, strict=True) if step > LEAST):
            raise too_small(shape, f"step={family.step}", LevelSet().for_shape(shape))
        self.family = family
        self.shape = shape
        self.sharpness = math.inf
        """The slope of the ramp at the level, 1 where the field itself is the mask; infinite for sets."""
        self.size = tuple(math.ceil(length / step) for length, step in zip(shape, steps, strict=True))
        dtype = dtype or torch.float32
        self._spreads = [
            Interpolation(
                length,
                count,
                start=(count - 1) / 2 - (length - 1) / (2 * step),  # the lattice is centred
                pace=1 / step,
                reach=REACH * sigma / step,
                weight=_gaussian(sigma / step),
                mirrored=True,
                dtype=dtype,
                device=device,
            )
            for length, count, step, sigma in zip(shape, self.size, steps, sigmas, strict=True)
        ]
        self.everything = torch.ones(1, dtype=dtype, device=device)
        self.excluded: Bool[Tensor, "*S"] | None = None
        """Places that no mask shows, if there are any."""
        self.finest = 1 / math.prod(shape)
        """The share of one place."""

    def at(self, sharpness: float) -> "LevelSets":
        """The same family with ramps of a slope in place of sets."""
        ramps = copy(self)
        ramps.sharpness = sharpness
        return ramps

    def excluding(self, places: Bool[Tensor, "*S"]) -> "LevelSets":
        """The same family, of masks that are 0 at these places; areas are still shares of all places."""
        others = copy(self)
        others.excluded = places
        return others

    def check(self, areas: Sequence[float]) -> None:
        """Raise `ValueError` where an area is less than one place, or the input has no other."""
        if math.prod(self.shape) < 2:
            raise ValueError(
                "one place has no sets but everything and nothing; give an input, or a layer, of at least two places"
            )
        if min(areas) < self.finest / 2:
            raise ValueError(
                f"an input of {' x '.join(map(str, self.shape))} places has no set of the area {min(areas):g}; "
                f"give at least {self.finest:.2g}, the share of one place"
            )

    def start(self) -> Float[Tensor, "1 1 *L"]:
        """Parameters `(1, 1, *L)` that know nothing: flat, but for a bump that decides between equal places.

        Its top is a little off the centre, differently along each axis, so that no two places are equal by symmetry.
        """
        squares = torch.zeros((), dtype=torch.float64, device="cpu")
        for axis, count in enumerate(self.size, start=1):
            places = torch.linspace(-1, 1, count, dtype=torch.float64, device="cpu")
            squares = squares[..., None] + (places - OFF_CENTRE / axis).square()
        return (0.5 - BUMP * squares / len(self.size))[None, None].to(self.everything)

    def nodes(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *S"]:
        """The field, `(N, 1, *S)`, of parameters `(N, 1, *L)`."""
        return along_each_axis(parameters, self._spreads)

    def inside(self, nodes: Float[Tensor, "N 1 *S"]) -> Bool[Tensor, "N 1 *S"]:
        """The places of the sets of a field, `(N, 1, *S)`."""
        return nodes > 0.5 if self.excluded is None else (nodes > 0.5) & ~self.excluded

    def masks(self, nodes: Float[Tensor, "N 1 *S"]) -> Float[Tensor, "N 1 *S"]:
        """Masks `(N, 1, *S)` of a field: ramps, or sets with their edges."""
        if math.isinf(self.sharpness):
            inside = self.inside(nodes).to(nodes.dtype)
            return gaussian_blur(inside, self.family.edge / TENTHS) if self.family.edge else inside
        ramps = (0.5 + self.sharpness * (nodes - 0.5)).clamp(0, 1)
        return ramps if self.excluded is None else ramps.masked_fill(self.excluded, 0)

    def areas(self, nodes: Float[Tensor, "N 1 *S"]) -> Float[Tensor, " N"]:
        """The mean over the input of the masks of a field, `(N,)`; of sets, their share of the places."""
        inside = self.inside(nodes).to(nodes.dtype) if math.isinf(self.sharpness) else self.masks(nodes)
        return inside.flatten(1).mean(1)

    def settled(
        self, parameters: Float[Tensor, "N 1 *L"], areas: Float[Tensor, " N"], *, decide: bool = True
    ) -> Float[Tensor, "N 1 *L"]:
        """The parameters `(N, 1, *L)`, each shifted by one number, for sets of the areas `(N,)` to within a place.

        Where the field is level around the outline, the places nearest to the middle come first; unless told not to `decide`,
        so that sets of one field lie within each other.
        """
        places = math.prod(self.shape) - (0 if self.excluded is None else int(self.excluded.sum()))
        count = (areas * math.prod(self.shape)).round().long().clamp(1, places - 1)
        around = torch.stack([count - 1 - places // 1000, count - 1, count, count + places // 1000], 1)
        around = around.clamp(0, places - 1)
        largest = int(around.max()) + 1  # a sort of all is several times as slow
        rows = (-1, *[1] * (parameters.ndim - 1))
        for trial in range(3):  # the field follows a shift to one part in a thousand
            nodes = self.nodes(parameters)
            nodes = nodes if self.excluded is None else nodes.masked_fill(self.excluded, -math.inf)
            ordered = nodes.flatten(1).topk(largest, dim=1).values
            above, first, last, below = ordered.gather(1, around).unbind(1)
            parameters = parameters + (0.5 - (first + last) / 2).view(rows)
            if trial == 0 and decide:
                equal = (above - below < EQUAL).view(rows)
                parameters = torch.where(equal, parameters + self.start() - 0.5, parameters)
        return parameters

    def __call__(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *S"]:
        """Masks `(N, 1, *S)` for parameters `(N, 1, *L)`."""
        return self.masks(self.nodes(parameters))


REACH = 5
"""Standard deviations, at which a Gaussian has fallen to 4e-6 of its peak: less than what decides between equal places."""

EQUAL = 1e-5
"""Values of a field that differ by less are equal: they differ by rounding, and by where Gaussians are cut off."""

BUMP = 1e-3
"""How much lower the corners start than the middle."""

OFF_CENTRE = 0.037
"""How far the top of the bump is from the centre along the first axis, in half widths."""


def _gaussian(sigma: float) -> Callable[[Tensor], Tensor]:
    """The density of a Gaussian of a width, cut off at `REACH` widths."""

    def weight(distance: Float[Tensor, "*D"]) -> Float[Tensor, "*D"]:
        density = torch.exp(-0.5 * (distance / sigma).square()) / (sigma * math.sqrt(2 * math.pi))
        return torch.where(distance.abs() < REACH * sigma, density, 0.0)

    return weight
