"""Writing a file completely or not at all, folders that are left only if something is in them, and text for every file."""

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


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """A context with a folder, which is made with its parents. Of those that were made here, the empty ones are removed at the
    end. Raises `OSError` for a folder that cannot be made."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in new:  # the innermost first
            with suppress(OSError):  # there is something in it
                each.rmdir()


def printable(text: str) -> str:
    r"""The text with everything escaped that UTF-8 cannot hold, such as bytes in the name of a file.

    >>> printable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
