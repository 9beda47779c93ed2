"""Shares with intervals that are also valid if nothing, or everything, goes wrong."""

import math
from collections.abc import Sequence
from dataclasses import replace

from sfumato.metrics.estimate import CONFIDENCE, Estimate, Measure, Row, estimated

TAIL = (1 - CONFIDENCE) / 2


def estimated_share(measure: Measure, rows: Sequence[Row]) -> Estimate:
    r"""Like `estimated`, but with exact bounds for a share that is 0 or 1 in all n pictures, where resampling changes nothing.

    The bound is that of Clopper & Pearson (Biometrika, 1934): if none of n is wrong, the share is at most
    $1 - (\alpha/2)^{1/n}$, and likewise if all are wrong.
    """
    return with_exact_bounds(estimated(measure, rows), len({row["picture"] for row in rows}))


def with_exact_bounds(share: Estimate, pictures: int) -> Estimate:
    """The estimate with exact bounds if the share is 0 or 1; any other estimate unchanged."""
    if pictures and share.value == 0:
        return replace(share, low=0.0, high=1 - TAIL ** (1 / pictures))
    if pictures and share.value == 1:
        return replace(share, low=TAIL ** (1 / pictures), high=1.0)
    return share


def pictures_needed(epsilon: float) -> int:
    """How many pictures show that the share of errors is at most `epsilon`, if none of them is an error.

    >>> pictures_needed(0.05)
    72
    """
    return math.ceil(math.log(TAIL) / math.log1p(-epsilon)) if epsilon < 1 else 1
