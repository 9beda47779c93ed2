"""Shares with error bars that stay honest where nothing, or everything, goes wrong."""

import math
from collections.abc import Sequence
from dataclasses import replace

from sfumato.metrics.estimate import CONFIDENCE, Estimate, Measure, Row, estimated

TAIL = (1 - CONFIDENCE) / 2


def estimated_share(measure: Measure, rows: Sequence[Row]) -> Estimate:
    r"""As `estimated`; but of a share that is 0 or 1 in all n pictures, resampling them says nothing.

    Then the exact bound of Clopper & Pearson (Biometrika, 1934) holds: with none of n wrong, at most
    $1 - (\alpha/2)^{1/n}$ are, and likewise for all.
    """
    found = estimated(measure, rows)
    return widened(found, len({row["picture"] for row in rows}))


def widened(found: Estimate, pictures: int) -> Estimate:
    """The estimate of a share that was 0 or 1 in all of so many pictures, with exact bounds; any other as it is."""
    if pictures and found.value == 0:
        return replace(found, low=0.0, high=1 - TAIL ** (1 / pictures))
    if pictures and found.value == 1:
        return replace(found, low=TAIL ** (1 / pictures), high=1.0)
    return found


def fewest(epsilon: float) -> int:
    """How many pictures it takes, if none of them goes wrong, to say that no more than a share `epsilon` does.

    >>> fewest(0.05)
    72
    """
    return math.ceil(math.log(TAIL) / math.log1p(-epsilon)) if epsilon < 1 else 1
