"""`sfumato verify`: whether a bundle of evidence is as it was written."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli.errors import LIMIT_BROKEN, print_error, reporting_errors


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `sfumato explain --bundle` wrote.")],
) -> None:
    """Check a bundle of evidence against its manifest. The exit code is 3 if a file is missing, changed or new."""
    with reporting_errors("interrupted; the bundle was not checked to its end"):
        from sfumato.evidence.bundle import MANIFEST
        from sfumato.evidence.bundle import verify as problems

        wrong = problems(folder)
        for sentence in wrong:
            print_error(sentence)
        if not wrong:
            files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
            typer.echo(f"{len(files)} files are as they were written in {folder}")
    if wrong:
        raise typer.Exit(LIMIT_BROKEN)
