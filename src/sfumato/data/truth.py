"""The truth of a case: which pixels of a picture show a class."""

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
"""A class that covers less than this fraction of the picture is small, as in the published lists of difficult cases."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Where the instances of one class are in a picture of `height` × `width` pixels."""

    label: int
    boxes: Tensor
    """`(n, 4)`: left, top, right, bottom in pixels; right and bottom are outside the box."""
    places: Tensor
    """`(height, width)`, bool: the union of the instances' segmentations, and of the boxes of instances without one."""
    others: int
    """The number of other classes in the picture."""
    listed: bool | None = None
    """Whether a published list marks the case as difficult; `None` without such a list."""
    segmented: bool = False
    """Whether every instance has a segmentation, so that `places` holds no boxes."""

    @property
    def share(self) -> float:
        """The fraction of the picture that the class covers."""
        return int(self.places.count_nonzero()) / self.places.numel()

    @property
    def difficult(self) -> bool:
        """Whether the case is difficult: as a published list says or, without a list, by its rule (Zhang et al., ECCV 2016).

        By the rule, the class covers less than a quarter of the picture, and the picture shows other classes too.
        """
        return self.listed if self.listed is not None else self.share < SMALL and self.others > 0


def truth(example: Example, label: int, size: tuple[int, int], listed: bool | None = None) -> Truth:
    """Where the things of the class `label` are in the example's picture, of `size` (width, height).

    `listed` replaces the example's own list of difficult classes.

    Raises `ValueError` if no thing of the class has a place, or if a place is not valid: it lies outside the picture, or its
    mask cannot be read or has another size.
    """
    things = [thing for thing in example.things if thing.label == label]
    located = [thing for thing in things if thing.box or thing.polygons or thing.run or thing.mask]
    if not located:
        raise ValueError(f"class {label} has no box or mask in {example.name!r}; use a protocol that needs none")
    if listed is None and example.listed is not None:
        listed = label in example.listed
    try:
        masks = [pixels(thing, size) for thing in located]
    except ValueError as error:
        raise ValueError(f"{example.name!r}: {error}") from error
    boxes = [thing.box or _bounding_box(mask) for thing, mask in zip(located, masks, strict=True)]
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

    Raises `ValueError` if the thing lies outside the picture, or if its mask is empty or has another size.
    """
    if thing.run is not None:
        if thing.run.size != size:
            raise ValueError(f"a mask of {thing.run.size} pixels does not fit the picture of {size}")
        mask, name = run_pixels(thing.run), "the mask in runs"
    elif thing.polygons:
        mask = torch.stack([polygon_pixels(polygon, size) for polygon in thing.polygons]).any(0)
        name = f"the outline {str(thing.polygons[0])[:60]}…"
    elif thing.mask is not None:
        mask, name = _not_black(thing.mask, size), f"the mask {str(thing.mask)!r}"
    else:
        assert thing.box is not None  # noqa: S101  # `truth` has checked it
        mask, name = box_pixels(thing.box, size), f"the box {thing.box}"
    if not mask.any():
        raise ValueError(
            f"{name} of class {thing.label} has no pixel in the picture of {size[0]} × {size[1]} pixels; correct the "
            "annotation, or the size of its picture"
        )
    return mask


def box_pixels(box: Box, size: tuple[int, int]) -> Tensor:
    """The pixels whose centres lie in a box: `(height, width)`, bool.

    A box thinner than a pixel may contain no centre. It gets the line of pixels along its middle. Only a box outside the
    picture has no pixels.

    >>> box_pixels((0, 0, 2, 1), (3, 2)).int().tolist()
    [[1, 1, 0], [0, 0, 0]]
    >>> box_pixels((1.6, 0, 1.9, 2), (3, 2)).int().tolist()
    [[0, 1, 0], [0, 1, 0]]
    """
    left, top, right, bottom = box
    width, height = size
    mask = torch.zeros(height, width, dtype=torch.bool, device="cpu")
    mask[_span(top, bottom, height), _span(left, right, width)] = True
    return mask


def _span(start: float, end: float, length: int) -> slice:
    """The pixels of a line of `length` pixels that an interval covers."""
    centres = slice(min(max(ceil(start - 0.5), 0), length), min(max(ceil(end - 0.5), 0), length))
    if centres.start < centres.stop or not (start <= end and end >= 0 and start <= length):
        return centres
    middle = min(floor((max(start, 0) + min(end, length)) / 2), length - 1)
    return slice(middle, middle + 1)


def polygon_pixels(polygon: Sequence[float], size: tuple[int, int]) -> Tensor:
    """The pixels whose centres a polygon (x, y, x, y, …) encloses: `(height, width)`, bool.

    A polygon that crosses itself follows the even-odd rule, so an inner ring is a hole. A polygon thinner than a pixel may
    enclose no centre. It gets the line of pixels along its middle. Only a polygon outside the picture has no pixels.

    Along the centre line of a row of pixels, each edge that crosses the line switches between inside and outside. (Pillow
    rounds corners to whole pixels, which makes COCO's outlines of persons 3 % larger.)

    Raises `ValueError` for corners that are no pairs of finite numbers.

    >>> polygon_pixels((0, 0, 2, 0, 2, 1, 0, 1), (3, 2)).int().tolist()
    [[1, 1, 0], [0, 0, 0]]
    >>> polygon_pixels((1.6, 0, 1.9, 0, 1.9, 2, 1.6, 2), (3, 2)).int().tolist()
    [[0, 1, 0], [0, 1, 0]]
    """
    width, height = size
    numbers = np.asarray(polygon, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ValueError(f"a polygon must be finite numbers x, y, x, y, … of corners in pixels; got {polygon!r:.80}")
    corners = numbers.reshape(-1, 2)
    edges = np.concatenate([corners, np.roll(corners, -1, axis=0)], 1)
    mask = np.zeros((height, width), bool)
    row, x = _crossings(edges, height)
    if len(row):
        column = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
        top, left, rows, columns = row.min(), column.min(), np.ptp(row) + 1, np.ptp(column) + 1
        crossings = np.bincount((row - top) * columns + column - left, minlength=rows * columns).reshape(rows, columns)
        odd = crossings[:, :-1].cumsum(1, dtype=np.uint8) % 2 == 1  # an overflow of uint8 does not change the parity
        mask[top : top + rows, left : left + columns - 1] = odd
    if not mask.any():
        mask = _middle(edges, size)
    return torch.from_numpy(mask)


def _crossings(edges: Array, length: int) -> tuple[Array, Array]:
    """Where edges `(n, 4)`, from x, y to x, y, cross the centre lines of `length` rows: the row and x of each crossing."""
    x, y, x_next, y_next = edges.T
    first_row = np.clip(np.ceil(np.minimum(y, y_next) - 0.5), 0, length).astype(int)
    count = np.clip(np.ceil(np.maximum(y, y_next) - 0.5), 0, length).astype(int) - first_row
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first_row[edge]
    along = (row + 0.5 - y[edge]) / (y_next - y)[edge]  # no division by 0: a horizontal edge crosses no row
    return row, x[edge] + along * (x_next - x)[edge]


def _middle(edges: Array, size: tuple[int, int]) -> Array:
    """The line of pixels along a polygon that encloses no centre: `(height, width)`, bool.

    On the centre line of each row and of each column that the polygon crosses, it is the pixel in the middle between the sides.
    A polygon that crosses no centre line gets the pixels that its outline passes through.
    """
    width, height = size
    mask = np.zeros((height, width), bool)
    for part, lines, length in ((mask, edges, width), (mask.T, edges[:, [1, 0, 3, 2]], height)):
        row, x = _crossings(lines, len(part))
        order = np.lexsort((x, row))
        row, start, end = row[order][::2], x[order][::2], x[order][1::2]  # crossings of a row come in pairs
        visible = (end >= 0) & (start <= length)
        middle = (np.maximum(start, 0) + np.minimum(end, length))[visible] / 2
        part[row[visible], np.minimum(middle.astype(int), length - 1)] = True
    return mask if mask.any() else _outline(edges, size)


def _outline(edges: Array, size: tuple[int, int]) -> Array:
    """The pixels that edges `(n, 4)`, from x, y to x, y, pass through: `(height, width)`, bool.

    An edge on the border of two pixels belongs to the right or lower pixel, as the pixel of column c covers [c, c + 1). At the
    right and bottom borders of the picture it belongs to the last pixel.
    """
    width, height = size
    mask = np.zeros((height, width), bool)
    for x, y, x_next, y_next in edges.tolist():
        # Cut the edge at the borders of pixels. The middle of a piece lies in the pixel of the piece.
        cuts = [np.array([0.0, 1.0])]
        for start, end, length in ((x, x_next, width), (y, y_next, height)):
            if start != end:
                low, high = max(min(start, end), 0.0), min(max(start, end), float(length))
                cuts.append((np.arange(ceil(low), floor(high) + 1) - start) / (end - start))
        places = np.unique(np.clip(np.concatenate(cuts), 0, 1))
        middles = (places[1:] + places[:-1]) / 2
        across, down = x + middles * (x_next - x), y + middles * (y_next - y)
        visible = (across >= 0) & (across <= width) & (down >= 0) & (down <= height)
        mask[
            np.minimum(down[visible].astype(int), height - 1),
            np.minimum(across[visible].astype(int), width - 1),
        ] = True
    return mask


def run_pixels(run: Run) -> Tensor:
    """The mask `(height, width)`, bool, of runs. Raises `ValueError` if they do not add up to its size."""
    width, height = run.size
    total = sum(run.lengths)  # checked before a tensor of this size is made
    if total != width * height or min(run.lengths, default=0) < 0:
        raise ValueError(f"runs of {total} pixels do not make a mask of {width} × {height}")
    lengths = torch.tensor(run.lengths, dtype=torch.long, device="cpu")
    values = torch.arange(len(lengths), dtype=torch.long, device="cpu").remainder(2).bool().repeat_interleave(lengths)
    return values.view(width, height).T.contiguous()


def _not_black(path: Path, size: tuple[int, int]) -> Tensor:
    """The pixels of a picture file that are not black: `(height, width)`, bool."""
    values, (width, height) = None, size
    try:
        with Image.open(path) as picture:
            found = picture.size
            if found == size:  # before it is decoded: a small file can have any number of pixels
                several = len(picture.getbands()) > 1 or picture.mode == "P"
                values = np.array(picture.convert("RGB") if several else picture)
    except Exception as error:  # for damaged files, decoders raise errors of any type
        raise ValueError(f"cannot read mask {str(path)!r}: {error}; expected an undamaged picture") from error
    if values is None:
        raise ValueError(f"mask {str(path)!r} must have the picture's size {size}; got {found[0]} × {found[1]} pixels")
    return torch.from_numpy((values != 0).reshape(height, width, -1).any(2))


def _bounding_box(mask: Tensor) -> Box:
    """The smallest box around the pixels of a mask, which has at least one."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return (float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1)
