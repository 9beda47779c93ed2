"""Records as Parquet, batch by batch, with columns whose types are those of all their values.

The type of a column is known only at its end: whole numbers may be followed by a fraction. So batches are written to a
part file with the types so far. Values that these types cannot hold begin another part with wider types, and in the end
the parts are combined with the widest types. Memory does not grow with the number of records.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from sfumato.settings import batched

BATCH = 10_000
"""Records in memory, and in a row group."""

NULL, BOOL, INT, FLOAT, TEXT = "null", "bool", "int64", "float64", "string"
NUMBERS = (BOOL, INT, FLOAT)
"""Each holds the values of those before it."""


@dataclass(frozen=True)
class Kind:
    """The type of the values of a column."""

    name: str = NULL
    depth: int = 0
    """How deeply lists are nested: 2 for lists of lists."""

    def __or__(self, other: "Kind") -> "Kind":
        """The narrowest kind that holds the values of both. Text holds all values: as JSON, if they are not text.

        >>> Kind(INT) | Kind(FLOAT) | Kind(NULL), Kind(INT) | Kind(FLOAT, 1)
        (Kind(name='float64', depth=0), Kind(name='string', depth=0))
        """
        empty, full = (self, other) if self.name == NULL else (other, self)
        if empty.name == NULL:
            if full.name == NULL:
                return Kind(NULL, max(empty.depth, full.depth))
            return full if empty.depth <= full.depth else Kind(TEXT)
        if self.depth != other.depth:
            return Kind(TEXT)
        if {self.name, other.name} <= set(NUMBERS):
            return Kind(max(self.name, other.name, key=NUMBERS.index), self.depth)
        return self if self == other else Kind(TEXT, self.depth)


def kind_of(values: Sequence[Any]) -> Kind:
    """The narrowest kind that holds all values.

    >>> kind_of([1, None, 2.5]), kind_of([[], [True], [7]])
    (Kind(name='float64', depth=0), Kind(name='int64', depth=1))
    """
    kind = Kind()
    for type_ in set(map(type, values)) - {NoneType}:
        if issubclass(type_, list | tuple):
            within = kind_of([item for value in values if isinstance(value, type_) for item in value])
            kind |= Kind(within.name, within.depth + 1)
        elif issubclass(type_, bool):
            kind |= Kind(BOOL)
        elif issubclass(type_, int):
            fits = all(-(2**63) <= value < 2**63 for value in values if isinstance(value, type_))
            kind |= Kind(INT if fits else TEXT)
        else:
            kind |= Kind(FLOAT if issubclass(type_, float) else TEXT)
    return kind


def conform(value: Any, kind: Kind) -> Any:
    """Convert a value to a kind that can hold it.

    >>> conform(2, Kind(FLOAT)), conform([1, None], Kind(TEXT)), conform("a", Kind(TEXT))
    (2.0, '[1, null]', 'a')
    """
    if value is None:
        return None
    if kind.depth:
        return [conform(item, Kind(kind.name, kind.depth - 1)) for item in value]
    if kind.name == TEXT:
        finite = not isinstance(value, float) or math.isfinite(value)
        return value if isinstance(value, str) else json.dumps(value) if finite else str(value)
    return {BOOL: bool, INT: int, FLOAT: float}[kind.name](value)


def is_uniform(values: Iterable[Any], kind: Kind) -> bool:
    """Whether all values are of that kind without conversion, or missing."""
    if kind.depth:
        lists = list(values)
        within = itertools.chain.from_iterable(item for item in lists if isinstance(item, list | tuple))
        return set(map(type, lists)) <= {list, tuple, NoneType} and is_uniform(within, Kind(kind.name, kind.depth - 1))
    return set(map(type, values)) <= {
        NoneType,
        {NULL: NoneType, BOOL: bool, INT: int, FLOAT: float, TEXT: str}[kind.name],
    }


def write_parquet(records: Iterable[Mapping[str, Any]], path: Path, names: Sequence[str]) -> None:
    """Write records, one by one, with these columns. Values are Python's: numbers, texts, `None`, and lists of them."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'Parquet files need pyarrow, which is not installed; run: pip install "sfumato[parquet]"', name=error.name
        ) from error

    def schema(kinds: Mapping[str, Kind]) -> Any:
        types = {NULL: pa.null(), BOOL: pa.bool_(), INT: pa.int64(), FLOAT: pa.float64(), TEXT: pa.string()}
        fields = []
        for name, kind in kinds.items():
            of = types[kind.name]
            for _ in range(kind.depth):
                of = pa.list_(of)
            fields.append((name, of))
        return pa.schema(fields)

    def array(values: Sequence[Any], kind: Kind, of: Any) -> Any:
        return pa.array(values if is_uniform(values, kind) else [conform(value, kind) for value in values], of)

    def joined(batches: Iterator[Any], own: Mapping[str, Kind], kinds: Mapping[str, Kind]) -> Iterator[Any]:
        """The batches of a part, with the widest types."""
        widest = schema(kinds)
        for batch in batches:
            columns: list[Any] = []
            for name, column in zip(kinds, batch.columns, strict=True):
                of = widest.field(len(columns)).type
                castable = kinds[name].name != TEXT or own[name].name in {NULL, TEXT}
                columns.append(column.cast(of) if castable else array(column.to_pylist(), kinds[name], of))
            yield pa.record_batch(columns, schema=widest)

    kinds = dict.fromkeys(names, Kind())
    parts: list[tuple[Path, dict[str, Kind]]] = []
    writer = None
    try:
        for batch in batched(records, BATCH):
            columns = {name: [record.get(name) for record in batch] for name in names}
            wider = {name: kinds[name] | kind_of(values) for name, values in columns.items()}
            if writer is None or wider != kinds:
                if writer is not None:
                    writer.close()
                kinds = wider
                parts.append((path.with_name(f"{path.name}.{len(parts)}"), kinds))
                writer = parquet.ParquetWriter(parts[-1][0], schema(kinds))
            writer.write_batch(
                pa.record_batch(
                    [array(columns[name], kinds[name], writer.schema.field(name).type) for name in names],
                    schema=writer.schema,
                )
            )
        if writer is not None:
            writer.close()
        if len(parts) == 1:
            parts[0][0].replace(path)
            return
        with parquet.ParquetWriter(path, schema(kinds)) as combined:
            for part, own in parts:
                with parquet.ParquetFile(part, pre_buffer=False) as file:
                    for batch in joined(file.iter_batches(BATCH), own, kinds):
                        combined.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()
        for part, _ in parts:
            with suppress(OSError):
                part.unlink()
