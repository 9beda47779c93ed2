"""One method that makes masks of the picture: a figure, the masks and a summary for each query, and a table on the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli import summaries
from sfumato.cli.files import Names, say_where, write_json
from sfumato.cli.queries import Batch, Query, prepare
from sfumato.cli.tables import console, table
from sfumato.settings import number

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.figures.plots import Curve
    from sfumato.models import Classifier


@dataclass(frozen=True, eq=False)
class Explained:
    """What came of a query."""

    query: Query
    picture: "Tensor"
    result: "Attribution"
    kept: "Tensor"
    """The target's probability under each mask, `(V,)`."""
    search: dict[str, Any] = field(default_factory=dict)
    """What is to be said of the search for the smallest area, if there was one."""
    curve: "Curve | None" = None
    """Of that search."""


def explain_with_masks(
    images: Sequence[Path],
    model: str,
    targets: Sequence[str],
    method: Any,
    out: Path,
    keep: float | None = None,
    sampled: tuple[float, ...] | None = None,
    checkpoint: Path | None = None,
) -> tuple[int, list[Explained]]:
    """Explain all pictures; returns how many failed, and what was found.

    With `keep`, the smallest area that keeps this share of the score is sought, from the areas `sampled` if given.
    """
    from sfumato.cli.progress import progress_bar
    from sfumato.scores import link_of_meaning

    link = link_of_meaning(method.score)
    prepared = prepare(images, model, targets, out, checkpoint, link)
    classifier = prepared.classifier
    method = classifier.placed(method)
    names = Names()
    done: list[Explained] = []
    for batch in prepared.batches():
        with progress_bar(batch.title) as progress:
            found = list(_run(method, classifier, batch, keep, sampled, progress))
        for each in found:
            _write(each, classifier, out, names.unused(each.query.stem), keep)
            _print(each, classifier)
        done += found
    say_where(len(done), out)
    return prepared.failed, done


def _run(
    method: Any,
    classifier: "Classifier",
    batch: Batch,
    keep: float | None,
    sampled: tuple[float, ...] | None,
    progress: Any,
) -> Iterator[Explained]:
    """What comes of each query, with or without the search for the smallest area."""
    search = None
    if keep is None:
        result = method(classifier.net, batch.inputs, batch.targets, progress=progress)
    else:
        from sfumato.methods.sufficient import smallest

        more: dict[str, Any] = {"areas": sampled} if sampled else {}
        search = smallest(method, classifier.net, batch.inputs, batch.targets, keep=keep, progress=progress, **more)
        result = search.attribution
    for index, query in enumerate(batch.queries):
        part = result[index]
        about: dict[str, Any] = {}
        curve = None
        if search is not None and keep is not None:
            from sfumato.figures.report.numbers import told

            part = replace(part, areas=part.achieved[0].clone())  # the search asked each query for its own area
            about = {"smallest": told(search[index], keep)}
            curve = (search.curve_areas, search.curve_scores[index])
        kept = _probabilities(method, classifier, query, part)
        yield Explained(query, classifier.restore(query.inputs), part, kept, about, curve)


def _probabilities(method: Any, classifier: "Classifier", query: Query, result: "Attribution") -> "Tensor":
    """The target's probability under each mask, `(V,)`; under several perturbations the mean."""
    import torch

    from sfumato.scores import link_of_meaning, probabilities

    masks = result.masks[0]  # type: ignore[index]  # the method makes them
    places = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    with torch.no_grad():
        outputs = [
            probabilities(
                classifier.logits(perturbation(query.inputs[None])(masks, places)), link_of_meaning(method.score)
            )[:, query.target]
            for perturbation in method.used_perturbations()
        ]
    return torch.stack(outputs).mean(0)


def _write(each: Explained, classifier: "Classifier", out: Path, stem: str, keep: float | None) -> None:
    """The figure, the masks with their story, and the summary, which adds the numbers."""
    from sfumato import plots

    picture = summaries.picture(each.query, classifier)
    story = picture | each.search | summaries.about(each.result, each.query)
    numbers = {
        "whole": number(each.result.whole),
        "blank": number(each.result.blank),
        "areas": summaries.areas(each.result, each.kept),
    }
    drawn = plots.figure(
        each.result, each.picture, title=each.query.title, keep=keep, curve=each.curve, classifier=classifier
    )
    plots.save(drawn, out / f"{stem}.png")
    replace(each.result, about=story).save(out / f"{stem}.safetensors")
    write_json(out / f"{stem}.json", picture | numbers | story)


def _print(each: Explained, classifier: "Classifier") -> None:
    """The top classes, what each mask keeps, and what came of the search."""
    from rich.table import Table

    from sfumato.data import labels
    from sfumato.figures.plots import percent

    query, screen = each.query, console()
    screen.print(f"{query.source}: {query.label} ({query.target})", style="bold", soft_wrap=True)
    before = table("top classes", "probability")
    for index, probability in query.top:
        before.add_row(labels.synonyms(classifier.labels[index])[0], percent(probability))
    after = table("area", "score", "of whole", "probability")
    after.add_row("whole", f"{float(each.result.whole):.2f}", "", percent(float(query.probabilities[query.target])))  # type: ignore[arg-type]
    for row in summaries.areas(each.result, each.kept):
        score = "–" if row["score"] is None else f"{row['score']:.2f}"
        after.add_row(percent(row["achieved"]), score, percent(row["share_kept"]), percent(row["probability_kept"]))
    both = Table.grid(padding=(0, 4))
    both.add_row(before, after)
    screen.print(both)
    if "smallest" in each.search:
        keep, area = percent(each.search["smallest"]["keep"]), each.search["smallest"]["area"]
        if area is None:
            screen.print(f"No area reaches {keep} of the score; the mask that came nearest is shown.")
        else:
            screen.print(f"The smallest area that keeps {keep} of the score: {percent(area)} of the input.")
            if float(each.result.blank) >= each.search["smallest"]["keep"] * float(each.result.whole):  # type: ignore[arg-type]
                screen.print("The wholly perturbed picture keeps as much: this area says nothing of the picture.")
    screen.print()
