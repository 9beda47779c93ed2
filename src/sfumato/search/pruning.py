"""Giving up parts of sets that do not matter."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d

from sfumato.masks.level_set import LevelSets
from sfumato.masks.parts import label_parts, largest_nearby
from sfumato.search.problem import Problem
from sfumato.search.rules import like
from sfumato.settings import Settings, check_number, check_whole

POOLS = {1: adaptive_max_pool1d, 2: adaptive_max_pool2d, 3: adaptive_max_pool3d}
"""By the number of axes of space."""


@dataclass(frozen=True)
class Pruning(Settings):
    """Removes the parts of a set that the score does not need.

    From the smallest on, each part is taken away, and the others grow by its area; of more than `most` parts, the smallest are
    tried. It stays away if the game's value is still as good as that of the set with all parts, to within the
    share `loss` of the difference between the values of the whole input and of the hidden one. What exceeds the whole input's
    value does not count: a part is not needed to make a score higher than that. Where the hidden input does as well as the
    whole one, or better, all of the set's value counts: else a set that does no better than nothing could take its place.
    """

    loss: float = 0.02
    most: int = 8

    def __post_init__(self) -> None:
        check_number("loss", self.loss, "a share of a difference between scores", least=0)
        check_whole("most", self.most)

    def __call__(self, problem: Problem, parameters: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N 1 *L"]:
        """Parameters `(N, 1, *L)` of sets of the problem's areas, without the parts that are not needed."""
        sets, areas = problem.parametrisation, problem.areas.flatten()
        assert isinstance(sets, LevelSets)  # noqa: S101  # for the type checker
        labels = label_parts(sets.inside(sets.nodes(parameters)))
        count = labels.flatten(1).amax(1)
        if int(count.max()) < 2:
            return parameters

        whole, hidden = problem.bounds
        values = problem.values(parameters)
        counted = torch.where(whole > hidden, values.minimum(whole), values)
        least = counted - self.loss * (whole - hidden).abs()
        remaining = count
        for tried in range(min(self.most, int(count.max()))):
            number = count - tried
            part = (labels == like(number, labels)) & (labels > 0)
            others = (labels > 0) & ~part
            candidates = sets.settled(_lowered(parameters, part, others), areas)
            fewer = label_parts(sets.inside(sets.nodes(candidates))).flatten(1).amax(1)
            good = part.flatten(1).any(1) & others.flatten(1).any(1) & (problem.values(candidates) >= least)
            good &= fewer <= remaining  # what cannot grow by the area leaves more, elsewhere
            parameters = torch.where(like(good, parameters), candidates, parameters)
            remaining = torch.where(good, fewer, remaining)
            labels = labels.masked_fill(part & like(good, labels), 0)
        return parameters


def _lowered(
    parameters: Float[Tensor, "N 1 *L"], part: Bool[Tensor, "N 1 *S"], others: Bool[Tensor, "N 1 *S"]
) -> Float[Tensor, "N 1 *L"]:
    """Parameters `(N, 1, *L)` that are low at the nodes of a part, and the lower the further a node is from the others.

    So the others grow outwards when the field is shifted for the area, and nothing else rises above the level.
    """
    axes, size = parameters.ndim - 2, parameters.shape[2:]
    within, beside = (POOLS[axes](places.to(parameters.dtype), size) for places in (part, others))
    distance, reach = torch.zeros_like(parameters), beside
    for _ in range(max(size)):
        distance += 1 - reach
        reach = largest_nearby(reach)
    ceiling = torch.where(distance > 1, LOW - SLOPE * (distance - 2), 1.0)
    ceiling = torch.where((within > 0) & (beside == 0), ceiling.clamp(max=LOW), ceiling)
    return parameters.minimum(ceiling)


LOW = 0.4
"""Of a part that is taken away, where the field's level is 0.5."""

SLOPE = 0.05
"""How much lower a node may be for each node further from the parts that stay."""
