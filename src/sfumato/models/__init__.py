"""Classifiers by name, each brought to the same form, from one file a source."""

import os
from pathlib import Path

from sfumato.models import dotted, hf, lite0, timm, torchray, torchvision
from sfumato.models.classifier import Classifier, Preparation
from sfumato.settings import near

__all__ = ["NAMES", "SOURCES", "Classifier", "Preparation", "load"]

NAMES = {"lite0": lite0.load}  # models with names of their own
SOURCES = {  # models called source:name
    "torchvision": torchvision.load,
    "timm": timm.load,
    "hf": hf.load,
    "torchray": torchray.load,
}


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
        return SOURCES[source](rest, weights)
    if rest:
        return dotted.load(name, weights, SOURCES)
    known = [*NAMES, *(f"{source}:…" for source in SOURCES), "package.module:factory"]
    raise ValueError(f"no model {name!r}{near(name, known)}; expected {', '.join(known[:-1])} or {known[-1]}")
