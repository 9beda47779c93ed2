"""The bag of little bootstraps, for large tables.

A. Kleiner, A. Talwalkar, P. Sarkar, M. Jordan: *A scalable bootstrap for massive data*, Journal of the Royal Statistical
Society B 76, 2014.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

BAGS = 10
DRAWS = 100
"""Resamplings of each bag: with ten bags, as many as the bootstrap draws."""

EXPONENT = 0.7
"""A bag holds P^0.7 of P pictures, 16 thousand of a million: the larger exponent of those that the paper recommends."""


def deviations(
    statistics: Callable[[Int[np.ndarray, " n"], Float[np.ndarray, "R n"]], Float[np.ndarray, "k R"]],
    picture_of_row: Int[np.ndarray, " rows"],
    pictures: int,
    max_weights: int,
    seed: int,
) -> Iterator[Float[np.ndarray, "k draws"]]:
    """Yield, for each bag, how far k resampled statistics lie from the statistics of the bag, `DRAWS` of each.

    A bag is a sample of the pictures without replacement. Each resampling draws from it, with replacement, as many pictures
    as the table has, so that the deviations are as large as those of the whole table.

    - `statistics`: takes the indices of n rows and R weightings of these rows; returns k numbers for each weighting.
    - `picture_of_row`: the picture of each row, a whole number below `pictures`.
    - `max_weights`: how many weights are in memory together, at most.

    A bag knows less than the table. If a statistic rests on few pictures, or chooses between near ties, the whole table should
    be resampled instead.
    """
    generator = np.random.default_rng(seed)
    size = round(pictures**EXPONENT)
    equal = np.full(size, 1 / size)
    position = np.empty(pictures, int)
    for _ in range(BAGS):
        members = generator.choice(pictures, size, replace=False)
        position[:] = -1
        position[members] = np.arange(size)
        rows = np.flatnonzero(position[picture_of_row] >= 0)
        local = position[picture_of_row[rows]]
        centre = statistics(rows, np.ones((1, len(rows))))
        chunk = max(1, max_weights // max(size, len(rows)))
        yield np.concatenate(
            [
                statistics(
                    rows, generator.multinomial(pictures, equal, min(chunk, DRAWS - start))[:, local].astype(float)
                )
                - centre
                for start in range(0, DRAWS, chunk)
            ],
            axis=1,
        )
