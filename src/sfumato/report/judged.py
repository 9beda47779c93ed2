"""What a run's protocols found, case by case."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sfumato.labels import synonyms
from sfumato.metrics.estimate import Measure, Row
from sfumato.report.cases import Key, by_case
from sfumato.runs import summary
from sfumato.runs.record import Record, Where
from sfumato.runs.store import Store


@dataclass(frozen=True, eq=False)
class Judged:
    """What a protocol found on a data set and a model, by method."""

    data: str
    model: str
    protocol: str
    measure: Measure
    """The first of the protocol's, by which its cases are ordered."""
    rows: Mapping[str, Mapping[Key, Row]]
    values: Mapping[str, Mapping[Key, float]]
    """The measure of each case alone."""
    names: Mapping[int, str]
    """The classes' names."""
    kept: Mapping[str, Mapping[Key, tuple[str, str]]]
    """Where results are kept: the shard, and the key in it."""

    def named(self, case: Key) -> str:
        """The example and the class, by the words that people know."""
        label = next((rows[case].get("label") for rows in self.rows.values() if case in rows), case[1])
        return f"{case[0]}, {self.names.get(case[1], f'class {label}')}"

    def shown(self, value: float | None) -> str:
        if value is None:
            return "–"
        return f"{100 * value:.3g}\N{NO-BREAK SPACE}%" if self.measure.percent else f"{value:.3g}"


def judged(record: Record, store: Store, data: str, model: str) -> Iterator[Judged]:
    """What each protocol found, as far as anything is done."""
    everywhere = [where for where in record.places if (where.data, where.model) == (data, model)]
    kept = _kept(record, store, everywhere)
    classes = {index: synonyms(name)[0] for index, name in enumerate(record.data[data]["classes"])}
    for protocol in dict.fromkeys(where.protocol for where in everywhere):
        rows: dict[str, dict[Key, Row]] = {}
        for where in everywhere:
            if where.protocol == protocol:
                done = summary.done(record, store, where)
                rows[where.method] = {(each.example, each.target): each.row for each in done if each.row is not None}
        measures = record.protocols[protocol].measures([row for each in rows.values() for row in each.values()])
        if not measures or not any(rows.values()):
            continue
        values = {method: by_case(measures[0], found) if found else {} for method, found in rows.items()}
        yield Judged(data, model, protocol, measures[0], rows, values, classes, kept)


def _kept(record: Record, store: Store, places: Sequence[Where]) -> dict[str, dict[Key, tuple[str, str]]]:
    """Where the results of each method's cases are: where any of their rows says."""
    kept: dict[str, dict[Key, tuple[str, str]]] = {}
    for where in places:
        for each in summary.done(record, store, where):
            if each.masks:
                shard, _, key = each.masks.partition("/")
                kept.setdefault(where.method, {})[each.example, each.target] = (shard, key)
    return kept
