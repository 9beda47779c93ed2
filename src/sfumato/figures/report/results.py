"""A report about results: a section for each query, with a panel for each method."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.data.labels import synonyms
from sfumato.figures.panels import deletes
from sfumato.figures.report.encoding import jpeg
from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.page import page, write_page
from sfumato.figures.report.panel import VIEWS, Panel
from sfumato.figures.report.pictures import AS_SEEN, batch, no_strip, perturbed_levels, restore, shape_seen
from sfumato.methods.sufficient import SmallestArea
from sfumato.models import Classifier
from sfumato.scores import differing, quantity
from sfumato.settings import is_whole

TITLE = "What the network needs to see"

Result = Attribution | SmallestArea


SAME_SHAPE = 0.01
"""How far, as a share, two shapes may differ that look alike."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A query, with the results of methods by name."""

    results: Mapping[str, Result]
    """The results of this query only."""
    inputs: Shaped[Tensor, "1 ..."] | None = None
    """`(1, C, H, W)` if they are pictures."""
    classifier: Classifier | None = None
    label: str = ""
    note: str = ""
    """A sentence about the query, such as the reason why there is no picture."""
    shape: float | None = None
    """The width, by the height, of what the network sees of the picture; `None` for that of its input."""


def html(
    result: Result | Mapping[str, Result],
    inputs: Any = None,
    classifier: Classifier | None = None,
    label: str | Sequence[str] | None = None,
    title: str = TITLE,
) -> str:
    """A self-contained HTML page with a section for each query, in which a slider moves through the masks.

    - `result`: the result of a method or of `smallest`, or several by name, which are shown side by side.
    - `inputs`: the inputs of the model `(B, C, H, W)`, from which `classifier` restores the pictures; or PIL pictures, one or a
      list, which it prepares. Without a classifier they are pictures, grey or RGB in [0, 1] or of 8 bits. With `None`, only
      masks are shown.
    - `label`: the name of what is explained, one for all queries or one for each. By default, it is the class in the result.

    Raises `ValueError` if these do not belong together.
    """
    parts = [section(entry, index) for index, entry in enumerate(entries(result, inputs, classifier, label))]
    return page(title, *parts)


def write(
    path: str | os.PathLike[str],
    result: Result | Mapping[str, Result],
    inputs: Any = None,
    classifier: Classifier | None = None,
    label: str | Sequence[str] | None = None,
    title: str = TITLE,
) -> None:
    """Write the page of `html` to a file, completely or not at all. Raises `OSError`."""
    write_page(html(result, inputs, classifier, label, title), path)


def entries(
    result: Result | Mapping[str, Result],
    inputs: Any = None,
    classifier: Classifier | None = None,
    label: str | Sequence[str] | None = None,
) -> list[Entry]:
    """The queries of `html`. Raises `ValueError` if the arguments do not belong together."""
    results = dict(result) if isinstance(result, Mapping) else {method_name(result): result}
    if not results:
        raise ValueError("a report needs a result; got none")
    counts = {name: len(attribution(value)) for name, value in results.items()}
    count = next(iter(counts.values()))
    if set(counts.values()) != {count}:
        raise ValueError(f"all results must have the same queries; got these numbers of queries: {counts}")
    shapes = _shapes(inputs, classifier)
    inputs = None if inputs is None else batch(inputs, classifier)
    if inputs is not None and len(inputs) != count:
        raise ValueError(f"inputs must be those of the result's {count} queries; got {len(inputs)}")
    labels = [label] * count if isinstance(label, str) else label
    if labels is not None and len(labels) != count:
        raise ValueError(f"label must be one for each of the {count} queries, or one for all; got {len(labels)}")
    per_query = []
    for query in range(count):
        parts = {name: value[query] for name, value in results.items()}
        first = attribution(next(iter(parts.values())))
        name = target_name(first.about, classifier) if labels is None else labels[query]
        own = None if inputs is None else inputs[query : query + 1]
        shape = shapes[query] if shapes else no_strip(first.about.get("shapes", [None])[0])
        per_query.append(Entry(parts, own, classifier, name, shape=shape))
    return per_query


def _shapes(inputs: Any, classifier: Classifier | None) -> list[float | None]:
    """The shape of what the network sees of each picture; empty where inputs are no pictures."""
    pictures = inputs if isinstance(inputs, list | tuple) else [inputs]
    if not all(isinstance(picture, Image.Image) for picture in pictures):
        return []
    return [shape_seen(classifier, picture.size) for picture in pictures]


