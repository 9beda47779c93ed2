"""TorchRay's masks, for comparison: a padded canvas, a kernel cut off at its lattice radius, a maximum at every place.

Kept apart because it is what `SmoothMask` mends: the area is ranked over a canvas larger than the input, masks jump where
the kernel ends, and the cost is that of all places times all seeds in reach.

R. Fong, M. Patrick, A. Vedaldi: *Understanding deep networks via extremal perturbations and smooth masks*, ICCV 2019,
arXiv 1910.08485, is the paper of that code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.masks.smooth import kernel
from sfumato.settings import Settings


@dataclass(frozen=True)
class CanvasMask(Settings):
    """Seeds every `step` places, each place of the canvas a smooth maximum over the seeds around its cell.

    The canvas is wider than the input by `sigma` places before and about as many behind.
    """

    step: int = 7
    sigma: int = 21
    temperature: float = 20

    def __post_init__(self) -> None:
        if not (isinstance(self.step, int) and isinstance(self.sigma, int)) or min(self.step, self.sigma) <= 0:
            raise ValueError(f"step and sigma are positive whole numbers; got step={self.step}, sigma={self.sigma}")

    def on(self, shape: Sequence[int], device: torch.device | None = None) -> "Canvas":
        """The canvas for inputs whose axes of space have the lengths `shape`."""
        return Canvas(self, tuple(shape), device)


class Canvas:
    """A canvas laid over one shape of input: parameters `(N, 1, *L)` to the canvas `(N, 1, *U)`, which holds the masks."""

    def __init__(self, family: CanvasMask, shape: tuple[int, ...], device: torch.device | None) -> None:
        self.family = family
        self.shape = shape
        self.size = tuple(math.ceil(length / family.step) for length in shape)
        self.radius = math.ceil(family.sigma / family.step) + 1
        self.margin = family.sigma
        self.padding = math.ceil(family.sigma / family.step) + self.radius
        cells = [size + 2 * (self.padding - self.radius) for size in self.size]
        reach = torch.arange(-self.radius, self.radius + 1, dtype=torch.float32, device=device) * family.step
        squared: Tensor = torch.zeros((), dtype=torch.float32, device=device)
        self._cell = []
        for count in cells:
            place = torch.arange((count - 1) * family.step + 1, dtype=torch.long, device=device)
            self._cell.append(place // family.step)
            offset = reach - (place % family.step)[:, None]  # (places, window)
            squared = squared[..., None, None] + offset.square()
        axes = len(shape)
        # From (places, window) pairs, axis by axis, to all of the window, then all places.
        order = [*range(1, 2 * axes, 2), *range(0, 2 * axes, 2)]
        self._kernel = kernel(squared.sqrt().permute(order).flatten(0, axes - 1) / family.sigma)
        self.everything = torch.ones(1, dtype=torch.float32, device=device)

    finest = 0.02
    """The smallest area that can be told from zero, as a fraction of the input."""

    def check(self, areas: Sequence[float]) -> None:
        """The penalty asks for areas but guarantees none, so any will do."""

    def nodes(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *U"]:
        """The canvas `(N, 1, *U)` for parameters `(N, 1, *L)`."""
        axes = len(self.shape)
        windows = torch.nn.functional.pad(parameters, [self.padding] * 2 * axes)
        for axis in range(2, 2 + axes):
            windows = windows.unfold(axis, 2 * self.radius + 1, 1)
        windows = windows.movedim(list(range(-axes, 0)), list(range(2, 2 + axes))).flatten(2, 1 + axes)
        for axis, cell in enumerate(self._cell, start=3):
            windows = windows.index_select(axis, cell)
        # In this order of operations and axes, which is TorchRay's to the bit. It matters: where a mask is flat, rounding
        # alone ranks its values, and the penalty pulls on each according to its rank.
        values = windows * self._kernel
        return ((self.family.temperature * values).softmax(2) * values).sum(2)

    def masks(self, canvas: Float[Tensor, "N 1 *U"]) -> Float[Tensor, "N 1 *S"]:
        """The part of the canvas over the input, `(N, 1, *S)`."""
        for axis, length in enumerate(self.shape, start=2):
            canvas = canvas.narrow(axis, self.margin, length)
        return canvas

    def areas(self, canvas: Float[Tensor, "N 1 *U"]) -> Float[Tensor, " N"]:
        """The mean over the visible input, `(N,)`."""
        return self.masks(canvas).flatten(1).mean(1)

    def __call__(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *S"]:
        """Masks `(N, 1, *S)` for parameters `(N, 1, *L)`."""
        return self.masks(self.nodes(parameters))
