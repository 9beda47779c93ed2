"""Small random moves of the perturbed input, so that a mask cannot rely on the exact alignment of artefacts.

Fong & Vedaldi 2017, section 4.3: an explanation that holds under small translations is not an artefact of one placement.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.space import reflect


@dataclass(frozen=True)
class Move:
    """One shift by whole places per axis of space (what leaves is lost, borders reflect), after flips of some axes."""

    shift: tuple[int, ...] = ()
    flips: tuple[int, ...] = ()

    @property
    def still(self) -> bool:
        return not any(self.shift) and not self.flips

    def __call__(self, x: Tensor) -> Tensor:
        """The moved `x`, `(N, C, *S)`."""
        if self.flips:
            x = x.flip(self.flips)
        for axis, shift in enumerate(self.shift, start=2):
            if shift:
                source = reflect(torch.arange(x.shape[axis], device=x.device) - shift, x.shape[axis])
                x = x.index_select(axis, source)
        return x


@dataclass(frozen=True)
class Jitter:
    """Random moves by up to `shift` places, and with `flip` mirrored along the last axis (left-right) half of the time.

    Every second step stays still, so that scores of the input as it is are known throughout. Turn `flip` off where
    left and right, or before and after, are not the same: digits, text, audio.
    """

    shift: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.shift, int) or self.shift < 0:
            raise ValueError(f"shift is a whole number of places, at least 0; got {self.shift}")

    def moves(self, axes: int, generator: torch.Generator) -> Iterator[Move]:
        """An endless stream of moves for inputs with this many axes of space."""
        while True:
            yield Move()
            shift = torch.randint(-self.shift, self.shift + 1, (axes,), generator=generator).tolist()
            flip = self.flip and bool(torch.rand((), generator=generator) < 0.5)
            yield Move(tuple(shift), (-1,) if flip else ())


@dataclass(frozen=True)
class MirrorEvenSteps:
    """TorchRay's "jitter": the input mirrored along its last axis at every second step, beginning with the first."""

    def moves(self, axes: int, generator: torch.Generator) -> Iterator[Move]:  # noqa: ARG002
        """An endless stream of moves; nothing in it is random."""
        while True:
            yield Move(flips=(-1,))
            yield Move()
