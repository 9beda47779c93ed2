"""The measurements of a run's protocols, case by case."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sfumato.data.labels import synonyms
from sfumato.figures.report.cases import Case, by_case
from sfumato.metrics.estimate import Measure
from sfumato.metrics.statistic import Array, Mean
from sfumato.runs.results import summary
from sfumato.runs.results.record import Record
from sfumato.runs.results.summary import Table
from sfumato.runs.stores.store import Item, Store


@dataclass(frozen=True, eq=False)
class ProtocolCases:
    """The measurements of a protocol on a data set and a model, by method."""

    data: str
    model: str
    protocol: str
    measure: Measure
    """The protocol's first measure, which orders its cases."""
    tables: Mapping[str, Table]
    """The rows of each method that has some, with the columns that the measure needs."""
    class_names: Mapping[int, str]
    recipes: Mapping[str, Sequence[int]]
    """The recipes of each method on this data set and model; that of this protocol comes first."""
    store: Store

    @cached_property
    def values(self) -> Mapping[str, Array]:
        """The measure of each row alone."""
        return {method: by_case(self.measure, table.columns) for method, table in self.tables.items()}

    def case(self, method: str, query: int) -> Case:
        """The case of a query that a method has a row of."""
        done = next(self.store.look_up([Item(self.recipes[method][0], query)]))
        label = int((done.row or {}).get("label", done.target))  # type: ignore[arg-type]  # a number in every row
        return Case(query, done.example, done.target, label)

    def stored_result(self, method: str, query: int) -> tuple[str, str] | None:
        """Where the run has stored the method's result: the name of the shard, and the key in it. `None` if nowhere."""
        for done in self.store.look_up([Item(recipe, query) for recipe in self.recipes[method]]):
            if done.masks:
                shard, _, key = done.masks.partition("/")
                return shard, key
        return None

    def title(self, case: Case) -> str:
        """The names of the example and of the class."""
        return f"{case.example}, {self.class_names.get(case.target, f'class {case.label}')}"

    def format(self, value: float | None) -> str:
        """A value of the measure, as text."""
        if value is None:
            return "–"
        return f"{100 * value:.3g}\N{NO-BREAK SPACE}%" if self.measure.percent else f"{value:.3g}"


def cases_by_protocol(record: Record, store: Store, data: str, model: str) -> Iterator[ProtocolCases]:
    """The cases of each protocol that has rows, and can sum them up. Only the rows of one protocol are in memory at a time."""
    class_names = {index: synonyms(name)[0] for index, name in enumerate(record.data[data]["classes"])}
    all_places = [place for place in record.places if (place.data, place.model) == (data, model)]
    for places, all_tables in summary.tables_by_protocol(record, store, data, model):
        tables = {place.method: table for place, table in zip(places, all_tables, strict=True) if len(table.queries)}
        protocol = places[0].protocol
        if protocol in record.faults:
            continue
        rows = [row for table in tables.values() for row in table.examples]
        measures = record.protocols[protocol].measures(rows)
        if measures and tables:
            needed = {method: _needed_columns(table, measures[0]) for method, table in tables.items()}
            del all_tables, tables  # a column of a million rows is 8 MB
            recipes = {
                place.method: [place.recipe, *(entry.recipe for entry in all_places if entry.method == place.method)]
                for place in places
            }
            yield ProtocolCases(data, model, protocol, measures[0], needed, class_names, recipes, store)
            del needed  # before the next ones are read


def _needed_columns(table: Table, measure: Measure) -> Table:
    """The table with the columns that a measure needs, if its statistic says which."""
    statistic = measure.statistic
    if not isinstance(statistic, Mean):
        return table
    names = {statistic.column, statistic.where, "picture", "label"}
    return replace(table, columns={name: column for name, column in table.columns.items() if name in names})
