"""`sfumato bench`: judge methods on whole data sets, in runs that go on where they were."""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import bench_check, bench_rules
from sfumato.cli.progress_of_runs import progress
from sfumato.cli.speaking import FAILED, INTERRUPTED, SOME_FAILED, complain, complain_of, speaking_plainly
from sfumato.cli.tables import console, table

if TYPE_CHECKING:
    from sfumato.runs.plan import Plan
    from sfumato.runs.session import Place, Session
    from sfumato.runs.summary import Line

app = typer.Typer(
    help="Judge methods on whole data sets, in runs that go on where they were.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PATIENCE = 20.0
"""Times as long as counting takes, until the next count: a store of many rows has other things to do."""

FEW = 10
"""Queries of which an interval says little."""

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
Workers = Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)]
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
    other_version: OtherVersion = None,
) -> None:
    """Do all of a plan that is not done yet; the same command goes on with a run that was broken off."""
    with _running(out):
        from sfumato.runs import plan as plans
        from sfumato.runs.session import Place

        _check_choice(other_version)
        session = _begun(
            plans.read(plan), Place(out, store), other_version, on, f", and try it with: sfumato bench check {plan}"
        )
        _carry_out(session, workers, on, retry=retry)


@app.command()
def resume(
    folder: Folder,
    workers: Workers = 1,
    on: On = None,
    store: Store = None,
    retry: Retry = False,
    other_version: OtherVersion = None,
) -> None:
    """Go on with the run in a folder, by the plan that it was begun with."""
    with _running(folder):
        from sfumato.runs.session import found

        _check_choice(other_version)
        place = _existing(folder, store)
        session = _begun(
            found(place).plan, place, other_version, on, f", and go on with: sfumato bench run PLAN --out {folder}"
        )
        _carry_out(session, workers, on, retry=retry)


@app.command()
def status(folder: Folder, store: Store = None) -> None:
    """Say how far a run is, what was taken for which class, and why items failed."""
    with speaking_plainly():
        from sfumato.runs.causes import causes
        from sfumato.runs.classes import class_line
        from sfumato.runs.session import found

        session = found(_existing(folder, store))
        with session.place.store() as opened:
            done = session.total - session.left(opened)
            classes = opened.notes().get("classes", [])
            failed = causes(
                (each.reason, each.example)
                for name in session.data_of
                for each in session.done(opened, name)
                if each.row is None
            )
        for note in classes:
            console().print(class_line(note), soft_wrap=True)
        console().print(
            f"{done} of {session.total} items are done, of which {sum(cause.count for cause in failed)} failed"
        )
        for cause in failed[:TOLD]:
            console().print(f"  {cause.count} × {cause.text} (e.g. {cause.example})", soft_wrap=True)
        if len(failed) > TOLD:
            console().print(f"  … and {len(failed) - TOLD} other causes")


@app.command("table")
def show(folder: Folder, store: Store = None) -> None:
    """Show what a run found: a table for each data set and model, with 95 % intervals and each method's cost."""
    with speaking_plainly():
        from sfumato.runs import summary
        from sfumato.runs.export import grid, grouped
        from sfumato.runs.session import found

        session = found(_existing(folder, store))
        with session.place.store() as opened:
            lines, cost = list(summary.lines(session, opened)), summary.seconds(session, opened)
        for (data, model), group in grouped(lines).items():
            console().print(f"\n{data}, {model}" + _costs(session, data, model, cost))
            if note := summary.quantities(session, data, model):
                console().print(note)
            for protocol in dict.fromkeys(line.protocol for line in group):  # a table each, to fit a screen
                header, body = grid([line for line in group if line.protocol == protocol], best="{} *")
                shown = table(*(words.removeprefix(f"{protocol}: ") for words in header))
                for row in body:
                    shown.add_row(*row)
                console().print(f"\n{protocol}")
                console().print(shown)


