"""What every protocol has: a pure measurement of one case, and what its rows come down to."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Estimate, Measure, Row, estimates


class Protocol:
    """Base of all protocols, which are frozen dataclasses of their settings."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Of a case: "truth" (where the target is), "model" (with its inputs and target), "method" (to be called again),
    "masks" (in the attribution) and "others" (other networks)."""

    def measure(self, case: Case) -> Row:
        """What is found in one case; pure. Raises `ValueError` where the case lacks what the protocol needs."""
        raise NotImplementedError

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:
        """The numbers that such rows come down to, the most important first. The first rows of a table suffice to say."""
        raise NotImplementedError

    def summarise(self, rows: Sequence[Row]) -> Mapping[str, Estimate]:
        """Each measure over the rows, with its confidence interval; a row may carry its `picture` and `label`."""
        return _named(self.measures(rows), rows)

    def compared(self, rows: Sequence[Row], against: Sequence[Row]) -> Mapping[str, Estimate]:
        """The paired difference of each measure, rows less those `against`, of the same pictures in the same order."""
        return _named(self.measures(rows), rows, against)


def _named(
    measures: Sequence[Measure], rows: Sequence[Row], against: Sequence[Row] | None = None
) -> Mapping[str, Estimate]:
    names = [measure.name for measure in measures]
    return dict(zip(names, estimates(measures, rows, against), strict=True))
