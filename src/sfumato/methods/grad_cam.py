r"""Grad-CAM: a layer's maps, weighted by how much the score grows with each on average.

R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh, D. Batra: *Grad-CAM: visual explanations from deep networks
via gradient-based localization*, ICCV 2017, arXiv 1610.02391.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.layers.flow import check_options, explained
from sfumato.model.effects import Model
from sfumato.settings import later


@dataclass(frozen=True)
class GradCAM:
    r"""$S = \max(0, \sum_k \alpha_k A_k)$ with $\alpha_k$ the mean of $\partial \Phi / \partial A_k(u)$ over places $u$
    (Selvaraju et al. 2017, equations 1 and 2).

    - `layer`: the dotted name of the module whose output is $A$, usually the last that has places; it must be given. For
      models from `sfumato.models.load`, `classifier.layers["GradCAM"]` names it. A transformer's tokens `(N, tokens, C)` are
      laid out as in the picture: their number, less the leading ones (class, registers), must be a square for a square
      picture. Where the class token alone is read, name a layer before the last attention: after it, the others do not
      count, and the map is 0.
    - `call`: which of the layer's calls, if the model calls it several times: from 0, or from -1, the last, backwards.
    - `layout`: which axis of that output is which, as "BHWC", where it cannot be found out; see `ExtremalPerturbation`.
    - `smooth`: width of the Gaussian that smooths the map, as a fraction of its shortest side.
    - `resize`: whether the map is interpolated linearly to the inputs' size, or stays as large as the layer.
    - `memory`: GiB that the model may keep for its backward pass; more inputs than fit go through it in turns.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.
    """

    needs_layer: ClassVar[bool] = True

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
        if not self.layer:
            raise ValueError(
                'GradCAM needs layer, the dotted name of the module whose maps it weighs, e.g. GradCAM(layer="layer4"), '
                "usually the last that has places. Models from sfumato.models.load name it: "
                'classifier.layers["GradCAM"]. All names: [name for name, _ in model.named_modules()]'
            )

        def read(activation: Tensor, gradient: Tensor) -> Tensor:
            weights = gradient.flatten(2).mean(2).view(*gradient.shape[:2], *[1] * (gradient.ndim - 2))
            return (weights * activation).sum(1, keepdim=True).clamp(min=0)

        return explained(self, model, inputs, targets, read)