def _costs(session: "Session", data: str, model: str, cost: "Mapping[tuple[str, str, str], float]") -> str:
    known = {method: cost[data, model, method] for method in session.plan.methods if (data, model, method) in cost}
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
        from sfumato.runs import summary
        from sfumato.runs.session import found

        session = found(_existing(folder, store))
        with session.place.store() as opened:
            lines = list(summary.differences(session, opened, one, other))
        groups: dict[str, list[Line]] = {}
        for line in lines:
            if line.estimate.count:
                groups.setdefault(f"{line.data}, {line.method if line.model == one else line.model}", []).append(line)
        for where, group in groups.items():
            shown = table("protocol", "measure", "difference", "95 % interval", "queries", "better")
            for line in group:
                shown.add_row(*_difference(line, one, other))
            console().print(f"\n{where}")
            console().print(shown)


def _difference(line: "Line", one: str, other: str) -> list[str]:
    estimate = line.estimate
    ahead = (estimate.value > 0) == line.measure.higher_is_better
    return [
        line.protocol,
        line.measure.name + (" %" if line.measure.percent else ""),
        *line.measure.signed(estimate),
        str(estimate.count),
        "too few" if estimate.count < FEW else (one if ahead else other) if estimate.settled else "tied",
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
        from sfumato.runs import export as forms
        from sfumato.runs import summary
        from sfumato.runs.session import found
        from sfumato.whole import written

        if to.suffix not in forms.SUFFIXES or (rows and to.suffix in (".md", ".tex")):
            kinds = [suffix for suffix in forms.SUFFIXES if not (rows and suffix in (".md", ".tex"))]
            raise ValueError(f"cannot write {to.name!r}; expected a name ending in {', '.join(kinds)}")
        session = found(_existing(folder, store))
        with session.place.store() as opened:
            if rows:
                forms.write(list(summary.rows(session, opened)), to)
            elif to.suffix in (".md", ".tex"):
                form = forms.markdown if to.suffix == ".md" else forms.latex
                notes = partial(summary.quantities, session)
                content = form(summary.lines(session, opened), summary.seconds(session, opened), notes)
                with written(to) as unfinished:
                    unfinished.write_text(content, encoding="utf-8")
            else:
                forms.write(forms.records(summary.lines(session, opened)), to)
        console().print(str(to))


app.command()(bench_check.check)
app.command()(bench_rules.rules)


def _begun(plan: "Plan", place: "Place", other_version: str | None, on: str | None, remedy: str) -> "Session":
    """The run begun, or all that is wrong with its plan."""
    from sfumato.runs.findings import PlanError
    from sfumato.runs.session import begun

    try:
        return begun(plan, place, other_version, complain_of, on_cluster=on is not None)
    except PlanError as error:
        for line in error.lines:
            complain_of(line)
        complain(f"nothing was begun: mend the plan{remedy}")
        raise typer.Exit(FAILED) from error


def _carry_out(session: "Session", workers: int, on: str | None, *, retry: bool) -> None:
    """Do what is left, and say how it goes."""
    with session.place.store() as opened:
        if retry:
            opened.forget(
                [each.key for name in session.data_of for each in session.done(opened, name) if each.row is None]
            )
        left = session.left(opened)
        if left:
            with (
                progress(session.total, session.total - left) as report,
                closing(_worked(session, workers, on)) as work,
            ):
                ready = 0.0
                for _ in work:
                    if (now := time.monotonic()) >= ready:
                        report(*session.counts(opened))  # what others do meanwhile counts too
                        ready = now + PATIENCE * (time.monotonic() - now)
                report(*session.counts(opened))
        done = session.total - session.left(opened)
        failed = sum(each.row is None for name in session.data_of for each in session.done(opened, name))
    console().print(f"{done} items are done, {done - session.total + left} of them now; {failed} failed")
    if failed:
        complain(f"{failed} items failed; see why with: sfumato bench status {session.place.folder}")
        raise typer.Exit(SOME_FAILED)


def _worked(session: "Session", workers: int, on: str | None) -> "Generator[object]":
    if on is not None:
        from sfumato.runs.on_ray import spread as on_cluster

        return on_cluster(session, on, session.plan.ray)
    from sfumato.runs.workers import one_thread, spread

    if workers > 1:
        return spread(session, workers)

    def alone() -> "Generator[object]":
        with one_thread():
            yield from session.work()

    return alone()


def _existing(folder: Path, store: str | None) -> Any:
    """The place of a run that must be there."""
    from sfumato.runs.session import Place

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
