"""How many rows go through a model at once."""

import torch

GIB = 2**30

ON_CPU = 0.5
"""GiB on a processor, by default. Larger batches are no faster there: their activations leave its caches."""

FEW = 6
"""Rows on a processor that are worth more memory: fewer are slower, as each batch reads all weights."""

ON_CPU_FOR_FEW = 1.5
"""GiB on a processor, by default, for a batch of `FEW` rows or fewer."""

UNKNOWN = 2.0
"""GiB on a device that does not say how much memory is free."""

SHARE = 0.5
"""Of a device's free memory, by default."""


def rows_within(memory: float | None, row_bytes: int, device: torch.device) -> int:
    """How many rows that keep `row_bytes` bytes each fit into `memory` GiB, at least one.

    By default into `budget`; on a processor, `FEW` rows may take `ON_CPU_FOR_FEW` GiB.

    >>> [rows_within(memory, 180 * 2**20, torch.device("cpu")) for memory in (None, 0.5, 3)]
    [6, 2, 17]
    """
    rows_per_gib = GIB / max(row_bytes, 1)
    if memory is not None:
        return max(1, int(memory * rows_per_gib))
    few = min(FEW, int(ON_CPU_FOR_FEW * rows_per_gib)) if device.type == "cpu" else 0
    return max(1, few, int(budget(device) * rows_per_gib))


def budget(device: torch.device) -> float:
    """GiB that a model may keep on a device for its backward pass: on an accelerator, half of what is free."""
    if device.type == "cpu":
        return ON_CPU
    try:
        return SHARE * free_bytes(device) / GIB
    except (RuntimeError, AttributeError, NotImplementedError):
        return UNKNOWN


def free_bytes(device: torch.device) -> int:
    """What a device could still give: its free memory, and what torch holds of it without using it."""
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    free, _ = torch.accelerator.get_memory_info(device)
    unused = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    return int(free + unused)
