r"""Linear approximation: activation times gradient.

What the first-order Taylor expansion of the score says that a layer's values at a place contribute. At the input it is
known as gradient × input (A. Shrikumar, P. Greenside, A. Shcherbina, A. Kundaje: *Not just a black box*, 2016, arXiv
1605.01713); TorchRay has it at layers.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.layers.flow import check_options, explained
from sfumato.model.effects import Model
from sfumato.settings import later


@dataclass(frozen=True)
class LinearApproximation:
    r"""$S(u) = \sum_k a_k(u) \, \partial \Phi / \partial a_k(u)$, with its sign.

    Where all above the layer is linear without biases, the map's sum is the score.

    - `layer`: the dotted name of the module whose output is $a$; "" for the input. A transformer's tokens are laid out as
      in the picture, without the leading ones (class, registers).
    - `call`: which of the layer's calls, if the model calls it several times: from 0, or from -1, the last, backwards.
    - `layout`: which axis of that output is which, as "BHWC", where it cannot be found out; see `ExtremalPerturbation`.
    - `smooth`: width of the Gaussian that smooths the map, as a fraction of its shortest side.
    - `resize`: whether the map is interpolated linearly to the inputs' size, or stays as large as the layer.
    - `memory`: GiB that the model may keep for its backward pass; more inputs than fit go through it in turns.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.
    """

    layer: str = ""
    layout: str = later("")
    smooth: float = 0.0
    resize: bool = True
    memory: float = 2.0
    call: int = later(-1)
    score: str = later("logit")

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        targets: Any,
        progress: object = None,  # noqa: ARG002  # for the sake of the common call: there are no steps to tell
    ) -> Attribution:
        """The map for inputs `(B, C, *S)`, prepared as the model wants them.

        `targets`: a class index, one per input, a `Score`, or a function of the model's outputs. Raises `ValueError` where
        the layer, the inputs or the targets cannot be used. The model comes out as it went in.
        """

        def read(activation: Tensor, gradient: Tensor) -> Tensor:
            return (activation * gradient).sum(1, keepdim=True)

        return explained(self, model, inputs, targets, read)
