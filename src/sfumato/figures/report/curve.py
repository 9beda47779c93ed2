"""The score against the area, as SVG. The style sheet colours it, and the script marks its points."""

from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.figures.report.markup import Html, concatenate, tag
from sfumato.figures.report.numbers import MaskRow, SearchOutcome, format_score, ticks
from sfumato.settings import percent

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 22, 40
"""The space between the edges of the picture and the axes."""


@dataclass(frozen=True)
class Axes:
    """From areas and scores to coordinates of the picture."""

    right: float
    """The largest area."""
    low: float
    """The lowest score."""
    high: float
    """The highest score."""

    def x(self, area: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * area / self.right, 1)

    def y(self, score: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (self.high - score) / (self.high - self.low), 1)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(area)},{self.y(score)}" for area, score in points)


def curve(
    rows: Sequence[MaskRow],
    whole: float | None,
    blank: float | None,
    search: SearchOutcome | None,
    start: int,
    quantity: str,
    description: str,
) -> Html | None:
    """A plot with a legend: the scores of the masks and of their complements, those of the whole and the blank input, and the
    areas that a search tried. `None` if no score is known.

    `quantity` is what the scores are called, `description` the plot in words. The points have `data-row`, their index in
    `rows`, and the point of `start` is marked.
    """
    masks = [(index, row.achieved, row.score) for index, row in enumerate(rows) if row.score is not None]
    complements = [
        (index, row.achieved, row.complement) for index, row in enumerate(rows) if row.complement is not None
    ]
    search_points = list(search.points) if search is not None else []
    wanted = None if search is None else search.wanted
    smallest = None if search is None else search.area
    lines = [("whole", whole, "whole input"), ("blank", blank, "all hidden"), ("wanted", wanted, "wanted")]
    scores = [score for _, _, score in masks + complements] + [score for _, score in search_points]
    if not scores:
        return None
    scores += [value for _, value, _ in lines if value is not None]
    margin = 0.05 * (max(scores) - min(scores)) or 0.5
    largest = max([row.achieved for row in rows] + [area for area, _ in search_points] + [smallest or 0])
    axes = Axes(min(1.0, 1.1 * largest) or 1.0, min(scores) - margin, max(scores) + margin)

    elements = [_grid(axes, "area, %" if all(row.count is None for row in rows) else "channels, %", quantity)]
    elements += [
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=axes.y(value), y2=axes.y(value), class_=f"bound {name}")
        for name, value, _ in lines
        if value is not None
    ]
    if search_points:
        elements.append(tag("polyline", points=axes.path(search_points), class_="line tried"))
        elements += [
            tag("circle", cx=axes.x(area), cy=axes.y(score), r=2.5, class_="tried") for area, score in search_points
        ]
    if rows:
        x = axes.x(rows[start].achieved)
        elements.append(tag("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="guide"))
    if smallest is not None:
        x = axes.x(smallest)
        elements.append(tag("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="least"))
        elements.append(tag("text", "a*", x=x, y=TOP - 4, text_anchor="middle"))
    for name, points in (("left", complements), ("kept", masks)):
        elements.append(tag("polyline", points=axes.path([point[1:] for point in points]), class_=f"line {name}"))
        elements += [
            tag(
                "circle",
                cx=axes.x(area),
                cy=axes.y(score),
                r=4,
                class_=f"point {name}" + (" now" if index == start else ""),
                data_row=index,
            )
            for index, area, score in points
        ]
    svg = tag("svg", *elements, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=description, class_="curve")
    keys = [("kept", "the mask alone", bool(masks)), ("left", "all but the mask", bool(complements))]
    keys += [("tried", "areas tried", bool(search_points))]
    keys += [(name, f"{label}: {format_score(value)}", value is not None) for name, value, label in lines]
    if smallest is not None:
        keys.append(("least", f"a* = {percent(smallest)}", True))
    legend = [tag("li", tag("span", class_=f"key {name}"), label) for name, label, is_drawn in keys if is_drawn]
    return concatenate(svg, tag("ul", *legend, class_="legend"))


def _grid(axes: Axes, label: str, quantity: str) -> Html:
    """The axes with their numbers; `label` is that of the lower axis, `quantity` that of the upright one."""
    bottom = HEIGHT - BOTTOM
    parts = [tag("path", d=f"M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}", class_="axis")]
    for area in ticks(0, axes.right):
        parts.append(tag("text", f"{100 * area:g}", x=axes.x(area), y=bottom + 16, text_anchor="middle"))
        parts.append(tag("line", x1=axes.x(area), x2=axes.x(area), y1=bottom, y2=bottom + 4, class_="axis"))
    for score in ticks(axes.low, axes.high):
        parts.append(tag("text", f"{score:g}", x=LEFT - 6, y=axes.y(score) + 4, text_anchor="end"))
        parts.append(tag("line", x1=LEFT - 3, x2=LEFT, y1=axes.y(score), y2=axes.y(score), class_="axis"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", label, x=middle, y=HEIGHT - 6, text_anchor="middle"))
    parts.append(tag("text", quantity, x=2, y=TOP - 9))
    return tag("g", *parts)
