"""The numbers of one query: a row for each mask, ordered by area, and the outcome of a search for the smallest area."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.figures.panels import ONE_RUN, name_of_score, worth
from sfumato.methods.sufficient import SmallestArea
from sfumato.settings import number, percent


@dataclass(frozen=True)
class MaskRow:
    """The areas and scores of a mask; `None` if they are not known."""

    variant: int
    """The index of the mask in the result."""
    requested: float | None
    achieved: float
    score: float | None
    worth: float | None
    r"""$(\Phi(m \otimes x) - \Phi_0) / (\Phi(x) - \Phi_0)$, where $\Phi_0$ is the score of the fully perturbed input."""
    complement: float | None
    count: int | None = None
    """The number of channels, for masks of channels."""
    agreement: float | None = None
    """How far the restarts of the search agree, if it had several."""
    quantity: str = "score"
    """What the score is, in words."""

    @property
    def sentence(self) -> str:
        """Such as "10 % of the picture is worth 95 % (logit 9.98); without it 2.1 is left"."""
        size = f"{percent(self.achieved)} of the picture"
        if self.count is not None:
            size = f"{self.count} {'channel' if self.count == 1 else 'channels'}"
        is_one = self.count in (None, 1)
        parts = [size if self.score is None else f"{size}: {self.quantity} {format_score(self.score)}"]
        if self.worth is not None:
            verb = "is" if is_one else "are"
            parts = [
                f"{size} {verb} worth {percent(round(self.worth, 3))} ({self.quantity} {format_score(self.score)})"
            ]
        if self.complement is not None:
            parts.append(f"without {'it' if is_one else 'them'} {format_score(self.complement)} is left")
        if self.agreement is not None:
            parts.append(f"restarts agree by {percent(round(self.agreement, 2))}")
        elif self.score is not None:
            parts.append(ONE_RUN)
        return "; ".join(parts)


def mask_rows(result: Attribution) -> list[MaskRow]:
    """The masks of a result of one query, by growing area; empty for a result without masks."""
    if result.masks is None:
        return []
    masks = result.masks[0].detach().float()
    achieved = result.achieved[0].tolist() if result.achieved is not None else masks.flatten(1).mean(1).tolist()
    requested = [None] * len(masks) if result.areas is None else list(map(number, result.areas))
    channels = masks.shape[1] if result.activation is not None else None
    has_worth = all(value is not None for value in (result.scores, result.whole, result.blank))
    values = worth(result)[0].tolist() if has_worth else [math.nan] * len(masks)
    quantity = name_of_score(result)
    rows = []
    for variant, area in enumerate(achieved):
        score, complement, agreement = (
            None if values is None else number(values[0, variant])
            for values in (result.scores, result.complements, result.agreement)
        )
        count = None if channels is None else round(area * channels)
        share = number(values[variant])
        rows.append(MaskRow(variant, requested[variant], area, score, share, complement, count, agreement, quantity))
    return sorted(rows, key=lambda row: (row.achieved, row.variant))


@dataclass(frozen=True)
class SearchOutcome:
    """The outcome of a search for the smallest area, as far as it is known."""

    wanted: float | None
    """The score to keep."""
    area: float | None
    """The smallest area that keeps it; `None` if no area does."""
    points: Sequence[tuple[float, float]] = ()
    """Areas that were tried, with the scores of their masks."""
    count: int | None = None
    """The number of channels, for masks of channels."""


def search_summary(search: SmallestArea, keep: float) -> dict[str, Any]:
    """The search of one query as plain JSON, for "smallest" in a result's `about`. `search_outcome` reads it."""
    return {
        "keep": keep,
        "reached": bool(search.reached[0]),
        "area": number(search.area[0]),
        "count": None if search.count is None else int(search.count[0]),
        "areas": list(map(number, search.curve_areas)),
        "scores": list(map(number, search.curve_scores[0])),
    }


def search_outcome(result: Attribution, search: SmallestArea | None) -> SearchOutcome | None:
    """The outcome of a search of one query, or that in the result's `about`, as `search_summary` writes it."""
    if search is not None:
        pairs = zip(search.curve_areas.tolist(), map(number, search.curve_scores[0]), strict=True)
        return SearchOutcome(
            single_value(search.wanted),
            single_value(search.area) if bool(search.reached[0]) else None,
            [(area, score) for area, score in pairs if score is not None],
            None if search.count is None else int(search.count[0]),
        )
    about = result.about.get("smallest")
    if not isinstance(about, Mapping):
        return None
    keep, count, whole = _checked(about.get("keep")), _checked(about.get("count")), single_value(result.whole)
    areas, scores = (value if isinstance(value := about.get(name), list) else [] for name in ("areas", "scores"))
    points = [(_checked(area, 0, 1), _checked(score)) for area, score in zip(areas, scores, strict=False)]
    return SearchOutcome(
        None if keep is None or whole is None else keep * whole,
        _checked(about.get("area"), 0, 1),
        [(area, score) for area, score in points if area is not None and score is not None],
        None if count is None else int(count),
    )


def single_value(values: Shaped[Tensor, "1"] | None) -> float | None:
    """The value of one query."""
    return None if values is None else number(values[0])


def _checked(value: Any, low: float = -1e30, high: float = 1e30) -> float | None:
    """A value from a file, if it is a number between the two; else `None`, as a file may hold anything."""
    return float(value) if isinstance(value, int | float) and low <= value <= high else None


def format_score(value: float | None) -> str:
    """A score as text.

    >>> format_score(2.5310), format_score(-0.00012345), format_score(None)
    ('2.53', '-0.000123', '–')
    """
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def ticks(low: float, high: float, most: int = 5) -> Sequence[float]:
    """Round numbers between two, at least one and at most so many.

    >>> ticks(0, 10.5), ticks(0.31, 0.35)
    ([0.0, 2.5, 5.0, 7.5, 10.0], [0.31, 0.32, 0.33, 0.34, 0.35])
    """
    span = high - low
    digit = 10.0 ** math.floor(math.log10(span / most))
    step = next(digit * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (digit * factor) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
