r"""Priors of natural pictures for feature inversion: parameters of pictures, and penalties on unnatural ones.

`Pixels` is published with the method, `Fourier` is later practice. Both are settings; their methods take the shape of the
pictures and the `Normalisation` as arguments.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.masks.priors import total_variation
from sfumato.settings import Settings, check_number
from sfumato.space.normalisation import Normalisation
from sfumato.space.transforms import Transforms

# The colours of photographs: rows z such that for independent normal coefficients c, the log-odds c · z of RGB values in [0, 1]
# have the same covariance as in 276 photographs of COCO. The rows are light, red against blue, and magenta against green.
# `python bench/inversion.py colours` measures them.
COLOURS = ((1.611, 1.648, 1.731), (0.594, -0.012, -0.542), (0.125, -0.272, 0.143))


@runtime_checkable
class Prior(Protocol):
    """A parametrisation of pictures, with a penalty on unnatural ones.

    - `rate`: the length of a step, as the root mean square over the parameters.
    - `transforms`: random changes of the picture at each step, under which it must keep its activations.
    """

    @property
    def rate(self) -> float: ...
    @property
    def transforms(self) -> Transforms: ...

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "1 ..."]:
        """Parameters of an almost empty picture of shape `(C, *S)`."""

    def pictures(
        self, parameters: Float[Tensor, "N ..."], shape: Sequence[int], normalisation: Normalisation
    ) -> Float[Tensor, "N C *S"]:
        """The pictures of parameters; gradients flow through it."""

    def confined(self, parameters: Float[Tensor, " N *P"], normalisation: Normalisation) -> Float[Tensor, " N *P"]:
        """The nearest parameters whose pictures have values within the bounds."""

    def penalty(self, inputs: Float[Tensor, "N C *S"]) -> Float[Tensor, " N"]:
        """The penalty on unnatural inputs of the network, in units of the relative error."""


@dataclass(frozen=True)
class Fourier(Settings):
    r"""Coefficients of a spectrum with amplitude $1/|k|$, in the colours of photographs.

    C. Olah, A. Mordvintsev, L. Schubert: *Feature visualization*, Distill 2017.

    $I = \mathrm{sigmoid}\Big(\sum_c z_c \, \mathcal{F}^{-1}\big(a_c(k)\, s(k)\big)\Big)$ with $s(k) \propto |k|^{-d}$

    The parameters are the coefficients $a_c(k)$, real and imaginary parts, of the discrete Fourier transform over all axes
    of space. $d$ is `decay`. $|k|$ is in cycles per place, and at least that of one cycle along the longest axis. The $z_c$
    are `COLOURS` for three channels; other numbers of channels are independent. $s$ is scaled such that independent normal
    coefficients give each $\mathcal{F}^{-1}(a\,s)$ variance one at every place, so that they make a picture with the
    contrast of photographs, whatever its size. A step of one length in all coefficients changes the picture most at the
    frequencies at which photographs vary most. This is the whole prior: there is no penalty. For inputs without bounds
    there is no sigmoid and no colour.

    - `rate`: the length of a step, as the root mean square over the coefficients. A larger rate gives more contrast.
    - `spread`: the standard deviation of the coefficients at the start.
    - `transforms`: random changes of the network's input at every second step.
    """

    decay: float = 1.0
    rate: float = 0.015
    spread: float = 0.01
    transforms: Transforms = Transforms(shift=4, angle=3, scale=0.03)

    def __post_init__(self) -> None:
        check_number("decay", self.decay, "how fast amplitudes fall with frequency", least=0)
        _check(self)

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "1 C *K 2"]:
        """Coefficients, where K is S with its last length halved, as in the transform of real values."""
        channels, *space = shape
        size = (1, channels, *space[:-1], space[-1] // 2 + 1, 2)
        return self.spread * torch.randn(size, generator=generator, dtype=torch.float32, device="cpu")

    def pictures(
        self, parameters: Float[Tensor, "N C *K 2"], shape: Sequence[int], normalisation: Normalisation
    ) -> Float[Tensor, "N C *S"]:
        """The pictures of coefficients."""
        space = tuple(shape[1:])
        spectrum = torch.view_as_complex(parameters) * amplitudes(space, self.decay).to(parameters)
        values = torch.fft.irfftn(spectrum, s=space, dim=tuple(range(2, 2 + len(space))), norm="ortho")
        if not normalisation.bounded:
            return values
        if shape[0] == len(COLOURS):
            values = torch.einsum("nc...,cd->nd...", values, values.new_tensor(COLOURS))
        return values.sigmoid()

    def confined(
        self,
        parameters: Float[Tensor, " N *P"],
        normalisation: Normalisation,  # noqa: ARG002
    ) -> Float[Tensor, " N *P"]:
        """The parameters themselves, as all their pictures are within the bounds."""
        return parameters

    def penalty(self, inputs: Float[Tensor, "N C *S"]) -> Float[Tensor, " N"]:
        """Zeros."""
        return inputs.new_zeros(len(inputs))


def amplitudes(space: Sequence[int], decay: float) -> Float[Tensor, "*K"]:
    r"""$s(k) \propto |k|^{-d}$ in float64 for the half spectrum of real values over these lengths, scaled as in `Fourier`."""
    axes = [torch.fft.fftfreq(length, dtype=torch.float64, device="cpu") for length in space[:-1]]
    axes.append(torch.fft.rfftfreq(space[-1], dtype=torch.float64, device="cpu"))
    squares = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
    falling = squares.sqrt().clamp(min=1 / max(space)) ** -decay
    # Along the last axis, only the real parts count at frequencies 0 and ½. Each other frequency has a mirror image besides.
    counts = torch.full((space[-1] // 2 + 1,), 4.0, dtype=torch.float64, device="cpu")
    counts[0] = 1
    if space[-1] % 2 == 0:
        counts[-1] = 1
    variance = (counts * falling.square()).sum() / math.prod(space)
    return falling / variance.sqrt()


@dataclass(frozen=True)
class Pixels(Settings):
    r"""The pixels themselves, with penalties on large values and on sharp changes.

    A. Mahendran, A. Vedaldi: *Understanding deep image representations by inverting them*, CVPR 2015, arXiv 1412.0035.

    $\lambda_\alpha \sum_{c,u} |x_c(u)|^\alpha + \lambda_\beta \sum_{c,u} \sum_i |x_c(u + e_i) - x_c(u)|^\beta$

    $x$ is the input of the network, in standard deviations of its normalisation. Both terms are sums over channels and places,
    not means, so that they have more weight for larger pictures. The paper's second term is a power of the gradient's length;
    here it is the power of each component of the gradient, which is the same for `beta=2`.

    - `alpha`, `beta`: the exponents. `alpha_weight`, `beta_weight`: $\lambda_\alpha$ and $\lambda_\beta$. A larger
      `beta_weight`, e.g. 1e-4, gives smoother and paler pictures.
    - `rate`: the length of a step, as the root mean square over the values.
    - `spread`: the standard deviation of the values at the start.
    - `transforms`: random changes of the network's input at every second step; the paper has none.

    After each step, values are clipped to those of pictures in [0, 1], which the paper does not do.
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

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "1 C *S"]:
        """Values as inputs of the network: noise around the mean colour."""
        return self.spread * torch.randn(1, *shape, generator=generator, dtype=torch.float32, device="cpu")

    def pictures(
        self,
        parameters: Float[Tensor, "N C *S"],
        shape: Sequence[int],  # noqa: ARG002
        normalisation: Normalisation,
    ) -> Float[Tensor, "N C *S"]:
        """The pictures that become the parameters when they are normalised."""
        return normalisation.pictures(parameters)

    def confined(self, parameters: Float[Tensor, "N C *S"], normalisation: Normalisation) -> Float[Tensor, "N C *S"]:
        """The parameters, clipped to the bounds."""
        return normalisation.seen(normalisation.within(normalisation.pictures(parameters)))

    def penalty(self, inputs: Float[Tensor, "N C *S"]) -> Float[Tensor, " N"]:
        """The sum of both penalties."""
        total = inputs.new_zeros(len(inputs))
        if self.alpha_weight:
            total = total + self.alpha_weight * alpha_norm(inputs, self.alpha)
        if self.beta_weight:
            total = total + self.beta_weight * total_variation(inputs, self.beta)
        return total


def alpha_norm(inputs: Float[Tensor, " N *P"], alpha: float) -> Float[Tensor, " N"]:
    r"""$\lVert x \rVert_\alpha^\alpha = \sum_{c,u} |x_c(u)|^\alpha$ of each row."""
    return inputs.abs().pow(alpha).flatten(1).sum(1)


def _check(prior: Fourier | Pixels) -> None:
    check_number("rate", prior.rate, "how far a step moves a parameter", above=0)
    check_number("spread", prior.spread, "a standard deviation", least=0)
    if not isinstance(prior.transforms, Transforms):
        raise ValueError(f"transforms must be Transforms(…); got {prior.transforms!r}")
