"""The work of a job: parse the question of the page, run the method, and report its steps and its result."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.attribution import Attribution
from sfumato.figures.report.encoding import png
from sfumato.figures.report.numbers import search_summary
from sfumato.games import GAMES
from sfumato.methods import Captum
from sfumato.methods.extremal import ExtremalPerturbation, check_areas
from sfumato.methods.method import Method
from sfumato.methods.sufficient import smallest
from sfumato.metrics.likeness import stretched
from sfumato.model.effects import hooked
from sfumato.model.inputs import no_effect
from sfumato.models import Classifier
from sfumato.runs.plans.catalogue import exported, make
from sfumato.scores import Contrastive, Logit, Score
from sfumato.settings import is_whole
from sfumato.web.images import SMALL
from sfumato.web.jobs import DONE, STEP, CancelledError, Event, Job
from sfumato.web.tabs import TabPicture

BETWEEN = 0.1
"""The shortest time between two pictures of the current masks, in seconds. Making them slows the search."""

MOST_STEPS, MOST_AREAS, MOST_SAMPLES = 1000, 12, 20_000
"""The largest settings that the page accepts, so that a job ends in time."""

TOP = 12
"""How many channels are shown."""

AREAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
"""The areas of methods that have `areas`, unless the page sets them."""

STEPS = 60
"""The steps that the page suggests for a search for masks."""


@dataclass(frozen=True)
class Question:
    """A question about a picture."""

    method: Any
    score: Score
    target: int
    keep: float | None
    """The share of the score that the smallest area should keep; `None` for the areas of the method."""

    @classmethod
    def parse(cls, request: Mapping[str, Any], classifier: Classifier) -> "Question":
        """The question in the page's request. Raises `ValueError` for a value that cannot be used."""
        target = _class(request.get("target"), "target", classifier)
        against = None if request.get("against") is None else _class(request["against"], "against", classifier)
        if against == target:
            raise ValueError("the two classes are the same; choose another one to set it against")
        score: Score = Logit(target) if against is None else Contrastive(target, against=against)
        keep = request.get("keep")
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1):
            raise ValueError(f"keep is a share of the score, in (0, 1]; got {keep!r}")
        name = request.get("method", default_method())
        method = classifier.placed(_method(name, request.get("settings") or {}, classifier))
        if keep is not None and not method.finds_smallest:
            suitable = ", ".join(name for name, cls in methods().items() if cls.finds_smallest)
            raise ValueError(f"{name} cannot search for the smallest area; choose one of {suitable}")
        return cls(method, score, target, keep)

    def work(self, classifier: Classifier, picture: TabPicture) -> Callable[[Job], Event]:
        """The work of the job that answers the question."""

        def work(job: Job) -> Event:
            with cancellable(classifier.net, job):
                return self._answer(classifier.net, picture, job)

        return work

    def _answer(self, net: nn.Module, picture: TabPicture, job: Job) -> Event:
        """Run the method, leave an `Answer` in the job, and return the final event."""
        progress = StepReporter(self.method, picture.inputs, job)
        curve = None
        if self.keep is None:
            result = self.method(net, picture.inputs, self.score, progress=progress)
            job.result = Answer(self, picture, result)
        else:
            search = smallest(self.method, net, picture.inputs, self.score, keep=self.keep, progress=progress)
            result = search.attribution
            about = {**result.about, "smallest": search_summary(search, self.keep)}
            job.result = Answer(self, picture, replace(result, about=about))
            curve = {
                "areas": search.curve_areas.tolist(),
                "scores": search.curve_scores[0].tolist(),
                "smallest": None if search.area[0].isnan() else float(search.area[0]),
                "wanted": float(search.wanted[0]),
                "count": None if search.count is None else int(search.count[0]),
            }
        return {"type": DONE, "curve": curve, **result_event(result), **self._warning(result)}

    def _warning(self, result: Attribution) -> dict[str, str]:
        """A warning if masks change nothing, made from the result, as Python's warnings are those of all threads."""
        whole, blank, scores = result.whole, result.blank, result.scores
        if whole is None or blank is None or scores is None:
            return {}
        unchanged = (blank == whole) & (scores == whole[:, None]).all(1)
        return {"warning": no_effect(unchanged, getattr(self.method, "layer", ""))} if unchanged.any() else {}


