"""A network that the page asks: what the page offers for it, and what it answers for a picture."""

import copy
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.data.labels import synonyms
from sfumato.figures.report.encoding import jpeg, thumbnail
from sfumato.figures.report.pictures import shape_seen
from sfumato.model.effects import device_of
from sfumato.models import Classifier, Detector, Embedder
from sfumato.models.questions import detected
from sfumato.scores import probabilities
from sfumato.web import asking, uploads
from sfumato.web.explaining import choices, layers
from sfumato.web.tabs import TabPicture

TOP, MATCHES = 5, 20
"""How many classes of a picture are sent, and how many that match a search."""

SHOWN = 720
"""The longer side of the picture on the page, in pixels."""

MOST_VALUES = 4_000_000
"""The largest number of values of a network's input. Only networks that take pictures of any size can have larger ones."""


@dataclass(frozen=True, eq=False)
class Served:
    """A network of the server, at its place among them."""

    index: int
    name: str
    """What the page calls it. No other network of the server has this name."""
    classifier: Classifier
    """The network that searches use, one after the other."""
    predictor: Classifier
    """A copy for predictions, as hooks and modes of a running search change what the first one computes."""

    @cached_property
    def offers(self) -> dict[str, Any]:
        """What the page offers for it."""
        return {
            "name": self.name,
            "classes": len(self.classifier.labels),
            "methods": choices(self.classifier),
            "layers": layers(self.predictor),
            "scores": asking.offered(self.predictor),
        }

    @cached_property
    def _folded(self) -> list[str]:
        return [label.casefold() for label in self.classifier.labels]

    def matches(self, text: str) -> list[dict[str, Any]]:
        """The classes whose names contain a text. Names that begin with it come first."""
        text = text.strip().casefold()[:100]
        found = [index for index, label in enumerate(self._folded) if text in label or text == str(index)]
        found.sort(key=lambda index: not any(name.startswith(text) for name in synonyms(self._folded[index])))
        return [{"index": index, "label": self.classifier.labels[index]} for index in found[:MATCHES]]

    def class_of(self, other: "Served", index: int) -> int:
        """The index of the class that has number `index` in another network: that which shares a name with it.

        Raises `ValueError` if there is none, or if there are several.
        """
        label = other.classifier.labels[index]
        names = set(synonyms(label.casefold()))
        fitting = [place for place, own in enumerate(self._folded) if names & set(synonyms(own))]
        if index in fitting:
            return index
        if len(fitting) != 1:
            have = f"has {len(fitting)} classes" if fitting else "has no class"
            raise ValueError(
                f"{self.name} {have} of the name {synonyms(label)[0]!r}, so it cannot be asked about it; choose a class that "
                "both networks have, or ask one network alone"
            )
        return fitting[0]

    def predict(self, content: bytes, file: str, name: str = "") -> tuple[TabPicture, dict[str, Any]]:
        """Decode and prepare a picture, and predict its classes. It gets a new name unless one is given.

        Raises `ValueError` for what is no picture, and if the network fails.
        """
        classifier = self.predictor
        picture = uploads.picture(content)
        shown = thumbnail(picture, SHOWN)
        with _network_errors():
            prepared = classifier.prepare(picture)
        if prepared.numel() > MOST_VALUES:
            _, height, width = prepared.shape
            raise ValueError(
                f"the network would get an input of {width} × {height} pixels, which is too large here; crop the picture"
            )
        size = picture.size
        del picture
        with _network_errors():
            inputs = prepared[None].to(device_of(classifier.net))
            top = self._top(inputs, size)
        rgb = classifier.restore(inputs)[0].cpu()
        tab_picture = TabPicture(name or secrets.token_urlsafe(9), content, inputs, file, size, self.index)
        window = classifier.preparation.window(size)
        return tab_picture, {
            "picture": tab_picture.name,
            "file": file,
            "shown": shown,
            "size": size,
            "window": [place / size[index % 2] for index, place in enumerate(window)],
            "seen": jpeg(rgb),
            "shape": shape_seen(classifier, size),
            "width": rgb.shape[2],
            "height": rgb.shape[1],
            "top": top,
        }

    def _top(self, inputs: Float[Tensor, "1 C H W"], size: tuple[int, int]) -> list[dict[str, Any]]:
        """What the network answers for a picture of a width and height: the most probable classes, or the boxes that a
        detector is surest of, in pixels of the picture; nothing for embeddings. Raises `ValueError` for what is not finite."""
        classifier = self.predictor
        labels = classifier.labels
        if isinstance(classifier, Detector):
            return [
                {"index": one.target, "label": labels[one.target], "share": one.sureness, "box": box}
                for one, box in detected(classifier, size, inputs)[:TOP]
            ]
        with torch.no_grad():
            if isinstance(classifier, Embedder):
                classifier.net(inputs)  # it fails here for an input that it cannot take
                return []
            logits = classifier.logits(inputs)[0].float().cpu()
        if not bool(logits.isfinite().all()):
            raise ValueError(
                "the network's scores for this picture are not all finite numbers, so nothing can be explained"
            )
        shares = probabilities(logits[None], classifier.probability_link())[0]
        indices = logits.topk(min(TOP, len(logits))).indices.tolist()  # the likeliest class first
        return [
            {"index": index, "label": labels[index], "logit": float(logits[index]), "share": float(shares[index])}
            for index in indices
        ]


def served(classifiers: Sequence[Classifier]) -> list[Served]:
    """The networks of a server. Several of one name get numbers: "resnet50 (1)", "resnet50 (2)"."""
    names = Counter(classifier.name for classifier in classifiers)
    numbers: Counter[str] = Counter()
    networks = []
    for index, classifier in enumerate(classifiers):
        name = classifier.name
        numbers[name] += 1
        title = name if names[name] == 1 else f"{name} ({numbers[name]})"
        networks.append(Served(index, title, classifier, replace(classifier, net=copy.deepcopy(classifier.net))))
    return networks


@contextmanager
def _network_errors() -> Iterator[None]:
    """Errors of a network as `ValueError`, with a sentence for the page. A network may raise anything."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the network cannot answer for this picture: {type(error).__name__}: {error}") from error
