"""Figures of masks and maps of pictures. They need matplotlib, and do not change its global state."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.data.pictures import rgb
from sfumato.figures.asked import asked_places, mark
from sfumato.figures.certificates import certificate
from sfumato.figures.lines import broken
from sfumato.figures.panels import (
    BOUND,
    CELL,
    GAP,
    HEAD,
    KEPT,
    LEFT,
    MARGIN,
    ONE_RUN,
    SMALL,
    Coloured,
    add_axes,
    add_title,
    blank,
    cell_size,
    check_matplotlib,
    coloured,
    deletes,
    name_of_score,
    overlay,
    paint,
    perturbed_picture,
    save,
    show,
    shown_perturbation,
    worth,
)  # fmt: skip
from sfumato.figures.scene import Scene, scene
from sfumato.figures.slices import Draw, frames, masks_of_slices, rows_of_slices
from sfumato.metrics.part_scores import span
from sfumato.models import Classifier
from sfumato.perturbations import Blur, Perturbation
from sfumato.settings import is_whole, keywords_told, percent, told
from sfumato.space.smoothing import enlarged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "certificate", "check_matplotlib", "comparison", "figure", "overview", "save", "worth"]

LINE = 0.2
"""The height of the line of text above the perturbed pictures, in inches."""

LETTERS = 15
"""How many letters of a note fit into an inch."""

WORTH = "worth: 0 % is the score with everything hidden, 100 % that of the whole picture"
"""What headings mean by worth."""

NO_WORTH = "worth not defined"
"""What headings say where hiding everything takes no score away."""

LINES = ("#1b7f79", "#33658a", "#6a3d9a", "#b8860b")
"""Colours of the outlines of restarts' sets, in turn."""

Curve = tuple[Float[Tensor, " n"], Float[Tensor, " n"]]
"""Areas and the scores of their masks."""


