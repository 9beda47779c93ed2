"""What a job does: a method is asked about a picture, and the page is told of each step and of the answer."""

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
from sfumato.methods import Captum, ExtremalChannels, ExtremalPerturbation, extremal
from sfumato.methods.sufficient import smallest
from sfumato.metrics.likeness import stretched
from sfumato.model.effects import hooked
from sfumato.model.inputs import no_effect
from sfumato.models import Classifier
from sfumato.runs.plans.catalogue import exported, make
from sfumato.scores import Contrastive, Logit, Score
from sfumato.settings import is_whole
from sfumato.web.desk import DONE, STEP, CancelledError, Event, Job
from sfumato.web.images import SMALL
from sfumato.web.tabs import Shown

BETWEEN = 0.1
"""Seconds between two looks at an evolving mask, at least: making them takes time from the search."""

MOST_STEPS, MOST_AREAS, MOST_SAMPLES = 1000, 12, 20_000
"""What one may ask of a page: a job is to end."""

TOP = 12
"""Channels that are shown."""

AREAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6)


@dataclass(frozen=True)
class Asked:
    """What somebody wants to know of a picture."""

    method: Any
    score: Score
    target: int
    keep: float | None
    """The share of the score for which the smallest area is sought; `None` to look at the method's areas."""

    @classmethod
    def of(cls, said: Mapping[str, Any], classifier: Classifier) -> "Asked":
        """What the page says. Raises `ValueError` for what cannot be asked."""
        target = _class(said.get("target"), "target", classifier)
        against = None if said.get("against") is None else _class(said["against"], "against", classifier)
        if against == target:
            raise ValueError("the two classes are the same; choose another one to set it against")
        score: Score = Logit(target) if against is None else Contrastive(target, against=against)
        keep = said.get("keep")
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1):
            raise ValueError(f"keep is a share of the score, in (0, 1]; got {keep!r}")
        method = classifier.placed(
            _method(said.get("method", "ExtremalPerturbation"), said.get("settings") or {}, classifier)
        )
        if keep is not None and not isinstance(method, ExtremalPerturbation | ExtremalChannels):
            raise ValueError("the smallest area is sought by extremal perturbations only")
        return cls(method, score, target, keep)

    def work(self, classifier: Classifier, shown: Shown) -> Callable[[Job], Event]:
        """What the desk is to do."""

        def done(job: Job) -> Event:
            with leaving(classifier.net, job):
                return sought(job)

        def sought(job: Job) -> Event:
            net, watch = classifier.net, Watch(self.method, shown.inputs, job)
            if self.keep is not None:
                found = smallest(self.method, net, shown.inputs, self.score, keep=self.keep, progress=watch)
                about = {**found.attribution.about, "smallest": search_summary(found, self.keep)}
                job.result = Found(self, shown, replace(found.attribution, about=about))
                curve = {
                    "areas": found.curve_areas.tolist(),
                    "scores": found.curve_scores[0].tolist(),
                    "smallest": None if found.area[0].isnan() else float(found.area[0]),
                    "wanted": float(found.wanted[0]),
                    "count": None if found.count is None else int(found.count[0]),
                }
                return {"type": DONE, "curve": curve, **answer(found.attribution), **self.warned(found.attribution)}
            result = self.method(net, shown.inputs, self.score, progress=watch)
            job.result = Found(self, shown, result)
            return {"type": DONE, "curve": None, **answer(result), **self.warned(result)}

        return done

    def warned(self, result: Attribution) -> dict[str, str]:
        """What Python warns of where masks change nothing, read from the result: its warnings are those of all threads."""
        whole, blank, scores = result.whole, result.blank, result.scores
        if whole is None or blank is None or scores is None:
            return {}
        still = (blank == whole) & (scores == whole[:, None]).all(1)
        return {"warning": no_effect(still, getattr(self.method, "layer", ""))} if still.any() else {}


@dataclass(frozen=True, eq=False)
class Found:
    """What was asked of a picture, and what came of it."""

    asked: Asked
    shown: Shown
    result: Attribution


@contextmanager
def leaving(net: nn.Module, job: Job) -> Iterator[None]:
    """Ends a job that nobody wants any more at the network's next answer: not every method tells its steps."""

    def check(*_: object) -> None:
        if job.unwanted.is_set():
            raise CancelledError

    with hooked(net, before=check):
        yield


@dataclass(eq=False)
class Watch:
    """Told of each step of a method, it tells the page, with the masks as they are."""

    method: Any
    inputs: Tensor
    job: Job
    ready: float = 0.0

    def __call__(self, step: Any) -> None:
        event: dict[str, Any] = {"type": STEP, "index": step.index + 1, "steps": step.steps}
        if time.monotonic() >= self.ready:
            if (masks := self._masks(step)) is not None:
                event |= {
                    "masks": [png(mask, SMALL) for mask in masks],
                    "areas": step.areas.tolist(),
                    "values": step.values.tolist(),
                }
            self.job.tell(event)
            self.ready = time.monotonic() + BETWEEN
        elif self.job.unwanted.is_set():
            self.job.tell(event)

    def _masks(self, step: Any) -> Tensor | None:
        """The masks `(V, H, W)` of a step, of methods that seek some over the input."""
        if not isinstance(self.method, ExtremalPerturbation) or self.method.layer:
            return None
        lattice = self.method.mask.on(self.inputs.shape[2:], self.inputs.device)
        with torch.no_grad():
            return lattice.masks(lattice.nodes(step.parameters))[:, 0]


