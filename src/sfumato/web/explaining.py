"""The work of a job: parse the question of the page, run the method, test what it may claim, and report all steps."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.attribution import Attribution
from sfumato.evidence.certificate import Certify
from sfumato.evidence.claim import Claim
from sfumato.figures.report.encoding import png
from sfumato.figures.report.numbers import search_summary
from sfumato.figures.report.panel import CERTIFICATE
from sfumato.figures.report.pictures import shape_seen
from sfumato.figures.report.results import Entry, section
from sfumato.games import GAMES
from sfumato.layers.outline import in_words, outline
from sfumato.methods import Captum, GradCAM
from sfumato.methods.extremal import ExtremalPerturbation, check_areas
from sfumato.methods.extremal_order import ExtremalOrder
from sfumato.methods.method import Method
from sfumato.methods.sufficient import smallest
from sfumato.model.effects import device_of, hooked
from sfumato.model.inputs import no_effect
from sfumato.models import Classifier
from sfumato.models.questions import Asked, first_names
from sfumato.runs.plans.catalogue import docstring, exported, make, method_classes
from sfumato.search.loop import Stage
from sfumato.web.asking import Wanted
from sfumato.web.images import SMALL
from sfumato.web.jobs import DONE, STEP, Event, Job
from sfumato.web.tabs import TabPicture

BETWEEN = 0.1
"""The shortest time between two pictures of the current masks, in seconds. Making them slows the search."""

MOST_STEPS, MOST_AREAS, MOST_SAMPLES = 1000, 12, 20_000
"""The largest settings that the page accepts, so that a job ends in time."""

AREAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
"""The areas of methods that have `areas`, unless the page sets them."""

CAPTUM_HELP = "A method of the library Captum, with settings that suit pictures."

STEPS = 60
"""The steps that the page suggests for a search for masks."""


@dataclass(frozen=True, eq=False)
class Question:
    """A question about a picture, and the method that answers it."""

    method: Any
    title: str
    """The method's everyday name."""
    wanted: Wanted
    """What is asked."""
    keep: float | None = None
    """The share of the score that the smallest area should keep; `None` for the areas of the method."""
    certify: bool = False
    """Whether to test what the explanation may claim."""
    model: str = ""
    """The name of the network that is asked, on a page that has several."""

    @classmethod
    def parse(
        cls, request: Mapping[str, Any], classifier: Classifier, pictures: Mapping[str, TabPicture] | None = None
    ) -> "Question":
        """The question in the page's request, of a tab with these pictures. Raises `ValueError` for what cannot be used."""
        wanted = Wanted.parse(request, classifier, pictures)
        keep = request.get("keep")
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1):
            raise ValueError(f"keep is a share of the score, in (0, 1]; got {keep!r}")
        name = request.get("method", default_method())
        method = classifier.placed(_method(name, request.get("settings") or {}, classifier))
        if keep is not None and not method.finds_smallest:
            suitable = ", ".join(title(cls) for cls in methods().values() if cls.finds_smallest)
            raise ValueError(f"{title(type(method))} cannot search for the smallest area; choose one of {suitable}")
        certify = request.get("certify", False)
        if not isinstance(certify, bool):
            raise ValueError(f"certify is true or false; got {certify!r:.80}")
        if certify and not can_certify(type(method)):
            suitable = ", ".join(title(cls) for cls in methods().values() if can_certify(cls))
            raise ValueError(f"only sets of places can be tested; choose one of {suitable}, or take the tick away")
        if certify and method.layer:
            raise ValueError("only sets of places of the picture can be tested; choose no layer, or take the tick away")
        if certify and not wanted.is_of_class:
            raise ValueError(
                "only explanations of a class can be tested; choose another question, or take the tick away"
            )
        own_title = method.name if isinstance(method, Captum) else title(type(method))
        return cls(method, own_title, wanted, keep, certify)

    def work(self, classifier: Classifier, picture: TabPicture) -> Callable[[Job], Event]:
        """The work of the job that answers the question."""

        def work(job: Job) -> Event:
            with cancellable(classifier.net, job):
                return self._answer(classifier, picture, job)

        return work

    def _answer(self, classifier: Classifier, picture: TabPicture, job: Job) -> Event:
        """Run the method, leave an `Answer` in the job, and return the final event."""
        net, progress = classifier.net, StepReporter(self.method, picture.inputs, job)
        asked = self.wanted.ask(classifier, picture)
        if self.keep is None:
            result = self.method(net, picture.inputs, asked.score, progress=progress)
        else:
            search = smallest(self.method, net, picture.inputs, asked.score, keep=self.keep, progress=progress)
            result = search.attribution
            result = replace(result, about={**result.about, "smallest": search_summary(search, self.keep)})
        warning = self._warning(result)
        if self.certify:
            certificate = self._certificate(result, asked, classifier, picture, job)
            result = replace(result, about={**result.about, CERTIFICATE: certificate})
        answer = Answer(self, asked, picture, result)
        event = {"type": DONE, **answer.event(classifier, job.name), **warning}
        job.result = answer
        pictures = picture.memory + self.wanted.memory
        job.memory = pictures + memory(result) + sum(len(text) for text in event.values() if isinstance(text, str))
        return event

    def _certificate(
        self, result: Attribution, asked: Asked, classifier: Classifier, picture: TabPicture, job: Job
    ) -> dict[str, Any]:
        """What the explanation may claim, each claim tested with the network."""

        def progress(claim: Claim, index: int, count: int) -> None:
            job.report({"type": STEP, "index": index, "steps": count, "claim": type(claim).__name__})

        grad_cam = classifier.placed(GradCAM())
        certify = Certify().with_rivals(*([grad_cam] if grad_cam.layer else []))
        names = first_names(classifier.labels)
        found = certify(result, classifier, picture.inputs, asked.score, labels=names, progress=progress)
        return found[0].summary()

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
    asked: Asked
    picture: TabPicture
    result: Attribution

    @property
    def label(self) -> str:
        """What was asked, in words."""
        return self.asked.caption

    def entry(self, classifier: Classifier) -> Entry:
        """The answer as reports have it."""
        shape = shape_seen(classifier, self.picture.size)
        return Entry({self.question.title: self.result}, self.picture.inputs, classifier, self.label, shape=shape)

    def event(self, classifier: Classifier, identity: str) -> dict[str, Any]:
        """The answer for the page: the panel that reports have, and the channels of a layer, with pictures as data URLs."""
        is_of_places = self.result.masks is not None and self.result.activation is None
        return {
            "section": str(section(self.entry(classifier), 0, f"answer-{identity}")),
            "title": " · ".join(filter(None, (self.label, self.question.title, self.question.model))),
            "masks": is_of_places,
        }


