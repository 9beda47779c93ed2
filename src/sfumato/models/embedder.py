"""A network that gives embeddings of pictures, with the preparation of its inputs."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sfumato.model.effects import device_of
from sfumato.models.classifier import Classifier
from sfumato.scores import Similarity


@dataclass(frozen=True, eq=False)
class Embedder(Classifier):
    """A network in eval mode whose outputs for inputs (B, C, H, W) are embeddings (B, D), and which has no classes.

    `method(embedder, picture, embedder.similarity(other))` explains how similar it finds a picture to another one.
    """

    def __repr__(self) -> str:
        """One line, without the layers of the network."""
        return f"Embedder({self.name!r}, {type(self.net).__name__})"

    def similarity(self, picture: Image.Image) -> Similarity:
        """The score of how similar a picture is to this one."""
        inputs = self.prepare(picture)[None].to(device_of(self.net))
        return Similarity.to(self.net, inputs)

    def targets_of(self, targets: Any, inputs: Float[Tensor, "B C H W"]) -> Any:  # noqa: ARG002
        """Scores as they are; classes are refused."""
        if targets is None or isinstance(targets, int | str | list | tuple | Tensor):
            raise self._without_classes()
        return targets

    def logits(self, inputs: Float[Tensor, "B C H W"]) -> Float[Tensor, "B classes"]:  # noqa: ARG002
        """An embedder has none: raises `ValueError`."""
        raise self._without_classes()

    def _without_classes(self) -> ValueError:
        return ValueError(
            f"{self.name} gives embeddings and has no classes; explain how similar it finds two pictures: "
            "sfumato explain --score similarity --to PICTURE, or targets=embedder.similarity(picture)"
        )
