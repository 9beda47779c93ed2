"""A protocol of a user's own as its run has noted it: a copy of the run has its tables where the protocol's code is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row
from sfumato.metrics.protocol import Protocol
from sfumato.settings import as_json, from_json


@dataclass(frozen=True)
class NotedProtocol(Protocol):
    """The measures that a protocol named when it could be loaded. It measures nothing."""

    noted: tuple[Measure, ...]

    @classmethod
    def read(cls, note: Any) -> "NotedProtocol":
        """The protocol of a note that `note_of` made."""
        return cls(tuple(measure for measure in from_json(note or []) if isinstance(measure, Measure)))

    def measure(self, case: Case) -> Row:
        """Raise `NotImplementedError`: the code that measures is missing."""
        raise NotImplementedError(f"the protocol that judges {case.picture!r} cannot be loaded here")

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:
        """Those of the measures whose values the rows have."""
        names = {"label", "picture"}.union(*rows)
        return [measure for measure in self.noted if not rows or _columns(measure) <= names]


def note_of(protocol: Protocol, rows: Sequence[Row]) -> list[Any] | None:
    """The measures of a protocol as JSON, as far as they are means that sfumato has; `None` if it cannot say them."""
    try:
        return [as_json(measure) for measure in protocol.measures(rows) if _ours(measure.statistic)]
    except Exception:  # noqa: BLE001  # of anyone's own code: a table says what is wrong
        return None


def _ours(statistic: Any) -> bool:
    return is_dataclass(statistic) and type(statistic).__module__.startswith("sfumato.")


def _columns(measure: Measure) -> set[str]:
    """The columns that a statistic names."""
    statistic: Any = measure.statistic
    values: Mapping[str, Any] = {entry.name: getattr(statistic, entry.name) for entry in fields(statistic)}
    return {value for name, value in values.items() if name in ("column", "where") and value is not None}
