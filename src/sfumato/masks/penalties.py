"""How far a mask is from having the wanted area."""

import torch
from jaxtyping import Float
from torch import Tensor


def area_penalty(masks: Float[Tensor, "N 1 *S"], areas: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""Distance of each mask's sorted values from a step of the wanted area, `(N,)`.

    $R_a(m) = \lVert \mathrm{vecsort}(m) - r_a \rVert^2 / |\Omega|$   (Fong et al. 2019, section 3), where
    $\mathrm{vecsort}$ is in non-decreasing order and $r_a$ is $(1-a)|\Omega|$ zeros, then ones.

    `masks` is `(N, 1, *S)`; `areas` `(N,)`, fractions of the places that the mask has.
    """
    values = masks.flatten(1).sort(dim=1).values
    count = values.shape[1]
    # An area such as 20/60 has no exact float32; without the margin, one zero too few is counted.
    zeros = (
        ((1 - areas.cpu().double()) * count + 0.01).floor().long().unsqueeze(1).to(masks.device)
    )  # not all have float64
    step = (torch.arange(count, dtype=torch.long, device=masks.device) >= zeros).to(masks.dtype)
    return (values - step).square().mean(dim=1)