@dataclass(frozen=True, eq=False)
class Answer:
    """A question about a picture, and the result."""

    question: Question
    picture: TabPicture
    result: Attribution


@contextmanager
def cancellable(net: nn.Module, job: Job) -> Iterator[None]:
    """Raise `CancelledError` at the network's next forward pass if the job is cancelled. Not all methods report steps."""

    def check(*_: object) -> None:
        if job.cancelled.is_set():
            raise CancelledError

    with hooked(net, before=check):
        yield


@dataclass(eq=False)
class StepReporter:
    """A `progress` callback that reports the steps of a method to the page, with the current masks from time to time."""

    method: Method
    inputs: Tensor
    job: Job
    next_masks: float = 0.0
    """When masks are reported again."""

    def __call__(self, step: Any) -> None:
        event: dict[str, Any] = {"type": STEP, "index": step.index + 1, "steps": step.steps}
        if time.monotonic() >= self.next_masks:
            if (masks := self._masks(step)) is not None:
                event |= {
                    "masks": [png(mask, SMALL) for mask in masks],
                    "areas": step.areas.tolist(),
                    "values": step.values.tolist(),
                }
            self.job.report(event)
            self.next_masks = time.monotonic() + BETWEEN
        elif self.job.cancelled.is_set():
            self.job.report(event)

    def _masks(self, step: Any) -> Tensor | None:
        """The masks `(V, H, W)` of a step, for a search of masks of the input; else `None`."""
        method = self.method
        if not isinstance(method, ExtremalPerturbation) or method.layer:
            return None
        parametrisation = method.mask.on(self.inputs.shape[2:], self.inputs.device)
        with torch.no_grad():
            return parametrisation.masks(parametrisation.nodes(step.parameters))[:, 0]


def result_event(result: Attribution) -> dict[str, Any]:
    """A result of one query as JSON for the page, with pictures as data URLs."""
    event: dict[str, Any] = {"map": png(stretched(result.map[0, 0].cpu())), "masks": [], "channels": []}
    for name in ("areas", "achieved", "scores", "complements", "whole", "blank", "agreement"):
        value = getattr(result, name)
        if value is not None:
            event[name] = value.tolist() if name == "areas" else value[0].tolist()
    if result.activation is not None and result.masks is not None:
        groups = result.channel_masks.shape[2]
        indices, weights = result.channels(min(TOP, groups))
        activation = result.activation[0].float()
        size = activation.shape[0] // groups
        for index, weight in zip(indices[0].tolist(), weights[0].tolist(), strict=True):
            group = activation[index * size : (index + 1) * size].sum(0)
            picture = png(stretched(group.cpu())) if group.ndim == 2 else None
            event["channels"].append({"index": index, "weight": weight, "map": picture})
    elif result.masks is not None:
        event["masks"] = [png(mask) for mask in result.masks[0, :, 0]]
    if result.alternatives is not None and result.alternative_scores is not None:
        sets = result.alternatives[0, :, :, 0].float()
        event["alternatives"] = [[png(one) for one in of_area] for of_area in sets]
        event["alternative_scores"] = result.alternative_scores[0].tolist()
    return event


