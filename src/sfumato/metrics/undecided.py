"""Which methods are not clearly worse than the best one."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from sfumato.metrics.estimate import RESAMPLES, Measure, estimates_of
from sfumato.metrics.statistic import Columns, length, select_rows

KEYS = ("picture", "label")
"""The columns that identify a query. Rows of two methods with equal values in these columns are a pair."""


def undecided(
    measure: Measure,
    methods: Mapping[str, Columns],
    keys: Sequence[str] = KEYS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> frozenset[str]:
    """The best of several methods, and all methods that are not clearly worse. `methods` holds the columns of their rows.

    A method is clearly worse if the interval of its paired difference from the best, on their common rows, does not contain 0.
    If the rows cannot be paired, because `keys` do not identify them or because no row is common, it is clearly worse if the
    two intervals do not overlap. With too few pictures (`FEW`) no method is clearly worse. Methods whose value is NaN are left
    out. The set is empty if only one method has a value, as there is nothing to decide.
    """
    return undecided_by([measure], methods, keys, resamples, seed)[0]


def undecided_by(
    measures: Sequence[Measure],
    methods: Mapping[str, Columns],
    keys: Sequence[str] = KEYS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[frozenset[str]]:
    """Like `undecided`, for several measures, from the same resamplings.

    `methods` may be a mapping that reads columns on access: at most two methods are in memory together.
    """
    values = {method: _values(measures, methods[method]) for method in methods}
    leaders: dict[str, list[int]] = {}
    contenders: list[set[str]] = [set() for _ in measures]
    for place, measure in enumerate(measures):
        finite = {method: numbers[place] for method, numbers in values.items() if np.isfinite(numbers[place])}
        if len(finite) > 1:
            best = (max if measure.higher_is_better else min)(finite, key=finite.__getitem__)
            leaders.setdefault(best, []).append(place)
            contenders[place].add(best)
    for best, places in leaders.items():
        columns = methods[best]
        for method in values:
            compared = [place for place in places if method != best and np.isfinite(values[method][place])]
            if compared:
                some_measures = [measures[place] for place in compared]
                worse = _clearly_worse(some_measures, columns, methods[method], keys, resamples, seed)
                for place, is_worse in zip(compared, worse, strict=True):
                    if not is_worse:
                        contenders[place].add(method)
    return [frozenset(names) for names in contenders]


@np.errstate(invalid="ignore", over="ignore")  # values may be infinite
def _values(measures: Sequence[Measure], columns: Columns) -> list[float]:
    """The measures of one method; NaN if it has no rows."""
    weights = np.ones((1, length(columns)))
    return [float(measure.statistic(columns, weights)[0]) if weights.size else np.nan for measure in measures]


def _clearly_worse(
    measures: Sequence[Measure], best: Columns, candidate: Columns, keys: Sequence[str], resamples: int, seed: int
) -> list[bool]:
    """For each measure, whether the candidate clearly differs from the best method."""
    pairs = aligned(best, candidate, keys)
    differences = None if pairs is None else estimates_of(measures, *pairs, resamples, seed)
    if differences and all(difference.count for difference in differences):
        return [difference.settled and not difference.few for difference in differences]
    of_best, of_candidate = (estimates_of(measures, columns, None, resamples, seed) for columns in (best, candidate))
    return [
        (a.high < b.low or b.high < a.low) and not (a.few or b.few) for a, b in zip(of_best, of_candidate, strict=True)
    ]


def aligned(first: Columns, second: Columns, keys: Sequence[str] = KEYS) -> tuple[Columns, Columns] | None:
    """The common rows of two tables, in one order; `None` if `keys` do not identify rows, or if no row is common."""
    names = [name for name in keys if name in first and name in second]
    if not names:
        return None
    if length(first) == length(second) and all(np.array_equal(first[name], second[name]) for name in names):
        return first, second
    count = length(first)
    numbers = np.zeros(count + length(second), int)  # one number for each combination of the keys' values
    for name in names:
        values = np.concatenate([first[name], second[name]])
        _, place = np.unique(values, return_inverse=True)
        # Renumbered after each column, so that no product exceeds the square of the number of rows.
        numbers = np.unique(numbers * (int(place.max()) + 1) + place, return_inverse=True)[1].ravel()
    if _repeats(numbers[:count]) or _repeats(numbers[count:]):
        return None
    _, rows, rows_of_second = np.intersect1d(numbers[:count], numbers[count:], assume_unique=True, return_indices=True)
    return (select_rows(first, rows), select_rows(second, rows_of_second)) if len(rows) else None


def _repeats(numbers: Int[np.ndarray, " n"]) -> bool:
    return len(np.unique(numbers)) < len(numbers)
