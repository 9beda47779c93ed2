"""Small pictures of a run's cases: the input of the network, bright where a method's map is high, or only the picture."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.data.pictures import read
from sfumato.figures.panels import positive
from sfumato.figures.report.cases import Case
from sfumato.figures.report.encoding import SMALL_QUALITY, jpeg, thumbnail
from sfumato.figures.report.markup import Html, tag
from sfumato.models import Classifier
from sfumato.runs.results.record import Record
from sfumato.runs.stores.store import Store, StoreError
from sfumato.runs.work.workbench import Workbench

SIDE = 128
"""The longer side of a small picture, in pixels."""

MOST = 240
"""The largest number of pictures in a report. Further cases have no picture."""

DIM = 0.25
"""The share of a picture's brightness that is left where a map is 0."""


@dataclass(eq=False)
class Sheet:
    """The small pictures of a page, as rules of its style. A picture is stored once, also if it is shown several times."""

    urls: list[str] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether no more pictures fit."""
        return len(self.urls) >= MOST

    def add(self, url: str) -> str:
        """Add a picture; returns the name of its rule."""
        self.urls.append(url)
        return f"t{len(self.urls) - 1}"

    def style(self) -> str:
        """The rules of all pictures."""
        return "".join(f".t{index} {{ background-image: url({url}); }}\n" for index, url in enumerate(self.urls))


@dataclass(eq=False)
class Thumbnails:
    """The small pictures of one run, made when they are needed, until the sheet is full."""

    record: Record
    store: Store
    sheet: Sheet
    _rules: dict[tuple[str, ...], str | None] = field(default_factory=dict)
    _classifiers: dict[str, Classifier | None] = field(default_factory=dict)

    def plain(self, data: str, case: Case) -> Html:
        """The picture, or an empty element if it cannot be shown."""
        return _element(self._rule((data, case.example), lambda: self._picture(data, case)), case.example)

    def explained(self, data: str, model: str, method: str, case: Case, stored: tuple[str, str] | None) -> Html:
        """The picture with the method's map, if the run has stored it: the name of a shard, and the item's key in it.

        Otherwise the same as `plain`.
        """
        classifier = self._classifier(model) if stored else None
        if stored is not None and classifier is not None:
            name = (data, model, method, case.example, str(case.target))
            rule = self._rule(name, partial(self._picture_with_map, data, case, classifier, stored))
            if rule is not None:
                return _element(rule, f"{case.example}, as {method} explains it")
        return self.plain(data, case)

    def _rule(self, name: tuple[str, ...], make: Callable[[], str | None]) -> str | None:
        """The style rule of a picture, which is made at the first call; `None` if there is no picture or no room."""
        if name not in self._rules:
            url = None if self.sheet.full else make()
            self._rules[name] = None if url is None else self.sheet.add(url)
        return self._rules[name]

    def _picture(self, data: str, case: Case) -> str | None:
        """The picture of a case, as a data URL."""
        picture = self._read(data, case)
        return None if picture is None else thumbnail(picture, SIDE)

    def _picture_with_map(self, data: str, case: Case, classifier: Classifier, stored: tuple[str, str]) -> str | None:
        """The input of the network, dimmed where the map is low, as a data URL."""
        picture = self._read(data, case)
        if picture is None:
            return None
        try:
            saliency = self.record.place.shards.read(*stored).map
        except StoreError:
            return None
        shown = classifier.restore(classifier.prepare(picture))
        if saliency.ndim != 4:
            return None
        return jpeg(_resize(shown * (DIM + (1 - DIM) * positive(saliency, shown))), SMALL_QUALITY)

    def _read(self, data: str, case: Case) -> Image.Image | None:
        """Read the picture of a case; `None` if that is not possible any more."""
        body = json.loads(self.store.bodies_by_name(data, [case.example]).get(case.example, "{}"))
        if "path" not in body:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the run has warned of files with several pictures
                return read(body["path"])
        except ValueError:
            return None

    def _classifier(self, model: str) -> Classifier | None:
        """The run's model, whose preparation says which part of a picture it saw; `None` if it cannot be loaded any more."""
        if model not in self._classifiers:
            try:
                self._classifiers[model] = Workbench(self.record.read_plan(), self.record.weights).classifier(model)
            except (ValueError, OSError, ImportError, RuntimeError, AssertionError):
                self._classifiers[model] = None  # torch raises AssertionError for a device that it was built without
        return self._classifiers[model]


def _element(rule: str | None, label: str) -> Html:
    """An element with the background picture of a rule, or an empty one."""
    if rule is None:
        return tag("span", class_="thumbnail")
    return tag("span", class_=f"thumbnail {rule}", role="img", aria_label=label)


def _resize(picture: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 h w"]:
    """An RGB picture, made smaller if its longer side has more than `SIDE` pixels."""
    height, width = picture.shape[1:]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(scale * height)), max(1, round(scale * width))
    return interpolate(picture[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
