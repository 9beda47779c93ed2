r"""What makes a picture natural: two ways to write it down in which what no photograph shows comes dear.

`Fourier` is later practice (Olah, Mordvintsev & Schubert, *Feature visualization*, Distill 2017), `Pixels` the published one
(Mahendran & Vedaldi, CVPR 2015, arXiv 1412.0035). Both are settings, with the shape of the pictures and their
`Normalisation` handed to them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sfumato.masks.priors import total_variation
from sfumato.settings import check_number
from sfumato.space.normalisation import Normalisation
from sfumato.space.transforms import Transforms

# The colours of photographs: rows z such that independent normal coefficients c make log-odds c · z of RGB values in [0, 1]
# with the covariance that they have in 276 photographs of COCO. In turn light, red against blue, magenta against green.
# `python bench/inversion.py colours` measures them.
COLOURS = ((1.611, 1.648, 1.731), (0.594, -0.012, -0.542), (0.125, -0.272, 0.143))


@runtime_checkable
class Prior(Protocol):
    """How pictures are written down, and what else is known of them.

    - `rate`: how far a step moves a parameter, in root mean square.
    - `transforms`: the random changes under which a picture is to hold.
    """

    @property
    def rate(self) -> float: ...
    @property
    def transforms(self) -> Transforms: ...

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Parameters `(1, …)` of an almost empty picture of shape `(C, *S)`."""

    def pictures(self, parameters: Tensor, shape: Sequence[int], normalisation: Normalisation) -> Tensor:
        """The pictures `(N, C, *S)` of parameters `(N, …)`; gradients flow through it."""

    def confined(self, parameters: Tensor, normalisation: Normalisation) -> Tensor:
        """The nearest parameters whose pictures keep within the bounds."""

    def penalty(self, seen: Tensor) -> Tensor:
        """How unnatural it is what the network sees, `(N,)`, in units of the relative error."""


