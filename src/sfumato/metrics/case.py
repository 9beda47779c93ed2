"""What a protocol judges: what a method said of one query, and all that is known of the query."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.data.truth import Truth
from sfumato.model.effects import Model
from sfumato.space.smoothing import enlarged

Method = Callable[[Model, Tensor, Any], Attribution]


@dataclass(frozen=True)
class Window:
    """The part of a picture of `size` (width, height) that the network's input shows, in the picture's pixels."""

    size: tuple[int, int]
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, eq=False)
class Case:
    """One query, what a method said of it, and what is known; a protocol raises `ValueError` for what it needs and misses."""

    attribution: Attribution
    """Of this query alone."""
    model: Model | None = None
    inputs: Tensor | None = None
    """`(1, C, *S)`, as the model was shown them."""
    target: Any = None
    """A class index, a `Score` or a function, as the method was given it."""
    method: Method | None = None
    """To be called again, on other inputs or another network."""
    truth: Truth | None = None
    """Where the target is, in the picture's pixels."""
    window: Window | None = None
    """The part of the picture that the inputs show; `None` where the truth is as large as the inputs, and lies as they do."""
    picture: str = ""
    """Its name in its data set, if it has one."""
    seed: int = 0
    """Of all that the protocol draws for this case."""
    others: dict[str, Model] = field(default_factory=dict)
    """Other networks, by name, for protocols that compare."""

    @cached_property
    def map(self) -> Tensor:
        """The saliency map `(*S)`, as large as the inputs where these are known."""
        values = self.attribution.map.detach().float().cpu()
        if self.inputs is not None and values.shape[2:] != self.inputs.shape[2:]:
            values = enlarged(values, self.inputs.shape[2:])
        return values[0, 0]

    @cached_property
    def map_of_picture(self) -> Tensor:
        """The map over the whole picture `(height, width)`, interpolated linearly; its least value where nothing was seen."""
        if self.window is None:
            return self.map
        width, height = self.window.size
        return placed(self.map, self.window).reshape(height, width)

    def need(self, name: str, why: str) -> Any:
        """The value of a field, or a `ValueError` that says what it is needed for."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{why} needs {name}; got none")
        return value


def placed(values: Tensor, window: Window) -> Tensor:
    """A map `(h, w)` of what the window shows, over the picture's pixels `(height, width)`; its least value outside."""
    width, height = window.size
    x = (torch.arange(width, dtype=torch.float32, device="cpu") + 0.5 - window.left) / (window.right - window.left)
    y = (torch.arange(height, dtype=torch.float32, device="cpu") + 0.5 - window.top) / (window.bottom - window.top)
    grid = torch.stack(torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")[::-1], -1)[None]
    sampled = torch.nn.functional.grid_sample(
        values[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]
    seen = ((y >= 0) & (y <= 1))[:, None] & ((x >= 0) & (x <= 1))
    return torch.where(seen, sampled, values.min())
