"""Findings about a plan before its first picture: faults and remarks, and where in its file they are."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sfumato.runs.plans.data_sample import DataSample
from sfumato.runs.plans.plan import Combination, Plan
from sfumato.settings import line_of


@dataclass(frozen=True)
class Finding:
    """A fault or a remark: its place in the plan, and the combinations that it is about. A part that it does not name
    may be any."""

    keys: tuple[str, ...]
    message: str
    """One sentence, and maybe lines to write in the plan."""
    data: str = ""
    model: str = ""
    method: str = ""
    protocol: str = ""

    def concerns(self, combination: Combination, protocol: str) -> bool:
        """Whether the finding is about a protocol in a combination."""
        parts = (combination.data, combination.model, combination.method, protocol)
        return all(
            name in ("", part)
            for name, part in zip((self.data, self.model, self.method, self.protocol), parts, strict=True)
        )


class PlanError(ValueError):
    """A plan cannot be carried out. The message has all its faults."""

    def __init__(self, plan: Plan, faults: list[Finding]) -> None:
        self.faults = faults
        self.lines = [sentence(plan, fault) for fault in faults]
        super().__init__("\n".join(self.lines))


def place(plan: Plan, finding: Finding) -> str:
    """The place of a finding in the plan, in short."""
    line = line_of(plan.text, finding.keys)
    return f"line {line}" if line else ".".join(finding.keys)


def sentence(plan: Plan, finding: Finding) -> str:
    """A finding with its place in the plan."""
    return f"{plan.place_of(finding.keys)}: {finding.message}"


@dataclass(eq=False)
class Findings:
    """What is known of a plan before its first picture."""

    plan: Plan
    faults: list[Finding] = field(default_factory=list)
    """Faults, which make items fail."""
    notes: list[Finding] = field(default_factory=list)
    """Remarks, which do not stop a run."""
    classes: list[dict[str, Any]] = field(default_factory=list)
    """How each data set's classes are mapped to each model's outputs; plain JSON, see `ClassMap.as_json`."""
    samples: dict[str, DataSample] = field(default_factory=dict)
    """By data set."""

    def stop(self) -> None:
        """Raise `PlanError` if there are faults."""
        if self.faults:
            raise PlanError(self.plan, self.faults)


def comma_list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
