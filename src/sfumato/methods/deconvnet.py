r"""Deconvnet: the score sent back through rectifiers that look at the signal alone.

M. D. Zeiler, R. Fergus: *Visualizing and understanding convolutional networks*, ECCV 2014, arXiv 1311.2901.
"""

from dataclasses import dataclass
from typing import ClassVar

from sfumato.methods.gradient import Gradient


@dataclass(frozen=True)
class Deconvnet(Gradient):
    r"""The gradient, but with $R_x = \max(R_y, 0)$ at every rectifier $y = \sigma(x)$ (Zeiler & Fergus 2014, section 2.1).

    Convolutions are transposed and maxima unpooled to where they were found, as in any gradient. Activations other than
    ReLU: see `sfumato.model.backward.rules.BackwardRules`.

    The settings are those of `Gradient`. Raises `ValueError` besides where the model is compiled by torch.compile or
    torch.jit, and where the signal meets a rectifier that the rule cannot reach, as within an `autograd.Function`.
    """

    rules: ClassVar[str | None] = "deconvnet"
