"""Shapes and kinds of tensors, checked while the tests run: every annotation such as `Float[Tensor, "B V 1 *S"]`.

`install` is called in conftest.py before sfumato is imported. It does what `jaxtyping.install_import_hook` does, but wraps
only what has such annotations, and checks a call only where no call of the same function with tensors of the same shapes and
kinds was checked before. Every call checked, the tests of the search take half as long again.
"""

import ast
import contextlib
import dataclasses
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable
from functools import cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from typing import Any, get_args, get_origin

import numpy as np
import torch
from beartype import beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

CHECKED = (
    *("sfumato.masks", "sfumato.search", "sfumato.space"),
    *("sfumato.attribution", "sfumato.games", "sfumato.perturbations", "sfumato.scores"),
    *("sfumato.layers", "sfumato.model", "sfumato.methods", "sfumato.metrics"),
    *("sfumato.behaviour", "sfumato.figures", "sfumato.models"),
)
"""Modules, and packages with all of their modules."""


def install() -> None:
    """From now on, check what is imported of `CHECKED`."""
    sys.meta_path.insert(0, _Finder())


def checked(subject):
    """A function, dataclass or named tuple that raises `jaxtyping.TypeCheckError` where tensors differ from annotations.

    A function that refuses such tensors itself raises the `ValueError` that its users see.
    """
    if not isinstance(subject, type):
        return _checked_function(subject)
    if dataclasses.is_dataclass(subject):
        subject.__init__ = _checked_function(subject.__init__)
    elif issubclass(subject, tuple):
        subject.__new__ = staticmethod(_checked_function(subject.__new__))
    return subject


def _checked_function(function):
    strict = cache(lambda: jaxtyped(function, typechecker=_arrays_only))  # made when it is needed: it takes a while
    seen = _SEEN.setdefault(function.__code__, set())

    @wraps(function)
    def wrapper(*args, **kwargs):
        key = _kind(args), _kind(tuple(kwargs.items())) if kwargs else ()
        if key in seen:
            return function(*args, **kwargs)
        try:
            result = strict()(*args, **kwargs)
        except TypeCheckError as error:
            if "the parameters of" in str(error):
                _own_error(function, args, kwargs)
            raise
        seen.add(key)
        return result

    return wrapper


def _own_error(function, args, kwargs):
    """Raise the `ValueError` that sfumato raises for these arguments, if it raises one."""
    try:
        result = function(*args, **kwargs)
        if inspect.isgenerator(result):  # which begins at its first value
            with contextlib.closing(result):
                next(result, None)
    except ValueError as error:
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        # Not what numpy says, also in C, where sfumato's line is no `raise`.
        if linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise"):
            raise
    except BaseException:  # noqa: BLE001  # what fails because of a wrong shape, as is said already
        return


_SEEN: dict[Any, set] = {}
"""By a function's code, so that functions within functions, which are made again and again, are checked but once too."""


def _kind(value: Any) -> Any:
    """What decides about the shape of a result."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.shape, value.dtype
    if isinstance(value, tuple | list):
        return tuple(map(_kind, value))
    return value if value is None or isinstance(value, int | str | torch.dtype) else type(value)


def _arrays_only(function):
    """The function with those of its annotations checked by beartype that have the shape of an array.

    All others are left to mypy: tests hand over stand-ins, and what is wrong on purpose, which has errors of its own.
    """
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _has_arrays(hint)}
    return beartype(function)


def _has_arrays(hint: Any) -> bool:
    if get_origin(hint) is Callable:  # of which beartype does not see the arguments
        return False
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_has_arrays, get_args(hint)))


class _Finder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if not any(f"{fullname}.".startswith(f"{name}.") for name in CHECKED):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = CheckingLoader(spec.loader.name, spec.loader.path)
        return spec


class CheckingLoader(SourceFileLoader):
    """Adds the decorator `checked` to what has annotations of arrays."""

    def get_code(self, fullname):
        source = self.get_data(self.path)
        if b"jaxtyping" not in source:  # nothing to check
            return super().get_code(fullname)
        # Neither read from `__pycache__`, nor written to where others would read it.
        return self.source_to_code(source, self.path)

    def source_to_code(self, data, path, *, _optimize=-1):
        tree = ast.parse(data, path)
        kinds = _kinds_of_arrays(tree)
        if not kinds:
            return super().source_to_code(data, path, _optimize=_optimize)
        for node in ast.walk(tree):
            decorator = ast.Name("_checked", ast.Load(), lineno=getattr(node, "lineno", 1), col_offset=0)
            if isinstance(node, ast.FunctionDef) and _annotated(node, kinds):
                node.decorator_list.append(decorator)
            elif isinstance(node, ast.ClassDef) and any(_annotated(entry, kinds) for entry in _fields(node)):
                node.decorator_list.insert(0, decorator)
        tree.body[1:1] = ast.parse(f"from {__name__} import checked as _checked").body  # after the docstring
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)


def _kinds_of_arrays(tree: ast.Module) -> set[str]:
    lines = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping")
    return {entry.name for line in lines for entry in line.names}


def _fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    return [entry for entry in node.body if isinstance(entry, ast.AnnAssign)]


def _annotated(node: ast.FunctionDef | ast.AnnAssign, kinds: set[str]) -> bool:
    """Whether a function's signature, or a field, tells of arrays."""
    hints = [node.annotation] if isinstance(node, ast.AnnAssign) else [node.args, node.returns or node.args]
    return any(isinstance(part, ast.Name) and part.id in kinds for hint in hints for part in ast.walk(hint))
