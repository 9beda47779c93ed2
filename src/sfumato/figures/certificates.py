"""A figure of a certificate: its set, the part that is needed, other sets that do as well, and a line for each claim."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sfumato.evidence.certificate import Certificate
from sfumato.figures.lines import broken
from sfumato.figures.panels import GAP, HEAD, SMALL, add_axes, add_title, blank, cell_size, overlay, show
from sfumato.figures.scene import scene
from sfumato.models import Classifier
from sfumato.settings import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {True: "#2f7d4f", False: "#b5402a", None: "#7a7a7a"}
"""Of a claim that holds, that does not, and of which nothing can be said."""

WORDS = {True: "yes", False: "no", None: "?"}

LINE, INDENT, COLUMN = 0.17, 0.5, 1.55
"""In inches: the height of a line of text, the width of the answers, and that of the claims' names."""

LEAST = 3
"""Panels whose width a figure has at least, so that sentences fit."""


def certificate(
    certificate: Certificate, picture: Any, title: str = "", classifier: Classifier | None = None
) -> "Figure":
    """A figure of one certificate over its picture.

    `picture` and `classifier` are as for `plots.figure`. Raises `ValueError` for a picture of another size, and for sets that
    do not lie in a plane.
    """
    if certificate.places.ndim != 2:
        raise ValueError(f"a figure shows sets in a plane; got one of {tuple(certificate.places.shape)} places")
    view = scene(picture, certificate.places.shape, classifier)
    panels = list(_panels(certificate))
    width, height = cell_size(view.picture)
    canvas_width = 0.2 + max(1 + len(panels), LEAST) * (width + GAP)
    room = canvas_width - INDENT - COLUMN - 2 * GAP
    # A number and its per cent sign stay on one line.
    lines = [broken(found.sentence.replace(" %", "\N{NO-BREAK SPACE}%"), room, SMALL) for found in certificate.findings]
    top = (0.35 if title else 0.0) + HEAD
    canvas = blank((canvas_width, top + height + 0.35 + sum(len(some) * LINE + 0.08 for some in lines)))
    canvas_height = canvas.get_size_inches()[1]
    add_title(canvas, title)
    cells = [add_axes(canvas, 0.1 + column * (width + GAP), top, width, height) for column in range(1 + len(panels))]
    show(cells[0], view.picture).set_title(view.name, fontsize=SMALL)
    view.frame(cells[0])
    for axes, (name, places) in zip(cells[1:], panels, strict=True):
        laid = view.lay(places.float().cpu()[None, None])[0, 0]
        overlay(axes, view.picture, laid).set_title(f"{name}, {percent(float(places.float().mean()))}", fontsize=SMALL)
    y = top + height + 0.25
    for finding, some in zip(certificate.findings, lines, strict=True):
        place = {"va": "top", "fontsize": SMALL, "y": 1 - y / canvas_height}
        canvas.text(0.1 / canvas_width, s=WORDS[finding.holds], color=COLOURS[finding.holds], weight="bold", **place)
        canvas.text(INDENT / canvas_width, s=finding.claim, weight="bold", **place)
        for number, line in enumerate(some):  # one text of all lines would begin lower than the claim's name
            canvas.text(
                (INDENT + COLUMN) / canvas_width, s=line, **place | {"y": 1 - (y + number * LINE) / canvas_height}
            )
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
