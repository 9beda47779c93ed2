r"""What is known of a good mask before any network is asked: it is small, and simple.

Both are sums over the cells of the coarse mask, not means, so that the published weights apply as they stand
(Fong & Vedaldi, ICCV 2017, arXiv 1704.03296, eq. 3 and 4).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def l1(masks: Float[Tensor, "N 1 *L"]) -> Float[Tensor, " N"]:
    r"""How much each mask marks, $\lVert m \rVert_1 = \sum_u m(u)$, `(N,)`, for masks `(N, 1, *L)` in [0, 1].

    Of a mask that deletes where it is low, hand over the complement: the paper's term is $\lVert 1 - m \rVert_1$.
    """
    # Without the absolute value, whose derivative at 0 torch calls 0: an empty place is to cost something to mark.
    return masks.flatten(1).sum(1)


def total_variation(
    values: Float[Tensor, "N C *L"], beta: float, weights: Sequence[Float[Tensor, "N 1 *_"]] = ()
) -> Float[Tensor, " N"]:
    r"""How uneven each row is, $\sum_u \lVert \nabla m(u) \rVert_\beta^\beta$, `(N,)`: masks, or pictures with C channels.

    The gradient is that of neighbours along each axis: $\sum_u \sum_i |m(u + e_i) - m(u)|^\beta$, with no term beyond the
    edge. `beta` is at least 1; the larger it is, the cheaper is a slow slope than a sharp edge. `weights`, one tensor for each
    axis, say what each difference along it counts, as those of `evenness`.
    """
    total = torch.zeros(len(values), dtype=values.dtype, device=values.device)
    for axis in range(2, values.ndim):
        differences = values.diff(dim=axis).abs().pow(beta)
        if weights:
            differences = differences * weights[axis - 2]
        total = total + differences.flatten(1).sum(1)
    return total


def evenness(pictures: Float[Tensor, "N C *L"], width: float) -> list[Float[Tensor, "N 1 *_"]]:
    r"""How alike neighbours along each axis are, $e^{-\lVert x(u + e_i) - x(u) \rVert^2 / w^2}$ for a `width` $w$, from 1 for
    equal ones to 0: `(N, 1, …)` for each axis, which is one shorter there.

    The squared norm is a mean over channels, in the units of the pictures. As weights of `total_variation` they let a mask
    change where the picture does (Khorram et al., CHIL 2021, arXiv 2012.15783).
    """
    differences = (pictures.diff(dim=axis) for axis in range(2, pictures.ndim))
    return [torch.exp(-(change.square().mean(1, keepdim=True) / width**2)) for change in differences]