@keywords_told
def figure(
    result: Attribution,
    picture: Any,
    query: int = 0,
    title: str = "",
    keep: float | None = None,
    curve: Curve | None = None,
    classifier: Classifier | None = None,
    perturbation: Perturbation | None = None,
    alternatives: bool = False,
    probabilities: Sequence[float] | Float[Tensor, " V"] | None = None,
    at_most: bool = False,
    whole_probability: float | None = None,
) -> "Figure":
    r"""A figure of one query: the picture, the mask of each area, and the score against the area.

    The heading of a mask says what it is *worth*: 0 % is the score with everything hidden, 100 % that of the whole input.
    Below each mask is the part of the picture that it keeps, on black and then as the network saw it, $m \otimes x$. In the
    deletion game masks mark what is removed, and the figure shows $(1 - m) \otimes x$.

    - `picture`: RGB: a PIL picture, or a tensor or array `(3, H, W)` or `(H, W, 3)` in [0, 1] or of 8 bits (grey with one
      channel). With `classifier`, a PIL picture, or one of another size than the masks, is the one that was prepared for the
      network: the masks are laid over it, in its own shape. Other pictures are the network's input, as large as the masks.
    - `keep`: draws a line at this share of the whole picture's score.
    - `curve`: areas that were tried and their scores, such as those of `smallest`.
    - `classifier`: the classifier that was explained. Its network's inputs have other units than the picture, on which the
      perturbed picture depends, except for `Blur`. Without it, the picture is perturbed in its own units. It also says which
      part of a picture the network saw.
    - `perturbation`: what hid places, if it is not a perturbation of this package, which the result gives back itself.
    - `alternatives`: draws a thin outline of the set that each restart of the search found, and says what it is worth.
    - `probabilities`: the class's probability under each mask, for the headings.
    - `at_most`: the masks' area is an upper bound of the smallest one that suffices; the heading says so.
    - `whole_probability`: the class's probability for the whole picture, for its heading.

    For a clip or a volume, `picture` is the input `(C, D, H, W)` or `(D, H, W)`: the figure has a row of evenly chosen frames
    or slices, each labelled by its index, and one such row for each mask with its outline.

    Raises `ValueError` if the result has no masks of pictures, no restarts to show, or the picture has another size.
    """
    _check_results(result)
    masks = _masks(result, query)
    if masks.ndim == 5:
        headings = _headings(result, query, probabilities, at_most)
        return masks_of_slices(masks, frames(picture, masks.shape[2:]), headings, title)
    view = scene(picture, masks.shape[2:], classifier)
    asked = asked_places(result, masks.shape[2:], query)
    parts = 1 - masks if deletes(result) else masks
    perturbed, note = _perturb(result, parts, _seen(view, picture, classifier), classifier, perturbation)
    masks, parts = view.lay(masks), view.lay(parts)
    perturbed = None if perturbed is None else view.lay(perturbed, outside=1.0)

    cell = cell_size(view.picture)
    left = max(cell[0], 1.2 * CELL)
    name = "\n".join([_picture_name(view, asked), *_fit(_worth_of_whole(result, query, whole_probability), left)])
    if probabilities is not None and len(probabilities) != len(masks):
        raise ValueError(f"probabilities must be one for each of the {len(masks)} masks; got {len(probabilities)}")
    headings = _headings(result, query, probabilities, at_most)
    if alternatives:
        headings = [f"{heading}\n{what}" for heading, what in zip(headings, _alternatives(result, query), strict=True)]
    headings = _fit(headings, cell[0])
    top = _head([*headings, name]) + (0.3 if title else 0)
    notes = (
        textwrap.wrap(note, round(LETTERS * (len(masks) * (cell[0] + GAP) - GAP))) if perturbed is not None else [""]
    )
    between = GAP + LINE * max(1, len(notes))  # between the parts on black and the perturbed pictures
    size = (MARGIN + left + len(masks) * (cell[0] + GAP) + 0.1, top + 3 * cell[1] + GAP + between + 0.1)
    canvas = blank(size)
    place = partial(add_axes, canvas)
    add_title(canvas, title, MARGIN)
    axes = show(place(MARGIN, top, left, cell[1]), view.picture)
    axes.set_title(name, fontsize=SMALL)
    view.frame(axes)
    mark(axes, view, asked)
    for column, (mask, part, heading) in enumerate(zip(masks, parts, headings, strict=True)):
        x = MARGIN + left + GAP + column * (cell[0] + GAP)
        shown = overlay(place(x, top, *cell), view.picture, mask[0])
        shown.set_title(heading, fontsize=SMALL)
        mark(shown, view, asked)
        if alternatives and result.alternatives is not None:
            for index, found in enumerate(view.lay(result.alternatives[query, column].float().cpu())[:, 0]):
                shown.contour(found.numpy(), levels=[0.5], colors=[LINES[index % len(LINES)]], linewidths=1.0)
        show(place(x, top + cell[1] + GAP, *cell), view.picture * part)
        axes = place(x, top + 2 * cell[1] + GAP + between, *cell)
        if perturbed is None:
            axes.set_axis_off()
        else:
            show(axes, perturbed[column])
        if column == 0 and perturbed is None:
            lines = textwrap.fill(note, int(LETTERS * len(masks) * cell[0]))
            axes.text(0, 1, lines, va="top", fontsize=SMALL, transform=axes.transAxes)
        elif column == 0:
            axes.set_title("\n".join(notes), fontsize=SMALL, loc="left", pad=3)
    legend_height = 0.95 if keep is None and curve is None else 1.1
    plot = place(MARGIN, top + cell[1] + 3 * GAP, left, 2 * cell[1] + between - 2 * GAP - legend_height)
    _draw_scores(plot, result, query, keep, curve)
    if plot.get_legend_handles_labels()[0]:
        plot.legend(
            loc="lower left", bbox_to_anchor=(0.2 / size[0], 0.08 / size[1]), bbox_transform=canvas.transFigure,
            ncols=2, fontsize=SMALL - 1, frameon=False, borderaxespad=0, columnspacing=1.0, handlelength=1.5,
        )  # fmt: skip
    return canvas


