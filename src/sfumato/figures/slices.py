"""Figures of inputs with three axes of space, clips (T, H, W) and volumes (D, H, W): some frames or slices side by side."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sfumato.figures.panels import CELL, GAP, SMALL, add_axes, add_title, blank, overlay, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 8
"""How many frames or slices are shown, at most."""

LINE = 0.17
"""The height of a line of a row's heading, in inches."""

Draw = Callable[["Axes", int], object]
"""Draws the frame or slice of this index."""


def chosen(length: int, count: int = SHOWN) -> list[int]:
    """Evenly spread indices of an axis: in the middle of each of `count` equal parts.

    >>> chosen(12, 4), chosen(3, 8)
    ([1, 4, 7, 10], [0, 1, 2])
    """
    count = min(count, length)
    return [int((part + 0.5) * length / count) if count < length else part for part in range(count)]


def frames(volume: Shaped[Tensor, "..."] | Any, shape: Sequence[int]) -> Float[Tensor, "D 3 H W"]:
    """The frames of a clip, or the slices of a volume, as RGB in [0, 1].

    It is `(D, H, W)`, `(C, D, H, W)` or `(D, H, W, C)` with one or three channels, of 8 bits or real numbers. If there are
    values outside of [0, 1], such as those of a normalised input or a scan, the least becomes black and the largest white.
    Raises `ValueError` where its axes of space are not `shape`.
    """
    values = volume if isinstance(volume, Tensor) else torch.from_numpy(np.asarray(volume))
    is_bytes = values.dtype == torch.uint8
    values = values.detach().float().cpu()
    values = values[0] if values.ndim == 5 and len(values) == 1 else values
    space = tuple(shape)
    if values.shape == space:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[1:] == space and len(values) in (1, 3):
        values = values.transpose(0, 1)
    elif values.ndim == 4 and values.shape[:3] == space and values.shape[3] in (1, 3):
        values = values.movedim(3, 1)
    else:
        raise ValueError(
            f"the picture of a result with three axes of space is that input, of shape {space} or with one or three channels "
            f"before or after them; got shape {tuple(values.shape)}"
        )
    if is_bytes:
        values = values / 255
    elif bool((values < 0).any() | (values > 1).any()):
        low, high = values.min(), values.max()
        values = (values - low) / (high - low).clamp(min=1e-12)
    return values.expand(-1, 3, -1, -1)


def masks_of_slices(
    masks: Float[Tensor, "V 1 D H W"], volume: Float[Tensor, "D 3 H W"], headings: Sequence[str], title: str = ""
) -> "Figure":
    """A row for each mask, with the outline of the mask in each frame, below a row of the frames themselves."""

    def drawn(mask: Float[Tensor, "D H W"]) -> Draw:
        return lambda axes, index: overlay(axes, volume[index], mask[index])

    rows: list[tuple[str, Draw]] = [("the input", lambda axes, index: show(axes, volume[index]))]
    rows += [(" · ".join(heading.split("\n")), drawn(mask[0])) for mask, heading in zip(masks, headings, strict=True)]
    return rows_of_slices(rows, volume, title)


def rows_of_slices(rows: Sequence[tuple[str, Draw]], volume: Float[Tensor, "D 3 H W"], title: str = "") -> "Figure":
    """A row of evenly chosen frames for each heading and function that draws one. The index of each is above the first row."""
    places = chosen(len(volume))
    height, width = volume.shape[2:]
    scale = 0.75 * CELL / max(height, width)
    cell = scale * width, scale * height
    top = (0.35 if title else 0.05) + LINE
    heads = [LINE * (1 + heading.count("\n")) + 0.1 for heading, _ in rows]
    size = (max(0.2 + len(places) * (cell[0] + GAP), 6.0), top + LINE + sum(heads) + len(rows) * (cell[1] + GAP))
    canvas = blank(size)
    add_title(canvas, title)
    y = top
    for row, ((heading, draw), head) in enumerate(zip(rows, heads, strict=True)):
        canvas.text(0.1 / size[0], 1 - y / size[1], heading, fontsize=SMALL, va="top")
        y += head + (LINE if row == 0 else 0)
        for column, index in enumerate(places):
            axes = add_axes(canvas, 0.1 + column * (cell[0] + GAP), y, *cell)
            draw(axes, index)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(f"index {index}", fontsize=SMALL - 1, pad=2)
        y += cell[1] + GAP
    return canvas
