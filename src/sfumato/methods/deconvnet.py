r"""Deconvnet: the gradient with rectifiers that rectify the signal instead of the input.

M. D. Zeiler, R. Fergus: *Visualizing and understanding convolutional networks*, ECCV 2014, arXiv 1311.2901.
"""

from dataclasses import dataclass
from typing import ClassVar

from sfumato.methods.gradient import Gradient


@dataclass(frozen=True)
class Deconvnet(Gradient):
    r"""The gradient, but with $R_x = \max(R_y, 0)$ at every rectifier $y = \sigma(x)$ (Zeiler & Fergus 2014, section 2.1).

    Convolutions are transposed and maxima are unpooled to their places, as in any gradient. Activations other than ReLU: see
    `sfumato.model.backward.rules.BackwardRules`.

    The settings are those of `Gradient`, and the errors those of `GuidedBackprop`.
    """

    rules: ClassVar[str | None] = "deconvnet"
