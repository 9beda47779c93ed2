"""Parts of figures: pictures, masks and maps over them, and numbers as text."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.figures.letters import draw_all_letters
from sfumato.figures.lines import DPI
from sfumato.files import written
from sfumato.metrics.part_scores import span
from sfumato.models import Classifier
from sfumato.perturbations import Blur, Perturbation
from sfumato.scores.words import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL, GAP, HEAD, MARGIN = 2.2, 0.12, 0.48, 0.6
"""In inches: the longer side of a picture, and the space between pictures, above them and left of them."""

MIN_WIDTH, MIN_HEIGHT = 1.75, 1.5
"""The smallest size of a picture in inches, for the text above it and the curve beside it."""

KEPT, LEFT, BOUND = "#b5402a", "#33658a", "#8a8a8a"
"""Colours of what a mask keeps, of what it leaves out, and of the bounds of the score."""

SMALL = 9
"""The size of small text, in points."""

FORMATS = (".png", ".pdf", ".svg")
"""The endings of figures' files."""

BRIGHTEST = 0.995
"""The quantile of a map's values that has the brightest colour."""


def check_matplotlib() -> None:
    """Raise `ModuleNotFoundError` if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401, ICN001
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'figures need matplotlib, which is not installed; run: pip install "sfumato[plots]"', name="matplotlib"
        ) from error


ONE_RUN = "one run: no restarts to compare"
"""What captions say of a mask whose search had no restarts, so that it is not known how settled it is."""


TITLE, TITLE_LETTERS = 12, 9
"""The size of a title, in points, and how many of its letters fit into an inch."""


def blank(size: tuple[float, float]) -> "Figure":
    """An empty figure of this width and height in inches. It is not registered with pyplot."""
    check_matplotlib()
    from sfumato.figures.drawing import Drawing

    return Drawing(figsize=size)


def add_title(figure: "Figure", title: str, left: float = 0.1) -> None:
    """Write a title at the top of a figure, `left` inches from its left; smaller where it is long, so that it fits."""
    if not title:
        return
    width, height = figure.get_size_inches()
    letters = sum(2 if east_asian_width(letter) in "WF" else 1 for letter in title)
    size = min(TITLE, TITLE * TITLE_LETTERS * (width - left - 0.1) / letters)
    figure.suptitle(title, x=left / width, y=1 - 0.1 / height, ha="left", va="top", fontsize=size, weight="bold")


def save(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Write the figure, completely or not at all, in the format of the file's ending: .png, .pdf or .svg.

    Raises `ValueError` for another ending, and `OSError`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"a figure is written as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}; got {Path(path).name!r}. Write e.g. "
            f'save(figure, "{Path(path).with_suffix(".png").name}")'
        )
    draw_all_letters(figure)
    with written(path) as partial:
        figure.savefig(partial, format=suffix[1:], dpi=DPI)


def add_axes(figure: "Figure", x: float, y: float, width: float, height: float) -> "Axes":
    """Add axes to a figure at a distance from its left and its top. All lengths are in inches."""
    figure_width, figure_height = map(float, figure.get_size_inches())
    left, bottom = x / figure_width, 1 - (y + height) / figure_height
    return figure.add_axes((left, bottom, width / figure_width, height / figure_height))


def cell_size(picture: Float[Tensor, "3 H W"]) -> tuple[float, float]:
    """The width and height of each picture in a figure, in inches."""
    height, width = picture.shape[1:]
    scale = CELL / max(height, width)
    return max(scale * width, MIN_WIDTH), max(scale * height, MIN_HEIGHT)


def show(axes: "Axes", picture: Float[Tensor, "3 H W"]) -> "Axes":
    """Draw a picture in [0, 1]."""
    axes.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="lanczos")
    axes.set_axis_off()
    return axes


def deletes(result: Attribution) -> bool:
    """Whether the masks mark what is removed: the game only deletes."""
    game = result.method.get("game")
    return isinstance(game, Mapping) and not game.get("keep") and bool(game.get("drop"))


@dataclass(frozen=True, eq=False)
class ShownPerturbation:
    """The perturbation that is shown in a figure."""

    perturbation: Perturbation
    name: str
    used: bool = True
    """Whether the method used it. If not, it is for display only."""
    note: str = ""
    """A sentence about it."""
    used_with: int = 0
    """How many others the method used."""


def shown_perturbation(result: Attribution, perturbation: Perturbation | None = None) -> ShownPerturbation:
    """The perturbation that hid places of the picture: the argument, else that of the result, the first of several.

    If the result does not say how it was made, it is a blur, for display only. Raises `ValueError` if the perturbation cannot
    be shown; the message is a sentence for the figure.
    """
    if result.layer:
        raise ValueError(f"The masks hide values of the layer {result.layer}, not places of the picture.")
    try:
        perturbations = (perturbation,) if perturbation is not None else result.perturbations()
    except ValueError as error:
        raise ValueError(f"What the network saw is not shown: {error}, as plots.figure(…, perturbation=…).") from error
    if not perturbations:
        return ShownPerturbation(
            Blur(), "Blur", used=False, note="The result does not say what hid places; the blur is for display."
        )
    first = perturbations[0]
    name = getattr(first, "__name__", type(first).__name__)
    note = f"The first of {len(perturbations)} perturbations is shown." if len(perturbations) > 1 else ""
    return ShownPerturbation(first, name, note=note, used_with=len(perturbations) - 1)


def perturbed_picture(
    hidden: ShownPerturbation,
    masks: Float[Tensor, "V 1 H W"],
    picture: Float[Tensor, "3 H W"],
    classifier: Classifier | None = None,
) -> Float[Tensor, "V 3 H W"]:
    r"""$m \otimes x$ as RGB in [0, 1], for masks and a picture.

    With `classifier`, the picture is perturbed in the units of its network's inputs, else in its own.
    """
    inputs = picture[None] if classifier is None else classifier.preparation.normalised(picture)[None]
    rows = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    with torch.no_grad():
        values = hidden.perturbation(inputs)(masks, rows)
    return values.clamp(0, 1) if classifier is None else classifier.restore(values)


def overlay(axes: "Axes", picture: Float[Tensor, "3 H W"], mask: Float[Tensor, "H W"], outline: bool = True) -> "Axes":
    """Draw a picture that is pale and grey where the mask is low, and warm where it is high, with the mask's outline."""
    grey = picture.mean(0, keepdim=True).expand(3, -1, -1)
    show(axes, torch.lerp(0.35 + 0.65 * (0.7 * grey + 0.3 * picture), picture, mask))
    axes.imshow(mask.numpy(), cmap="inferno", vmin=0, vmax=1.2, alpha=(0.45 * mask).numpy())
    if outline and mask.min() < 0.5 < mask.max():
        axes.contour(mask.numpy(), levels=[0.5], colors=["white"], linewidths=2.2)
        axes.contour(mask.numpy(), levels=[0.5], colors=[KEPT], linewidths=1.1)
    return axes


