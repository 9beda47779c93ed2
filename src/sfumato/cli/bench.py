"""`sfumato bench`: measure methods on whole data sets, in runs that can be stopped and resumed."""

import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli import begun, bench_check, bench_merge, bench_rules
from sfumato.cli.commands import Commands
from sfumato.cli.errors import FAILED, INTERRUPTED, SOME_FAILED, print_error, reporting_errors
from sfumato.cli.progress_of_runs import progress
from sfumato.cli.tables import console, fitted, table
from sfumato.settings import check_number

if TYPE_CHECKING:
    from sfumato.runs.execution.execute import Progress
    from sfumato.runs.execution.session import Session
    from sfumato.runs.plans.plan import Plan
    from sfumato.runs.results.record import Record
    from sfumato.runs.results.summary import Line


class Bench(Commands):
    """The commands of `sfumato bench`. A plan, a run or a picture in the place of a command is answered by what to write."""

    path = "sfumato bench"

    def meant(self, word: str) -> str:
        if word.endswith(".toml"):
            return f"To run a plan, write: sfumato bench run {word} --out FOLDER"
        if Path(word).is_dir():
            return f"To see how far the run in a folder is, write: sfumato bench status {word}"
        return f"To explain pictures, write: sfumato explain {word}" if Path(word).exists() else ""


app = typer.Typer(
    cls=Bench,
    help="Measure methods on whole data sets, in runs that can be stopped and resumed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PAUSE_FACTOR = 20.0
"""The pause between two counts of the items, as a multiple of the time that a count takes: counting many rows is slow."""

MOST_CAUSES = 10
"""How many causes of failures `status` shows."""

OtherVersion = Annotated[
    str | None, typer.Option(help='What to do with items of another version: "anew" or "adopt".', show_default=False)
]
Retry = Annotated[bool, typer.Option("--retry", help="Try items again that failed before.")]
Redo = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Compute all items of a method, model or protocol of the plan again; may be repeated.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)]
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds that a method may take for a query, and a protocol for its result. [default: as in the plan]",
        show_default=False,
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        help='"ray" for a new cluster on this machine, "ray://HOST:PORT" or "auto" for a running one.',
        show_default=False,
    ),
]


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="A TOML file: models, methods, data and protocols.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder. A run that is in it is resumed.")],
    workers: Workers = 1,
    on: On = None,
    store: begun.Store = None,
    retry: Retry = False,
    redo: Redo = None,
    other_version: OtherVersion = None,
    timeout: Timeout = None,
) -> None:
    """Compute all items of a plan that are not done yet. After an interruption, the same command resumes the run."""
    with _running(out):
        from sfumato.runs.plans import plan as plans
        from sfumato.runs.results.record import Place

        _check_choice(other_version)
        remedy = f", and try it with: sfumato bench check {plan}"
        session = begun.begin(
            _with_timeout(plans.read(plan), timeout), Place(out, store), other_version, on is not None, remedy
        )
        _carry_out(session, workers, on, retry=retry, redo=redo)


@app.command()
def resume(
    folder: begun.Folder,
    workers: Workers = 1,
    on: On = None,
    store: begun.Store = None,
    retry: Retry = False,
    redo: Redo = None,
    other_version: OtherVersion = None,
    timeout: Timeout = None,
) -> None:
    """Resume the run in a folder, with the plan with which it started."""
    with _running(folder):
        from sfumato.runs.results.record import read_record

        _check_choice(other_version)
        place = begun.existing(folder, store)
        remedy = f", and go on with: sfumato bench run PLAN --out {folder}"
        session = begun.begin(
            _with_timeout(read_record(place).read_plan(), timeout), place, other_version, on is not None, remedy
        )
        _carry_out(session, workers, on, retry=retry, redo=redo)


@app.command()
def status(folder: begun.Folder, store: begun.Store = None) -> None:
    """Show how many items of a run are done, how classes were matched to outputs, and why items failed."""
    with reporting_errors():
        from sfumato.files import printable
        from sfumato.runs.plans.class_notes import class_line
        from sfumato.runs.results.record import read_record

        record = read_record(begun.existing(folder, store))
        with record.place.store() as run_store:
            done, failed = record.counts(run_store)
            causes = record.failures(run_store)
        for note in record.said.get("classes", []):
            console().print(class_line(note), soft_wrap=True)
        console().print(f"{done} of {record.total} items are done, of which {failed} failed")
        for versions, count in record.merged.items():
            console().print(f"  {count} were taken from another run, made by {versions}", soft_wrap=True)
        for cause, (count, example) in list(causes.items())[:MOST_CAUSES]:
            console().print(printable(f"  {count} × {cause} (e.g. {example})"), soft_wrap=True)
        if len(causes) > MOST_CAUSES:
            console().print(f"  … and {len(causes) - MOST_CAUSES} other causes")