@keywords_told
def overview(
    results: Sequence[Attribution],
    pictures: Sequence[Any],
    titles: Sequence[str],
    classifier: Classifier | None = None,
    probabilities: Sequence[Sequence[float]] | None = None,
    whole_probabilities: Sequence[float] | None = None,
) -> "Figure":
    """A figure with a row for each result of one query: the picture with its title, and the mask of each area.

    The headings are those of `figure`; a line at the foot says what *worth* means.
    All results have the same number of masks. `pictures` and `classifier` are as for `figure`, and so are the `probabilities`
    of each result, and their `whole_probabilities`. Raises `ValueError`.
    """
    _check_counts(results, pictures=pictures, titles=titles)
    given: Sequence[Sequence[float] | None] = [None] * len(results) if probabilities is None else probabilities
    wholes: Sequence[float | None] = [None] * len(results) if whole_probabilities is None else whole_probabilities
    _check_counts(results, probabilities=given, whole_probabilities=wholes)
    if any(len(result) != 1 for result in results):
        raise ValueError(
            f"an overview takes results of one query each; got results of {list(map(len, results))} queries: give result[0] "
            "and so on"
        )
    count = len(_masks(results[0], 0))
    rows = [_headings(result, 0, row) for result, row in zip(results, given, strict=True)]
    masks = [_masks(result, 0) for result in results]
    if any(row.ndim == 5 for row in masks):
        raise ValueError("an overview is of pictures; draw a clip or a volume with plots.figure(result, inputs[0])")
    for row in masks:
        if len(row) != count:
            raise ValueError(f"all results must have as many masks as the first, {count}; got one with {len(row)}")
    views = [scene(picture, row.shape[2:], classifier) for picture, row in zip(pictures, masks, strict=True)]
    width = max(cell_size(view.picture)[0] for view in views)
    heights = [cell_size(view.picture)[1] for view in views]
    rows = [_fit(headings, width) for headings in rows]
    first = [
        "\n".join(_fit(_worth_of_whole(result, 0, whole), width)) for result, whole in zip(results, wholes, strict=True)
    ]
    head = max(map(_head, [*rows, [f"{numbers}\n" for numbers in first]]))
    foot = LINE + 0.1 if any("worth" in heading for row in rows for heading in row) else 0.0
    size = ((count + 1) * (width + GAP) + 0.2, sum(heights) + len(results) * head + foot + 0.1)
    canvas = blank(size)
    if foot:
        canvas.text(0.1 / size[0], 0.1 / size[1], WORTH, fontsize=SMALL, va="bottom")
    y = 0.0
    for result, row, view, title, numbers, headings, height in zip(
        results, masks, views, titles, first, rows, heights, strict=True
    ):
        y += head
        cells = [add_axes(canvas, 0.1 + column * (width + GAP), y, width, height) for column in range(count + 1)]
        y += height
        show(cells[0], view.picture).set_title(numbers, fontsize=SMALL)
        above = 6 + 1.3 * SMALL * len(numbers.splitlines())  # points
        cells[0].annotate(
            title, (0.5, 1), (0, above), "axes fraction", "offset points", ha="center", fontsize=SMALL, weight="bold"
        )
        view.frame(cells[0])
        asked = asked_places(result, row.shape[2:])
        mark(cells[0], view, asked)
        for cell, mask, heading in zip(cells[1:], view.lay(row), headings, strict=True):
            overlay(cell, view.picture, mask[0]).set_title(heading, fontsize=SMALL)
            mark(cell, view, asked)
    return canvas


