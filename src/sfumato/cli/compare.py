"""The maps of several methods side by side, with the seconds of each method. Also for one method that makes no masks."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sfumato.cli import summaries
from sfumato.cli.files import Names, print_folder, slug, write_json
from sfumato.cli.naming import place_at_layer
from sfumato.cli.queries import Batch, prepare
from sfumato.settings import number

if TYPE_CHECKING:
    from sfumato.attribution import Attribution
    from sfumato.models import Classifier


def compare(
    images: Sequence[Path],
    model: str,
    targets: Sequence[str],
    methods: Mapping[str, Any],
    out: Path,
    checkpoint: Path | None = None,
    labels: Path | None = None,
) -> int:
    """Run the methods, given by name, on all pictures and draw their maps; returns how many pictures failed.

    `labels` is a file with names of classes.

    If the methods explain different quantities, the titles, the files and the terminal say so.
    """
    from sfumato import plots
    from sfumato.scores import AUTO, SIGMOID, differing, link_of_meaning, quantity

    links = {link_of_meaning(method.score) for method in methods.values()}
    task = prepare(images, model, targets, out, checkpoint, SIGMOID if SIGMOID in links else AUTO, labels)
    classifier = task.classifier
    methods = {name: place_at_layer(method, classifier, model) for name, method in methods.items()}
    names, difference = Names(), ""
    for batch in task.batches():
        outcomes = {name: _explain(name, method, classifier, batch) for name, method in methods.items()}
        seconds = {name: duration for name, (_, duration) in outcomes.items()}
        for index, query in enumerate(batch.queries):
            results = {name: result[index] for name, (result, _) in outcomes.items()}
            stem = names.unused(query.stem)
            quantities = {name: quantity(result.about["score"]) for name, result in results.items()}
            difference = differing(quantities)
            titles = [
                f"{name}\n" + (f"{quantities[name]}, " if difference else "") + _seconds_text(seconds[name])
                for name in results
            ]
            figure = plots.comparison(list(results.values()), classifier.restore(query.inputs), titles, query.title)
            plots.save(figure, out / f"{stem}.png")
            for name, result in results.items():
                result.save(out / f"{stem}-{slug(name)}.safetensors")
            entries = {
                name: {
                    "seconds": number(seconds[name]),
                    "explains": quantities[name],
                    **summaries.about(result, query),
                }
                for name, result in results.items()
            }
            write_json(out / f"{stem}.json", summaries.picture(query, classifier) | {"methods": entries})
            times = (f"{name} {_seconds_text(duration)}" for name, duration in seconds.items())
            typer.echo(f"{query.title}: {', '.join(times)}")
    if difference:
        typer.echo(f"{difference} --score sets one for all.")
    print_folder(len(task.queries), out)
    return task.failed


def _explain(name: str, method: Any, classifier: "Classifier", batch: Batch) -> tuple["Attribution", float]:
    """The result for a batch, and the seconds for one query."""
    from sfumato.cli.progress import progress_bar

    with progress_bar(name) as progress:
        began = time.perf_counter()
        result = method(classifier.net, batch.inputs, batch.targets, progress=progress)
        return result, (time.perf_counter() - began) / len(batch.queries)


def _seconds_text(seconds: float) -> str:
    """Seconds, rounded for people.

    >>> _seconds_text(0.0421), _seconds_text(12.34)
    ('0.042 s', '12 s')
    """
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"
