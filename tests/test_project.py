"""The project's own files agree with one another."""

import ast
import collections
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
SHORT = 100  # characters of a syntax tree: of a constant such as (0, 1)
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


def written():
    """What modules define at their top, as (file, name, code): functions, and constants that are tables or tuples."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                code = node.body[1:] if ast.get_docstring(node) else node.body
                yield path.name, node.name, [ast.dump(part) for part in (node.args, *code)]
            elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
                node.value, ast.Tuple | ast.Dict | ast.Set
            ):
                yield path.name, ast.unparse(node).split("=")[0].strip(), [ast.dump(node.value)]


def test_nothing_is_written_twice():
    """No function and no table stands in two modules, under one name or two."""
    places = collections.defaultdict(list)
    for file, name, code in written():
        if len("".join(code)) > SHORT:
            places["\n".join(code)].append(f"{file}: {name}")
    assert [twice for twice in places.values() if len(twice) > 1] == []


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml")]
PAGES += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "src").rglob("*.py"))


def test_no_address_of_the_project_is_invented():
    """There is no public one yet: pages say how to install from the source, and the metadata has no addresses."""
    invented = {
        (path.name, address)
        for path in PAGES
        for address in re.findall(r"https?://[^\s)\"'>]*sfumato[^\s)\"'>]*", path.read_text(encoding="utf-8"))
    }
    assert invented == set()
    assert "urls" not in PROJECT["project"]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/tutorial.md", "docs/explorer.md"])
def test_a_first_installation_is_from_the_source(page):
    """sfumato is on no index. Once it is installed, the same line with its name adds an extra."""
    text = (ROOT / page).read_text(encoding="utf-8")
    first = re.search(r"^```sh\n(?:make .*\n)*(pip install .*)$", text, re.MULTILINE)
    assert first[1].startswith('pip install ".[')
    extras = set(PROJECT["project"]["optional-dependencies"])
    named = re.findall(r'pip install "(?:sfumato|\.)\[([\w,]+)\]', text)
    assert named
    assert {extra for extra_list in named for extra in extra_list.split(",")} <= extras
