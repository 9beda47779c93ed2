"""`sfumato bench rules`: test on pictures whether rules predict a network's answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import rules_output
from sfumato.cli.errors import FAILED, SOME_FAILED, print_error, reporting_errors
from sfumato.cli.files import writable
from sfumato.cli.naming import Checkpoint, Model
from sfumato.cli.rules_output import Outcome

if TYPE_CHECKING:
    from sfumato.behaviour import Invariance, Levels, Picture, Presence, Watched
    from sfumato.behaviour.written_rules import WrittenRule
    from sfumato.data import Data
    from sfumato.models import Classifier


def rules(
    pictures: Annotated[
        Path | None,
        typer.Argument(
            metavar="PICTURES",
            help="A folder of pictures. For rules about classes: with a subfolder for each class, or an annotations.json.",
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="E.g. rotation:15, flip, shift:0.05+blur:2, rotation, presence:tabby; may be repeated."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="A TOML file of rules, [[rule]], and perhaps a data set, [data].", show_default=False),
    ] = None,
    model: Model = "lite0",
    checkpoint: Checkpoint = None,
    epsilon: Annotated[float, typer.Option(help="The largest error under which an invariance holds.")] = 0.05,
    response: Annotated[
        str, typer.Option(help="The answer that is compared: probability, sigmoid, logit or top1.")
    ] = "probability",
    target: Annotated[
        str | None, typer.Option(help="The class of invariances. [default: each picture's top class]")
    ] = None,
    draws: Annotated[int, typer.Option(help="Changed versions of each picture.")] = 4,
    learn: Annotated[float, typer.Option(help="The share of pictures from which a threshold is learnt.")] = 0.5,
    strongest: Annotated[
        bool, typer.Option(help="Find the strongest transformation under which an invariance holds.")
    ] = True,
    sample: Annotated[
        int | None, typer.Option(help="Use only this many pictures, chosen at random. [default: all]", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of all random numbers.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for rules.json, rules.csv and pictures.csv.")] = Path(
        "sfumato-out"
    ),
) -> None:
    """Test rules that predict a network's answers, e.g. that the answer does not change if the picture is rotated."""
    with reporting_errors():
        settings = {
            "epsilon": epsilon,
            "response": response,
            "draws": draws,
            "learn": learn,
            "strongest": strongest,
            "seed": seed,
            **({} if target is None else {"target": target}),
        }
        entries, data = _read_rules(rule or [], file, pictures, settings)

        from sfumato import models
        from sfumato.behaviour import Watched
        from sfumato.data import Subset
        from sfumato.models.clips import check_takes_pictures

        with writable(out):
            classifier = models.load(model, checkpoint)
            check_takes_pictures(classifier, "sfumato bench rules")
            bound_rules = [(entry, _for_model(entry, classifier, data)) for entry in entries]
            inputs = _Inputs(data if sample is None else Subset(data, sample=sample, seed=seed), classifier)
            watched = Watched(classifier.net, inputs, _levels(classifier), link=classifier.probability_link())
            outcomes, failed = _test_all(bound_rules, watched)
            if not outcomes:
                raise typer.Exit(FAILED)
            rules_output.show(outcomes)
            about = {"model": classifier.name, "pictures": len(inputs), "unreadable": len(inputs.failed)}
            rules_output.write(outcomes, out, about)
    if failed or inputs.failed:
        raise typer.Exit(SOME_FAILED)


def _read_rules(
    texts: Sequence[str], file: Path | None, pictures: Path | None, settings: Mapping[str, Any]
) -> "tuple[list[WrittenRule], Data]":
    """The rules of --rule and --file, and the data set to test them on."""
    from sfumato.behaviour.written_rules import parse_rule, read_rules

    entries = [parse_rule(text, settings) for text in texts]
    data_settings: Mapping[str, Any] | None = None
    if file is not None:
        more, data_settings = read_rules(file, settings)
        entries += more
    if not entries:
        raise ValueError("there is no rule to test; expected e.g. --rule rotation:15, or --file rules.toml")
    if pictures is not None:
        return entries, _in_folder(pictures)
    if data_settings is None or file is None:
        raise ValueError("there are no pictures; name a folder of them, or a data set under [data] in --file")
    return entries, _from_settings(data_settings, file)


