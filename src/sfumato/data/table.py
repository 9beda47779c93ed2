"""A table of pictures, as CSV or Parquet."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sfumato.data import labels, reading
from sfumato.data.example import Box, Example, Thing
from sfumato.data.listing import Listing, set_names_, set_paths_

COLUMNS = ("path", "target", "boxes")
MOST = 1_000_000  # classes known by number only: a slip of the pen should not make millions


class _Row(NamedTuple):
    where: str
    """The line or row, for errors."""
    target: Any
    boxes: Any


@dataclass(frozen=True)
class Table(Listing):
    """Pictures by the rows of a `.csv` (UTF-8, a header, commas) or `.parquet` file. Rows of one path make one example.

    Columns: `path` of the picture, seen from the table's folder; `target`, a class's name or number, empty for a picture
    alone; `boxes` (need not be there), where that class is: [[left, top, right, bottom], …] in pixels from the picture's upper
    left corner, in CSV and in Parquet's text as JSON, in Parquet else as lists. Other columns are passed over.
    """

    path: str
    names: tuple[str, ...] = ()
    """The classes in order; else those of the table: sorted names, or, where all targets are numbers, up to the highest."""

    def __post_init__(self) -> None:
        set_paths_(self, "path")
        set_names_(self, "names")
        if Path(self.path).suffix.lower() not in {".csv", ".parquet"}:
            raise ValueError(f"a table is a .csv or .parquet file; got {self.path!r}")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        if self.names:
            return self.names
        found = {target: row.where for rows in self._listed.values() for row in rows if (target := _named(row.target))}
        if not all(target.isdecimal() for target in found):
            return tuple(sorted(found))
        highest = max(found, key=int, default="")
        if highest and int(highest) >= MOST:
            raise ValueError(
                f"{self.path!r}, {found[highest]}: target {highest} is no class's number; expected some below {MOST}"
            )
        return labels.numbered(int(highest) + 1) if highest else ()

    @property
    def sources(self) -> list[Path]:
        return [reading.given(self.path, "table")]

    def __len__(self) -> int:
        return len(self._listed)

    def example(self, index: int) -> Example:
        name = self._pictures[index]
        return Example(name, Path(self.path).parent / name, tuple(self._things(self._listed[name])))

    def _things(self, rows: Iterable[_Row]) -> Iterable[Thing]:
        for row in rows:
            try:
                boxes, target = _boxes(row.boxes), _named(row.target)
                if target:
                    label = self._label(target)
                    yield from [Thing(label, box) for box in boxes] or [Thing(label)]
                elif boxes:
                    raise ValueError("there are boxes, and no target to say of what")
            except ValueError as error:
                raise ValueError(f"{self.path!r}, {row.where}: {error}") from None

    def _label(self, target: str) -> int:
        if target not in self._indices and target.isdecimal() and int(target) < len(self.classes):
            return int(target)
        return reading.index_of(target, self._indices)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}

    @cached_property
    def _pictures(self) -> list[str]:
        return list(self._listed)

    @cached_property
    def _listed(self) -> dict[str, list[_Row]]:
        """By picture, its rows."""
        path = reading.given(self.path, "table")
        found: dict[str, list[_Row]] = {}
        for where, values in _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path):
            picture = values.get("path")
            if not (isinstance(picture, str) and picture):
                raise ValueError(f"{self.path!r}, {where}: path is {picture!r}; expected that of a picture")
            found.setdefault(picture, []).append(_Row(where, values.get("target"), values.get("boxes")))
        if not found:
            raise ValueError(f"{self.path!r} has no rows; expected one for each picture and class")
        return found


def _csv(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    rows = csv.reader(io.StringIO(reading.text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        _check(path, header)
        for values in rows:
            if len(values) > len(header):
                raise ValueError(
                    f"{str(path)!r}, line {rows.line_num}: {len(values)} values; expected {len(header)} (quote commas)"
                )
            if values:
                yield f"line {rows.line_num}", dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise ValueError(f"{str(path)!r}, line {rows.line_num}: {error}; expected CSV") from None


def _parquet(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'table {str(path)!r} needs {error.name}, which is not installed; run: pip install "sfumato[parquet]"',
            name=error.name,
        ) from error
    try:
        with parquet.ParquetFile(path) as source:
            _check(path, source.schema_arrow.names)
            columns = [name for name in COLUMNS if name in source.schema_arrow.names]
            number = 0
            for batch in source.iter_batches(columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield f"row {number}", values
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {str(path)!r}: {error}; expected a Parquet file") from error


def _check(path: Path, columns: list[str]) -> None:
    for needed in ("path", "target"):
        if needed not in columns:
            raise ValueError(
                f"{str(path)!r} has the columns {', '.join(columns) or 'of nothing'}; expected {needed!r} among them"
            )


def _named(target: Any) -> str:
    """A target as text; empty for none. Spreadsheets write whole numbers with a point."""
    if isinstance(target, float) and target.is_integer():
        target = int(target)
    return "" if target is None else str(target).strip()


def _boxes(value: Any) -> list[Box]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"boxes are [[left, top, right, bottom], …]; got {value!r:.80}") from None
    if value is None:
        return []
    if not (isinstance(value, list) and all(isinstance(each, list) and len(each) == 4 for each in value)):
        raise ValueError(f"boxes are [[left, top, right, bottom], …]; got {value!r:.80}")
    return [reading.box(*each) for each in value]
