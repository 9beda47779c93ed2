r"""What is known of a good mask before any network is asked: it is small, and simple.

Both are sums over the cells of the coarse mask, not means, so that the published weights apply as they stand
(Fong & Vedaldi, ICCV 2017, arXiv 1704.03296, eq. 3 and 4).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def l1(masks: Float[Tensor, "N 1 *L"]) -> Float[Tensor, " N"]:
    r"""How much each mask marks, $\lVert m \rVert_1 = \sum_u m(u)$, `(N,)`, for masks `(N, 1, *L)` in [0, 1].

    Of a mask that deletes where it is low, hand over the complement: the paper's term is $\lVert 1 - m \rVert_1$.
    """
    # Without the absolute value, whose derivative at 0 torch calls 0: an empty place is to cost something to mark.
    return masks.flatten(1).sum(1)


def total_variation(values: Float[Tensor, "N C *L"], beta: float) -> Float[Tensor, " N"]:
    r"""How uneven each row is, $\sum_u \lVert \nabla m(u) \rVert_\beta^\beta$, `(N,)`: masks, or pictures with C channels.

    The gradient is that of neighbours along each axis: $\sum_u \sum_i |m(u + e_i) - m(u)|^\beta$, with no term beyond the
    edge. `beta` is at least 1; the larger it is, the cheaper is a slow slope than a sharp edge.
    """
    total = torch.zeros(len(values), dtype=values.dtype, device=values.device)
    for axis in range(2, values.ndim):
        total = total + values.diff(dim=axis).abs().pow(beta).flatten(1).sum(1)
    return total
