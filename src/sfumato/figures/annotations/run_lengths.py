"""Masks as lengths of runs, and COCO's text for these."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def lengths(values: np.ndarray[Any, Any]) -> list[int]:
    """The lengths of runs of 0 and 1 by turns, of a row of bools; the first is 0 where the row begins with 1.

    >>> lengths(np.array([1, 1, 0, 1], dtype=bool))
    [0, 2, 1, 1]
    """
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    found: list[int] = np.diff(np.concatenate([[0], changes, [len(values)]])).tolist()
    return [0, *found] if values[0] else found


def compressed(counts: Sequence[int]) -> str:
    r"""COCO's text for runs, which `sfumato.data.coco.decompress` reads.

    >>> compressed((5, 2, 2, 2, 5))
    '52203'
    """
    characters = []
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != (-1 if group & 16 else 0)  # else the highest bit of this group says the sign of the number
            characters.append(chr(48 + group + 32 * more))
    return "".join(characters)
