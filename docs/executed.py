"""What the code of a page prints and draws, put below each of its blocks: the page is run as a build begins.

Nothing of it is committed. It is kept for the next build, until the page's code or the modules that it runs change.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError
from sphinx.util import logging

import sfumato

PAGES = ("tutorial",)
"""The pages that show it."""

HERE = Path(__file__).parent
FOLDER = HERE / "executed"
SOURCES = Path(sfumato.__file__).parent
RUN = ("attribution.py", "masks", "methods", "model", "search", "perturbations.py", "figures")
"""The packages and modules whose doing the outputs show."""

BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n", re.DOTALL)
DRAWN = re.compile(r'plots\.save\(\w+, "(?P<file>[\w-]+\.png)"')

_log = logging.getLogger(__name__)


def shown(text: str, page: str, folder: Path = FOLDER) -> str:
    """The text of a page with what each block prints, and the figures that it saves, below the block."""
    outputs = iter(outputs_of(text, page, folder))

    def with_output(block: re.Match[str]) -> str:
        parts = [block[0]]
        output = next(outputs)
        if output["printed"]:
            parts.append(f"```text\n{output['printed'].rstrip()}\n```\n")
        parts += [
            f"![{file}: a figure that the code above saves]({folder.name}/{page}/{file})\n" for file in output["files"]
        ]
        return "\n".join(parts)

    return BLOCK.sub(with_output, text)


def outputs_of(text: str, page: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """What each block of a page prints, and the names of the pictures that it saves; kept in the folder, with the pictures."""
    blocks = [block["code"] for block in BLOCK.finditer(text)]
    key = hashlib.sha256("\n".join([*blocks, _state()]).encode()).hexdigest()
    kept = folder / f"{page}.json"
    if kept.is_file():
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content["key"] == key and all((folder / page / file).is_file() for file in _files(content["outputs"])):
            return content["outputs"]
    _log.info("running the code of %s", page)
    outputs = run(blocks, page, folder / page)
    kept.write_text(json.dumps({"key": key, "outputs": outputs}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return outputs


def run(blocks: list[str], page: str, pictures: Path) -> list[dict[str, Any]]:
    """Run the blocks in one namespace, in an empty folder, and copy the pictures that they save."""
    names: dict[str, Any] = {"__name__": "page"}
    outputs = []
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, such as that of a missing GPU
        for code in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                try:
                    exec(compile(code, f"{page}.md", "exec", dont_inherit=True), names)  # noqa: S102
                except ModuleNotFoundError as error:
                    raise ExtensionError(f"the code of docs/{page}.md cannot run: {error}") from error
            files = DRAWN.findall(code)
            for file in files:
                (pictures / file).write_bytes(Path(file).read_bytes())
            outputs.append({"printed": printed.getvalue(), "files": files})
    return outputs


def _files(outputs: list[dict[str, Any]]) -> list[str]:
    return [file for output in outputs for file in output["files"]]


def _state() -> str:
    """A hash of what the outputs depend on, besides the page."""
    digest = hashlib.sha256()
    for name in RUN:
        place = SOURCES / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(os.fsencode(file.relative_to(SOURCES)) + file.read_bytes())
    return digest.hexdigest()


def setup(app: Any) -> dict[str, bool]:
    """Have Sphinx show the outputs."""

    def read(_app: Any, page: str, content: list[str]) -> None:
        if page in PAGES:
            content[0] = shown(content[0], page)

    app.connect("source-read", read)
    return {"parallel_read_safe": False}
