"""Of which network something was measured: by a hash of its weights."""

from torch import nn

from sfumato.model.arguments import split_arguments
from sfumato.model.effects import Model
from sfumato.model.fingerprint import fingerprint


def weights_of(model: Model) -> str:
    """A hash of the modules and weights of a network; empty for other callables."""
    network, _ = split_arguments(model)
    return fingerprint(network) if isinstance(network, nn.Module) else ""


def same_network(weights: str, model: Model) -> bool:
    """Whether a hash is that of a model, as far as both are known."""
    return not weights or weights_of(model) in ("", weights)
