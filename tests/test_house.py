"""How the package is built: what `bench/house.py` counts, where it must not grow."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("house", ROOT / "bench" / "house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_two_modules_import_each_other(house):
    assert house.cycles(house.imports()) == []


def test_cycles_are_seen(house):
    assert house.cycles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]


def test_no_import_is_exempted_from_the_contracts(house):
    assert house.exemptions() == 0


def test_the_top_level_is_small(house):
    modules = {path.stem for path in house.PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    packages = {path.parent.name for path in house.PACKAGE.glob("*/__init__.py")}
    assert len(modules) <= 7
    assert len(modules | packages) <= 23
    described = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in sorted(modules | packages) if f"`{name}`" not in described] == []


def test_every_package_says_what_lives_there(house):
    for path in house.PACKAGE.rglob("__init__.py"):
        assert path.read_text(encoding="utf-8").lstrip().startswith('"""'), path


def test_what_a_call_runs_through_does_not_grow(house):
    calls, step = house.main_path()
    assert "search/loop.py" in step.files
    assert len(calls.files) <= 33
    assert len(calls.functions) <= 182
    assert len(step.functions) < len(calls.functions) / 2
