"""What a table of rows comes down to: means of columns, in which rows may have weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@runtime_checkable
class Linear(Selective, Protocol):
    """A weighted mean of a column."""

    column: str

    def parts(self, columns: Columns) -> tuple[Array, Array]:
        """Each row's weight, of which the sum is 1, and how far its value lies from the mean that it counts in, both `(n,)`: 0
        for rows that do not count, of which not all may be."""
        ...


@dataclass(frozen=True)
class Mean:
    """The mean of a column over rows, of those where the column `where` is true; rows where one of them is NaN do not count."""

    column: str
    where: str | None = None

    def used(self, columns: Columns) -> Array:
        known = ~np.isnan(columns[self.column].astype(float))
        # Not `astype(bool)`, for which NaN, a row that does not say, would be true.
        return known & (columns[self.where].astype(float) == 1) if self.where else known

    def parts(self, columns: Columns) -> tuple[Array, Array]:
        used = self.used(columns)
        mean = self(columns, np.ones((1, len(used))))
        return used / used.sum(), np.where(used, columns[self.column].astype(float) - mean, 0.0)

    def __call__(self, columns: Columns, weights: Array) -> Array:
        used = self.used(columns)
        weights = weights if used.all() else weights[:, used]  # without a copy, where that will do
        with np.errstate(invalid="ignore"):
            return weights @ columns[self.column][used].astype(float) / weights.sum(1)


@dataclass(frozen=True)
class MeanOfClasses(Mean):
    """The mean over classes, which the column `label` names, of their means; a class without rows is left out."""

    def parts(self, columns: Columns) -> tuple[Array, Array]:
        rows = np.flatnonzero(self.used(columns))
        weights, residuals = np.zeros((2, len(columns[self.column])))
        _, of, counts = np.unique(columns["label"][rows], return_inverse=True, return_counts=True)
        values = columns[self.column][rows].astype(float)
        weights[rows] = 1 / (len(counts) * counts[of])
        residuals[rows] = values - (np.bincount(of, values) / counts)[of]
        return weights, residuals

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


def length(columns: Columns) -> int:
    """How many rows these columns have."""
    return len(next(iter(columns.values()), ()))


def chosen(columns: Columns, rows: Array) -> Columns:
    """Some of the rows, by their indices or a mask `(n,)`."""
    return {name: column[rows] for name, column in columns.items()}


def used(statistic: Statistic, columns: Columns) -> Array:
    """The rows that a statistic rests on, `(n,)`, bool."""
    if isinstance(statistic, Selective):
        return statistic.used(columns)
    return np.ones(length(columns), bool)
