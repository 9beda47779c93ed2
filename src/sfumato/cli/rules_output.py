"""Outcomes of tested rules: tables on the terminal, and files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.files import print_folder, write_json
from sfumato.cli.tables import console, table
from sfumato.settings import number

if TYPE_CHECKING:
    from rich.table import Table

    from sfumato.behaviour import Invariance, Presence, Strongest
    from sfumato.behaviour.written_rules import WrittenRule
    from sfumato.metrics.estimate import Estimate, Row


@dataclass
class Outcome:
    """The outcome of one rule."""

    entry: "WrittenRule"
    """The rule as the user wrote it."""
    rule: "Invariance | Presence"
    estimates: "Mapping[str, Estimate]" = field(default_factory=dict)
    rows: "Sequence[Row]" = ()
    verdict: str = ""
    strongest: "Strongest | None" = None
    too_few: str = ""


def show(outcomes: Sequence[Outcome]) -> None:
    """Print a table for each kind of rule."""
    _show_presence(outcomes)
    _show_invariances(outcomes)
    _show_strongest(outcomes)


def _show_presence(outcomes: Sequence[Outcome]) -> None:
    from sfumato.behaviour import Presence

    rows = _table_of_estimates()
    for outcome in outcomes:
        if isinstance(outcome.rule, Presence):
            remarks = [f"t = {outcome.rule.threshold:.3g}", f"{len(outcome.rows)} unseen"]
            for name, estimate in outcome.estimates.items():
                text = outcome.entry.text if name == "error" else ""
                measure = name.replace("roc auc", "ROC AUC")
                cells = _cells(estimate, percent=name != "roc auc")
                rows.add_row(text, measure, *cells, remarks.pop(0) if remarks else "")
    _print("f(x) > t if and only if the class is present", rows)


def _show_invariances(outcomes: Sequence[Outcome]) -> None:
    rows = _table_of_estimates()
    for outcome in outcomes:
        if not outcome.verdict:
            continue
        rule: Any = outcome.rule
        names = {"change": "mean change", "beyond": f"beyond {rule.epsilon:g}", "top1": "other top class"}
        remarks = [f"{outcome.verdict}, ε {rule.epsilon:g}", f"{len(outcome.rows)} pictures"]
        for index, (name, estimate) in enumerate(outcome.estimates.items()):
            cells = _cells(estimate, percent=name != "change")
            text = outcome.entry.text if not index else ""
            rows.add_row(text, names[name], *cells, remarks.pop(0) if remarks else "")
    _print("f(x) = f(x′), where x′ is the transformed x", rows)
    for reason in dict.fromkeys(outcome.too_few for outcome in outcomes if outcome.too_few):
        console().print(f"{reason[0].upper()}{reason[1:]}.\n")


def _show_strongest(outcomes: Sequence[Outcome]) -> None:
    rows = _table("rule", "holds up to", "not at", "error", "95 % interval", "ε")
    remarks = []
    for outcome in outcomes:
        if (search := outcome.strongest) is None:
            continue
        rule: Any = outcome.rule
        error = search.tested.get(rule.error_column)
        rows.add_row(
            _name_without_strength(outcome),
            f"{search.strength:.3g} {rule.transformation.unit}" if search.strength else "none tried",
            "" if search.fails is None else f"{search.fails:.3g}",
            *(_cells(error, percent=rule.response == "top1") if error else ("", "")),
            f"{rule.epsilon:g}",
        )
        if not search.rises:
            name = _name_without_strength(outcome)
            remarks.append(f"{name}: the error does not always rise with the strength; rules.csv has the curve.")
    _print("The strongest transformation under which f(x) = f(x′) holds within ε", rows)
    for remark in remarks:
        console().print(remark)


def _table_of_estimates() -> "Table":
    return _table("rule", "measure", "value", "95 % interval", "")


def _table(*columns: str) -> "Table":
    """A table in which only the first column, the rules, may be folded."""
    rows = table(*columns)
    rows.columns[0].overflow = "fold"
    for column in rows.columns[1:]:
        column.no_wrap = True
    return rows


def _print(title: str, rows: "Table") -> None:
    """Print a table with its title, unless it is empty."""
    if rows.row_count:
        console().print(f"{title}\n")
        console().print(rows)
        console().print()


def _name_without_strength(outcome: Outcome) -> str:
    """The name of the rule's transformation without its strength, as the search tries several."""
    return outcome.entry.text if "+" in outcome.entry.text else outcome.entry.text.partition(":")[0]


