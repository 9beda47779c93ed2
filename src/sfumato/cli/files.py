"""Writing results: a folder that can be written, file names, and complete JSON files."""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import typer

from sfumato.files import made_folder, written


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """A context for work whose results go into a folder, which is made, with a trial of writing to it.

    Folders that were made here and in which nothing was written are removed at the end. Raises `ValueError` for a folder that
    cannot be made or written to, or whose name is that of a file, such as "figure.pdf".
    """
    from sfumato.attribution import OTHERS

    if out.suffix.casefold() in (*OTHERS, ".safetensors") and not out.exists():
        raise ValueError(f"--out names a folder; got {str(out)!r}. Write --out {out.with_suffix('')}")
    with ExitStack() as folders:
        try:
            folders.enter_context(made_folder(out))
            with tempfile.TemporaryFile(dir=out):
                pass
        except OSError as error:
            raise _refusal(out, error) from error
        yield


def _refusal(out: Path, error: OSError) -> ValueError:
    """What is said of a folder that cannot be made or written to."""
    reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror or error
    return ValueError(f"cannot write to folder {str(out)!r}: {reason}; name another with --out")


def stems(paths: Sequence[Path]) -> dict[Path, str]:
    """For each picture, the beginning of the names of its files.

    Pictures of one stem get their endings too, or the folders that they lie in. The names depend on the paths only, not on
    which pictures can be read. They differ also on file systems that do not distinguish upper and lower case.

    >>> list(stems([Path("a/cat.png"), Path("a/cat.jpg"), Path("b/dog.png"), Path("c/Dog.png"), Path("c/cow.png")]).values())
    ['cat-png', 'cat-jpg', 'b-dog', 'c-Dog', 'cow']
    """
    groups = defaultdict(list)
    for path in paths:
        groups[path.stem.casefold()].append(path)
    names = {path: name for group in groups.values() for path, name in zip(group, _distinct(group), strict=True)}
    return dict(zip(paths, unique([names[path] for path in paths]), strict=True))


def _distinct(paths: Sequence[Path]) -> list[str]:
    """Short names for pictures of one stem."""
    if len(paths) == 1:
        return [paths[0].stem]
    absolute = [path.absolute() for path in paths]
    names: list[str] = []
    for depth in range(max(len(path.parts) for path in absolute) - 1):
        folders = [path.parts[1:-1][-depth:] if depth else () for path in absolute]
        for with_ending in (False, True):
            names = [
                "-".join((*folder, path.stem, *([path.suffix[1:]] if with_ending and path.suffix else [])))
                for folder, path in zip(folders, absolute, strict=True)
            ]
            if len({name.casefold() for name in names}) == len(names):
                return names
    return names


def unique(names: Iterable[str]) -> list[str]:
    """The names, with a number where one was used before, in upper or lower case.

    >>> unique(["cat", "Cat", "dog"])
    ['cat', 'Cat-2', 'dog']
    """
    used: set[str] = set()
    numbered = []
    for stem in names:
        name, count = stem, 1
        while name.casefold() in used:
            count += 1
            name = f"{stem}-{count}"
        used.add(name.casefold())
        numbered.append(name)
    return numbered


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


def results_in(count: int, out: Path) -> str:
    """How many results are in which folder.

    >>> results_in(1, Path("out")), results_in(3, Path("out"))
    ('1 result in out', '3 results in out')
    """
    return f"{count} {'result' if count == 1 else 'results'} in {out}"


def print_folder(results: int, out: Path) -> None:
    """Print the last line of a command: how many results are in which folder."""
    typer.echo(results_in(results, out))
