"""`sfumato bench check`: whether all of a plan works, and how long it will take, before it is run."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli.progress_of_runs import duration
from sfumato.cli.speaking import SOME_FAILED, complain, complain_of, speaking_plainly
from sfumato.cli.tables import console, table

if TYPE_CHECKING:
    from sfumato.runs.checks.trial import Forecast, Trial
    from sfumato.runs.plans.findings import Findings
    from sfumato.runs.work.workbench import Workbench


def check(
    plan: Annotated[Path, typer.Argument(help="A TOML file: models, methods, data and protocols.", show_default=False)],
    workers: Annotated[int, typer.Option(help="Processes that the run is to have.", min=1)] = 1,
) -> None:
    """Try a plan: load each model, do one item of each combination, and say how long the whole will take. Nothing is written.

    Exit status: 0 if all works, 1 if something does not.
    """
    with speaking_plainly():
        from sfumato.runs.checks.check import check_plan
        from sfumato.runs.checks.trial import NOT_TRIED, forecast
        from sfumato.runs.execution.workers import one_thread
        from sfumato.runs.plans import plan as plans
        from sfumato.runs.plans.class_notes import class_line
        from sfumato.runs.plans.findings import sentence
        from sfumato.runs.work.workbench import Workbench

        read = plans.read(plan)
        bench = Workbench(read)
        with one_thread():  # as a run computes
            findings = check_plan(read, bench)
            for finding in (*findings.faults, *findings.notes):
                complain_of(sentence(read, finding))
            for note in findings.classes:
                console().print(class_line(note), soft_wrap=True)
            tried = list(_shown(findings, bench))
        shown = table("data", "model", "method", "protocol", "outcome", "seconds")
        for trial in tried:
            if not trial.reason.startswith(NOT_TRIED):
                outcome = trial.reason or "ok"
                shown.add_row(trial.data, trial.model, trial.method, trial.protocol, outcome, _seconds(trial))
        if shown.row_count:
            console().print(shown)
        wrong = sum(bool(trial.reason) for trial in tried)
        console().print(_summary(forecast(findings, tried, workers), workers, wrong, len(tried)), soft_wrap=True)
        if wrong or findings.faults:
            left = len(tried) - shown.row_count
            untried = f", of which {left} were not tried, for what is said above" if left else ""
            complain(f"{wrong} of {len(tried)} combinations do not work{untried}")
            raise typer.Exit(SOME_FAILED)


def _seconds(trial: "Trial") -> str:
    return "" if trial.reason else f"{trial.seconds:.2g}"


def _summary(work: "Forecast", workers: int, wrong: int, total: int) -> str:
    if wrong == total:
        return "No combination works, so that nothing says how long the run takes."
    items = f"{'' if work.exact else 'about '}{work.items} items of {work.queries} queries"
    who = f"with {workers} workers" if workers > 1 else "with 1 worker"
    what = "What works of the run" if wrong else "The run"
    return f"{what} has {items}. It takes about {duration(work.seconds)} {who}, if all are like the one that was tried."


def _shown(findings: "Findings", bench: "Workbench") -> "Iterator[Trial]":
    """The trials; in a terminal, with the number of the one that is tried."""
    from rich.console import Console
    from rich.markup import escape

    from sfumato.runs.checks.trial import trials

    total = sum(len(combination.protocols) for combination in findings.plan.combinations())
    with Console(stderr=True).status("") as status:
        for number, trial in enumerate(trials(findings, bench), 1):
            words = f"tried {number} of {total}: {trial.data}, {trial.model}, {trial.method}, {trial.protocol}"
            status.update(escape(words))  # brackets in names are no markup
            yield trial
