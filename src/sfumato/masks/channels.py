"""Masks of channels: one number for each channel of a layer, the same at all places.

Fong et al. 2019, section 4 (attribution at intermediate layers): the area of such a mask is the share of channels that it
keeps, and no smoothness ties one channel to the next.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Channels:
    """Masks of `count` channels over activations with `axes` axes of space: parameters `(N, 1, K)` to `(N, K, 1, …)`.

    With `binary`, a mask is a set: 1 for the channels with the largest parameters, as many as these add up to, and 0 for the
    others. Gradients pass to the parameters as if the mask were these (the straight-through estimator of Y. Bengio,
    N. Léonard, A. Courville: *Estimating or propagating gradients through stochastic neurons for conditional computation*,
    2013, arXiv 1308.3432), so that they say of each channel, kept or not, what more of it would do.
    """

    def __init__(self, count: int, axes: int, binary: bool, device: torch.device | None = None) -> None:
        self.size = (count,)
        self.family = None
        self.axes = axes
        self.binary = binary
        self.everything = torch.ones(1, dtype=torch.float32, device=device)
        self.finest = 1 / count
        """The share of one channel."""

    def check(self, areas: Sequence[float]) -> None:
        """Any share of the channels can be had."""

    def nodes(self, parameters: Float[Tensor, "N 1 K"]) -> Float[Tensor, "N 1 K"]:
        """The parameters: nothing smooths them."""
        return parameters

    def areas(self, nodes: Float[Tensor, "N 1 K"]) -> Float[Tensor, " N"]:
        """The share of the channels that is kept, `(N,)`."""
        return nodes.mean((1, 2))

    def masks(self, nodes: Float[Tensor, "N 1 K"]) -> Float[Tensor, "N K *ones"]:
        """Masks `(N, K, 1, …)`."""
        weights = nodes.flatten(1)
        if self.binary:
            weights = weights + (largest(weights) - weights).detach()
        return weights.reshape(*weights.shape, *[1] * self.axes)

    def __call__(self, parameters: Float[Tensor, "N 1 K"]) -> Float[Tensor, "N K *ones"]:
        """Masks `(N, K, 1, …)` for parameters `(N, 1, K)`."""
        return self.masks(self.nodes(parameters))


def largest(weights: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """1 for the largest of weights `(N, K)` in [0, 1], as many in each row as they add up to, rounded, and at least one.

    >>> largest(torch.tensor([[0.9, 0.2, 0.8], [0.1, 0.3, 0.2]]))
    tensor([[1., 0., 1.],
            [0., 1., 0.]])
    """
    count = weights.detach().sum(1, keepdim=True).round().clamp(min=1)
    rank = weights.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < count).to(weights.dtype)
