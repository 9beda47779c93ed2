"""Small pictures of a run's cases: what the network was shown, bright where a method's map is high, or the picture alone."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.data.pictures import read
from sfumato.figures.panels import positive
from sfumato.figures.report.cases import Case
from sfumato.figures.report.encoded import SMALL_QUALITY, jpeg, thumbnail
from sfumato.figures.report.markup import Html, tag
from sfumato.models import Classifier
from sfumato.runs.results.record import Record
from sfumato.runs.stores.store import Store, StoreError
from sfumato.runs.work.workbench import Workbench

SIDE = 128
"""Pixels."""

MOST = 240
"""In one report; further cases are named only."""

DIMMED = 0.25
"""Of a picture's brightness is left where a map is 0."""


@dataclass(eq=False)
class Sheet:
    """A page's small pictures: each stands in its style once, however often it is seen."""

    addresses: list[str] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.addresses) >= MOST

    def add(self, address: str) -> str:
        """The name of the new picture's rule."""
        self.addresses.append(address)
        return f"t{len(self.addresses) - 1}"

    def style(self) -> str:
        """The rules."""
        return "".join(f".t{place} {{ background-image: url({each}); }}\n" for place, each in enumerate(self.addresses))


@dataclass(eq=False)
class Thumbnails:
    """Those of one run, drawn as they are asked for while there is room."""

    record: Record
    store: Store
    sheet: Sheet
    _rules: dict[tuple[str, ...], str | None] = field(default_factory=dict)
    _classifiers: dict[str, Classifier | None] = field(default_factory=dict)

    def plain(self, data: str, case: Case) -> Html:
        """The picture itself, or the place where it would be."""
        return _seen(self._rule((data, case.example), lambda: self._picture(data, case)), case.example)

    def explained(self, data: str, model: str, method: str, case: Case, where: tuple[str, str] | None) -> Html:
        """As `plain`, with what the method found where the run has `kept` it: a shard's name, and the item's key in it."""
        classifier = self._classifier(model) if where else None
        if where is not None and classifier is not None:
            loaded, found = classifier, where
            name = (data, model, method, case.example, str(case.target))
            rule = self._rule(name, lambda: self._dimmed(data, case, loaded, found))
            if rule is not None:
                return _seen(rule, f"{case.example}, as {method} explains it")
        return self.plain(data, case)

    def _rule(self, name: tuple[str, ...], make: Callable[[], str | None]) -> str | None:
        if name not in self._rules:
            address = None if self.sheet.full else make()
            self._rules[name] = None if address is None else self.sheet.add(address)
        return self._rules[name]

    def _picture(self, data: str, case: Case) -> str | None:
        picture = self._read(data, case)
        return None if picture is None else thumbnail(picture, SIDE)

    def _dimmed(self, data: str, case: Case, classifier: Classifier, where: tuple[str, str]) -> str | None:
        picture = self._read(data, case)
        if picture is None:
            return None
        try:
            saliency = self.record.place.shards.read(*where).map
        except StoreError:
            return None
        seen = classifier.restore(classifier.prepare(picture))
        if saliency.ndim != 4:
            return None
        return jpeg(_small(seen * (DIMMED + (1 - DIMMED) * positive(saliency, seen))), SMALL_QUALITY)

    def _read(self, data: str, case: Case) -> Image.Image | None:
        body = json.loads(self.store.named(data, [case.example]).get(case.example, "{}"))
        if "path" not in body:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of files with several pictures: the run has said so
                return read(body["path"])
        except ValueError:
            return None

    def _classifier(self, model: str) -> Classifier | None:
        """The run's model, whose preparation says which part of a picture it saw; `None` where it is not to be had any more."""
        if model not in self._classifiers:
            try:
                self._classifiers[model] = Workbench(self.record.read_plan(), self.record.weights).classifier(model)
            except (
                ValueError,
                OSError,
                ImportError,
                RuntimeError,
                AssertionError,
            ):  # the last: a device that torch lacks
                self._classifiers[model] = None
        return self._classifiers[model]


def _seen(rule: str | None, said: str) -> Html:
    if rule is None:
        return tag("span", class_="thumbnail")
    return tag("span", class_=f"thumbnail {rule}", role="img", aria_label=said)


def _small(picture: Tensor) -> Tensor:
    """RGB `(3, H, W)`, its longer side no more than a thumbnail's."""
    height, width = picture.shape[1:]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(scale * height)), max(1, round(scale * width))
    return interpolate(picture[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
