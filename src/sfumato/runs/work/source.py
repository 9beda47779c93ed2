"""A hash of the code that results come from: a version number does not change with a working copy."""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache, partial
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from sfumato.runs.work.loaded_code import hash_of_code

ABOVE = ("behaviour", "cli", "figures", "runs", "web")
"""Packages and modules that store or show results, or ask other questions: rows of a run do not depend on them."""


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

STANDARD = frozenset(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
INSTALLED = {"site-packages", "dist-packages"}
"""The folders of Python's own modules, and the names of the folders of installed packages."""

LOADERS = ("import_module", "__import__")
"""Functions that import a module by its name."""

OTHER_LOADERS = (
    *("exec", "exec_module", "load_module", "load_source", "resolve_name", "run_module", "run_path"),
    *("spec_from_file_location", "SourceFileLoader"),
)
"""Functions and classes that run a file or a text."""


def of(thing: Any, named: Iterable[str] = ()) -> list[str]:
    """The user's code that an object depends on: a line with a hash for each module.

    The modules are those of its classes and their bases that are not sfumato's own, and those that these import from their own
    package or folder, loaded or not. A class that states a text `version` is known by that instead, an installed package by its
    `__version__` if it has one. Objects within settings, and the modules of a network, count too. `named` are the dotted paths,
    such as "package.module:factory", by which a plan names the object and parts of it.
    """
    kinds = [*_kinds(thing), *(kind for path in named for kind in _kinds_named(path))]
    return sorted({line for kind in kinds for base in _derived_from(kind) for line in _lines_of(base)})


def differing(lines: Iterable[str], others: Iterable[str]) -> list[str]:
    """The modules that have other hashes, or versions, in two results of `of`. What only one of them names may be a module
    that the other process cannot see."""
    one, other = (dict(line.rsplit(" ", 1) for line in some) for some in (lines, others))
    return [name for name, mark in one.items() if other.get(name, mark) != mark]


def _derived_from(kind: Any) -> list[Any]:
    """A class and its bases, without the bases of a class that states a `version`: this stands for them too."""
    bases: list[Any] = []
    for base in kind.__mro__ if isinstance(kind, type) else (kind,):
        if not any(_version(other) and issubclass(other, base) for other in bases):
            bases.append(base)
    return bases


def _version(kind: Any) -> str:
    """The `version` that a class states itself, not one of its bases, which cannot know of it; empty without one."""
    version = None if isinstance(kind, ModuleType) else getattr(kind, "__dict__", {}).get("version")
    return version if isinstance(version, str) else ""


def _kinds(thing: Any) -> Iterator[type | Any]:
    """The classes and functions that an object is made of."""
    if isinstance(thing, nn.Module):
        yield from dict.fromkeys(type(module) for module in thing.modules())
    elif is_dataclass(thing) and not isinstance(thing, type):
        yield type(thing)
        for entry in fields(thing):
            yield from _kinds(getattr(thing, entry.name))
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from _kinds(value)
    elif isinstance(thing, tuple | list):
        for value in thing:
            yield from _kinds(value)
    elif isinstance(thing, partial):
        yield from _kinds([thing.func, thing.args, thing.keywords])
    elif callable(thing) and hasattr(thing, "__module__"):
        yield thing if hasattr(thing, "__qualname__") else type(thing)
        if (inner := getattr(thing, "__wrapped__", None)) is not None:  # of a decorator that may come from elsewhere
            yield from _kinds(inner)
    elif type(thing).__module__ != "builtins":
        yield type(thing)


def _kinds_named(path: str) -> Iterator[Any]:
    """What a dotted path names: a class, or the module of a factory, whose result need not tell of it."""
    module_name, _, attribute = path.partition(":")
    module = sys.modules.get(module_name)
    target = getattr(module, attribute, None)
    yield from [target] if isinstance(target, type) else [module, *_kinds(target)]


def _lines_of(kind: Any) -> list[str]:
    module = kind if isinstance(kind, ModuleType) else sys.modules.get(getattr(kind, "__module__", None) or "")
    if module is None:  # loaded from its file, and not under its name
        loaded = _file_of_code(kind)
        return [] if loaded is None else [f"{file.name} {_hash(file)}" for file in _closure(loaded)]
    if _top(module.__name__) in OWN or _is_standard(module):
        return []
    start = _File.of(module)
    if version := _version(kind):
        return [f"{start.name}:{kind.__qualname__} version {version}"]
    package = sys.modules.get(_top(module.__name__), module)
    installed = INSTALLED & set(start.path.parts if start.path else ())
    if installed and isinstance(installed_version := getattr(package, "__version__", None), str):
        return [f"{package.__name__} {installed_version}"]
    if start.path is None:  # of a notebook
        return [] if kind is module else [f"{start.name}:{kind.__qualname__} {hash_of_code(kind, module)}"]
    return [f"{file.name} {_hash(file)}" for file in _closure(start)]


def _file_of_code(kind: Any) -> "_File | None":
    """The file that a class or function was compiled from; `None` without one."""
    functions = [kind, *(vars(kind).values() if isinstance(kind, type) else ())]
    paths = [Path(function.__code__.co_filename) for function in functions if isinstance(function, FunctionType)]
    return next((_File(kind.__module__, path, "") for path in paths if path.is_file()), None)


def _is_standard(module: ModuleType) -> bool:
    """Whether a module is Python's own, and not a user's of the same name."""
    if _top(module.__name__) not in sys.stdlib_module_names:
        return False
    path = getattr(module, "__file__", None)
    return path is None or not STANDARD.isdisjoint(Path(path).resolve().parents)


class _File(NamedTuple):
    """The file of a module, which need not be loaded: a function may import it later."""

    name: str
    path: Path | None
    package: str

    @classmethod
    def of(cls, module: ModuleType) -> "_File":
        path = getattr(module, "__file__", None)
        # A worker process has the script that was started under another name.
        name = "__main__" if module.__name__ == "__mp_main__" else module.__name__
        return cls(name, Path(path) if path else None, module.__package__ or "")

    @property
    def root(self) -> Path | None:
        """The folder that the module's package is imported from."""
        if self.path is None:
            return None
        depth = self.name.count(".") + (self.path.stem == "__init__")
        return self.path.parents[depth] if depth < len(self.path.parents) else None

    def read(self) -> bytes:
        if self.path is None:
            raise OSError("a module without a file")
        return self.path.read_bytes()


def _closure(module: _File) -> list[_File]:
    """A module and those that it imports from its package or folder, directly or not, with the packages that these are in."""
    files: dict[str, _File] = {}
    left = [module]
    while left:
        one = left.pop()
        if one.name not in files:
            files[one.name] = one
            others = map(_find_module, [*_parents(one.name), *_imports(one)])
            left += [other for other in others if other is not None and _beside(one, other)]
    return [file for file in files.values() if file.path is not None]


def _parents(name: str) -> list[str]:
    """The packages that a module is in, which are imported before it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _find_module(name: str) -> _File | None:
    """The file of a module, which this does not load; `None` without a file."""
    if (module := sys.modules.get(name)) is not None:
        return _File.of(module)
    spec = _find_spec(name)
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return _File(name, Path(spec.origin), spec.parent or "")


def _find_spec(name: str) -> ModuleSpec | None:
    parent = name.rpartition(".")[0]
    folders = _folders(parent) if parent else None
    for finder in sys.meta_path:
        with suppress(
            ImportError, ValueError, KeyError, AttributeError
        ):  # a package without a file asks for its parent
            if (spec := finder.find_spec(name, folders, None)) is not None:
                return spec
    return None


def _folders(package: str) -> list[str]:
    """The folders of a package's modules."""
    if package in sys.modules:
        return [str(folder) for folder in getattr(sys.modules[package], "__path__", ())]
    spec = _find_spec(package)
    if spec is not None and spec.loader is not None:
        return list(spec.submodule_search_locations or ())
    parent, _, name = package.rpartition(".")  # one without an `__init__`
    folders = [Path(folder, name) for folder in (_folders(parent) if parent else sys.path)]
    return [str(folder) for folder in folders if folder.is_dir()]


def _imports(module: _File) -> Iterable[str]:
    """The names of all modules that a module's source imports, anywhere in it.

    If it computes names, runs files, or has a function `__getattr__` that imports what is asked for, they may be any in its
    folder."""
    try:
        tree = ast.parse(module.read())
    except (OSError, SyntaxError, ValueError):
        return
    known: set[int] = (
        set()
    )  # the names of functions in calls that say what they import; a call is walked before its parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (*_parents(alias.name), alias.name)
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):
                base = resolve_name("." * node.level + (node.module or ""), module.package)
                yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Call) and _called(node) in LOADERS and _first_text(node):
            known.add(id(node.func))
            with suppress(ImportError):
                yield resolve_name(_first_text(node), module.package)
        elif id(node) not in known and _may_load(node):
            yield from _neighbours(module)
    if any(_defines(statement, "__getattr__") for statement in tree.body):
        yield from _neighbours(module)