def section(entry: Entry, index: int, identity: str | None = None) -> Html:
    """The section of a query; `index` is its number in the page, from 0. `identity` is unique in the page, by default of it."""
    picture = None if entry.inputs is None else restore(entry.inputs, entry.classifier)[0]
    panels = []
    for name, value in entry.results.items():
        result = attribution(value)
        levels, note = None, ""
        if entry.inputs is not None and result.masks is not None and result.activation is None:
            try:
                levels = perturbed_levels(result, entry.inputs, entry.classifier)
                note = levels.note
            except ValueError as error:
                note = str(error)
        panels.append(Panel(name, result, value if isinstance(value, SmallestArea) else None, picture, levels, note))
    identity = identity or f"q{index}"
    heading = entry.label or f"query {index + 1}"
    parts: list[Html | None] = [tag("h2", heading, id=identity), tag("p", entry.note) if entry.note else None]
    scores = {name: attribution(value).about.get("score") for name, value in entry.results.items()}
    warning = differing({name: quantity(score) for name, score in scores.items() if score is not None})
    parts.append(tag("p", warning) if warning else None)
    if picture is not None:
        image = tag("img", src=jpeg(picture), alt=f"The input: {heading}", data_role="picture")
        parts.append(tag("div", image, class_="sources"))
    parts.append(_controls(panels, identity))
    articles = [panel.html(f"{identity}-{number}") for number, panel in enumerate(panels)]
    parts.append(tag("div", *articles, class_="panels"))
    return tag(
        "section", *parts, class_="query", aria_labelledby=identity, data_shape=_other_shape(entry.shape, picture)
    )


def _other_shape(shape: float | None, picture: Float[Tensor, "3 H W"] | None) -> float | None:
    """The shape in which the picture was before its preparation, if that is another one than the input's."""
    if shape is None or picture is None:
        return None
    height, width = picture.shape[1:]
    return None if math.isclose(shape, width / height, rel_tol=SAME_SHAPE) else shape


def _controls(panels: Sequence[Panel], identity: str) -> Html | None:
    """The controls of all panels: how the masks are shown."""
    views = [name for name in VIEWS if any(name in panel.views() for panel in panels)]
    perturbations = {panel.perturbed.name for panel in panels if panel.perturbed} or {VIEWS["seen"]}
    titles = VIEWS | {"seen": perturbations.pop() if len(perturbations) == 1 else AS_SEEN}
    parts: list[Html] = []
    if len(views) > 1:
        choices = [
            tag(
                "label",
                tag("input", type="radio", name=f"{identity}-view", value=name, checked=name == views[0]),
                titles[name],
            )
            for name in views
        ]
        parts.append(tag("fieldset", tag("legend", "Show"), *choices))
    if "black" in views:
        inverted = all(deletes(panel.result) for panel in panels if "black" in panel.views())
        checkbox = tag("input", type="checkbox", data_role="rest", checked=inverted)
        parts.append(tag("label", checkbox, "all but the mask"))
    if sum(panel.slides for panel in panels) > 1:
        parts.append(
            tag("label", tag("input", type="checkbox", data_role="together", checked=True), "the same area for all")
        )
    return tag("div", *parts, class_="controls") if parts else None


def attribution(result: Result) -> Attribution:
    """The attribution of a result; of a search for the smallest area, that of its mask."""
    return result.attribution if isinstance(result, SmallestArea) else result


def method_name(result: Result) -> str:
    """The class of the method, if the result names it."""
    path = attribution(result).method.get("class")
    return str(path).rpartition(":")[2] if path else "result"


def target_name(about: Mapping[str, Any], classifier: Classifier | None) -> str:
    """The name or index of the class that was explained, from the `about` of one query.

    Empty if the score is not of a class, or if there are several classes, as in old files with a part of a batch.
    """
    score = about.get("score")
    target = score.get("target") if isinstance(score, Mapping) else None
    if isinstance(target, list):
        target = target[0] if len(target) == 1 else None
    if not is_whole(target):
        return ""
    if classifier is not None and 0 <= target < len(classifier.labels):
        return f"{synonyms(classifier.labels[target])[0]} ({target})"
    named = about.get("labels")  # of a result that a `Classifier` gave
    return f"{synonyms(named[0])[0]} ({target})" if isinstance(named, list) and len(named) == 1 else f"class {target}"
