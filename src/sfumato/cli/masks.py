"""Explanations by one method that makes masks: a figure, the masks and a summary for each query, and tables on the terminal."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sfumato.cli import evidence, summaries
from sfumato.cli.evidence import Wanted
from sfumato.cli.files import write_json
from sfumato.cli.naming import place_at_layer
from sfumato.cli.queries import Batch, Query, Task, summary_of
from sfumato.cli.tables import AGREE, OF_CLASS, OF_TARGET, console, table
from sfumato.settings import number, percent

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.attribution import Attribution
    from sfumato.figures.plots import Curve
    from sfumato.models import Classifier


LEFT, KEPT = ("score_left", "worth_left", "probability_left"), ("score", "worth", "probability_kept")
"""The numbers of a mask in its summary: of what it leaves, in the deletion game, and of what it keeps."""

WIDE = 1000
"""More characters than any table has in a line."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """A query with its result."""

    query: Query
    result: "Attribution"
    probabilities: "Tensor | None"
    """The target's probability under each mask, `(V,)`, if it is a class."""
    whole_probability: float | None = None
    """The same for the whole picture."""
    search: dict[str, Any] = field(default_factory=dict)
    """The summary of the search for the smallest area, if there was one."""
    curve: "Curve | None" = None
    """The curve of that search."""


def explain_with_masks(
    task: Task,
    method: Any,
    keep: float | None = None,
    first_areas: tuple[float, ...] | None = None,
    alternatives: bool = False,
    wanted: Wanted = Wanted(),  # it cannot change
) -> Iterator[Explanation]:
    """Explain the pictures of a task, and write and print each result when it is done.

    With `keep`, it searches for the smallest area that keeps this share of the score. The search begins with `first_areas`.
    `alternatives` draws what each restart of the search found; `wanted` is the evidence that is written beside it.
    """
    from sfumato.cli.progress import progress_bar

    classifier = task.classifier
    method = place_at_layer(method, classifier, task.request.model)
    smallest = None if keep is None else {"keep": keep, "areas": first_areas}
    certify, others = wanted.certify(classifier, method), wanted.others(classifier)
    # Only if there is one, so that results without a certificate are known as the same as before.
    more = {"certificate": evidence.key_of(certify, wanted.key)} if certify else {}
    for batch in task.batches(method=method, smallest=smallest, **more):
        evidence.check_others(others, batch.inputs)
        with progress_bar(batch.title, left=batch.left) as progress:
            group = list(_explain_batch(method, classifier, batch, keep, first_areas, progress))
        for index, explanation in enumerate(group):
            inputs = batch.inputs[index : index + 1]
            query, certificate = explanation.query, None
            task.replace(query)
            if certify is not None:
                certificate = evidence.certificate_of(certify, explanation.result, classifier, inputs, query, others)
                explanation.search["certificate"] = certificate.summary()
                evidence.write(certificate, query, classifier, task.request.out)
            else:
                evidence.forget(query, task.request.out)
            _write(explanation, classifier, task.request.out, keep, alternatives)
            task.written += 1
            _print(explanation, classifier)
            if certificate is not None:
                typer.echo(str(certificate))
            if hint := _no_restarts(method, explanation.result, alternatives, keep is not None):
                console().print(hint, soft_wrap=True)
            yield explanation


def _no_restarts(method: Any, result: "Attribution", alternatives: bool, smallest: bool) -> str:
    """Why the result has no restarts that agree, and how to get some; empty if it has, or if nobody would expect them.

    They are expected of a search for given areas by an ascent that can have restarts, and where --alternatives asks for them.
    """
    fewest = getattr(getattr(method, "ascent", None), "fewest", None) if getattr(method, "jitter", None) else None
    if result.agreement is not None or not (alternatives or (fewest and not smallest)):
        return ""
    if smallest:
        return "No alternatives: the mask of the smallest area comes from one run. Write --areas without --smallest."
    if fewest is None or method.steps >= fewest:
        return "No alternatives: with these settings the search has no restarts." if alternatives else ""
    return (
        f"No agreement and no alternatives: {method.steps} steps are too few for a search with restarts. Write --steps "
        f"{fewest} or more."
    )


def _explain_batch(
    method: Any,
    classifier: "Classifier",
    batch: Batch,
    keep: float | None,
    first_areas: tuple[float, ...] | None,
    progress: Any,
) -> Iterator[Explanation]:
    """Explain the queries of a batch, with or without the search for the smallest area."""
    search = None
    if keep is None:
        result = method(classifier.net, batch.inputs, batch.targets, progress=progress)
    else:
        from sfumato.methods.sufficient import smallest

        options: dict[str, Any] = {"areas": first_areas} if first_areas else {}
        search = smallest(method, classifier.net, batch.inputs, batch.targets, keep=keep, progress=progress, **options)
        result = search.attribution
    for index, query in enumerate(batch.queries):
        part = result[index].cpu()
        about: dict[str, Any] = {}
        curve = None
        if search is not None and keep is not None:
            from sfumato.figures.report.numbers import search_summary

            part = replace(part, areas=part.achieved[0].clone())  # each query has an area of its own
            about = {"smallest": search_summary(search[index], keep)}
            curve = (search.curve_areas.cpu(), search.curve_scores[index].cpu())
        probabilities, whole = None, None
        if query.asked.has_probability and query.probabilities is not None:
            probabilities = _probabilities(method, classifier, batch.inputs[index], query.target, result[index]).cpu()
            whole = float(query.probabilities[query.target])
        yield Explanation(query, part, probabilities, whole, about, curve)


