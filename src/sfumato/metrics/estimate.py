"""Statistics of a table of rows, with confidence intervals.

The intervals come from a cluster bootstrap: it draws pictures with replacement, not rows, because several targets of one
picture are not independent of each other (Efron & Tibshirani: *An introduction to the bootstrap*, 1993, chapters 8 and 13).
An interval lies between percentiles of the resampled statistic, wider ones for few pictures
(`sfumato.metrics.intervals.levels`). Three cases work differently:

- A share of hits, which is a mean of zeros and ones, has Wilson's score interval. A paired difference of two shares has the
  interval of Bonett & Price. Both use the effective number of independent rows (`sfumato.metrics.intervals.effective`).
  For example, the interval of 0 hits among 30 is not [0, 0].
- With more than `LARGE` pictures, a mean has the interval of the normal distribution, with a variance from the influence of
  each row on the mean (Efron & Tibshirani, chapter 21). Resampling would add only time.
- With more than `LARGE` pictures, any other statistic has the bag of little bootstraps (`sfumato.metrics.bags`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

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
    as_columns,
    length,
    mean,
    mean_of_classes,
    numbered,
    rows_used,
    select_rows,
)

RESAMPLES = 1000
CONFIDENCE = intervals.CONFIDENCE

FEW = 10
"""With fewer pictures an interval is not reliable. By simulation of normal, uniform and skewed values, the interval contains
the mean in .80 to .92 of all cases for five pictures, and in .86 to .96 for ten."""

LARGE = 20_000
"""With more pictures the whole table is not resampled. A thousand resamplings of this many pictures take about a second."""

WEIGHTS = 2**20
"""How many weights are in memory together, 8 MiB of them. Resamplings of large tables are split into chunks."""


@dataclass(frozen=True)
class Estimate:
    """The value of a statistic and its 95 % confidence interval."""

    value: float
    low: float
    high: float
    count: int
    """The number of rows that count; for a difference, of pairs of rows."""
    pictures: int = -1
    """The number of pictures of these rows; -1, the default, stands for `count`."""

    def __post_init__(self) -> None:
        if self.pictures < 0:
            object.__setattr__(self, "pictures", self.count)

    @property
    def few(self) -> bool:
        """Whether there are too few pictures for a reliable interval."""
        return self.pictures < FEW

    @property
    def settled(self) -> bool:
        """Whether a difference is more than chance: its interval does not contain 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Measure:
    """One number that a protocol computes from a table of its rows."""

    name: str
    statistic: Statistic = field(compare=False)
    higher_is_better: bool = True
    percent: bool = False
    """Whether the number is a share, which tables show in per cent."""

    def signed(self, difference: Estimate) -> tuple[str, str]:
        """A difference of two such numbers and its interval, as text with signs and without the unit."""
        if np.isnan(difference.value):
            return "–", "–"
        scale = 100 if self.percent else 1
        low, value, high = (f"{scale * bound:+.3g}" for bound in (difference.low, difference.value, difference.high))
        return value, f"{low} to {high}"


