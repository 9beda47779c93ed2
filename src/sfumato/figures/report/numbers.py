"""The numbers of one query: a row for each mask, in the order of the areas that they show."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.figures.panels import percent, shares
from sfumato.methods.sufficient import SmallestArea
from sfumato.settings import number


@dataclass(frozen=True)
class MaskRow:
    """What a mask was asked to be, and what came of it; `None` where that is not known."""

    variant: int
    """Its place among the result's masks."""
    asked: float | None
    achieved: float
    score: float | None
    share: float | None
    r"""$(\Phi(m \otimes x) - \Phi_0) / (\Phi(x) - \Phi_0)$, where $\Phi_0$ is the score of the fully perturbed input."""
    complement: float | None
    count: int | None = None
    """Of masks of channels, how many they are."""

    @property
    def said(self) -> str:
        """In a sentence: "10 % of the picture keeps 95 % of the score (9.98); without it 2.1 is left"."""
        size = f"{percent(self.achieved)} of the picture"
        if self.count is not None:
            size = f"{self.count} {'channel' if self.count == 1 else 'channels'}"
        verb = "keeps" if self.count in (None, 1) else "keep"
        parts = [size if self.score is None else f"{size} {verb} a score of {figure(self.score)}"]
        if self.share is not None:
            parts = [f"{size} {verb} {percent(round(self.share, 3))} of the score ({figure(self.score)})"]
        if self.complement is not None:
            parts.append(f"without {'it' if verb == 'keeps' else 'them'} {figure(self.complement)} is left")
        return "; ".join(parts)


def mask_rows(result: Attribution) -> list[MaskRow]:
    """Of a result of one query, by growing area; none for a method without masks."""
    if result.masks is None:
        return []
    masks = result.masks[0].detach().float()
    achieved = result.achieved[0].tolist() if result.achieved is not None else masks.flatten(1).mean(1).tolist()
    asked = [None] * len(masks) if result.areas is None else list(map(number, result.areas))
    channels = masks.shape[1] if result.activation is not None else None
    complete = all(each is not None for each in (result.scores, result.whole, result.blank))
    kept = shares(result)[0].tolist() if complete else [math.nan] * len(masks)
    rows = []
    for variant, area in enumerate(achieved):
        score, complement = (
            None if values is None else number(values[0, variant]) for values in (result.scores, result.complements)
        )
        count = None if channels is None else round(area * channels)
        rows.append(MaskRow(variant, asked[variant], area, score, number(kept[variant]), complement, count))
    return sorted(rows, key=lambda row: (row.achieved, row.variant))


@dataclass(frozen=True)
class Sought:
    """What came of a search for the smallest area, as far as it is known."""

    wanted: float | None
    """The score to be kept."""
    area: float | None
    """The smallest that keeps it; `None` where none does."""
    tried: Sequence[tuple[float, float]] = ()
    """Areas with the scores that they keep."""
    count: int | None = None
    """Of masks of channels, how many they are."""


def search_summary(search: SmallestArea, keep: float) -> dict[str, Any]:
    """What a result of one query tells of the search for it, under "smallest", in plain JSON; `sought` reads it."""
    return {
        "keep": keep,
        "reached": bool(search.reached[0]),
        "area": number(search.area[0]),
        "count": None if search.count is None else int(search.count[0]),
        "areas": list(map(number, search.curve_areas)),
        "scores": list(map(number, search.curve_scores[0])),
    }


def sought(result: Attribution, search: SmallestArea | None) -> Sought | None:
    """The search's outcome, or what a result of one query tells of it, as `told` does."""
    if search is not None:
        pairs = zip(search.curve_areas.tolist(), map(number, search.curve_scores[0]), strict=True)
        return Sought(
            bound(search.wanted),
            bound(search.area) if bool(search.reached[0]) else None,
            [(area, score) for area, score in pairs if score is not None],
            None if search.count is None else int(search.count[0]),
        )
    about = result.about.get("smallest")
    if not isinstance(about, Mapping):
        return None
    keep, count, whole = _known(about.get("keep")), _known(about.get("count")), bound(result.whole)
    areas, scores = (each if isinstance(each := about.get(name), list) else [] for name in ("areas", "scores"))
    points = [(_known(area, 0, 1), _known(score)) for area, score in zip(areas, scores, strict=False)]
    return Sought(
        None if keep is None or whole is None else keep * whole,
        _known(about.get("area"), 0, 1),
        [(area, score) for area, score in points if area is not None and score is not None],
        None if count is None else int(count),
    )


def bound(values: Tensor | None) -> float | None:
    """The number of the one query, `(1,)`."""
    return None if values is None else number(values[0])


def _known(value: Any, low: float = -1e30, high: float = 1e30) -> float | None:
    """What a file tells, if it is a number that may be; a file may tell anything."""
    return float(value) if isinstance(value, int | float) and low <= value <= high else None


def figure(value: float | None) -> str:
    """A score as people read it.

    >>> figure(2.5310), figure(-0.00012345), figure(None)
    ('2.53', '-0.000123', '–')
    """
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def ticks(low: float, high: float, most: int = 5) -> Sequence[float]:
    """Round numbers between two, no more than so many and at least one.

    >>> ticks(0, 10.5), ticks(0.31, 0.35)
    ([0.0, 2.5, 5.0, 7.5, 10.0], [0.31, 0.32, 0.33, 0.34, 0.35])
    """
    span = high - low
    digit = 10.0 ** math.floor(math.log10(span / most))
    step = next(digit * times for times in (1, 2, 2.5, 5, 10, 20) if span / (digit * times) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
