"""Classifiers by name, each brought to the same form, from one file a source."""

import os
from pathlib import Path
from types import ModuleType

from sfumato.models import dotted, lite0
from sfumato.models import hf as hf
from sfumato.models import timm as timm
from sfumato.models import torchray as torchray
from sfumato.models import torchvision as torchvision
from sfumato.models.classifier import Classifier, Preparation
from sfumato.settings import near

__all__ = ["NAMES", "SOURCES", "Classifier", "Preparation", "load"]

NAMES = {"lite0": lite0.load}
"""Models with names of their own."""
SOURCES = {name: value for name, value in vars().items() if isinstance(value, ModuleType) and hasattr(value, "OFFERS")}
"""The sources of models called source:name: every module imported above that says what it `OFFERS` and can `load` it."""


def load(name: str, checkpoint: str | os.PathLike[str] | None = None) -> Classifier:
    """The classifier called "lite0", "torchvision:…", "timm:…", "hf:…", "torchray:…", or by "package.module:factory".

    With `checkpoint`, a file written by `torch.save(model.state_dict(), …)` or by safetensors, the architecture is that
    of `name` and the weights are the file's. The network lies on the CPU.

    Raises `ValueError` for a name or checkpoint that is no good, `ModuleNotFoundError` where an extra is not installed.
    """
    weights = None if checkpoint is None else Path(checkpoint)
    if name in NAMES:
        return NAMES[name](weights)
    source, _, rest = name.partition(":")
    if rest and source in SOURCES:
        return SOURCES[source].load(rest, weights)
    if rest:
        return dotted.load(name, weights, SOURCES)
    known = [*NAMES, *(f"{source}:…" for source in SOURCES), "package.module:factory"]
    raise ValueError(f"no model {name!r}{near(name, known)}; expected {', '.join(known[:-1])} or {known[-1]}")
