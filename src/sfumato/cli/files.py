"""Where results go: a folder that can be written, names that no two share, JSON that is whole."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from sfumato.files import written


def check_writable(out: Path) -> None:
    """Make the folder and try it, before the work begins."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror or error
        raise ValueError(f"cannot write to folder {str(out)!r}: {reason}; name another with --out") from error


class Names:
    """File names given out so far: none twice, also where upper and lower case are the same.

    >>> names = Names()
    >>> names.unused("cat"), names.unused("Cat"), names.unused("dog")
    ('cat', 'Cat-2', 'dog')
    """

    def __init__(self) -> None:
        self._given: set[str] = set()

    def unused(self, stem: str) -> str:
        name, count = stem, 1
        while name.casefold() in self._given:
            count += 1
            name = f"{stem}-{count}"
        self._given.add(name.casefold())
        return name


def slug(label: str) -> str:
    """A label as a part of a file name.

    >>> slug("Egyptian cat"), slug("jack-o'-lantern"), slug("§")
    ('egyptian-cat', 'jack-o-lantern', 'class')
    """
    return re.sub(r"\W+", "-", label.casefold()).strip("-") or "class"


def write_json(path: Path, summary: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    content = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with written(path) as partial:
        partial.write_text(content, encoding="utf-8")


def say_where(results: int, out: Path) -> None:
    """The last line of a command that wrote results."""
    typer.echo(f"{results} {'result' if results == 1 else 'results'} in {out}")
