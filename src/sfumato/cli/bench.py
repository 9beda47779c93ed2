"""`sfumato bench`: judge methods on whole data sets, in runs that go on where they were."""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import bench_check, bench_rules
from sfumato.cli.progress_of_runs import progress
from sfumato.cli.speaking import FAILED, INTERRUPTED, SOME_FAILED, complain, complain_of, speaking_plainly
from sfumato.cli.tables import console, fitted, table
from sfumato.settings import check_number

if TYPE_CHECKING:
    from sfumato.runs.execution.execute import Progress
    from sfumato.runs.execution.session import Session
    from sfumato.runs.plans.plan import Plan
    from sfumato.runs.results.record import Place
    from sfumato.runs.results.summary import Line

app = typer.Typer(
    help="Judge methods on whole data sets, in runs that go on where they were.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PATIENCE = 20.0
"""Times as long as counting takes, until the next count: a store of many rows has other things to do."""

TOLD = 10
"""Causes of failures that `status` shows."""

Folder = Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)]
Store = Annotated[
    str | None,
    typer.Option(
        help="postgresql://… of the database that holds the rows, in place of a file in the folder.",
        envvar="SFUMATO_STORE",
    ),
]
OtherVersion = Annotated[
    str | None, typer.Option(help='What to do with items of another version: "anew" or "adopt".', show_default=False)
]
Retry = Annotated[bool, typer.Option("--retry", help="Try items again that failed before.")]
Redo = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Do again all that a method, model or protocol of the plan has to do with; may be given more than once.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)]
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds that a method may take for a query, and a protocol for its result; without it, what the plan says.",
        show_default=False,
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        help='"ray" for a cluster on this machine, "ray://HOST:PORT" or "auto" for one that runs.', show_default=False
    ),
]


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="A TOML file: models, methods, data and protocols.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The run's folder; with a run in it, that goes on.")],
    workers: Workers = 1,
    on: On = None,
    store: Store = None,
    retry: Retry = False,
    redo: Redo = None,
    other_version: OtherVersion = None,
    timeout: Timeout = None,
) -> None:
    """Do all of a plan that is not done yet; the same command goes on with a run that was broken off."""
    with _running(out):
        from sfumato.runs.plans import plan as plans
        from sfumato.runs.results.record import Place

        _check_choice(other_version)
        remedy = f", and try it with: sfumato bench check {plan}"
        session = _begun(_timed(plans.read(plan), timeout), Place(out, store), other_version, on, remedy)
        _carry_out(session, workers, on, retry=retry, redo=redo)


@app.command()
def resume(
    folder: Folder,
    workers: Workers = 1,
    on: On = None,
    store: Store = None,
    retry: Retry = False,
    redo: Redo = None,
    other_version: OtherVersion = None,
    timeout: Timeout = None,
) -> None:
    """Go on with the run in a folder, by the plan that it was begun with."""
    with _running(folder):
        from sfumato.runs.results.record import read_record

        _check_choice(other_version)
        place = _existing(folder, store)
        remedy = f", and go on with: sfumato bench run PLAN --out {folder}"
        session = _begun(_timed(read_record(place).read_plan(), timeout), place, other_version, on, remedy)
        _carry_out(session, workers, on, retry=retry, redo=redo)


@app.command()
def status(folder: Folder, store: Store = None) -> None:
    """Say how far a run is, what was taken for which class, and why items failed."""
    with speaking_plainly():
        from sfumato.files import printable
        from sfumato.runs.plans.class_notes import class_line
        from sfumato.runs.results.record import read_record

        record = read_record(_existing(folder, store))
        with record.place.store() as opened:
            done, failed = record.counts(opened)
            causes = record.failures(opened)
        for note in record.said.get("classes", []):
            console().print(class_line(note), soft_wrap=True)
        console().print(f"{done} of {record.total} items are done, of which {failed} failed")
        for cause, (count, example) in list(causes.items())[:TOLD]:
            console().print(printable(f"  {count} × {cause} (e.g. {example})"), soft_wrap=True)
        if len(causes) > TOLD:
            console().print(f"  … and {len(causes) - TOLD} other causes")


