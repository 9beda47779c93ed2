"""Where a class is in a picture, as pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.data.example import Box, Example, Run, Thing

Array = np.ndarray[Any, Any]

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

    Raises `ValueError` where nothing of the class is annotated with a place, or a place cannot be: it lies outside the
    picture, or its mask cannot be read or does not fit.
    """
    things = [thing for thing in example.things if thing.label == label]
    located = [thing for thing in things if thing.box or thing.polygons or thing.run or thing.mask]
    if not located:
        raise ValueError(
            f"nothing says where class {label} is in {example.name!r}; take a protocol that needs no places"
        )
    if listed is None and example.listed is not None:
        listed = label in example.listed
    try:
        masks = [pixels(thing, size) for thing in located]
    except ValueError as error:
        raise ValueError(f"{example.name!r}: {error}") from error
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
    """The pixels of a thing in a picture of `size` (width, height): a mask `(height, width)`, bool, with at least one pixel.

    Raises `ValueError` where the thing lies outside the picture, or its mask is empty or does not fit.
    """
    if thing.run is not None:
        if thing.run.size != size:
            raise ValueError(f"a mask of {thing.run.size} pixels does not fit the picture of {size}")
        mask, said = decoded(thing.run), "the mask in runs"
    elif thing.polygons:
        mask = torch.stack([inside(polygon, size) for polygon in thing.polygons]).any(0)
        said = f"the outline {str(thing.polygons[0])[:60]}…"
    elif thing.mask is not None:
        mask, said = _not_black(thing.mask, size), f"the mask {str(thing.mask)!r}"
    else:
        assert thing.box is not None  # noqa: S101  # the caller has looked
        mask, said = within(thing.box, size), f"the box {thing.box}"
    if not mask.any():
        raise ValueError(
            f"{said} of class {thing.label} has no pixel in the picture of {size[0]} × {size[1]} pixels; correct the "
            "annotation, or its picture's size"
        )
    return mask


def within(box: Box, size: tuple[int, int]) -> Tensor:
    """The pixels whose centres lie in a box: `(height, width)`, bool.

    A box that holds no centre, as it is thinner than a pixel, gets the line of pixels along its middle. Only a box outside the
    picture has none.

    >>> within((0, 0, 2, 1), (3, 2)).int().tolist()
    [[1, 1, 0], [0, 0, 0]]
    >>> within((1.6, 0, 1.9, 2), (3, 2)).int().tolist()
    [[0, 1, 0], [0, 1, 0]]
    """
    left, top, right, bottom = box
    width, height = size
    mask = torch.zeros(height, width, dtype=torch.bool, device="cpu")
    mask[_span(top, bottom, height), _span(left, right, width)] = True
    return mask


def _span(first: float, last: float, length: int) -> slice:
    """The pixels of a line of so many that an interval covers."""
    centres = slice(min(max(ceil(first - 0.5), 0), length), min(max(ceil(last - 0.5), 0), length))
    if centres.start < centres.stop or not (first <= last and last >= 0 and first <= length):
        return centres
    middle = min(floor((max(first, 0) + min(last, length)) / 2), length - 1)
    return slice(middle, middle + 1)


