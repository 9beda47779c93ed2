"""The summary of a run: a line for each measure of each protocol, with its interval, and the time of each method."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import attrgetter
from typing import Any

import numpy as np

from sfumato.metrics.estimate import Columns, Estimate, Measure, Row, estimates_of
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.statistic import select_rows
from sfumato.runs.results.record import Record, Where
from sfumato.runs.stores.store import Done, Item, Store
from sfumato.settings import near

Array = np.ndarray[Any, Any]

Rows = Array | slice
"""Indices of rows; or a slice, which copies nothing."""

FEW = 100
"""Rows from which a protocol says its measures, besides one of each kind."""


@dataclass(frozen=True)
class Line:
    """A measure of a method on a model and a data set, by their names in the plan."""

    data: str
    model: str
    method: str
    protocol: str
    measure: Measure
    estimate: Estimate
    failed: int
    """How many items failed; they do not count."""
    of: int = 0
    """How many items there could be: the queries of the data set."""


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of one place, as columns, in the data set's order."""

    queries: Array
    """`(n,)`: the queries' numbers."""
    columns: Columns
    """By name; besides the values of rows there are `picture`, a number, and `label`."""
    seconds: float | None
    """The median time of the method for a query, in seconds."""
    examples: Sequence[Row]
    """Some of the rows, with every set of names that rows have."""

    def at(self, rows: Rows) -> Columns:
        """The columns of some rows."""
        return {name: column[rows] for name, column in self.columns.items()}


@dataclass(frozen=True, eq=False)
class Order:
    """The planned queries of a data set, in its order."""

    queries: Array
    examples: Array
    targets: Array

    @classmethod
    def of(cls, record: Record, store: Store, data: str) -> "Order":
        count, step = record.data[data]["examples"], 10_000
        parts = [
            _small(np.array(store.order(data, first, first + step - 1), np.int64)).reshape(-1, 3)
            for first in range(0, count, step)
        ]
        queries, examples, targets = np.concatenate([np.empty((0, 3), np.int32), *parts]).T.copy()
        return cls(queries, examples, targets)

    def at(self, places: Rows) -> "Order":
        """The queries at some places."""
        return Order(self.queries[places], self.examples[places], self.targets[places])


def tables_by_protocol(
    record: Record, store: Store, data: str | None = None, model: str | None = None
) -> Iterator[tuple[list[Where], list[Table]]]:
    """The places of each protocol on a data set and model, or on these alone, and their rows."""
    groups: dict[tuple[str, str, str], list[Where]] = {}
    for where in record.places:
        if data in (None, where.data) and model in (None, where.model):
            groups.setdefault((where.data, where.model, where.protocol), []).append(where)
    order: tuple[str, Order] | None = None
    for (name, _, _), places in groups.items():
        if order is None or order[0] != name:
            order = name, Order.of(record, store, name)
        yield places, [table(store, where.recipe, order[1]) for where in places]


def table(store: Store, recipe: int, order: Order) -> Table:
    """The measured rows of a recipe, of the queries that are planned."""
    queries: list[Array] = [np.empty(0, np.int64)]
    seconds: list[Array] = [np.empty(0, np.float32)]
    parts: dict[str, list[Array | int]] = {}
    first: dict[tuple[str, ...], list[Row]] = {}
    for page in store.pages(recipe):
        before = sum(map(len, queries))
        queries.append(_small(np.array(page.queries, np.int64)))
        seconds.append(np.array(page.seconds, np.float32))
        for name, column in zip(page.names, page.values, strict=True):
            parts.setdefault(name, [before] if before else []).append(_small(_array(column)))
        for name in parts.keys() - set(page.names):
            parts[name].append(len(page.queries))
        kind = first.setdefault(page.names, [])
        rows = zip(*page.values, strict=True)
        kind.extend(dict(zip(page.names, row, strict=True)) for row in islice(rows, FEW - len(kind)))
    at, places = _places(order.queries, np.concatenate(queries))
    # Each column's parts are let go of before the next is made, as a table of a million rows is large.
    columns = {name: _column(parts.pop(name))[places] for name in list(parts)}
    measured = order.at(at)
    columns["picture"] = measured.examples
    if np.array_equal(columns.setdefault("label", measured.targets), measured.targets):
        columns["label"] = measured.targets
    examples = [row for kind in first.values() for row in kind]
    return Table(measured.queries, columns, median(np.concatenate(seconds)), examples)


