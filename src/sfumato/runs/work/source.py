"""The code that results come from, as a hash: a version's number alone would not tell a changed working copy."""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

ABOVE = ("behaviour", "cli", "figures", "runs", "web")
"""Packages and modules that show and store results, or ask something else: no row of a run comes from them."""


@cache
def code() -> str:
    """A hash of the files of this package that results depend on."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.with_suffix("").parts[0] not in ABOVE:
            digest.update(f"{name.as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


OWN = ("builtins", "sfumato", "torch")
"""Packages whose code is known by their versions (see `session.current`)."""


def of(thing: Any) -> list[str]:
    """What of a user's own code an object comes from, by module: for each class of it that is not sfumato's own, and each class
    that it derives from, a hash of its module's source and of what that imports from its own package or folder, loaded or not.

    A class with a text `version` is known by that instead; a package that is installed, by its `__version__` if it has one.
    Objects within settings, and the modules of a network, count too.
    """
    return sorted({line for kind in _kinds(thing) for each in _derived_from(kind) for line in _told(each)})


def _derived_from(kind: Any) -> tuple[Any, ...]:
    """A class and its bases; alone where it says its version."""
    return (kind,) if isinstance(getattr(kind, "version", None), str) else getattr(kind, "__mro__", (kind,))


def _kinds(thing: Any) -> Iterator[type | Any]:
    """The classes and functions that an object is made of."""
    if isinstance(thing, nn.Module):
        yield from dict.fromkeys(type(module) for module in thing.modules())
    elif is_dataclass(thing) and not isinstance(thing, type):
        yield type(thing)
        for each in fields(thing):
            yield from _kinds(getattr(thing, each.name))
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from _kinds(value)
    elif isinstance(thing, tuple | list):
        for value in thing:
            yield from _kinds(value)
    elif callable(thing) and hasattr(thing, "__module__"):
        yield thing if hasattr(thing, "__qualname__") else type(thing)
    elif type(thing).__module__ != "builtins":
        yield type(thing)


def _told(kind: Any) -> list[str]:
    module = sys.modules.get(getattr(kind, "__module__", None) or "")
    if module is None or _top(module.__name__) in OWN or _top(module.__name__) in sys.stdlib_module_names:
        return []
    version = getattr(kind, "version", None)
    if isinstance(version, str):
        return [f"{module.__name__}:{kind.__qualname__} version {version}"]
    package = sys.modules.get(_top(module.__name__), module)
    installed = {"site-packages", "dist-packages"} & set(Path(getattr(module, "__file__", None) or "").parts)
    if installed and isinstance(known := getattr(package, "__version__", None), str):
        return [f"{package.__name__} {known}"]
    return [f"{each.name} {_hashed(each)}" for each in _closure(_File.of(module))]


class _File(NamedTuple):
    """A module's file: what a function imports when it is called need not be loaded yet."""

    name: str
    path: Path | None
    package: str

    @classmethod
    def of(cls, module: ModuleType) -> "_File":
        path = getattr(module, "__file__", None)
        return cls(module.__name__, Path(path) if path else None, module.__package__ or "")

    def read(self) -> bytes:
        if self.path is None:
            raise OSError("a module without a file")
        return self.path.read_bytes()


def _closure(module: _File) -> list[_File]:
    """A module, and those of its package or folder that it imports, directly or not."""
    found: dict[str, _File] = {}
    left = [module]
    while left:
        one = left.pop()
        if one.name not in found:
            found[one.name] = one
            left += [other for name in _imports(one) if (other := _located(name)) is not None and _beside(one, other)]
    return list(found.values())


def _located(name: str) -> _File | None:
    """The file of a module of that name, which is not loaded for this."""
    if (module := sys.modules.get(name)) is not None:
        return _File.of(module)
    parent, _, _ = name.rpartition(".")
    folders = None
    if parent in sys.modules:
        folders = [str(folder) for folder in getattr(sys.modules[parent], "__path__", ())]
    elif parent:
        known = _located(parent)
        folders = [str(known.path.parent)] if known and known.path and known.path.stem == "__init__" else []
    try:
        spec = PathFinder.find_spec(name, folders)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return _File(name, Path(spec.origin), spec.parent or "")


def _imports(module: _File) -> Iterable[str]:
    """The names of all modules that a module's source imports, anywhere in it."""
    try:
        tree = ast.parse(module.read())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                parts = each.name.split(".")
                yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), module.package)
            except ImportError:
                continue
            yield base
            yield from (f"{base}.{each.name}" for each in node.names)


def _beside(module: _File, other: _File) -> bool:
    """Whether a module belongs to the same package as another, or lies in the same folder."""
    near = module.path is not None and other.path is not None and other.path.parent == module.path.parent
    return _top(other.name) == _top(module.name) or near


def _hashed(module: _File) -> str:
    """A hash of a module's source; of one that has no file, as in a notebook, that is said."""
    try:
        return hashlib.sha256(module.read()).hexdigest()[:16]
    except OSError:
        return "without a file"


def _top(name: str) -> str:
    return name.partition(".")[0]