@app.command("table")
def show(folder: Folder, store: Store = None) -> None:
    """Show what a run found: a table for each data set and model, with 95 % intervals and each method's cost."""
    with speaking_plainly():
        from sfumato.runs.results import summary
        from sfumato.runs.results.grid import by_data_and_model, grids
        from sfumato.runs.results.leaders import results
        from sfumato.runs.results.record import read_record

        session = read_record(_existing(folder, store))
        with session.place.store() as opened:
            lines, leading, cost = results(session, opened)
        for (data, model), group in by_data_and_model(lines).items():
            console().print(f"\n{data}, {model}" + _costs(data, model, cost))
            if note := summary.quantities(session, data, model):
                console().print(note)
            for whole in grids(group, leading):
                for title, shown in fitted(whole, "{}*", console().width):
                    console().print(f"\n{title}")
                    console().print(shown)
                console().print(whole.legend("*"))


def _costs(data: str, model: str, cost: "Mapping[tuple[str, str, str], float]") -> str:
    known = {method: taken for (where, by, method), taken in cost.items() if (where, by) == (data, model)}
    told = ", ".join(f"{method} {seconds:.2g}" for method, seconds in known.items())
    return f" (seconds a query: {told})" if told else ""


@app.command()
def compare(
    folder: Folder,
    one: Annotated[str, typer.Argument(help="A method or model of the plan, by its name there.", show_default=False)],
    other: Annotated[str, typer.Argument(help="Another of the same kind.", show_default=False)],
    store: Store = None,
) -> None:
    """Show the paired differences between two methods, or two models: ONE less OTHER, with 95 % intervals."""
    with speaking_plainly():
        from sfumato.metrics.estimate import FEW
        from sfumato.runs.results import summary
        from sfumato.runs.results.record import read_record

        session = read_record(_existing(folder, store))
        with session.place.store() as opened:
            lines = list(summary.differences(session, opened, one, other))
        groups: dict[str, list[Line]] = {}
        if not any(line.estimate.count for line in lines):
            console().print(
                f"nothing to compare: {one} and {other} have no query in common of which both have a value; see: sfumato bench "
                f"status {folder}",
                soft_wrap=True,
            )
        for line in lines:
            if line.estimate.count:
                groups.setdefault(f"{line.data}, {line.method if line.model == one else line.model}", []).append(line)
        for where, group in groups.items():
            shown = table("protocol", "measure", "difference", "95 % interval", "queries", "better")
            for column in shown.columns:  # numbers stay whole, long names go on in the next line
                column.overflow, column.no_wrap = "fold", column.header in {"difference", "95 % interval"}
            for line in group:
                shown.add_row(*_difference(line, one, other))
            console().print(f"\n{where}")
            console().print(shown)
        if groups:
            console().print(f"tied: the interval holds 0; too few: of fewer than {FEW} pictures")


def _difference(line: "Line", one: str, other: str) -> list[str]:
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
    folder: Folder,
    to: Annotated[
        Path, typer.Argument(help="A file ending in .md, .tex, .csv, .parquet or .json.", show_default=False)
    ],
    rows: Annotated[bool, typer.Option("--rows", help="Every item's row, in place of the table.")] = False,
    store: Store = None,
) -> None:
    """Write a run's table, or all its rows, to a file."""
    with speaking_plainly():
        from sfumato.files import written
        from sfumato.runs.results import export as forms
        from sfumato.runs.results import summary
        from sfumato.runs.results.leaders import results
        from sfumato.runs.results.record import read_record

        if to.suffix not in forms.SUFFIXES or (rows and to.suffix in (".md", ".tex")):
            kinds = [suffix for suffix in forms.SUFFIXES if not (rows and suffix in (".md", ".tex"))]
            raise ValueError(f"cannot write {to.name!r}; expected a name ending in {', '.join(kinds)}")
        session = read_record(_existing(folder, store))
        with session.place.store() as opened:
            if rows:
                forms.write(summary.rows(session, opened), to, summary.names(opened))
            elif to.suffix in (".md", ".tex"):
                form = forms.markdown if to.suffix == ".md" else forms.latex
                notes = partial(summary.quantities, session)
                lines, leading, cost = results(session, opened)
                content = form(lines, cost, notes, leading)
                with written(to) as unfinished:
                    unfinished.write_text(content, encoding="utf-8")
            else:
                forms.write(forms.records(summary.lines(session, opened)), to)
        console().print(str(to))


