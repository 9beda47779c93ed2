"""The maps of several methods side by side, with the seconds of each method. Also for one method that makes no masks."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from sfumato.cli import summaries
from sfumato.cli.files import slug, write_json
from sfumato.cli.naming import place_at_layer
from sfumato.cli.queries import Batch, Query, Task, summary_of
from sfumato.settings import number

if TYPE_CHECKING:
    from sfumato.attribution import Attribution
    from sfumato.models import Classifier


def compare(task: Task, methods: Mapping[str, Any]) -> None:
    """Run the methods, given by name, on the pictures of a task and draw their maps.

    Quick methods come first, and the result of each is written when it is done. If the methods explain different quantities,
    the titles, the files and the terminal say so.
    """
    from sfumato import plots
    from sfumato.scores import differing, quantity

    classifier, out = task.classifier, task.request.out
    methods = {name: place_at_layer(method, classifier, task.request.model) for name, method in methods.items()}
    difference = ""
    for batch in task.batches(methods=methods):
        outcomes: dict[str, Attribution] = {}
        seconds: dict[str, float] = {}
        for query in batch.queries:
            task.replace(query)
        for name, method in sorted(methods.items(), key=lambda item: _rounds(item[1])):
            outcomes[name], seconds[name] = _explain(name, method, classifier, batch)
            for index, query in enumerate(batch.queries):
                outcomes[name][index].save(out / _file(query, name))
                typer.echo(f"{query.title}: {name} {_seconds_text(seconds[name])}")
        for index, query in enumerate(batch.queries):
            results = {name: outcomes[name][index] for name in methods}
            quantities = {name: quantity(result.about["score"]) for name, result in results.items()}
            difference = differing(quantities)
            titles = [
                f"{name}\n" + (f"{quantities[name]}, " if difference else "") + _seconds_text(seconds[name])
                for name in results
            ]
            figure = plots.comparison(list(results.values()), query.picture, titles, query.title, classifier)
            plots.save(figure, out / f"{query.stem}.png")
            entries = {
                name: {
                    "seconds": number(seconds[name]),
                    "explains": quantities[name],
                    **summaries.about(result, query),
                }
                for name, result in results.items()
            }
            summary = summaries.picture(query, classifier) | {"methods": entries} | summary_of(query)
            write_json(out / f"{query.stem}.json", summary)
            task.written += 1
    if difference:
        typer.echo(f"{difference} --score sets one for all.")


def _file(query: Query, name: str) -> str:
    """The name of the file with the result of a method."""
    return f"{query.stem}-{slug(name)}.safetensors"


def _rounds(method: Any) -> int:
    """About how often a method runs the model, as far as its settings say: quick methods have neither steps nor samples."""
    return max(getattr(method, setting, None) or 1 for setting in ("steps", "samples"))


def _explain(name: str, method: Any, classifier: "Classifier", batch: Batch) -> tuple["Attribution", float]:
    """The result for a batch, and the seconds for one query."""
    from sfumato.cli.progress import progress_bar

    with progress_bar(f"{batch.title}: {name}", left=batch.left) as progress:
        began = time.perf_counter()
        result = method(classifier.net, batch.inputs, batch.targets, progress=progress)
        return result.cpu(), (time.perf_counter() - began) / len(batch.queries)


def _seconds_text(seconds: float) -> str:
    """Seconds, rounded for people.

    >>> _seconds_text(0.0421), _seconds_text(12.34)
    ('0.042 s', '12 s')
    """
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"
