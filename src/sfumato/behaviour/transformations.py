r"""Transformations of an input under which a network's answer may stay the same: $x \sim_\theta x'$, for a strength $\theta$.

A transformation is a configuration with a `strength`. A call with one input draws a change of up to that strength. From the
same generator, a weaker transformation draws the same change, only weaker: so curves over strength are smooth, and their
points are paired.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.settings import Settings, check_number
from sfumato.space.jitter import Move, either_way
from sfumato.space.normalisation import per_channel
from sfumato.space.smoothing import gaussian_blur
from sfumato.space.transforms import Transform


@dataclass(frozen=True)
class Levels(Settings):
    """The values of black and white in a model's input, one for each channel."""

    black: tuple[float, ...]
    white: tuple[float, ...]

    def tensors(self, x: Float[Tensor, "1 C *S"]) -> tuple[Float[Tensor, " C *ones"], Float[Tensor, " C *ones"]]:
        """Black and white as tensors that broadcast to `x`. Raises `ValueError` for another number of channels."""
        for values in (self.black, self.white):
            if len(values) != x.shape[1]:
                raise ValueError(
                    f"Levels has {len(values)} values for an input with {x.shape[1]} channels; give one per channel"
                )
        return per_channel(self.black, x), per_channel(self.white, x)


@dataclass(frozen=True, eq=False)
class Draw:
    """The random numbers of a transformation, and the range of the input's values.

    Without `levels`, brightness is in the input's own units, and nothing is clamped.
    """

    generator: torch.Generator
    levels: Levels | None = None

    def either_way(self, count: int) -> list[float]:
        """`count` numbers in [-1, 1)."""
        return either_way(count, self.generator)

    def share(self) -> float:
        """A number in [0, 1)."""
        return float(torch.rand((), generator=self.generator, dtype=torch.float64, device="cpu"))

    def noise(self, x: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """Standard normal numbers in the shape of `x`."""
        return torch.randn(x.shape, generator=self.generator, dtype=torch.float32, device="cpu").to(x)

    def span(self, x: Float[Tensor, "1 C *S"]) -> Float[Tensor, "..."]:
        """The difference of white and black, which broadcasts to `x`."""
        if self.levels is None:
            return x.new_ones(1)
        black, white = self.levels.tensors(x)
        return white - black

    def clamp(self, x: Float[Tensor, "1 C *S"], changed: Float[Tensor, "1 C *S"]) -> Float[Tensor, "1 C *S"]:
        """The changed input, clamped between black and white as in a picture file. Unchanged values are not clamped."""
        if self.levels is None:
            return changed
        return torch.where(changed == x, x, changed.clamp(*self.levels.tensors(x)))


@dataclass(frozen=True)
class Transformation(Settings):
    """Base class of all transformations. `strength` is from 0, which changes nothing, to `most`."""

    strength: float

    unit: ClassVar[str] = ""
    """The unit of strength."""
    most: ClassVar[float] = 1.0
    """The largest strength that has a meaning, from which a search begins."""
    graded: ClassVar[bool] = True
    """Whether there are strengths between nothing and the whole transformation."""
    drawn: ClassVar[bool] = True
    """Whether it is random, so that several draws give more information than one."""

    def __post_init__(self) -> None:
        check_number("strength", self.strength, f"of {type(self).__name__}, in {self.unit}", least=0)
        if self.strength > self.most:
            raise ValueError(
                f"strength of {type(self).__name__} is in {self.unit}, at most {self.most:g}; got {self.strength:g}"
            )

    def __call__(self, x: Float[Tensor, "1 C *S"], draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        """One input with a random change."""
        raise NotImplementedError

    def at(self, strength: float) -> Self:
        """The same transformation with another strength."""
        return replace(self, strength=strength)

    def scaled(self, share: float) -> Self:
        """The same transformation with a share of its strength."""
        return self.at(self.strength * share)

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} up to {self.strength:.3g} {self.unit}"


@dataclass(frozen=True)
class Rotation(Transformation):
    """A rotation about the centre by up to `strength` degrees in either direction; beyond the edge, the input is reflected.

    Pictures are interpolated cubically, because linear interpolation blurs more: networks react to blur more than to a small
    rotation. The remaining blur counts as a part of the rotation.
    """

    strength: float = 15.0
    unit: ClassVar[str] = "degrees"
    most: ClassVar[float] = 180.0

    def __call__(self, x: Float[Tensor, "1 C *S"], draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        if x.ndim < 4:
            raise ValueError(f"Rotation needs inputs with two or three axes of space; got shape {tuple(x.shape)}")
        return Transform(angle=self.strength * draw.either_way(1)[0], cubic=x.ndim == 4)(x)


@dataclass(frozen=True)
class Shift(Transformation):
    """A shift along each axis by up to `strength` of its length, in whole places; beyond the edge, the input is reflected."""

    strength: float = 0.05
    unit: ClassVar[str] = "of the side"
    most: ClassVar[float] = 0.5

    def __call__(self, x: Float[Tensor, "1 C *S"], draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        shares = draw.either_way(x.ndim - 2)
        return Move(tuple(round(self.strength * u * size) for u, size in zip(shares, x.shape[2:], strict=True)))(x)


@dataclass(frozen=True)
class Scaling(Transformation):
    """A change of scale about the centre by a factor from 1 / (1 + strength) to 1 + strength, uniform in its logarithm.

    It interpolates like `Rotation`; beyond the edge, the input is reflected.
    """

    strength: float = 0.1
    unit: ClassVar[str] = "beyond 1"

    def __call__(self, x: Float[Tensor, "1 C *S"], draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        return Transform(scale=(1 + self.strength) ** draw.either_way(1)[0], cubic=x.ndim == 4)(x)


@dataclass(frozen=True)
class Flip(Transformation):
    """A reflection along the last axis, left to right: always (strength 1) or never (0)."""

    strength: float = 1.0
    unit: ClassVar[str] = "0 or 1"
    graded: ClassVar[bool] = False
    drawn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.strength not in (0, 1):
            raise ValueError(f"strength of Flip must be 1, or 0 for none; got {self.strength!r}")

    def __call__(self, x: Float[Tensor, "1 C *S"], _draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        return Move(flips=(-1,))(x) if self.strength else x

    def scaled(self, share: float) -> Self:
        """The flip itself; no flip for the share 0."""
        return self if share else self.at(0.0)

    def __str__(self) -> str:
        return "flip"


@dataclass(frozen=True)
class Blurring(Transformation):
    """A Gaussian blur whose width is up to `strength` places of the model's input."""

    strength: float = 1.0
    unit: ClassVar[str] = "places"
    most: ClassVar[float] = 32.0

    def __call__(self, x: Float[Tensor, "1 C *S"], draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        return gaussian_blur(x, self.strength * draw.share())


@dataclass(frozen=True)
class Brightness(Transformation):
    """All places brighter or darker by up to `strength`, in units of the difference of white and black."""

    strength: float = 0.1
    unit: ClassVar[str] = "of black to white"

    def __call__(self, x: Float[Tensor, "1 C *S"], draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        change = self.strength * draw.either_way(1)[0]
        return draw.clamp(x, x + change * draw.span(x))


@dataclass(frozen=True)
class Contrast(Transformation):
    """Multiplies the differences from the mean of each channel by a factor from 1 / (1 + strength) to 1 + strength."""

    strength: float = 0.2
    unit: ClassVar[str] = "beyond 1"

    def __call__(self, x: Float[Tensor, "1 C *S"], draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        factor = (1 + self.strength) ** draw.either_way(1)[0]
        if factor == 1:
            return x
        mean = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        changed = mean + factor * (x - mean)
        return draw.clamp(x, changed)


@dataclass(frozen=True)
class Noisiness(Transformation):
    """Adds Gaussian noise with a standard deviation of up to `strength`, in units of the difference of white and black."""

    strength: float = 0.05
    unit: ClassVar[str] = "of black to white"

    def __call__(self, x: Float[Tensor, "1 C *S"], draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        width = self.strength * draw.share()
        return draw.clamp(x, x + width * draw.noise(x) * draw.span(x))


@dataclass(frozen=True)
class Together(Transformation):
    """Several transformations one after the other, each with the share `strength` of its own strength.

    A flip has no shares: it is done at any share but 0.
    """

    strength: float = 1.0
    parts: tuple[Transformation, ...] = ()
    unit: ClassVar[str] = "of each"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "parts", tuple(self.parts))
        if len(self.parts) < 2:
            raise ValueError(f"Together takes at least two transformations; got {self.parts}")

    def __call__(self, x: Float[Tensor, "1 C *S"], draw: Draw, /) -> Float[Tensor, "1 C *S"]:
        for part in self.parts:
            x = part.scaled(self.strength)(x, draw)
        return x

    def __str__(self) -> str:
        return " + ".join(str(part.scaled(self.strength)) for part in self.parts)


TRANSFORMATIONS: dict[str, type[Transformation]] = {
    "rotation": Rotation,
    "shift": Shift,
    "scale": Scaling,
    "flip": Flip,
    "blur": Blurring,
    "brightness": Brightness,
    "contrast": Contrast,
    "noise": Noisiness,
}
"""The transformations by their names in written rules."""
