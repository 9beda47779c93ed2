"""The bag of little bootstraps, for large tables.

A. Kleiner, A. Talwalkar, P. Sarkar, M. Jordan: *A scalable bootstrap for massive data*, Journal of the Royal Statistical
Society B 76, 2014.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BAGS = 10
DRAWS = 100
"""Resamplings of each bag: with ten bags as many as the bootstrap takes."""

EXPONENT = 0.7
"""A bag holds P^0.7 of P pictures: the larger of those that the paper recommends, 16 thousand of a million."""


def deviations(
    statistics: Callable[[Array, Array], Array], of: Array, pictures: int, at_once: int, seed: int
) -> Iterator[Array]:
    """How resampled statistics differ from those of what they are drawn from: `(k, DRAWS)` for each bag.

    A bag is a sample of the pictures without replacement; from it, as many as there are in the table are drawn with
    replacement, so that the deviations are as large as those of the whole table. `statistics` gives k numbers for each of R
    weightings of chosen rows: it takes the rows' indices `(n,)` and weights `(R, n)`, and gives `(k, R)`. `of` says each row's
    picture, a whole number below `pictures`, and at most `at_once` weights are held.

    A bag knows less than the table: what rests on few of its pictures, or chooses between near ties, is better resampled whole.
    """
    generator = np.random.default_rng(seed)
    size = round(pictures**EXPONENT)
    equal = np.full(size, 1 / size)
    place = np.empty(pictures, int)
    for _ in range(BAGS):
        chosen = generator.choice(pictures, size, replace=False)
        place[:] = -1
        place[chosen] = np.arange(size)
        rows = np.flatnonzero(place[of] >= 0)
        local = place[of[rows]]
        centre = statistics(rows, np.ones((1, len(rows))))
        turns = max(1, at_once // max(size, len(rows)))
        yield np.concatenate(
            [
                statistics(
                    rows, generator.multinomial(pictures, equal, min(turns, DRAWS - first))[:, local].astype(float)
                )
                - centre
                for first in range(0, DRAWS, turns)
            ],
            axis=1,
        )
