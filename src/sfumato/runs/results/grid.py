"""A run's lines as tables that people read: a table for each protocol, with its marks and what they mean."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sfumato.metrics.estimate import FEW
from sfumato.runs.results.summary import Line

Undecided = Mapping[tuple[str, str, str, str], Collection[str]]
"""By data set, model, protocol and measure: the best method, and all that are not settled worse (see `undecided`)."""

UNKNOWN = "–"


@dataclass(frozen=True)
class Grid:
    """A protocol's table on one data set and model: a row for each method, a column for each measure, as texts."""

    protocol: str
    measures: tuple[str, ...]
    """Names with their units and an arrow to the better side."""
    methods: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    """By method, then by measure: a number, its interval and its marks; empty where the plan does not ask for it."""
    best: frozenset[tuple[int, int]]
    """The row and the column of each cell that is the best of its column, or not settled worse."""
    failed: tuple[int, ...]
    """How many items failed, by method."""
    part: str = ""
    """For example "1 of 2", if a wide table was split."""

    @property
    def title(self) -> str:
        return f"{self.protocol} ({self.part})" if self.part else self.protocol

    @property
    def header(self) -> list[str]:
        """The headers of the columns."""
        return ["method", *self.measures]

    def body(self, mark: Callable[[str], str], plain: Callable[[str], str] = str) -> list[list[str]]:
        """The rows below the header. `mark` is applied to the best cells, `plain` to every text."""
        rows = []
        for row, (method, texts) in enumerate(zip(self.methods, self.cells, strict=True)):
            cells = [
                mark(plain(text)) if (row, column) in self.best else plain(text) for column, text in enumerate(texts)
            ]
            rows.append([plain(method), *cells])
        return rows

    def legend(self, mark: str) -> str:
        """One line that explains the marks in this table, and says how many items failed. `mark` describes the best
        cells, such as "bold"."""
        cells = [text for row in self.cells for text in row]
        heads = " ".join(self.measures)
        failed = [f"{method} {count}" for method, count in zip(self.methods, self.failed, strict=True) if count]
        meanings = {
            f"{mark}: the best of its column, or not settled worse": bool(self.best),
            "[low, high]: 95 % interval over pictures": any("[" in text for text in cells),
            "↑ more is better": "↑" in heads,
            "↓ less is better": "↓" in heads,
            f"{UNKNOWN}: nothing is known": UNKNOWN in cells,
            f"few: of fewer than {FEW} pictures, too few for an interval": any(text.endswith("few") for text in cells),
            f"items that failed, and do not count: {', '.join(failed)}": bool(failed),
        }
        return "; ".join(meaning for meaning, used in meanings.items() if used)

    def split(self, sizes: Sequence[int]) -> "list[Grid]":
        """Split the table into tables of `sizes` measures, each with the methods that have values there."""
        if len(sizes) == 1:
            return [self]
        tables, start = [], 0
        for number, size in enumerate(sizes, 1):
            rows = [row for row, texts in enumerate(self.cells) if any(texts[start : start + size])]
            tables.append(
                replace(
                    self,
                    measures=self.measures[start : start + size],
                    methods=tuple(self.methods[row] for row in rows),
                    cells=tuple(self.cells[row][start : start + size] for row in rows),
                    best=frozenset(
                        (rows.index(row), column - start) for row, column in self.best if start <= column < start + size
                    ),
                    failed=tuple(self.failed[row] for row in rows),
                    part=f"{number} of {len(sizes)}",
                )
            )
            start += size
        return tables


def by_data_and_model(lines: Iterable[Line]) -> dict[tuple[str, str], list[Line]]:
    """Group lines by data set and model."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.data, line.model), []).append(line)
    return groups


def grids(lines: Sequence[Line], undecided: Undecided | None = None, most: int | None = None) -> Iterator[Grid]:
    """The tables of one data set and model, protocol by protocol, none of more than `most` measures."""
    for protocol in dict.fromkeys(line.protocol for line in lines):
        table = grid([line for line in lines if line.protocol == protocol], undecided)
        count = len(table.measures)
        parts = math.ceil(count / most) if most else 1
        yield from table.split([count // parts + (part < count % parts) for part in range(parts)])


def grid(lines: Sequence[Line], undecided: Undecided | None = None) -> Grid:
    """The table of one protocol on one data set and model. Where `undecided` does not say which methods are not settled worse
    than the best, they are those whose interval overlaps that of the best."""
    measures = {line.measure.name: line.measure for line in lines}
    methods = {line.method: line.failed for line in lines}
    cells = {(line.method, line.measure.name): line for line in lines}
    best = set()
    for column, name in enumerate(measures):
        some = [line for line in lines if line.measure.name == name]
        place = (some[0].data, some[0].model, some[0].protocol, name)
        leading = undecided[place] if undecided and place in undecided else overlapping(some)
        best |= {(row, column) for row, method in enumerate(methods) if method in leading}
    heads = [
        f"{name}{' %' if measure.percent else ''} {'↑' if measure.higher_is_better else '↓'}"
        for name, measure in measures.items()
    ]
    texts = [
        tuple(cell(cells[method, name]) if (method, name) in cells else "" for name in measures) for method in methods
    ]
    return Grid(lines[0].protocol, tuple(heads), tuple(methods), tuple(texts), frozenset(best), tuple(methods.values()))


def overlapping(lines: Sequence[Line]) -> frozenset[str]:
    """The methods whose interval overlaps that of the best, itself included, or rests on too few pictures; none where there is
    nothing to lead. Lines are of one measure."""
    valid = [line for line in lines if not math.isnan(line.estimate.value)]
    if len(valid) < 2:
        return frozenset()
    pick: Callable[..., Line] = max if valid[0].measure.higher_is_better else min
    best = pick(valid, key=lambda line: line.estimate.value).estimate
    return frozenset(
        line.method
        for line in valid
        if not (line.estimate.high < best.low or best.high < line.estimate.low) or line.estimate.few or best.few
    )


LARGEST, SMALLEST = 1e6, 1e-9
"""Numbers that are larger have three digits, 1.23e+06; what is smaller is rounding, and shown as 0."""


def cell(line: Line) -> str:
    """A number with its interval and marks."""
    estimate = line.estimate
    if math.isnan(estimate.value):
        return UNKNOWN
    scale, digits = (100, 1) if line.measure.percent else (1, 3 if abs(estimate.value) < 10 else 0)
    size = scale * abs(estimate.value)
    # z: no -0.0. Three digits of numbers that would have many otherwise, or none but zeros.
    form = "z.3g" if size >= LARGEST or SMALLEST < size < 10.0**-digits else f"z.{digits}f"
    value, low, high = (f"{scale * number:{form}}" for number in (estimate.value, estimate.low, estimate.high))
    interval = "" if math.isnan(estimate.low) else f" [{low}, {high}]"
    return value + interval + (" few" if estimate.few else "")
