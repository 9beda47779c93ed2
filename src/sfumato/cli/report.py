"""`sfumato report`: one self-contained HTML page about results or runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli.errors import SOME_FAILED, print_error, reporting_errors

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.figures.report.results import Entry
    from sfumato.models import Classifier

SUFFIX = ".safetensors"

RUN = ("run.sqlite", "name.txt")
"""Files in the folder of a run, one or the other: its rows, or the name of the run in a database."""


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_FILE...",
            help="Folders of runs, .safetensors files of results, or folders of such files, as `sfumato explain` writes them.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="The title of the page.", show_default=False)] = None,
    picture: Annotated[
        Path | None, typer.Option(help="The picture, for files that do not name one.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that the files were made with, to prepare pictures for it. Needed if it is a "
            "package.module:factory, or if the files do not name it.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Names of the model's classes: text with one in each line, or JSON. [default: those that the files name]",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Address of the database with a run's rows, postgresql://….", envvar="SFUMATO_STORE"),
    ] = None,
) -> None:
    """Write a page that needs no server: masks with a slider, their numbers, and for runs the tables and notable cases."""
    with reporting_errors():
        from sfumato.models.class_names import class_names

        _check_out(out)
        names = None if labels is None else class_names(labels)
        runs = [source for source in sources if any((source / name).exists() for name in RUN)]
        paths = list(_result_files(source for source in sources if source not in runs))
        files, failed = _read(paths)
        if not runs and not files:
            raise ValueError("nothing to report; expected folders of runs, or files that Attribution.save wrote")

        from sfumato.figures.report.page import page, write_page
        from sfumato.figures.report.results import TITLE, section
        from sfumato.figures.report.run import sections
        from sfumato.figures.report.thumbnails import Sheet
        from sfumato.runs.results.record import Place, read_record

        parts = [section(entry, index) for index, entry in enumerate(_entries(files, Pictures(picture, model), names))]
        sheet = Sheet()
        only_one_run = len(runs) == 1 and not files
        for index, run in enumerate(runs):
            parts += sections(read_record(Place(run, store)), sheet, "" if only_one_run else run.resolve().name, index)
        heading = title or (TITLE if files else ", ".join(run.resolve().name for run in runs))
        write_page(page(heading, *parts, style=sheet.style()), out)
        typer.echo(str(out))
    if failed:
        raise typer.Exit(SOME_FAILED)


@dataclass(frozen=True, eq=False)
class ResultFile:
    """The result in a file, and what is known about it."""

    path: Path
    name: str
    """The name of the method."""
    result: "Attribution"
    about: Mapping[str, Any]
    """The result's `about`, with what the summary beside the file says."""

    @property
    def picture(self) -> Path | None:
        """The picture that was explained, if the file names it."""
        path = self.about.get("picture")
        return Path(path) if isinstance(path, str) else None

    @property
    def digest(self) -> str:
        """The hash of the picture's file, if it is known; else empty."""
        made_from = self.about.get("made_from")
        digest = made_from.get("picture") if isinstance(made_from, Mapping) else None
        return digest if isinstance(digest, str) else ""

    def label(self, classifier: "Classifier | None" = None, names: Sequence[str] | None = None) -> str:
        """What was asked: a class, named by `names`, the summary, the score or the classifier; or another question."""
        from sfumato.figures.report.results import target_name

        target, question = self.about.get("target"), self.about.get("question")
        if isinstance(question, str) and not _is_of_class(self.result):
            return question
        if names is not None and target_name(self.result.about, None):
            return self._named(names)
        if not isinstance(target, Mapping) or "label" not in target:
            return target_name(self.result.about, classifier)
        name = str(target["label"]).partition(",")[0]
        return f"{name} ({target['index']})" if "index" in target else name

    def _named(self, names: Sequence[str]) -> str:
        """The class by its name among these. Raises `ValueError` if there are fewer."""
        score = self.result.about["score"]["target"]
        index = score[0] if isinstance(score, list) else score
        if index >= len(names):
            raise ValueError(
                f"--labels has {len(names)} names, but {str(self.path)!r} is about class {index}; give one name for each "
                "class, in the order of the model's outputs"
            )
        return f"{names[index]} ({index})"


def _is_of_class(result: "Attribution") -> bool:
    """Whether the result is about a class alone, and not e.g. about one in a region."""
    from sfumato.scores import OF_A_CLASS

    score = result.about.get("score")
    path = str(score.get("class", "")) if isinstance(score, Mapping) else ""
    return path.rpartition(":")[2] in {kind.__name__ for kind in OF_A_CLASS.values()}


