"""A run's lines, and which methods lead its tables: by paired differences, from the rows of the store."""

from collections.abc import Sequence
from typing import NamedTuple

from sfumato.metrics.undecided import undecided_by
from sfumato.runs.results import summary
from sfumato.runs.results.grid import Undecided
from sfumato.runs.results.record import Record, Where
from sfumato.runs.results.summary import Line, Table
from sfumato.runs.stores.store import Store


class Results(NamedTuple):
    """The results of a run."""

    lines: list[Line]
    """Each measure of each place, in the plan's order."""
    leading: Undecided
    """By measure of a table, the best method and those that are not settled worse."""
    seconds: dict[tuple[str, str, str], float]
    """The median time of a method for a query in seconds, by data set, model and method."""

    def seconds_text(self, data: str, model: str) -> str:
        """The seconds of each method for a query of a data set and a model, such as "gradient 0.1, rise 2"."""
        return ", ".join(
            f"{method} {value:.2g}"
            for (data_name, model_name, method), value in self.seconds.items()
            if (data_name, model_name) == (data, model)
        )


def results(record: Record, store: Store) -> Results:
    """The results of a run. The rows of one protocol on one data set and model are read at a time, and once."""
    lines: dict[Where, list[Line]] = {where: [] for where in record.places}
    leading: dict[tuple[str, str, str, str], frozenset[str]] = {}
    seconds: dict[tuple[str, str, str], float] = {}
    for places, tables in summary.tables_by_protocol(record, store):
        _take_in(record, store, places, tables, lines, leading, seconds)
        del tables  # before the next are read
    return Results([line for some in lines.values() for line in some], leading, seconds)


def _take_in(
    record: Record,
    store: Store,
    places: Sequence[Where],
    tables: Sequence[Table],
    lines: dict[Where, list[Line]],
    leading: dict[tuple[str, str, str, str], frozenset[str]],
    seconds: dict[tuple[str, str, str], float],
) -> None:
    """Add the results of one protocol on one data set and model."""
    for where, table in zip(places, tables, strict=True):
        lines[where] = list(summary.lines_of(record, store, where, table))
        if table.seconds is not None:
            seconds.setdefault((where.data, where.model, where.method), table.seconds)
    if len(tables) > 1 and all(lines[where] for where in places):
        data, model, protocol = places[0].data, places[0].model, places[0].protocol
        measures = record.protocols[protocol].measures([row for table in tables for row in table.examples])
        columns = {where.method: table.columns for where, table in zip(places, tables, strict=True)}
        for measure, methods in zip(measures, undecided_by(measures, columns) if measures else [], strict=True):
            leading[data, model, protocol, measure.name] = methods
