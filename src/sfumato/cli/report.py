"""`sfumato report`: one self-contained page about results or runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.speaking import SOME_FAILED, complain, speaking_plainly

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.figures.report.results import Entry
    from sfumato.models import Classifier

SUFFIX = ".safetensors"

RUN = ("run.sqlite", "name.txt")
"""What the folder of a run holds: its rows, or the name by which a database knows them."""


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_FILE...",
            help="Folders of runs, .safetensors files of results, or folders of such files, as `sfumato explain` writes them.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="What stands above the page.", show_default=False)] = None,
    picture: Annotated[
        Path | None, typer.Option(help="The picture of files that name none.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that files were made with, to show pictures as it saw them; needed where that is a "
            "package.module:factory, or where they name none.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="postgresql://… of the database that holds a run's rows.", envvar="SFUMATO_STORE"),
    ] = None,
) -> None:
    """Write a page that needs no server: masks under a slider, their numbers, and for runs the tables and telling cases."""
    with speaking_plainly():
        _check_out(out)
        runs = [source for source in sources if any((source / name).exists() for name in RUN)]
        files = list(_files(source for source in sources if source not in runs))
        found, failed = _read(files)
        if not runs and not found:
            raise ValueError("nothing to report; expected folders of runs, or files that Attribution.save wrote")

        from sfumato.figures.report.page import page, write_page
        from sfumato.figures.report.results import TITLE, section
        from sfumato.figures.report.run import sections
        from sfumato.figures.report.thumbnails import Sheet
        from sfumato.runs.results.record import Place
        from sfumato.runs.results.record import found as record_of

        parts = [section(entry, place) for place, entry in enumerate(_entries(found, Pictures(picture, model)))]
        sheet = Sheet()
        alone = len(runs) == 1 and not found
        for place, run in enumerate(runs):
            parts += sections(record_of(Place(run, store)), sheet, "" if alone else run.resolve().name, place)
        heading = title or (TITLE if found else ", ".join(run.resolve().name for run in runs))
        write_page(page(heading, *parts, style=sheet.style()), out)
        typer.echo(str(out))
    if failed:
        raise typer.Exit(SOME_FAILED)


@dataclass(frozen=True, eq=False)
class Found:
    """A file's result, and what is told of it."""

    path: Path
    name: str
    """The method's, as it is called here."""
    result: "Attribution"
    story: Mapping[str, Any]

    def label(self, classifier: "Classifier | None" = None) -> str:
        """The class that was explained, as the summary names it, or the score, or the classifier."""
        from sfumato.figures.report.results import target_name

        target = self.story.get("target")
        if not isinstance(target, Mapping) or "label" not in target:
            return target_name(self.result.about, classifier)
        first = str(target["label"]).partition(",")[0]
        return f"{first} ({target['index']})" if "index" in target else first


@dataclass(eq=False)
class Pictures:
    """What models were shown, for files that say which; each model is loaded once."""

    picture: Path | None
    model: str | None
    _classifiers: "dict[tuple[str, Path | None], Classifier | str]" = field(default_factory=dict)

    def of(self, found: Found) -> "tuple[Tensor | None, Classifier | None, str]":
        """The inputs `(1, C, H, W)`, or why there are none."""
        told = found.story.get("picture")
        if self.picture is None and not isinstance(told, str):
            return None, None, "No picture is known; --picture names it."
        name = self.model or str(found.story.get("model", ""))
        classifier = self._classifier(name, found.story.get("checkpoint"))
        if isinstance(classifier, str):
            return None, None, classifier
        try:
            inputs = classifier.prepare(self._read(Path(str(told)), found.path))[None]
        except ValueError as error:
            return None, classifier, f"The picture is not shown: {error}"
        if inputs.shape[2:] != found.result.map.shape[2:] and found.result.masks is not None:
            return None, classifier, "The picture is not shown: the model sees it in another size than the masks'."
        return inputs, classifier, ""

    def _read(self, told: Path, beside: Path) -> Any:
        """The picture given, else where the file says, from here or from the file's folder."""
        from sfumato.data.pictures import read

        if self.picture is not None:
            return read(self.picture)
        return read(told if told.exists() or not (beside.parent / told.name).exists() else beside.parent / told.name)

    def _classifier(self, name: str, told: Any) -> "Classifier | str":
        """The model, with the weights of which a file tells, as far as these are here; or why there is none."""
        checkpoint = Path(told) if isinstance(told, str) and Path(told).is_file() else None
        key = name, checkpoint
        if key not in self._classifiers:
            self._classifiers[key] = self._loaded(name, checkpoint)
        return self._classifiers[key]

    def _loaded(self, name: str, checkpoint: Path | None) -> "Classifier | str":
        """A file's word is not enough to run somebody's code."""
        from sfumato import models

        if not name:
            return "The picture is not shown: no model is known, which prepares it; --model names it."
        known = name in models.NAMES or name.partition(":")[0] in models.SOURCES
        if not known and self.model is None:
            return f"The picture is not shown: it takes the model {name!r}, which --model must allow."
        try:
            return models.load(name, checkpoint)
        except (ValueError, OSError, ImportError) as error:
            if self.model is not None:
                raise
            return f"The picture is not shown: {error}"


