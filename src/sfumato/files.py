"""Writing a file completely or not at all, and text that every file can hold."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name in the same folder, and rename it at the end of the block.

    Gives the temporary name. A reader sees the old file or the complete new one. After an error or Ctrl-C, the temporary file
    is removed. Raises an `OSError` of the same class as the one that stopped the writing.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        with suppress(OSError):  # some disks have no modes
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
    r"""The text with everything escaped that UTF-8 cannot hold, such as bytes in the name of a file.

    >>> printable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
