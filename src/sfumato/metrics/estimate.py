"""Means with error bars: what a table of rows says, and how sure one may be of it.

Pictures are drawn again with replacement, not rows, as several targets of one picture are not independent of each other (the
cluster bootstrap; Efron & Tibshirani: *An introduction to the bootstrap*, 1993, chapters 8 and 13). The interval is that of
percentiles, somewhat further out for few pictures (`sfumato.metrics.intervals.levels`). Three things are not resampled so:

- a share of hits, a mean of zeros and ones, has Wilson's score interval, and a paired difference of two such that of Bonett &
  Price, both with as many rows as their pictures make independent (`sfumato.metrics.intervals.effective`): none of 30 hits is
  not [0, 0];
- of more than `LARGE` pictures, a mean has the interval of the normal distribution, with the variance that its rows' influence
  on it gives (Efron & Tibshirani, chapter 21), as all that resampling would add is time;
- other statistics of so many have the bag of little bootstraps (`sfumato.metrics.bags`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sfumato.metrics import bags, intervals
from sfumato.metrics.statistic import (
    Array,
    Columns,
    Linear,
    Mean,
    MeanOfClasses,
    Row,
    Selective,
    Statistic,
    chosen,
    length,
    mean,
    mean_of_classes,
    turned,
    used,
)

RESAMPLES = 1000
CONFIDENCE = intervals.CONFIDENCE

FEW = 10
"""Pictures below which an interval says little: of five it holds the mean in .80 to .92 of all cases, of ten in .86 to .96, by
simulation of normal, uniform and skewed values."""

LARGE = 20_000
"""Pictures above which nothing is drawn from the whole table: a thousand resamplings of so many take about a second."""

WEIGHTS = 2**20
"""How many weights are held at once, 8 MiB of them: resamplings of large tables go in turns."""


@dataclass(frozen=True)
class Estimate:
    """A statistic, and its interval of 95 % confidence."""

    value: float
    low: float
    high: float
    count: int
    """Rows that it rests on; of a difference, pairs of rows."""
    pictures: int = -1
    """Pictures that these rows are of; where it is not said, as many."""

    def __post_init__(self) -> None:
        if self.pictures < 0:
            object.__setattr__(self, "pictures", self.count)

    @property
    def few(self) -> bool:
        """Whether it rests on too few pictures for its interval to say much."""
        return self.pictures < FEW

    @property
    def settled(self) -> bool:
        """Whether a difference is more than chance: its interval does not hold 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Measure:
    """A number that a protocol's rows come down to."""

    name: str
    statistic: Statistic = field(compare=False)
    higher_is_better: bool = True
    percent: bool = False
    """Whether it is a share, to be shown in per cent."""

    def signed(self, difference: Estimate) -> tuple[str, str]:
        """A difference of two such numbers and its interval, as they are shown, without the unit."""
        if np.isnan(difference.value):
            return "–", "–"
        scale = 100 if self.percent else 1
        low, value, high = (f"{scale * each:+.3g}" for each in (difference.low, difference.value, difference.high))
        return value, f"{low} to {high}"


