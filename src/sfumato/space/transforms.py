"""Small random shifts, turns and changes of scale, so that a picture cannot rely on one exact alignment."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sfumato.settings import check_number, is_whole
from sfumato.space.jitter import Move, either_way, shifts


@dataclass(frozen=True)
class Transform:
    """One change of place: a turn and a change of scale about the centre, then a shift by whole places.

    - `shift`: places along each axis of space; () for none.
    - `angle`: degrees, from the last axis but one towards the last; anticlockwise in pictures. Of inputs with three axes
      the last two turn; those with one cannot.
    - `scale`: above 1 things grow.
    - `cubic`: whether turns and scales of pictures interpolate cubically, which blurs less than linearly. Torch does so with
      two axes of space only.

    What lies beyond the edge is reflected; what is not asked for is left out, so that shifts alone are exact.
    """

    shift: tuple[int, ...] = ()
    angle: float = 0.0
    scale: float = 1.0
    cubic: bool = False

    def __call__(self, x: Float[Tensor, "N C *S"]) -> Float[Tensor, "N C *S"]:
        """The changed `x`, `(N, C, *S)`; gradients flow through it."""
        if self.angle or self.scale != 1:
            x = self._resampled(x)
        return Move(self.shift)(x)

    def _resampled(self, x: Float[Tensor, "N C *S"]) -> Float[Tensor, "N C *S"]:
        space = x.shape[2:]
        flat = x[:, :, None] if len(space) == 1 else x  # torch samples from two axes up
        matrix = self._matrix(tuple(flat.shape[2:])).to(x)
        grid = functional.affine_grid(matrix.expand(len(x), -1, -1), list(flat.shape), align_corners=False)
        mode = "bicubic" if self.cubic else "bilinear"
        return functional.grid_sample(flat, grid, mode, "reflection", align_corners=False).view_as(x)

    def _matrix(self, space: tuple[int, ...]) -> Float[Tensor, "1 {len(space)} {len(space)+1}"]:
        """Where each place of the outcome comes from, `(1, d, d + 1)`, in torch's coordinates: -1 to 1, the last axis first."""
        matrix = torch.eye(len(space) + 1, dtype=torch.float64, device="cpu")[:-1] / self.scale
        if self.angle:
            height, width = space[-2:]
            cosine, sine = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
            turn = torch.tensor(
                [[cosine, -sine * height / width], [sine * width / height, cosine]], dtype=torch.float64, device="cpu"
            )
            matrix[:2, :2] = turn / self.scale
        return matrix[None]


@dataclass(frozen=True)
class Transforms:
    """Random transforms, all drawn uniformly; `Transforms()` is none.

    - `shift`: by up to so many places along each axis, whole ones.
    - `angle`: by up to so many degrees either way.
    - `scale`: by a factor between 1 / (1 + scale) and 1 + scale, uniform in its logarithm.

    Every second step stays still, so that half of the time everything is where it should be.
    """

    shift: int = 0
    angle: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        if not is_whole(self.shift, 0):
            raise ValueError(f"shift is a whole number of places, at least 0; got {self.shift!r}")
        check_number("angle", self.angle, "in degrees", least=0)
        check_number("scale", self.scale, "what a factor may exceed 1 by", least=0)

    def draws(self, axes: int, generator: torch.Generator) -> Iterator[Transform]:
        """An endless stream of them for inputs with this many axes of space; one alone does not turn."""
        while True:
            yield Transform()
            shift = shifts([self.shift] * axes, generator)
            turn, growth = either_way(2, generator)
            yield Transform(shift, turn * self.angle if axes > 1 else 0.0, (1 + self.scale) ** growth)
