"""`sfumato bench merge`: take what other machines have done into one run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli import begun
from sfumato.cli.errors import reporting_errors
from sfumato.cli.tables import console

if TYPE_CHECKING:
    from sfumato.runs.results.merge import Taken


def merge(
    folder: begun.Folder,
    others: Annotated[list[Path], typer.Argument(help="Folders of other runs, such as copies.", show_default=False)],
    plan: Annotated[
        Path | None,
        typer.Option(help="The plan with which to begin the run, if there is none in FOLDER yet.", show_default=False),
    ] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take items of other versions and devices too. Their digits may differ.")
    ] = False,
    store: begun.Store = None,
) -> None:
    """Take rows of other runs into a run: what they have done of the same plan, or of parts of it, is not computed again.

    The rows of the run stay as they are, and the other runs too. Pictures are compared by their content, wherever they lie.
    """
    with reporting_errors():
        from sfumato.runs.plans import plan as plans
        from sfumato.runs.results import merge as merging
        from sfumato.runs.results.record import Place, read_record
        from sfumato.runs.work.undone import look

        if plan is not None:
            begun.begin(
                plans.read(plan), Place(folder, store), None, False, f", and try it with: sfumato bench check {plan}"
            )
        record = read_record(begun.existing(folder, store))
        sources = [read_record(begun.existing(other, None)) for other in others]
        with record.place.store() as run_store:
            look(record.read_plan(), run_store, anew=True)
            for source in sources:
                total = merging.Taken()
                with source.place.store() as other_store:
                    for part in merging.merge(record, run_store, source, other_store, adopt):
                        total += part
                console().print(f"{source.place.folder}: {_told(total)}", soft_wrap=True)
            done, failed = record.counts(run_store)
        console().print(f"{done} of {record.total} items are done, of which {failed} failed")


def _told(taken: "Taken") -> str:
    """What became of the items of another run."""
    others = {
        "were done here already": taken.known,
        "failed there and are left to be tried here": taken.failed,
        "are of other pictures or classes": taken.elsewhere,
    }
    return ", ".join([f"{taken.new} items taken", *(f"{count} {words}" for words, count in others.items() if count)])
