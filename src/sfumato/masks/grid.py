r"""The masks of 2017: a coarse grid of values, enlarged and smoothed.

A mask is $M(v) = \sum_u g_{\sigma}(v / s - u)\, m(u)$: the values $m(u) \in [0, 1]$ of a grid that is $s$ times coarser
than the input, spread by a Gaussian. A mask so smooth cannot trace the artefacts of a network. But it is an average, so it also
damps peaks, which the masks of `sfumato.masks.smooth` do not.

R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296,
section 4.3.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.masks.lengths import as_lengths, fitting, for_each_axis, too_small
from sfumato.settings import Settings
from sfumato.space.smoothing import Interpolation, along_each_axis, gaussian


@dataclass(frozen=True)
class GridMask(Settings):
    """The family of masks with one value for every `scale` places, interpolated linearly, then smoothed.

    `scale`, in places, and `sigma`, the width of the Gaussian in places (0 for none), are one number for all axes of
    space or one per axis. By default both suit the input's shape, axis by axis, as those of `SmoothMask` do (`for_shape` gives
    them): for a picture of 224 × 224 they are the published 8 and 5, a grid of 28 × 28. Where only `scale` is given, `sigma` is
    5/8 of it.
    """

    scale: float | tuple[float, ...] | None = None
    sigma: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_lengths("scale", self.scale, "the length of a cell", least=1))
        object.__setattr__(self, "sigma", as_lengths("sigma", self.sigma, "the Gaussian's width", least=0))

    def for_shape(self, shape: Sequence[int]) -> "GridMask":
        """The same family with its lengths set, for inputs whose axes of space have the lengths `shape`.

        >>> GridMask().for_shape((224, 300))
        GridMask(scale=(8.0, 8.0), sigma=(5.0, 5.0))
        """
        if self.scale is not None and self.sigma is not None:
            return self
        return GridMask(*fitting(self.scale, self.sigma, shape, (SCALE, SIGMA), least=1.0))

    def on(self, shape: Sequence[int], device: torch.device | None = None, dtype: torch.dtype | None = None) -> "Grid":
        """The grid for inputs whose axes of space have the lengths `shape`."""
        return Grid(self.for_shape(shape), tuple(shape), device, dtype)


SCALE, SIGMA = 8, 5
"""The published lengths, for pictures of 224 pixels."""


class Grid:
    """A mask family laid over one shape of input: parameters `(N, 1, *L)` to masks `(N, 1, *S)`, both in [0, 1].

    Each mask is a weighted mean of its parameters with weights that sum to one, so that the complement of a mask is the
    mask of the complements.
    """

    def __init__(
        self, family: GridMask, shape: tuple[int, ...], device: torch.device | None, dtype: torch.dtype | None
    ) -> None:
        lengths, sigmas = for_each_axis(family, family.scale, family.sigma, shape)
        if any(length < 2 * scale for length, scale in zip(shape, lengths, strict=True) if scale > 1):
            raise too_small(shape, f"scale={family.scale}", GridMask().for_shape(shape))
        self.family = family
        self.shape = shape
        self.size = tuple(math.ceil(length / scale) for length, scale in zip(shape, lengths, strict=True))
        self._dtype = dtype or torch.float32
        self._spreads = [
            _spread(length, cells, sigma, self._dtype, device)
            for length, cells, sigma in zip(shape, self.size, sigmas, strict=True)
        ]
        squared = torch.zeros((), dtype=torch.float64, device="cpu")
        for length, cells in zip(shape, self.size, strict=True):
            offsets = _centres(length, cells) - (length - 1) / 2
            squared = squared[..., None] + offsets.square()
        self.distances = squared.sqrt().to(device, torch.float32)
        """How far each cell's centre is from the middle of the input, in places, `(*L)`."""

        self.everything = torch.ones(1, dtype=self._dtype, device=device)
        self.finest = 1 / math.prod(self.size)
        """The share of one cell."""

    def check(self, areas: Sequence[float]) -> None:
        """A mask of this family can have any area."""

    def nodes(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *L"]:
        """The parameters: the cells themselves."""
        return parameters

    def masks(self, nodes: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *S"]:
        """Masks `(N, 1, *S)` of cells `(N, 1, *L)`."""
        return along_each_axis(nodes, self._spreads)

    def areas(self, nodes: Float[Tensor, "N 1 *L"]) -> Float[Tensor, " N"]:
        """The mean over the input, `(N,)`."""
        return self.masks(nodes).flatten(1).mean(1)

    def __call__(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *S"]:
        """Masks `(N, 1, *S)` for parameters `(N, 1, *L)`."""
        return self.masks(self.nodes(parameters))

    def balls(self) -> Iterator[Float[Tensor, "1 1 *L"]]:
        """Parameters `(1, 1, *L)` of centred balls (intervals, discs), each a cell wider than the last, up to everything.

        A cell is 1 where its centre lies within the ball, else 0.
        """
        cell = min(length / cells for length, cells in zip(self.shape, self.size, strict=True))
        count = math.ceil(self.distances.max().item() / cell)
        for radius in range(1, count + 1):
            yield (self.distances <= radius * cell).to(self._dtype)[None, None]


def _centres(length: int, cells: int) -> Float[Tensor, " {cells}"]:
    """Where the centres of so many equal cells lie on an axis whose first place is 0."""
    return (torch.arange(cells, dtype=torch.float64, device="cpu") + 0.5) * (length / cells) - 0.5


def _spread(length: int, cells: int, sigma: float, dtype: torch.dtype, device: torch.device | None) -> Interpolation:
    """From cells to places: linear interpolation between the cells' centres, then a Gaussian along the places.

    Beyond the first and the last centre the value stays as it is there; beyond the input it is reflected. Both are so if the
    cells go on as their mirror images.
    """
    pace = cells / length
    weights = gaussian(sigma, torch.float64, torch.device("cpu"))
    return Interpolation(
        length,
        cells,
        start=(pace - 1) / 2,
        pace=pace,
        reach=1 + pace * (len(weights) // 2),
        weight=_smoothed_triangle(weights, pace),
        mirrored=True,
        dtype=dtype,
        device=device,
    )


def _smoothed_triangle(
    weights: Float[Tensor, " K"], pace: float
) -> Callable[[Float[Tensor, "*P"]], Float[Tensor, "*P"]]:
    r"""$g(d) = \sum_o k_o \max(0, 1 - |d + o\,p|)$ for weights $k_o$, with o from -R to R, and the pace p in cells per place.

    By sums of $k_o$ and of $o\,k_o$ from -R up to any place: their number does not grow with the Gaussian's width.
    """
    radius = len(weights) // 2
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    sums = torch.stack([weights, offsets * weights]).cumsum(1)
    sums = torch.nn.functional.pad(sums, (1, 0))

    def before(bound: Float[Tensor, "*P"]) -> tuple[Float[Tensor, "*P"], Float[Tensor, "*P"]]:
        """Both sums over the offsets less than the bound."""
        index = (bound.ceil() + radius).clamp(0, len(weights)).long()
        return sums[0][index], sums[1][index]

    def weight(distance: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        (low, low_first), (middle, middle_first), (high, high_first) = (
            before((end - distance) / pace) for end in (-1, 0, 1)
        )
        rising = (1 + distance) * (middle - low) + pace * (middle_first - low_first)
        falling = (1 - distance) * (high - middle) - pace * (high_first - middle_first)
        return rising + falling

    return weight
