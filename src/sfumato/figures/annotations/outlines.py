"""Polygons along the borders of a mask's pixels, which enclose exactly these pixels."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

Point = tuple[int, int]
"""x, y in pixels: the pixel of column c and row r covers [c, c + 1) × [r, r + 1)."""


def polygons(mask: Bool[np.ndarray, "height width"]) -> list[list[Point]]:
    """Polygons without holes that together enclose the pixels of a mask.

    A mask with holes is cut from left to right along the lower border of the first row of each hole, so that every hole is
    open to a cut. The polygons do not overlap, and no polygon touches itself.

    >>> polygons(np.array([[1, 1, 0], [1, 0, 0]], dtype=bool))
    [[(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]]
    """
    lines = outlines(mask)
    cuts = sorted({min(y for _, y in outline) + 1 for outline in lines if is_hole(outline)})
    if not cuts:
        return lines
    bands = zip([0, *cuts], [*cuts, len(mask)], strict=True)
    return [[(x, y + top) for x, y in outline] for top, bottom in bands for outline in outlines(mask[top:bottom])]


def outlines(mask: Bool[np.ndarray, "height width"]) -> list[list[Point]]:
    """The closed lines between the pixels inside and outside a mask. Each line is a list of corners.

    Pixels that touch only at a corner are not connected. A line around pixels of the mask runs clockwise, with y pointing
    down, and a line around a hole runs counterclockwise. No line touches itself.
    """
    # From the start of a border, and the direction in which it runs, to its end.
    horizontal = {(start, y, 1 if end > start else -1): end for y, start, end in _borders(mask)}
    # In the transposed mask, the lines run in the opposite direction.
    vertical = {(x, end, 1 if start > end else -1): start for x, start, end in _borders(mask.T)}
    visited: set[tuple[int, int, int]] = set()
    lines: list[list[Point]] = []
    for first in horizontal:
        path: list[Point] = []
        border = first
        while border not in visited:
            visited.add(border)
            x, y, direction = border
            path.append((x, y))
            x = horizontal[border]
            path.append((x, y))
            # Where two lines cross, the one to the right stays with the same pixel.
            down = direction if (x, y, direction) in vertical else -direction
            y = vertical[x, y, down]
            border = (x, y, -down if (x, y, -down) in horizontal else down)
        lines += _split_at_touches(path)
    return lines


def is_hole(outline: list[Point]) -> bool:
    """Whether the line runs around a hole of the mask: counterclockwise."""
    return sum(x * b - a * y for (x, y), (a, b) in zip(outline, outline[1:] + outline[:1], strict=True)) < 0


def _borders(mask: Bool[np.ndarray, "height width"]) -> Iterator[tuple[int, int, int]]:
    """The horizontal borders as y, x of the start, x of the end. They run right above pixels of the mask, and left below."""
    steps = np.diff(np.pad(mask.astype(np.int8), 1), axis=0)
    before, after = steps[:, :-1], steps[:, 1:]
    changes = before != after
    rows, starts = np.nonzero(changes & (after != 0))
    _, ends = np.nonzero(changes & (before != 0))
    columns = (array.tolist() for array in (rows, starts, ends, after[rows, starts]))
    for y, start, end, step in zip(*columns, strict=True):
        yield (y, start, end) if step > 0 else (y, end, start)


def _split_at_touches(path: list[Point]) -> list[list[Point]]:
    """Split a closed line into lines that do not touch themselves."""
    loops: list[list[Point]] = []
    open_line: list[Point] = []
    indices: dict[Point, int] = {}
    for point in path:
        if point in indices:
            loop = open_line[indices[point] :]
            del open_line[indices[point] :]
            for corner in loop:
                del indices[corner]
            loops.append(loop)
        indices[point] = len(open_line)
        open_line.append(point)
    return [open_line, *loops] if open_line else loops
