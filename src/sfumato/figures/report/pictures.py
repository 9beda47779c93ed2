"""The pictures of one query in a page: the input, its perturbed levels, and the masks, all of the same size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.data.pictures import rgb
from sfumato.figures.panels import positive, shown_perturbation
from sfumato.figures.report.numbers import MaskRow
from sfumato.models import Classifier
from sfumato.perturbations import Blur
from sfumato.space.smoothing import enlarged, per_axis

MAX_LEVELS = 32
"""The largest number of levels of a blur that a page shows."""

MAX_SIGMA = 100.0
"""The largest width of a blur that a page shows, in places; for large pictures it is their longer side."""


AS_SEEN = "As the network saw it"


@dataclass(frozen=True, eq=False)
class Frames:
    """A result's masks, or only its map, as pictures in [0, 1]."""

    values: Float[Tensor, "V H W"]
    are_masks: bool
    """Whether they are masks of the picture, so that the hidden part can be shown. Otherwise they are heat maps."""


def frames(result: Attribution, rows: Sequence[MaskRow], picture: Float[Tensor, "3 H W"] | None) -> Frames | None:
    """The frames of one query in the order of its rows; `None` if the input was not a picture."""
    if result.map.ndim != 4:
        return None
    size = result.map.shape[2:] if picture is None else picture.shape[1:]
    canvas = torch.empty(3, *size, dtype=torch.float32, device="cpu")
    if result.masks is None:
        return Frames(positive(result.map, canvas), are_masks=False)
    if result.activation is not None:
        overlays = [result.overlay(row.variant) for row in rows]
        if overlays[0].ndim != 4:
            return Frames(positive(result.map, canvas), are_masks=False)
        return Frames(torch.cat([positive(overlay, canvas) for overlay in overlays]), are_masks=False)
    masks = result.masks[0].detach().float().cpu()[[row.variant for row in rows]]
    return Frames(enlarged(masks, size)[:, 0].clamp(0, 1), are_masks=True)


MOST_LENGTHENED = 4.0
"""How many times as long as wide, or as wide as long, an input is shown at most."""


def shape_seen(classifier: Classifier | None, size: tuple[int, int]) -> float | None:
    """The width, by the height, of what the network sees of a picture of `size` (width, height), in which it is shown.

    `None` without a classifier, for strips, and for a size of 0, which is not known.
    """
    if classifier is None or not all(size):
        return None
    return no_strip(classifier.shape_of(size))


def no_strip(shape: float | None) -> float | None:
    """The shape in which a picture is shown, its width by its height; `None` for strips, and for none."""
    return shape if shape and 1 / MOST_LENGTHENED <= shape <= MOST_LENGTHENED else None


def batch(inputs: Any, classifier: Classifier | None) -> Shaped[Tensor, "..."]:
    """The inputs of a user as a tensor `(B, C, H, W)`.

    With a classifier, `inputs` are a tensor that it has prepared, or PIL pictures, which are prepared. Without one, they are a
    batch or a list of pictures. Raises `ValueError` for anything else.
    """
    if isinstance(inputs, Image.Image):
        inputs = [inputs]
    if isinstance(inputs, list | tuple):
        if not inputs:
            raise ValueError("inputs are empty; give the pictures that the result explains, or None")
        if classifier is not None and all(isinstance(picture, Image.Image) for picture in inputs):
            return torch.stack([classifier.prepare(picture) for picture in inputs])
        if classifier is None:
            pictures = [rgb(picture) for picture in inputs]
            if len(sizes := {tuple(picture.shape) for picture in pictures}) > 1:
                raise ValueError(
                    f"all pictures must have the same size; got {sorted(sizes)}: give the inputs of the model"
                )
            return torch.stack(pictures)
    if isinstance(inputs, np.ndarray) and classifier is None and inputs.ndim == 4:
        return torch.stack([rgb(picture) for picture in inputs])
    if not isinstance(inputs, Tensor):
        raise ValueError(f"inputs must be a tensor (B, C, H, W), as the model takes it; got {type(inputs).__name__}")
    if classifier is None and inputs.dtype == torch.uint8 and inputs.ndim == 4:
        return torch.stack([rgb(picture) for picture in inputs])
    return inputs


def restore(inputs: Float[Tensor, "B C H W"], classifier: Classifier | None) -> Float[Tensor, "B 3 H W"]:
    """The pictures of inputs: RGB in [0, 1]. Raises `ValueError` if they are not pictures."""
    if inputs.ndim != 4:
        raise ValueError(f"a report shows pictures (B, C, H, W); got inputs of shape {tuple(inputs.shape)}: give None")
    if not inputs.is_floating_point():
        raise ValueError(f"inputs must be floating-point, as the model takes them; got {inputs.dtype}")
    values = inputs.detach().float().cpu()
    if classifier is not None:
        if values.shape[1] != len(classifier.preparation.mean):
            raise ValueError(
                f"the classifier prepares inputs of {len(classifier.preparation.mean)} channels; got {values.shape[1]}: give "
                "the input of its network, classifier.prepare(picture)[None]"
            )
        return classifier.restore(values)
    low, high = float(values.min()), float(values.max())
    if values.shape[1] not in (1, 3) or not (low >= 0 and high <= 1):
        raise ValueError(
            f"without a classifier, inputs must be grey or RGB in [0, 1] to be shown; got {values.shape[1]} channels from "
            f"{low:.3g} to {high:.3g}; give classifier=…, which prepared them, or pictures in [0, 1]"
        )
    return values.expand(-1, 3, -1, -1)


@dataclass(frozen=True, eq=False)
class PerturbedLevels:
    """A picture at evenly spaced levels of its perturbation, from fully perturbed to almost itself."""

    levels: Float[Tensor, "L 3 H W"]
    name: str
    """What the page calls them."""
    note: str = ""
    """A sentence about them, if there is one."""


def perturbed_levels(
    result: Attribution, inputs: Float[Tensor, "1 C H W"], classifier: Classifier | None
) -> PerturbedLevels:
    """The levels of the inputs of a result's network.

    Where a mask has the value m, the network saw what is at the share m of the way through the levels to the picture. This is
    exact for a `Blur`, and for perturbations that blend the picture with a background.

    Raises `ValueError` if they cannot be shown; the message is a sentence for the page. A result may come from any file, so
    perturbations that would take long are refused.
    """
    hidden = shown_perturbation(result)
    perturbation = hidden.perturbation
    values = inputs.detach().float().cpu()
    if isinstance(perturbation, Blur):
        if (
            max(per_axis(perturbation.max_sigma, 2)) > max(MAX_SIGMA, *values.shape[2:])
            or perturbation.levels > MAX_LEVELS
        ):
            raise ValueError(f"What the network saw is not shown: {perturbation} is too large for a page.")
        levels, name = perturbation.pyramid(values)[:-1, 0], "Blurred"
    else:
        nothing = torch.zeros(1, 1, *values.shape[2:], dtype=torch.float32, device="cpu")
        levels = perturbation(values)(nothing, torch.zeros(1, dtype=torch.long, device="cpu"))
        name = AS_SEEN
    return PerturbedLevels(restore(levels, classifier) if classifier is not None else _rgb(levels), name, hidden.note)


def _rgb(levels: Float[Tensor, "L C H W"]) -> Float[Tensor, "L 3 H W"]:
    return levels.clamp(0, 1).expand(-1, 3, -1, -1)