@keywords_told
def comparison(
    results: Sequence[Attribution],
    picture: Any,
    titles: Sequence[str],
    title: str = "",
    classifier: Classifier | None = None,
) -> "Figure":
    """A figure of the saliency maps of several methods for one picture, side by side (Fong et al. 2019, figure 2).

    Each result is of one query. Each map has colours of its own, from its lowest to its highest value, or nearly: one place
    in two hundred may lie beyond either end, so that a few peaks do not hide the other places. A map with positive and
    negative values has red and blue, and no colour at 0. The heading says which values the colours go to. `picture` is RGB;
    it and `classifier` are as for `figure`. Without the classifier, maps are resized to the picture. For a clip or a volume,
    `picture` is the input, and each map has a row of frames or slices. Raises `ValueError`.
    """
    _check_counts(results, titles=titles)
    if all(result.map.ndim == 5 and len(result) == 1 for result in results):
        return _maps_of_slices(results, picture, titles, title)
    for result in results:
        if result.map.ndim != 4 or len(result) != 1:
            raise ValueError(f"a map of one picture has the shape (1, 1, H, W); got {tuple(result.map.shape)}")
    view = scene(picture, rgb(picture).shape[1:] if classifier is None else _largest(results), classifier)
    maps = [coloured(result.map) for result in results]
    headings = [f"{heading}\n{colours.caption}" for heading, colours in zip(titles, maps, strict=True)]
    width, height = cell_size(view.picture)
    headings = _fit(headings, width)
    asked = [asked_places(result, _input_size(view, picture, classifier)) for result in results]
    name = _picture_name(view, asked[0])
    head, top = _head([*headings, name]), 0.35 if title else 0.0
    canvas = blank(((len(maps) + 1) * (width + GAP) + 0.2, height + head + top + 0.1))
    add_title(canvas, title)
    cells = [
        add_axes(canvas, 0.1 + column * (width + GAP), top + head, width, height) for column in range(len(maps) + 1)
    ]
    show(cells[0], view.picture).set_title(name, fontsize=SMALL)
    view.frame(cells[0])
    mark(cells[0], view, asked[0])
    for cell, colours, heading, places in zip(cells[1:], maps, headings, asked, strict=True):
        laid = view.lay(colours.values, outside=float("nan"))[0, 0]
        paint(cell, view.picture, laid, colours.is_signed).set_title(heading, fontsize=SMALL)
        mark(cell, view, places)
    return canvas


def _maps_of_slices(results: Sequence[Attribution], picture: Any, titles: Sequence[str], title: str) -> "Figure":
    """The maps of several methods for one clip or volume, a row of frames or slices each."""
    shape = max((tuple(result.map.shape[2:]) for result in results), key=math.prod)
    volume = frames(picture, shape)

    def drawn(colours: Coloured) -> Draw:
        values = enlarged(colours.values, shape)[0, 0]
        return lambda axes, index: paint(axes, volume[index], values[index], colours.is_signed)

    maps = [coloured(result.map) for result in results]
    rows: list[tuple[str, Draw]] = [("the input", lambda axes, index: show(axes, volume[index]))]
    rows += [
        (" · ".join([*heading.split("\n"), colours.caption]), drawn(colours))
        for heading, colours in zip(titles, maps, strict=True)
    ]
    return rows_of_slices(rows, volume, title)


def _largest(results: Sequence[Attribution]) -> tuple[int, int]:
    """The height and width of the largest map."""
    height, width = max((result.map.shape[2:] for result in results), key=lambda shape: shape[0] * shape[1])
    return height, width


def _input_size(view: Scene, picture: Any, classifier: Classifier | None) -> tuple[int, int]:
    """The height and width of the network's input."""
    height, width = _seen(view, picture, classifier).shape[1:]
    return height, width


def _picture_name(view: Scene, asked: Float[Tensor, "H W"] | None) -> str:
    """The heading of the picture; `asked` are the places that the question was about, if it was about some."""
    return view.name if asked is None else f"{view.name}\nblue: what was asked about"


def _seen(view: Scene, picture: Any, classifier: Classifier | None) -> Float[Tensor, "3 h w"]:
    """What the network saw of the picture, as RGB."""
    if view.is_input or classifier is None:
        return view.picture
    whole = (255 * rgb(picture)).round().byte().movedim(0, -1).contiguous().numpy()
    return classifier.restore(classifier.prepare(Image.fromarray(whole)))


def _masks(result: Attribution, query: int) -> Float[Tensor, "V 1 *S"]:
    """The masks of one query, on the CPU. Masks at a layer are enlarged."""
    if result.activation is not None:
        raise ValueError("the result has masks of channels; draw them with sfumato.sheets.channels")
    if result.masks is None:
        raise ValueError(
            "the result has no masks to draw; draw its map with plots.comparison([result], picture, [name]), or give a result "
            "of a method with masks"
        )
    if result.masks.ndim not in (5, 6):
        raise ValueError(
            "figures are of pictures, whose masks are (B, V, 1, H, W), and of clips and volumes; got masks of shape "
            f"{tuple(result.masks.shape)}. For a sound, draw the curve of result.masks[0, 0, 0] over its samples"
        )
    if not (is_whole(query, 0) and query < len(result)):
        raise ValueError(
            f"query is a number from 0 to {len(result) - 1}, one for each input; {told(query)} is out of range"
        )
    masks = result.masks[query].detach().float().cpu()
    return enlarged(masks, result.map.shape[2:]) if result.method.get("layer") else masks


