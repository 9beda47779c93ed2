r"""Deconvnet: the score sent back through rectifiers that look at the signal alone.

M. D. Zeiler, R. Fergus: *Visualizing and understanding convolutional networks*, ECCV 2014, arXiv 1311.2901.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.layers import CHANNELS, check_options, check_reduction, explained
from sfumato.probing import Model


@dataclass(frozen=True)
class Deconvnet:
    r"""The gradient, but with $R_x = \max(R_y, 0)$ at every rectifier $y = \sigma(x)$ (Zeiler & Fergus 2014, section 2.1).

    Convolutions are transposed and maxima unpooled to where they were found, as in any gradient. Activations other than
    ReLU: see `sfumato.rules.BackwardRules`.

    - `layer`: the dotted name of the module at whose output the gradient is taken; "" for the input.
    - `reduction`: from channels to one number a place: "max_abs" (published), "sum_abs", "norm", or the signed "sum".
    - `smooth`: width of the Gaussian that smooths the map, as a fraction of its shortest side.
    - `resize`: whether the map is interpolated linearly to the inputs' size, or stays as large as the layer.
    - `memory`: GiB that the model may keep for its backward pass; more inputs than fit go through it in turns.
    """

    layer: str = ""
    reduction: str = "max_abs"
    smooth: float = 0.0
    resize: bool = True
    memory: float = 2.0

    def __post_init__(self) -> None:
        check_options(self)
        check_reduction(self.reduction)

    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        targets: Any,
        progress: object = None,  # noqa: ARG002  # for the sake of the common call: there are no steps to tell
    ) -> Attribution:
        """The map for inputs `(B, C, *S)`, prepared as the model wants them.

        `targets`: a class index, one per input, a `Score`, or a function of the model's outputs. Raises `ValueError` where
        the layer, the inputs or the targets cannot be used, or where torch.compile or torch.jit hides what the model
        computes. The model comes out as it went in.
        """

        def read(_: Tensor, gradient: Tensor) -> Tensor:
            return CHANNELS[self.reduction](gradient)

        return explained(self, model, inputs, targets, read, rules="deconvnet")