@dataclass(frozen=True)
class Fourier:
    r"""A spectrum like that of photographs: coefficients of amplitude $1/|k|$, in colours as frequent as they are there.

    $I = \mathrm{sigmoid}\Big(\sum_c z_c \, \mathcal{F}^{-1}\big(a_c(k)\, s(k)\big)\Big)$ with $s(k) \propto |k|^{-d}$

    The parameters are the coefficients $a_c(k)$, real and imaginary parts, of the discrete Fourier transform over all axes
    of space; $d$ is `decay`; $|k|$ is in cycles per place and at least that of one cycle along the longest axis; the $z_c$
    are `COLOURS` for three channels and independent for other numbers of them. $s$ is such that independent normal
    coefficients give each $\mathcal{F}^{-1}(a\,s)$ variance one at every place: coefficients of the size of one make a
    picture with the contrast of photographs, whatever its size. Equal steps in all of them go further where photographs
    vary more, which is all of the prior there is: no penalty is added. For inputs without bounds there is no sigmoid, and no
    colour.

    - `rate`: how far a step moves the coefficients, in root mean square. More makes for more contrast.
    - `spread`: of the coefficients at the start, their standard deviation.
    - `transforms`: of what the network sees at every second step.
    """

    decay: float = 1.0
    rate: float = 0.015
    spread: float = 0.01
    transforms: Transforms = Transforms(shift=4, angle=3, scale=0.03)

    def __post_init__(self) -> None:
        check_number("decay", self.decay, "how fast amplitudes fall with frequency", least=0)
        _check(self)

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Coefficients `(1, C, *K, 2)`, where K is S with its last length halved, as the transform of real values has it."""
        channels, *space = shape
        size = (1, channels, *space[:-1], space[-1] // 2 + 1, 2)
        return self.spread * torch.randn(size, generator=generator, dtype=torch.float32, device="cpu")

    def pictures(self, parameters: Tensor, shape: Sequence[int], normalisation: Normalisation) -> Tensor:
        """The pictures `(N, C, *S)` of coefficients `(N, C, *K, 2)`."""
        space = tuple(shape[1:])
        spectrum = torch.view_as_complex(parameters) * amplitudes(space, self.decay).to(parameters)
        values = torch.fft.irfftn(spectrum, s=space, dim=tuple(range(2, 2 + len(space))), norm="ortho")
        if not normalisation.bounded:
            return values
        if shape[0] == len(COLOURS):
            values = torch.einsum("nc...,cd->nd...", values, values.new_tensor(COLOURS))
        return values.sigmoid()

    def confined(self, parameters: Tensor, normalisation: Normalisation) -> Tensor:  # noqa: ARG002
        """The parameters: all their pictures keep within the bounds."""
        return parameters

    def penalty(self, seen: Tensor) -> Tensor:
        """Nothing."""
        return seen.new_zeros(len(seen))


def amplitudes(space: Sequence[int], decay: float) -> Tensor:
    r"""$s(k)$ for half of the spectrum of real values over these lengths, float64: $|k|^{-d}$, scaled as `Fourier` says."""
    axes = [torch.fft.fftfreq(length, dtype=torch.float64, device="cpu") for length in space[:-1]]
    axes.append(torch.fft.rfftfreq(space[-1], dtype=torch.float64, device="cpu"))
    squares = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
    falling = squares.sqrt().clamp(min=1 / max(space)) ** -decay
    # At frequencies 0 and ½ along the last axis imaginary parts do not count; the others stand for their mirror images, too.
    counts = torch.full((space[-1] // 2 + 1,), 4.0, dtype=torch.float64, device="cpu")
    counts[0] = 1
    if space[-1] % 2 == 0:
        counts[-1] = 1
    variance = (counts * falling.square()).sum() / math.prod(space)
    return falling / variance.sqrt()


@dataclass(frozen=True)
class Pixels:
    r"""The pixels themselves, with penalties on large values and on sharp changes.

    $\lambda_\alpha \sum_{c,u} |x_c(u)|^\alpha + \lambda_\beta \sum_{c,u} \sum_i |x_c(u + e_i) - x_c(u)|^\beta$

    $x$ is what the network sees, in standard deviations of its normalisation, and both are sums over channels and places,
    not means: the larger a picture, the more they weigh. With `beta` 2 the second is the paper's, which takes the power of
    the gradient's length; with another, that of each of its components.

    - `alpha`, `beta`: the exponents. `alpha_weight`, `beta_weight`: $\lambda_\alpha$ and $\lambda_\beta$. A larger
      `beta_weight`, 1e-4 say, makes for smoother pictures and paler ones.
    - `rate`: how far a step moves the values, in root mean square.
    - `spread`: of the values at the start, their standard deviation.
    - `transforms`: none were published.

    Values are held to those of pictures in [0, 1] after each step, which the paper did not do.
    """

    alpha: float = 6.0
    alpha_weight: float = 1e-5
    beta: float = 2.0
    beta_weight: float = 1e-5
    rate: float = 0.1
    spread: float = 0.01
    transforms: Transforms = Transforms()

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            check_number(name, getattr(self, name), "an exponent", least=1)
            check_number(f"{name}_weight", getattr(self, f"{name}_weight"), "the weight of a penalty", least=0)
        _check(self)

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Values `(1, C, *S)` as the network sees them: noise about the mean."""
        return self.spread * torch.randn(1, *shape, generator=generator, dtype=torch.float32, device="cpu")

    def pictures(self, parameters: Tensor, shape: Sequence[int], normalisation: Normalisation) -> Tensor:  # noqa: ARG002
        """The pictures `(N, C, *S)` of which the network sees the parameters."""
        return normalisation.pictures(parameters)

    def confined(self, parameters: Tensor, normalisation: Normalisation) -> Tensor:
        """The parameters, put back to the bounds where they exceed them."""
        return normalisation.seen(normalisation.within(normalisation.pictures(parameters)))

    def penalty(self, seen: Tensor) -> Tensor:
        """Both penalties, `(N,)`."""
        total = seen.new_zeros(len(seen))
        if self.alpha_weight:
            total = total + self.alpha_weight * alpha_norm(seen, self.alpha)
        if self.beta_weight:
            total = total + self.beta_weight * total_variation(seen, self.beta)
        return total


def alpha_norm(seen: Tensor, alpha: float) -> Tensor:
    r"""$\lVert x \rVert_\alpha^\alpha = \sum_{c,u} |x_c(u)|^\alpha$ of each row, `(N,)`."""
    return seen.abs().pow(alpha).flatten(1).sum(1)


def _check(prior: Fourier | Pixels) -> None:
    check_number("rate", prior.rate, "how far a step moves a parameter", above=0)
    check_number("spread", prior.spread, "a standard deviation", least=0)
    if not isinstance(prior.transforms, Transforms):
        raise ValueError(f"transforms must be Transforms(…); got {prior.transforms!r}")
