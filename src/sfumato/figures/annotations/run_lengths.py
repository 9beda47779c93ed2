"""Masks as the lengths of runs, and COCO's text for the lengths."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def lengths(values: Bool[np.ndarray, " n"]) -> list[int]:
    """The lengths of the runs of 0 and of 1, in turns, in a row of bools. The first is 0 if the row begins with 1.

    >>> lengths(np.array([1, 1, 0, 1], dtype=bool))
    [0, 2, 1, 1]
    """
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate([[0], changes, [len(values)]])).tolist()
    return [0, *runs] if values[0] else runs


def compress(counts: Sequence[int]) -> str:
    r"""COCO's text for the lengths of runs, which `sfumato.data.coco.decompress` reads.

    >>> compress((5, 2, 2, 2, 5))
    '52203'
    """
    characters = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)  # the highest bit of the last group is the sign of the number
            characters.append(chr(48 + bits + 32 * more))
    return "".join(characters)
