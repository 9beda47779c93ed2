"""The picture of a figure, and where in it lies what the network saw: a result's masks and maps are laid over the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from sfumato.data.pictures import rgb
from sfumato.models import Classifier

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST = 1200
"""The longer side of a picture in a figure, in pixels. Larger pictures are reduced."""


LEAST = 8
"""The shorter side of what the network saw in a reduced picture, in pixels. Of longer pictures only the input is shown."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, and the window of it that the network saw: left, top, right and bottom, in its pixels."""

    picture: Float[Tensor, "3 H W"]
    window: tuple[float, float, float, float]
    is_input: bool = True
    """Whether the picture is the network's input itself."""

    @property
    def is_cropped(self) -> bool:
        """Whether there are parts of the picture that the network did not see."""
        height, width = self.picture.shape[1:]
        left, top, right, bottom = self.window
        return (
            min(left, top, width - right, height - bottom) < -0.5
            or max(left, top, width - right, height - bottom) > 0.5
        )

    @property
    def name(self) -> str:
        """What the picture is, as the heading of a figure."""
        if self.is_input:
            return "the input"
        return "the picture;\ndashed: what the network sees" if self.is_cropped else "the picture"

    def lay(self, values: Float[Tensor, "N C h w"], outside: float = 0.0) -> Float[Tensor, "N C H W"]:
        """Values of the input's places, interpolated linearly at the picture's pixels; `outside` beyond the window."""
        height, width = self.picture.shape[1:]
        if values.shape[2:] == (height, width) and not self.is_cropped:
            return values
        left, top, right, bottom = self.window
        x = (torch.arange(width, dtype=torch.float32, device="cpu") + 0.5 - left) / (right - left)
        y = (torch.arange(height, dtype=torch.float32, device="cpu") + 0.5 - top) / (bottom - top)
        grid = torch.stack(torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")[::-1], -1)
        laid = grid_sample(
            values, grid.expand(len(values), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
        )
        inside = ((y >= 0) & (y <= 1))[:, None] & ((x >= 0) & (x <= 1))
        return torch.where(inside, laid, outside)

    def frame(self, axes: "Axes") -> None:
        """Draw a dashed line around what the network saw, if that is not the whole picture."""
        if self.is_cropped and not self.is_input:
            left, top, right, bottom = self.window
            for colour, style in (("white", "solid"), ("black", (0, (4, 4)))):
                axes.plot(
                    [left - 0.5, right - 0.5, right - 0.5, left - 0.5, left - 0.5],
                    [top - 0.5, top - 0.5, bottom - 0.5, bottom - 0.5, top - 0.5],
                    color=colour, linestyle=style, linewidth=0.8, scalex=False, scaley=False,
                )  # fmt: skip


def scene(picture: Any, size: Sequence[int], classifier: Classifier | None = None) -> Scene:
    """The scene of a picture in any form that `rgb` takes, for a result whose inputs have this height and width.

    With `classifier`, a PIL picture is the one that the classifier prepared, and so is any other of another size than the
    input. All others are the input itself. Raises `ValueError` for these if they have another size.
    """
    height, width = size
    if classifier is not None and (isinstance(picture, Image.Image) or not _fits(picture, size)):
        values = rgb(picture)
        return _of_picture(values, size, classifier)
    try:
        return Scene(rgb(picture, size), (0.0, 0.0, float(width), float(height)))
    except ValueError as error:
        if "pixels; got" in str(error):
            raise ValueError(f"{error}. For a picture of another size give classifier=…, which prepared it") from error
        raise


def _fits(picture: Any, size: Sequence[int]) -> bool:
    try:
        rgb(picture, size)
    except ValueError:
        return False
    return True


def _of_picture(values: Float[Tensor, "3 H W"], size: Sequence[int], classifier: Classifier) -> Scene:
    """The scene of a picture before its preparation. Its window gets as many pixels as the input has, or more."""
    height, width = values.shape[1:]
    left, top, right, bottom = classifier.preparation.window((width, height))
    needed = max(size[0] / (bottom - top), size[1] / (right - left), 1.0)
    scale = min(needed, LARGEST / max(height, width))
    if scale < needed and scale * min(right - left, bottom - top) < LEAST:  # a strip, such as 1 × 100,000 pixels
        seen = classifier.restore(classifier.inputs_of(_eight_bits(values)))[0].float().cpu()
        return Scene(seen, (0.0, 0.0, float(size[1]), float(size[0])))
    if scale != 1:
        of_size = (max(1, round(width * scale)), max(1, round(height * scale)))
        values = rgb(_eight_bits(values).resize(of_size, Image.Resampling.LANCZOS))
        x, y = of_size[0] / width, of_size[1] / height
        left, top, right, bottom = left * x, top * y, right * x, bottom * y
    return Scene(values, (left, top, right, bottom), is_input=False)


def _eight_bits(values: Float[Tensor, "3 H W"]) -> Image.Image:
    return Image.fromarray((255 * values).round().byte().movedim(0, -1).contiguous().numpy())
