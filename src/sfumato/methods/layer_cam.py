r"""LayerCAM: a layer's maps, each place weighted by its own positive gradient.

P.-T. Jiang, C.-B. Zhang, Q. Hou, M.-M. Cheng, Y. Wei: *LayerCAM: exploring hierarchical class activation maps for
localization*, IEEE Transactions on Image Processing 2021.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sfumato.methods.grad_cam import check_weighed
from sfumato.methods.method import LayerMethod
from sfumato.model.effects import Model


@dataclass(frozen=True)
class LayerCAM(LayerMethod):
    r"""$S(u) = \max\bigl(0, \sum_k \max(0, \partial \Phi / \partial A_k(u))\, A_k(u)\bigr)$ (Jiang et al. 2021).

    As each place has a weight of its own, the maps of early layers are usable, and finer than those of the last.

    - `layer`: the dotted name of the module whose output is $A$; it must be given. For models from `sfumato.models.load`,
      `classifier.default_layer(LayerCAM)` names the last one that has places.

    The other settings are those of `LayerMethod`. The paper adds the maps of early layers to that of the last: each is scaled
    by `torch.tanh(2 * map / map.amax())`, and the largest value at a place counts, `torch.maximum`.
    """

    needs_layer: ClassVar[bool | None] = True

    def check_model(self, model: Model) -> None:
        check_weighed(self)
        super().check_model(model)

    def read(self, activation: Float[Tensor, "N C *L"], gradient: Float[Tensor, "N C *L"]) -> Float[Tensor, "N 1 *L"]:
        return (gradient.clamp(min=0) * activation).sum(1, keepdim=True).clamp(min=0)
