r"""Guided backpropagation: the gradient through active rectifiers, without negative signals.

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

    The settings are those of `Gradient`. A call also raises `ValueError` if the model is compiled by torch.compile or
    torch.jit, if the signal meets a rectifier that the rule cannot reach (e.g. inside of an `autograd.Function`) or an
    operation that may hide one (e.g. a custom kernel), and if the model computes a part of itself in another thread.
    """

    rules: ClassVar[str | None] = "guided"
