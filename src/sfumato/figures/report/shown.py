"""What a page shows of one query: the picture, what it is when fully perturbed, and the masks, all as large as the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.data.pictures import rgb
from sfumato.figures.panels import positive, shown_perturbation
from sfumato.figures.report.numbers import MaskRow
from sfumato.models import Classifier
from sfumato.perturbations import Blur
from sfumato.space.smoothing import enlarged

LEVELS = 32
"""Of blurs that are kept in a page; those of a method with more are not shown."""

WIDEST = 100.0
"""Places that a blur may always be wide, also over small pictures; else as wide as the picture."""


AS_SEEN = "As the network saw it"


@dataclass(frozen=True, eq=False)
class Frames:
    """A result's masks, or its map alone, as pictures `(V, H, W)` in [0, 1]."""

    values: Tensor
    are_masks: bool
    """Of the picture: what they hide can be shown. Otherwise they are heat maps."""


def frames(result: Attribution, rows: Sequence[MaskRow], picture: Tensor | None) -> Frames | None:
    """Those of one query in the order of its rows; `None` where the input was no picture."""
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
        return Frames(torch.cat([positive(each, canvas) for each in overlays]), are_masks=False)
    masks = result.masks[0].detach().float().cpu()[[row.variant for row in rows]]
    return Frames(enlarged(masks, size)[:, 0].clamp(0, 1), are_masks=True)


def batch(inputs: Any, classifier: Classifier | None) -> Tensor:
    """What a model was shown, however a user has it, as a tensor `(B, C, H, W)`.

    With a classifier that is a tensor that it prepared, or PIL pictures, which it prepares; without one pictures themselves, a
    batch of them or a list. Raises `ValueError` for what is no such thing.
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
                    f"the pictures must be of one size; got {sorted(sizes)}: give those that the model was shown"
                )
            return torch.stack(pictures)
    if isinstance(inputs, np.ndarray) and classifier is None and inputs.ndim == 4:
        return torch.stack([rgb(picture) for picture in inputs])
    if not isinstance(inputs, Tensor):
        raise ValueError(
            f"inputs must be a tensor (B, C, H, W), as the model was shown them; got {type(inputs).__name__}"
        )
    if classifier is None and inputs.dtype == torch.uint8 and inputs.ndim == 4:
        return torch.stack([rgb(picture) for picture in inputs])
    return inputs


def restored(inputs: Tensor, classifier: Classifier | None) -> Tensor:
    """Inputs `(B, C, H, W)` as they are seen: RGB `(B, 3, H, W)` in [0, 1]. Raises `ValueError` for what is no picture."""
    if inputs.ndim != 4:
        raise ValueError(f"a report shows pictures (B, C, H, W); got inputs of shape {tuple(inputs.shape)}: give None")
    if not inputs.is_floating_point():
        raise ValueError(f"inputs must be floating-point, as the model was shown them; got {inputs.dtype}")
    values = inputs.detach().float().cpu()
    if classifier is not None:
        if values.shape[1] != len(classifier.preparation.mean):
            raise ValueError(
                f"the classifier prepares inputs of {len(classifier.preparation.mean)} channels; got {values.shape[1]}: give "
                "what its network was shown, classifier.prepare(picture)[None]"
            )
        return classifier.restore(values)
    low, high = float(values.min()), float(values.max())
    if values.shape[1] not in (1, 3) or not (low >= 0 and high <= 1):
        raise ValueError(
            f"without a classifier, inputs must be grey or RGB in [0, 1] to be shown; got {values.shape[1]} channels from "
            f"{low:.3g} to {high:.3g}; give classifier=…, which restores what it prepared, or pictures in [0, 1]"
        )
    return values.expand(-1, 3, -1, -1)


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A picture from fully perturbed to almost itself, evenly spaced: `(L, 3, H, W)`."""

    levels: Tensor
    name: str
    """What was done to it."""
    note: str = ""
    """What is to be said of it, if anything."""


def perturbed(result: Attribution, inputs: Tensor, classifier: Classifier | None) -> Perturbed:
    """The inputs `(1, C, H, W)` as the network saw them where a mask hides them: a mask of height h shows what lies so far up
    between the levels and the picture. Exact for a `Blur`, and for what blends with a background.

    Raises `ValueError`, in a sentence for the page, where that cannot be shown. A file may ask for anything: what would take
    long is not made.
    """
    hidden = shown_perturbation(result)
    perturbation = hidden.perturbation
    values = inputs.detach().float().cpu()
    if isinstance(perturbation, Blur):
        if perturbation.max_sigma > max(WIDEST, *values.shape[2:]) or perturbation.levels > LEVELS:
            raise ValueError(f"What the network saw is not shown: {perturbation} is too large for a page.")
        levels, name = perturbation.pyramid(values)[:-1, 0], "Blurred"
    else:
        nothing = torch.zeros(1, 1, *values.shape[2:], dtype=torch.float32, device="cpu")
        levels = perturbation(values)(nothing, torch.zeros(1, dtype=torch.long, device="cpu"))
        name = AS_SEEN
    return Perturbed(restored(levels, classifier) if classifier is not None else _rgb(levels), name, hidden.note)


def _rgb(levels: Tensor) -> Tensor:
    return levels.clamp(0, 1).expand(-1, 3, -1, -1)
