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

    def inputs_of(self, pictures: Any) -> Shaped[Tensor, "B C *S"]:
        """The network's inputs for pictures; a tensor as it is."""

    def targets_of(self, targets: Any, inputs: Shaped[Tensor, "B C *S"]) -> Any:
        """The targets with indices for names of classes; the top classes for `None`."""

    def shown(self, inputs: Float[Tensor, "B C *S"]) -> UInt8[Tensor, "B 3 H W"] | None:
        """What the network sees, as pictures."""

    def placed(self, method: M) -> M:
        """The method with the default layer of the network, if it needs a layer and has none."""


def opened(model: Any, inputs: Any, targets: Any = None) -> tuple[Model, Any, Any]:
    """The network, its inputs and the targets of a `PictureModel`; for another model the arguments as they are."""
    if not isinstance(model, PictureModel):
        return model, inputs, targets
    inputs = model.inputs_of(inputs)
    return model.net, inputs, model.targets_of(targets, inputs)


def shown_by(model: PictureModel, result: Attribution, inputs: Float[Tensor, "B C *S"]) -> Attribution:
    """The result with the pictures that the network saw, and the names of the classes that were explained."""
    return replace(result, pictures=model.shown(inputs), about=with_labels(result.about, model.labels, len(result)))
