r"""The masks of 2017: a coarse grid of values, enlarged and smoothed.

A mask is $M(v) = \sum_u g_{\sigma}(v / s - u)\, m(u)$: the values $m(u) \in [0, 1]$ of a grid that is $s$ times coarser
than the input, spread by a Gaussian (Fong & Vedaldi, ICCV 2017, arXiv 1704.03296, section 4.3). A mask so smooth cannot
trace the artefacts of a network; but being an average it also damps peaks, which the masks of `sfumato.masks` do not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.configuration import check_number
from sfumato.space import along_each_axis, gaussian_blur, per_axis


@dataclass(frozen=True)
class GridMask:
    """The family of masks with one value for every `scale` places, interpolated linearly, then smoothed.

    `scale`, in places, and `sigma`, the width of the Gaussian in places (0 for none), are one number for all axes of
    space or one per axis. The defaults are the published ones: a grid of 28 × 28 for a picture of 224 × 224.
    """

    scale: float | tuple[float, ...] = 8
    sigma: float | tuple[float, ...] = 5

    def __post_init__(self) -> None:
        for name in ("scale", "sigma"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        for scale in _several(self.scale):
            check_number("scale", scale, "the length of a cell in places, or one for each axis", least=1)
        for sigma in _several(self.sigma):
            check_number("sigma", sigma, "the Gaussian's width in places, or one for each axis", least=0)

    def on(self, shape: Sequence[int], device: torch.device | None = None, dtype: torch.dtype | None = None) -> "Grid":
        """The grid for inputs whose axes of space have the lengths `shape`."""
        return Grid(self, tuple(shape), device, dtype)


class Grid:
    """A mask family laid over one shape of input: parameters `(N, 1, *L)` to masks `(N, 1, *S)`, both in [0, 1].

    Each mask is a weighted mean of its parameters with weights that sum to one, so that the complement of a mask is the
    mask of the complements.
    """

    def __init__(
        self, family: GridMask, shape: tuple[int, ...], device: torch.device | None, dtype: torch.dtype | None
    ) -> None:
        scales = per_axis(family.scale, len(shape))
        sigmas = per_axis(family.sigma, len(shape))
        for length, scale in zip(shape, scales, strict=True):
            if length < 2 * scale:
                raise ValueError(
                    f"an input of {' x '.join(map(str, shape))} places is too small for a mask with scale={family.scale}; "
                    f"give a smaller one, e.g. mask=GridMask(scale={max(1, min(shape) // 8)}, "
                    f"sigma={max(1, min(shape) // 12)})"
                )
        self.family = family
        self.shape = shape
        self.size = tuple(math.ceil(length / scale) for length, scale in zip(shape, scales, strict=True))
        self._matrices = [
            _spread(length, cells, sigma).to(device=device, dtype=dtype or torch.float32)
            for length, cells, sigma in zip(shape, self.size, sigmas, strict=True)
        ]
        squared = torch.zeros(())
        for length, cells in zip(shape, self.size, strict=True):
            offsets = _centres(length, cells) - (length - 1) / 2
            squared = squared[..., None] + offsets.square()
        self.distances = squared.sqrt().to(device)
        """How far each cell's centre is from the middle of the input, in places, `(*L)`."""

    def __call__(self, parameters: Tensor) -> Tensor:
        """Masks `(N, 1, *S)` for parameters `(N, 1, *L)`."""
        return along_each_axis(parameters, self._matrices)

    def balls(self) -> list[Tensor]:
        """Parameters `(1, 1, *L)` of centred balls (intervals, discs), each a cell wider than the last, up to everything.

        A cell is 1 where its centre lies within the ball, else 0.
        """
        cell = min(length / cells for length, cells in zip(self.shape, self.size, strict=True))
        count = math.ceil(self.distances.max().item() / cell)
        dtype = self._matrices[0].dtype
        return [(self.distances <= radius * cell).to(dtype)[None, None] for radius in range(1, count + 1)]


def _several(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _centres(length: int, cells: int) -> Tensor:
    """Where the centres of so many equal cells lie on an axis whose first place is 0."""
    return (torch.arange(cells, dtype=torch.float64) + 0.5) * (length / cells) - 0.5


def _spread(length: int, cells: int, sigma: float) -> Tensor:
    """Weights `(length, cells)` of linear interpolation between the cells' centres, then a Gaussian along the places.

    Beyond the first and the last centre the value stays as it is there; beyond the input it is reflected.
    """
    position = ((torch.arange(length, dtype=torch.float64) + 0.5) * (cells / length) - 0.5).clamp(0, cells - 1)
    weights = (1 - (position[:, None] - torch.arange(cells)).abs()).clamp(min=0)
    smooth = gaussian_blur(weights.T[:, None], sigma)[:, 0].T
    return smooth / smooth.sum(1, keepdim=True)  # the Gaussian is made in single precision
