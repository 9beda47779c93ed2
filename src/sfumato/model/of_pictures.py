"""Models that know how to prepare pictures, and what their classes are called."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from sfumato.about import with_labels
from sfumato.attribution import Attribution
from sfumato.model.effects import Model

M = TypeVar("M")


@runtime_checkable
class PictureModel(Protocol):
    """A network with the preparation of its pictures and the names of its classes, as `sfumato.models.Classifier` is.

    Methods take one in place of a model. Then inputs may be pictures, and targets names of classes.
    """

    @property
    def net(self) -> Model:
        """The network itself."""

    @property
    def labels(self) -> Sequence[str]:
        """The names of its classes."""

    def opened(self, pictures: Any) -> Any:
        """The pictures, read from their files where they are paths; a tensor as it is."""

    def inputs_of(self, pictures: Any) -> Shaped[Tensor, "B C *S"]:
        """The network's inputs for pictures; a tensor as it is."""

    def targets_of(self, targets: Any, inputs: Shaped[Tensor, "B C *S"]) -> Any:
        """The targets with indices for names of classes; the top classes for `None`."""

    def shown(self, inputs: Float[Tensor, "B C *S"]) -> UInt8[Tensor, "B 3 H W"] | None:
        """What the network sees, as pictures."""

    def shapes_of(self, pictures: Any) -> Sequence[float] | None:
        """The width, by the height, of what the network sees of each picture; `None` for tensors."""

    def placed(self, method: M) -> M:
        """The method with the default layer of the network, if it needs a layer and has none."""


Shapes = Sequence[float] | None
"""What `PictureModel.shapes_of` returns."""


def opened(model: PictureModel, inputs: Any, targets: Any = None) -> tuple[Model, Any, Any, Shapes]:
    """The network, its inputs, the targets, and the shapes of the pictures."""
    pictures = model.opened(inputs)
    inputs = model.inputs_of(pictures)
    return model.net, inputs, model.targets_of(targets, inputs), model.shapes_of(pictures)


def shown_by(model: PictureModel, result: Attribution, inputs: Float[Tensor, "B C *S"], shapes: Shapes) -> Attribution:
    """The result with the pictures that the network saw, and the names of the classes that were explained.

    Where the network sees pictures squashed, `about["shapes"]` has the shape of each, its width by its height.
    """
    about = with_labels(result.about, model.labels, len(result))
    if shapes is not None and any(abs(shape * inputs.shape[-2] / inputs.shape[-1] - 1) > SQUASHED for shape in shapes):
        about = {**about, "shapes": list(shapes), "per_query": [*about.get("per_query", ()), "shapes"]}
    return replace(result, pictures=model.shown(inputs), about=about)


SQUASHED = 0.01
"""By how much a shape may differ by rounding to whole pixels."""
