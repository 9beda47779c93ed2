"""`sfumato bench rules`: rules that explain a network by predicting it, tested on pictures."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.files import check_writable, say_where, write_json
from sfumato.cli.naming import Checkpoint
from sfumato.cli.speaking import FAILED, SOME_FAILED, complain, speaking_plainly
from sfumato.cli.summaries import number
from sfumato.cli.tables import console, table
from sfumato.whole import written

if TYPE_CHECKING:
    from rich.table import Table

    from sfumato.behaviour import Invariance, Levels, Picture, Presence, Strongest, Watched
    from sfumato.behaviour.asked import Asked
    from sfumato.data import Data
    from sfumato.metrics.estimate import Estimate, Row
    from sfumato.models import Classifier


def rules(
    pictures: Annotated[
        Path | None,
        typer.Argument(
            metavar="PICTURES",
            help="A folder of pictures: of subfolders by class, or with an annotations.json, where classes are known.",
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="E.g. rotation:15, flip, shift:0.05+blur:2, rotation, presence:tabby; may be repeated."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="A TOML file of rules, [[rule]], and maybe of a data set, [data].", show_default=False),
    ] = None,
    model: Annotated[str, typer.Option(help="A model; see `sfumato models`.")] = "lite0",
    checkpoint: Checkpoint = None,
    epsilon: Annotated[float, typer.Option(help="How large an invariance's error may be.")] = 0.05,
    response: Annotated[str, typer.Option(help="What of the model: probability, logit or top1.")] = "probability",
    target: Annotated[
        str | None, typer.Option(help="The class that invariances are about. [default: each picture's top class]")
    ] = None,
    draws: Annotated[int, typer.Option(help="Changed versions of each picture.")] = 4,
    learn: Annotated[float, typer.Option(help="The share of pictures that a threshold is learnt from.")] = 0.5,
    strongest: Annotated[
        bool, typer.Option(help="Find the strongest transformation that an invariance holds under.")
    ] = True,
    sample: Annotated[
        int | None, typer.Option(help="Take only so many pictures, at random. [default: all]", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all that is random.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for rules.json, rules.csv and pictures.csv.")] = Path("sfumato-out"),
) -> None:
    """Test rules that predict a network's answers: a class is seen where it is; an answer stays when the picture is turned."""
    with speaking_plainly():
        settings = {
            "epsilon": epsilon,
            "response": response,
            "draws": draws,
            "learn": learn,
            "strongest": strongest,
            "seed": seed,
            **({} if target is None else {"target": target}),
        }
        wanted, data = _asked(rule or [], file, pictures, settings)
        check_writable(out)

        from sfumato import models
        from sfumato.behaviour import Watched
        from sfumato.data import Subset

        classifier = models.load(model, checkpoint)
        ready = [(one, _ready(one, classifier, data)) for one in wanted]
        read = _Read(data if sample is None else Subset(data, sample=sample, seed=seed), classifier)
        watched = Watched(classifier.net, read, _levels(classifier))
        tests, failed = _tests(ready, watched)
        if not tests:
            raise typer.Exit(FAILED)
        _print(tests)
        _write(tests, out, {"model": classifier.name, "pictures": len(read), "unreadable": len(read.failed)})
    if failed or read.failed:
        raise typer.Exit(SOME_FAILED)


@dataclass
class _Test:
    """What came of one rule."""

    asked: "Asked"
    rule: "Invariance | Presence"
    estimates: "Mapping[str, Estimate]" = field(default_factory=dict)
    rows: "Sequence[Row]" = ()
    verdict: str = ""
    strongest: "Strongest | None" = None
    too_few: str = ""


def _asked(
    texts: Sequence[str], file: Path | None, pictures: Path | None, settings: Mapping[str, Any]
) -> "tuple[list[Asked], Data]":
    """The rules, and the data set that they are to be tested on."""
    from sfumato.behaviour.asked import asked, read

    wanted = [asked(text, settings) for text in texts]
    described: Mapping[str, Any] | None = None
    if file is not None:
        more, described = read(file, settings)
        wanted += more
    if not wanted:
        raise ValueError("there is no rule to test; expected e.g. --rule rotation:15, or --file rules.toml")
    if pictures is not None:
        return wanted, _in_folder(pictures)
    if described is None or file is None:
        raise ValueError("there are no pictures; name a folder of them, or a data set under [data] in --file")
    return wanted, _described(described, file)


def _in_folder(path: Path) -> "Data":
    """Pictures with an `annotations.json`, or in subfolders by class, or just pictures."""
    from sfumato.data.annotated import Annotated
    from sfumato.data.folder import Folder

    if not path.is_dir():
        raise ValueError(f"no folder {str(path)!r}; expected one of pictures, or of subfolders of them by class")
    return Annotated(str(path)) if (path / "annotations.json").is_file() else Folder(str(path))


def _described(settings: Mapping[str, Any], file: Path) -> "Data":
    """The data set that a file's [data] says, as a plan does; a relative path begins at the file."""
    from sfumato.runs.catalogue import SettingError, exported, made
    from sfumato.runs.plan import with_paths

    try:
        filled = with_paths(settings, file.parent, ("data",))
        return made(filled, exported("sfumato.data", "classes"), ("data",), "data set")
    except SettingError as error:
        raise ValueError(f"{file}, {'.'.join(error.keys)}: {error}") from error


