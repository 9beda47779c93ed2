"""`sfumato bench check`: try a plan before it is run, and estimate how long the run takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli.errors import SOME_FAILED, print_error, print_finding, reporting_errors
from sfumato.cli.progress_of_runs import duration
from sfumato.cli.tables import console, table

if TYPE_CHECKING:
    from sfumato.runs.checks.trial import Forecast, Trial
    from sfumato.runs.plans.findings import Findings
    from sfumato.runs.work.workbench import Workbench


def check(
    plan: Annotated[Path, typer.Argument(help="A TOML file: models, methods, data and protocols.", show_default=False)],
    workers: Annotated[int, typer.Option(help="Processes that the run will have.", min=1)] = 1,
) -> None:
    """Try a plan: load each model, compute one item of each combination, and estimate the time of the run. Writes no file.

    Exit status: 0 if all works, 1 if something does not.
    """
    with reporting_errors():
        from sfumato.runs.checks.check import check_plan
        from sfumato.runs.checks.trial import NOT_TRIED, forecast
        from sfumato.runs.execution.workers import one_thread
        from sfumato.runs.plans import plan as plans
        from sfumato.runs.plans.class_notes import class_line
        from sfumato.runs.plans.findings import sentence
        from sfumato.runs.work.workbench import Workbench

        parsed = plans.read(plan)
        bench = Workbench(parsed)
        with one_thread():  # as in a run
            findings = check_plan(parsed, bench)
            for finding in (*findings.faults, *findings.notes):
                print_finding(sentence(parsed, finding))
            for note in findings.classes:
                console().print(class_line(note), soft_wrap=True)
            trials = list(_run_trials(findings, bench))
        outcomes = table("data", "model", "method", "protocol", "outcome", "seconds")
        for trial in trials:
            if not trial.reason.startswith(NOT_TRIED):
                outcome = trial.reason or "ok"
                outcomes.add_row(trial.data, trial.model, trial.method, trial.protocol, outcome, _seconds(trial))
        if outcomes.row_count:
            console().print(outcomes)
        wrong = sum(bool(trial.reason) for trial in trials)
        console().print(_summary(forecast(findings, trials, workers), workers, wrong, len(trials)), soft_wrap=True)
        if wrong or findings.faults:
            untried = len(trials) - outcomes.row_count
            remark = f", of which {untried} were not tried, for the reasons above" if untried else ""
            print_error(f"{wrong} of {len(trials)} combinations do not work{remark}")
            raise typer.Exit(SOME_FAILED)


def _seconds(trial: "Trial") -> str:
    return "" if trial.reason else f"{trial.seconds:.2g}"


def _summary(work: "Forecast", workers: int, wrong: int, total: int) -> str:
    """How many items the run has, and how long it takes."""
    if wrong == total:
        return "No combination works, so the time of the run cannot be estimated."
    items = f"{'' if work.exact else 'about '}{work.items} items of {work.queries} queries"
    processes = f"with {workers} workers" if workers > 1 else "with 1 worker"
    part = "The part of the run that works" if wrong else "The run"
    return (
        f"{part} has {items}. It takes about {duration(work.seconds)} {processes}, if every item takes as long as the one "
        "that was tried."
    )


def _run_trials(findings: "Findings", bench: "Workbench") -> "Iterator[Trial]":
    """Run the trials. A terminal shows the number of the last one."""
    from rich.console import Console
    from rich.markup import escape

    from sfumato.runs.checks.trial import trials

    total = sum(len(combination.protocols) for combination in findings.plan.combinations())
    with Console(stderr=True).status("") as status:
        for number, trial in enumerate(trials(findings, bench), 1):
            message = f"tried {number} of {total}: {trial.data}, {trial.model}, {trial.method}, {trial.protocol}"
            status.update(escape(message))  # brackets in names are not markup
            yield trial
