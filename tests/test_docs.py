"""The pages are made of what the library says of itself."""

import doctest
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import sfumato

DOCS = Path(__file__).parents[1] / "docs"


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_become_rest():
    tried = doctest.testmod(loaded("pages"))
    assert tried.attempted
    assert not tried.failed


def test_what_is_between_backticks_is_left_alone():
    text = loaded("pages").as_rest("`$HOME` and `a_b`s, $a$ `b`\n\n>>> print('`$x$`')\n`$x$`")
    assert text == "``$HOME`` and ``a_b``\\ s, :math:`a` ``b``\n\n>>> print('`$x$`')\n`$x$`"


def test_the_reference_has_every_public_name():
    reference = "\n".join(loaded("pages").everything())
    names = re.findall(r"^\.\. auto(?!module)\w+:: sfumato\.(\w+)$", reference, re.MULTILINE)
    modules = re.findall(r"^\.\. automodule:: sfumato\.([\w.]+)$", reference, re.MULTILINE)
    exported = {name: getattr(sfumato, name) for name in sfumato.__all__}
    packages = {name: value.__name__ for name, value in exported.items() if isinstance(value, ModuleType)}
    assert sorted(f"sfumato.{module}" for module in modules) == sorted(packages.values())
    assert sorted([*names, *packages]) == sorted(sfumato.__all__)


def test_the_reference_page_has_a_place_for_them():
    assert "\neverything\n" in (DOCS / "reference.md").read_text(encoding="utf-8")


def test_every_page_is_in_the_table_of_contents():
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or re.search(rf"^{page.stem}$", contents, re.MULTILINE), page
