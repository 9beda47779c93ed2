"""A protocol's cases one by one: where a method does best and worst, and where methods differ."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sfumato.metrics.estimate import Measure
from sfumato.metrics.statistic import Array, Columns, chosen, length

AT_ONCE = 256
"""Rows that are judged together; each weighs the others with 0."""


@dataclass(frozen=True)
class Case:
    """A query that a protocol has judged."""

    query: int
    """Its number in the run."""
    example: str
    target: int
    label: int
    """The class that was explained: the target, or what the model predicted."""


def by_case(measure: Measure, columns: Columns) -> Array:
    """What a measure is of each row alone, `(n,)`; NaN for those of which it says nothing: one may be tuned on others."""
    parts = [np.empty(0)]
    for first in range(0, length(columns), AT_ONCE):
        rows = np.arange(first, min(first + AT_ONCE, length(columns)))
        parts.append(measure.statistic(chosen(columns, rows), np.eye(len(rows))))
    return np.concatenate(parts)


def ranked(values: Array, higher_is_better: bool) -> Array:
    """The places of the known values, the best first; equal ones in their order.

    >>> ranked(np.array([1.0, np.nan, 2.0, 1.0]), higher_is_better=True).tolist()
    [2, 0, 3]
    """
    known = np.flatnonzero(np.isfinite(values))
    return known[np.argsort(-values[known] if higher_is_better else values[known], kind="stable")]


def disagreements(
    queries: Mapping[str, Array], values: Mapping[str, Array], most: int
) -> list[tuple[int, dict[str, float], str, str]]:
    """The cases where methods differ most, by their values of the same queries: of each the query, the known values, and the
    methods of the largest and the least; none where all agree.

    >>> queries = {"one": np.array([3, 5]), "two": np.array([3, 5]), "three": np.array([5])}
    >>> values = {"one": np.array([1.0, 0.5]), "two": np.array([1.0, 0.9]), "three": np.array([0.6])}
    >>> disagreements(queries, values, 5)
    [(5, {'one': 0.5, 'two': 0.9, 'three': 0.6}, 'two', 'one')]
    """
    methods = list(queries)
    if not methods:
        return []
    first = queries[methods[0]]
    everywhere = np.unique(
        np.concatenate([first, *(some for some in queries.values() if not np.array_equal(some, first))])
    )
    # Of a million cases each copy of this table is tens of megabytes: unknown values are NaN, which fmax and fmin pass over.
    table = np.full((len(methods), len(everywhere)), np.nan)
    for row, method in enumerate(methods):
        known = np.isfinite(values[method])
        table[row, np.searchsorted(everywhere, queries[method][known])] = values[method][known]
    apart = np.fmax.reduce(table)
    apart -= np.fmin.reduce(table)
    np.nan_to_num(apart, copy=False)  # of cases that no method knows
    np.negative(apart, out=apart)
    found = []
    for place in np.argsort(apart, kind="stable")[:most].tolist():
        if apart[place] < 0:
            column = table[:, place].tolist()
            here = {method: value for method, value in zip(methods, column, strict=True) if np.isfinite(value)}
            upper, lower = methods[int(np.nanargmax(column))], methods[int(np.nanargmin(column))]
            found.append((int(everywhere[place]), here, upper, lower))
    return found
