"""Figures of what a method found in pictures. They need matplotlib, and leave its global state alone."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    blank,
    check_matplotlib,
    deletes,
    overlay,
    percent,
    perturbed_picture,
    positive,
    save,
    shares,
    show,
    shown_perturbation,
)  # fmt: skip
from sfumato.models import Classifier
from sfumato.perturbations import Blur, Perturbation
from sfumato.space.smoothing import enlarged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "check_matplotlib", "comparison", "figure", "overview", "percent", "save", "shares"]

NARROW, LOW = 1.75, 1.5  # inches, which the words above a picture and the curve beside it need
LINE = 0.2  # inches, for the words above what the network saw
LETTERS = 15  # of a note, that fit into an inch

Curve = tuple[Tensor, Tensor]
"""Areas `(n,)` and the scores `(n,)` that they keep."""


def figure(
    result: Attribution,
    picture: Any,
    query: int = 0,
    title: str = "",
    keep: float | None = None,
    curve: Curve | None = None,
    classifier: Classifier | None = None,
    perturbation: Perturbation | None = None,
) -> "Figure":
    r"""All about one query: the picture, what the mask of each area shows of it, and the score against the area.

    Below each mask is what it leaves of the picture, on black and then as the network saw it, $m \otimes x$; in the deletion
    game, where a mask marks what was removed, $(1 - m) \otimes x$.

    `picture` is RGB, as large as the masks: a tensor or array `(3, H, W)` or `(H, W, 3)` in [0, 1] or of 8 bits (grey with
    one channel), or a PIL picture. `keep` draws a line at that share of the whole picture's score; `curve` adds areas that were
    tried, as by `smallest`. `classifier` is the one whose network was explained: it says in which units that saw the picture,
    on which what is seen depends with all perturbations but `Blur`; without one these are the picture's own. `perturbation`
    is what hid places, where the result cannot give it back: one that is not this package's own.

    Raises `ValueError` where the result has no masks of pictures, or the picture does not fit them.
    """
    masks = _masks(result, query)
    picture = rgb(picture, masks.shape[2:])
    parts = 1 - masks if deletes(result) else masks
    shown, note = _shown(result, parts, picture, classifier, perturbation)

    cell = _cell(masks)
    left = max(cell[0], 1.2 * CELL)
    top = HEAD + (0.3 if title else 0)
    size = (MARGIN + left + len(masks) * (cell[0] + GAP) + 0.1, top + 3 * cell[1] + 2 * GAP + LINE + 0.1)
    canvas = blank(size)

    def place(x: float, y: float, width: float, height: float) -> "Axes":
        """Axes so far from the left and the top, in inches."""
        return canvas.add_axes((x / size[0], 1 - (y + height) / size[1], width / size[0], height / size[1]))

    canvas.suptitle(title, x=MARGIN / size[0], y=1 - 0.1 / size[1], ha="left", va="top", fontsize=12, weight="bold")
    show(place(MARGIN, top, left, cell[1]), picture).set_title("the input", fontsize=SMALL)
    for column, (mask, part, head) in enumerate(zip(masks, parts, _heads(result, query), strict=True)):
        x = MARGIN + left + GAP + column * (cell[0] + GAP)
        overlay(place(x, top, *cell), picture, mask[0]).set_title(head, fontsize=SMALL)
        show(place(x, top + cell[1] + GAP, *cell), picture * part)
        axes = place(x, top + 2 * (cell[1] + GAP) + LINE, *cell)
        if shown is None:
            axes.set_axis_off()
        else:
            show(axes, shown[column])
        if column == 0:
            _say(axes, note, len(masks) * cell[0], above=shown is not None)
    legend = 0.95 if keep is None and curve is None else 1.1
    plot = place(MARGIN, top + cell[1] + 3 * GAP, left, 2 * cell[1] + LINE - GAP - legend)
    _draw_scores(plot, result, query, keep, curve)
    if plot.get_legend_handles_labels()[0]:
        plot.legend(
            loc="lower left", bbox_to_anchor=(0.2 / size[0], 0.08 / size[1]), bbox_transform=canvas.transFigure,
            ncols=2, fontsize=SMALL - 1, frameon=False, borderaxespad=0, columnspacing=1.0, handlelength=1.5,
        )  # fmt: skip
    return canvas


def overview(results: Sequence[Attribution], pictures: Sequence[Any], titles: Sequence[str]) -> "Figure":
    """One row for each result of one query: its picture, titled, and what the mask of each area shows of it.

    The results have the same number of masks; each picture is RGB, as for `figure`, as large as its masks.
    """
    _check_counts(results, pictures=pictures, titles=titles)
    if any(len(result) != 1 for result in results):
        raise ValueError(
            f"an overview is of results of one query; got {list(map(len, results))}: give result[0] and so on"
        )
    first = _masks(results[0], 0)
    width, height = _cell(first)
    count = len(first)
    canvas = blank(((count + 1) * (width + GAP) + 0.2, len(results) * (height + HEAD) + 0.2))
    axes = canvas.subplots(len(results), count + 1, squeeze=False)
    for row, result, picture, title in zip(axes, results, pictures, titles, strict=True):
        masks = _masks(result, 0)
        if len(masks) != count:
            raise ValueError(f"the results must have as many masks as the first, {count}; got one with {len(masks)}")
        shown = rgb(picture, masks.shape[2:])
        show(row[0], shown).set_title(title, fontsize=SMALL, weight="bold")
        for place, mask, head in zip(row[1:], masks, _heads(result, 0), strict=True):
            overlay(place, shown, mask[0]).set_title(head, fontsize=SMALL)
    canvas.tight_layout(pad=0.5, w_pad=0.6, h_pad=0.8)
    return canvas


def comparison(results: Sequence[Attribution], picture: Any, titles: Sequence[str], title: str = "") -> "Figure":
    """The picture and the saliency maps of several methods for it, side by side (Fong et al. 2019, figure 2).

    Each result is of one query. Maps are shown from 0 to the value that one place in two hundred exceeds, so that a few
    peaks do not hide the rest; what speaks against the class, below 0, is not shown. `picture` is RGB, as for `figure`;
    maps of another size are enlarged to it. `title` stands above all.
    """
    _check_counts(results, titles=titles)
    shown = rgb(picture)
    maps = [positive(result.map, shown) for result in results]
    width, height = _cell(maps[0][None])
    top = 0.35 if title else 0.0
    canvas = blank(((len(maps) + 1) * (width + GAP) + 0.2, height + HEAD + top + 0.2))
    canvas.suptitle(title, fontsize=12, weight="bold")
    axes = canvas.subplots(1, len(maps) + 1, squeeze=False)[0]
    show(axes[0], shown).set_title("the input", fontsize=SMALL)
    for place, each, head in zip(axes[1:], maps, titles, strict=True):
        overlay(place, shown, each[0], outline=False).set_title(head, fontsize=SMALL)
    canvas.tight_layout(pad=0.5, w_pad=0.6)
    return canvas


def _cell(masks: Tensor) -> tuple[float, float]:
    """The width and height given to each picture, in inches."""
    height, width = masks.shape[2:]
    scale = CELL / max(height, width)
    return max(scale * width, NARROW), max(scale * height, LOW)


def _masks(result: Attribution, query: int) -> Tensor:
    """The masks `(V, 1, H, W)` of one query, on the CPU; those at a layer enlarged."""
    if result.activation is not None:
        raise ValueError("the result has masks of channels; sfumato.sheets draws these")
    if result.masks is None:
        raise ValueError("the result has no masks to draw; give one made by a method with masks")
    if result.masks.ndim != 5:
        raise ValueError(
            f"figures are of pictures, whose masks are (B, V, 1, H, W); got masks of shape {tuple(result.masks.shape)}"
        )
    if not 0 <= query < len(result):
        raise ValueError(f"query {query} is out of range; the result has {len(result)} (0 to {len(result) - 1})")
    masks = result.masks[query].detach().float().cpu()
    return enlarged(masks, result.map.shape[2:]) if result.method.get("layer") else masks


def _check_counts(results: Sequence[Attribution], **others: Sequence[Any]) -> None:
    if not results:
        raise ValueError("there is nothing to draw: results are empty; give one or more")
    for name, items in others.items():
        if len(items) != len(results):
            raise ValueError(f"{name} must be one for each of the {len(results)} results; got {len(items)}")


def _shown(
    result: Attribution,
    parts: Tensor,
    picture: Tensor,
    classifier: Classifier | None,
    perturbation: Perturbation | None,
) -> tuple[Tensor | None, str]:
    """What the network saw of the picture for parts `(V, 1, H, W)`, if it can be shown, and what is to be said of that."""
    try:
        hidden = shown_perturbation(result, perturbation)
        shown = perturbed_picture(hidden, parts, picture, classifier)
    except ValueError as error:
        return None, str(error)
    if not hidden.used:
        return shown, "blurred for display; the result does not say what hid places"
    words = "without the mask, as seen" if deletes(result) else "as the network saw it"
    words = f"{words} ({hidden.name}){'. ' if hidden.note else ''}{hidden.note}"
    # A mean over places is the same in any units, unless zeros beyond the border take part.
    any_units = isinstance(hidden.perturbation, Blur) and hidden.perturbation.border == "reflect"
    if classifier is None and not any_units:
        words = f"{hidden.name} of the picture as it is, not in the network's units (give classifier=…)"
    return shown, words


def _say(axes: "Axes", note: str, width: float, above: bool) -> None:
    """A note above what is shown, or in the place where nothing is, so many inches wide."""
    if above:
        axes.set_title(textwrap.shorten(note, int(LETTERS * width)), fontsize=SMALL, loc="left", pad=3)
    else:
        words = textwrap.fill(note, int(LETTERS * width))
        axes.text(0, 1, words, va="top", fontsize=SMALL, transform=axes.transAxes)


def _heads(result: Attribution, query: int) -> list[str]:
    """What stands over each mask: its area and the share of the score that it keeps."""
    areas = [percent(area) for area in _achieved(result, query)]
    asked = areas if result.areas is None else [percent(area) for area in result.areas.tolist()]
    first = [
        f"area {area}" if area == wanted else f"area {area} (asked: {wanted})"
        for area, wanted in zip(areas, asked, strict=True)
    ]
    if result.scores is None or result.whole is None or result.blank is None:
        return first
    if deletes(result) and result.complements is not None:
        rest = shares(replace(result, scores=result.complements))
        words = [f"leaves {percent(round(share, 2))} of the score" for share in rest[query].tolist()]
    else:
        words = [f"keeps {percent(round(share, 2))} of the score" for share in shares(result)[query].tolist()]
    return [f"{area}\n{share}" for area, share in zip(first, words, strict=True)]


def _achieved(result: Attribution, query: int) -> list[float]:
    if result.achieved is not None:
        return result.achieved[query].tolist()
    return _masks(result, query).flatten(1).mean(1).tolist()


def _draw_scores(axes: "Axes", result: Attribution, query: int, keep: float | None, curve: Curve | None) -> None:
    """The score of what is shown and of what is left, against the area shown, between those of whole and blank."""
    areas = [100 * area for area in _achieved(result, query)]
    order = sorted(range(len(areas)), key=areas.__getitem__)

    def line(values: Tensor | None, **style: Any) -> None:
        if values is not None:
            row = values[query].tolist()
            axes.plot([areas[place] for place in order], [row[place] for place in order], **style)

    if result.whole is not None:
        whole = float(result.whole[query])
        axes.axhline(whole, color=BOUND, linewidth=1, label="whole input")
        if keep is not None:
            axes.axhline(
                keep * whole, color=KEPT, linewidth=1, linestyle=(0, (4, 3)), label=f"{percent(keep)} of whole"
            )
    if result.blank is not None:
        axes.axhline(float(result.blank[query]), color=BOUND, linewidth=1, linestyle=":", label="all hidden")
    if curve is not None:
        tried, scores = (values.detach().cpu() for values in curve)
        axes.plot((100 * tried).tolist(), scores.tolist(), color=KEPT, alpha=0.5, marker=".", label="areas tried")
    line(result.scores, color=KEPT, marker="o", markersize=5, label="the mask alone")
    line(result.complements, color=LEFT, marker="s", markersize=4, label="all but the mask")
    axes.set_xlim(left=0)
    axes.margins(y=0.08)
    axes.set_xlabel("area (% of the input)", fontsize=SMALL)
    axes.set_ylabel("score", fontsize=SMALL, labelpad=2)
    axes.tick_params(labelsize=SMALL - 1)
    axes.spines[["top", "right"]].set_visible(False)
