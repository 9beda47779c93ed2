"""The strongest channels of a layer in a page: each as heat over the picture, with the part where it is most active."""

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.behaviour.peaks import square_around
from sfumato.figures.panels import channel_map, positive
from sfumato.figures.report.encoding import SMALL_QUALITY, jpeg, png
from sfumato.figures.report.markup import Html, tag

MOST = 12
"""How many channels are shown."""

SIDE = 112
"""The longer side of the maps of channels, in pixels. They are smooth, and the page enlarges them."""


def channels(result: Attribution, picture: Float[Tensor, "3 H W"] | None) -> Html | None:
    """A list of the channels with the largest weights; `None` for a result without masks of channels.

    The script draws each map as heat over the picture, as `sfumato.sheets.channels` does.
    """
    if result.activation is None or result.masks is None:
        return None
    count = result.channel_masks.shape[2]
    indices, weights = (values[0].tolist() for values in result.channels(min(MOST, count)))
    items = [
        _item(index, weight, channel_map(result, index, count), picture)
        for index, weight in zip(indices, weights, strict=True)
    ]
    about = "Where each is active, and the part of the picture where it is most active. A weight of 1 is in every mask."
    has_places = result.activation.ndim == 4
    return tag(
        "div",
        tag("h4", "The channels that count most"),
        tag("p", about, class_="small") if has_places else None,
        tag("ol", *items, class_="channels"),
    )


def _item(index: int, weight: float, values: Float[Tensor, "1 1 *L"], picture: Float[Tensor, "3 H W"] | None) -> Html:
    """A channel with its map and its crop, if it has places."""
    name = f"channel {index}"
    words = tag("div", name, tag("br"), f"weight {weight:.2f}")
    if values.ndim != 4:
        return tag("li", words)
    size = values.shape[2:] if picture is None else picture.shape[1:]
    shown = positive(values, torch.empty(3, *size, dtype=torch.float32, device="cpu"))[0]
    heat = tag("img", src=png(shown, SIDE), alt=f"Where {name} is active", data_role="channel")
    crop = None
    flat = values[0, 0].detach().float().cpu()
    if picture is not None and float(flat.max()) > float(flat.min()):
        row, column = divmod(int(flat.argmax()), flat.shape[1])
        square = square_around(picture, ((row + 0.5) / flat.shape[0], (column + 0.5) / flat.shape[1]))
        crop = tag("img", src=jpeg(square, SMALL_QUALITY), alt=f"The part where {name} is most active", class_="crop")
    return tag("li", tag("div", heat, crop, class_="pair"), words)
