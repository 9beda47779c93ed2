"""Figures of channels, like those of Fong et al. 2019, figures 8 to 10. They need matplotlib, and do not change its state."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.data.pictures import rgb
from sfumato.figures.panels import (
    BOUND,
    CELL,
    GAP,
    HEAD,
    KEPT,
    LEFT,
    MARGIN,
    SMALL,
    add_axes,
    add_title,
    blank,
    channel_map,
    name_of_score,
    positive,
    show,
)
from sfumato.figures.scene import Scene, scene
from sfumato.models import Classifier
from sfumato.settings import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sfumato.behaviour.per_class import ClassChannels
    from sfumato.methods.sufficient import SmallestArea

PLOT, UNDER = 1.7, 1.2
"""The width of a curve, in cells, and the space between pictures and channels, in inches."""


def channels(
    result: Attribution,
    picture: Any,
    variant: int = -1,
    count: int = 8,
    found: "SmallestArea | None" = None,
    inversions: Mapping[str, Any] | None = None,
    title: str = "",
    classifier: Classifier | None = None,
) -> "Figure":
    r"""A figure of one query: the picture, the overlay of its channels $\sum_k m_k \Phi_k(x)$, their scores, and their maps.

    - `result`: of one query, from `ExtremalChannels`; `result[i]` takes a query out of a batch.
    - `picture`, `classifier`: RGB, and what prepared it, as for `plots.figure`.
    - `variant`: the mask whose overlay is drawn.
    - `count`: how many channels are drawn, those with the largest weights.
    - `found`: the result of `smallest`, whose curve is added.
    - `inversions`: pictures `(3, H, W)` by name, such as inversions of the full and of the masked activation.

    Raises `ValueError` if the result has several queries, or no masks of channels.
    """
    masks = result.channel_masks
    if len(masks) != 1:
        raise ValueError(f"the result is of {len(masks)} queries; give one, as result[0]")
    view = scene(picture, result.map.shape[2:] if classifier else rgb(picture).shape[1:], classifier)
    pictures = {view.name: view.picture, **(inversions or {})}
    indices, weights = (values[0].tolist() for values in result.channels(min(count, masks.shape[2]), variant))
    columns = len(pictures) + 1
    width = 0.1 + columns * (CELL + GAP) + MARGIN + PLOT * CELL
    small = min(CELL, (width - 0.1) / len(indices) - GAP)
    top = 0.75 if title else HEAD
    canvas = blank((width, top + CELL + UNDER + small + 0.1))
    place = partial(add_axes, canvas)
    add_title(canvas, title)
    panels = [place(0.1 + column * (CELL + GAP), top, CELL, CELL) for column in range(columns)]
    size = round(float(masks[0, variant].sum()))
    heat(panels[1], view, result.overlay(variant)).set_title(
        f"overlay of {size} of {masks.shape[2]} channels", fontsize=SMALL
    )
    for axes, (name, image) in zip([panels[0], *panels[2:]], pictures.items(), strict=True):
        show(axes, rgb(image)).set_title(name, fontsize=SMALL)
    scores(place(width - (PLOT * CELL), top, PLOT * CELL - 0.15, CELL), result, found)
    for column, (index, weight) in enumerate(zip(indices, weights, strict=True)):
        axes = place(0.1 + column * (small + GAP), top + CELL + UNDER, small, small)
        heat(axes, view, channel_map(result, index, masks.shape[2]))
        axes.set_title(f"channel {index}\nweight {weight:.2g}", fontsize=SMALL - 1)
    return canvas


def of_class(
    result: "ClassChannels",
    count: int = 5,
    examples: int = 5,
    inversions: Mapping[int, Any] | None = None,
    title: str = "",
) -> "Figure":
    """A figure of a class: the `count` channels with the largest weights, and the parts of pictures that excite them most.

    `inversions` are pictures `(3, H, W)` by channel, such as pictures that excite only this channel. Below is a histogram of
    how many channels each picture needs.
    """
    indices, weights = result.top(count)
    inversions = inversions or {}
    has_places = not result.peaks.places.isnan().all()  # without places, no parts of pictures can be cut out
    columns = examples + bool(inversions)
    small = 0.6 * CELL
    top, left = 0.65 if title else 0.3, 1.5
    width, height = left + columns * (small + GAP) + 0.15, top + len(indices) * (small + GAP) + 1.75
    canvas = blank((width, height))
    place = partial(add_axes, canvas)
    add_title(canvas, title)
    for row, (channel, weight) in enumerate(zip(indices.tolist(), weights.tolist(), strict=True)):
        y = top + row * (small + GAP)
        spread = float(result.spread[channel])
        label = f"channel {channel}\nweight {weight:.2f}\n± {spread:.2f}"
        canvas.text(0.1 / width, 1 - (y + small / 2) / height, label, va="center", fontsize=SMALL)
        for column, crop in enumerate(result.crops(channel, examples) if has_places else []):
            axes = place(left + column * (small + GAP), y, small, small)
            axes.imshow(crop.picture)
            axes.set_axis_off()
            axes.set_title(f"{crop.activation:.3g}", fontsize=SMALL - 2, pad=2)
        if channel in inversions:
            picture = rgb(inversions[channel])
            axes = show(place(left + examples * (small + GAP), y, small, small), picture)
            axes.set_title("alone", fontsize=SMALL - 2, pad=2)
    plot = place(left, top + len(indices) * (small + GAP) + 0.2, width - left - 0.2, 0.95)
    plot.hist(result.counts.tolist(), bins=min(20, len(result) + 1), color=KEPT)
    plot.set_xlabel(f"channels that each of {len(result)} pictures needs", fontsize=SMALL, labelpad=1)
    plot.set_ylabel("pictures", fontsize=SMALL)
    plot.tick_params(labelsize=SMALL - 1)
    plot.spines[["top", "right"]].set_visible(False)
    return canvas


def heat(axes: "Axes", view: Scene, values: Float[Tensor, "1 1 *L"]) -> "Axes":
    """Draw a map in warm colours over the pale picture of a scene. Negative values are not shown."""
    warm = view.lay(positive(values, values.new_empty(3, *values.shape[2:]))[None])[0, 0]
    grey = view.picture.mean(0, keepdim=True).expand(3, -1, -1)
    show(axes, 0.45 + 0.55 * grey)
    axes.imshow(warm.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=(0.85 * warm.sqrt()).numpy())
    return axes


def scores(axes: "Axes", result: Attribution, found: "SmallestArea | None" = None) -> None:
    """Plot the score against the number of channels, from one to all."""
    count = result.channel_masks.shape[2]
    sizes = (result.channel_masks[0].sum(1)).tolist()
    whole, blank_score = float(result.whole[0]), float(result.blank[0])  # type: ignore[index]  # methods with masks give these
    axes.axhline(whole, color=BOUND, linewidth=1, label=f"all {count}")
    axes.axhline(blank_score, color=BOUND, linewidth=1, linestyle=":", label="none")
    if found is not None:
        counts = (found.curve_areas.cpu() * count).round().tolist()
        axes.plot(counts, found.curve_scores[0].tolist(), color=KEPT, alpha=0.5, marker=".", label="counts tried")
        wanted = float(found.wanted[0])
        label = f"{percent(wanted / whole if whole else None)} of all"
        axes.axhline(wanted, color=KEPT, linewidth=1, linestyle=(0, (4, 3)), label=label)
    axes.plot(sizes, result.scores[0].tolist(), color=KEPT, marker="o", markersize=5, label="these channels alone")  # type: ignore[index]
    axes.plot(sizes, result.complements[0].tolist(), color=LEFT, marker="s", markersize=4, label="all but these")  # type: ignore[index]
    axes.set_xscale("log")
    axes.set_xlim(0.8, 1.2 * count)
    axes.set_xlabel("channels", fontsize=SMALL, labelpad=1)
    axes.set_ylabel(name_of_score(result), fontsize=SMALL, labelpad=1)
    axes.tick_params(labelsize=SMALL - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        fontsize=SMALL - 2, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16), columnspacing=1
    )
