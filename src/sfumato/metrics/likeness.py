"""How similar two maps are: in the order of their places, in their structure, in their highest places."""

import math

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from sfumato.space.precision import widest_float

WINDOW = 11
DEVIATION = 1.5
"""Size and standard deviation, in places, of the Gaussian window of Wang et al. 2004, section III.B."""

K1, K2 = 0.01, 0.03
"""Constants of the same paper, as shares of the data's range. They keep quotients of small numbers stable."""


def spearman(a: Real[Tensor, "..."], b: Real[Tensor, "..."]) -> float:
    r"""Spearman's rank correlation, in [-1, 1]: Pearson's correlation of the ranks. Equal values share the mean of their ranks.

    `a` and `b` have the same number of values, in the same order, in any shape. The correlation is NaN if all values of one
    are equal, as they have no order then. Raises `ValueError` if the sizes differ, or if a value is NaN.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 10.0, 10.0, 100.0]))
    0.948...
    """
    _check(a, b)
    x, y = (values - values.mean() for values in (ranks(a), ranks(b)))
    scale = math.sqrt(float(x.square().sum()) * float(y.square().sum()))
    return float((x * y).sum()) / scale if scale else math.nan


def ranks(values: Real[Tensor, "..."]) -> Float[Tensor, " n"]:
    """The rank of each value, 1 for the smallest value. Equal values share the mean of their ranks.

    In float64, or float32 on a device that lacks it.
    """
    _, inverse, counts = torch.unique(values.flatten(), return_inverse=True, return_counts=True)
    last, counts = (numbers.to(widest_float(values.device)) for numbers in (counts.cumsum(0), counts))
    return (last - (counts - 1) / 2)[inverse]


def ssim(a: Real[Tensor, "*S"], b: Real[Tensor, "*S"], data_range: float = 1.0) -> float:
    r"""The mean structural similarity of two maps with one to three axes, in [-1, 1].

    $\frac{(2\mu_a\mu_b + C_1)(2\sigma_{ab} + C_2)}{(\mu_a^2 + \mu_b^2 + C_1)(\sigma_a^2 + \sigma_b^2 + C_2)}$ with
    $C_i = (K_i L)^2$, with moments under a Gaussian window, averaged over the places where the window lies inside (Z. Wang,
    A. Bovik, H. Sheikh, E. Simoncelli: *Image quality assessment*, IEEE TIP 13(4), 2004, eq. 13).

    `data_range` is $L$, the largest minus the smallest value that the maps can have. The window is 11 places long; along a
    shorter axis it has the largest odd length that fits. Raises `ValueError` if the shapes differ.
    """
    _check(a, b)
    if a.shape != b.shape or not 1 <= a.ndim <= 3:
        raise ValueError(f"ssim needs two maps of one shape with one to three axes; got {a.shape} and {b.shape}")
    if not data_range > 0:
        raise ValueError(f"data_range is the largest minus the smallest possible value, more than 0; got {data_range}")
    a, b = a.to(widest_float(a.device)), b.to(widest_float(b.device))
    moments = _windowed(torch.stack([a, b, a * a, b * b, a * b]))
    mean_a, mean_b = moments[0], moments[1]
    variances = moments[2] - mean_a.square() + moments[3] - mean_b.square()
    covariance = moments[4] - mean_a * mean_b
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_a.square() + mean_b.square() + c1) * (variances + c2))).mean())


def ssim_of_maps(a: Real[Tensor, "*S"], b: Real[Tensor, "*S"]) -> float:
    """The structural similarity of two saliency maps. As their units differ, both are first stretched to [0, 1]."""
    return ssim(stretched(a), stretched(b))


def stretched(values: Real[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """The map shifted and scaled so that its values run from 0 to 1; all 0 if all values are equal.

    In float64, or float32 on a device that lacks it.
    """
    values = values.to(widest_float(values.device))
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def overlap(a: Real[Tensor, "..."], b: Real[Tensor, "..."], share: float) -> float:
    """Intersection over union of the highest `share` of places of two maps, in [0, 1].

    The number of places is `share` of all places, rounded up. Among places of equal value, the earlier place goes first.
    """
    _check(a, b)
    count = math.ceil(share * a.numel() - 1e-9)  # 0.1 · 30 must be 3 places, not 4 by a rounding error
    highest_a, highest_b = order(a) < count, order(b) < count
    return float((highest_a & highest_b).sum()) / float((highest_a | highest_b).sum())


def order(values: Real[Tensor, "*S"]) -> Int[Tensor, "*S"]:
    """The place of each value in the falling order, 0 for the highest. Equal values keep their order."""
    flat = values.flatten()
    rank = torch.empty_like(flat, dtype=torch.long)
    rank[flat.argsort(descending=True, stable=True)] = torch.arange(len(flat), dtype=rank.dtype, device=flat.device)
    return rank.view(values.shape)


def _windowed(x: Float[Tensor, " n *S"]) -> Float[Tensor, " n *M"]:
    """Means of `x` under the window, at all positions where the window lies inside."""
    for axis in range(1, x.ndim):
        length = min(WINDOW, x.shape[axis] - 1 + x.shape[axis] % 2)
        offsets = torch.arange(length, dtype=x.dtype, device=x.device) - (length - 1) / 2
        kernel = torch.exp(-0.5 * (offsets / DEVIATION).square())
        x = (x.unfold(axis, length, 1) * (kernel / kernel.sum())).sum(-1)
    return x


def _check(a: Real[Tensor, "..."], b: Real[Tensor, "..."]) -> None:
    if a.numel() != b.numel() or a.numel() == 0:
        raise ValueError(f"two maps to compare must have the same size, and not be empty; got {a.shape} and {b.shape}")
    for values in (a, b):
        if torch.isnan(values).any():
            raise ValueError("a map to compare holds NaN; check the method and its model")
