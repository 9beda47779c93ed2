"""A user's own network, by the dotted path of its factory: "package.module:factory"."""

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from sfumato.models.anatomy import check_has_classes, describe
from sfumato.models.checkpoint import load_weights_
from sfumato.models.classifier import Classifier, Preparation
from sfumato.models.embedder import Embedder
from sfumato.settings import near


def load(path: str, checkpoint: Path | None = None, sources: Iterable[str] = (), embeds: bool = False) -> Classifier:
    """The classifier that the factory returns. It may also return an `nn.Module`, which gets the default `Preparation`.

    The labels of a module with 1000 outputs are ImageNet's classes. With `embeds`, a module's outputs are embeddings. `sources`
    are names that an error suggests instead of an unknown module. Raises `ValueError` if there is no such factory, if it
    returns something else, or if the outputs of a module are embeddings and not classes.
    """
    model = _factory(path, sources)()
    if not isinstance(model, Classifier | nn.Module):
        raise ValueError(f"{path!r} must return a torch.nn.Module or a sfumato.models.Classifier; got {model!r}")
    labels = None
    if checkpoint is not None:
        labels = load_weights_(model.net if isinstance(model, Classifier) else model, checkpoint)
    if isinstance(model, nn.Module) and embeds:
        return Embedder(path, model.eval(), Preparation(), ())
    if isinstance(model, nn.Module):
        classifier = describe(path, model, Preparation(), labels)
        check_has_classes(classifier)
        return classifier
    model.net.eval()
    return model


def _factory(path: str, sources: Iterable[str]) -> Any:
    module_name, _, attribute = path.partition(":")
    if len(Path(module_name).parts) > 1 or module_name.startswith(".") or Path(module_name).is_file():
        raise ValueError(
            f"{module_name!r} is a file, and a model is named by its module; write {Path(module_name).stem}:{attribute}, with "
            "the folder of the file on PYTHONPATH"
        )
    parent = module_name.rpartition(".")[0]
    try:
        exists = not (parent and importlib.util.find_spec(parent) is None) and importlib.util.find_spec(module_name)
    except ModuleNotFoundError:  # a parent of the parent is missing
        exists = None
    if not exists:
        suggestion = near(module_name, sources)
        raise ValueError(
            f"no module {module_name!r} for model {path!r}{suggestion}; install it, or put its folder on PYTHONPATH"
        )
    module = importlib.import_module(module_name)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        suggestion = near(attribute, [name for name, value in vars(module).items() if callable(value)])
        raise ValueError(
            f"module {module_name!r} has no function {attribute!r}{suggestion}; expected package.module:factory"
        )
    return factory