def _probabilities(
    method: Any, classifier: "Classifier", inputs: "Tensor", target: int, result: "Attribution"
) -> "Tensor":
    """The target's probability under each mask, `(V,)`; the mean if the method has several perturbations.

    In the deletion game a mask marks what is removed, and the probability is that of the rest.
    """
    import torch

    from sfumato.figures.panels import deletes
    from sfumato.scores import link_of_meaning, probabilities

    masks = result.masks[0]  # type: ignore[index]  # the method makes them
    masks = 1 - masks if deletes(result) else masks
    rows = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    link = classifier.probability_link(link_of_meaning(method.score))
    with torch.no_grad():
        outputs = [
            probabilities(classifier.logits(perturbation(inputs[None])(masks, rows)), link)[:, target]
            for perturbation in method.used_perturbations()
        ]
    return torch.stack(outputs).mean(0)


def _write(
    explanation: Explanation, classifier: "Classifier", out: Path, keep: float | None, alternatives: bool
) -> None:
    """Write the figure, the result with its `about`, and the summary, which has the numbers too."""
    from sfumato import plots

    query, result = explanation.query, explanation.result
    stem = query.stem
    picture = summaries.picture(query, classifier)
    about = picture | explanation.search | summaries.about(result, query)
    numbers = {
        "whole": number(result.whole),
        "blank": number(result.blank),
        "areas": summaries.areas(result, explanation.probabilities),
    }
    figure = plots.figure(
        result,
        query.picture,
        title=query.title,
        keep=keep,
        curve=explanation.curve,
        classifier=classifier,
        alternatives=alternatives and result.alternatives is not None,
        probabilities=explanation.probabilities,
        whole_probability=explanation.whole_probability,
        at_most=explanation.search.get("smallest", {}).get("area") is not None,
    )
    plots.save(figure, out / f"{stem}.png")
    replace(result, about=about).save(out / f"{stem}.safetensors")
    write_json(out / f"{stem}.json", picture | numbers | about | summary_of(query))


def _print(explanation: Explanation, classifier: "Classifier") -> None:
    """Print the top classes, what each mask keeps, and the outcome of the search."""
    from rich.table import Table

    from sfumato.data import labels
    from sfumato.evidence.claim import NOTHING
    from sfumato.figures.panels import deletes, name_of_score

    query, result, terminal = explanation.query, explanation.result, console()
    terminal.print(f"{query.source}: {query.asked.caption}", style="bold", soft_wrap=True)
    classes = table("top classes", OF_CLASS)
    for index, probability in query.top:
        classes.add_row(labels.synonyms(classifier.labels[index])[0], percent(probability))
    chances = [] if explanation.probabilities is None else [OF_TARGET]
    agreement = [] if result.agreement is None else [AGREE]
    removed = deletes(result)
    name = name_of_score(result)
    masks = table("removed" if removed else "shown", name, "worth", *chances, *agreement, score=name)
    everything, nothing = ("none", "all") if removed else ("all", "none")
    whole, blank = float(result.whole), float(result.blank)  # type: ignore[arg-type]
    of_picture = [percent(explanation.whole_probability)] if chances else []
    rows = summaries.areas(result, explanation.probabilities)
    has_worth = any(row["worth"] is not None for row in rows)
    masks.add_row(everything, f"{whole:.2f}", percent(1.0 if has_worth else None), *of_picture)
    masks.add_row(nothing, f"{blank:.2f}", percent(0.0 if has_worth else None))
    for row in rows:
        score, worth, chance = (row.get(name) for name in (LEFT if removed else KEPT))
        cells = [
            percent(row["achieved"]),
            "–" if score is None else f"{score:.2f}",
            percent(worth),
            *([percent(chance)] if chances else []),
        ]
        agreed = row.get("agreement")
        masks.add_row(*cells, *([percent(None if agreed is None else round(agreed, 2))] if agreement else []))
    columns = Table.grid(padding=(0, 3))
    shown = [classes, masks] if query.top else [masks]
    columns.add_row(*shown)
    wide = terminal.measure(columns, options=terminal.options.update(width=WIDE)).maximum <= terminal.width
    for part in (columns,) if wide or not query.top else (classes, "", masks):
        terminal.print(part)
    if not has_worth:
        terminal.print(NOTHING, soft_wrap=True)
    if search := explanation.search.get("smallest"):
        keep, area = percent(search["keep"]), search["area"]
        if area is None:
            terminal.print(f"No area reaches {keep} of the score; the mask that comes nearest is shown.")
        else:
            terminal.print(f"The smallest area that keeps {keep} of the score: at most {percent(area)} of the input.")
            if float(result.blank) >= search["keep"] * float(result.whole):  # type: ignore[arg-type]
                terminal.print(
                    "The fully perturbed picture keeps as much, so this area says nothing about the picture."
                )
    terminal.print()
