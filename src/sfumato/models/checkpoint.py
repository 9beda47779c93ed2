"""Reads weights from files. Also names the extra of sfumato to install if an optional package is missing."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

SHOWN = 3  # differences that an error names
UNNEEDED = "num_batches_tracked"  # no output depends on it, and old files do not have it


@contextmanager
def requiring(extra: str, model: str) -> Iterator[None]:
    """A context for the imports that `model` needs. Its `ModuleNotFoundError` names the extra of sfumato to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'model {model!r} needs {error.name}, which is not installed; run: pip install "sfumato[{extra}]"',
            name=error.name,
        ) from error


def load_weights_(net: nn.Module, path: Path) -> None:
    """Load the weights of a checkpoint, in PyTorch's or the safetensors format, into the network.

    The checkpoint is a state dict, or holds one under "state_dict" or "model". The prefix "module.", which data-parallel
    training adds, is removed. Raises `ValueError` unless its names and shapes are the network's; only `num_batches_tracked` may
    be missing.
    """
    fit_(net, state_dict(path), path)


def fit_(net: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into the network. Raises `ValueError`, with `path`, unless their names and shapes are the network's."""
    expected = net.state_dict()
    differences = [
        *(f"{name} is missing" for name in expected.keys() - weights.keys() if not name.endswith(UNNEEDED)),
        *(f"{name} is not in the model" for name in weights.keys() - expected.keys()),
        *(
            f"{name} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected.keys() & weights.keys()
            if weights[name].shape != expected[name].shape
        ),
    ]
    if differences:
        listed = ", ".join(sorted(differences)[:SHOWN])
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise ValueError(f"checkpoint {str(path)!r} does not fit {type(net).__name__}: {listed}{more}")
    net.load_state_dict(weights)


def state_dict(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, by name. Raises `ValueError` if the file cannot be read or holds no state dict."""
    if not path.is_file():
        raise ValueError(f"no checkpoint {str(path)!r}; expected a file written by torch.save or safetensors")
    content = _content(path)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"checkpoint {str(path)!r} holds no state dict; expected a file of torch.save(model.state_dict(), …)"
        )
    return {name.removeprefix("module."): value for name, value in content.items()}


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint {str(path)!r} is damaged or holds Python objects, which are not loaded because they can run "
            "code; expected tensors only, saved with torch.save(model.state_dict(), …)"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"cannot read checkpoint {str(path)!r} ({error}); expected an undamaged file") from error
