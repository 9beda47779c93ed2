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
MOST = 1_000_000  # limit for classes known by number only: a typing error should not make millions of them


class _Row(NamedTuple):
    where: str
    """The line or row, for error messages."""
    target: Any
    boxes: Any


@dataclass(frozen=True)
class Table(Listing):
    """Pictures from the rows of a `.csv` file (UTF-8, with a header and commas) or a `.parquet` file.

    The columns are:

    - `path`: the path of the picture, relative to the folder of the table. Rows with one path make one example.
    - `target`: the name or the number of a class; empty for a picture without a class.
    - `boxes`, optional: where the class is, as [[left, top, right, bottom], …] in pixels from the picture's top left corner.
      Boxes are JSON text in CSV, and JSON text or lists in Parquet.

    Other columns are ignored.
    """

    path: str
    names: tuple[str, ...] = ()
    """The classes in order. By default those of the table: sorted names or, if all targets are numbers, up to the highest."""

    def __post_init__(self) -> None:
        set_paths_(self, "path")
        set_names_(self, "names")
        if Path(self.path).suffix.lower() not in {".csv", ".parquet"}:
            raise ValueError(f"path must be a .csv or .parquet file; got {self.path!r}")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        if self.names:
            return self.names
        rows = [row for group in self._rows.values() for row in group]
        places = {target: row.where for row in rows if (target := _target_text(row.target))}
        if not all(target.isdecimal() for target in places):
            return tuple(sorted(places))
        highest = max(places, key=int, default="")
        if highest and int(highest) >= MOST:
            raise ValueError(f"{self.path!r}, {places[highest]}: a target must be a number below {MOST}; got {highest}")
        return labels.default_labels(int(highest) + 1) if highest else ()

    @property
    def sources(self) -> list[Path]:
        return [reading.existing_file(self.path, "table")]

    def __len__(self) -> int:
        return len(self._rows)

    def example(self, index: int) -> Example:
        name = self._pictures[index]
        return Example(name, Path(self.path).parent / name, tuple(self._things(self._rows[name])))

    def _things(self, rows: Iterable[_Row]) -> Iterable[Thing]:
        for row in rows:
            target = _target_text(row.target)
            count = len(self.classes) if target else 0  # not in `try`: an error about the classes names its own line
            try:
                boxes = _boxes(row.boxes)
                if target:
                    label = self._label(target, count)
                    yield from [Thing(label, box) for box in boxes] or [Thing(label)]
                elif boxes:
                    raise ValueError("boxes need a target, the class that they show; got none")
            except ValueError as error:
                raise ValueError(f"{self.path!r}, {row.where}: {error}") from None

    def _label(self, target: str, count: int) -> int:
        """The index of one of `count` classes, by its name or number. Raises `ValueError` if there is none."""
        if target not in self._indices and target.isdecimal() and int(target) < count:
            return int(target)
        return reading.index_of(target, self._indices)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.classes)}

    @cached_property
    def _pictures(self) -> list[str]:
        return list(self._rows)

    @cached_property
    def _rows(self) -> dict[str, list[_Row]]:
        """The rows of each picture."""
        path = reading.existing_file(self.path, "table")
        rows: dict[str, list[_Row]] = {}
        for where, values in _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path):
            picture = values.get("path")
            if not (isinstance(picture, str) and picture):
                raise ValueError(f"{self.path!r}, {where}: path must be the path of a picture; got {picture!r}")
            rows.setdefault(picture, []).append(_Row(where, values.get("target"), values.get("boxes")))
        if not rows:
            raise ValueError(f"{self.path!r} has no rows; expected one for each picture and class")
        return rows


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
    for name in ("path", "target"):
        if name not in columns:
            raise ValueError(f"{str(path)!r} has no column {name!r}; its columns are {', '.join(columns) or 'empty'}")


def _target_text(target: Any) -> str:
    """A target as text; empty for none. Spreadsheets write whole numbers such as 3 as 3.0."""
    if isinstance(target, float) and target.is_integer():
        target = int(target)
    return "" if target is None else str(target).strip()


def _boxes(value: Any) -> list[Box]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"boxes must be [[left, top, right, bottom], …]; got {value!r:.80}") from None
    if value is None:
        return []
    if not (isinstance(value, list) and all(isinstance(box, list) and len(box) == 4 for box in value)):
        raise ValueError(f"boxes must be [[left, top, right, bottom], …]; got {value!r:.80}")
    return [reading.box(*box) for box in value]