def _files(sources: Iterator[Path]) -> Iterator[Path]:
    """The files meant: each as it is named, each folder's sorted."""
    for source in sources:
        if not source.is_dir():
            yield source
            continue
        inside = sorted(source.glob(f"*{SUFFIX}"))
        if not inside:
            raise ValueError(
                f"folder {str(source)!r} holds neither a run nor results; expected run.sqlite or {SUFFIX} files in it"
            )
        yield from inside


def _read(files: Sequence[Path]) -> tuple[list[Found], int]:
    """What the files hold, and how many could not be read, of which each is complained."""
    if not files:
        return [], 0
    from sfumato.attribution import load
    from sfumato.figures.report.results import method_name

    found, failed = [], 0
    for path in dict.fromkeys(files):
        try:
            result = load(path)
        except ValueError as error:
            failed += 1
            complain(error)
            continue
        beside, name = _beside(path)
        found.append(Found(path, name or method_name(result), result, {**beside, **result.about}))
    return found, failed


def _beside(path: Path) -> tuple[Mapping[str, Any], str]:
    """What the summary beside a file tells of its picture, and by which name of its methods the file goes."""
    from sfumato.cli.files import slug

    for candidate in sorted(path.parent.glob("*.json")):
        if candidate.stem == path.stem or path.stem.startswith(f"{candidate.stem}-"):
            summary = _summary(candidate)
            if candidate.stem == path.stem:
                return summary, ""
            methods = summary.get("methods")
            for name in methods if isinstance(methods, Mapping) else ():
                if path.stem == f"{candidate.stem}-{slug(name)}":
                    return {key: value for key, value in summary.items() if key != "methods"}, name
    return {}, ""


def _summary(path: Path) -> Mapping[str, Any]:
    import json

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _entries(found: Sequence[Found], pictures: Pictures) -> "Iterator[Entry]":
    """A query each: results of one picture and class stand side by side."""
    from sfumato.figures.report.results import Entry

    together: dict[tuple[str, ...], list[Found]] = {}
    for each in found:
        told = each.story.get("picture")
        for query in range(len(each.result)):
            part = replace(each, result=each.result[query])
            label = part.label()
            key = (told, label) if isinstance(told, str) and label else (str(each.path), str(query), label)
            together.setdefault(key, []).append(part)
    for group in together.values():
        inputs, classifier, why = pictures.of(group[0])
        told = group[0].story.get("picture")
        name = Path(told).name if isinstance(told, str) else group[0].path.name
        label = group[0].label(classifier)
        yield Entry(_named(group), inputs, classifier, f"{name}: {label}" if label else name, why)


def _named(group: Sequence[Found]) -> "dict[str, Attribution]":
    """The results by their methods' names, or by their files' where two have one name."""
    names = [each.name for each in group]
    return {
        each.name if names.count(each.name) == 1 else f"{each.name}, {each.path.stem}": each.result for each in group
    }


def _check_out(out: Path) -> None:
    """What cannot be written is said before the work begins."""
    if out.is_dir():
        raise ValueError(f"--out must be the name of a file; got the folder {str(out)!r}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"cannot write {str(out)!r}: its folder does not exist; make it, or name another with --out")
