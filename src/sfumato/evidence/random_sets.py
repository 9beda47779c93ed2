"""Sets whose outlines are level lines of random smooth fields."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.masks.level_set import LevelSets

AT_ONCE = 16
"""Fields that are cut together."""


def random_fields(sets: LevelSets, count: int, generator: torch.Generator) -> Float[Tensor, "{count} 1 *L"]:
    """Parameters of random fields, on the CPU."""
    return torch.randn(count, 1, *sets.size, generator=generator, dtype=torch.float32, device="cpu")


def cut(sets: LevelSets, fields: Float[Tensor, "N 1 *L"], areas: Float[Tensor, " N"]) -> Bool[Tensor, " N *S"]:
    """The level sets of fields that have the areas, on the areas' device."""
    parts = [
        sets.nodes(sets.settled(some.to(areas.device), wanted)) > 0.5
        for some, wanted in zip(fields.split(AT_ONCE), areas.split(AT_ONCE), strict=True)
    ]
    return torch.cat(parts)[:, 0]
