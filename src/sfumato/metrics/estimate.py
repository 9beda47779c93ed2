"""Means with error bars: what a table of rows says, and how sure one may be of it.

Pictures are drawn again with replacement, not rows, as several targets of one picture are not independent of each other (the
cluster bootstrap; Efron & Tibshirani: *An introduction to the bootstrap*, 1993, chapters 8 and 13).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

Array = np.ndarray[Any, Any]

Row = Mapping[str, float | int | bool | str | Sequence[float]]
"""What `measure` found in one case. `picture` and `label`, where given, name the picture and the class."""

Columns = Mapping[str, Array]
"""Rows turned: arrays of equal length, one a name."""

Statistic = Callable[[Columns, Array], Array]
"""From columns of n rows and weights `(R, n)` to R numbers; NaN where the weights leave nothing to say."""


@runtime_checkable
class Selective(Protocol):
    """A statistic that says which rows it rests on; any other rests on all."""

    def used(self, columns: Columns) -> Array:
        """Whether each row counts, `(n,)`, bool."""
        ...


RESAMPLES = 1000
CONFIDENCE = 0.95

WEIGHTS = 2**22
"""How many weights are held at once, 32 MiB of them: resamplings of large tables go in turns."""


@dataclass(frozen=True)
class Estimate:
    """A statistic, and the interval that holds the middle 95 % of what resampled pictures give."""

    value: float
    low: float
    high: float
    count: int
    """Rows that it rests on."""

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
        scale = 100 if self.percent else 1
        low, value, high = (f"{scale * each:+.3g}" for each in (difference.low, difference.value, difference.high))
        return value, f"{low} to {high}"


@dataclass(frozen=True)
class Mean:
    """The mean of a column over rows, of those where the column `where` is true; rows where one of them is NaN do not count."""

    column: str
    where: str | None = None

    def used(self, columns: Columns) -> Array:
        known = ~np.isnan(columns[self.column].astype(float))
        # Not `astype(bool)`, for which NaN, a row that does not say, would be true.
        return known & (columns[self.where].astype(float) == 1) if self.where else known

    def __call__(self, columns: Columns, weights: Array) -> Array:
        used = self.used(columns)
        weights = weights if used.all() else weights[:, used]  # without a copy, where that will do
        with np.errstate(invalid="ignore"):
            return weights @ columns[self.column][used].astype(float) / weights.sum(1)


@dataclass(frozen=True)
class MeanOfClasses(Mean):
    """The mean over classes, which the column `label` names, of their means; a class without rows is left out."""

    def __call__(self, columns: Columns, weights: Array) -> Array:
        used = np.flatnonzero(self.used(columns))
        if not len(used):
            return np.full(len(weights), np.nan)
        used = used[np.argsort(columns["label"][used], kind="stable")]  # class by class
        labels, values = columns["label"][used], columns[self.column][used].astype(float)
        starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
        weights = weights[:, used]
        total = np.add.reduceat(weights, starts, 1)  # (R, classes)
        with np.errstate(invalid="ignore"):
            accuracy = np.add.reduceat(weights * values, starts, 1) / total
            return np.nansum(accuracy, 1) / (total > 0).sum(1)


def mean(column: str, where: str | None = None) -> Statistic:
    """The mean over rows, of those where the column `where` is true; rows where one of them is NaN do not count."""
    return Mean(column, where)


def mean_of_classes(column: str, where: str | None = None) -> Statistic:
    """The mean over classes of their means over rows, of rows where the column `where` is true; a class without rows is left
    out, and not counted as 0."""
    return MeanOfClasses(column, where)


def turned(rows: Sequence[Row]) -> Columns:
    """Rows as columns; a name that a row lacks is NaN there, and in a column of lists as many NaN as the others have."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _column(name, rows) for name in names}


def _column(name: str, rows: Sequence[Row]) -> Array:
    values = [row.get(name) for row in rows]
    lengths = {len(value) for value in values if isinstance(value, list | tuple)}
    if len(lengths) > 1:
        raise ValueError(
            f"rows hold lists of different lengths under {name!r}: {sorted(lengths)}; they are of different settings"
        )
    missing = [np.nan] * lengths.pop() if lengths else np.nan
    return np.array([missing if value is None else value for value in values])


def estimated(
    measure: Measure,
    rows: Sequence[Row],
    against: Sequence[Row] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The statistic of rows, or its difference from that of the rows `against`, of the same pictures in the same order.

    A paired difference: each resampling draws the same pictures for both. The interval is that of percentiles; a single
    picture has none, NaN.
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
    if not rows:
        return [Estimate(np.nan, np.nan, np.nan, 0) for _ in measures]
    return estimates_of(measures, turned(rows), None if against is None else turned(against), resamples, seed)


def estimates_of(
    measures: Sequence[Measure],
    columns: Columns,
    other: Columns | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """As `estimates`, of rows that are columns already. A difference rests on the rows of which both have a value."""
    rows = next(iter(columns.values()), ())
    if not len(rows):
        return [Estimate(np.nan, np.nan, np.nan, 0) for _ in measures]
    against = rows if other is None else next(iter(other.values()))
    if other is not None and not (len(rows) == len(against) and _paired(columns, other)):
        raise ValueError("a paired difference needs rows of the same pictures and labels, in the same order")

    def values(weights: Array) -> Array:
        found = np.stack([measure.statistic(columns, weights) for measure in measures])
        return found if other is None else found - [measure.statistic(other, weights) for measure in measures]

    count = len(rows)
    whole = values(np.ones((1, count)))[:, 0]
    drawn = np.concatenate(
        [np.empty((len(measures), 0)), *map(values, _resampled(columns, count, resamples, seed))], axis=1
    )
    return [
        Estimate(float(value), *_interval(line), _count(measure, columns))
        for measure, value, line in zip(measures, whole, drawn, strict=True)
    ]


def _interval(drawn: Array) -> tuple[float, float]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def _count(measure: Measure, columns: Columns) -> int:
    if isinstance(measure.statistic, Selective):
        return int(measure.statistic.used(columns).sum())
    return len(next(iter(columns.values())))


def _paired(one: Columns, other: Columns) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in ("picture", "label") if name in one and name in other)


def _resampled(columns: Columns, count: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each row is drawn, `(R, count)` at a time, until there are so many resamplings."""
    generator = np.random.default_rng(seed)
    of = np.unique(columns["picture"], return_inverse=True)[1] if "picture" in columns else np.arange(count)
    pictures = int(of.max()) + 1
    if pictures == 1:
        return
    at_once = max(1, WEIGHTS // count)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = generator.integers(pictures, size=(size, pictures))
        times = np.stack([np.bincount(row, minlength=pictures) for row in drawn])
        yield times[:, of].astype(float)