def positive(saliency: Float[Tensor, "1 1 *L"], picture: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 H W"]:
    """A map of one query, resized to the picture and scaled to [0, 1].

    Negative values become 0, and so does the least value of a map that has neither them nor zeros.
    """
    if saliency.ndim != 4 or len(saliency) != 1:
        raise ValueError(f"a map of one picture has the shape (1, 1, H, W); got {tuple(saliency.shape)}")
    values = saliency.detach().float().cpu()
    values = (values - values.min().clamp(min=0)).clamp(min=0)  # a map without zeros is drawn from its least value on
    values = torch.nn.functional.interpolate(values, picture.shape[-2:], mode="bilinear", align_corners=False)[0]
    return (values / values.quantile(BRIGHTEST).clamp(min=1e-12)).clamp(max=1)


def channel_map(result: Attribution, index: int, groups: int) -> Float[Tensor, "1 1 *L"]:
    """The output of a channel of the result's layer, or the mean over a group of channels, of `groups` in all."""
    activation = result.activation
    assert activation is not None  # noqa: S101  # for the type checker: masks of channels come with it
    size = activation.shape[1] // groups
    return activation[:, index * size : (index + 1) * size].detach().float().mean(1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Coloured:
    """A map in the range of its colours: [0, 1], or [-1, 1] if it is signed."""

    values: Float[Tensor, "1 1 *L"]
    low: float
    """The value of the map with the lowest colour."""
    high: float
    """The value of the map with the highest colour."""
    is_signed: bool

    @property
    def caption(self) -> str:
        """Which values the colours show."""
        if self.low == self.high:
            return f"{self.low:.2g} everywhere"
        return f"colours from {self.low:.2g} to {self.high:.2g}".replace("-", "−")


def coloured(saliency: Float[Tensor, "1 1 *L"]) -> Coloured:
    """A map of one query in the range of colours of its own: from its lowest to its highest value, without the outermost.

    A map with positive and negative values is symmetric: 0 stays 0.
    """
    values = saliency.detach().float().cpu()
    flat = values.flatten()
    low, high = float(flat.quantile(1 - BRIGHTEST)), float(flat.quantile(BRIGHTEST))
    if low < 0 < high:
        bound = max(-low, high)
        return Coloured((values / bound).clamp(-1, 1), -bound, bound, is_signed=True)
    if low == high:  # few places have another value
        low, high = float(flat.min()), float(flat.max())
    span = high - low or 1.0
    return Coloured(((values - low) / span).clamp(0, 1), low, high, is_signed=False)


def paint(
    axes: "Axes", picture: Float[Tensor, "3 H W"], values: Float[Tensor, "H W"], is_signed: bool = False
) -> "Axes":
    """Draw a map in [0, 1], or a signed one in [-1, 1], in colours over the grey picture. NaN has no colour."""
    grey = picture.mean(0, keepdim=True).expand(3, -1, -1)
    show(axes, 0.35 + 0.6 * grey)
    strength = values.abs().nan_to_num()
    if is_signed:
        axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, alpha=(0.9 * strength.sqrt()).numpy())
    else:
        axes.imshow(values.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=(0.3 + 0.5 * strength).numpy())
    return axes


def worth(result: Attribution, scores: Float[Tensor, "B ..."] | None = None) -> Float[Tensor, "B ..."]:
    r"""What each mask is worth, $(\Phi(m \otimes x) - \Phi_0) / (\Phi(x) - \Phi_0)$, `(B, V)`.

    It is 1 for the whole input, and 0 with everything hidden. $\Phi_0$ is the score of the fully perturbed input. NaN if it
    is about that of the whole input, or more, see `sfumato.metrics.part_scores.span`. `scores` `(B, …)` are other ones of the
    same queries, if given. Raises `ValueError` for a result without scores.
    """
    scores = result.scores if scores is None else scores
    if scores is None or result.whole is None or result.blank is None:
        raise ValueError("the result has no scores; give one made by a method with masks")
    column = (-1, *[1] * (scores.ndim - 1))
    return (scores - result.blank.view(column)) / span(result.whole, result.blank).view(column)


def name_of_score(result: Attribution) -> str:
    """What the score of a result is, in words: "logit", or "score" if the result does not say it."""
    about = result.about.get("score")
    return "score" if about is None else quantity(about)
