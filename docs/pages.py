"""What docstrings and pages need on their way into Sphinx.

Docstrings here are for reading in an editor: `code` in single backticks and $mathematics$ between dollars, as in Markdown.
Sphinx takes them for reStructuredText. The reference has a page for each public name.
"""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import sfumato
from sfumato import methods
from sfumato.attribution import TensorResult
from sfumato.cli.tables import first_sentence
from sfumato.settings import Settings

INLINE = re.compile(r"`(?P<code>[^`]+)`|\$(?P<maths>[^$]+)\$")


def as_rest(text: str) -> str:
    r"""The same docstring in reStructuredText; names of this library become links.

    >>> as_rest("An `Attribution` of $x$, `(B, C)`.")
    'An :py:obj:`Attribution <sfumato.Attribution>` of :math:`x`, ``(B, C)``.'
    """
    blocks = re.split(r"(\n\s*\n)", text)
    return "".join(block if block.lstrip().startswith(">>>") else INLINE.sub(_inline, block) for block in blocks)


def _inline(found: re.Match[str]) -> str:
    end = r"\ " if found.string[found.end() : found.end() + 1].isalnum() else ""  # reST wants a boundary
    if found["maths"]:
        return f":math:`{found['maths']}`{end}"
    if found["code"] in sfumato.__all__ and not isinstance(getattr(sfumato, found["code"]), ModuleType):
        return f":py:obj:`{found['code']} <sfumato.{found['code']}>`{end}"
    return f"``{found['code']}``{end}"


FIRST = ("methods", "methods.method", "methods.sufficient", "attribution")
"""The modules whose names stand first in the reference."""

FOLDER = Path(__file__).parent / "reference"


def homes() -> dict[str, dict[str, Any]]:
    """The public names that are no modules, by the module that each is at home in."""
    found: dict[str, dict[str, Any]] = {home: {} for home in FIRST}
    for name in sfumato.__all__:
        if not isinstance(getattr(sfumato, name), ModuleType):
            home = "methods" if name in methods.__all__ else sfumato._table()[name][0].removeprefix("sfumato.")
            found.setdefault(home, {})[name] = getattr(sfumato, name)
    return found


def modules() -> dict[str, ModuleType]:
    """The modules that `sfumato` exports."""
    values = {name: getattr(sfumato, name) for name in sfumato.__all__}
    return {name: value for name, value in values.items() if isinstance(value, ModuleType)}


def reference() -> dict[str, str]:
    """The pages of the reference, one a public name, in reStructuredText, by their names without an ending."""
    pages = {}
    for values in homes().values():
        for name, value in values.items():
            inherits = isinstance(value, type) and issubclass(value, TensorResult)
            options = "\n   :inherited-members:" * inherits
            pages[name] = f"{_heading(name, '=')}\n\n.. {_directive(value)}:: sfumato.{name}{options}\n"
    for name, module in modules().items():  # by another name than a class, as Captum has beside captum
        title = _heading(f"sfumato.{name}", "=")
        pages[f"sfumato.{name}"] = f"{title}\n\n.. automodule:: {module.__name__}\n   :members:\n"
    return pages


def contents() -> str:
    """The list of all pages of the reference, in reStructuredText: each name with the first sentence of its docstring."""
    parts = []
    for home, values in homes().items():
        about = as_rest(first_sentence(importlib.import_module(f"sfumato.{home}").__doc__))
        rows = [f"- :doc:`{name} <reference/{name}>`: {_first(value)}" for name, value in values.items()]
        parts.append("\n".join([_heading(home, "-"), "", about, "", *rows]))
    rows = [f"- :doc:`sfumato.{name} <reference/sfumato.{name}>`: {_first(value)}" for name, value in modules().items()]
    parts.append("\n".join([_heading("Modules", "-"), "", *rows]))
    tree = "\n".join(f"   reference/{name}" for name in reference())
    return "\n\n".join([*parts, f".. toctree::\n   :hidden:\n\n{tree}"])


def write(folder: Path = FOLDER) -> list[str]:
    """Write the pages of the reference that have changed, and remove those of names that are gone. Returns what was written."""
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.rst": text for name, text in reference().items()}
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    changed = []
    for name, text in pages.items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed


def _heading(title: str, line: str) -> str:
    return f"{title}\n{line * len(title)}"


def _first(value: Any) -> str:
    """The first sentence of a docstring; a constant, such as a game, says what it is."""
    if isinstance(value, type | ModuleType) or hasattr(value, "__code__"):
        return as_rest(first_sentence(value.__doc__))
    return f"``{value!r}``"


def _directive(value: Any) -> str:
    if isinstance(value, type):
        return "autoclass"
    return "autofunction" if callable(value) and hasattr(value, "__code__") else "autodata"


def setup(app: Any) -> dict[str, bool]:
    """Have Sphinx call what stands above."""
    from sphinx.util.inspect import safe_getattr  # the tests import this file without Sphinx

    def translated(_app: Any, _what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = as_rest("\n".join(lines)).splitlines()

    def read(_app: Any, page: str, content: list[str]) -> None:
        if page == "reference":
            content[0] = content[0].replace("\ncontents\n", f"\n{contents()}\n")

    def shortened(
        _app: Any, _what: str, _name: str, _value: Any, _options: Any, arguments: str | None, returned: str | None
    ) -> tuple[str | None, str | None]:
        return arguments and arguments.replace("~typing.", "").replace("<factory>", "..."), returned

    def own(cls: type, name: str, *default: Any) -> Any:
        """The attribute of a class, but for `__new__`, whose signature takes any setting: that of `__init__` says which."""
        return object.__new__ if name == "__new__" and issubclass(cls, Settings) else safe_getattr(cls, name, *default)

    app.add_autodoc_attrgetter(type, own)
    app.connect("autodoc-process-docstring", translated)
    app.connect("autodoc-process-signature", shortened)
    app.connect("source-read", read)
    app.connect("builder-inited", lambda _: write())
    return {"parallel_read_safe": True}
