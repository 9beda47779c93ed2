r"""The rules for rectifiers: deconvnet and guided backprop."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sfumato.model.backward.rule import RectifierRule


@dataclass(frozen=True)
class DeconvnetRule(RectifierRule):
    r"""$R_x = \max(R_y, 0)$: the signal is rectified, independent of the forward pass.

    M. D. Zeiler, R. Fergus: *Visualizing and understanding convolutional networks*, ECCV 2014, section 2.1.
    """

    derivative: ClassVar[bool] = False

    def transform(self, signal: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        return signal.clamp(min=0)


@dataclass(frozen=True)
class GuidedRule(RectifierRule):
    r"""$R_x = \sigma'(x) \max(R_y, 0)$; for a ReLU $\sigma'(x) = [x > 0]$, for a ReLU6 $[0 < x < 6]$.

    J. T. Springenberg, A. Dosovitskiy, T. Brox, M. Riedmiller: *Striving for simplicity: the all convolutional net*, ICLR 2015
    workshop.
    """

    def transform(self, signal: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        return signal.clamp(min=0)
