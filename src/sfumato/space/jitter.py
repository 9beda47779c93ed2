"""Small random moves of the perturbed input, so that a mask cannot rely on the exact alignment of artefacts.

Fong & Vedaldi 2017, section 4.3: an explanation that holds under small translations is not an artefact of one placement.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.settings import Settings, is_whole
from sfumato.space.smoothing import per_axis, reflect, scales


@dataclass(frozen=True)
class Move:
    """One shift by whole places per axis of space (what leaves is lost, borders reflect), after flips of some axes."""

    shift: tuple[int, ...] = ()
    flips: tuple[int, ...] = ()

    @property
    def still(self) -> bool:
        return not any(self.shift) and not self.flips

    def __call__(self, x: Float[Tensor, "N C *S"]) -> Float[Tensor, "N C *S"]:
        """The moved `x`, `(N, C, *S)`."""
        if self.flips:
            x = x.flip(self.flips)
        for axis, shift in enumerate(self.shift, start=2):
            if shift:
                source = reflect(torch.arange(x.shape[axis], dtype=torch.long, device=x.device) - shift, x.shape[axis])
                x = x.index_select(axis, source)
        return x


@dataclass(frozen=True)
class Jitter(Settings):
    """Random moves by up to `shift` places, and with `flip` mirrored along the last axis (left-right) half of the time.

    `shift` is one number for all axes or one per axis. By default it suits the input's shape, axis by axis: 4 places for a
    picture of 224 pixels, in proportion for other shapes, and at least one (`for_shape` tells it).

    Every second step stays still, so that scores of the input as it is are known throughout. Turn `flip` off where
    left and right, or before and after, are not the same: digits, text, audio.
    """

    shift: int | tuple[int, ...] | None = None
    flip: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.shift, list):
            object.__setattr__(self, "shift", tuple(self.shift))
        if self.shift is not None:
            for shift in self.shift if isinstance(self.shift, tuple) else (self.shift,):
                if not is_whole(shift, 0):
                    raise ValueError(
                        f"shift is a whole number of places, at least 0, or one for each axis; got {self.shift!r}"
                    )

    @property
    def still(self) -> bool:
        """Whether it moves nothing."""
        shifts = self.shift if isinstance(self.shift, tuple) else (self.shift,)
        return not self.flip and not any(shift != 0 for shift in shifts)

    def for_shape(self, shape: Sequence[int]) -> "Jitter":
        """The same with its shift said, for inputs whose axes of space have the lengths `shape`.

        >>> Jitter().for_shape((16, 112, 112))
        Jitter(shift=(1, 4, 4), flip=True)
        """
        if self.shift is not None:
            return self
        return Jitter(tuple(max(1, round(SHIFT * scale)) for scale in scales(shape)), self.flip)

    def moves(self, axes: int, generator: torch.Generator) -> Iterator[Move]:
        """An endless stream of moves for inputs with this many axes of space; of a shift not said, up to 4 places."""
        limits = per_axis(SHIFT if self.shift is None else self.shift, axes)
        while True:
            yield Move()
            shift = shifts(limits, generator)
            flip = self.flip and bool(torch.rand((), generator=generator, dtype=torch.float32, device="cpu") < 0.5)
            yield Move(shift, (-1,) if flip else ())


SHIFT = 4
"""Places, in pictures of 224 pixels."""


def shifts(limits: Sequence[float], generator: torch.Generator) -> tuple[int, ...]:
    """A whole number from -limit to limit for each axis, drawn uniformly."""
    draws = [
        torch.randint(-int(limit), int(limit) + 1, (), generator=generator, dtype=torch.long, device="cpu")
        for limit in limits
    ]
    return tuple(int(draw) for draw in draws)


def either_way(count: int, generator: torch.Generator) -> list[float]:
    """Numbers in [-1, 1), drawn uniformly."""
    return (2 * torch.rand(count, generator=generator, dtype=torch.float64, device="cpu") - 1).tolist()


@dataclass(frozen=True)
class MirrorEvenSteps(Settings):
    """TorchRay's "jitter": the input mirrored along its last axis at every second step, beginning with the first."""

    def moves(self, axes: int, generator: torch.Generator) -> Iterator[Move]:  # noqa: ARG002
        """An endless stream of moves; nothing in it is random."""
        while True:
            yield Move(flips=(-1,))
            yield Move()