def _array(column: Sequence[Any]) -> Array:
    """A column; of lists of several lengths, which no measure can be of, one of objects."""
    try:
        return np.array(column)
    except ValueError:
        return np.fromiter(column, object, len(column))


def _small(numbers: Array) -> Array:
    """Whole numbers in half the memory, where they fit."""
    if numbers.dtype != np.int64 or (numbers.size and (numbers.min() < -(2**31) or numbers.max() >= 2**31)):
        return numbers
    return numbers.astype(np.int32)


def _column(parts: Sequence[Array | int]) -> Array:
    """One column, of its parts; a number in place of one stands for so many rows that lack it, and are NaN."""
    shapes = {part.shape[1:] for part in parts if not isinstance(part, int)}
    if len(shapes) > 1:  # lists of several lengths, which no measure can be of
        columns = [[np.nan] * part if isinstance(part, int) else part for part in parts]
        return np.concatenate([np.fromiter(column, object, len(column)) for column in columns])
    (shape,) = shapes
    return np.concatenate([np.full((part, *shape), np.nan) if isinstance(part, int) else part for part in parts])


def _places(order: Array, queries: Array) -> tuple[Rows, Rows]:
    """Where in an order queries lie that are in it, and their indices, both in that order."""
    if np.array_equal(order[: len(queries)], queries):  # as of most runs; sorting would take several copies
        return slice(0, len(queries)), slice(0, len(queries))
    sorting = np.argsort(queries, kind="stable")
    positions = np.searchsorted(queries, order, sorter=sorting)
    positions = np.minimum(positions, max(len(queries) - 1, 0))
    there = queries[sorting[positions]] == order if len(queries) else np.zeros(len(order), bool)
    return np.flatnonzero(there), sorting[positions[there]] if len(queries) else np.empty(0, np.int64)


def lines(record: Record, store: Store) -> Iterator[Line]:
    """The lines of a run: each measure of each place."""
    for data, places in groupby(record.places, key=attrgetter("data")):
        order = Order.of(record, store, data)
        for where in places:
            yield from lines_of(record, store, where, table(store, where.recipe, order))


def lines_of(record: Record, store: Store, where: Where, rows: Table) -> Iterator[Line]:
    """The lines of one place: each measure."""
    failed = sum(tally.items for tally in store.tallies() if tally.recipe == where.recipe and tally.cause)
    for measure, estimate in _measured(record, where, rows.examples, rows.columns):
        yield _line(record, where, measure, estimate, failed)


def _measured(
    record: Record, where: Where, examples: Sequence[Row], columns: Columns, against: Columns | None = None
) -> list[tuple[Measure, Estimate]]:
    """The measures of a place; none, and a fault of the record, if its protocol cannot sum up its rows."""
    protocol = record.protocols[where.protocol]
    try:
        return sum_up(protocol, where.protocol, where.method, examples, columns, against)
    except ValueError as error:
        record.faults.setdefault(where.protocol, str(error))
        return []


def sum_up(
    protocol: Protocol,
    name: str,
    method: str,
    examples: Sequence[Row],
    columns: Columns,
    against: Columns | None = None,
) -> list[tuple[Measure, Estimate]]:
    """The measures of a protocol with their estimates, from its rows as columns; `examples` are some of the rows.

    `name` and `method` are the names in the plan, for messages. Raises `ValueError` if the protocol cannot sum up its rows.
    """
    try:
        measures = protocol.measures(examples)
        if len({measure.name for measure in measures}) < len(measures):
            raise ValueError(f"several measures have one name: {', '.join(measure.name for measure in measures)}")
        return list(zip(measures, estimates_of(measures, columns, against), strict=True)) if measures else []
    except Exception as error:  # it may be anyone's code
        raise ValueError(
            f"protocol {name!r} cannot say what its rows of {method!r} come down to ({type(error).__name__}: {error}); "
            f"see that {type(protocol).__name__}.measures names numbers that its rows have, or leave it out"
            f"{_names_meant(error, columns)}"
        ) from error


