"""A run's lines, and which methods lead its tables: by paired differences, from the rows of the store."""

from sfumato.metrics.undecided import undecided_by
from sfumato.runs import summary
from sfumato.runs.grid import Undecided
from sfumato.runs.record import Record, Where
from sfumato.runs.store import Store
from sfumato.runs.summary import Line


def results(record: Record, store: Store) -> tuple[list[Line], Undecided]:
    """Each measure of each place, in the plan's order, and for each table's measures the best method and all that are not
    settled worse. The rows of one protocol on one data set and model are held at a time."""
    lines: dict[Where, list[Line]] = {where: [] for where in record.places}
    leading = {}
    for places, tables in summary.tables_by_protocol(record, store):
        data, model, protocol = places[0].data, places[0].model, places[0].protocol
        for where, table in zip(places, tables, strict=True):
            lines[where] = list(summary.lines_of(record, store, where, table))
        if len(tables) > 1:
            measures = record.protocols[protocol].measures([row for table in tables for row in table.examples])
            columns = {where.method: table.columns for where, table in zip(places, tables, strict=True)}
            for measure, methods in zip(measures, undecided_by(measures, columns), strict=True):
                leading[data, model, protocol, measure.name] = methods
    return [line for some in lines.values() for line in some], leading
