"""What figures are put together from: pictures, heat maps over them, numbers and words."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.files import written
from sfumato.models import Classifier
from sfumato.perturbations import Blur, Perturbation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL, GAP, HEAD, MARGIN = 2.2, 0.12, 0.48, 0.6  # inches: a picture's longer side, between, above and left of pictures
KEPT, LEFT, BOUND = "#b5402a", "#33658a", "#8a8a8a"  # what a mask shows, what it leaves, and their bounds
SMALL = 9  # points
PEAKS = 0.995  # of a map's places lie below its brightest colour


def check_matplotlib() -> None:
    """Raise `ModuleNotFoundError` where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401, ICN001
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'figures need matplotlib, which is not installed; run: pip install "sfumato[plots]"', name="matplotlib"
        ) from error


def blank(size: tuple[float, float]) -> "Figure":
    """An empty figure of so many inches, of which pyplot knows nothing."""
    check_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=size)


def save(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Write a PNG, whole or not at all."""
    with written(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def show(axes: "Axes", picture: Tensor) -> "Axes":
    """A picture `(3, H, W)` in [0, 1]."""
    axes.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="lanczos")
    axes.set_axis_off()
    return axes


def deletes(result: Attribution) -> bool:
    """Whether a mask marks what was removed and nothing that was kept."""
    game = result.method.get("game")
    return isinstance(game, Mapping) and not game.get("keep") and bool(game.get("drop"))


@dataclass(frozen=True, eq=False)
class ShownPerturbation:
    """What hides the places of a picture where it is shown."""

    perturbation: Perturbation
    name: str
    used: bool = True
    """Whether the network saw it so; otherwise it is for display only."""
    note: str = ""
    """What is to be said of it."""


def shown_perturbation(result: Attribution, given: Perturbation | None = None) -> ShownPerturbation:
    """What hid places of the picture, as the result tells it, or what is `given`; of several perturbations the first.

    For a result that tells nothing of how it was made it is a blur, for display only. Raises `ValueError`, in a sentence for
    whoever looks at the picture, where what was used cannot be shown.
    """
    if result.layer:
        raise ValueError(f"The masks hide values of the layer {result.layer}, not places of the picture.")
    try:
        perturbations = (given,) if given is not None else result.perturbations()
    except ValueError as error:
        raise ValueError(f"What the network saw is not shown: {error}, as plots.figure(…, perturbation=…).") from error
    if not perturbations:
        return ShownPerturbation(
            Blur(), "Blur", used=False, note="The result does not say what hid places: the blur is for display."
        )
    first = perturbations[0]
    name = getattr(first, "__name__", type(first).__name__)
    note = f"The first of {len(perturbations)} perturbations is shown." if len(perturbations) > 1 else ""
    return ShownPerturbation(first, name, note=note)


def perturbed_picture(
    hidden: ShownPerturbation, masks: Tensor, picture: Tensor, classifier: Classifier | None = None
) -> Tensor:
    r"""$m \otimes x$ as RGB `(V, 3, H, W)` in [0, 1], of masks `(V, 1, H, W)` and a picture `(3, H, W)`.

    `classifier` tells in which units its network saw the picture; without one these are the picture's own.
    """
    inputs = picture[None] if classifier is None else classifier.preparation.normalised(picture)[None]
    query = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    with torch.no_grad():
        values = hidden.perturbation(inputs)(masks, query)
    return values.clamp(0, 1) if classifier is None else classifier.restore(values)


def overlay(axes: "Axes", picture: Tensor, mask: Tensor, outline: bool = True) -> "Axes":
    """The picture, pale and grey where the mask is low, warm and outlined where it is high."""
    grey = picture.mean(0, keepdim=True).expand(3, -1, -1)
    show(axes, torch.lerp(0.35 + 0.65 * (0.7 * grey + 0.3 * picture), picture, mask))
    axes.imshow(mask.numpy(), cmap="inferno", vmin=0, vmax=1.2, alpha=(0.45 * mask).numpy())
    if outline and mask.min() < 0.5 < mask.max():
        axes.contour(mask.numpy(), levels=[0.5], colors=["white"], linewidths=2.2)
        axes.contour(mask.numpy(), levels=[0.5], colors=[KEPT], linewidths=1.1)
    return axes


def positive(saliency: Tensor, picture: Tensor) -> Tensor:
    """One query's map `(1, 1, *L)` as `(1, H, W)` in [0, 1], as large as the picture."""
    if saliency.ndim != 4 or len(saliency) != 1:
        raise ValueError(f"a map of one picture is (1, 1, H, W); got shape {tuple(saliency.shape)}")
    values = saliency.detach().float().cpu().clamp(min=0)
    values = torch.nn.functional.interpolate(values, picture.shape[-2:], mode="bilinear", align_corners=False)[0]
    return (values / values.quantile(PEAKS).clamp(min=1e-12)).clamp(max=1)


def shares(result: Attribution) -> Tensor:
    r"""The share of the score that each mask keeps, $(\Phi(m \otimes x) - \Phi_0) / (\Phi(x) - \Phi_0)$, `(B, V)`.

    $\Phi_0$ is the score of the fully perturbed input. NaN where that is as good as the whole input.
    """
    if result.scores is None or result.whole is None or result.blank is None:
        raise ValueError("the result has no scores; give one made by a method with masks")
    span = result.whole - result.blank
    return (result.scores - result.blank[:, None]) / torch.where(span == 0, math.nan, span)[:, None]


def percent(share: float | None) -> str:
    """A share as people read it.

    >>> percent(0.05), percent(0.1234), percent(-0.004), percent(None)
    ('5 %', '12.3 %', '-0.4 %', '–')
    """
    return f"{round(100 * share, 1):g} %" if share is not None and math.isfinite(share) else "–"
