"""A report on what methods found: a section for each query, with a panel for each method."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.data.labels import synonyms
from sfumato.figures.panels import deletes
from sfumato.figures.report.encoded import jpeg
from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.page import page, write_page
from sfumato.figures.report.panel import VIEWS, Panel
from sfumato.figures.report.shown import AS_SEEN, batch, perturbed, restored
from sfumato.methods.sufficient import SmallestArea
from sfumato.models import Classifier
from sfumato.scores import differing, quantity
from sfumato.settings import is_whole

TITLE = "What the network needs to see"

Result = Attribution | SmallestArea


@dataclass(frozen=True, eq=False)
class Entry:
    """One query, and what each method found of it, by name."""

    results: Mapping[str, Result]
    """Of this query alone."""
    inputs: Tensor | None = None
    """`(1, C, H, W)`."""
    classifier: Classifier | None = None
    label: str = ""
    note: str = ""
    """What else is to be said, e.g. why there is no picture."""


def html(
    result: Result | Mapping[str, Result],
    inputs: Any = None,
    classifier: Classifier | None = None,
    label: str | Sequence[str] | None = None,
    title: str = TITLE,
) -> str:
    """A page that needs nothing but itself: a section for each query, in which a slider moves through its masks.

    `result` is what a method found, or `smallest`, or several of them by name, which stand side by side. `inputs` are what the
    model was shown, `(B, C, H, W)`, from which `classifier` restores the pictures; without a classifier they are pictures
    themselves, grey or RGB in [0, 1] or of 8 bits, and with `None` there are masks alone. PIL pictures serve, too, one or a
    list of them: `classifier` prepares them. `label` names what is explained, one for all or
    one for each query; otherwise the classes that the result tells are named.
    """
    return page(title, *(section(each, place) for place, each in enumerate(entries(result, inputs, classifier, label))))


def write(
    path: str | os.PathLike[str],
    result: Result | Mapping[str, Result],
    inputs: Any = None,
    classifier: Classifier | None = None,
    label: str | Sequence[str] | None = None,
    title: str = TITLE,
) -> None:
    """As `html`, to a file, whole or not at all."""
    write_page(html(result, inputs, classifier, label, title), path)


def entries(
    result: Result | Mapping[str, Result],
    inputs: Any = None,
    classifier: Classifier | None = None,
    label: str | Sequence[str] | None = None,
) -> list[Entry]:
    """What `html` shows, query by query. Raises `ValueError` where the parts do not fit."""
    results = dict(result) if isinstance(result, Mapping) else {method_name(result): result}
    if not results:
        raise ValueError("a report needs a result; got none")
    counts = {name: len(attribution(each)) for name, each in results.items()}
    count = next(iter(counts.values()))
    if set(counts.values()) != {count}:
        raise ValueError(f"results side by side must be of the same queries; got {counts}")
    inputs = None if inputs is None else batch(inputs, classifier)
    if inputs is not None and len(inputs) != count:
        raise ValueError(f"inputs must be the {count} that the result explains; got {len(inputs)}")
    labels = [label] * count if isinstance(label, str) else label
    if labels is not None and len(labels) != count:
        raise ValueError(f"label must be one for each of the {count} queries, or one for all; got {len(labels)}")
    made = []
    for query in range(count):
        parts = {name: each[query] for name, each in results.items()}
        first = attribution(next(iter(parts.values())))
        named = target_name(first.about, classifier) if labels is None else labels[query]
        made.append(Entry(parts, None if inputs is None else inputs[query : query + 1], classifier, named))
    return made


def section(entry: Entry, place: int) -> Html:
    """One query; `place` is its own in the page."""
    picture = None if entry.inputs is None else restored(entry.inputs, entry.classifier)[0]
    panels = []
    for name, each in entry.results.items():
        result = attribution(each)
        hidden, note = None, ""
        if entry.inputs is not None and result.masks is not None and result.activation is None:
            try:
                hidden = perturbed(result, entry.inputs, entry.classifier)
                note = hidden.note
            except ValueError as error:
                note = str(error)
        panels.append(Panel(name, result, each if isinstance(each, SmallestArea) else None, picture, hidden, note))
    identity = f"q{place}"
    head = entry.label or f"query {place + 1}"
    parts: list[Html | None] = [tag("h2", head, id=identity), tag("p", entry.note) if entry.note else None]
    scores = {name: attribution(each).about.get("score") for name, each in entry.results.items()}
    said = differing({name: quantity(score) for name, score in scores.items() if score is not None})
    parts.append(tag("p", said) if said else None)
    if picture is not None:
        parts.append(
            tag("div", tag("img", src=jpeg(picture), alt=f"The input: {head}", data_role="picture"), class_="sources")
        )
    parts.append(_controls(panels, identity))
    drawn = [panel.html(f"{identity}-{number}") for number, panel in enumerate(panels)]
    parts.append(tag("div", *drawn, class_="panels"))
    return tag("section", *parts, class_="query", aria_labelledby=identity)


def _controls(panels: Sequence[Panel], identity: str) -> Html | None:
    """How the masks are shown: one choice for all panels."""
    offered = [name for name in VIEWS if any(name in panel.views() for panel in panels)]
    hidden = {panel.perturbed.name for panel in panels if panel.perturbed} or {VIEWS["seen"]}
    names = VIEWS | {"seen": hidden.pop() if len(hidden) == 1 else AS_SEEN}
    parts: list[Html] = []
    if len(offered) > 1:
        choices = [
            tag(
                "label",
                tag("input", type="radio", name=f"{identity}-view", value=name, checked=name == offered[0]),
                names[name],
            )
            for name in offered
        ]
        parts.append(tag("fieldset", tag("legend", "Show"), *choices))
    if "black" in offered:
        dropped = all(deletes(panel.result) for panel in panels if "black" in panel.views())
        parts.append(tag("label", tag("input", type="checkbox", data_role="rest", checked=dropped), "all but the mask"))
    if sum(panel.slides for panel in panels) > 1:
        parts.append(
            tag("label", tag("input", type="checkbox", data_role="together", checked=True), "the same area for all")
        )
    return tag("div", *parts, class_="controls") if parts else None


def attribution(result: Result) -> Attribution:
    return result.attribution if isinstance(result, SmallestArea) else result


def method_name(result: Result) -> str:
    """The class of the method that made it, if the result tells."""
    told = attribution(result).method.get("class")
    return str(told).rpartition(":")[2] if told else "result"


def target_name(about: Mapping[str, Any], classifier: Classifier | None) -> str:
    """The class that was explained of one query, by its name where that is known; nothing where the score is of no class, or
    where several are told, as by the part of a batch in old files."""
    score = about.get("score")
    target = score.get("target") if isinstance(score, Mapping) else None
    if isinstance(target, list):
        target = target[0] if len(target) == 1 else None
    if not is_whole(target):
        return ""
    if classifier is None or not 0 <= target < len(classifier.labels):
        return f"class {target}"
    return f"{synonyms(classifier.labels[target])[0]} ({target})"