def _check_results(*results: Any) -> None:
    """Raise `ValueError` unless all are results of methods."""
    for result in results:
        if not isinstance(result, Attribution):
            raise ValueError(
                f"a figure shows the result of a method, which comes before the picture; got {told(result)}. Write "
                "plots.figure(result, picture)"
            )


def _check_counts(results: Sequence[Attribution], **lists: Sequence[Any]) -> None:
    """Raise `ValueError` if there are no results, or a list has another length than they."""
    if not results:
        raise ValueError("results are empty; give one or more")
    _check_results(*results)
    for name, items in lists.items():
        if len(items) != len(results):
            raise ValueError(f"{name} must be one for each of the {len(results)} results; got {len(items)}")


def _perturb(
    result: Attribution,
    parts: Float[Tensor, "V 1 H W"],
    picture: Float[Tensor, "3 H W"],
    classifier: Classifier | None,
    perturbation: Perturbation | None,
) -> tuple[Float[Tensor, "V 3 H W"] | None, str]:
    """The perturbed pictures of parts, or `None` if they cannot be shown, and a note about them."""
    try:
        hidden = shown_perturbation(result, perturbation)
        pictures = perturbed_picture(hidden, parts, picture, classifier)
    except ValueError as error:
        return None, str(error)
    if not hidden.used:
        return pictures, "blurred for display; the result does not say what hid places"
    # A mean over places is the same in any units, unless zeros beyond the border take part.
    any_units = isinstance(hidden.perturbation, Blur) and hidden.perturbation.border == "reflect"
    if classifier is None and not any_units:
        return pictures, f"{hidden.name} of the picture as it is, not in the network's units (give classifier=…)"
    subject = "without the mask, as seen" if deletes(result) else "as the network saw it"
    which = f", first of {hidden.used_with + 1} perturbations" if hidden.used_with else ""
    return pictures, f"{subject} ({hidden.name}{which})"


def _headings(
    result: Attribution,
    query: int,
    probabilities: Sequence[float] | Float[Tensor, " V"] | None = None,
    at_most: bool = False,
) -> list[str]:
    """The heading of each mask: its area, its worth and score, the probability, and how far restarts agree, if there were some.

    In the deletion game, worth and score are those of what is left.
    """
    achieved = [percent(area) for area in _achieved(result, query)]
    requested = achieved if result.areas is None else [percent(area) for area in result.areas.tolist()]
    areas = [
        f"area {'at most ' * at_most}{area}" if area == request else f"area {area} (asked: {request})"
        for area, request in zip(achieved, requested, strict=True)
    ]
    if result.scores is None or result.whole is None or result.blank is None:
        return areas
    verb = "worth"
    if deletes(result) and result.complements is not None:
        verb, result = "the rest is worth", replace(result, scores=result.complements)
    name = name_of_score(result)
    parts, scores = worth(result)[query].tolist(), result.scores[query].tolist()  # type: ignore[index]
    worths = [NO_WORTH if math.isnan(part) else f"{verb} {percent(round(part, 2))}" for part in parts]
    twice = probabilities is not None and name.endswith("probability")  # it has a line of its own
    notes = ["" if twice else f" ({name}\N{NO-BREAK SPACE}{score:.3g})" for score in scores]
    headings = [f"{area}\n{said}{note}" for area, said, note in zip(areas, worths, notes, strict=True)]
    if probabilities is not None:
        given = [float(value) for value in probabilities]
        headings = [f"{heading}\nprobability {percent(value)}" for heading, value in zip(headings, given, strict=True)]
    if result.agreement is None:
        return [f"{heading}\n{ONE_RUN}" for heading in headings]
    agree = [percent(round(share, 2)) for share in result.agreement[query].tolist()]
    return [f"{heading}\nrestarts agree by {share}" for heading, share in zip(headings, agree, strict=True)]