@app.command("table")
def show(folder: begun.Folder, store: begun.Store = None) -> None:
    """Show the results of a run: a table for each data set and model, with 95 % intervals and each method's seconds."""
    with reporting_errors():
        from sfumato.runs.results import summary
        from sfumato.runs.results.grid import by_data_and_model, grids
        from sfumato.runs.results.leaders import results
        from sfumato.runs.results.record import read_record

        record = read_record(begun.existing(folder, store))
        with record.place.store() as run_store:
            run_results = results(record, run_store)
        for (data, model), lines in by_data_and_model(run_results.lines).items():
            seconds = run_results.seconds_text(data, model)
            console().print(f"\n{data}, {model}" + (f" (seconds a query: {seconds})" if seconds else ""))
            if note := summary.quantities(record, data, model):
                console().print(note)
            for grid in grids(lines, run_results.leading):
                for title, part in fitted(grid, "{}*", console().width):
                    console().print(f"\n{title}")
                    console().print(part)
                console().print(grid.legend("*"))
        _stop_at_faults(record)


@app.command()
def compare(
    folder: begun.Folder,
    one: Annotated[str, typer.Argument(help="A method or model of the plan, by its name there.", show_default=False)],
    other: Annotated[str, typer.Argument(help="Another method, or another model.", show_default=False)],
    store: begun.Store = None,
) -> None:
    """Show the paired differences between two methods, or two models: ONE minus OTHER, with 95 % intervals."""
    with reporting_errors():
        from sfumato.metrics.estimate import FEW
        from sfumato.runs.results import summary
        from sfumato.runs.results.record import read_record

        record = read_record(begun.existing(folder, store))
        with record.place.store() as run_store:
            lines = list(summary.differences(record, run_store, one, other))
        groups: dict[str, list[Line]] = {}
        if not record.faults and not any(line.estimate.count for line in lines):
            console().print(
                f"nothing to compare: there is no query for which both {one} and {other} have a value of the same class; see: "
                f"sfumato bench status {folder}",
                soft_wrap=True,
            )
        for line in lines:
            if line.estimate.count:
                groups.setdefault(f"{line.data}, {line.method if line.model == one else line.model}", []).append(line)
        for title, group in groups.items():
            differences = table("protocol", "measure", "difference", "95 % interval", "queries", "better")
            for column in differences.columns:  # long names are folded, numbers are not
                column.overflow, column.no_wrap = "fold", column.header in {"difference", "95 % interval"}
            for line in group:
                differences.add_row(*_difference(line, one, other))
            console().print(f"\n{title}")
            console().print(differences)
        if groups:
            console().print(f"tied: the interval contains 0; too few: of fewer than {FEW} pictures")
        _stop_at_faults(record)


def _difference(line: "Line", one: str, other: str) -> list[str]:
    """The cells of a row in the table of differences."""
    estimate = line.estimate
    ahead = (estimate.value > 0) == line.measure.higher_is_better
    return [
        line.protocol,
        line.measure.name + (" %" if line.measure.percent else ""),
        *line.measure.signed(estimate),
        f"{estimate.count} of {line.of}",
        "too few" if estimate.few else (one if ahead else other) if estimate.settled else "tied",
    ]


