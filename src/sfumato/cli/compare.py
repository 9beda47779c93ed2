"""Several methods, or one that makes no masks: their maps of each query side by side, with the time that each took."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sfumato.cli import summaries
from sfumato.cli.files import Names, say_where, slug, write_json
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
) -> int:
    """Run the methods, by name, on all pictures and draw their maps; returns how many pictures failed.

    Where they explain different quantities, the pictures' titles, the files and the terminal say so.
    """
    from sfumato import plots
    from sfumato.scores import AUTO, SIGMOID, differing, link_of_meaning, quantity

    links = {link_of_meaning(method.score) for method in methods.values()}
    prepared = prepare(images, model, targets, out, checkpoint, SIGMOID if SIGMOID in links else AUTO)
    classifier = prepared.classifier
    methods = {name: classifier.placed(method) for name, method in methods.items()}
    names, difference = Names(), ""
    for batch in prepared.batches():
        found = {name: _timed(name, method, classifier, batch) for name, method in methods.items()}
        seconds = {name: each for name, (_, each) in found.items()}
        for place, query in enumerate(batch.queries):
            results = {name: result[place] for name, (result, _) in found.items()}
            stem = names.unused(query.stem)
            quantities = {name: quantity(result.about["score"]) for name, result in results.items()}
            difference = differing(quantities)
            heads = [
                f"{name}\n" + (f"{quantities[name]}, " if difference else "") + _duration(seconds[name])
                for name in results
            ]
            drawn = plots.comparison(list(results.values()), classifier.restore(query.inputs), heads, query.title)
            plots.save(drawn, out / f"{stem}.png")
            for name, result in results.items():
                result.save(out / f"{stem}-{slug(name)}.safetensors")
            told = {
                name: {
                    "seconds": number(seconds[name]),
                    "explains": quantities[name],
                    **summaries.about(result, query),
                }
                for name, result in results.items()
            }
            write_json(out / f"{stem}.json", summaries.picture(query, classifier) | {"methods": told})
            typer.echo(f"{query.title}: " + ", ".join(f"{name} {_duration(each)}" for name, each in seconds.items()))
    if difference:
        typer.echo(f"{difference} --score sets one for all.")
    say_where(len(prepared.queries), out)
    return prepared.failed


def _timed(name: str, method: Any, classifier: "Classifier", batch: Batch) -> tuple["Attribution", float]:
    """The result for the queries, and the seconds that each took."""
    from sfumato.cli.progress import progress_bar

    with progress_bar(name) as progress:
        began = time.perf_counter()
        result = method(classifier.net, batch.inputs, batch.targets, progress=progress)
        return result, (time.perf_counter() - began) / len(batch.queries)


def _duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> _duration(0.0421), _duration(12.34)
    ('0.042 s', '12 s')
    """
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"
