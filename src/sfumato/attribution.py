"""The result of a method, and its file."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.space import gaussian_blur
from sfumato.whole import written

FORMAT = "sfumato-attribution-1"


@dataclass(frozen=True)
class Attribution:
    r"""What a method found for `B` queries; for methods with masks, `V` masks of growing area for each.

    All tensors are on the inputs' device; scores are in the units of the explained score (logits by default).
    """

    map: Tensor
    """One saliency map a query, `(B, 1, *S)`."""
    masks: Tensor | None = None
    """`(B, V, 1, *S)`, float32 in [0, 1]; 1 keeps a place (in the deletion game: 1 marks what was removed). At a layer
    `(B, V, 1, *L)`, as large as its maps; of its channels `(B, V, K, 1, …)`."""
    areas: Tensor | None = None
    """The areas asked for, `(V,)`, fractions of the input, or of the channels."""
    achieved: Tensor | None = None
    """The masks' mean over the input, `(B, V)`."""
    scores: Tensor | None = None
    r"""$\Phi(m \otimes x)$, what each mask keeps, `(B, V)`."""
    complements: Tensor | None = None
    r"""$\Phi((1-m) \otimes x)$, what is left without it, `(B, V)`."""
    whole: Tensor | None = None
    r"""$\Phi(x)$, the score of the unperturbed input, `(B,)`."""
    blank: Tensor | None = None
    """The score of the fully perturbed input, `(B,)`."""
    activation: Tensor | None = None
    """What the layer puts out for the unperturbed input where channels are masked, `(B, C, *L)`."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: the method's configuration, the target, and versions; plain JSON."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all; `about` travels inside."""
        tensors = {
            entry.name: getattr(self, entry.name).detach().cpu().clone(memory_format=torch.contiguous_format)
            for entry in fields(self)
            if isinstance(getattr(self, entry.name), Tensor)
        }
        with written(path) as partial:
            save_file(tensors, partial, metadata={"format": FORMAT, "about": json.dumps(dict(self.about))})

    def __getitem__(self, query: int) -> "Attribution":
        """The part that belongs to one query, still with a leading axis of length one."""
        if not -len(self.map) <= query < len(self.map):
            raise IndexError(f"query {query} is out of range: there are {len(self.map)}")
        rows = slice(query, query + 1 or None)
        tensors = {
            entry.name: getattr(self, entry.name)[rows]
            for entry in fields(self)
            if entry.name != "areas" and isinstance(getattr(self, entry.name), Tensor)
        }
        return replace(self, **tensors)

    @property
    def method(self) -> Mapping[str, Any]:
        """The configuration of the method that made it, as `about` tells it; `{}` where it tells none."""
        method = self.about.get("method")
        return method if isinstance(method, Mapping) else {}

    def channels(self, count: int, variant: int = -1) -> tuple[Tensor, Tensor]:
        """The channels, or groups of them, that weigh most, and their weights: both `(B, count)`, the largest first.

        The weight is the mean of the masks up to that variant: 1 for a channel which the smallest sets have already. Among
        channels of one weight, those whose activation is larger on average come first. Raises `ValueError` where the masks
        are not of channels, or have fewer.
        """
        masks = self.channel_masks
        if not 1 <= count <= masks.shape[2]:
            raise ValueError(f"count must lie between 1 and the {masks.shape[2]} channels; got {count}")
        last = range(masks.shape[1])[variant]
        weights = masks[:, : last + 1].mean(1)
        size = self.activation.float().abs().flatten(2).mean(2).unflatten(1, (masks.shape[2], -1)).mean(2)  # type: ignore[union-attr]
        by_size = size.argsort(dim=1, descending=True, stable=True)
        order = weights.gather(1, by_size).argsort(dim=1, descending=True, stable=True)
        indices = by_size.gather(1, order)[:, :count]
        return indices, weights.gather(1, indices)

    def overlay(self, variant: int = -1) -> Tensor:
        r"""$\sum_k m_k \Phi_k(x)$ for the mask $m$ of one variant, `(B, 1, *L)` (Fong et al. 2019, figure 8).

        Raises `ValueError` where the masks are not of channels.
        """
        return overlaid(self.channel_masks[:, variant], self.activation)  # type: ignore[arg-type]  # goes with such masks

    @property
    def channel_masks(self) -> Tensor:
        """The masks as `(B, V, K)`, where they are of channels; else a `ValueError`."""
        if self.masks is None or self.activation is None:
            raise ValueError("the result has no masks of channels; give one made by ExtremalChannels")
        return self.masks.flatten(2)

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.map)

    def _repr_html_(self) -> str:
        """What a notebook shows: the masks, with a slider through their areas."""
        from sfumato.report.notebook import notebook

        return notebook(self)


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Attribution:
    """Read what `Attribution.save` wrote."""
    if not Path(path).is_file():
        raise ValueError(f"cannot load {path}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"cannot load {path}: not a safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"cannot load {path}: its format is {metadata.get('format')!r}, not {FORMAT!r}, the one Attribution.save writes"
        )
    return Attribution(**tensors, about=json.loads(metadata["about"]))


def saliency(masks: Tensor, smooth: float = 0.0, evenly: bool = False) -> Tensor:
    r"""One map a query `(B, 1, *S)` from its masks `(B, V, 1, *S)`: their mean, smoothed.

    `smooth` is the Gaussian's width as a fraction of the shortest side. TorchRay's pointing game sums the masks, each
    smoothed with 0.09; that is this map times V, with the same maximum. `evenly` weighs each mask with $1 / \lVert m \rVert_1$,
    so that all have the same share in the map's sum; in the plain mean the largest has most.
    """
    if evenly:
        weights = 1 / masks.flatten(2).mean(2).clamp(min=TINY)
        weights = weights / weights.sum(1, keepdim=True)
        mean = (masks * weights.view(*weights.shape, *[1] * (masks.ndim - 2))).sum(1)
    else:
        mean = masks.mean(1)
    return gaussian_blur(mean, smooth * min(mean.shape[2:])) if smooth else mean


TINY = 1e-6
"""Keeps the weight of a mask that shows nothing finite."""


def overlaid(masks: Tensor, activation: Tensor) -> Tensor:
    r"""$\sum_k m_k \Phi_k$ of masks `(N, K)` and activations `(N, C, *L)`, `(N, 1, *L)`; a group has C / K channels."""
    weights = masks.repeat_interleave(activation.shape[1] // masks.shape[1], 1)
    return torch.einsum("nc,nc...->n...", weights, activation.float())[:, None]


def versions() -> dict[str, str]:
    """What a result was made with."""
    return {"sfumato": _own_version(), "torch": torch.__version__, "python": platform.python_version()}


@cache
def _own_version() -> str:
    """Looked up once, as that takes milliseconds."""
    try:
        return version("sfumato")
    except PackageNotFoundError:
        return "unknown"
