"""What docstrings and pages need on their way into Sphinx.

Docstrings here are for reading in an editor: `code` in single backticks and $mathematics$ between dollars, as in Markdown.
Sphinx takes them for reStructuredText. The reference page is made of all public names.
"""

import importlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import sfumato
from sfumato import methods
from sfumato.attribution import TensorResult

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


def everything() -> Iterator[str]:
    """The reference: what `sfumato` exports by the module that it is at home in, then the modules that it exports."""
    homes: dict[str, dict[str, Any]] = {home: {} for home in FIRST}
    modules = {}
    for name in sfumato.__all__:
        value = getattr(sfumato, name)
        if isinstance(value, ModuleType):
            modules[name] = value.__name__
        else:
            home = "methods" if name in methods.__all__ else sfumato._table()[name][0].removeprefix("sfumato.")
            homes.setdefault(home, {})[name] = value
    for home, values in homes.items():
        yield f"{home}\n{'-' * len(home)}"
        yield as_rest(importlib.import_module(f"sfumato.{home}").__doc__ or "")
        for name, value in values.items():
            inherits = isinstance(value, type) and issubclass(value, TensorResult)
            yield f".. {_directive(value)}:: sfumato.{name}" + "\n   :inherited-members:" * inherits
    for name, module in modules.items():
        yield f"sfumato.{name}\n{'-' * (8 + len(name))}"
        yield f".. automodule:: {module}\n   :members:"


def _directive(value: Any) -> str:
    if isinstance(value, type):
        return "autoclass"
    return "autofunction" if callable(value) and hasattr(value, "__code__") else "autodata"


def setup(app: Any) -> dict[str, bool]:
    """Have Sphinx call what stands above."""

    def translated(_app: Any, _what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = as_rest("\n".join(lines)).splitlines()

    def read(_app: Any, page: str, content: list[str]) -> None:
        if page == "reference":
            content[0] = content[0].replace("\neverything\n", "\n" + "\n\n".join(everything()) + "\n")

    def shortened(
        _app: Any, _what: str, _name: str, _value: Any, _options: Any, arguments: str | None, returned: str | None
    ) -> tuple[str | None, str | None]:
        return arguments and arguments.replace("~typing.", "").replace("<factory>", "..."), returned

    app.connect("autodoc-process-docstring", translated)
    app.connect("autodoc-process-signature", shortened)
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
