"""What goes wrong, said to a person: one sentence on stderr and an exit code."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

SOME_FAILED, FAILED, INTERRUPTED = 1, 2, 130


@contextmanager
def speaking_plainly() -> Iterator[None]:
    """What a user can mend is said in one sentence, without a traceback; so is what it is warned of, without a line of code."""
    try:
        with warnings.catch_warnings():
            show = warnings.showwarning

            def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
                if category is UserWarning:
                    complain(message)
                else:
                    show(message, category, *place, **more)

            warnings.showwarning = shown
            yield
    except (ValueError, OSError, ImportError) as error:
        complain(error)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt:
        complain("interrupted; results written so far are kept")
        raise typer.Exit(INTERRUPTED) from None


def complain_of(finding: str) -> None:
    """A sentence on stderr, with the lines after it as they are, for a plan."""
    first, *lines = finding.splitlines()
    complain(first)
    sys.stderr.writelines(f"{line}\n" for line in lines)


def complain(about: object) -> None:
    """One line on stderr."""
    sys.stderr.write(f"sfumato: {' '.join(str(about).split())}\n")
