"""Drawn pictures of creatures, whose evidence is known: which parts speak for the class, and which things do not."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from sfumato.data.example import Example, Thing
from sfumato.data.listing import Listing, set_paths_
from sfumato.data.scenes import PART, Drawing, Scenes
from sfumato.files import written
from sfumato.settings import check_whole


@dataclass(frozen=True)
class Planted(Listing):
    """`pictures` drawn scenes from the index `first` on, as files of the folder `path` and as tensors.

    The name of an example is the index of its scene in `scenes`. Its picture and the mask of its creature are drawn and written
    when the example is read for the first time. Take a folder for each `scenes`: files that are there are not drawn again.
    """

    path: str
    scenes: Scenes = Scenes()
    pictures: int = 200
    first: int = 0

    def __post_init__(self) -> None:
        set_paths_(self, "path")
        check_whole("pictures", self.pictures)
        check_whole("first", self.first, 0)
        if not isinstance(self.scenes, Scenes):
            raise ValueError(f"scenes must be a configuration such as Scenes(cue=0.9); got {self.scenes!r}")

    @property
    def classes(self) -> tuple[str, ...]:
        """ "creature 0", "creature 1", …"""
        return tuple(f"creature {label}" for label in range(self.scenes.creatures))

    def __len__(self) -> int:
        return self.pictures

    def example(self, index: int) -> Example:
        name = str(self.first + index)
        drawing = self.drawing(index)
        picture, mask = (Path(self.path, folder, f"{name}.png") for folder in ("pictures", "masks"))
        if not picture.exists():
            _write(picture, drawing.picture().permute(1, 2, 0))
        if not mask.exists():
            _write(mask, creature(drawing).byte() * 255)
        side = self.scenes.side
        return Example(name, picture, (Thing(drawing.scene.label, mask=mask),), (side, side))

    def drawing(self, index: int) -> Drawing:
        """The scene of an example, whose elements can be removed."""
        return self.scenes.drawing(self.first + index)

    def tensors(self) -> tuple[Float[Tensor, "n 3 side side"], Int[Tensor, " n"]]:
        """All pictures, RGB in [0, 1], and their labels, without files."""
        drawings = [self.drawing(index) for index in range(self.pictures)]
        pictures = torch.stack([drawing.picture() for drawing in drawings]).float() / 255
        return pictures, torch.tensor([drawing.scene.label for drawing in drawings], dtype=torch.long, device="cpu")


def creature(drawing: Drawing) -> Tensor:
    """The pixels that show a part of the creature, `(side, side)`, bool."""
    visible = drawing.visible()
    return torch.stack([visible[element.name] for element in drawing.scene.elements if element.kind == PART]).any(0)


def _write(path: Path, pixels: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as partial:
        Image.fromarray(pixels.numpy()).save(partial, "png")