def _in_folder(path: Path) -> "Data":
    """The data set in a folder: with an `annotations.json`, with a subfolder for each class, or of pictures only."""
    from sfumato.data.annotated import Annotated
    from sfumato.data.folder import Folder

    if not path.is_dir():
        raise ValueError(f"no folder {str(path)!r}; expected a folder of pictures, or with a subfolder for each class")
    return Annotated(str(path)) if (path / "annotations.json").is_file() else Folder(str(path))


def _from_settings(settings: Mapping[str, Any], file: Path) -> "Data":
    """The data set of a file's [data], which has the same form as in a plan. Relative paths begin at the file's folder."""
    from sfumato.runs.plans.catalogue import SettingError, exported, make
    from sfumato.runs.plans.plan import with_paths

    try:
        resolved = with_paths(settings, file.parent, ("data",))
        return make(resolved, exported("sfumato.data", "classes"), ("data",), "data set")
    except SettingError as error:
        raise ValueError(f"{file}, {'.'.join(error.keys)}: {error}") from error


def _for_model(entry: "WrittenRule", classifier: "Classifier", data: "Data") -> "Invariance | Presence":
    """The rule, with the classes of this model and this data set."""
    if entry.transformation is None:
        return entry.presence(classifier.labels, data.classes)
    return entry.invariance(classifier.labels)


@dataclass
class _Inputs:
    """The pictures of a data set, prepared for the model.

    They are read again in each iteration. A picture that cannot be read is reported once, and then left out.
    """

    data: "Data"
    classifier: "Classifier"
    failed: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.data) - len(self.failed)

    def __iter__(self) -> "Iterator[Picture]":
        from sfumato.behaviour import Picture
        from sfumato.data import pictures

        for index in range(len(self.data)):
            if index in self.failed:
                continue
            try:
                example = self.data[index]
                inputs = self.classifier.prepare(pictures.read(example.path))
            except ValueError as error:
                self.failed.add(index)
                print_error(error)
                continue
            classes = self.data.classes
            present = frozenset(classes[thing.label] for thing in example.things if not thing.difficult)
            yield Picture(
                example.name, inputs, present, frozenset(classes[thing.label] for thing in example.things) - present
            )


def _levels(classifier: "Classifier") -> "Levels":
    """The values of black and white after the classifier's preparation, for each channel."""
    from sfumato.behaviour import Levels

    scales = list(zip(classifier.preparation.mean, classifier.preparation.std, strict=True))
    return Levels(tuple(-mean / std for mean, std in scales), tuple((1 - mean) / std for mean, std in scales))


def _test_all(
    bound_rules: "Iterable[tuple[WrittenRule, Invariance | Presence]]", watched: "Watched"
) -> tuple[list[Outcome], int]:
    """Test the rules; returns the outcomes, and how many rules could not be tested."""
    from rich.console import Console

    outcomes, failed = [], 0
    with Console(stderr=True).status("") as status:
        for entry, rule in bound_rules:
            status.update(f"testing {entry.text}")
            try:
                outcomes.append(_test(entry, rule, watched, status.update))
            except ValueError as error:
                failed += 1
                print_error(f"rule {entry.text!r}: {error}")
    return outcomes, failed


def _test(
    entry: "WrittenRule", rule: "Invariance | Presence", watched: "Watched", show: Callable[[str], object]
) -> Outcome:
    """Test a rule; `show` is called with what is being tested."""
    from sfumato.behaviour import Presence, strongest

    if isinstance(rule, Presence):
        rule, held_out = rule.learnt(rule.rows(watched))
        return Outcome(entry, rule, rule.tested(held_out), held_out)
    outcome = Outcome(entry, rule)
    if entry.has_strength:
        outcome.rows = rule.rows(watched)
        outcome.estimates = rule.tested(outcome.rows)
        outcome.verdict = rule.verdict(outcome.estimates[rule.error_column])
        outcome.too_few = rule.too_few(len(outcome.rows))
    if entry.has_search and not outcome.too_few:
        outcome.strongest = strongest(
            rule, watched, entry.most, progress=lambda look: show(f"testing {rule.at(look.strength).transformation}")
        )
    return outcome