def _cells(estimate: "Estimate", percent: bool) -> tuple[str, str]:
    """An estimate and its interval, as text."""
    if percent:
        return f"{100 * estimate.value:.1f} %", f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f} %"
    return f"{estimate.value:.3g}", f"{estimate.low:.3g}–{estimate.high:.3g}"


def write(outcomes: Sequence[Outcome], out: Path, about: Mapping[str, Any]) -> None:
    """Write the outcomes as nested JSON and as flat CSV, and the rows of all pictures as CSV."""
    write_json(out / "rules.json", {**about, "rules": [_as_json(outcome) for outcome in outcomes]})
    _write_csv(out / "rules.csv", [line for outcome in outcomes for line in _lines(outcome)])
    _write_csv(
        out / "pictures.csv", [{"rule": outcome.entry.text, **row} for outcome in outcomes for row in outcome.rows]
    )
    print_folder(len(outcomes), out)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    from sfumato.settings import as_json

    rule: Any = outcome.rule
    record: dict[str, Any] = {"rule": outcome.entry.text, "settings": as_json(rule)}
    if outcome.estimates:
        record |= {"tested": _estimates_as_json(outcome.estimates), "pictures": len(outcome.rows)}
    if outcome.verdict:
        record["verdict"] = outcome.verdict
    if (search := outcome.strongest) is not None:
        record["strongest"] = {
            "strength": number(search.strength),
            "unit": rule.transformation.unit,
            "fails": None if search.fails is None else number(search.fails),
            "rises": search.rises,
            "tested": _estimates_as_json(search.tested),
            "curve": [
                {"strength": number(look.strength), **_estimate_as_json(look.error), "holds": look.holds}
                for look in search.curve
            ],
        }
    return record


def _estimates_as_json(estimates: "Mapping[str, Estimate]") -> dict[str, Any]:
    return {name.replace(" ", "_"): _estimate_as_json(estimate) for name, estimate in estimates.items()}


def _estimate_as_json(estimate: "Estimate") -> dict[str, Any]:
    values = {name: number(getattr(estimate, name)) for name in ("value", "low", "high")}
    return {**values, "count": estimate.count}


def _lines(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """The lines of a rule in rules.csv: its estimates, those of the strongest change, and those of all that were tried."""
    transformation = getattr(outcome.rule, "transformation", None)
    unit = transformation.unit if transformation else ""
    strength = transformation.strength if transformation else getattr(outcome.rule, "threshold", None)
    for name, estimate in outcome.estimates.items():
        yield _line(outcome, "given", strength, unit, name, estimate, outcome.verdict)
    if outcome.strongest is None:
        return
    for name, estimate in outcome.strongest.tested.items():
        yield _line(outcome, "strongest", outcome.strongest.strength, unit, name, estimate, "holds")
    column = getattr(outcome.rule, "error_column", "")
    for look in outcome.strongest.curve:
        verdict = "holds" if look.holds else "not held"
        yield _line(outcome, "curve", look.strength, unit, column, look.error, verdict)


def _line(
    outcome: Outcome, part: str, strength: float | None, unit: str, measure: str, estimate: "Estimate", verdict: str
) -> dict[str, Any]:
    return {
        "rule": outcome.entry.text,
        "part": part,
        "strength_or_threshold": None if strength is None else number(strength),
        "unit": unit,
        "measure": measure,
        **_estimate_as_json(estimate),
        "verdict": verdict,
    }


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write lines, completely or not at all, with the columns of all of them. Without lines, an old file is removed."""
    from sfumato.runs.results import export

    if lines:
        export.write(lines, path)
    else:
        path.unlink(missing_ok=True)