def _names_meant(error: Exception, columns: Columns) -> str:
    """The names of the rows' values, and those that are similar to the one that an error misses; empty for other errors."""
    if not (isinstance(error, KeyError) and error.args and isinstance(error.args[0], str)):
        return ""
    names = [name for name in columns if name != "picture"]
    return f"; its rows have {', '.join(names)}{near(error.args[0], names)}"


def _line(record: Record, where: Where, measure: Measure, estimate: Estimate, failed: int = 0) -> Line:
    of = record.data[where.data]["queries"]
    return Line(where.data, where.model, where.method, where.protocol, measure, estimate, failed, of)


def differences(record: Record, store: Store, one: str, other: str) -> Iterator[Line]:
    """The paired differences, one less the other: of two methods, or of two models, by their names in the plan.

    They use the queries for which both have a value of the measure; `of` says how many there could be. If classes are
    predicted, queries count for which both predict the same. Raises `ValueError` for names that the run does not have.
    """
    everywhere = record.places
    kind = next(
        (kind for kind in ("method", "model") if {one, other} <= {getattr(place, kind) for place in everywhere}), None
    )
    if kind is None or one == other:
        names = sorted({place.method for place in everywhere} | {place.model for place in everywhere})
        raise ValueError(
            f"compare two different methods or models of the run; got {one!r} and {other!r}, it has {', '.join(names)}"
            + "".join(near(name, names) for name in (one, other) if name not in names)
        )
    others = {_without(place, kind): place for place in everywhere if getattr(place, kind) == other}
    orders: dict[str, Order] = {}
    for where in everywhere:
        if getattr(where, kind) == one and _without(where, kind) in others:
            if where.data not in orders:
                orders[where.data] = Order.of(record, store, where.data)
            order = orders[where.data]
            first, second = (table(store, place.recipe, order) for place in (where, others[_without(where, kind)]))
            mine, theirs = paired(first, second)
            for measure, estimate in _measured(record, where, [*first.examples, *second.examples], mine, theirs):
                yield _line(record, where, measure, estimate)


def paired(one: Table, other: Table) -> tuple[Columns, Columns]:
    """The rows of the same queries and classes in two tables of a data set."""
    mine, theirs = one.at(_in_both(one, other)), other.at(_in_both(other, one))
    alike = mine["label"] == theirs["label"]
    return (mine, theirs) if alike.all() else (select_rows(mine, alike), select_rows(theirs, alike))


def _in_both(one: Table, other: Table) -> Rows:
    """The rows of one whose queries the other has too."""
    if np.array_equal(one.queries, other.queries):
        return slice(0, len(one.queries))
    return np.flatnonzero(np.isin(one.queries, other.queries))


def median(seconds: Array) -> float | None:
    """The median of the finite values; `None` if there are none."""
    finite = seconds[np.isfinite(seconds)]
    return float(np.median(finite)) if len(finite) else None


def quantities(record: Record, data: str, model: str) -> str:
    """A sentence on what score of a class each method of a table explains, if they differ; else empty."""
    notes = record.said.get("quantities", [])
    return next((note["sentence"] for note in notes if (note["data"], note["model"]) == (data, model)), "")


def rows(record: Record, store: Store) -> Iterator[dict[str, object]]:
    """Every item of the plan, by place: what it is, and what was measured or why it failed. Without times: these differ."""
    for where in record.places:
        for item in done(record, store, where):
            yield {
                "data": where.data,
                "model": where.model,
                "method": where.method,
                "protocol": where.protocol,
                "example": item.example,
                "target": item.target,
                "failed": item.reason,
                **(item.row or {}),
            }


def names(store: Store) -> list[str]:
    """The names that `rows` may have, of all that the store holds."""
    fixed = ["data", "model", "method", "protocol", "example", "target", "failed"]
    return list(dict.fromkeys([*fixed, *store.row_names()]))


def done(record: Record, store: Store, where: Where) -> Iterator[Done]:
    """The items of a place that are done, in the data set's order, without those of replaced queries."""
    count, step = record.data[where.data]["examples"], 1000
    for first in range(0, count, step):
        items = [Item(where.recipe, query) for query, _, _ in store.order(where.data, first, first + step - 1)]
        done_items = {item.item: item for item in store.look_up(items)}
        yield from (done_items[item] for item in items if item in done_items)


def _without(where: Where, kind: str) -> tuple[str, ...]:
    return tuple(getattr(where, name) for name in ("data", "model", "method", "protocol") if name != kind)
