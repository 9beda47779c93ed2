r"""The smallest sufficient area: $a^* = \min \{ a : \Phi(m_a \otimes x) \geq \Phi_0 \}$ (Fong et al. 2019, eq. 3)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.games import Game
from sfumato.methods.extremal import ExtremalPerturbation, Progress, Search, check_areas
from sfumato.probing import Model

CURVE = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Areas at which the score is sampled first, from a small spot to nearly the whole input."""

ROUNDING = 1e-6
"""Of areas in float32: a bracket this much wider than the tolerance is as wide."""


@dataclass(frozen=True)
class SmallestArea:
    """For each of `B` queries, the smallest area whose mask keeps enough, and the curve that shows how it was found."""

    area: Tensor
    """$a^*$ as a fraction of the input, `(B,)`; NaN where no area reaches the wanted score."""
    reached: Tensor
    """Whether any did, `(B,)`."""
    wanted: Tensor
    r"""The score $\Phi_0$ to reach, `(B,)`."""
    attribution: Attribution
    """The mask of that area, `(B, 1, 1, *S)`; where none reaches the score, the mask that came nearest. Each query's own
    area is in `achieved`; `areas` holds the largest."""
    curve_areas: Tensor
    """`(n,)`, growing."""
    curve_scores: Tensor
    """The score that the best mask of each of these areas keeps, `(B, n)`."""


def smallest(
    method: ExtremalPerturbation,
    model: Model,
    inputs: Tensor,
    targets: Any,
    keep: float = 0.9,
    tolerance: float = 0.01,
    areas: tuple[float, ...] = CURVE,
    progress: Progress | None = None,
) -> SmallestArea:
    r"""Find $a^*$ for $\Phi_0 = \mathrm{keep} \cdot \Phi(x)$, to within `tolerance` (a fraction of the input).

    The score is sampled at `areas` in one batch; then the bracket around the first area that suffices is halved until it
    is no wider than `tolerance`. Each halving starts from the mask just above, and takes a quarter of the method's steps.
    The method's game must be one that only keeps; its own areas are not used.

    Scores need not grow strictly with the area, as each is found by its own ascent; $a^*$ is the first crossing.
    """
    if not 0 < keep <= 1:
        hint = f". Did you mean {keep / 100:g}?" if 1 < keep <= 100 else ""
        raise ValueError(f"keep is the share of the whole input's score and must lie in (0, 1]; got {keep:g}{hint}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is a fraction of the input and must lie in (0, 1); got {tolerance:g}")
    areas = check_areas(areas)
    if Game.named(method.game).drop:
        raise ValueError('the smallest sufficient area is defined for game="preserve"; got a game with a drop')
    with Search.prepared(replace(method, areas=areas), model, inputs, targets) as search:
        batch = len(inputs)
        device = inputs.device
        wanted = keep * search.whole
        if (search.whole <= 0).any():
            raise ValueError(
                f"a share of the score means nothing where the whole input's is not positive: {search.whole.tolist()}; "
                "explain a positive score, e.g. targets=Probability(class)"
            )
        grid = torch.tensor(areas, device=device)
        sampled = grid.expand(batch, -1)
        parameters = search.ascend(sampled, progress).unflatten(0, (batch, -1))
        scores = search.scores(search.masks(parameters.flatten(0, 1), sampled))
        enough = scores >= wanted[:, None]
        reached = enough.any(1)
        # The first area that suffices; where none does, the one that comes nearest.
        first = torch.where(reached, enough.int().argmax(1), scores.argmax(1))
        rows = torch.arange(batch, device=device)
        upper, best = grid[first], parameters[rows, first]
        lower = torch.where(first > 0, grid[(first - 1).clamp(min=0)], 0.0)
        lower = torch.where(reached, lower, upper)
        while (open_ := upper - lower > tolerance + ROUNDING).any():
            middle = torch.where(open_, (lower + upper) / 2, upper)
            found = search.ascend(middle[:, None], progress, warm=best, steps=max(1, method.steps // 4))
            score = search.scores(search.masks(found, middle[:, None]))[:, 0]
            suffices = open_ & (score >= wanted)
            best = torch.where(suffices.view(-1, *[1] * (best.ndim - 1)), found, best)
            lower = torch.where(open_ & ~suffices, middle, lower)
            upper = torch.where(suffices, middle, upper)
        return SmallestArea(
            area=torch.where(reached, upper, torch.nan),
            reached=reached,
            wanted=wanted,
            attribution=search.attribution(best, upper[:, None]),
            curve_areas=grid,
            curve_scores=scores,
        )
