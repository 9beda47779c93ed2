"""What a page shows of one query: the picture, what it is when fully perturbed, and the masks, all as large as the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.configuration import from_json
from sfumato.models import Classifier
from sfumato.panels import positive
from sfumato.perturbations import Blur, Constant, Fade, Noise, Perturbation
from sfumato.report.numbers import MaskRow
from sfumato.space import enlarged

LEVELS = 32
"""Of blurs that are kept in a page; a method with more is shown with the default blur."""


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


def restored(inputs: Tensor, classifier: Classifier | None) -> Tensor:
    """Inputs `(B, C, H, W)` as they are seen: RGB `(B, 3, H, W)` in [0, 1]. Raises `ValueError` for what is no picture."""
    if inputs.ndim != 4:
        raise ValueError(f"a report shows pictures (B, C, H, W); got inputs of shape {tuple(inputs.shape)}: give None")
    values = inputs.detach().float().cpu()
    if classifier is not None:
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


def perturbed(result: Attribution, inputs: Tensor, classifier: Classifier | None) -> Perturbed:
    """The inputs `(1, C, H, W)` as the network saw them where a mask hides them: a mask of height h shows what lies so far up
    between the levels and the picture. Exact for a `Blur`, and for what blends with a background."""
    perturbation = _perturbation(result, max(inputs.shape[2:]))
    values = inputs.detach().float().cpu()
    if isinstance(perturbation, Blur):
        levels, name = perturbation.pyramid(values)[:-1, 0], "Blurred"
    else:
        hidden = torch.zeros(1, 1, *values.shape[2:], dtype=torch.float32, device="cpu")
        levels = perturbation(values)(hidden, torch.zeros(1, dtype=torch.long, device="cpu"))
        name = "As the network saw it"
    return Perturbed(restored(levels, classifier) if classifier is not None else _rgb(levels), name)


def _rgb(levels: Tensor) -> Tensor:
    return levels.clamp(0, 1).expand(-1, 3, -1, -1)


def _perturbation(result: Attribution, side: int) -> Perturbation:
    """The method's own, or the default blur where it had none that can be made again. A file may ask for anything: what would
    take long is not made."""
    try:
        found = from_json(result.method.get("perturbation"))
    except (ValueError, TypeError, AttributeError, KeyError, ImportError):
        return Blur()
    if isinstance(found, Blur):
        return found if found.max_sigma <= side and found.levels <= LEVELS else Blur()
    return found if isinstance(found, Constant | Fade | Noise) else Blur()