@dataclass(eq=False)
class Pictures:
    """The inputs of models, for files that name their pictures and models. Each model is loaded once."""

    picture: Path | None
    model: str | None
    _classifiers: "dict[tuple[str, Path | None], Classifier | str]" = field(default_factory=dict)

    def shown(self, file: ResultFile) -> "tuple[Tensor | None, Classifier | None, str, float | None]":
        """The inputs `(1, C, H, W)`, the model, and the shape of what it sees of the picture; or the reason why the picture is
        not shown."""
        from sfumato.figures.report.pictures import shape_seen

        path = self.picture or file.picture
        if path is None:
            return None, None, "The picture is not known; name it with --picture.", None
        name = self.model or str(file.about.get("model", ""))
        classifier = self._classifier(name, file.about.get("checkpoint"))
        if isinstance(classifier, str):
            return None, None, classifier, None
        try:
            picture = self._read(path, file)
            inputs = classifier.prepare(picture)[None]
        except ValueError as error:
            return None, classifier, f"The picture is not shown: {error}", None
        if inputs.shape[2:] != file.result.map.shape[2:] and file.result.masks is not None:
            return (
                None,
                classifier,
                "The picture is not shown: the model takes it in another size than the masks have.",
                None,
            )
        return inputs, classifier, "", shape_seen(classifier, picture.size)

    def _read(self, path: Path, file: ResultFile) -> Any:
        """Read the picture. If a file names one that is not there, or is another one there, look in the file's folder.

        Raises `ValueError` if it cannot be read, or if the file knows the hash of its picture and this is another one.
        """
        from sfumato.cli.outputs import digest_of
        from sfumato.data.pictures import read

        if self.picture is not None:
            return read(path)
        places = [place for place in (path, file.path.parent / path.name) if place.exists()]
        fitting = [place for place in places if file.digest in ("", digest_of(place))]
        if places and not fitting:
            raise ValueError(f"{str(places[0])!r} is not the picture that was explained; its content has changed")
        return read(fitting[0] if fitting else path)

    def _classifier(self, name: str, checkpoint_path: Any) -> "Classifier | str":
        """The model, with the weights that a file names if they are there; or the reason why there is none."""
        exists = isinstance(checkpoint_path, str) and Path(checkpoint_path).is_file()
        checkpoint = Path(checkpoint_path) if exists else None
        key = name, checkpoint
        if key not in self._classifiers:
            self._classifiers[key] = self._load(name, checkpoint)
        return self._classifiers[key]

    def _load(self, name: str, checkpoint: Path | None) -> "Classifier | str":
        """Load the model. Code that only a file names is not run: --model must name it too."""
        from sfumato import models
        from sfumato.models.clips import check_takes_pictures

        if not name:
            return "The picture is not shown: the model that prepares it is not known; name it with --model."
        has_source = name in models.NAMES or name.partition(":")[0] in models.SOURCES
        if not has_source and self.model is None:
            return f"The picture is not shown: it needs the model {name!r}; allow it with --model."
        try:
            classifier = models.load(name, checkpoint)
            check_takes_pictures(classifier, "a report")
        except (ValueError, OSError, ImportError) as error:
            if self.model is not None:
                raise
            return f"The picture is not shown: {error}"
        return classifier


def _result_files(sources: Iterator[Path]) -> Iterator[Path]:
    """The files of results: those that are named, and all in the folders that are named."""
    for source in sources:
        if not source.is_dir():
            yield source
            continue
        paths = sorted(source.glob(f"*{SUFFIX}"))
        if not paths:
            raise ValueError(
                f"folder {str(source)!r} has neither a run nor results; expected run.sqlite or {SUFFIX} files in it"
            )
        yield from paths


def _read(paths: Sequence[Path]) -> tuple[list[ResultFile], int]:
    """Read the files; returns how many could not be read, too. Their errors are printed."""
    if not paths:
        return [], 0
    from sfumato.attribution import load
    from sfumato.figures.report.results import method_name

    files, failed = [], 0
    for path in dict.fromkeys(paths):
        try:
            result = load(path)
        except ValueError as error:
            failed += 1
            print_error(error)
            continue
        summary, name = _summary_of(path)
        files.append(ResultFile(path, name or method_name(result), result, {**summary, **result.about}))
    return files, failed


def _summary_of(path: Path) -> tuple[Mapping[str, Any], str]:
    """The JSON summary that belongs to a file, and the name of the file's method if the summary has several."""
    from sfumato.cli.files import slug

    for candidate in sorted(path.parent.glob("*.json")):
        if candidate.stem == path.stem or path.stem.startswith(f"{candidate.stem}-"):
            summary = _read_json(candidate)
            if candidate.stem == path.stem:
                return summary, ""
            methods = summary.get("methods")
            for name in methods if isinstance(methods, Mapping) else ():
                if path.stem == f"{candidate.stem}-{slug(name)}":
                    return {key: value for key, value in summary.items() if key != "methods"}, name
    return {}, ""


def _read_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; empty if it cannot be read."""
    import json

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _entries(files: Sequence[ResultFile], pictures: Pictures, names: Sequence[str] | None = None) -> "Iterator[Entry]":
    """An entry for each query: results of the same picture and class are one entry."""
    from sfumato.figures.report.results import Entry

    groups: dict[tuple[str, ...], list[ResultFile]] = {}
    for file in files:
        for query in range(len(file.result)):
            part = replace(file, result=file.result[query])
            label = part.label(names=names)
            key = (str(file.picture), label) if file.picture and label else (str(file.path), str(query), label)
            groups.setdefault(key, []).append(part)
    for group in groups.values():
        inputs, classifier, reason, shape = pictures.shown(group[0])
        name = (group[0].picture or group[0].path).name
        label = group[0].label(classifier, names)
        yield Entry(_by_name(group), inputs, classifier, f"{name}: {label}" if label else name, reason, shape)


def _by_name(group: Sequence[ResultFile]) -> "dict[str, Attribution]":
    """The results by the names of their methods. If several have the same name, the names of the files are added."""
    names = [file.name for file in group]
    return {
        file.name if names.count(file.name) == 1 else f"{file.name}, {file.path.stem}": file.result for file in group
    }


def _check_out(out: Path) -> None:
    """Raise `ValueError` if the page cannot be written, before the work begins."""
    if out.is_dir():
        raise ValueError(f"--out must be the name of a file; got the folder {str(out)!r}")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"cannot write {str(out)!r}: its folder does not exist; make it, or name another with --out")
