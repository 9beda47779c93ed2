"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The name to write a file under, beside its own, which it gets in the end; after an error or Ctrl-C nothing is left of it.

    Who reads meanwhile finds the old file or the new one. Raises the `OSError` that stops it, of its kind.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        with suppress(OSError):  # of disks that know no modes
            partial.chmod(mode)  # safetensors makes a file that only its owner can read
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        kind = type(error) if isinstance(error, OSError) else OSError
        reason = getattr(error, "strerror", None) or error
        raise kind(
            f"cannot write {str(path)!r}: {reason}; expected a folder to write to, and the name of a file"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def printable(text: str) -> str:
    r"""Text that UTF-8 can hold: of a file's name that is none, the bytes stand as they do in Python.

    >>> printable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
