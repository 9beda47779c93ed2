"""A hash of code that is loaded and has no file, such as that of a notebook."""

import hashlib
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

PLAIN = (bool, int, float, complex, str, bytes, type(None))


def hash_of_code(thing: Any, module: ModuleType) -> str:
    """A hash of a class or function, and of the functions, classes and constants of its module that it uses.

    It is of the compiled code: comments do not count, and another version of Python gives another hash.
    """
    return hashlib.sha256("\n".join(_marks(thing, module, set())).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _marks(thing: Any, module: ModuleType, done: set[int]) -> Iterator[str]:
    """Texts that tell the thing from others; `done` holds the ids of what was seen before."""
    if isinstance(thing, staticmethod | classmethod):
        thing = thing.__func__
    if isinstance(thing, PLAIN) or (isinstance(thing, tuple) and all(isinstance(part, PLAIN) for part in thing)):
        yield repr(thing)
        return
    if id(thing) in done:
        return
    done.add(id(thing))
    if isinstance(thing, property):
        for part in (thing.fget, thing.fset, thing.fdel):
            yield from _marks(part, module, done)
    elif isinstance(thing, type):
        for name, value in sorted(vars(thing).items()):
            if name not in ("__module__", "__firstlineno__", "__doc__"):
                yield name
                yield from _marks(value, module, done)
    elif isinstance(thing, FunctionType):
        yield from _marks(getattr(thing, "__wrapped__", None), module, done)
        for default in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()):
            yield from _marks(default, module, done)
        for code in _codes(thing.__code__):
            yield code.co_code.hex()
            yield repr(code.co_names)
            yield from map(_constant, code.co_consts)
            for name in code.co_names:
                value = vars(module).get(name)
                if isinstance(value, (*PLAIN, tuple)) or getattr(value, "__module__", None) == module.__name__:
                    yield name
                    yield from _marks(value, module, done)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _constant(value: Any) -> str:
    """A constant as a text that is the same in each process."""
    if isinstance(value, CodeType):
        return ""
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
