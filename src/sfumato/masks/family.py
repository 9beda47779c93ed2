"""The interface of mask families: from a few parameters to masks of an input.

A family is a configuration (`LevelSet`, `SmoothMask`, `GridMask`, `CanvasMask`). Its `on` lays it over the shape of an input
and gives a `Parametrisation`. Masks are made in two steps: from parameters to values between, the *nodes* (of a `LevelSet`, the
field), and from these to masks. The nodes are enough to compute the area.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Parametrisation(Protocol):
    """A family of masks laid over one shape of input: parameters `(N, 1, *L)` in [0, 1] to masks in [0, 1]."""

    @property
    def size(self) -> tuple[int, ...]:
        """The lengths `*L` of the parameters."""

    @property
    def finest(self) -> float:
        """The smallest area that can be told from zero, as a fraction of the input."""

    @property
    def everything(self) -> Float[Tensor, "1"]:
        """The largest area that a mask has, `(1,)`."""

    @property
    def family(self) -> Any:
        """The family's configuration with all its lengths; `None` if it has no configuration."""

    def check(self, areas: Sequence[float]) -> None:
        """Raise `ValueError` where no mask has one of these areas."""

    def nodes(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *U"]:
        """What the masks are made of, for parameters `(N, 1, *L)`."""

    def masks(self, nodes: Float[Tensor, "N 1 *U"]) -> Float[Tensor, "N K *S"]:
        """Masks `(N, 1, *S)`, or of channels `(N, K, 1, …)`, of nodes."""

    def areas(self, nodes: Float[Tensor, "N 1 *U"]) -> Float[Tensor, " N"]:
        """The mean over the visible input of the masks of nodes, `(N,)`."""

    def __call__(self, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N K *S"]:
        """Masks of parameters `(N, 1, *L)`."""


class MaskFamily(Protocol):
    """A configuration of masks over places."""

    def on(self, shape: Sequence[int], device: torch.device | None = None) -> Parametrisation:
        """The family laid over inputs whose axes of space have the lengths `shape`."""


@runtime_checkable
class LayerFamily(MaskFamily, Protocol):
    """A family that can also lie over the places of a layer: its lengths are in places of the input."""

    def for_shape(self, shape: Sequence[int]) -> "LayerFamily":
        """The same family with all its lengths, for inputs whose axes of space have the lengths `shape`."""

    def divided(self, stride: Sequence[float]) -> "LayerFamily":
        """The same family over a layer whose places are `stride` places of the input apart, one number per axis."""


def not_laid(parametrisation: Any, family: Any) -> ValueError:
    """The error about what `on` of a family returned, which has not all members of a `Parametrisation`."""
    members = [name for name in vars(Parametrisation) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(parametrisation, name)] + ["__call__"] * (
        not callable(parametrisation)
    )
    return ValueError(
        f"{type(family).__name__}.on must return an object with the members of sfumato.masks.family.Parametrisation; "
        f"{type(parametrisation).__name__} has no {', '.join(missing)}"
    )
