"""The base of all protocols: a pure measurement of one case, and the numbers computed from a table of rows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Estimate, Measure, Row, estimates
from sfumato.settings import Settings


class Protocol(Settings, ABC):
    """Base class of all protocols. A protocol is a frozen dataclass of its settings."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """The parts of a case that `measure` needs: "truth" (where the target is), "model" (with its inputs and target), "method"
    (which is called again), "masks" (in the attribution) and "others" (other networks)."""

    @abstractmethod
    def measure(self, case: Case) -> Row:
        """The row of one case; a pure function. Raises `ValueError` if the case lacks a part that the protocol needs."""

    @abstractmethod
    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:
        """The measures of a table of such rows, the most important first. The first rows of the table suffice as `rows`."""

    def summarise(self, rows: Sequence[Row]) -> Mapping[str, Estimate]:
        """The value of each measure over the rows, with its confidence interval. A row may also have `picture` and `label`."""
        return _by_name(self.measures(rows), rows)

    def compared(self, rows: Sequence[Row], against: Sequence[Row]) -> Mapping[str, Estimate]:
        """The paired difference of each measure: `rows` minus `against`, which hold the same pictures in the same order."""
        return _by_name(self.measures(rows), rows, against)


def _by_name(
    measures: Sequence[Measure], rows: Sequence[Row], against: Sequence[Row] | None = None
) -> Mapping[str, Estimate]:
    names = [measure.name for measure in measures]
    return dict(zip(names, estimates(measures, rows, against), strict=True))