def _called(call: ast.Call) -> str:
    """The last name of the function that is called."""
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def _first_text(call: ast.Call) -> str:
    """The first argument of a call if it is a text that the source spells out, else empty."""
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def _may_load(node: ast.AST) -> bool:
    """Whether a name in the source is that of a function that loads modules, by whatever name it is called afterwards."""
    if isinstance(node, ast.alias):
        return node.asname is not None and node.name in (*LOADERS, *OTHER_LOADERS)
    return getattr(node, "id", getattr(node, "attr", "")) in (*LOADERS, *OTHER_LOADERS)


def _defines(statement: ast.stmt, name: str) -> bool:
    """Whether a statement defines a function of that name, or assigns something to the name."""
    if isinstance(statement, ast.FunctionDef):
        return statement.name == name
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(getattr(node, "id", "") == name for target in targets for node in ast.walk(target))


def _neighbours(module: _File) -> Iterator[str]:
    """The names of the modules in a module's folder; of one in a package, at any depth."""
    if module.path is None:
        return
    folder, package = module.path.parent, module.package
    for path in sorted(folder.rglob("*.py") if package else folder.glob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        names = [*([package] if package else []), *(parts[:-1] if parts[-1] == "__init__" else parts)]
        if all(part.isidentifier() for part in parts) and names:
            yield ".".join(names)


def _beside(module: _File, other: _File) -> bool:
    """Whether a module belongs to the same package as another, or to the same folder of packages and modules."""
    if _top(other.name) in OWN:
        return False
    if _top(other.name) == _top(module.name):
        return True
    if other.path is None or module.path is None:
        return False
    together = module.root == other.root and not INSTALLED & set(other.path.parts)
    return together or other.path.parent == module.path.parent


def _hash(module: _File) -> str:
    """A hash of a module's source; "unreadable" if it cannot be read, such as one in an archive."""
    try:
        return hashlib.sha256(module.read()).hexdigest()[:16]
    except OSError:
        return "unreadable"


def _top(name: str) -> str:
    return name.partition(".")[0]
