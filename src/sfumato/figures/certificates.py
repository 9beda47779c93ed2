"""A figure of a certificate: its set, the part that is needed, other sets that do as well, and a line for each claim."""

import textwrap
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sfumato.data.pictures import rgb
from sfumato.evidence.certificate import Certificate
from sfumato.figures.panels import CELL, GAP, HEAD, SMALL, add_axes, blank, overlay, percent, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {True: "#2f7d4f", False: "#b5402a", None: "#7a7a7a"}
"""Of a claim that holds, that does not, and of which nothing can be said."""

WORDS = {True: "yes", False: "no", None: "?"}

LINE, COLUMN, LETTER = 0.17, 1.55, 0.062
"""In inches: the height of a line of text, the width of the claims' names, and that of a letter."""

LEAST = 3
"""Panels whose width a figure has at least, so that sentences fit."""


def certificate(certificate: Certificate, picture: Any, title: str = "") -> "Figure":
    """A figure of one certificate over its picture.

    `picture`: RGB, as for `plots.figure`, as large as the set. Raises `ValueError` for another size, and for sets that do not
    lie in a plane.
    """
    shown = rgb(picture)
    if certificate.places.shape != shown.shape[1:]:
        raise ValueError(
            f"the set covers {' x '.join(map(str, certificate.places.shape))} places; got a picture of "
            f"{' x '.join(map(str, shown.shape[1:]))} pixels: give the one that the network saw"
        )
    panels = list(_panels(certificate))
    width = 0.2 + max(1 + len(panels), LEAST) * (CELL + GAP)
    letters = int((width - COLUMN - 0.6) / LETTER)
    lines = [textwrap.wrap(finding.sentence, letters) for finding in certificate.findings]
    top = 0.75 if title else HEAD
    height = top + CELL + 0.25 + sum(len(some) * LINE + 0.08 for some in lines) + 0.1
    canvas = blank((width, height))
    if title:
        canvas.suptitle(title, x=0.1 / width, y=1 - 0.08 / height, ha="left", va="top", fontsize=12, weight="bold")
    show(add_axes(canvas, 0.1, top, CELL, CELL), shown).set_title("what the network saw", fontsize=SMALL)
    for column, (name, places) in enumerate(panels, start=1):
        axes = add_axes(canvas, 0.1 + column * (CELL + GAP), top, CELL, CELL)
        overlay(axes, shown, places.float().cpu()).set_title(
            f"{name}, {percent(float(places.float().mean()))}", fontsize=SMALL
        )
    y = top + CELL + 0.3
    for finding, some in zip(certificate.findings, lines, strict=True):
        place: Any = {"va": "top", "fontsize": SMALL}
        canvas.text(
            0.1 / width, 1 - y / height, WORDS[finding.holds], color=COLOURS[finding.holds], weight="bold", **place
        )
        canvas.text(0.5 / width, 1 - y / height, finding.claim, weight="bold", **place)
        canvas.text((0.5 + COLUMN) / width, 1 - y / height, "\n".join(some), linespacing=1.25, **place)
        y += len(some) * LINE + 0.08
    return canvas


def _panels(certificate: Certificate) -> list[tuple[str, Bool[Tensor, "H W"]]]:
    """The sets that are drawn: what is certified, what of it is needed, and what would do as well."""
    panels = [("the set", certificate.places)]
    for finding in certificate.findings:
        for name, places in finding.sets.items():
            if name == "needed" and not torch.equal(places, certificate.places):
                panels.append(("needed", places))
            elif name.startswith("other"):
                panels.append(("would do as well", places))
    return panels
