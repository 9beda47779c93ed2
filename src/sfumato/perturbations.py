r"""What takes the place of the parts of an input that a mask hides: $m \otimes x$.

A perturbation is a configuration; called with inputs `x` `(B, C, *S)` it returns $m \mapsto m \otimes x$, a function of
masks `(N, 1, *S)` and of the index `(N,)` of the query that each of them belongs to, giving `(N, C, *S)` in the masks'
precision. Where a mask is 1 the input shows unchanged; where it is 0 it is perturbed fully.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.settings import Settings, check_number, check_seed
from sfumato.space.smoothing import BORDERS, gaussian_blur, per_axis

Perturbed = Callable[[Float[Tensor, "N K *M"], Int[Tensor, " N"]], Float[Tensor, "N C *S"]]


class Perturbation(Protocol):
    def __call__(self, x: Float[Tensor, "B C *S"]) -> Perturbed: ...


@dataclass(frozen=True)
class Blur(Settings):
    r"""Replace each place by a Gaussian mean around it, of width $\sigma(u) = \sigma_{\max} (1 - m(u))$.

    R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296,
    section 4.1. It is computed as in Fong et al. 2019, section 3.1: by linear interpolation between `levels` precomputed blurs,
    evenly spaced from none to `max_sigma` places: one number for all axes of space, or one for each, e.g. (2, 20, 20) for a
    clip of few frames; 0 leaves an axis as it is. `border` says what the blur sees beyond the edge: "reflect" keeps borders as
    bright as they are, "zeros" darkens them.
    """

    max_sigma: float | tuple[float, ...] = 20
    levels: int = 8
    border: str = "reflect"

    def __post_init__(self) -> None:
        if isinstance(self.max_sigma, list | tuple):
            object.__setattr__(self, "max_sigma", tuple(self.max_sigma))
            for width in self.max_sigma:
                check_number("max_sigma", width, "a length in places for each axis of space", least=0)
            if not any(self.max_sigma):
                raise ValueError(f"one of the lengths of max_sigma must be more than 0; got {self.max_sigma!r}")
        else:
            check_number("max_sigma", self.max_sigma, "a length in places", above=0)
        if not isinstance(self.levels, int) or self.levels < 2:
            raise ValueError(f"levels must be a whole number, at least 2 (the input and its blur); got {self.levels}")
        if self.border not in BORDERS:
            raise ValueError(f"border must be one of {', '.join(BORDERS)}; got {self.border!r}")

    def pyramid(self, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "levels B C *S"]:
        """`x` at every level, from the strongest blur to none."""
        widest = per_axis(self.max_sigma, x.ndim - 2)
        widths = [torch.linspace(width, 0, self.levels, dtype=torch.float32, device="cpu").tolist() for width in widest]
        return torch.stack([gaussian_blur(x, level, self.border) for level in zip(*widths, strict=True)])

    def __call__(self, x: Float[Tensor, "B C *S"]) -> Perturbed:
        pyramid = self.pyramid(x.float()).flatten(0, 1)  # row level · B + query

        def perturbed(masks: Float[Tensor, "N K *M"], query: Int[Tensor, " N"]) -> Float[Tensor, "N C *S"]:
            height = masks * (self.levels - 1)
            level = height.detach().floor().clamp(0, self.levels - 2)
            row = level.long() * len(x) + query.view(-1, *[1] * (masks.ndim - 1))
            row = row.expand(-1, *pyramid.shape[1:])
            upwards = height - level
            return (1 - upwards) * pyramid.gather(0, row) + upwards * pyramid.gather(0, row + len(x))

        return perturbed


def towards(background: Float[Tensor, "#B #C *#S"], x: Float[Tensor, "B C *S"]) -> Perturbed:
    """The linear blend of `x` with a background that broadcasts to it."""
    background = background.float().expand(x.shape)
    difference = x.float() - background

    def perturbed(masks: Float[Tensor, "N K *M"], query: Int[Tensor, " N"]) -> Float[Tensor, "N C *S"]:
        return torch.addcmul(rows(background, query), rows(difference, query), masks)

    return perturbed


def rows(values: Float[Tensor, " B *P"], query: Int[Tensor, " N"]) -> Float[Tensor, "#N *P"]:
    """The values of the queries; a single one's are left to broadcast, without a copy."""
    return values if len(values) == 1 else values[query]


@dataclass(frozen=True)
class Fade(Settings):
    """Fade to zero, $m x$: to the mean colour, for inputs that were normalised (Fong et al. 2019, section 3.1)."""

    def __call__(self, x: Float[Tensor, "B C *S"]) -> Perturbed:
        x = x.float()
        return lambda masks, query: rows(x, query) * masks


