"""One item of each combination of a plan, done and thrown away: whether all of it works, and how long the whole will take."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sfumato.data.pictures import read
from sfumato.runs.plans.findings import Findings, place
from sfumato.runs.plans.looks import Look, has_place
from sfumato.runs.plans.plan import Combination, Plan
from sfumato.runs.stores.store import Done
from sfumato.runs.work.items import PREDICTED_TARGET, Chunk, Unit
from sfumato.runs.work.kept import Explained
from sfumato.runs.work.workbench import Workbench

TRIED = 8
"""Pictures that are opened, at most, to have one that can be read."""

AGAIN = 10.0
"""Seconds: what takes less is done twice, as the first time holds imports and other preparations that a run has once."""

NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Trial:
    """An item of a combination, or why there is none."""

    data: str
    model: str
    method: str
    protocol: str
    reason: str = ""
    """What is wrong; empty where nothing is."""
    explaining: float = 0.0
    """Seconds that the method took."""
    measuring: float = 0.0
    """Seconds of all else: to read the picture, where it was not read yet, and to measure."""

    @property
    def seconds(self) -> float:
        return self.explaining + self.measuring


def trials(findings: Findings, bench: Workbench) -> Iterator[Trial]:
    """One item of each combination of data set, model, method and protocol, in the plan's order, without a store.

    What the findings say is wrong is not tried. A method is called once for all protocols.
    """
    plan = findings.plan
    examples: dict[str, Unit | None] = {}
    for combination in plan.combinations():
        name = combination.data
        faults = {
            protocol: [place(plan, fault) for fault in findings.faults if fault.concerns(combination, protocol)]
            for protocol in combination.protocols
        }
        if name not in examples and not all(faults.values()):
            examples[name] = query(plan, name, findings.looks[name])
        item = _Item(bench, combination, examples.get(name))
        for protocol, known in faults.items():
            wrong = f"{NOT_TRIED}: see {', '.join(dict.fromkeys(known))}"
            yield Trial(*combination[:3], protocol, wrong) if known else item.tried(protocol)


@dataclass(eq=False)
class _Item:
    """A query and a method; explained when it is first needed."""

    bench: Workbench
    combination: Combination
    unit: Unit | None
    explained: Mapping[int, Explained] = field(default_factory=dict)

    def tried(self, protocol: str) -> Trial:
        parts = (*self.combination[:3], protocol)
        if self.unit is None:
            return Trial(*parts, "no example could be read")
        chunk = Chunk(self.combination._replace(protocols=(protocol,)), (self.unit,), (0,))
        known = self.explained
        try:
            done, seconds = self._timed(chunk, known)
            if done.row is not None and sum(seconds) < AGAIN:
                _, second = self._timed(chunk, known)
                seconds = min(seconds[0], second[0]), min(seconds[1], second[1])
        except Exception as error:  # noqa: BLE001  # of the machine, which would end a run
            return Trial(*parts, f"{type(error).__name__}: {error}")
        return Trial(*parts, f"{done.reason} ({done.example})" if done.row is None else "", *seconds)

    def _timed(self, chunk: Chunk, known: Mapping[int, Explained]) -> tuple[Done, tuple[float, float]]:
        """The item, and the seconds of the method and of all else. Raises `RuntimeError` where the machine failed."""
        began = time.perf_counter()
        outcome = self.bench.done(chunk, None, known)
        taken = time.perf_counter() - began
        for left in outcome.left:
            raise RuntimeError(f"{left.fault.kind.name} ({left.fault.about}): {left.fault.kind.remedy}")
        (done,) = outcome.done
        for result in outcome.results.values():
            self.explained = {chunk.units[0].query: Explained(result, done.seconds)}
        explaining = 0.0 if known else min(done.seconds, taken)
        return done, (explaining, taken - explaining)


def query(plan: Plan, name: str, look: Look) -> Unit | None:
    """A query of a data set to try all with: if possible, of a picture that can be read and of a class that is located."""
    entry = plan.data[name]
    examples = look.examples()
    if not entry.names_targets:
        units = [Unit(0, example.name, PREDICTED_TARGET, example) for example in examples]
    else:
        look.any(
            lambda example: any(has_place(example, label) for label in example.targets)
        )  # looks at more if it must
        pairs = [(example, label) for example in look.examples_read for label in example.targets]
        pairs.sort(key=lambda pair: not has_place(*pair))
        units = [Unit(0, example.name, label, example) for example, label in pairs]
    for unit in units[:TRIED]:
        try:
            assert unit.example is not None  # noqa: S101  # for the type checker
            read(unit.example.path)
        except (ValueError, OSError):
            continue
        return unit
    return units[0] if units else None


@dataclass(frozen=True)
class Forecast:
    """How much a plan is, and how long it will take."""

    items: int
    queries: int
    seconds: float
    """With all the workers."""
    exact: bool
    """Whether all examples were looked at, so that the number of items is not an estimate."""


def forecast(findings: Findings, tried: Sequence[Trial], workers: int = 1) -> Forecast:
    """What a plan comes to if each item takes as long as the one that was tried; what failed takes no time.

    More workers than processors make nothing faster.
    """
    entries, looks = findings.plan.data, findings.looks
    worked = [trial for trial in tried if not trial.reason]
    counts = {
        name: looks[name].queries if entries[name].names_targets else looks[name].count
        for name in dict.fromkeys(trial.data for trial in worked)
    }
    seconds = sum(counts[trial.data] * trial.seconds for trial in worked)
    pairs = dict.fromkeys((trial.data, trial.model) for trial in worked)
    exact = all(looks[name].complete or not entries[name].names_targets for name in counts)
    return Forecast(
        items=round(sum(counts[trial.data] for trial in worked)),
        queries=round(sum(counts[data] for data, _ in pairs)),
        seconds=seconds / min(workers, os.cpu_count() or 1),
        exact=exact,
    )
