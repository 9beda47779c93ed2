"""The place that a question was about: the box of a detection, or a region of maps. Figures draw it thin."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.figures.scene import Scene
from sfumato.scores import Places

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ASKED = "#1fc3e8"
"""The colour of the line around the place that was asked about."""

CASING = "#10242b"
"""The colour beside it, so that it is seen on any picture."""


def asked_places(result: Attribution, size: Sequence[int], query: int = 0) -> Float[Tensor, "H W"] | None:
    """The places of an input of `size` (H, W) that the question of a result was about: 1 there, and 0 elsewhere.

    `None` if it was about the whole picture, or if the result does not say it: a file may hold anything in its place.
    """
    score = result.about.get("score")
    if not isinstance(score, Mapping):
        return None
    kind = str(score.get("class", "")).rpartition(":")[2]
    try:
        if kind == "Box":
            places = Places.in_box(_sides(_of_query(score["box"], query)), size)
        elif kind == "Region":
            about = _of_query(score["mask"], query)
            places = Places(tuple(about["shape"]), tuple(about["runs"]))
        else:
            return None
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return places.mask.float() if places.shape == tuple(size) else None


def _of_query(values: Any, query: int) -> Any:
    """The value of a query, or the one for all."""
    if not isinstance(values, list | tuple):
        return values
    return values[query] if len(values) > 1 else values[0]


def _sides(box: Any) -> list[float]:
    """Left, top, right and bottom. Raises `ValueError` for anything else."""
    left, top, right, bottom = map(float, box)
    return [left, top, right, bottom]


def mark(axes: "Axes", view: Scene, places: Float[Tensor, "H W"] | None) -> None:
    """Draw a thin line around the places of an input, over the picture of a scene."""
    if places is None:
        return
    edge = torch.nn.functional.pad(
        view.lay(places[None, None])[0, 0], (1, 1, 1, 1)
    )  # a line also at the picture's border
    height, width = edge.shape
    axes.autoscale(False)  # the line may lie on the border, and must not widen the picture
    for colour, size in ((CASING, 1.8), (ASKED, 0.9)):
        axes.contour(
            range(-1, width - 1), range(-1, height - 1), edge.numpy(), levels=[0.5], colors=[colour], linewidths=size
        )