def estimated(
    measure: Measure,
    rows: Sequence[Row],
    against: Sequence[Row] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The statistic of rows, or its difference from that of the rows `against`, of the same pictures in the same order.

    A paired difference: each resampling draws the same pictures for both, and rows that count on one side only are left out. A
    single picture has no interval, NaN. Raises `ValueError` where the rows are no pairs.
    """
    return estimates([measure], rows, against, resamples, seed)[0]


def estimates(
    measures: Sequence[Measure],
    rows: Sequence[Row],
    against: Sequence[Row] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """As `estimated`, for several measures, from the same resamplings."""
    return estimates_of(measures, turned(rows), None if against is None else turned(against), resamples, seed)


def estimates_of(
    measures: Sequence[Measure],
    columns: Columns,
    against: Columns | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """As `estimates`, of columns. `picture` may be any values that tell pictures apart, whole numbers being the fastest."""
    count = length(columns)
    if against is None:
        return _estimates(measures, columns, None, resamples, seed)
    if count != length(against) or not _paired(columns, against):
        raise ValueError("a paired difference needs rows of the same pictures and labels, in the same order")
    if not count:
        return _estimates(measures, columns, against, resamples, seed)
    # Measures that count the same rows go together.
    groups: dict[bytes, tuple[Array, list[int]]] = {}
    for place, measure in enumerate(measures):
        pairs = ~(used(measure.statistic, columns) ^ used(measure.statistic, against))
        groups.setdefault(pairs.tobytes(), (pairs, []))[1].append(place)
    found: dict[int, Estimate] = {}
    for pairs, places in groups.values():
        one, other = (columns, against) if pairs.all() else (chosen(columns, pairs), chosen(against, pairs))
        differences = _estimates([measures[place] for place in places], one, other, resamples, seed)
        found |= dict(zip(places, differences, strict=True))
    return [found[place] for place in range(len(measures))]


def _estimates(
    measures: Sequence[Measure], columns: Columns, other: Columns | None, resamples: int, seed: int
) -> list[Estimate]:
    """The estimates of a table, or of its difference from another whose rows count in pairs with its own."""
    count = length(columns)
    if not count:
        return [Estimate(np.nan, np.nan, np.nan, 0) for _ in measures]
    of = _numbered(columns["picture"]) if "picture" in columns else np.arange(count)
    pictures = int(of.max()) + 1
    whole = _values(measures, columns, other, np.ones((1, count)))[:, 0]
    tables = [Table(measure, columns, other, of, float(value)) for measure, value in zip(measures, whole, strict=True)]
    found = {place: interval for place, table in enumerate(tables) if (interval := table.known(resamples, seed))}
    left = [place for place in range(len(tables)) if place not in found]
    rest = [measures[place] for place in left]
    if left and pictures > LARGE:

        def of_rows(rows: Array, weights: Array) -> Array:
            return _values(rest, chosen(columns, rows), None if other is None else chosen(other, rows), weights)

        ends = [
            [_percentiles(line, pictures, "weibull") for line in bag]  # of a hundred, "linear" would be too far in
            for bag in bags.deviations(of_rows, of, pictures, WEIGHTS, seed)
        ]
        found |= {
            place: tables[place].opened(tables[place].value + low, tables[place].value + high)
            for place, (low, high) in zip(left, np.mean(ends, 0).tolist(), strict=True)
        }
    elif left:
        drawn = [_values(rest, columns, other, weights) for weights in _resampled(of, pictures, resamples, seed)]
        found |= {
            place: tables[place].opened(*_percentiles(line, tables[place].pictures))
            for place, line in zip(left, np.concatenate(drawn, axis=1), strict=True)
        }
    return [Estimate(table.value, *found[place], table.count, table.pictures) for place, table in enumerate(tables)]


def _values(measures: Sequence[Measure], columns: Columns, other: Columns | None, weights: Array) -> Array:
    """The statistics, or their differences, for each of R weightings: `(measures, R)`."""
    values = np.stack([measure.statistic(columns, weights) for measure in measures])
    return values if other is None else values - [measure.statistic(other, weights) for measure in measures]


def _percentiles(drawn: Array, pictures: int, method: Literal["linear", "weibull"] = "linear") -> tuple[float, float]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, intervals.levels(pictures), method=method)
    return float(low), float(high)


class Table:
    """What a measure rests on, and the intervals that need no resampling."""

    def __init__(self, measure: Measure, columns: Columns, other: Columns | None, of: Array, value: float) -> None:
        self.measure, self.columns, self.other, self.of, self.value = measure, columns, other, of, value
        self.used = used(measure.statistic, columns)
        self.count = int(self.used.sum())
        self.pictures = int(np.count_nonzero(np.bincount(of[self.used])))

    def known(self, resamples: int, seed: int) -> tuple[float, float] | None:
        """The interval where it is known without resampling the table: of a single picture NaN."""
        statistic = self.measure.statistic
        if self.pictures < 2:
            return np.nan, np.nan
        if not isinstance(statistic, Linear):
            return None
        if type(statistic) is Mean and self._of_hits():
            return self._share(statistic)
        if self.of.max() < LARGE:
            return None
        if self.pictures <= LARGE:  # few of many pictures, as the difficult ones
            one, other = (None if each is None else chosen(each, self.used) for each in (self.columns, self.other))
            assert one is not None  # noqa: S101  # columns are not
            (estimate,) = _estimates([self.measure], one, other, resamples, seed)
            return estimate.low, estimate.high
        return self.opened(*self._normal(statistic))

    def opened(self, low: float, high: float) -> tuple[float, float]:
        """An interval as the rows' spread has it; but where that is a point, as all are hits or none is, one of a share."""
        if low != high or not self.measure.percent or abs(self.value) not in {0, 1}:
            return low, high
        statistic = self.measure.statistic
        if self.other is not None and self.value == 0 and not (isinstance(statistic, Linear) and self._of_hits()):
            return low, high  # the same numbers on both sides
        weights = statistic.parts(self.columns)[0] if isinstance(statistic, Linear) else self.used / self.count
        count = intervals.effective(0, weights, np.zeros(len(weights)), self.of)
        if self.other is None:
            return intervals.wilson(self.value, count)
        return intervals.paired_shares(float(self.value == 1), float(self.value == -1), count)

    def _of_hits(self) -> bool:
        """Whether the column holds zeros and ones: as it says, or as all is one or the other and the measure is a share."""
        return all(self._holds_hits(each) for each in (self.columns, self.other) if each is not None)

    def _holds_hits(self, columns: Columns) -> bool:
        assert isinstance(self.measure.statistic, Linear)  # noqa: S101  # who asks has looked
        column = columns[self.measure.statistic.column][self.used]
        ones, zeros = int((column == 1).sum()), int((column == 0).sum())
        return ones + zeros == self.count and (self.measure.percent or column.dtype == bool or 0 < ones < self.count)

    def _share(self, statistic: Mean) -> tuple[float, float]:
        weights, residuals = statistic.parts(self.columns)
        if self.other is None:
            variance = self.value * (1 - self.value)
            return intervals.wilson(self.value, intervals.effective(variance, weights, residuals, self.of))
        difference = np.where(
            self.used, self.columns[statistic.column].astype(float) - self.other[statistic.column].astype(float), 0
        )
        one, other = (float((difference == sign).sum()) / self.count for sign in (1, -1))
        residuals = np.where(self.used, difference - self.value, 0)
        count = intervals.effective(one + other - self.value**2, weights, residuals, self.of)
        return intervals.paired_shares(one, other, count)

    def _normal(self, statistic: Linear) -> tuple[float, float]:
        weights, residuals = statistic.parts(self.columns)
        influence = weights * residuals
        values = self.columns[statistic.column][self.used]
        least, most = float(values.min()), float(values.max())
        if self.other is not None:
            weights, residuals = statistic.parts(self.other)
            influence = influence - weights * residuals
            values = self.other[statistic.column][self.used]
            least, most = least - float(values.max()), most - float(values.min())
        half = intervals.Z * float(np.sqrt((np.bincount(self.of, influence) ** 2).sum()))
        return max(self.value - half, least), min(self.value + half, most)


def _paired(one: Columns, other: Columns) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in ("picture", "label") if name in one and name in other)


def _numbered(names: Array) -> Array:
    """The place of each name among the sorted names, `(n,)`."""
    if names.dtype.kind in "iu" and int(names.min()) >= 0 and int(names.max()) < 4 * len(names):  # without sorting them
        return (np.cumsum(np.bincount(names) > 0) - 1)[names]
    return np.unique(names, return_inverse=True)[1].ravel()


def _resampled(of: Array, pictures: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each row is drawn, `(R, count)` at a time, until there are so many resamplings."""
    generator = np.random.default_rng(seed)
    at_once = max(1, WEIGHTS // len(of))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = generator.integers(pictures, size=(size, pictures))
        times = np.stack([np.bincount(row, minlength=pictures) for row in drawn])
        yield times[:, of].astype(float)


__all__ = [
    "CONFIDENCE",
    "FEW",
    "LARGE",
    "RESAMPLES",
    "WEIGHTS",
    "Array",
    "Columns",
    "Estimate",
    "Linear",
    "Mean",
    "MeanOfClasses",
    "Measure",
    "Row",
    "Selective",
    "Statistic",
    "estimated",
    "estimates",
    "estimates_of",
    "mean",
    "mean_of_classes",
    "turned",
]
