"""Runs as a command names them: one that is there, or one that is begun."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli.errors import FAILED, print_error, print_finding

if TYPE_CHECKING:
    from sfumato.runs.execution.session import Session
    from sfumato.runs.plans.plan import Plan
    from sfumato.runs.results.record import Place

Folder = Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)]
Store = Annotated[
    str | None,
    typer.Option(
        help="Address of a database for the rows, postgresql://…, instead of a file in the folder.",
        envvar="SFUMATO_STORE",
    ),
]


def begin(plan: "Plan", place: "Place", other_version: str | None, on_cluster: bool, remedy: str) -> "Session":
    """Begin a run. If its plan has faults, print them all and exit; `remedy` ends the last sentence."""
    from sfumato.runs.execution import session
    from sfumato.runs.plans.findings import PlanError

    try:
        return session.begin(plan, place, other_version, print_finding, on_cluster)
    except PlanError as error:
        for finding in error.lines:
            print_finding(finding)
        print_error(f"the run did not start: correct the plan{remedy}")
        raise typer.Exit(FAILED) from error


def existing(folder: Path, store: str | None) -> "Place":
    """The place of an existing run. Raises `ValueError` if the folder does not exist."""
    from sfumato.runs.results.record import Place

    place = Place(folder, store)  # an address is refused before its password is shown
    if not folder.is_dir():
        raise ValueError(
            f"no run in {str(folder)!r}: there is no such folder; start one with: sfumato bench run PLAN --out FOLDER"
        )
    return place
