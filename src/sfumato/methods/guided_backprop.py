r"""Guided backpropagation: the gradient along which every rectifier was active and helped.

J. T. Springenberg, A. Dosovitskiy, T. Brox, M. Riedmiller: *Striving for simplicity: the all convolutional net*, ICLR 2015
workshop, arXiv 1412.6806.
"""

from dataclasses import dataclass
from typing import ClassVar

from sfumato.methods.gradient import Gradient


@dataclass(frozen=True)
class GuidedBackprop(Gradient):
    r"""The gradient, but with $R_x = [x > 0] \max(R_y, 0)$ at every ReLU (Springenberg et al. 2015).

    Activations other than ReLU have $R_x = \sigma'(x) \max(R_y, 0)$: see `sfumato.model.backward.rules.BackwardRules`.

    The settings are those of `Gradient`. Raises `ValueError` besides where the model is compiled by torch.compile or
    torch.jit, where the signal meets a rectifier that the rule cannot reach, as within an `autograd.Function`, or what may hide
    one, as a kernel of your own does, and where a part of the model is computed in another thread.
    """

    rules: ClassVar[str | None] = "guided"
