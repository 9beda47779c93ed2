"""`sfumato bench merge`: take what other machines have done into one run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli import begun
from sfumato.cli.errors import reporting_errors
from sfumato.cli.tables import console

if TYPE_CHECKING:
    from sfumato.runs.plans.plan import Plan
    from sfumato.runs.results.merge import Taken
    from sfumato.runs.results.record import Place


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
    other_store: Annotated[
        str | None,
        typer.Option(
            help="Address of the database with the rows of OTHERS, if they are in one. [default: as --store]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Take rows of other runs into a run: what they have done of the same plan, or of parts of it, is not computed again.

    The rows of the run stay as they are, and the other runs too. Items that failed in the run, and not in another, are taken.
    Pictures are compared by their content, wherever they lie.
    """
    with reporting_errors():
        from sfumato.runs.plans import plan as plans
        from sfumato.runs.results import merge as merging
        from sfumato.runs.results.record import Place, read_record
        from sfumato.runs.work.undone import look

        sources = [read_record(_source(other, other_store, store)) for other in others]
        if plan is not None:
            _begin(plans.read(plan), Place(folder, store), plan)
        record = read_record(begun.existing(folder, store))
        with record.place.store() as run_store:
            look(record.read_plan(), run_store, anew=True)
            for source in sources:
                total = merging.Taken()
                with source.place.store() as other_run_store:
                    for part in merging.merge(record, run_store, source, other_run_store, adopt):
                        total += part
                console().print(f"{source.place.folder}: {_told(total)}", soft_wrap=True)
            done, failed = record.counts(run_store)
        console().print(f"{done} of {record.total} items are done, of which {failed} failed")


def _source(folder: Path, other_store: str | None, store: str | None) -> "Place":
    """The place of another run: its rows are in its folder, or in the database of `other_store`, or else of `store`."""
    place = begun.existing(folder, None)
    if not place.in_database:
        return place
    if (address := other_store or store) is None:
        raise ValueError(
            f"the rows of the run in {str(folder)!r} are in a database: give its address with --other-store postgresql://…"
        )
    return begun.existing(folder, address)


def _begin(plan: "Plan", place: "Place", file: Path) -> None:
    """Begin a run, or continue that of the same plan. Raises `ValueError` if the place has a run of another plan."""
    if (text := place.plan_text()) is not None and text != plan.text:
        raise ValueError(
            f"the run in {str(place.folder)!r} has another plan than {file}: leave out --plan, or change its plan first, with: "
            f"sfumato bench run {file} --out {place.folder}"
        )
    begun.begin(plan, place, None, False, f", and try it with: sfumato bench check {file}")


def _told(taken: "Taken") -> str:
    """What became of the items of another run."""
    others = {
        "were done here already": taken.known,
        "failed there and are left to be tried here": taken.failed,
        "are of other pictures or classes": taken.elsewhere,
    }
    return ", ".join([f"{taken.new} items taken", *(f"{count} {words}" for words, count in others.items() if count)])
