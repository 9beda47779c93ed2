r"""Grad-CAM: the sum of a layer's maps, each weighted by the mean gradient of the score by it.

R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh, D. Batra: *Grad-CAM: visual explanations from deep networks
via gradient-based localization*, ICCV 2017, arXiv 1610.02391.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sfumato.methods.method import LayerMethod


@dataclass(frozen=True)
class GradCAM(LayerMethod):
    r"""$S = \max(0, \sum_k \alpha_k A_k)$ with $\alpha_k$ the mean of $\partial \Phi / \partial A_k(u)$ over places $u$
    (Selvaraju et al. 2017, equations 1 and 2).

    - `layer`: the dotted name of the module whose output is $A$; by default the last one with places that the outputs depend
      on, which `about["method"]` then names. A transformer's tokens, `(N, tokens, C)`, are arranged as in the picture: their
      number, without the leading ones (class, registers), must be a square for a square picture. If the model reads only the
      class token, name a layer before the last attention: the score does not depend on the other tokens after it, so that the
      map is 0.

    The other settings are those of `LayerMethod`.
    """

    needs_layer: ClassVar[bool | None] = True

    def read(self, activation: Float[Tensor, "N C *L"], gradient: Float[Tensor, "N C *L"]) -> Float[Tensor, "N 1 *L"]:
        weights = gradient.flatten(2).mean(2).view(*gradient.shape[:2], *[1] * (gradient.ndim - 2))
        return (weights * activation).sum(1, keepdim=True).clamp(min=0)