def memory(result: Attribution) -> int:
    """The bytes of a result's tensors."""
    tensors = (getattr(result, entry.name) for entry in fields(result))
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


@contextmanager
def cancellable(net: nn.Module, job: Job) -> Iterator[None]:
    """Raise `CancelledError` at the network's next forward pass if the job is cancelled. Not all methods report steps."""

    with hooked(net, before=lambda *_: job.check()):
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
        else:
            self.job.check()

    def stage(self, stage: Stage) -> None:
        """Report what is done before the first step."""
        self.job.report({"type": STEP, "stage": stage.what, "index": stage.done, "steps": stage.count})

    def _masks(self, step: Any) -> Tensor | None:
        """The masks `(V, H, W)` of a step, for a search of masks of the input; else `None`."""
        method = self.method
        if not isinstance(method, ExtremalPerturbation) or method.layer:
            return None
        parametrisation = method.mask.on(self.inputs.shape[2:], self.inputs.device)
        with torch.no_grad():
            return parametrisation.masks(parametrisation.nodes(step.parameters))[:, 0]


def title(cls: type[Method]) -> str:
    """The everyday name of a method: what its description begins with.

    >>> from sfumato import GradCAM
    >>> print(title(GradCAM), "|", described(GradCAM))
    Grad-CAM | The sum of a layer's maps, each weighted by the mean gradient of the score by it.
    """
    name = _description(cls)[0]
    return name.removeprefix("The ").capitalize() if name.startswith("The ") else name


def described(cls: type[Method]) -> str:
    """What a method does, in a sentence."""
    text = _description(cls)[1]
    return text[:1].upper() + text[1:]


def _description(cls: type[Method]) -> tuple[str, str]:
    short_name = next((name for name, other in method_classes().items() if other is cls), "")
    line = " ".join(docstring(short_name, cls).partition("\n\n")[0].split())
    name, _, text = line.partition(": ")
    return name, text


def can_certify(cls: type[Method]) -> bool:
    """Whether what the sets of a method may claim can be tested."""
    return issubclass(cls, ExtremalPerturbation | ExtremalOrder)


def layers(classifier: Classifier) -> list[dict[str, str]]:
    """The layers whose places methods can show, with the shapes of their outputs; none if the network cannot be listed."""
    try:
        inputs = torch.zeros(2, *classifier.preparation.shape, dtype=torch.float32, device=device_of(classifier.net))
        listed = outline(classifier.net, inputs)
    except Exception:  # noqa: BLE001  # a network may raise anything; the page takes names of layers then
        return []
    return [
        {"name": layer.name, "text": f"{layer.name}, {in_words(layer)}"} for layer in listed if layer.layout is not None
    ]


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
        entries.append(
            {
                "name": name,
                "title": title(cls),
                "help": described(cls),
                "settings": form,
                "needs_layer": cls.needs_layer,
                "finds_smallest": cls.finds_smallest,
                "certifies": can_certify(cls),
            }
        )
    plain: dict[str, Any] = {"settings": {}, "needs_layer": False, "finds_smallest": False, "certifies": False}
    entries += [
        {"name": name, "title": f"{name.removeprefix('captum:')} (Captum)", "help": CAPTUM_HELP, **plain}
        for name in captum(classifier)
    ]
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
