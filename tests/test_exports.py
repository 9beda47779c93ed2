"""Exports of any length: record by record, whole or not at all, with columns of the types that their values have."""

import csv
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from sfumato.runs.results import parquet as module
from sfumato.runs.results.export import write

ROWS = [
    {"name": "a", "hit": True, "count": 1, "list": [1, 2.5]},
    {"name": "b,\n", "hit": None, "count": math.nan, "list": [], "late": "x"},
    {"name": "ü", "count": 2},
]
NAMES = ["name", "hit", "count", "list", "late"]


def read_parquet(path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = parquet.read_table(path)
    return {
        name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)
    }, table.to_pylist()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_forms_hold_what_was_written(tmp_path, suffix, stream):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    write(iter(ROWS) if stream else ROWS, path, NAMES if stream else None)
    if suffix == ".csv":
        with path.open(newline="") as file:
            found = list(csv.DictReader(file))
        assert list(found[0]) == NAMES
        assert found[0] == {"name": "a", "hit": "True", "count": "1", "list": "[1, 2.5]", "late": ""}
        assert (found[1]["name"], found[1]["count"], found[1]["list"], found[2]["late"]) == ("b,\n", "nan", "[]", "")
        header, first, *_ = path.read_text().split("\n")
        assert (header, first) == ("name,hit,count,list,late", 'a,True,1,"[1, 2.5]",')
    elif suffix == ".json":
        found = json.loads(path.read_text())
        assert found == [ROWS[0], ROWS[1] | {"count": None}, ROWS[2]]
        assert path.read_text() == json.dumps(found, indent=1) + "\n"
    else:
        kinds, found = read_parquet(path)
        assert kinds == {
            "name": "string", "hit": "bool", "count": "double", "list": "list<element: double>", "late": "string"
        }  # fmt: skip
        assert math.isnan(found[1].pop("count"))
        assert found == [
            ROWS[0] | {"late": None},
            {"name": "b,\n", "hit": None, "list": [], "late": "x"},
            {"name": "ü", "hit": None, "count": 2.0, "list": None, "late": None},
        ]


@pytest.mark.parametrize("batch", [1, 2, 100])
@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2, None], "int64", [1, 2, None]),
        ([1, 2.5, None], "double", [1, 2.5, None]),
        ([None, None, True, False], "bool", [None, None, True, False]),
        ([True, 3], "int64", [1, 3]),
        ([True, 0.5], "double", [1, 0.5]),
        ([None, None], "null", [None, None]),
        ([[], [1], None, [2.5]], "list<element: double>", [[], [1], None, [2.5]]),
        ([[None], ["a"]], "list<element: string>", [[None], ["a"]]),
        ([[[1]], [], [[], [2]]], "list<element: list<element: int64>>", [[[1]], [], [[], [2]]]),
        ([1, "x", None, 0.5, True, [1.5]], "string", ["1", "x", None, "0.5", "true", "[1.5]"]),
        ([2**63, 1], "string", [str(2**63), "1"]),
        ([2**53 + 1, 3], "int64", [2**53 + 1, 3]),
        ([{"a": 1}, None], "string", ['{"a": 1}', None]),
        ([(1, 2), [3]], "list<element: int64>", [[1, 2], [3]]),
        ([np.float32(0.5), np.int64(2), np.bool_(True)], "double", [0.5, 2, 1]),
        ([np.arange(2), [0.5]], "list<element: double>", [[0, 1], [0.5]]),
    ],
)
def test_a_column_has_the_least_type_that_holds_all_its_values(tmp_path, monkeypatch, batch, values, kind, expected):
    """Whatever the batches are: what comes late changes the type of what was written before."""
    monkeypatch.setattr(module, "BATCH", batch)
    write(({"x": value, "y": 1} for value in values), tmp_path / "a.parquet", ["x", "y"])
    kinds, found = read_parquet(tmp_path / "a.parquet")
    assert kinds == {"x": kind, "y": "int64"}
    assert [row["x"] for row in found] == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_no_records_are_a_file_with_columns(tmp_path):
    write([], tmp_path / "a.csv", ["x", "y"])
    assert (tmp_path / "a.csv").read_text() == "x,y\n"
    write([], tmp_path / "a.json", ["x", "y"])
    assert (tmp_path / "a.json").read_text() == "[]\n"
    pytest.importorskip("pyarrow")
    write([], tmp_path / "a.parquet", ["x", "y"])
    assert read_parquet(tmp_path / "a.parquet") == ({"x": "null", "y": "null"}, [])


def test_what_is_no_number_is_null_in_json_at_any_depth(tmp_path):
    rows = [{"x": math.nan, "list": [1.0, math.inf, [math.nan]], "of": {"y": -math.inf}}]
    write(rows, tmp_path / "a.json")
    expected = [{"x": None, "list": [1.0, None, [None]], "of": {"y": None}}]
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == expected
    write(rows, tmp_path / "a.csv")
    assert '"[1.0, null, [null]]"' in (tmp_path / "a.csv").read_text()


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_records_are_written_as_they_come(tmp_path, monkeypatch, suffix):
    """Of a stream that has no end, until somebody breaks it off: nothing is left, and the old file stays."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(module, "BATCH", 100)
    path = tmp_path / f"rows{suffix}"
    path.write_text("old")
    sizes = []

    def endless():
        for number in itertools.count():
            sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir() if file != path))
            if number == 5000:
                raise KeyboardInterrupt
            yield {"number": number, "text": f"{number:032}"}

    with pytest.raises(KeyboardInterrupt):
        write(endless(), path, ["number", "text"])
    assert sizes[-1] > sizes[2500] > sizes[0] == 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_none_of_the_columns_is_told(tmp_path):
    with pytest.raises(ValueError, match="a record has the name 'y', which is none of the columns x; add it to names"):
        write([{"x": 1}, {"x": 1, "y": 2}], tmp_path / "a.csv", ["x"])
    assert not list(tmp_path.iterdir())


COMBINED = """
import sys
from pathlib import Path

import pyarrow

from sfumato.runs.results import parquet

parquet.BATCH = 1000
rows = ({"x": 1 if row < 1000 else row / 7} for row in range(int(sys.argv[1])))  # two parts: whole numbers, and fractions
parquet.write_parquet(rows, Path(sys.argv[2]), ["x"])
print(pyarrow.default_memory_pool().max_memory())
"""


def test_parts_are_combined_a_batch_at_a_time(tmp_path):
    """Arrow has memory of its own, which Python does not count: a part that is read ahead would be there as a whole."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    few, many = (
        int(
            subprocess.run(
                [sys.executable, "-c", COMBINED, str(count), tmp_path / "a.parquet"], capture_output=True, check=True
            ).stdout
        )
        for count in (10_000, 100_000)
    )
    assert many < few + 300_000  # of 700,000 more bytes