@app.command()
def export(
    folder: begun.Folder,
    to: Annotated[
        Path, typer.Argument(help="A file ending in .md, .tex, .csv, .parquet or .json.", show_default=False)
    ],
    rows: Annotated[bool, typer.Option("--rows", help="Write the row of every item instead of the table.")] = False,
    store: begun.Store = None,
) -> None:
    """Write a run's table, or all its rows, to a file."""
    with reporting_errors():
        from sfumato.files import written
        from sfumato.runs.results import export as forms
        from sfumato.runs.results import summary
        from sfumato.runs.results.leaders import results
        from sfumato.runs.results.record import read_record

        if to.suffix not in forms.SUFFIXES or (rows and to.suffix in (".md", ".tex")):
            kinds = [suffix for suffix in forms.SUFFIXES if not (rows and suffix in (".md", ".tex"))]
            raise ValueError(f"cannot write {to.name!r}; expected a name ending in {', '.join(kinds)}")
        record = read_record(begun.existing(folder, store))
        with record.place.store() as run_store:
            if rows:
                forms.write(summary.rows(record, run_store), to, summary.names(run_store))
            elif to.suffix in (".md", ".tex"):
                form = forms.markdown if to.suffix == ".md" else forms.latex
                notes = partial(summary.quantities, record)
                lines, leading, seconds = results(record, run_store)
                content = form(lines, seconds, notes, leading)
                with written(to) as partial_file:
                    partial_file.write_text(content, encoding="utf-8")
            else:
                forms.write(forms.records(summary.lines(record, run_store)), to)
        console().print(str(to))
        _stop_at_faults(record)


app.command()(bench_check.check)
app.command()(bench_merge.merge)
app.command()(bench_rules.rules)


def _stop_at_faults(record: "Record") -> None:
    """If a protocol could not sum up its rows, say why, and exit with an error."""
    for fault in record.faults.values():
        print_error(fault)
    if record.faults:
        raise typer.Exit(SOME_FAILED)


def _carry_out(session: "Session", workers: int, on: str | None, *, retry: bool, redo: "list[str] | None") -> None:
    """Compute the items that are not done, show the progress, and print a summary. Exits with an error if one is not done."""
    with session.place.store() as run_store:
        if retry:
            session.retry(run_store)
        for name in redo or ():
            session.redo(run_store, name)
        remaining, reason = session.look(run_store), ""
        if remaining:
            with (
                progress(session.total, session.total - remaining) as report,
                closing(_spread(session, workers, on)) as work,
            ):
                next_count = 0.0
                for update in work:
                    reason = update.left
                    if (now := time.monotonic()) >= next_count:
                        report(*session.counts(run_store))  # with items that other machines compute meanwhile
                        next_count = now + PAUSE_FACTOR * (time.monotonic() - now)
                report(*session.counts(run_store))
        else:
            session.note_measures(run_store)
        done, failed = session.counts(run_store)
    console().print(f"{done} items are done, {done - session.total + remaining} of them now; {failed} failed")
    if failed:
        database = " --store ADDRESS" if session.place.url and "SFUMATO_STORE" not in os.environ else ""
        print_error(f"{failed} items failed; see why with: sfumato bench status {session.place.folder}{database}")
    if reason:
        print_error(f"{reason}; run the same command again")
    elif done < session.total:
        reason = f"{session.total - done} items are not done; run the same command again"
        print_error(reason)
    if failed or reason:
        raise typer.Exit(SOME_FAILED)


def _with_timeout(plan: "Plan", timeout: float | None) -> "Plan":
    """The plan with the timeout of the command line, if there is one."""
    if timeout is None:
        return plan
    check_number("--timeout", timeout, "a time in seconds", above=0)
    return replace(plan, timeout=timeout)


def _spread(session: "Session", workers: int, on: str | None) -> "Generator[Progress]":
    """Spread the work of a session, whose files were just looked at, over processes of this machine or over a cluster."""
    if on is not None:
        from sfumato.runs.execution.on_ray import spread as on_cluster

        return on_cluster(session, on, session.plan.ray, looked=True)
    from sfumato.runs.execution.workers import spread

    return spread(session, workers, looked=True)


def _check_choice(other_version: str | None) -> None:
    if other_version not in (None, "anew", "adopt"):
        raise ValueError(f'--other-version takes "anew" or "adopt"; got {other_version!r}')


@contextmanager
def _running(folder: Path) -> Iterator[None]:
    """Report errors like `reporting_errors`, and say how to resume the run."""
    try:
        with reporting_errors():
            yield
    except typer.Exit as end:
        if end.exit_code == INTERRUPTED:
            print_error(f"go on with: sfumato bench resume {folder}")
        raise
    except (RuntimeError, MemoryError) as error:
        print_error(
            f"{str(error) or type(error).__name__}; finished items are stored: go on with: sfumato bench resume {folder}"
        )
        raise typer.Exit(FAILED) from error
