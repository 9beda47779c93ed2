"""The project's own files agree with one another."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
INSTALLED = ("demo", "plots")  # the extras that make installs


def requirements():
    yield from PROJECT["project"]["dependencies"]
    for extra in INSTALLED:
        yield from PROJECT["project"]["optional-dependencies"][extra]
    for group in PROJECT["dependency-groups"].values():
        yield from group


@pytest.mark.parametrize("requirement", list(requirements()))
def test_what_is_installed_is_pinned_at_or_above_its_floor(requirement):
    name, floor = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?(?:>=([\d.]+))?", requirement).groups()
    assert name in PINS
    assert version(PINS[name]) >= version(floor or "0")


def version(text):
    return tuple(map(int, text.split(".")))


def test_pins_are_plain_versions_from_the_index():
    assert all(re.fullmatch(r"[\d.]+(b\d+)?", pin) for pin in PINS.values()), "no local builds, no paths"


def test_make_installs_exactly_these_extras():
    extras = re.search(r"--editable '\.\[(.+)\]'", (ROOT / "Makefile").read_text(encoding="utf-8")).group(1)
    assert set(extras.split(",")) == set(INSTALLED)


def test_the_licence_is_whole():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