def inside(polygon: Sequence[float], size: tuple[int, int]) -> Tensor:
    """The pixels whose centres a polygon (x, y, x, y, …) encloses: `(height, width)`, bool.

    A polygon that meets itself encloses by the even-odd rule, so that an inner ring is a hole. One that encloses no centre, as
    it is thinner than a pixel, gets the line of pixels along its middle; only a polygon outside the picture has none.

    Going along a row of pixels, each edge that crosses the line of their centres turns inside to outside and back. (Pillow
    rounds corners to whole pixels: on COCO's outlines of persons that makes them 3 % larger.)

    Raises `ValueError` for corners that are no pairs of finite numbers.

    >>> inside((0, 0, 2, 0, 2, 1, 0, 1), (3, 2)).int().tolist()
    [[1, 1, 0], [0, 0, 0]]
    >>> inside((1.6, 0, 1.9, 0, 1.9, 2, 1.6, 2), (3, 2)).int().tolist()
    [[0, 1, 0], [0, 1, 0]]
    """
    width, height = size
    numbers = np.asarray(polygon, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ValueError(f"a polygon is x, y, x, y, … of its corners in pixels, finite numbers; got {polygon!r:.80}")
    corners = numbers.reshape(-1, 2)
    edges = np.concatenate([corners, np.roll(corners, -1, axis=0)], 1)
    mask = np.zeros((height, width), bool)
    row, at = _crossings(edges, height)
    if len(row):
        column = np.clip(np.ceil(at - 0.5), 0, width).astype(int)
        top, left, lines, places = row.min(), column.min(), np.ptp(row) + 1, np.ptp(column) + 1
        turns = np.bincount((row - top) * places + column - left, minlength=lines * places).reshape(lines, places)
        odd = turns[:, :-1].cumsum(1, dtype=np.uint8) % 2 == 1  # overflows by an even number
        mask[top : top + lines, left : left + places - 1] = odd
    if not mask.any():
        mask = _middle(edges, size)
    return torch.from_numpy(mask)


def _crossings(edges: Array, length: int) -> tuple[Array, Array]:
    """Where edges `(n, 4)`, each from x, y to x, y, cross the centre lines of so many rows: the row, and x there."""
    x, y, x_next, y_next = edges.T
    first = np.clip(np.ceil(np.minimum(y, y_next) - 0.5), 0, length).astype(int)
    crossed = np.clip(np.ceil(np.maximum(y, y_next) - 0.5), 0, length).astype(int) - first
    edge = np.repeat(np.arange(len(edges)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    along = (row + 0.5 - y[edge]) / (y_next - y)[edge]  # no division by 0: a level edge crosses no row
    return row, x[edge] + along * (x_next - x)[edge]


def _middle(edges: Array, size: tuple[int, int]) -> Array:
    """The line of pixels along a polygon that encloses no centre: `(height, width)`, bool.

    On the centre line of each row, and of each column, that it crosses, the pixel in the middle between its sides. A polygon so
    small that it crosses none gets the pixels that its outline passes through.
    """
    width, height = size
    mask = np.zeros((height, width), bool)
    for part, lines, length in ((mask, edges, width), (mask.T, edges[:, [1, 0, 3, 2]], height)):
        row, at = _crossings(lines, len(part))
        order = np.lexsort((at, row))
        row, start, end = row[order][::2], at[order][::2], at[order][1::2]  # each row is crossed in and out
        seen = (end >= 0) & (start <= length)
        middle = (np.maximum(start, 0) + np.minimum(end, length))[seen] / 2
        part[row[seen], np.minimum(middle.astype(int), length - 1)] = True
    return mask if mask.any() else _outlined(edges, size)


def _outlined(edges: Array, size: tuple[int, int]) -> Array:
    """The pixels that edges `(n, 4)`, each from x, y to x, y, pass through: `(height, width)`, bool.

    What runs along the border of two pixels belongs to the right or lower one, as the pixel of column c covers [c, c + 1); but
    at the picture's right and lower border to the last.
    """
    width, height = size
    mask = np.zeros((height, width), bool)
    for x, y, x_next, y_next in edges.tolist():
        # Cut where the edge goes from one pixel to the next: the middle of a piece says which pixel it lies in.
        cuts = [np.array([0.0, 1.0])]
        for start, end, length in ((x, x_next, width), (y, y_next, height)):
            if start != end:
                low, high = max(min(start, end), 0.0), min(max(start, end), float(length))
                cuts.append((np.arange(ceil(low), floor(high) + 1) - start) / (end - start))
        places = np.unique(np.clip(np.concatenate(cuts), 0, 1))
        middles = (places[1:] + places[:-1]) / 2
        across, down = x + middles * (x_next - x), y + middles * (y_next - y)
        seen = (across >= 0) & (across <= width) & (down >= 0) & (down <= height)
        mask[
            np.minimum(down[seen].astype(int), height - 1),
            np.minimum(across[seen].astype(int), width - 1),
        ] = True
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
    """The smallest box around a mask's pixels, of which there is one at least."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return (float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1)
