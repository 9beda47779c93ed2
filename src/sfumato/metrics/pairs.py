"""What may be compared: rows of the same query of which both sides have a value."""

import numpy as np

from sfumato.metrics.estimate import Array, Columns, Measure, Selective


def paired(measure: Measure, one: Columns, other: Columns) -> tuple[Columns, Columns]:
    """Of columns of the same queries in the same order, the rows that the measure rests on at both sides."""
    if not isinstance(measure.statistic, Selective):
        return one, other
    both = measure.statistic.used(one) & measure.statistic.used(other)
    return _at(one, both), _at(other, both)


def _at(columns: Columns, rows: Array) -> Columns:
    return {name: np.asarray(column)[rows] for name, column in columns.items()}
