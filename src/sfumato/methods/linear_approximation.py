r"""Linear approximation: activation times gradient.

It is the contribution of a layer's values at a place in a first-order Taylor expansion of the score. At the input it is known
as gradient × input (A. Shrikumar, P. Greenside, A. Shcherbina, A. Kundaje: *Not just a black box*, 2016, arXiv 1605.01713);
TorchRay has it at layers.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sfumato.methods.method import LayerMethod


@dataclass(frozen=True)
class LinearApproximation(LayerMethod):
    r"""$S(u) = \sum_k a_k(u) \, \partial \Phi / \partial a_k(u)$, a signed map.

    If the network above the layer is linear without biases, the map's sum is the score. The settings are those of
    `LayerMethod`; `layer` is the dotted name of the module whose output is $a$; by default the last one with places that the
    outputs depend on, and "input" for the model's input.
    """

    needs_layer: ClassVar[bool | None] = True

    def read(self, activation: Float[Tensor, "N C *L"], gradient: Float[Tensor, "N C *L"]) -> Float[Tensor, "N 1 *L"]:
        return (activation * gradient).sum(1, keepdim=True)