def answer(result: Attribution) -> dict[str, Any]:
    """A result of one query as the page shows it."""
    found: dict[str, Any] = {"map": png(stretched(result.map[0, 0].cpu())), "masks": [], "channels": []}
    for name in ("areas", "achieved", "scores", "complements", "whole", "blank"):
        value = getattr(result, name)
        if value is not None:
            found[name] = value.tolist() if name == "areas" else value[0].tolist()
    if result.activation is not None and result.masks is not None:
        indices, weights = result.channels(min(TOP, result.channel_masks.shape[2]))
        activation = result.activation[0].float()
        each = activation.shape[0] // result.channel_masks.shape[2]
        for index, weight in zip(indices[0].tolist(), weights[0].tolist(), strict=True):
            seen = activation[index * each : (index + 1) * each].sum(0)
            picture = png(stretched(seen.cpu())) if seen.ndim == 2 else None
            found["channels"].append({"index": index, "weight": weight, "map": picture})
    elif result.masks is not None:
        found["masks"] = [png(mask) for mask in result.masks[0, :, 0]]
    return found


def choices(classifier: Classifier) -> list[dict[str, Any]]:
    """The methods that a page offers, with the settings that it has fields for."""
    found = []
    for name, cls in methods().items():
        settings: dict[str, Any] = {field.name: field.default for field in fields(cls) if field.init}  # type: ignore[arg-type]
        offered: dict[str, Any] = {}
        for setting in ("steps", "samples"):
            if isinstance(settings.get(setting), int):
                offered[setting] = min(settings[setting], 500)
        if name == "ExtremalPerturbation":
            offered |= {"areas": AREAS, "game": "preserve", "steps": 60}
        if name == "ExtremalChannels":
            offered |= {"steps": 60}
        if "layer" in settings:
            offered["layer"] = classifier.layers.get(name, "")
        found.append({"name": name, "settings": offered})
    found += [{"name": name, "settings": {}} for name in captum(classifier)]
    return sorted(found, key=lambda each: each["name"] != "ExtremalPerturbation")


def methods() -> dict[str, Callable[..., Any]]:
    """Those that are offered with settings, by name: of Captum's a few are, as they are."""
    return {name: each for name, each in exported("sfumato.methods", "__call__").items() if each is not Captum}


def captum(classifier: Classifier) -> dict[str, Captum]:
    """Of Captum's methods, where it is installed, those that need to be told nothing, or no more than the input's size."""
    if importlib.util.find_spec("captum") is None:
        return {}
    channels, *sides = classifier.preparation.shape
    windows = {
        name: (channels, *(max(1, side // parts) for side in sides))
        for name, parts in (("sliding_window_shapes", 7), ("strides", 14))
    }
    found = (
        Captum("captum:GradientShap"),
        Captum("captum:InputXGradient"),
        Captum("captum:IntegratedGradients", arguments={"internal_batch_size": 8}),
        Captum("captum:Occlusion", arguments=windows),
    )
    return {each.name: each for each in found}


def _method(name: Any, settings: Any, classifier: Classifier) -> Any:
    own, others = methods(), captum(classifier)
    if not isinstance(name, str) or name not in {**own, **others}:  # a dotted path would import what the page names
        raise ValueError(f"no method {name!r:.80}; expected one of {', '.join([*own, *others])}")
    if not isinstance(settings, Mapping):
        raise ValueError(f"settings are names and values; got {settings!r}")
    allowed = {"steps", "samples", "areas", "game", "layer", "seed", "counts"} if name in own else set()
    if unknown := set(settings) - allowed:
        raise ValueError(f"the page cannot set {', '.join(sorted(map(str, unknown)))}; use Python for it")
    if name in others:
        return others[name]
    for setting, value in settings.items():
        if any(isinstance(each, Mapping | list) for each in (value if isinstance(value, list) else [value])):
            # A table would be made into what it names, which may run anything.
            raise ValueError(f"{setting} is a text, a number or a list of numbers here; got {value!r:.80}")
    for setting, most in (("steps", MOST_STEPS), ("samples", MOST_SAMPLES)):
        value = settings.get(setting, 1)
        if isinstance(value, int) and value > most:
            raise ValueError(f"{setting} may be at most {most} here; got {value}")
    if "areas" in settings and len(extremal.check_areas(settings["areas"])) > MOST_AREAS:
        raise ValueError(f"at most {MOST_AREAS} areas at once")
    method = make({"use": name, **settings}, own, ("methods", name), "method")
    return (
        replace(method, areas=AREAS) if isinstance(method, ExtremalPerturbation) and "areas" not in settings else method
    )


def _class(value: Any, name: str, classifier: Classifier) -> int:
    if not (is_whole(value, 0) and value < len(classifier.labels)):
        raise ValueError(f"{name} is the index of one of the {len(classifier.labels)} classes; got {value!r}")
    return value
