"""What goes wrong, said to a person: one sentence on stderr and an exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

SOME_FAILED, FAILED, INTERRUPTED = 1, 2, 130


@contextmanager
def speaking_plainly() -> Iterator[None]:
    """What a user can mend is said in one sentence, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        complain(error)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt:
        complain("interrupted; results written so far are kept")
        raise typer.Exit(INTERRUPTED) from None


def complain(about: object) -> None:
    """One line on stderr."""
    sys.stderr.write(f"sfumato: {' '.join(str(about).split())}\n")