def _worth_of_whole(result: Attribution, query: int, probability: float | None) -> list[str]:
    """The lines that say for the whole picture what `_headings` say for each mask."""
    if result.whole is None or result.blank is None:
        return []
    name = name_of_score(result)
    has_worth = not bool(span(result.whole[query], result.blank[query]).isnan())
    twice = probability is not None and name.endswith("probability")  # it has a line of its own
    score = "" if twice else f"{name}\N{NO-BREAK SPACE}{float(result.whole[query]):.3g}"
    lines = [f"worth 100 % ({score})" if score else "worth 100 %"] if has_worth else [score] if score else []
    return lines if probability is None else [*lines, f"probability {percent(probability)}"]


def _alternatives(result: Attribution, query: int) -> list[str]:
    """What the restarts' own sets are worth, for the heading of each mask."""
    if result.alternatives is None or result.alternative_scores is None:
        raise ValueError(
            "the result has no alternatives: its search had no restarts; take more steps, or an ascent with restarts=3"
        )
    rows = worth(result, result.alternative_scores)[query].tolist()
    return [f"thin lines: worth {', '.join(percent(round(value, 2)) for value in row)}" for row in rows]


def _fit(headings: Sequence[str], width: float) -> list[str]:
    """Headings whose lines are broken where they are longer than a cell of this width in inches."""
    lines = (
        [part for line in heading.split("\n") for part in broken(line, width + GAP / 2, SMALL)] for heading in headings
    )
    return ["\n".join(heading).replace("\N{NO-BREAK SPACE}", " ") for heading in lines]


def _head(headings: Sequence[str]) -> float:
    """The height of headings in inches."""
    return HEAD + SMALL / 60 * max(0, max(heading.count("\n") for heading in headings) - 1)


def _achieved(result: Attribution, query: int) -> list[float]:
    """The area of each mask of a query."""
    if result.achieved is not None:
        return result.achieved[query].tolist()
    return _masks(result, query).flatten(1).mean(1).tolist()


WITHOUT_WORTH = "whole input", "all hidden"
"""Their lines' names where hiding everything takes no score away, so that nothing has a worth."""


def _draw_scores(axes: "Axes", result: Attribution, query: int, keep: float | None, curve: Curve | None) -> None:
    """Plot the scores of the masks and of their complements against the area, with the scores of whole and blank."""
    areas = [100 * area for area in _achieved(result, query)]
    order = sorted(range(len(areas)), key=areas.__getitem__)

    def line(values: Tensor | None, **style: Any) -> None:
        if values is not None:
            row = values[query].tolist()
            axes.plot([areas[index] for index in order], [row[index] for index in order], **style)

    both = result.whole is not None and result.blank is not None
    has_worth = both and not bool(span(result.whole[query], result.blank[query]).isnan())  # type: ignore[index]
    whole_says, blank_says = ("whole input, worth 100 %", "all hidden, worth 0 %") if has_worth else WITHOUT_WORTH
    if result.whole is not None:
        whole = float(result.whole[query])
        axes.axhline(whole, color=BOUND, linewidth=1, label=whole_says)
        if keep is not None:
            axes.axhline(
                keep * whole,
                color=KEPT,
                linewidth=1,
                linestyle=(0, (4, 3)),
                label=f"{percent(keep)} of the whole's score",
            )
    if result.blank is not None:
        axes.axhline(float(result.blank[query]), color=BOUND, linewidth=1, linestyle=":", label=blank_says)
    if curve is not None:
        curve_areas, scores = (values.detach().cpu() for values in curve)
        axes.plot((100 * curve_areas).tolist(), scores.tolist(), color=KEPT, alpha=0.5, marker=".", label="areas tried")
    line(result.scores, color=KEPT, marker="o", markersize=5, label="the mask alone")
    line(result.complements, color=LEFT, marker="s", markersize=4, label="all but the mask")
    axes.set_xlim(left=0)
    axes.margins(y=0.08)
    axes.set_xlabel("area (% of the input)", fontsize=SMALL)
    axes.set_ylabel(name_of_score(result), fontsize=SMALL, labelpad=2)
    axes.tick_params(labelsize=SMALL - 1)
    axes.spines[["top", "right"]].set_visible(False)
