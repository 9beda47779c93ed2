"""What a method must leave as it was: all of a model, its inputs and torch's settings that a careless caller would change."""

import numpy as np
import torch
from torch import nn

HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
GLOBAL_HOOKS = [name for name in vars(nn.modules.module) if name.startswith("_global_") and name.endswith("_hooks")]


def state(model, *inputs):
    """All that must not change."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "identities": {name: (id(value), value.data_ptr()) for name, value in model.named_parameters()},
        "versions": {name: value._version for name, value in model.state_dict(keep_vars=True).items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {f"{name}.{kind}": list(getattr(m, kind)) for name, m in model.named_modules() for kind in HOOKS},
        "global hooks": {name: list(getattr(nn.modules.module, name)) for name in GLOBAL_HOOKS},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "types": {name: type(module) for name, module in model.named_modules()},
        "forward": {name: getattr(module.forward, "__func__", None) for name, module in model.named_modules()},
        "functions": (torch.relu, nn.functional.relu, torch.Tensor.relu, nn.ReLU.forward),
        "function modes": torch.overrides._get_current_function_mode_stack(),
        "inputs": {place: x.clone() for place, x in enumerate(inputs)},
        "inputs want gradients": [x.requires_grad for x in inputs],
        "inputs' gradients": {place: x.grad for place, x in enumerate(inputs)},
        "random": torch.get_rng_state(),
        "numpy's random": np.random.get_state()[1].tolist(),  # noqa: NPY002  # the global state is meant
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast type": torch.get_autocast_dtype("cpu"),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
    }


def assert_unchanged(before, after):
    changed = [name for name in before if not same(before[name], after[name])]
    assert not changed, changed


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
