"""The citation is of this version, under this licence."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(
    ("key", "value"), [("title", PROJECT["name"]), ("version", PROJECT["version"]), ("license", PROJECT["license"])]
)
def test_it_agrees_with_the_package(key, value):
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(rf"^{key}: (.+)$", citation, re.MULTILINE) == [value]
