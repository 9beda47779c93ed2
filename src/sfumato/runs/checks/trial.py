"""Do one item of each combination of a plan, sum it up, and throw it away: to see whether all work, and how long the run will
take."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from sfumato.data.pictures import read
from sfumato.metrics.statistic import Row, as_columns
from sfumato.runs.plans.data_sample import DataSample, has_place
from sfumato.runs.plans.findings import Findings, place
from sfumato.runs.plans.plan import Combination, Plan
from sfumato.runs.results.summary import sum_up
from sfumato.runs.stores.store import Done
from sfumato.runs.work.cache import MethodResult
from sfumato.runs.work.items import PREDICTED_TARGET, Chunk, Unit
from sfumato.runs.work.workbench import Workbench

TRIED = 8
"""The most pictures that are opened to find one that can be read."""

MORE = 2
"""Further queries whose rows are measured if a protocol cannot sum up the first row: not all rows need have the same names."""

AGAIN = 10.0
"""Seconds. An item that takes less is done twice, as the first time includes imports and other preparations."""

NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Trial:
    """The outcome of an item of a combination."""

    data: str
    model: str
    method: str
    protocol: str
    reason: str = ""
    """What is wrong; empty if the item works."""
    explaining: float = 0.0
    """Seconds of the method."""
    measuring: float = 0.0
    """Seconds of the rest: to read the picture, unless it is cached, and to measure."""

    @property
    def seconds(self) -> float:
        return self.explaining + self.measuring


def trials(findings: Findings, bench: Workbench) -> Iterator[Trial]:
    """One item of each combination of data set, model, method and protocol, in the plan's order, without a store.

    The row must be one that the protocol can sum up (`Protocol.measures`), as the table of the run will. Combinations with
    faults in the findings are not tried. A method is called once for all protocols.
    """
    plan = findings.plan
    units: dict[str, list[Unit]] = {}
    for combination in plan.combinations():
        name = combination.data
        faults = {
            protocol: [place(plan, fault) for fault in findings.faults if fault.concerns(combination, protocol)]
            for protocol in combination.protocols
        }
        if name not in units and not all(faults.values()):
            units[name] = queries(plan, name, findings.samples[name])
        item = _Item(bench, combination, units.get(name, []))
        for protocol, faulty_lines in faults.items():
            wrong = f"{NOT_TRIED}: see {', '.join(dict.fromkeys(faulty_lines))}"
            yield Trial(*combination[:3], protocol, wrong) if faulty_lines else item.attempt(protocol)


@dataclass(eq=False)
class _Item:
    """A query and a method, whose result is computed when it is first needed."""

    bench: Workbench
    combination: Combination
    units: Sequence[Unit]
    """The query, and others for the case that its row does not say enough."""
    explained: Mapping[int, MethodResult] = field(default_factory=dict)

    def attempt(self, protocol: str) -> Trial:
        parts = (*self.combination[:3], protocol)
        if not self.units:
            return Trial(*parts, "no example could be read")
        chunk = self._chunk(protocol, self.units[0])
        cached = self.explained
        try:
            done, seconds = self._timed(chunk, cached)
            if done.row is not None and sum(seconds) < AGAIN:
                _, second = self._timed(chunk, cached)
                seconds = min(seconds[0], second[0]), min(seconds[1], second[1])
            wrong = (
                f"{done.reason} ({done.example})" if done.row is None else self._fault_of_measures(protocol, done.row)
            )
        except Exception as error:  # noqa: BLE001  # of the machine, which would end a run
            return Trial(*parts, f"{type(error).__name__}: {error}")
        return Trial(*parts, wrong, *seconds)

    def _chunk(self, protocol: str, unit: Unit) -> Chunk:
        return Chunk(self.combination._replace(protocols=(protocol,)), (unit,), (0,))

    def _fault_of_measures(self, protocol: str, row: Row) -> str:
        """Why the protocol cannot sum up its rows; empty if it can."""
        rows, judge, wrong = [row], self.bench.plan.protocols[protocol].protocol, ""
        for unit in (None, *self.units[1:]):
            if unit is not None:
                rows += [
                    done.row for done in self.bench.compute(self._chunk(protocol, unit)).done if done.row is not None
                ]
            try:
                sum_up(
                    judge,
                    protocol,
                    self.combination.method,
                    rows,
                    {**as_columns(rows), "picture": np.arange(len(rows))},
                )
            except ValueError as error:
                wrong = str(error)
            else:
                return ""
        return wrong

    def _timed(self, chunk: Chunk, cached: Mapping[int, MethodResult]) -> tuple[Done, tuple[float, float]]:
        """Do the item, and time the method and the rest. Raises `RuntimeError` if the machine failed."""
        began = time.perf_counter()
        outcome = self.bench.compute(chunk, None, cached)
        seconds = time.perf_counter() - began
        for left in outcome.left:
            raise RuntimeError(f"{left.fault.kind.name} ({left.fault.about}): {left.fault.kind.remedy}")
        (done,) = outcome.done
        for result in outcome.results.values():
            self.explained = {chunk.units[0].query: MethodResult(result, done.seconds)}
        explaining = 0.0 if cached else min(done.seconds, seconds)
        return done, (explaining, seconds - explaining)


def queries(plan: Plan, name: str, sample: DataSample) -> list[Unit]:
    """A query of a data set for the trials, if there is any, and `MORE` others. If possible, their pictures can be read, and
    the first has a class with a place."""
    entry = plan.data[name]
    examples = sample.examples()
    if not entry.names_targets:
        units = [Unit(0, example.name, PREDICTED_TARGET, example) for example in examples]
    else:
        sample.any(lambda example: any(has_place(example, label) for label in example.targets))  # reads more if it must
        pairs = [(example, label) for example in sample.examples_read for label in example.targets]
        pairs.sort(key=lambda pair: not has_place(*pair))
        units = [Unit(0, example.name, label, example) for example, label in pairs]
    return list(islice(filter(_can_be_read, units[:TRIED]), 1 + MORE)) or units[:1]


def _can_be_read(unit: Unit) -> bool:
    try:
        assert unit.example is not None  # noqa: S101  # for the type checker
        read(unit.example.path)
    except (ValueError, OSError):
        return False
    return True


@dataclass(frozen=True)
class Forecast:
    """The size of a plan, and how long it will take."""

    items: int
    queries: int
    seconds: float
    """With all the workers."""
    exact: bool
    """Whether all examples were looked at, so that the number of items is not an estimate."""


def forecast(findings: Findings, tried: Sequence[Trial], workers: int = 1) -> Forecast:
    """The forecast of a plan, if each item takes as long as its trial; trials that failed count no time.

    More workers than processors do not make it faster.
    """
    entries, samples = findings.plan.data, findings.samples
    worked = [trial for trial in tried if not trial.reason]
    counts = {
        name: samples[name].queries if entries[name].names_targets else samples[name].count
        for name in dict.fromkeys(trial.data for trial in worked)
    }
    seconds = sum(counts[trial.data] * trial.seconds for trial in worked)
    pairs = dict.fromkeys((trial.data, trial.model) for trial in worked)
    exact = all(samples[name].complete or not entries[name].names_targets for name in counts)
    return Forecast(
        items=round(sum(counts[trial.data] for trial in worked)),
        queries=round(sum(counts[data] for data, _ in pairs)),
        seconds=seconds / min(workers, os.cpu_count() or 1),
        exact=exact,
    )
