"""Errors and warnings of the command line: one sentence on stderr, and an exit code."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

SOME_FAILED, FAILED, LIMIT_BROKEN, INTERRUPTED = 1, 2, 3, 130


@contextmanager
def reporting_errors(interrupted: str = "interrupted; the results written so far are kept") -> Iterator[None]:
    """Print an error that a user can mend, and warnings, as one sentence each: without a traceback or a line of code.

    `interrupted` is said after Ctrl-C.

    Raises `typer.Exit` with the exit code after such an error. Other errors pass through.
    """
    try:
        with warnings.catch_warnings():

            def show_plainly(message: Warning | str, *_: Any, **__: Any) -> None:
                print_error(message)

            warnings.showwarning = show_plainly
            yield
    except (ValueError, OSError, ImportError) as error:
        print_error(error)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as stop:
        print_error(str(stop) or interrupted)
        raise typer.Exit(INTERRUPTED) from None


def print_finding(finding: str) -> None:
    """Print a finding about a plan on stderr: a sentence, then lines for the plan, which stay as they are."""
    first, *lines = finding.splitlines()
    print_error(first)
    sys.stderr.writelines(f"{line}\n" for line in lines)


def print_error(message: object) -> None:
    """Print an error or a warning on one line of stderr."""
    sys.stderr.write(f"sfumato: {' '.join(str(message).split())}\n")
