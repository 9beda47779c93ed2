"""Reads weights from files. Also names the extra of sfumato to install if an optional package is missing."""

import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.models.class_names import names_beside

SHOWN = 3  # differences that an error names
UNNEEDED = "num_batches_tracked"  # no output depends on it, and old files do not have it
HOLDERS = ("state_dict", "model_state_dict", "model_state", "model")
"""The keys under which programs for training put the weights."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What data-parallel training, Lightning and `torch.compile` put before the name of each weight."""
EMBEDDING = (
    "explain how similar its embeddings are, with sfumato explain --score similarity --to PICTURE, or "
    "targets=sfumato.Similarity(reference) and the network itself as the model; or give a checkpoint with a classifier"
)
"""What a user of a backbone without a classifier can do, for errors."""
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.", "aux_classifier.")
"""Heads of GoogLeNet, Inception and segmentations that are used in training only."""


@contextmanager
def requiring(extra: str, model: str) -> Iterator[None]:
    """A context for the imports that `model` needs. Its `ModuleNotFoundError` names the extra of sfumato to install.

    Raises `ImportError` if torchvision, which the other libraries import too, was built for another torch.
    """
    try:
        yield
    except RuntimeError as error:
        if "torchvision" not in str(error):
            raise
        raise ImportError(
            f"model {model!r} needs a torchvision that was built for the installed torch {torch.__version__} ("
            f"{str(error).partition('. ')[0]}); "
            "install both together from one index, e.g. that of wheels for the CPU, as "
            "https://pytorch.org/get-started/locally says",
            name="torchvision",
        ) from error
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'model {model!r} needs {error.name}, which is not installed; run: pip install "sfumato[{extra}]"',
            name=error.name,
        ) from error


@contextmanager
def downloading(weights: str) -> Iterator[None]:
    """A context in which weights may be downloaded. Raises `ValueError` with their name where that fails."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot download {weights} ({error}). If you have the file, give it as checkpoint=…"
        ) from error


def load_weights_(net: nn.Module, path: Path) -> tuple[str, ...] | None:
    """Load the weights of a checkpoint, in PyTorch's or the safetensors format, into the network. Returns its class names.

    The checkpoint is a state dict, or holds one under one of `HOLDERS`. Prefixes that wrappers add, `PREFIXES`, are removed
    where the network has no such name. Raises `ValueError` unless its names and shapes are the network's; only
    `num_batches_tracked` may be missing, and only heads for training, `AUXILIARY`, may be too many.
    """
    checkpoint = read(path)
    fit_(net, checkpoint.weights, path)
    return checkpoint.labels


def loaded(
    build: Callable[[int | None], nn.Module], path: Path, count: int | None = None
) -> tuple[nn.Module, tuple[str, ...] | None]:
    """A network with the weights of a checkpoint, and with as many classes as it has; and its class names, if it holds any.

    `build` makes the network for a number of classes, or with `None` as its authors trained it. `count` is as for
    `other_classes`. Raises the errors of `load_weights_`.
    """
    checkpoint = read(path)
    net = build(None)
    classes = other_classes(net, checkpoint.weights, count)
    if classes is not None:
        net = build(classes)
    fit_(net, checkpoint.weights, path)
    return net, checkpoint.labels


def other_classes(net: nn.Module, weights: Mapping[str, Tensor], count: int | None = None) -> int | None:
    """How many classes the weights are for, if that is all in which they differ from the network; else `None`.

    `count` is how many the network has, if it has several outputs for a class, as a detector has: then all of these differ by
    one factor.
    """
    expected = net.state_dict()
    given = renamed(weights, expected)
    lengths = set()
    for name in expected.keys() & given.keys():
        ours, theirs = tuple(expected[name].shape), tuple(given[name].shape)
        if ours != theirs:
            if not ours or len(ours) != len(theirs) or ours[1:] != theirs[1:]:
                return None
            lengths.add(Fraction(count * theirs[0], ours[0]) if count else Fraction(theirs[0]))
    return int(lengths.pop()) if len(lengths) == 1 and all(length.denominator == 1 for length in lengths) else None


def fit_(net: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into the network. Raises `ValueError`, with `path`, unless their names and shapes are the network's."""
    expected = net.state_dict()
    weights = renamed(weights, expected)
    differences = [
        *(f"{name} is missing" for name in expected.keys() - weights.keys() if not name.endswith(UNNEEDED)),
        *(f"{name} is not in the model" for name in weights.keys() - expected.keys()),
        *(
            f"{name} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected.keys() & weights.keys()
            if weights[name].shape != expected[name].shape
        ),
    ]
    if part := _lacks_last_part(expected, weights):
        raise ValueError(
            f"checkpoint {str(path)!r} has no weights for {part!r}, the last part of {type(net).__name__}: it is of a backbone "
            f"without a classifier; {EMBEDDING}"
        )
    if differences:
        listed = ", ".join(sorted(differences)[:SHOWN])
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise ValueError(f"checkpoint {str(path)!r} does not fit {type(net).__name__}: {listed}{more}")
    net.load_state_dict(weights, strict=False)  # only `UNNEEDED` may be missing


def _lacks_last_part(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """The name of the network's last part, if its weights are all that is missing or has another shape; else empty."""
    last = list(expected)[-1].rpartition(".")[0]
    own = {name for name in expected if name.startswith(f"{last}.")}
    differing = {
        name
        for name in expected
        if not name.endswith(UNNEEDED) and (name not in weights or weights[name].shape != expected[name].shape)
    }
    return last if last and differing == own and not own & weights.keys() and weights.keys() <= expected.keys() else ""


def renamed(weights: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """The weights by the network's names: without prefixes of wrappers, and without heads for training that it does not have.

    >>> renamed({"module.model.fc.bias": torch.zeros(2), "aux1.fc.bias": torch.zeros(2)}, ["fc.bias"])
    {'fc.bias': tensor([0., 0.])}
    """
    given = {name: value for name, value in weights.items() if name in expected}
    for name, value in weights.items():
        if name in given:
            continue
        forms = _without_prefixes(name)
        new = next((form for form in forms if form in expected), forms[-1])
        if new not in expected and new.startswith(AUXILIARY):
            continue
        given[new if new not in given else name] = value
    return given


def _without_prefixes(name: str) -> list[str]:
    """The name, and what remains after the first prefix of a wrapper, the second, and so on."""
    forms = [name]
    while prefix := next((prefix for prefix in PREFIXES if forms[-1].startswith(prefix)), None):
        forms.append(forms[-1].removeprefix(prefix))
    return forms


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file of weights holds."""

    weights: dict[str, Tensor]
    """By the names that the file has."""
    labels: tuple[str, ...] | None
    """The names of the classes, in the order of their indices, if the file holds them."""


def read(path: Path) -> Checkpoint:
    """The weights of a checkpoint, by name, and its class names. Raises `ValueError` if it holds no state dict."""
    if not path.is_file():
        raise ValueError(f"no checkpoint {str(path)!r}; expected a file written by torch.save or safetensors")
    content = around = _content(path)
    for key in HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"checkpoint {str(path)!r} holds no state dict; expected a file of torch.save(model.state_dict(), …)"
        )
    return Checkpoint(dict(content), names_beside(around) if content is not around else None)


def state_dict(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint by name, without the prefixes of wrappers. Raises the errors of `read`."""
    return {_without_prefixes(name)[-1]: value for name, value in read(path).weights.items()}


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
