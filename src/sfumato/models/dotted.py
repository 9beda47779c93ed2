"""Anyone's own network, named by dotted path: "package.module:factory"."""

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from sfumato.models.anatomy import described
from sfumato.models.checkpoint import load_weights_
from sfumato.models.classifier import Classifier, Preparation
from sfumato.settings import near


def load(path: str, checkpoint: Path | None = None, sources: Iterable[str] = ()) -> Classifier:
    """What the factory returns: a `Classifier`, or an `nn.Module`, which is then shown pictures as ImageNet's are.

    That is the default `Preparation`: shorter side 256, centre crop 224, ImageNet's mean and deviation. 1000 outputs
    are taken for ImageNet's classes. `sources` are names that a module's may be a misspelling of.
    """
    made = _factory(path, sources)()
    if not isinstance(made, Classifier | nn.Module):
        raise ValueError(f"{path!r} must return a torch.nn.Module or a sfumato.models.Classifier; got {made!r}")
    if checkpoint is not None:
        load_weights_(made.net if isinstance(made, Classifier) else made, checkpoint)
    if isinstance(made, nn.Module):
        return described(path, made, Preparation())
    made.net.eval()
    return made


def _factory(path: str, sources: Iterable[str]) -> Any:
    module_name, _, attribute = path.partition(":")
    parent = module_name.rpartition(".")[0]
    try:
        known = not (parent and importlib.util.find_spec(parent) is None) and importlib.util.find_spec(module_name)
    except ModuleNotFoundError:  # a parent of the parent
        known = None
    if not known:
        offered = near(module_name, sources)
        raise ValueError(
            f"no module {module_name!r} for model {path!r}{offered}; install it, or put its folder on PYTHONPATH"
        )
    module = importlib.import_module(module_name)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        offered = near(attribute, [name for name, thing in vars(module).items() if callable(thing)])
        raise ValueError(
            f"module {module_name!r} has no function {attribute!r}{offered}; expected package.module:factory"
        )
    return factory
