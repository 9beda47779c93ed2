"""Where a class is in a picture, as pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.data.example import Box, Example, Run, Thing

SMALL = 0.25
"""A class that covers less of the picture is small, in the sense of the difficult lists."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Where the instances of one class are in a picture of `height` × `width` pixels, and what else is there."""

    label: int
    boxes: Tensor
    """`(n, 4)`: left, top, right, bottom in pixels, right and bottom just outside."""
    places: Tensor
    """`(height, width)`, bool: the union of the instances' segmentations, or of their boxes where they have none."""
    others: int
    """How many other classes are in the picture."""
    listed: bool | None = None
    """Whether a published list calls the case difficult; `None` where none was read."""
    segmented: bool = False
    """Whether every instance has a segmentation, so that no box stands for one in `places`."""

    @property
    def share(self) -> float:
        """The part of the picture that the class covers."""
        return int(self.places.count_nonzero()) / self.places.numel()

    @property
    def difficult(self) -> bool:
        """Whether the class covers less than a quarter of the picture, and others are present too, as in the lists of
        excitation backprop (Zhang et al., ECCV 2016); what a published list says goes first."""
        return self.listed if self.listed is not None else self.share < SMALL and self.others > 0


def truth(example: Example, label: int, size: tuple[int, int], listed: bool | None = None) -> Truth:
    """Where the things of that class are in the example's picture, of `size` (width, height).

    What the example's own list of difficult classes says holds unless `listed` is given.

    Raises `ValueError` where nothing of the class is annotated with a place.
    """
    things = [thing for thing in example.things if thing.label == label]
    located = [thing for thing in things if thing.box or thing.polygons or thing.run or thing.mask]
    if not located:
        raise ValueError(
            f"nothing says where class {label} is in {example.name!r}; take a protocol that needs no places"
        )
    if listed is None and example.listed is not None:
        listed = label in example.listed
    masks = [pixels(thing, size) for thing in located]
    boxes = [thing.box or _around(mask) for thing, mask in zip(located, masks, strict=True)]
    return Truth(
        label=label,
        boxes=torch.tensor(boxes, dtype=torch.float32, device="cpu"),
        places=reduce(torch.logical_or, masks),
        others=len({thing.label for thing in example.things} - {label}),
        listed=listed,
        segmented=all(thing.polygons or thing.run or thing.mask for thing in located),
    )


def pixels(thing: Thing, size: tuple[int, int]) -> Tensor:
    """The pixels of a thing in a picture of `size` (width, height): a mask `(height, width)`, bool."""
    if thing.run is not None:
        if thing.run.size != size:
            raise ValueError(f"a mask of {thing.run.size} pixels does not fit the picture of {size}")
        return decoded(thing.run)
    if thing.polygons:
        return torch.from_numpy(np.logical_or.reduce([_enclosed(polygon, size) for polygon in thing.polygons]))
    if thing.mask is not None:
        return _not_black(thing.mask, size)
    assert thing.box is not None  # noqa: S101  # the caller has looked
    return within(thing.box, size)


def within(box: Box, size: tuple[int, int]) -> Tensor:
    """The pixels whose centres lie in a box: `(height, width)`, bool.

    >>> within((0, 0, 2, 1), (3, 2)).int().tolist()
    [[1, 1, 0], [0, 0, 0]]
    """
    left, top, right, bottom = box
    width, height = size
    rows = slice(max(ceil(top - 0.5), 0), max(ceil(bottom - 0.5), 0))
    columns = slice(max(ceil(left - 0.5), 0), max(ceil(right - 0.5), 0))
    found = torch.zeros(height, width, dtype=torch.bool, device="cpu")
    found[rows, columns] = True
    return found


