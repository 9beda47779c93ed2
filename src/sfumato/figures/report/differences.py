"""A page about two networks: what both see for the same questions, the pictures that differ most first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.evidence.limits import Limit
from sfumato.evidence.two_models import Differences
from sfumato.figures.report.encoding import jpeg
from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.page import page, scrollable
from sfumato.metrics.estimate import Estimate
from sfumato.settings import percent

MEANINGS = {
    "answer": "both answer the same class",
    "iou": "the two networks' sets: intersection over union",
    "iou_self": "the same of the first network with itself, at another seed",
    "kept": "what the first one's sets are worth to the second, as a share of its own sets",
    "kept_back": "what the second one's sets are worth to the first, as a share of its own sets",
    "kept_self": "what the first one's sets at another seed are worth to itself, as a share of its own sets",
    "changed": "the same answer, for another reason",
    "new": "the share of the second one's sets that is new, beyond chance",
    "grew": "how much larger a set the second one needs, as a share of the picture",
}
"""What the measures are, in words."""

STYLE = """
.differences { display: flex; flex-wrap: wrap; gap: 0.5rem; }
.differences figure { margin: 0; width: 9rem; }
.differences img { width: 100%; height: auto; }
"""

MOST = 40
"""Pictures on a page, at most."""


@dataclass(frozen=True, eq=False)
class Compared:
    """One picture: what it is called, its pixels, what the two networks see in it, and the names of the answers."""

    name: str
    picture: Float[Tensor, "3 H W"]
    differences: Differences
    """Of this picture alone."""
    labels: tuple[str, str]

    @property
    def row(self) -> Mapping[str, float]:
        """What is measured of it."""
        return self.differences.rows()[0]

    @property
    def likeness(self) -> float:
        """How much of the sets' worth both networks share: low where they differ most."""
        return min(self.row["kept"], self.row["kept_back"]) - (1 - self.row["answer"])


def differences_page(
    compared: Sequence[Compared],
    summary: Mapping[str, Estimate],
    names: tuple[str, str],
    broken: Sequence[Limit] = (),
    limits: Sequence[Limit] = (),
) -> str:
    """The page; `names` are those of the networks, `broken` the limits that the comparison does not keep."""
    if broken:
        verdict = f"Fails: {'; '.join(map(str, broken))}."
    elif limits:
        verdict = "All limits are kept."
    else:
        verdict = "No limits were given."
    ordered = sorted(compared, key=lambda one: one.likeness)
    shown = ordered[:MOST]
    left = f" The {MOST} that differ most are shown." if len(ordered) > MOST else ""
    return page(
        f"{names[0]} and {names[1]}",
        tag("p", tag("strong", verdict), f" {len(ordered)} pictures, those that differ most first.{left}"),
        _table(summary),
        *(_section(one, names) for one in shown),
        style=STYLE,
    )


def _table(summary: Mapping[str, Estimate]) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", f"{estimate.value:.2f}"),
            tag("td", "too few pictures" if estimate.few else f"{estimate.low:.2f} to {estimate.high:.2f}"),
            tag("td", MEANINGS[name]),
        )
        for name, estimate in summary.items()
    ]
    head = tag("tr", *(tag("th", words, scope="col") for words in ("measure", "mean", "95 % interval", "what it is")))
    return scrollable("Means over the pictures", tag("table", tag("thead", head), tag("tbody", *rows)))


def _section(one: Compared, names: tuple[str, str]) -> Html:
    found, row = one.differences, one.row
    first, second = (masks[0, :, 0] > 0.5 for masks in (found.masks, found.other_masks))
    areas = [f"{percent(round(float(places.float().mean()), 2))}" for places in first]
    same = row["answer"] == 1
    answers = (
        f"Both answer {one.labels[0]}." if same else f"{names[0]} answers {one.labels[0]}, {names[1]} {one.labels[1]}."
    )
    sentence = (
        f"{answers} {names[1]} gets {percent(round(row['kept'], 2))} of its sets' score from those of {names[0]}, "
        f"{names[0]} gets {percent(round(row['kept_back'], 2))} from those of {names[1]}."
    )
    if row["changed"]:
        sentence += " The answer is the same, the reason is not."
    figures = [
        tag(
            "figure",
            _image(one.picture, first[index], f"what {names[0]} needs"),
            tag("figcaption", f"{names[0]}, {area}"),
        )
        for index, area in enumerate(areas)
    ]
    figures += [
        tag(
            "figure",
            _image(one.picture, second[index], f"what {names[1]} needs"),
            tag("figcaption", f"{names[1]}, {area}"),
        )
        for index, area in enumerate(areas)
    ]
    new = second.any(0) & ~first.any(0)
    figures.append(tag("figure", _image(one.picture, new, "what is new"), tag("figcaption", f"only {names[1]}")))
    return tag("section", tag("h2", one.name), tag("p", sentence), tag("div", *figures, class_="differences"))


def _image(picture: Float[Tensor, "3 H W"], places: Bool[Tensor, "H W"], words: str) -> Html:
    """The picture with its other places dimmed."""
    grey = picture.mean(0, keepdim=True) * 0.25 + 0.05
    shown = torch.where(places.to(picture.device), picture, grey.expand_as(picture))
    return tag("img", src=jpeg(shown), alt=words, width=picture.shape[2], height=picture.shape[1])
