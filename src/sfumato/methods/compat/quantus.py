"""An adapter for Quantus, whose metrics can then evaluate methods of this library."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from sfumato.attribution import Attribution


def explain_func(method: Callable[..., Attribution]) -> Callable[..., Float[np.ndarray, "B 1 *S"]]:
    """The `explain_func` for Quantus' metrics: a function from model, inputs and targets to NumPy maps.

    `explain_func(method)(model, inputs, targets)` takes inputs `(B, C, *S)` and class indices `(B,)`, and returns maps in
    float32. The inputs are converted to the precision and moved to the device of the model's parameters, or to
    `device`, which Quantus passes. Other settings raise `ValueError`, as they belong to the method.
    """

    def explain(model: Any, inputs: Any, targets: Any, device: Any = None, **more: Any) -> np.ndarray:
        if more:
            raise ValueError(
                f"settings belong to the method, not to explain_func_kwargs; got {', '.join(more)}. "
                "Build the method with them, e.g. explain_func(ExtremalPerturbation(steps=50))"
            )
        x = torch.from_numpy(np.asarray(inputs))
        like = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        dtype = torch.float32 if like is None else like.dtype
        x = x.to(device=device or (x.device if like is None else like.device), dtype=dtype)
        return method(model, x, np.asarray(targets)).map.cpu().numpy()

    return explain
