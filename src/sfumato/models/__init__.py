"""Loads classifiers by name, from one file for each source, and gives them all the same form.

`classifier.py` is that form, `detector.py` and `embedder.py` those of networks that give boxes or embeddings. `anatomy.py`
finds labels and layers of networks that do not name them. `checkpoint.py` reads weights, `class_names.py` names of classes.
`clips.py` prepares clips and volumes, and `transforms.py` uses other libraries' transforms. `questions.py` is what can be asked
of a model besides a class. `caffe.py` holds the architectures of TorchRay's models.
"""

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from sfumato.data.labels import default_labels, imagenet
from sfumato.model.outputs import SORTED
from sfumato.models import dotted, lite0
from sfumato.models import hf as hf
from sfumato.models import onnx as onnx
from sfumato.models import timm as timm
from sfumato.models import torchray as torchray
from sfumato.models import torchvision as torchvision
from sfumato.models.anatomy import last_function
from sfumato.models.class_names import read_class_names
from sfumato.models.classifier import Classifier, Preparation
from sfumato.models.clips import ClipPreparation
from sfumato.models.detector import Detector
from sfumato.models.embedder import Embedder
from sfumato.models.transforms import TransformPreparation, prepared_by
from sfumato.scores import SIGMOID
from sfumato.settings import keywords_told, near

__all__ = [
    "NAMES",
    "SOURCES",
    "Classifier",
    "ClipPreparation",
    "Detector",
    "Embedder",
    "Preparation",
    "TransformPreparation",
    "load",
    "prepared_by",
    "remarks",
]

NAMES = {"lite0": lite0.load}
"""The models with names of their own."""
SOURCES = {name: value for name, value in vars().items() if isinstance(value, ModuleType) and hasattr(value, "OFFERS")}
"""The sources of models called source:name: every module imported above with `OFFERS` and `load`. If it has `names` too, a
function that lists its models, errors suggest them."""


OFFERED = 3
"""How many similar names an error offers."""


@keywords_told
def load(
    name: str,
    checkpoint: str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    embeds: bool = False,
) -> Classifier:
    """The classifier called "lite0", "torchvision:…", "timm:…", "hf:…", "torchray:…", "onnx:FILE" or "package.module:factory".

    `checkpoint` is a file written by `torch.save(model.state_dict(), …)` or by safetensors, with weights for the architecture
    of `name`. It may have another number of classes than the architecture's own weights. `labels` are the names of the classes:
    a list, or a file with one name in each line, or JSON. By default they are those in the checkpoint, if it holds any, or the
    model's own. The network is on the CPU.

    torchvision's and transformers' detectors are a `Detector`. With `embeds`, the network is loaded for the embeddings that its
    outputs are, to be explained by `Similarity`: from timm and transformers, without its classifier, as an `Embedder`.

    Raises `ValueError` for a wrong name, checkpoint or labels, and `ModuleNotFoundError` if an extra of sfumato is not
    installed.
    """
    classifier = _load(name, None if checkpoint is None else Path(checkpoint), embeds)
    if labels is None or isinstance(classifier, Embedder):
        return classifier
    background = isinstance(classifier, Detector) and classifier.link is None
    return replace(classifier, labels=read_class_names(labels, len(classifier.labels), background))


def _load(name: str, weights: Path | None, embeds: bool) -> Classifier:
    if name in NAMES:
        return NAMES[name](weights)
    source, _, model = name.partition(":")
    if model and source in SOURCES:
        module = SOURCES[source]
        load = getattr(module, "load_embedder", module.load) if embeds else module.load
        classifier: Classifier = load(model, weights)
        return classifier
    if model:
        return dotted.load(name, weights, SOURCES, embeds)
    forms = [*NAMES, *(f"{source}:…" for source in SOURCES), "package.module:factory"]
    raise ValueError(
        f"no model {name!r}{near(name, forms) or _of_sources(name)}; expected {', '.join(forms[:-1])} or {forms[-1]}"
    )


def remarks(classifier: Classifier) -> list[str]:
    """What to know of a network before its classes are explained: sentences; mostly of networks of one's own.

    That its outputs have no names; that they are probabilities already, or sorted; that they estimate numbers.
    """
    count, source = len(classifier.labels), classifier.name.partition(":")[0]
    unnamed = count > 1 and tuple(classifier.labels) == default_labels(count)
    of_imagenet = count == len(imagenet())
    of_a_library = source in NAMES or (source in SOURCES and SOURCES[source] is not onnx)
    found = []
    if unnamed and not (of_imagenet and of_a_library):
        taken = "ImageNet's classes, in their usual order" if of_imagenet else "classes"
        found.append(
            f"{classifier.name} has {count} outputs without names, which are taken for {taken}. --labels FILE names them; if "
            "they are an embedding, write --score similarity --to PICTURE"
        )
    if not of_a_library and not isinstance(classifier, Detector | Embedder) and (function := last_function(classifier)):
        remedy = ", and write --score sigmoid" if function == SIGMOID else ""
        found.append(
            f"The outputs of {classifier.name} are sorted by their size, so that an index names no class but a rank. Return "
            "them before they are sorted"
            if function == SORTED
            else f"The outputs of {classifier.name} went through a {function} already, so that the percentages of its classes "
            f"are wrong. Leave the {function} out of the network{remedy}"
        )
    if isinstance(classifier.net, onnx.OnnxNetwork) and (others := classifier.net.others):
        found.append(
            f"{classifier.name} has several outputs, of which {classifier.net.output!r} is explained, and "
            f"{', '.join(map(repr, others))} not"
        )
    config = getattr(getattr(classifier.net, "model", None), "config", None)  # of transformers
    if getattr(config, "problem_type", None) == "regression":
        found.append(
            f"The outputs of {classifier.name} estimate numbers, and the percentages mean nothing. Write --score regression"
        )
    return found


def _of_sources(name: str) -> str:
    """The end of an error about a name without its source: the most similar names of the sources; empty without any."""
    known: dict[str, list[str]] = {}  # by name, all sources that have it; torchvision, which most people mean, first
    for source, module in reversed(SOURCES.items()):
        for model in getattr(module, "names", tuple)():
            known.setdefault(model, []).append(f"{source}:{model}")
    wanted = name.casefold()
    similar = [wanted] if wanted in known else difflib.get_close_matches(wanted, known, cutoff=0.7)
    offered = [full for model in similar for full in known[model]][:OFFERED]
    return f"; did you mean {' or '.join(offered)}? Write the source too, e.g. {offered[0]}" if offered else ""