def inside(polygon: Sequence[float], size: tuple[int, int]) -> Tensor:
    """The pixels whose centres a polygon (x, y, x, y, …) encloses: `(height, width)`, bool.

    A polygon too thin for that gets the pixels that its corners lie in. (Pillow's would be a pixel too large: it draws the
    outline, too, through the centres of pixels whose corners are meant.)

    >>> inside((0, 0, 2, 0, 2, 1, 0, 1), (3, 2)).int().tolist()
    [[1, 1, 0], [0, 0, 0]]
    """
    width, height = size
    x, y = torch.tensor(polygon, dtype=torch.float64, device="cpu").view(-1, 2).T
    x2, y2 = x.roll(-1), y.roll(-1)
    centres = torch.arange(height, dtype=torch.float64, device="cpu")[:, None] + 0.5
    rows, sides = ((y <= centres) != (y2 <= centres)).nonzero().unbind(1)
    at = x[sides] + (centres[rows, 0] - y[sides]) * (x2[sides] - x[sides]) / (y2[sides] - y[sides])
    # Each side crossed switches between outside and inside, from the first centre at or beyond it.
    switches = torch.zeros(height, width + 1, dtype=torch.long, device="cpu")
    ones = torch.ones(len(rows), dtype=torch.long, device="cpu")
    switches.index_put_((rows, (at - 0.5).ceil().clamp(0, width).long()), ones, True)
    mask = switches.cumsum(1)[:, :width] % 2 == 1
    if not mask.any():
        mask[y.floor().clamp(0, height - 1).long(), x.floor().clamp(0, width - 1).long()] = True
    return mask


def decoded(run: Run) -> Tensor:
    """The mask `(height, width)` whose runs these are."""
    width, height = run.size
    total = sum(run.lengths)  # looked at before anything so large is made
    if total != width * height or min(run.lengths, default=0) < 0:
        raise ValueError(f"runs of {total} pixels do not make a mask of {width} × {height}")
    lengths = torch.tensor(run.lengths, dtype=torch.long, device="cpu")
    values = torch.arange(len(lengths), dtype=torch.long, device="cpu").remainder(2).bool().repeat_interleave(lengths)
    return values.view(width, height).T.contiguous()


def _enclosed(polygon: Sequence[float], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """The pixels whose centres lie within a polygon x, y, x, y, …: `(height, width)`, bool.

    Going along a row of pixels, each edge that crosses the line of their centres turns inside to outside and back. (Pillow
    rounds corners to whole pixels: on COCO's outlines of persons that makes them 3 % larger.)
    """
    width, height = size
    corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    (x, y), (x_next, y_next) = corners.T, np.roll(corners, -1, axis=0).T
    first = np.clip(np.ceil(np.minimum(y, y_next) - 0.5), 0, height).astype(int)
    crossed = np.clip(np.ceil(np.maximum(y, y_next) - 0.5), 0, height).astype(int) - first
    edge = np.repeat(np.arange(len(corners)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    along = (row + 0.5 - y[edge]) / (y_next - y)[edge]  # no division by 0: a level edge crosses no row
    column = np.clip(np.ceil(x[edge] + along * (x_next - x)[edge] - 0.5), 0, width).astype(int)
    turns = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return turns[:, :width].cumsum(1) % 2 == 1


def _not_black(path: Path, size: tuple[int, int]) -> Tensor:
    """The pixels of a picture file that are not 0 in all colours."""
    try:
        with Image.open(path) as picture:
            values = np.array(picture.convert("RGB") if len(picture.getbands()) > 1 or picture.mode == "P" else picture)
    except Exception as error:  # on a damaged file, a decoder raises whatever it trips over
        raise ValueError(f"cannot read mask {str(path)!r}: {error}; expected an undamaged picture") from error
    width, height = size
    if values.shape[:2] != (height, width):
        raise ValueError(
            f"mask {str(path)!r} is {values.shape[1]} × {values.shape[0]} pixels large, the picture {size}"
        )
    return torch.from_numpy((values != 0).reshape(height, width, -1).any(2))


def _around(mask: Tensor) -> Box:
    """The smallest box around a mask's pixels; an empty one for none."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1)
