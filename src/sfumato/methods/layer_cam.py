r"""LayerCAM: a layer's maps, each place weighted by its own positive gradient.

P.-T. Jiang, C.-B. Zhang, Q. Hou, M.-M. Cheng, Y. Wei: *LayerCAM: exploring hierarchical class activation maps for
localization*, IEEE Transactions on Image Processing 2021.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sfumato.methods.method import LayerMethod


@dataclass(frozen=True)
class LayerCAM(LayerMethod):
    r"""$S(u) = \max\bigl(0, \sum_k \max(0, \partial \Phi / \partial A_k(u))\, A_k(u)\bigr)$ (Jiang et al. 2021).

    As each place has a weight of its own, the maps of early layers are usable, and finer than those of the last.

    - `layer`: the dotted name of the module whose output is $A$; by default the last one with places that the outputs depend
      on, which `about["method"]` then names.

    The other settings are those of `LayerMethod`. The paper adds the maps of early layers to that of the last: each is scaled
    by `torch.tanh(2 * map / map.amax())`, and the largest value at a place counts, `torch.maximum`.
    """

    needs_layer: ClassVar[bool | None] = True

    def read(self, activation: Float[Tensor, "N C *L"], gradient: Float[Tensor, "N C *L"]) -> Float[Tensor, "N 1 *L"]:
        return (gradient.clamp(min=0) * activation).sum(1, keepdim=True).clamp(min=0)
