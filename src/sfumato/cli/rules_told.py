"""What came of rules: tables on the terminal, and files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.files import say_where, write_json
from sfumato.cli.tables import console, table
from sfumato.settings import number

if TYPE_CHECKING:
    from rich.table import Table

    from sfumato.behaviour import Invariance, Presence, Strongest
    from sfumato.behaviour.written_rules import WrittenRule
    from sfumato.metrics.estimate import Estimate, Row


@dataclass
class Outcome:
    """What came of one rule."""

    asked: "WrittenRule"
    rule: "Invariance | Presence"
    estimates: "Mapping[str, Estimate]" = field(default_factory=dict)
    rows: "Sequence[Row]" = ()
    verdict: str = ""
    strongest: "Strongest | None" = None
    too_few: str = ""


def show(tests: Sequence[Outcome]) -> None:
    """One table for each kind of rule, on the terminal."""
    _show_presence(tests)
    _show_invariances(tests)
    _show_strongest(tests)


def _show_presence(tests: Sequence[Outcome]) -> None:
    from sfumato.behaviour import Presence

    listed = _estimates()
    for test in tests:
        if isinstance(test.rule, Presence):
            remarks = [f"t = {test.rule.threshold:.3g}", f"{len(test.rows)} unseen"]
            for name, found in test.estimates.items():
                first = name == "error"
                shown = name.replace("roc auc", "ROC AUC")
                cells = _cells(found, percent=name != "roc auc")
                listed.add_row(test.asked.text if first else "", shown, *cells, remarks.pop(0) if remarks else "")
    _titled("f(x) > t if and only if the class is present", listed)


def _show_invariances(tests: Sequence[Outcome]) -> None:
    listed = _estimates()
    for test in tests:
        if not test.verdict:
            continue
        rule: Any = test.rule
        names = {"change": "mean change", "beyond": f"beyond {rule.epsilon:g}", "top1": "other top class"}
        remarks = [f"{test.verdict}, ε {rule.epsilon:g}", f"{len(test.rows)} pictures"]
        for place, (name, found) in enumerate(test.estimates.items()):
            cells = _cells(found, percent=name != "change")
            first = test.asked.text if not place else ""
            listed.add_row(first, names[name], *cells, remarks.pop(0) if remarks else "")
    _titled("f(x) = f(x′), where x′ is x changed", listed)
    for reason in dict.fromkeys(test.too_few for test in tests if test.too_few):
        console().print(f"{reason[0].upper()}{reason[1:]}.\n")


def _show_strongest(tests: Sequence[Outcome]) -> None:
    listed = _table("rule", "holds up to", "not at", "error", "95 % interval", "ε")
    remarks = []
    for test in tests:
        if (found := test.strongest) is None:
            continue
        rule: Any = test.rule
        there = found.tested.get(rule.error_column)
        listed.add_row(
            _kind(test),
            f"{found.strength:.3g} {rule.transformation.unit}" if found.strength else "none tried",
            "" if found.fails is None else f"{found.fails:.3g}",
            *(_cells(there, percent=rule.response == "top1") if there else ("", "")),
            f"{rule.epsilon:g}",
        )
        if not found.rises:
            remarks.append(f"{_kind(test)}: the error did not rise with strength all along; rules.csv has the curve.")
    _titled("The strongest change under which f(x) = f(x′) holds within ε", listed)
    for remark in remarks:
        console().print(remark)


def _estimates() -> "Table":
    return _table("rule", "measure", "value", "95 % interval", "")


def _table(*columns: str) -> "Table":
    """A table of which only the first column, the rules, may be folded."""
    made = table(*columns)
    made.columns[0].overflow = "fold"
    for column in made.columns[1:]:
        column.no_wrap = True
    return made


def _titled(title: str, listed: "Table") -> None:
    if listed.row_count:
        console().print(f"{title}\n")
        console().print(listed)
        console().print()


def _kind(test: Outcome) -> str:
    """What is searched over: the rule's transformation without its strength."""
    return test.asked.text if "+" in test.asked.text else test.asked.text.partition(":")[0]


def _cells(found: "Estimate", percent: bool) -> tuple[str, str]:
    """An estimate and its interval."""
    if percent:
        return f"{100 * found.value:.1f} %", f"{100 * found.low:.1f}–{100 * found.high:.1f} %"
    return f"{found.value:.3g}", f"{found.low:.3g}–{found.high:.3g}"


def write(tests: Sequence[Outcome], out: Path, about: Mapping[str, Any]) -> None:
    """All that was found: nested in JSON, flat in CSV; and what each picture had to say."""
    write_json(out / "rules.json", {**about, "rules": [_as_json(test) for test in tests]})
    _write_csv(out / "rules.csv", [line for test in tests for line in _lines(test)])
    _write_csv(out / "pictures.csv", [{"rule": test.asked.text, **row} for test in tests for row in test.rows])
    say_where(len(tests), out)


def _as_json(test: Outcome) -> dict[str, Any]:
    from sfumato.settings import as_json

    rule: Any = test.rule
    found: dict[str, Any] = {"rule": test.asked.text, "settings": as_json(rule)}
    if test.estimates:
        found |= {"tested": _numbers(test.estimates), "pictures": len(test.rows)}
    if test.verdict:
        found["verdict"] = test.verdict
    if (search := test.strongest) is not None:
        found["strongest"] = {
            "strength": number(search.strength),
            "unit": rule.transformation.unit,
            "fails": None if search.fails is None else number(search.fails),
            "rises": search.rises,
            "tested": _numbers(search.tested),
            "curve": [
                {"strength": number(look.strength), **_one(look.error), "holds": look.holds} for look in search.curve
            ],
        }
    return found


def _numbers(estimates: "Mapping[str, Estimate]") -> dict[str, Any]:
    return {name.replace(" ", "_"): _one(found) for name, found in estimates.items()}


def _one(found: "Estimate") -> dict[str, Any]:
    return {"value": number(found.value), "low": number(found.low), "high": number(found.high), "count": found.count}


def _lines(test: Outcome) -> Iterator[dict[str, Any]]:
    """One line for each number: of the rule as given, of the strongest, and of all that was tried on the way."""
    transformation = getattr(test.rule, "transformation", None)
    unit = transformation.unit if transformation else ""
    given = transformation.strength if transformation else getattr(test.rule, "threshold", None)
    for name, found in test.estimates.items():
        yield _line(test, "given", given, unit, name, found, test.verdict)
    if test.strongest is None:
        return
    for name, found in test.strongest.tested.items():
        yield _line(test, "strongest", test.strongest.strength, unit, name, found, "holds")
    column = getattr(test.rule, "error_column", "")
    for look in test.strongest.curve:
        verdict = "holds" if look.holds else "not held"
        yield _line(test, "curve", look.strength, unit, column, look.error, verdict)


def _line(
    test: Outcome, part: str, strength: float | None, unit: str, measure: str, found: "Estimate", verdict: str
) -> dict[str, Any]:
    return {
        "rule": test.asked.text,
        "part": part,
        "strength_or_threshold": None if strength is None else number(strength),
        "unit": unit,
        "measure": measure,
        **_one(found),
        "verdict": verdict,
    }


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Whole or not at all; the header names all columns that any line has. Without lines, no file."""
    from sfumato.runs.results import export

    if lines:
        export.write(lines, path)
    else:
        path.unlink(missing_ok=True)
