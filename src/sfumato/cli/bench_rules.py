"""`sfumato bench rules`: rules that explain a network by predicting it, tested on pictures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import rules_told
from sfumato.cli.files import check_writable
from sfumato.cli.naming import Checkpoint, Model
from sfumato.cli.rules_told import Outcome
from sfumato.cli.speaking import FAILED, SOME_FAILED, complain, speaking_plainly

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
    model: Model = "lite0",
    checkpoint: Checkpoint = None,
    epsilon: Annotated[float, typer.Option(help="How large an invariance's error may be.")] = 0.05,
    response: Annotated[
        str, typer.Option(help="What of the model: probability, sigmoid, logit or top1.")
    ] = "probability",
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
        rules_told.show(tests)
        rules_told.write(tests, out, {"model": classifier.name, "pictures": len(read), "unreadable": len(read.failed)})
    if failed or read.failed:
        raise typer.Exit(SOME_FAILED)


def _asked(
    texts: Sequence[str], file: Path | None, pictures: Path | None, settings: Mapping[str, Any]
) -> "tuple[list[WrittenRule], Data]":
    """The rules, and the data set that they are to be tested on."""
    from sfumato.behaviour.written_rules import parse_rule, read_rules

    wanted = [parse_rule(text, settings) for text in texts]
    described: Mapping[str, Any] | None = None
    if file is not None:
        more, described = read_rules(file, settings)
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
    from sfumato.runs.plans.catalogue import SettingError, exported, make
    from sfumato.runs.plans.plan import with_paths

    try:
        filled = with_paths(settings, file.parent, ("data",))
        return make(filled, exported("sfumato.data", "classes"), ("data",), "data set")
    except SettingError as error:
        raise ValueError(f"{file}, {'.'.join(error.keys)}: {error}") from error


def _ready(one: "WrittenRule", classifier: "Classifier", data: "Data") -> "Invariance | Presence":
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


def _tests(
    ready: "Iterable[tuple[WrittenRule, Invariance | Presence]]", watched: "Watched"
) -> tuple[list[Outcome], int]:
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


def _test(
    asked: "WrittenRule", rule: "Invariance | Presence", watched: "Watched", tell: Callable[[str], object]
) -> Outcome:
    from sfumato.behaviour import Presence, strongest

    if isinstance(rule, Presence):
        rule, unseen = rule.learnt(rule.rows(watched))
        return Outcome(asked, rule, rule.tested(unseen), unseen)
    test = Outcome(asked, rule)
    if asked.has_strength:
        test.rows = rule.rows(watched)
        test.estimates = rule.tested(test.rows)
        test.verdict = rule.verdict(test.estimates[rule.error_column])
        test.too_few = rule.too_few(len(test.rows))
    if asked.has_search and not test.too_few:
        test.strongest = strongest(
            rule, watched, asked.most, progress=lambda look: tell(f"testing {rule.at(look.strength).transformation}")
        )
    return test