def _ready(one: "Asked", classifier: "Classifier", data: "Data") -> "Invariance | Presence":
    """The rule about this model and data."""
    if one.transformation is None:
        return one.presence(classifier.labels, data.classes)
    return one.invariance(classifier.labels)


@dataclass
class _Read:
    """The pictures of a data set as the model takes them, read anew each time; what cannot be read is reported once."""

    data: "Data"
    classifier: "Classifier"
    failed: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.data) - len(self.failed)

    def __iter__(self) -> "Iterator[Picture]":
        from sfumato import pictures
        from sfumato.behaviour import Picture

        for index in range(len(self.data)):
            if index in self.failed:
                continue
            try:
                example = self.data[index]
                inputs = self.classifier.prepare(pictures.read(example.path))
            except ValueError as error:
                self.failed.add(index)
                complain(error)
                continue
            classes = self.data.classes
            present = frozenset(classes[thing.label] for thing in example.things if not thing.difficult)
            yield Picture(
                example.name, inputs, present, frozenset(classes[thing.label] for thing in example.things) - present
            )


def _levels(classifier: "Classifier") -> "Levels":
    """What black and white are after the classifier's preparation."""
    from sfumato.behaviour import Levels

    scales = list(zip(classifier.preparation.mean, classifier.preparation.std, strict=True))
    return Levels(tuple(-mean / std for mean, std in scales), tuple((1 - mean) / std for mean, std in scales))


def _tests(ready: "Iterable[tuple[Asked, Invariance | Presence]]", watched: "Watched") -> tuple[list[_Test], int]:
    """Each rule tested, and how many could not be."""
    from rich.console import Console

    tests, failed = [], 0
    with Console(stderr=True).status("") as status:
        for asked, rule in ready:
            status.update(f"testing {asked.text}")
            try:
                tests.append(_test(asked, rule, watched, status.update))
            except ValueError as error:
                failed += 1
                complain(f"rule {asked.text!r}: {error}")
    return tests, failed


def _test(asked: "Asked", rule: "Invariance | Presence", watched: "Watched", tell: Callable[[str], object]) -> _Test:
    from sfumato.behaviour import Presence, strongest

    if isinstance(rule, Presence):
        rule, unseen = rule.learnt(rule.rows(watched))
        return _Test(asked, rule, rule.tested(unseen), unseen)
    test = _Test(asked, rule)
    if asked.given:
        test.rows = rule.rows(watched)
        test.estimates = rule.tested(test.rows)
        test.verdict = rule.verdict(test.estimates[rule.error_column])
        test.too_few = rule.too_few(len(test.rows))
    if asked.searched and not test.too_few:
        test.strongest = strongest(
            rule, watched, asked.most, progress=lambda look: tell(f"testing {rule.at(look.strength).transformation}")
        )
    return test


def _print(tests: Sequence[_Test]) -> None:
    for show in (_print_presence, _print_invariances, _print_strongest):
        show(tests)


def _print_presence(tests: Sequence[_Test]) -> None:
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
    _show("f(x) > t if and only if the class is present", listed)


def _print_invariances(tests: Sequence[_Test]) -> None:
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
    _show("f(x) = f(x′), where x′ is x changed", listed)
    for reason in dict.fromkeys(test.too_few for test in tests if test.too_few):
        console().print(f"{reason[0].upper()}{reason[1:]}.\n")


def _print_strongest(tests: Sequence[_Test]) -> None:
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
    _show("The strongest change under which f(x) = f(x′) holds within ε", listed)
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


def _show(title: str, listed: "Table") -> None:
    if listed.row_count:
        console().print(f"{title}\n")
        console().print(listed)
        console().print()


def _kind(test: _Test) -> str:
    """What is searched over: the rule's transformation without its strength."""
    return test.asked.text if "+" in test.asked.text else test.asked.text.partition(":")[0]


def _cells(found: "Estimate", percent: bool) -> tuple[str, str]:
    """An estimate and its interval."""
    if percent:
        return f"{100 * found.value:.1f} %", f"{100 * found.low:.1f}–{100 * found.high:.1f} %"
    return f"{found.value:.3g}", f"{found.low:.3g}–{found.high:.3g}"


def _write(tests: Sequence[_Test], out: Path, about: Mapping[str, Any]) -> None:
    """All that was found: nested in JSON, flat in CSV; and what each picture had to say."""
    write_json(out / "rules.json", {**about, "rules": [_as_json(test) for test in tests]})
    _write_csv(out / "rules.csv", [line for test in tests for line in _lines(test)])
    _write_csv(out / "pictures.csv", [{"rule": test.asked.text, **row} for test in tests for row in test.rows])
    say_where(len(tests), out)


def _as_json(test: _Test) -> dict[str, Any]:
    from sfumato.configuration import as_json

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


def _lines(test: _Test) -> Iterator[dict[str, Any]]:
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
    test: _Test, part: str, strength: float | None, unit: str, measure: str, found: "Estimate", verdict: str
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
    if not lines:
        path.unlink(missing_ok=True)
        return
    with written(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for line in lines for name in line)))
        writer.writeheader()
        writer.writerows(lines)