def choices(classifier: Classifier) -> list[dict[str, Any]]:
    """The methods that the page offers, the default first, with the settings that a user of the page can change."""
    first = default_method()
    entries = []
    for name, cls in methods().items():
        settings = {field.name: field.default for field in fields(cls) if field.init}  # type: ignore[arg-type]
        form: dict[str, Any] = {
            setting: min(value, 500)
            for setting in ("steps", "samples")
            if isinstance(value := settings.get(setting), int)
        }
        if "areas" in settings:
            form |= {"areas": AREAS, "game": next(name for name, game in GAMES.items() if game == settings["game"])}
        if cls.finds_smallest:
            form |= {"steps": STEPS}
        if "layer" in settings:
            form["layer"] = classifier.default_layer(cls)
        entries.append({"name": name, "settings": form, "finds_smallest": cls.finds_smallest})
    entries += [{"name": name, "settings": {}, "finds_smallest": False} for name in captum(classifier)]
    return sorted(entries, key=lambda entry: entry["name"] != first)


def default_method() -> str:
    """The name of the first method that makes masks of the input and can search for the smallest area."""
    return next(name for name, cls in methods().items() if cls.makes_masks and cls.finds_smallest)


def methods() -> dict[str, type[Method]]:
    """The methods that are offered with settings, by name. Those of Captum have none; see `captum`."""
    classes = exported("sfumato.methods", "__call__")
    return {
        name: cls
        for name, cls in classes.items()
        if isinstance(cls, type) and issubclass(cls, Method) and not issubclass(cls, Captum)
    }


def captum(classifier: Classifier) -> dict[str, Captum]:
    """Methods of Captum, if it is installed: some that need no arguments, or no more than the size of the input."""
    if importlib.util.find_spec("captum") is None:
        return {}
    channels, *sides = classifier.preparation.shape
    windows = {
        name: (channels, *(max(1, side // parts) for side in sides))
        for name, parts in (("sliding_window_shapes", 7), ("strides", 14))
    }
    candidates = (
        Captum("captum:GradientShap"),
        Captum("captum:InputXGradient"),
        Captum("captum:IntegratedGradients", arguments={"internal_batch_size": 8}),
        Captum("captum:Occlusion", arguments=windows),
    )
    return {method.name: method for method in candidates}


def _method(name: Any, settings: Any, classifier: Classifier) -> Any:
    """Build the method that the page names. Raises `ValueError` for names and settings that the page may not use."""
    own, of_captum = methods(), captum(classifier)
    if not isinstance(name, str) or name not in {**own, **of_captum}:  # a dotted path would import what the page names
        raise ValueError(f"no method {name!r:.80}; expected one of {', '.join([*own, *of_captum])}")
    if not isinstance(settings, Mapping):
        raise ValueError(f"settings are names and values; got {settings!r}")
    allowed = {"steps", "samples", "areas", "game", "layer", "seed", "counts"} if name in own else set()
    if unknown := set(settings) - allowed:
        raise ValueError(f"the page cannot set {', '.join(sorted(map(str, unknown)))}; use Python for it")
    if name in of_captum:
        return of_captum[name]
    for setting, value in settings.items():
        if any(isinstance(item, Mapping | list) for item in (value if isinstance(value, list) else [value])):
            # `make` would build an object of the class that a table names, which may run any code.
            raise ValueError(f"{setting} is a text, a number or a list of numbers here; got {value!r:.80}")
    for setting, most in (("steps", MOST_STEPS), ("samples", MOST_SAMPLES)):
        value = settings.get(setting, 1)
        if isinstance(value, int) and value > most:
            raise ValueError(f"{setting} may be at most {most} here; got {value}")
    if "areas" in settings and len(check_areas(settings["areas"])) > MOST_AREAS:
        raise ValueError(f"the page takes at most {MOST_AREAS} areas; got {len(settings['areas'])}")
    defaults = {"areas": AREAS} if any(field.name == "areas" for field in fields(own[name])) else {}  # type: ignore[arg-type]
    return make({"use": name, **defaults, **settings}, own, ("methods", name), "method")


def _class(value: Any, name: str, classifier: Classifier) -> int:
    """The index of a class. Raises `ValueError` if there is no such class."""
    if not (is_whole(value, 0) and value < len(classifier.labels)):
        raise ValueError(f"{name} is the index of one of the {len(classifier.labels)} classes; got {value!r}")
    return value
