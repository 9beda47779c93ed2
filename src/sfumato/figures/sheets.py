"""Figures of what channels show, as Fong et al. 2019, figures 8 to 10. They need matplotlib, and leave its state alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.data.pictures import rgb
from sfumato.figures.panels import BOUND, CELL, GAP, HEAD, KEPT, LEFT, MARGIN, SMALL, blank, positive, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sfumato.behaviour.per_class import ClassChannels
    from sfumato.methods.sufficient import SmallestArea

PLOT, UNDER = 1.7, 1.2
"""The width of a curve, in cells, and what is between pictures and channels, in inches."""


def channels(
    result: Attribution,
    picture: Any,
    variant: int = -1,
    count: int = 8,
    found: "SmallestArea | None" = None,
    inversions: Mapping[str, Any] | None = None,
    title: str = "",
) -> "Figure":
    r"""All about the channels of one query: the picture, their overlay $\sum_k m_k \Phi_k(x)$, what they keep, and each.

    `result` is of one query, as `ExtremalChannels` gives it (`result[i]` takes one of a batch); `picture` is RGB, as for
    `plots.figure`. The overlay is that of one `variant`; below are the maps of the `count` channels that weigh most. `found`
    adds the curve of `smallest`, and `inversions` pictures `(3, H, W)` by name, such as those of the full and the masked
    activation.
    """
    masks = result.channel_masks
    if len(masks) != 1:
        raise ValueError(f"the result is of {len(masks)} queries; give one, as result[0]")
    picture = rgb(picture)
    shown = {"the input": picture, **(inversions or {})}
    indices, weights = (values[0].tolist() for values in result.channels(min(count, masks.shape[2]), variant))
    above = len(shown) + 1
    wide = 0.1 + above * (CELL + GAP) + MARGIN + PLOT * CELL
    small = min(CELL, (wide - 0.1) / len(indices) - GAP)
    top = 0.75 if title else HEAD
    size = (wide, top + CELL + UNDER + small + 0.1)
    canvas = blank(size)
    canvas.suptitle(title, x=0.1 / size[0], y=1 - 0.08 / size[1], ha="left", va="top", fontsize=12, weight="bold")

    def place(x: float, y: float, width: float, height: float) -> "Axes":
        """Axes so far from the left and the top, in inches."""
        return canvas.add_axes((x / size[0], 1 - (y + height) / size[1], width / size[0], height / size[1]))

    panels = [place(0.1 + column * (CELL + GAP), top, CELL, CELL) for column in range(above)]
    kept = round(float(masks[0, variant].sum()))
    heat(panels[1], picture, result.overlay(variant)).set_title(
        f"overlay of {kept} of {masks.shape[2]} channels", fontsize=SMALL
    )
    for axes, (name, each) in zip([panels[0], *panels[2:]], shown.items(), strict=True):
        show(axes, rgb(each)).set_title(name, fontsize=SMALL)
    scores(place(wide - (PLOT * CELL), top, PLOT * CELL - 0.15, CELL), result, found)
    for column, (index, weight) in enumerate(zip(indices, weights, strict=True)):
        axes = place(0.1 + column * (small + GAP), top + CELL + UNDER, small, small)
        heat(axes, picture, _map(result, index, masks.shape[2]))
        axes.set_title(f"channel {index}\nweight {weight:.2g}", fontsize=SMALL - 1)
    return canvas


def of_class(
    found: "ClassChannels",
    count: int = 5,
    examples: int = 5,
    inversions: Mapping[int, Any] | None = None,
    title: str = "",
) -> "Figure":
    """The `count` channels that weigh most in a class: how much, and the parts of pictures that excite each most.

    `inversions` are pictures `(3, H, W)` by channel, such as those that excite it alone. Beside them stands how many
    channels each picture needed.
    """
    indices, weights = found.top(count)
    inverted = inversions or {}
    placed = not found.peaks.places.isnan().all()  # else there is nothing to cut out
    columns = examples + bool(inverted)
    small = 0.6 * CELL
    top, left = 0.65 if title else 0.3, 1.5
    wide = left + columns * (small + GAP) + 0.15
    size = (wide, top + len(indices) * (small + GAP) + 1.75)
    canvas = blank(size)
    canvas.suptitle(title, x=0.1 / size[0], y=1 - 0.08 / size[1], ha="left", va="top", fontsize=12, weight="bold")

    def place(x: float, y: float, width: float, height: float) -> "Axes":
        """Axes so far from the left and the top, in inches."""
        return canvas.add_axes((x / size[0], 1 - (y + height) / size[1], width / size[0], height / size[1]))

    for row, (channel, weight) in enumerate(zip(indices.tolist(), weights.tolist(), strict=True)):
        y = top + row * (small + GAP)
        spread = float(found.spread[channel])
        words = f"channel {channel}\nweight {weight:.2f}\n± {spread:.2f}"
        canvas.text(0.1 / size[0], 1 - (y + small / 2) / size[1], words, va="center", fontsize=SMALL)
        for column, crop in enumerate(found.crops(channel, examples) if placed else []):
            axes = place(left + column * (small + GAP), y, small, small)
            axes.imshow(crop.picture)
            axes.set_axis_off()
            axes.set_title(f"{crop.activation:.3g}", fontsize=SMALL - 2, pad=2)
        if channel in inverted:
            picture = rgb(inverted[channel])
            axes = show(place(left + examples * (small + GAP), y, small, small), picture)
            axes.set_title("alone", fontsize=SMALL - 2, pad=2)
    plot = place(left, top + len(indices) * (small + GAP) + 0.2, wide - left - 0.2, 0.95)
    plot.hist(found.counts.tolist(), bins=min(20, len(found) + 1), color=KEPT)
    plot.set_xlabel(f"channels that each of {len(found)} pictures needs", fontsize=SMALL, labelpad=1)
    plot.set_ylabel("pictures", fontsize=SMALL)
    plot.tick_params(labelsize=SMALL - 1)
    plot.spines[["top", "right"]].set_visible(False)
    return canvas


def heat(axes: "Axes", picture: Tensor, values: Tensor) -> "Axes":
    """A map `(1, 1, *L)` as warm colours over a pale picture `(3, H, W)`; what is below 0 is not shown."""
    warm = positive(values, picture)[0]
    grey = picture.mean(0, keepdim=True).expand(3, -1, -1)
    show(axes, 0.45 + 0.55 * grey)
    axes.imshow(warm.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=(0.85 * warm.sqrt()).numpy())
    return axes


def scores(axes: "Axes", result: Attribution, found: "SmallestArea | None" = None) -> None:
    """The score against the number of channels kept, from one to all."""
    count = result.channel_masks.shape[2]
    kept = (result.channel_masks[0].sum(1)).tolist()
    whole, none = float(result.whole[0]), float(result.blank[0])  # type: ignore[index]  # methods with masks give these
    axes.axhline(whole, color=BOUND, linewidth=1, label=f"all {count}")
    axes.axhline(none, color=BOUND, linewidth=1, linestyle=":", label="none")
    if found is not None:
        tried = (found.curve_areas.cpu() * count).round().tolist()
        axes.plot(tried, found.curve_scores[0].tolist(), color=KEPT, alpha=0.5, marker=".", label="counts tried")
        axes.axhline(float(found.wanted[0]), color=KEPT, linewidth=1, linestyle=(0, (4, 3)), label="wanted")
    axes.plot(kept, result.scores[0].tolist(), color=KEPT, marker="o", markersize=5, label="these channels alone")  # type: ignore[index]
    axes.plot(kept, result.complements[0].tolist(), color=LEFT, marker="s", markersize=4, label="all but these")  # type: ignore[index]
    axes.set_xscale("log")
    axes.set_xlim(0.8, 1.2 * count)
    axes.set_xlabel("channels", fontsize=SMALL, labelpad=1)
    axes.set_ylabel("score", fontsize=SMALL, labelpad=1)
    axes.tick_params(labelsize=SMALL - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        fontsize=SMALL - 2, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16), columnspacing=1
    )


def _map(result: Attribution, index: int, groups: int) -> Tensor:
    """What one channel, or one group of them, puts out: `(1, 1, *L)`."""
    activation = result.activation
    assert activation is not None  # noqa: S101  # for the type checker: masks of channels come with it
    of = activation.shape[1] // groups
    return activation[:, index * of : (index + 1) * of].detach().float().mean(1, keepdim=True)
