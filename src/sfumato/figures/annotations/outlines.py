"""Polygons that run along the borders of a mask's pixels, so that they enclose exactly these."""

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

Point = tuple[int, int]
"""x, y in pixels: the pixel of column c and row r covers [c, c + 1) × [r, r + 1)."""


def polygons(mask: Array) -> list[list[Point]]:
    """Polygons that together enclose the pixels of a mask `(height, width)`, bool, each without holes.

    A mask with holes is cut through from left to right along the lower border of each hole's first row of pixels, so that
    every hole opens to a cut. The polygons do not overlap, and none meets itself.

    >>> polygons(np.array([[1, 1, 0], [1, 0, 0]], dtype=bool))
    [[(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]]
    """
    found = outlines(mask)
    cuts = sorted({min(y for _, y in outline) + 1 for outline in found if is_hole(outline)})
    if not cuts:
        return found
    bands = zip([0, *cuts], [*cuts, len(mask)], strict=True)
    return [[(x, y + top) for x, y in outline] for top, bottom in bands for outline in outlines(mask[top:bottom])]


def outlines(mask: Array) -> list[list[Point]]:
    """The closed lines between the pixels of a mask `(height, width)`, bool, and the others, each by its corners.

    Pixels that touch only at a corner are apart. Around pixels of the mask a line runs clockwise, as seen with y downward,
    and around a hole it runs counterclockwise. No line meets itself.
    """
    across = {(start, y, 1 if end > start else -1): end for y, start, end in _borders(mask)}
    # Of the mask turned over its diagonal, the lines run the other way round.
    along = {(x, end, 1 if start > end else -1): start for x, start, end in _borders(mask.T)}
    seen: set[tuple[int, int, int]] = set()
    found: list[list[Point]] = []
    for first in across:
        path: list[Point] = []
        at = first
        while at not in seen:
            seen.add(at)
            x, y, heading = at
            path.append((x, y))
            x = across[at]
            path.append((x, y))
            # Where two lines cross, the one to the right stays with the same pixel.
            down = heading if (x, y, heading) in along else -heading
            y = along[x, y, down]
            at = (x, y, -down if (x, y, -down) in across else down)
        found += _parted(path)
    return found


def is_hole(outline: list[Point]) -> bool:
    """Whether what the line runs around is not of the mask."""
    return sum(x * b - a * y for (x, y), (a, b) in zip(outline, outline[1:] + outline[:1], strict=True)) < 0


def _borders(mask: Array) -> Iterator[tuple[int, int, int]]:
    """The level borders as y, x of the start, x of the end: to the right above pixels of the mask, to the left below."""
    steps = np.diff(np.pad(mask.astype(np.int8), 1), axis=0)
    before, after = steps[:, :-1], steps[:, 1:]
    changes = before != after
    rows, starts = np.nonzero(changes & (after != 0))
    _, ends = np.nonzero(changes & (before != 0))
    for y, start, end, step in zip(*(each.tolist() for each in (rows, starts, ends, after[rows, starts])), strict=True):
        yield (y, start, end) if step > 0 else (y, end, start)


def _parted(path: list[Point]) -> list[list[Point]]:
    """A closed line, taken apart where it meets itself."""
    parts: list[list[Point]] = []
    rest: list[Point] = []
    places: dict[Point, int] = {}
    for point in path:
        if point in places:
            part = rest[places[point] :]
            del rest[places[point] :]
            for each in part:
                del places[each]
            parts.append(part)
        places[point] = len(rest)
        rest.append(point)
    return [rest, *parts] if rest else parts
