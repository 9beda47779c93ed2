"""Loads classifiers by name, from one file for each source, and gives them all the same form.

`classifier.py` is that form. `anatomy.py` finds labels and layers of networks that do not name them. `checkpoint.py` reads
weights. `caffe.py` holds the architectures of TorchRay's models.
"""

import difflib
import os
from pathlib import Path
from types import ModuleType

from sfumato.models import dotted, lite0
from sfumato.models import hf as hf
from sfumato.models import onnx as onnx
from sfumato.models import timm as timm
from sfumato.models import torchray as torchray
from sfumato.models import torchvision as torchvision
from sfumato.models.classifier import Classifier, Preparation
from sfumato.settings import near

__all__ = ["NAMES", "SOURCES", "Classifier", "Preparation", "load"]

NAMES = {"lite0": lite0.load}
"""The models with names of their own."""
SOURCES = {name: value for name, value in vars().items() if isinstance(value, ModuleType) and hasattr(value, "OFFERS")}
"""The sources of models called source:name: every module imported above with `OFFERS` and `load`. If it has `names` too, a
function that lists its models, errors suggest them."""


def load(name: str, checkpoint: str | os.PathLike[str] | None = None) -> Classifier:
    """The classifier called "lite0", "torchvision:…", "timm:…", "hf:…", "torchray:…" or "package.module:factory".

    `checkpoint` is a file written by `torch.save(model.state_dict(), …)` or by safetensors, with weights for the architecture
    of `name`. The network is on the CPU.

    Raises `ValueError` for a wrong name or checkpoint, and `ModuleNotFoundError` if an extra of sfumato is not installed.
    """
    weights = None if checkpoint is None else Path(checkpoint)
    if name in NAMES:
        return NAMES[name](weights)
    source, _, model = name.partition(":")
    if model and source in SOURCES:
        return SOURCES[source].load(model, weights)
    if model:
        return dotted.load(name, weights, SOURCES)
    forms = [*NAMES, *(f"{source}:…" for source in SOURCES), "package.module:factory"]
    raise ValueError(
        f"no model {name!r}{near(name, forms) or _of_sources(name)}; expected {', '.join(forms[:-1])} or {forms[-1]}"
    )


def _of_sources(name: str) -> str:
    """The end of an error about a name without its source: the most similar names of the sources; empty without any."""
    names = [(source, known) for source, module in SOURCES.items() for known in getattr(module, "names", tuple)()]
    similar = difflib.get_close_matches(name.casefold(), list(dict.fromkeys(known for _, known in names)), cutoff=0.7)
    offered = [f"{source}:{known}" for one in similar for source, known in names if known == one][:3]
    return f"; did you mean {' or '.join(offered)}? Write the source too, e.g. {offered[0]}" if offered else ""
