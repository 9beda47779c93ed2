"""Statistics of a table of rows: means of columns, with weights of the rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Array = np.ndarray[Any, Any]

Row = Mapping[str, float | int | bool | str | Sequence[float]]
"""The numbers that `measure` computed for one case. `picture` and `label`, if present, name the picture and the class."""

Columns = Mapping[str, Array]
"""A table as columns: one array for each name, all of the same length."""

Statistic = Callable[[Columns, Float[np.ndarray, "R n"]], Float[np.ndarray, " R"]]
"""A function of columns with n rows and of R weightings that returns R numbers; NaN if no row with a weight counts."""


@runtime_checkable
class Selective(Protocol):
    """A statistic that counts only some of the rows. A statistic without this method counts all rows."""

    def used(self, columns: Columns) -> Bool[np.ndarray, " n"]:
        """Whether each row counts."""
        ...


@runtime_checkable
class Linear(Selective, Protocol):
    """A weighted mean of a column."""

    column: str

    def parts(self, columns: Columns) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """The weight of each row, with the sum 1, and how far its value lies from its mean.

        Both are 0 for rows that do not count, and new arrays, which the caller may change. At least one row must count.
        """
        ...


@dataclass(frozen=True)
class Mean:
    """The mean of a column over all rows, or over rows in which the column `where` is true. Rows with NaN do not count."""

    column: str
    where: str | None = None

    def used(self, columns: Columns) -> Bool[np.ndarray, " n"]:
        is_number = ~np.isnan(np.asarray(columns[self.column], float))
        # Not `astype(bool)`: NaN, the mark of a missing value, would become True.
        return is_number & (np.asarray(columns[self.where], float) == 1) if self.where else is_number

    def parts(self, columns: Columns) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        counts = self.used(columns)
        mean = self(columns, np.ones((1, len(counts))))
        return counts / counts.sum(), np.where(counts, np.asarray(columns[self.column], float) - mean, 0.0)

    def __call__(self, columns: Columns, weights: Float[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
        counts = self.used(columns)
        weights = weights if counts.all() else weights[:, counts]  # no copy if all rows count
        with np.errstate(invalid="ignore"):
            return weights @ np.asarray(columns[self.column][counts], float) / weights.sum(1)


@dataclass(frozen=True)
class MeanOfClasses(Mean):
    """The mean over classes, named by the column `label`, of the mean of each class. Classes without rows are left out."""

    def parts(self, columns: Columns) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        counts = self.used(columns)
        class_of_row = numbered(columns["label"])
        values = np.where(counts, np.asarray(columns[self.column], float), 0.0)
        rows_of_class = np.bincount(class_of_row, counts)
        means = np.bincount(class_of_row, values) / np.maximum(rows_of_class, 1)
        classes = np.count_nonzero(rows_of_class)
        shares = 1 / (classes * np.maximum(rows_of_class, 1))
        return np.where(counts, shares[class_of_row], 0.0), np.where(counts, values - means[class_of_row], 0.0)

    def __call__(self, columns: Columns, weights: Float[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
        rows = np.flatnonzero(self.used(columns))
        if not len(rows):
            return np.full(len(weights), np.nan)
        rows = rows[np.argsort(columns["label"][rows], kind="stable")]  # class by class
        labels, values = columns["label"][rows], np.asarray(columns[self.column][rows], float)
        starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
        weights = weights[:, rows]
        total = np.add.reduceat(weights, starts, 1)  # (R, classes)
        with np.errstate(invalid="ignore"):
            accuracy = np.add.reduceat(weights * values, starts, 1) / total
            # Not `nansum`: infinite values, whose mean is NaN where one has the weight 0, would count as 0.
            return np.where(total > 0, accuracy, 0).sum(1) / (total > 0).sum(1)


def mean(column: str, where: str | None = None) -> Statistic:
    """The mean of a column over all rows, or over rows in which the column `where` is true. Rows with NaN do not count."""
    return Mean(column, where)


def mean_of_classes(column: str, where: str | None = None) -> Statistic:
    """The mean over classes of the mean of each class, over all rows or over rows in which the column `where` is true.

    A class without rows is left out; it does not count as 0.
    """
    return MeanOfClasses(column, where)


def as_columns(rows: Sequence[Row]) -> Columns:
    """Rows as columns. A missing value is NaN; in a column of lists, it is a list of NaN of the same length.

    Raises `ValueError` if the lists of one column have different lengths.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _column(name, rows) for name in names}


def _column(name: str, rows: Sequence[Row]) -> Shaped[np.ndarray, "n ..."]:
    values = [row.get(name) for row in rows]
    lengths = {len(value) for value in values if isinstance(value, list | tuple)}
    if len(lengths) > 1:
        raise ValueError(
            f"all lists of a column must have one length; got {name!r}: {sorted(lengths)}. Keep rows of other settings apart"
        )
    missing = [np.nan] * lengths.pop() if lengths else np.nan
    return np.array([missing if value is None else value for value in values])


def numbered(names: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The index of each name in the sorted list of different names."""
    # Small numbers need not be sorted.
    if names.size and names.dtype.kind in "iu" and int(names.min()) >= 0 and int(names.max()) < 4 * len(names):
        return (np.cumsum(np.bincount(names) > 0) - 1)[names]
    return np.unique(names, return_inverse=True)[1].ravel()


def length(columns: Columns) -> int:
    """The number of rows of these columns."""
    return len(next(iter(columns.values()), ()))


def select_rows(columns: Columns, rows: Int[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> Columns:
    """The columns of some rows; `rows` holds their indices, or is a mask."""
    return {name: column[rows] for name, column in columns.items()}


def rows_used(statistic: Statistic, columns: Columns) -> Bool[np.ndarray, " n"]:
    """Whether a statistic counts each row."""
    if isinstance(statistic, Selective):
        return statistic.used(columns)
    return np.ones(length(columns), bool)
