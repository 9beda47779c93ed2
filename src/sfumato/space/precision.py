"""The floating-point types that a device has."""

import torch


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that lacks it (MPS), where a conversion to float64 raises an error.

    >>> widest_float(torch.device("cpu")), widest_float(torch.device("mps"))
    (torch.float64, torch.float32)
    """
    return torch.float32 if device.type == "mps" else torch.float64
