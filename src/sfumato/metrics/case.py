"""A case: what a protocol judges. It holds one query, its attribution, and what is known of the query."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
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
    """One query, its attribution, and what is known of the query.

    A protocol needs some of the fields, see `Protocol.needs`, and raises `ValueError` if one of them is missing.
    """

    attribution: Attribution
    """The method's result for this query alone."""
    model: Model | None = None
    inputs: Float[Tensor, "1 C *S"] | None = None
    """As the model got them."""
    target: Any = None
    """A class index, a `Score` or a function, as the method got it."""
    method: Method | None = None
    """Protocols call it again, with other inputs or another network."""
    truth: Truth | None = None
    """Where the target is, in the picture's pixels."""
    window: Window | None = None
    """The part of the picture that the inputs show; `None` if the truth has the size and the position of the inputs."""
    picture: str = ""
    """The name of the picture in its data set; empty if it has none."""
    seed: int = 0
    """The seed of all random numbers that the protocol draws for this case."""
    others: dict[str, Model] = field(default_factory=dict)
    """Other networks, by name, for protocols that compare networks."""

    @cached_property
    def map(self) -> Float[Tensor, "*S"]:
        """The saliency map; of the inputs' size if the case has inputs."""
        return self._over_inputs(self.attribution.map)

    @cached_property
    def order(self) -> Float[Tensor, "*S"]:
        """What says in which order places matter, the highest first: the attribution's `order`, or its map if it has none."""
        return self.map if self.attribution.order is None else self._over_inputs(self.attribution.order)

    @cached_property
    def map_of_picture(self) -> Float[Tensor, "*S"]:
        """The map over the whole picture, interpolated linearly.

        Pixels outside the window get the least value of the map.
        """
        if self.window is None:
            return self.map
        width, height = self.window.size
        return on_picture(self.map, self.window).reshape(height, width)

    def _over_inputs(self, maps: Float[Tensor, "1 1 *M"]) -> Float[Tensor, "*S"]:
        values = maps.detach().float().cpu()
        if self.inputs is not None and values.shape[2:] != self.inputs.shape[2:]:
            values = enlarged(values, self.inputs.shape[2:])
        return values[0, 0]

    def need(self, name: str, who: str) -> Any:
        """The value of a field. Raises `ValueError`, with the name of the protocol that needs it, if the field is `None`."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{who} needs {name}; got none. Give Case({name}=…)")
        return value


def on_picture(values: Float[Tensor, "h w"], window: Window) -> Float[Tensor, "height width"]:
    """Lay a map of the window over the picture; pixels outside get its least value."""
    width, height = window.size
    x = (torch.arange(width, dtype=torch.float32, device="cpu") + 0.5 - window.left) / (window.right - window.left)
    y = (torch.arange(height, dtype=torch.float32, device="cpu") + 0.5 - window.top) / (window.bottom - window.top)
    grid = torch.stack(torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")[::-1], -1)[None]
    sampled = torch.nn.functional.grid_sample(
        values[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]
    in_window = ((y >= 0) & (y <= 1))[:, None] & ((x >= 0) & (x <= 1))
    return torch.where(in_window, sampled, values.min())
