r"""The gradient: how much the score changes with each place.

K. Simonyan, A. Vedaldi, A. Zisserman: *Deep inside convolutional networks: visualising image classification models and
saliency maps*, ICLR 2014 workshop, arXiv 1312.6034.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sfumato.methods.method import AtLayer, LayerMethod, check_reduction, reduce_channels


@dataclass(frozen=True)
class _WithReduction(AtLayer):
    """The setting that comes before the shared ones, so that positional arguments keep their order."""

    reduction: str = "max_abs"


@dataclass(frozen=True)
class Gradient(LayerMethod, _WithReduction):
    r"""$S(u) = \max_c |\partial \Phi(x) / \partial x_c(u)|$ (Simonyan et al. 2014, section 3.1).

    - `layer`: the dotted name of the module at whose output the gradient is taken; "" for the input.
    - `reduction`: how the channels become one number for each place: "max_abs" (published), "sum_abs", "norm" (Euclidean), or
      "sum", which keeps the sign.

    The other settings are those of `LayerMethod`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduction("reduction", self.reduction)

    def read(
        self,
        activation: Float[Tensor, "N C *L"],  # noqa: ARG002
        gradient: Float[Tensor, "N C *L"],
    ) -> Float[Tensor, "N 1 *L"]:
        return reduce_channels(gradient, self.reduction)
