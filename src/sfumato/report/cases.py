"""A protocol's cases one by one: where a method does best and worst, and where methods differ."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sfumato.metrics.estimate import Measure, Row, turned

Key = tuple[str, int]
"""An example's name, and the class that was explained."""

AT_ONCE = 256
"""Rows that are judged together; each weighs the others with 0."""


def by_case(measure: Measure, rows: Mapping[Key, Row]) -> dict[Key, float]:
    """What a measure is of each case alone, without those of which it says nothing: one may be tuned on other cases."""
    found: dict[Key, float] = {}
    keys = list(rows)
    for first in range(0, len(keys), AT_ONCE):
        chunk = keys[first : first + AT_ONCE]
        values = measure.statistic(turned([rows[key] for key in chunk]), np.eye(len(chunk)))
        found |= {key: float(value) for key, value in zip(chunk, values, strict=True) if math.isfinite(value)}
    return found


def ranked(values: Mapping[Key, float], higher_is_better: bool) -> list[Key]:
    """The cases, the best first; equal ones by name.

    >>> ranked({("b", 0): 1.0, ("a", 0): 1.0, ("c", 0): 2.0}, higher_is_better=True)
    [('c', 0), ('a', 0), ('b', 0)]
    """
    sign = -1 if higher_is_better else 1
    return sorted(values, key=lambda key: (sign * values[key], key))


def disagreements(methods: Mapping[str, Mapping[Key, float]], most: int) -> list[tuple[Key, str, str]]:
    """The cases where two methods differ most, with the methods of the largest and the least value; none where all agree.

    >>> values = {"one": {("a", 0): 1.0, ("b", 0): 0.5}, "two": {("a", 0): 1.0, ("b", 0): 0.9}, "three": {("b", 0): 0.6}}
    >>> disagreements(values, 5)
    [(('b', 0), 'two', 'one')]
    """
    found = []
    for key in sorted({key for values in methods.values() for key in values}):
        here = {name: values[key] for name, values in methods.items() if key in values}
        upper, lower = max(here, key=lambda name: here[name]), min(here, key=lambda name: here[name])
        if here[upper] > here[lower]:
            found.append((here[upper] - here[lower], key, upper, lower))
    return [(key, upper, lower) for _, key, upper, lower in sorted(found, key=lambda each: -each[0])[:most]]


def alike(values: Mapping[Key, float], keys: Sequence[Key]) -> int:
    """How many cases have the value of the last of these, those among them included."""
    return sum(value == values[keys[-1]] for value in values.values()) if keys else 0