app.command()(bench_check.check)
app.command()(bench_rules.rules)


def _begun(plan: "Plan", place: "Place", other_version: str | None, on: str | None, remedy: str) -> "Session":
    """The run begun, or all that is wrong with its plan."""
    from sfumato.runs.execution.session import begin
    from sfumato.runs.plans.findings import PlanError

    try:
        return begin(plan, place, other_version, complain_of, on_cluster=on is not None)
    except PlanError as error:
        for line in error.lines:
            complain_of(line)
        complain(f"nothing was begun: mend the plan{remedy}")
        raise typer.Exit(FAILED) from error


def _carry_out(session: "Session", workers: int, on: str | None, *, retry: bool, redo: "list[str] | None") -> None:
    """Do what is left, and say how it goes."""
    with session.place.store() as opened:
        if retry:
            session.retry(opened)
        for name in redo or ():
            session.redo(opened, name)
        left, open_now = session.look(opened), ""
        if left:
            with (
                progress(session.total, session.total - left) as report,
                closing(_worked(session, workers, on)) as work,
            ):
                ready = 0.0
                for told in work:
                    open_now = told.left
                    if (now := time.monotonic()) >= ready:
                        report(*session.counts(opened))  # what others do meanwhile counts too
                        ready = now + PATIENCE * (time.monotonic() - now)
                report(*session.counts(opened))
        done, failed = session.counts(opened)
    console().print(f"{done} items are done, {done - session.total + left} of them now; {failed} failed")
    if failed:
        complain(f"{failed} items failed; see why with: sfumato bench status {session.place.folder}")
    if open_now:
        complain(f"{open_now}; run the same command again")
    if failed or open_now:
        raise typer.Exit(SOME_FAILED)


def _timed(plan: "Plan", timeout: float | None) -> "Plan":
    """The plan, with the time that an item may take where the command line says it."""
    if timeout is None:
        return plan
    check_number("--timeout", timeout, "a time in seconds", above=0)
    return replace(plan, timeout=timeout)


def _worked(session: "Session", workers: int, on: str | None) -> "Generator[Progress]":
    """Do the work of a session whose files were looked at just now."""
    if on is not None:
        from sfumato.runs.execution.on_ray import spread as on_cluster

        return on_cluster(session, on, session.plan.ray, looked=True)
    from sfumato.runs.execution.workers import spread

    return spread(session, workers, looked=True)


def _existing(folder: Path, store: str | None) -> Any:
    """The place of a run that must be there."""
    from sfumato.runs.results.record import Place

    if not folder.is_dir():
        raise ValueError(
            f"no run in {str(folder)!r}: there is no such folder; begin one with: sfumato bench run PLAN --out FOLDER"
        )
    return Place(folder, store)


def _check_choice(other_version: str | None) -> None:
    if other_version not in (None, "anew", "adopt"):
        raise ValueError(f'--other-version takes "anew" or "adopt"; got {other_version!r}')


@contextmanager
def _running(folder: Path) -> Iterator[None]:
    """As `speaking_plainly`, with what a broken-off run means."""
    try:
        with speaking_plainly():
            yield
    except typer.Exit as ended:
        if ended.exit_code == INTERRUPTED:
            complain(f"go on with: sfumato bench resume {folder}")
        raise
    except (RuntimeError, MemoryError) as error:
        complain(
            f"{str(error) or type(error).__name__}; what is done is kept: go on with: sfumato bench resume {folder}"
        )
        raise typer.Exit(FAILED) from error
