"""Which methods are not settled worse than the best one."""

from collections.abc import Mapping, Sequence

import numpy as np

from sfumato.metrics.estimate import RESAMPLES, Measure, estimates_of
from sfumato.metrics.statistic import Array, Columns, chosen, length

KEYS = ("picture", "label")
"""The columns that say which rows of two methods are of one query."""


def undecided(
    measure: Measure,
    methods: Mapping[str, Columns],
    keys: Sequence[str] = KEYS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> frozenset[str]:
    """The best of several methods, by the columns of their rows, and all that are not settled worse.

    A method is settled worse where the interval of its paired difference from the best, on the rows that both have, does not
    hold 0; where rows are no pairs, as `keys` do not tell them apart or the methods share none, where the two intervals do not
    overlap; and never on too few pictures (`FEW`). Methods of which nothing is known are left out; where only one is known
    there is nothing to decide, and the set is empty.
    """
    return undecided_by([measure], methods, keys, resamples, seed)[0]


def undecided_by(
    measures: Sequence[Measure],
    methods: Mapping[str, Columns],
    keys: Sequence[str] = KEYS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[frozenset[str]]:
    """As `undecided`, for several measures, from the same resamplings.

    `methods` may read a method's columns when it is asked for them: two methods are held at a time.
    """
    values = {method: _values(measures, methods[method]) for method in methods}
    leaders: dict[str, list[int]] = {}
    contenders: list[set[str]] = [set() for _ in measures]
    for place, measure in enumerate(measures):
        known = {method: numbers[place] for method, numbers in values.items() if np.isfinite(numbers[place])}
        if len(known) > 1:
            best = (max if measure.higher_is_better else min)(known, key=known.__getitem__)
            leaders.setdefault(best, []).append(place)
            contenders[place].add(best)
    for best, places in leaders.items():
        columns = methods[best]
        for method in values:
            of = [place for place in places if method != best and np.isfinite(values[method][place])]
            if of:
                behind = _behind([measures[place] for place in of], columns, methods[method], keys, resamples, seed)
                for place in (place for place, is_behind in zip(of, behind, strict=True) if not is_behind):
                    contenders[place].add(method)
    return [frozenset(some) for some in contenders]


def _values(measures: Sequence[Measure], columns: Columns) -> list[float]:
    """The measures of one method; NaN where it has no rows."""
    once = np.ones((1, length(columns)))
    return [float(measure.statistic(columns, once)[0]) if once.size else np.nan for measure in measures]


def _behind(
    measures: Sequence[Measure], best: Columns, other: Columns, keys: Sequence[str], resamples: int, seed: int
) -> list[bool]:
    """For each measure, whether it is settled that the other is not the best one's equal."""
    pairs = aligned(best, other, keys)
    differences = None if pairs is None else estimates_of(measures, *pairs, resamples, seed)
    if differences and all(difference.count for difference in differences):
        return [difference.settled and not difference.few for difference in differences]
    first, second = (estimates_of(measures, columns, None, resamples, seed) for columns in (best, other))
    return [
        (two.high < one.low or one.high < two.low) and not (one.few or two.few)
        for one, two in zip(first, second, strict=True)
    ]


def aligned(one: Columns, other: Columns, keys: Sequence[str] = KEYS) -> tuple[Columns, Columns] | None:
    """The rows that two tables share, in one order; `None` where `keys` do not tell rows apart, or none is shared."""
    names = [name for name in keys if name in one and name in other]
    if not names:
        return None
    if length(one) == length(other) and all(np.array_equal(one[name], other[name]) for name in names):
        return one, other
    count = length(one)
    numbers = np.zeros(count + length(other), int)
    for name in names:
        both = np.concatenate([one[name], other[name]])
        _, place = np.unique(both, return_inverse=True)
        # Numbered anew for each column, so that no product grows beyond the rows' count squared.
        numbers = np.unique(numbers * (int(place.max()) + 1) + place, return_inverse=True)[1].ravel()
    first, second = numbers[:count], numbers[count:]
    if _repeats(first) or _repeats(second):
        return None
    _, rows, others = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return (chosen(one, rows), chosen(other, others)) if len(rows) else None


def _repeats(numbers: Array) -> bool:
    return len(np.unique(numbers)) < len(numbers)