def estimated(
    measure: Measure,
    rows: Sequence[Row],
    against: Sequence[Row] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The statistic of `rows`; with `against`, the paired difference of the statistics of `rows` and of `against`.

    For a paired difference both tables hold the same pictures in the same order. Each resampling draws the same pictures from
    both, and rows that count in one table only are left out. The interval of a single picture is NaN. Raises `ValueError` if
    the rows are no pairs.
    """
    return estimates([measure], rows, against, resamples, seed)[0]


def estimates(
    measures: Sequence[Measure],
    rows: Sequence[Row],
    against: Sequence[Row] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Like `estimated`, for several measures, from the same resamplings."""
    return estimates_of(measures, as_columns(rows), None if against is None else as_columns(against), resamples, seed)


@np.errstate(invalid="ignore", over="ignore")  # values may be infinite
def estimates_of(
    measures: Sequence[Measure],
    columns: Columns,
    against: Columns | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Like `estimates`, from columns. `picture` may hold any values that differ between pictures; whole numbers are fastest."""
    count = length(columns)
    if against is None:
        return _estimates(measures, columns, None, resamples, seed)
    if count != length(against) or not _paired(columns, against):
        raise ValueError("a paired difference needs rows of the same pictures and labels, in the same order")
    if not count:
        return _estimates(measures, columns, against, resamples, seed)
    # Measures that count the same rows share their resamplings.
    groups: dict[bytes, tuple[Array, list[int]]] = {}
    for place, measure in enumerate(measures):
        pairs = rows_used(measure.statistic, columns) == rows_used(measure.statistic, against)
        groups.setdefault(pairs.tobytes(), (pairs, []))[1].append(place)
    differences: dict[int, Estimate] = {}
    for pairs, places in groups.values():
        tables = (columns, against) if pairs.all() else (select_rows(columns, pairs), select_rows(against, pairs))
        group = _estimates([measures[place] for place in places], *tables, resamples, seed)
        differences |= dict(zip(places, group, strict=True))
    return [differences[place] for place in range(len(measures))]


def _estimates(
    measures: Sequence[Measure], columns: Columns, against: Columns | None, resamples: int, seed: int
) -> list[Estimate]:
    """The estimates of a table, or of its difference from the table `against`, whose rows pair with its own."""
    count = length(columns)
    if not count:
        return [Estimate(np.nan, np.nan, np.nan, 0) for _ in measures]
    picture_of_row = numbered(columns["picture"]) if "picture" in columns else np.arange(count)
    pictures = int(picture_of_row.max()) + 1
    values = _values(measures, columns, against, np.ones((1, count)))[:, 0]
    samples = [
        Sample(measure, columns, against, picture_of_row, float(value))
        for measure, value in zip(measures, values, strict=True)
    ]
    interval_at = {
        place: interval for place, sample in enumerate(samples) if (interval := sample.direct(resamples, seed))
    }
    open_places = [place for place in range(len(samples)) if place not in interval_at]
    open_measures = [measures[place] for place in open_places]
    if open_places and pictures > LARGE:

        def of_rows(rows: Array, weights: Array) -> Array:
            sides = (select_rows(columns, rows), None if against is None else select_rows(against, rows))
            return _values(open_measures, *sides, weights)

        ends = [
            [_percentiles(line, pictures, "weibull") for line in bag]  # "linear" is too narrow for 100 values
            for bag in bags.deviations(of_rows, picture_of_row, pictures, WEIGHTS, seed)
        ]
        interval_at |= {
            place: samples[place].widened(samples[place].value + low, samples[place].value + high)
            for place, (low, high) in zip(open_places, np.mean(ends, 0).tolist(), strict=True)
        }
    elif open_places:
        draws = _resampled(picture_of_row, pictures, resamples, seed)
        resampled = np.concatenate([_values(open_measures, columns, against, weights) for weights in draws], axis=1)
        interval_at |= {
            place: samples[place].widened(*_percentiles(line, samples[place].pictures))
            for place, line in zip(open_places, resampled, strict=True)
        }
    unknown = np.nan, np.nan  # what is infinite, or a difference of such, has no interval
    return [
        Estimate(
            sample.value,
            *(interval_at[place] if np.isfinite(sample.value) else unknown),
            sample.count,
            sample.pictures,
        )
        for place, sample in enumerate(samples)
    ]


def _values(
    measures: Sequence[Measure], columns: Columns, against: Columns | None, weights: Float[np.ndarray, "R n"]
) -> Float[np.ndarray, "measures R"]:
    """The statistics, or their differences, for each of R weightings."""
    values = np.stack([measure.statistic(columns, weights) for measure in measures])
    return values if against is None else values - [measure.statistic(against, weights) for measure in measures]


def _percentiles(
    values: Float[np.ndarray, " R"], pictures: int, method: Literal["linear", "weibull"] = "linear"
) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.nan, np.nan
    low, high = np.percentile(finite, intervals.levels(pictures), method=method)
    return float(low), float(high)


class Sample:
    """The rows that a measure counts, its value on them, and the intervals that need no resampling."""

    def __init__(
        self,
        measure: Measure,
        columns: Columns,
        against: Columns | None,
        picture_of_row: Int[np.ndarray, " n"],
        value: float,
    ) -> None:
        self.measure, self.value = measure, value
        self.columns, self.against = columns, against
        self.picture_of_row = picture_of_row
        self.used = rows_used(measure.statistic, columns)
        self.count = int(self.used.sum())
        self.pictures = int(np.count_nonzero(np.bincount(picture_of_row[self.used])))

    def direct(self, resamples: int, seed: int) -> tuple[float, float] | None:
        """The interval if the whole table need not be resampled, else `None`. The interval of one picture is NaN."""
        statistic = self.measure.statistic
        if self.pictures < 2:
            return np.nan, np.nan
        if not isinstance(statistic, Linear):
            return None
        if type(statistic) is Mean and self._of_hits():
            return self._share(statistic)
        if self.picture_of_row.max() < LARGE:
            return None
        if self.pictures <= LARGE:  # few of many pictures count, such as the difficult ones
            columns = select_rows(self.columns, self.used)
            against = None if self.against is None else select_rows(self.against, self.used)
            (estimate,) = _estimates([self.measure], columns, against, resamples, seed)
            return estimate.low, estimate.high
        return self.widened(*self._normal(statistic))

    def widened(self, low: float, high: float) -> tuple[float, float]:
        """The interval itself; but if it is a point, as all rows are hits or none is, the interval of a share."""
        if low != high or not self.measure.percent or abs(self.value) not in {0, 1}:
            return low, high
        statistic = self.measure.statistic
        if self.against is not None and self.value == 0 and not (isinstance(statistic, Linear) and self._of_hits()):
            return low, high  # both tables hold the same numbers
        weights = statistic.parts(self.columns)[0] if isinstance(statistic, Linear) else self.used / self.count
        count = intervals.effective(0, weights, np.zeros(len(weights)), self.picture_of_row)
        if self.against is None:
            return intervals.wilson(self.value, count)
        return intervals.paired_shares(float(self.value == 1), float(self.value == -1), count)

    def _of_hits(self) -> bool:
        """Whether the column holds hits: only zeros and ones, and both unless it is bool or the measure is a share."""
        return all(self._holds_hits(table) for table in (self.columns, self.against) if table is not None)

    def _holds_hits(self, columns: Columns) -> bool:
        assert isinstance(self.measure.statistic, Linear)  # noqa: S101  # the callers have checked it
        column = columns[self.measure.statistic.column][self.used]
        ones, zeros = int((column == 1).sum()), int((column == 0).sum())
        return ones + zeros == self.count and (self.measure.percent or column.dtype == bool or 0 < ones < self.count)

    def _share(self, statistic: Mean) -> tuple[float, float]:
        weights, residuals = statistic.parts(self.columns)
        if self.against is None:
            variance = self.value * (1 - self.value)
            return intervals.wilson(self.value, intervals.effective(variance, weights, residuals, self.picture_of_row))
        difference = np.where(
            self.used,
            np.asarray(self.columns[statistic.column], float) - np.asarray(self.against[statistic.column], float),
            0,
        )
        gained, lost = (float((difference == sign).sum()) / self.count for sign in (1, -1))
        residuals = np.where(self.used, difference - self.value, 0)
        count = intervals.effective(gained + lost - self.value**2, weights, residuals, self.picture_of_row)
        return intervals.paired_shares(gained, lost, count)

    def _normal(self, statistic: Linear) -> tuple[float, float]:
        influence = _influence(statistic, self.columns)
        least, most = self._range(self.columns[statistic.column])
        if self.against is not None:
            influence -= _influence(statistic, self.against)
            low, high = self._range(self.against[statistic.column])
            least, most = least - high, most - low
        half = intervals.Z * float(np.sqrt((np.bincount(self.picture_of_row, influence) ** 2).sum()))
        return max(self.value - half, least), min(self.value + half, most)

    def _range(self, column: Shaped[np.ndarray, " n"]) -> tuple[float, float]:
        """The lowest and the highest value of the rows that count."""
        values = np.asarray(column, float)
        return (
            float(values.min(where=self.used, initial=np.inf)),
            float(values.max(where=self.used, initial=-np.inf)),
        )


def _influence(statistic: Linear, columns: Columns) -> Float[np.ndarray, " n"]:
    """How far each row moves the statistic from what it would be with a residual of 0."""
    weights, residuals = statistic.parts(columns)
    residuals *= weights
    return residuals


def _paired(columns: Columns, against: Columns) -> bool:
    shared = [name for name in ("picture", "label") if name in columns and name in against]
    return all(np.array_equal(columns[name], against[name]) for name in shared)


def _resampled(
    picture_of_row: Int[np.ndarray, " n"], pictures: int, resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "R n"]]:
    """Yield how often each row is drawn, for chunks of R resamplings."""
    generator = np.random.default_rng(seed)
    chunk = max(1, WEIGHTS // len(picture_of_row))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        draws = generator.integers(pictures, size=(size, pictures))
        times = np.stack([np.bincount(row, minlength=pictures) for row in draws])
        yield times[:, picture_of_row].astype(float)


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
    "as_columns",
    "estimated",
    "estimates",
    "estimates_of",
    "mean",
    "mean_of_classes",
]