@dataclass(frozen=True)
class Constant(Settings):
    """Blend with a constant, one number or one per channel, in the units of the model's input."""

    value: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.value, Iterable) and not isinstance(self.value, str):
            object.__setattr__(self, "value", tuple(self.value))
        for value in self.value if isinstance(self.value, tuple) else (self.value,):
            check_number("value", value, "a number, or one for each channel")

    def __call__(self, x: Float[Tensor, "B C *S"]) -> Perturbed:
        value = torch.as_tensor(self.value, dtype=torch.float32, device=x.device)
        if value.ndim and len(value) != x.shape[1]:
            raise ValueError(
                f"Constant has {len(value)} values {self.value} for an input with {x.shape[1]} channels; "
                "give one per channel, or a single number for all"
            )
        return towards(value.view(1, -1, *[1] * (x.ndim - 2)), x)


@dataclass(frozen=True)
class Noise(Settings):
    """Blend with Gaussian noise of standard deviation `std`, in the units of the model's input.

    R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296,
    section 4.1.

    Every query gets the same noise, drawn from `seed`, so that its result does not depend on its batch. Without one it is
    drawn from the seed of the method that uses it, or, outside a method, from 0.
    """

    std: float = 0.2
    seed: int | None = None

    def __post_init__(self) -> None:
        check_number("std", self.std, "a standard deviation", above=0)
        if self.seed is not None:
            check_seed(self.seed)

    def __call__(self, x: Float[Tensor, "B C *S"]) -> Perturbed:
        return towards(self.std * white_noise(x[:1], self.seed), x)


def white_noise(like: Float[Tensor, "N C *S"], seed: int | None) -> Float[Tensor, "N C *S"]:
    """Gaussian noise of a tensor's shape, in float32, the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed or 0)
    return torch.randn(like.shape, generator=generator, dtype=torch.float32, device="cpu").to(like.device)


@dataclass(frozen=True)
class Scramble(Settings):
    r"""Blend with the input's own colours and textures, without its shapes: $\tilde x = F^{-1}(F(x)\,e^{i\varphi})$.

    The strengths of all spatial frequencies stay, as in a natural picture; their phases $\varphi$, which hold the shapes, are
    those of white noise, the same for all channels. A. V. Oppenheim, J. S. Lim: *The importance of phase in signals*,
    Proceedings of the IEEE 69, 1981.

    Every query gets the same phases, drawn from `seed`, so that its result does not depend on its batch. Without one they are
    drawn from the seed of the method that uses it, or, outside a method, from 0.
    """

    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None:
            check_seed(self.seed)

    def __call__(self, x: Float[Tensor, "B C *S"]) -> Perturbed:
        return towards(self.scrambled(x), x)

    def scrambled(self, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C *S"]:
        """The inputs with other phases."""
        axes = tuple(range(2, x.ndim))
        turned = torch.fft.fftn(white_noise(x[:1, :1], self.seed), dim=axes).sgn()
        turned[(..., *[0] * len(axes))] = 1  # the mean colour stays
        return torch.fft.ifftn(torch.fft.fftn(x.float(), dim=axes) * turned, dim=axes).real


def check_perturbation(perturbation: Any) -> None:
    """Raise `ValueError` unless a setting is an object that can be called, or `None`."""
    if perturbation is not None and (isinstance(perturbation, type) or not callable(perturbation)):
        raise ValueError(f"perturbation must be a configuration such as Blur(); got {perturbation!r}")


def check_single(perturbation: Any, method: str) -> None:
    """Raise `ValueError` if a setting of a method of this name is several perturbations."""
    if isinstance(perturbation, tuple | list):
        raise ValueError(f"{method} hides places with one perturbation, e.g. Fade(); got {perturbation!r}")


def seeded(perturbation: Any, seed: int) -> Any:
    """The perturbation with a method's seed, if it is a dataclass with a `seed` of its own that is None; else as it is.

    >>> seeded(Noise(), 7), seeded(Noise(seed=3), 7), seeded(Fade(), 7)
    (Noise(std=0.2, seed=7), Noise(std=0.2, seed=3), Fade())
    """
    if is_dataclass(perturbation) and not isinstance(perturbation, type) and getattr(perturbation, "seed", 0) is None:
        return replace(perturbation, seed=seed)
    return perturbation


def default_perturbation(layer: str) -> Perturbation:
    """What a method whose `perturbation` is None hides places with: `Blur()` of the input, and at a layer `Fade()`."""
    return Fade() if layer else Blur()
