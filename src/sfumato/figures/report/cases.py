"""The cases of a protocol one by one: the best and worst of a method, and those where methods differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sfumato.metrics.estimate import Measure
from sfumato.metrics.statistic import Columns, length, select_rows

ROWS_AT_ONCE = 256
"""Rows whose values are computed together; the weights of the others are 0."""


@dataclass(frozen=True)
class Case:
    """A query that a protocol has measured."""

    query: int
    """The number of the query in the run."""
    example: str
    target: int
    label: int
    """The class that was explained: the target, or what the model predicted."""


def by_case(measure: Measure, columns: Columns) -> Float[np.ndarray, " n"]:
    """The value of a measure for each row alone; NaN for rows without one, such as those that tune a threshold."""
    parts = [np.empty(0)]
    for first in range(0, length(columns), ROWS_AT_ONCE):
        rows = np.arange(first, min(first + ROWS_AT_ONCE, length(columns)))
        parts.append(measure.statistic(select_rows(columns, rows), np.eye(len(rows))))
    return np.concatenate(parts)


def rank(values: Float[np.ndarray, " n"], higher_is_better: bool) -> Int[np.ndarray, " m"]:
    """The indices of the finite values, the best first; equal values stay in their order.

    >>> rank(np.array([1.0, np.nan, 2.0, 1.0]), higher_is_better=True).tolist()
    [2, 0, 3]
    """
    rows = np.flatnonzero(np.isfinite(values))
    return rows[np.argsort(-values[rows] if higher_is_better else values[rows], kind="stable")]


class Disagreement(NamedTuple):
    """A query for which the values of methods differ."""

    query: int
    values: dict[str, float]
    """The finite values, by method."""
    highest: str
    """The method with the highest value."""
    lowest: str


def disagreements(
    queries: Mapping[str, Int[np.ndarray, " _"]], values: Mapping[str, Float[np.ndarray, " _"]], most: int
) -> list[Disagreement]:
    """The queries for which the methods' values differ most, at most so many; none for which all agree.

    `queries` and `values` are those of each method.

    >>> queries = {"one": np.array([3, 5]), "two": np.array([3, 5]), "three": np.array([5])}
    >>> values = {"one": np.array([1.0, 0.5]), "two": np.array([1.0, 0.9]), "three": np.array([0.6])}
    >>> disagreements(queries, values, 5)
    [Disagreement(query=5, values={'one': 0.5, 'two': 0.9, 'three': 0.6}, highest='two', lowest='one')]
    """
    methods = list(queries)
    if not methods:
        return []
    first = queries[methods[0]]
    others = (numbers for numbers in queries.values() if not np.array_equal(numbers, first))
    all_queries = np.unique(np.concatenate([first, *others]))
    # Each copy of this table has tens of megabytes for a million cases: unknown values are NaN, which fmax and fmin pass over.
    table = np.full((len(methods), len(all_queries)), np.nan)
    for row, method in enumerate(methods):
        known = np.isfinite(values[method])
        table[row, np.searchsorted(all_queries, queries[method][known])] = values[method][known]
    span = np.fmax.reduce(table)
    span -= np.fmin.reduce(table)
    np.nan_to_num(span, copy=False)  # cases that no method knows
    np.negative(span, out=span)
    largest = []
    for column in np.argsort(span, kind="stable")[:most].tolist():
        if span[column] < 0:
            row_values = table[:, column]
            finite = {m: value for m, value in zip(methods, row_values.tolist(), strict=True) if np.isfinite(value)}
            highest, lowest = methods[int(np.nanargmax(row_values))], methods[int(np.nanargmin(row_values))]
            largest.append(Disagreement(int(all_queries[column]), finite, highest, lowest))
    return largest
