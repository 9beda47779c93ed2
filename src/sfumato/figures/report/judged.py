"""What a run's protocols found, case by case."""

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
class Judged:
    """What a protocol found on a data set and a model, by method."""

    data: str
    model: str
    protocol: str
    measure: Measure
    """The first of the protocol's, by which its cases are ordered."""
    tables: Mapping[str, Table]
    """The rows, of methods that have some, with the columns that the measure needs."""
    names: Mapping[int, str]
    """The classes' names."""
    recipes: Mapping[str, Sequence[int]]
    """All those of a method on this data set and model; that of this protocol comes first."""
    store: Store

    @cached_property
    def values(self) -> Mapping[str, Array]:
        """The measure of each row alone."""
        return {method: by_case(self.measure, table.columns) for method, table in self.tables.items()}

    def case(self, method: str, query: int) -> Case:
        """A case that a method has."""
        done = next(self.store.look_up([Item(self.recipes[method][0], query)]))
        label = int((done.row or {}).get("label", done.target))  # type: ignore[arg-type]  # a number in every row
        return Case(query, done.example, done.target, label)

    def kept(self, method: str, query: int) -> tuple[str, str] | None:
        """Where the method's result is, if any row says so: the shard, and the key in it."""
        for done in self.store.look_up([Item(recipe, query) for recipe in self.recipes[method]]):
            if done.masks:
                shard, _, key = done.masks.partition("/")
                return shard, key
        return None

    def named(self, case: Case) -> str:
        """The example and the class, by the words that people know."""
        return f"{case.example}, {self.names.get(case.target, f'class {case.label}')}"

    def shown(self, value: float | None) -> str:
        if value is None:
            return "–"
        return f"{100 * value:.3g}\N{NO-BREAK SPACE}%" if self.measure.percent else f"{value:.3g}"


def judged(record: Record, store: Store, data: str, model: str) -> Iterator[Judged]:
    """What each protocol found, as far as anything is done; the rows of one protocol are held at a time."""
    classes = {index: synonyms(name)[0] for index, name in enumerate(record.data[data]["classes"])}
    everywhere = [where for where in record.places if (where.data, where.model) == (data, model)]
    for places, every in summary.tables_by_protocol(record, store, data, model):
        found = {where.method: table for where, table in zip(places, every, strict=True) if len(table.queries)}
        measures = record.protocols[places[0].protocol].measures(
            [row for table in found.values() for row in table.examples]
        )
        if measures and found:
            tables = {method: _of_measure(table, measures[0]) for method, table in found.items()}
            del every, found  # a column of a million rows is 8 MB
            recipes = {
                where.method: [where.recipe, *(other.recipe for other in everywhere if other.method == where.method)]
                for where in places
            }
            yield Judged(data, model, places[0].protocol, measures[0], tables, classes, recipes, store)
            del tables  # before the next are read


def _of_measure(table: Table, measure: Measure) -> Table:
    """The table with the columns that a measure needs, if its statistic says which."""
    statistic = measure.statistic
    if not isinstance(statistic, Mean):
        return table
    names = {statistic.column, statistic.where, "picture", "label"}
    return replace(table, columns={name: column for name, column in table.columns.items() if name in names})
