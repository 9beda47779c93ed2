"""Writing results: a folder that can be written, unique file names, and complete JSON files."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from sfumato.files import written


def check_writable(out: Path) -> None:
    """Make the folder and try to write to it, before the work begins. Raises `ValueError` if that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror or error
        raise ValueError(f"cannot write to folder {str(out)!r}: {reason}; name another with --out") from error


class Names:
    """Unique file names, also on file systems that do not distinguish upper and lower case.

    >>> names = Names()
    >>> names.unused("cat"), names.unused("Cat"), names.unused("dog")
    ('cat', 'Cat-2', 'dog')
    """

    def __init__(self) -> None:
        self._used: set[str] = set()

    def unused(self, stem: str) -> str:
        """The stem, with a number if it was used before."""
        name, count = stem, 1
        while name.casefold() in self._used:
            count += 1
            name = f"{stem}-{count}"
        self._used.add(name.casefold())
        return name


def slug(label: str) -> str:
    """A label as a part of a file name.

    >>> slug("Egyptian cat"), slug("jack-o'-lantern"), slug("§")
    ('egyptian-cat', 'jack-o-lantern', 'class')
    """
    return re.sub(r"\W+", "-", label.casefold()).strip("-") or "class"


def write_json(path: Path, summary: Mapping[str, Any]) -> None:
    """Write a JSON file, completely or not at all."""
    content = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with written(path) as partial:
        partial.write_text(content, encoding="utf-8")


def print_folder(results: int, out: Path) -> None:
    """Print the last line of a command: how many results are in which folder."""
    typer.echo(f"{results} {'result' if results == 1 else 'results'} in {out}")
