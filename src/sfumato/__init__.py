"""sfumato shows what a deep network needs to see.

The public names stand in `__init__.pyi`, one line a name. They are imported at their first use, so that a command line that
needs no tensors starts without torch.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


@cache
def _table() -> Mapping[str, tuple[str, str]]:
    """For every public name the module that it is imported from, and its name there; modules are not imported for it."""
    return dict(_exports(Path(__file__).with_suffix(".pyi")))


def _exports(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """What the lines `from module import name as name` of a file export; `*` is all that such lines of a package export."""
    import ast

    for line in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.ImportFrom) and line.module:
            for entry in line.names:
                if entry.name == "*":
                    yield from _exports(Path(__file__).parent.joinpath(*line.module.split(".")[1:], "__init__.py"))
                elif entry.asname:
                    yield entry.asname, (line.module, entry.name)


def _of_captum(name: str) -> str:
    """The end of an error about a name that a class of Captum has, if Captum is installed."""
    if not name[0].isupper():
        return ""
    try:
        attr = import_module("captum.attr")
    except ImportError:
        return ""
    return f"; Captum has: write sfumato.Captum({name!r})" if hasattr(attr, name) else ""


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("sfumato")
        except PackageNotFoundError:
            return "unknown"
    if name.startswith("__") or name not in _table():
        from sfumato.settings import near

        hint = "" if name.startswith("_") else near(name, _table()) or _of_captum(name)
        # With a name but without an object, Python adds no suggestion of its own to a traceback.
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}{hint}", name=name)
    module, original = _table()[name]
    home = None if module == __name__ else import_module(module)
    # A module within a package is no attribute of it before its import.
    return getattr(home, original) if hasattr(home, original) else import_module(f"{module}.{original}")


def __dir__() -> list[str]:
    return sorted(_table(), key=lambda name: (not name.isupper(), name[0].islower(), name))
