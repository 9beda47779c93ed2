r"""The gradient: how much the score changes with each place.

K. Simonyan, A. Vedaldi, A. Zisserman: *Deep inside convolutional networks: visualising image classification models and
saliency maps*, ICLR 2014 workshop, arXiv 1312.6034.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.layers.flow import CHANNELS, check_options, check_reduction, explained
from sfumato.model.backward.rule import BackwardRule
from sfumato.model.effects import Model
from sfumato.settings import later


@dataclass(frozen=True)
class Gradient:
    r"""$S(u) = \max_c |\partial \Phi(x) / \partial x_c(u)|$ (Simonyan et al. 2014, section 3.1).

    - `layer`: the dotted name of the module at whose output the gradient is taken; "" for the input.
    - `layout`: which axis of that output is which, as "BHWC", where it cannot be found out; see `ExtremalPerturbation`.
    - `reduction`: from channels to one number a place: "max_abs" (published), "sum_abs", "norm", or the signed "sum".
    - `call`: which of the layer's calls, if the model calls it several times: from 0, or from -1, the last, backwards.
    - `smooth`: width of the Gaussian that smooths the map, as a fraction of its shortest side.
    - `resize`: whether the map is interpolated linearly to the inputs' size, or stays as large as the layer.
    - `memory`: GiB that the model may keep for its backward pass; more inputs than fit go through it in turns.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.
    """

    rules: ClassVar[BackwardRule | str | None] = None
    """Those of `sfumato.model.backward.rules.BackwardRules` under which the signal flows back, if any."""

    layer: str = ""
    layout: str = later("")
    reduction: str = "max_abs"
    smooth: float = 0.0
    resize: bool = True
    memory: float = 2.0
    call: int = later(-1)
    score: str = later("logit")

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
        the layer, the inputs or the targets cannot be used. The model comes out as it went in.
        """

        def read(_: Tensor, gradient: Tensor) -> Tensor:
            return CHANNELS[self.reduction](gradient)

        return explained(self, model, inputs, targets, read, self.rules)
