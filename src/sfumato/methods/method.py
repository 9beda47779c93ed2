"""The base classes of methods: the call, shared settings, and the record of how a result was made.

A new method is a subclass in a file of its own, and one line in `sfumato/methods/__init__.py`. It defines its own settings as
fields of a frozen dataclass, and its maths in `Method.explain`, or in `LayerMethod.read` if it reads one backward pass. Shared
settings are fields with the names below; `__post_init__` checks those that a class has.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.about import about_run
from sfumato.attribution import Attribution
from sfumato.layers.axes import Axes
from sfumato.layers.capture import check_layer, place_of
from sfumato.layers.default import default_layer
from sfumato.layers.flow import axes_at, flows, gradient
from sfumato.layers.tokens import check_layout, laid_out
from sfumato.model.arguments import split_arguments
from sfumato.model.backward.rule import BackwardRule
from sfumato.model.backward.rules import check_visible
from sfumato.model.black_box import BlackBox, noted
from sfumato.model.effects import Model
from sfumato.model.inputs import warn_of_empty_maps, warn_of_no_effect
from sfumato.model.of_pictures import PictureModel, opened, shown_by
from sfumato.model.subject import WHOLE, Subject
from sfumato.perturbations import Perturbation, check_perturbation, seeded
from sfumato.scores import check_finite, check_meaning
from sfumato.search.loop import Progress
from sfumato.settings import Settings, check_flag, check_memory, check_number, check_seed, keywords_told, later, renewed
from sfumato.space.smoothing import enlarged, gaussian_blur


class Method(Settings, ABC):
    """A method of attribution: an object with settings, which is called with a model, inputs and targets.

    Shared settings, of which a class has as fields those that it needs:

    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.
    - `seed`: the seed of all random numbers. The same seed gives the same result, alone or in any batch.
    - `perturbation`: what hides a place, or several, used together.
    - `memory`: GiB that the model may keep for its backward pass; by default 0.5, for six rows up to 1.5, on a GPU half of
      what is free. More rows go through it in several batches.
    - `smooth`: width of the Gaussian that smooths the map, as a fraction of the shortest side; 0 for none.
    """

    makes_masks: ClassVar[bool] = False
    """Whether results have `masks`. They are masks of the input if no layer is named."""
    finds_smallest: ClassVar[bool] = False
    """Whether `sfumato.smallest` can use the method."""
    needs_layer: ClassVar[bool | None] = False
    """True: it looks into a layer, by default the last one with places that the outputs depend on. None: a layer may be
    named; the default is the input. False: the method uses no layer."""
    below_weights: ClassVar[bool] = False
    """Whether its default layer must lie below the last weights of the network."""
    smoothed: ClassVar[str] = "a fraction of the input's shortest side"
    """The unit of `smooth`, for its error message."""

    score: str = "logit"
    seed: int = 0
    perturbation: Perturbation | tuple[Perturbation, ...] | None = None
    deterministic: bool = False

    def __new__(cls, /, *values: Any, **settings: Any) -> Self:
        if any(isinstance(value, nn.Module | PictureModel) for value in values):
            name = cls.__name__
            raise ValueError(
                f"the model is no setting of {name}; give it to the call: {name}(…)(model, inputs, targets)"
            )
        return super().__new__(cls, *values, **settings)

    if not TYPE_CHECKING:  # a type checker would take it for the promise that any attribute is there

        def __getattr__(self, name: str) -> Any:
            """Raise `AttributeError`, which for a word that is not private says that a method is called."""
            end = "" if name.startswith("_") else "; a method is called itself: method(model, inputs, targets)"
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{end}", name=name)

    def __post_init__(self) -> None:
        """Check those shared settings that the class has. Raises `ValueError` for a value that cannot be used."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        for name in ("resize", "deterministic"):
            if name in values:
                check_flag(name, values[name])
        if "smooth" in values:
            check_number("smooth", values["smooth"], self.smoothed, least=0)
        if "memory" in values:
            check_memory(values["memory"])
        if "perturbation" in values:
            for value in self.perturbation if isinstance(self.perturbation, tuple) else (self.perturbation,):
                check_perturbation(value)
        check_meaning(self.score)
        check_seed(self.seed)

    @keywords_told
    def __call__(
        self, model: Model | PictureModel, inputs: Any, targets: Any = None, progress: Progress | None = None
    ) -> Attribution:
        """The attribution for inputs `(B, C, *S)`, preprocessed as the model needs them.

        `model`: any callable that returns outputs for inputs; methods that compute gradients need it differentiable. With a
        `Classifier`, inputs may also be pictures or paths of pictures, and targets names of classes, or `None` for the top
        class; a method that needs a layer and has none gets the classifier's, and a notebook shows the result over the picture.
        `targets`: a class index, one per input, a `Score`, or a function of the model's outputs. If these are maps, `(N,
        classes, H, W)`, the score of a class is its mean over all places, which `about["mean_over_places"]` says; for a region
        give a function. `progress` is called with each step of methods that work in steps; others do not call it. Raises
        `ValueError` if the settings, the inputs or the targets cannot be used with the model. The model is left unchanged,
        also after an error.
        """
        if isinstance(model, PictureModel):
            net, inputs, targets, shapes = opened(model, inputs, targets)
            return shown_by(model, model.placed(self)(net, inputs, targets, progress), inputs, shapes)
        with self.prepared(model, inputs, targets) as subject:
            method = self.placed(subject)
            box = subject.model if isinstance(subject.model, BlackBox) else None
            before = box and box.begin()
            result = method.explain(subject, progress)
            if not (isinstance(result, Attribution) and result.map.shape[:2] == (len(subject.inputs), 1)):
                raise self._wrong(result, len(subject.inputs))
            return noted(result, box, before) if box and before else result

    @contextmanager
    def prepared(self, model: Model, inputs: Float[Tensor, "B C *S"], targets: Any) -> Iterator[Subject]:
        """A context with the subject: the frozen model with checked inputs and targets. Raises `ValueError` as a call does."""
        self.check_model(model)
        with Subject.prepared(model, inputs, targets, self.score, self.seed, self.deterministic) as subject:
            yield subject

    def check_model(self, model: Model) -> None:
        """Raise `ValueError` if the method cannot be used with the model, before anything is computed."""
        net = split_arguments(model)[0]
        if self.needs_layer is True and not getattr(self, "layer", "") and not isinstance(net, nn.Module):
            raise ValueError(
                f"{type(self).__name__} needs layer, a part of an nn.Module, and the model is a {type(net).__name__}, which "
                'has none; give the network itself, or layer="input" for the model\'s input, or use a method that needs no '
                "layer, such as RISE()"
            )

    def placed(self, subject: Subject) -> Self:
        """The method with the default layer of the subject's network, if it needs a layer and has none.

        Raises `ValueError` if no layer of the network has places that can be read.
        """
        named = getattr(self, "layer", "")
        if named or self.needs_layer is not True:
            return self
        if layer := default_layer(subject, self.below_weights):
            return replace(self, layer=layer)  # type: ignore[type-var]
        name = type(self).__name__
        raise ValueError(
            f'{name} needs layer, the dotted name of the module to look into, e.g. {name}(layer="layer4"), as no default was '
            "found: no part of the model is known to have places. All names: [name for name, _ in model.named_modules()]; or "
            "use a method that needs no layer, such as RISE()"
        )

    def used_perturbations(self) -> tuple[Perturbation, ...]:
        """What hides places, with the method's seed where a perturbation has none; empty for methods that hide no place."""
        setting = self.perturbation
        perturbations = setting if isinstance(setting, tuple) else () if setting is None else (setting,)
        return tuple(seeded(perturbation, self.seed) for perturbation in perturbations)

    @abstractmethod
    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:
        """The attribution of the subject: the frozen model with its inputs and score.

        Compute inside `with subject.surroundings.computing():`, and return a result with `about=self.about(subject)`.
        """

    def _wrong(self, result: Any, queries: int) -> ValueError:
        """The error about what `explain` returned, which is not a result of so many queries."""
        name = f"{type(self).__name__}.explain"
        if not isinstance(result, Attribution):
            return ValueError(
                f"{name} must return an Attribution; got {type(result).__name__}. Write "
                "return Attribution(map=…, about=self.about(subject))"
            )
        return ValueError(
            f"{name} must return one map for each input, of the shape ({queries}, 1, …); got {tuple(result.map.shape)}. For "
            "one number for each place of several channels, write values.sum(1, keepdim=True)"
        )

    def about(self, subject: Subject, values: Mapping[str, Sequence[Any]] | None = None, **used: Any) -> dict[str, Any]:
        """The record of how the result was made, for its `about`. See `sfumato.about.about_run` for the arguments.

        If the model's outputs are maps, `mean_over_places` has their lengths: the score of a class is its mean over them.
        """
        if subject.habits.places:
            used = {"mean_over_places": subject.habits.places} | used
        return about_run(self, subject.used_score, values, **used)


@dataclass(frozen=True)
class AtLayer(Method):
    """The settings that name a layer. They come first in all methods that have them."""

    layer: str = ""
    layout: str = later("")


@dataclass(frozen=True)
class LayerMap(AtLayer):
    """A method whose map has the places of a layer. Its settings are those of `LayerMethod`."""

    needs_layer: ClassVar[bool | None] = None
    smoothed: ClassVar[str] = "a fraction of the map's shortest side"

    smooth: float = 0.0
    resize: bool = True
    memory: float | None = renewed(None, 2.0)
    call: int = later(-1)
    score: str = later("logit")

    def __post_init__(self) -> None:
        check_layer(self.layer, call=self.call)
        check_layout(self.layout)
        super().__post_init__()

    def axes(self, subject: Subject) -> Axes | None:
        """The meaning of the axes of the layer's output; None for the input, or if they are not known."""
        if not (place := place_of(subject.model, self.layer)):
            return None
        with subject.surroundings.computing():
            run = partial(_outputs, subject)
            return axes_at(subject.model, place, "output", subject.inputs, run, self.layout, self.call)

    def resize_and_smooth(self, saliency: Float[Tensor, "N 1 *L"], space: tuple[int, ...]) -> Float[Tensor, "N 1 *M"]:
        """A map of the layer's places, enlarged to the inputs' with `resize`, and smoothed."""
        if self.resize:
            saliency = enlarged(saliency, space)
        if self.smooth:
            saliency = gaussian_blur(saliency, self.smooth * min(saliency.shape[2:]))
        return saliency.contiguous()


@dataclass(frozen=True)
class LayerMethod(LayerMap):
    """A method whose map is computed from the output of a layer and the signal that flows back to it from the score.

    - `layer`: the dotted name of the module whose output is used. "" means the model's input for `Gradient`, `Deconvnet` and
      `GuidedBackprop`. For the others it means the default layer, which `about["method"]` then names: the last module with
      places that the outputs depend on; "input" is the model's input. A transformer's tokens `(N, tokens, C)` are arranged as
      in the picture, without the leading ones (class, registers).
    - `layout`: the order of the axes of that output, e.g. "BHWC", if it cannot be determined; see `ExtremalPerturbation`.
    - `smooth`: width of the Gaussian that smooths the map, as a fraction of its shortest side.
    - `resize`: whether the map is interpolated linearly to the inputs' size, or has the size of the layer.
    - `perturbation`: what hides a place, or several, used together.
    - `memory`: GiB that the model may keep for its backward pass; by default 0.5, for six rows up to 1.5, on a GPU half of
      what is free. More inputs go through it in several batches.
    - `call`: the number of one of the layer's calls, if the model calls it several times: 0 for the first, -1 for the last.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.

    Methods with `rules` also raise `ValueError` if the model is compiled by torch.compile or torch.jit.
    """

    rules: ClassVar[BackwardRule | str | None] = None
    """The backward rule by which the signal flows back, as `sfumato.model.backward.rules.BackwardRules` takes it, if any."""

    def check_model(self, model: Model) -> None:
        super().check_model(model)
        if self.rules:
            check_visible(split_arguments(model)[0])

    @abstractmethod
    def read(self, activation: Float[Tensor, "N C *L"], gradient: Float[Tensor, "N C *L"]) -> Float[Tensor, "N 1 *L"]:
        """The map for the layer's output and the signal that flows back to it."""

    def watched(self) -> Sequence[str]:
        """The names of other layers whose outputs `backward` needs."""
        return ()

    def backward(
        self, scores: Float[Tensor, " N"], output: Float[Tensor, " N *P"], watched: Sequence[Float[Tensor, "..."]]
    ) -> Float[Tensor, " N *P"]:
        """The signal that flows back from scores to the layer's output: by default the gradient.

        `watched` are the outputs of the layers that `watched()` names.
        """
        return gradient(scores, output, watched)

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:  # noqa: ARG002  # there are no steps
        """The maps, in chunks of queries that fit into `memory`."""
        space = tuple(subject.inputs.shape[2:])
        layer, axes = place_of(subject.model, self.layer), self.axes(subject)
        maps, whole, unaffected, empty = [], [], [], []
        for flow in flows(subject, layer, self.rules, self.memory, self.watched(), self.backward, self.call):
            whole.append(flow.scores)
            check_finite(torch.cat(whole), WHOLE)
            if not torch.isfinite(flow.gradient).all():
                raise ValueError(
                    "the signal that flows back from the score is not finite; check the model, or use a wider type than its "
                    "present one"
                )
            with subject.surroundings.computing(), torch.no_grad():
                activation, signal = (
                    laid_out(values.float() if values.itemsize < 4 else values, space, layer, axes, self.layout)
                    for values in (flow.activation, flow.gradient)
                )
                unaffected.append((signal == 0).flatten(1).all(1))
                values = self.read(activation, signal)
                expected = (len(activation), 1, *activation.shape[2:])
                if tuple(values.shape) != expected:
                    raise ValueError(
                        f"{type(self).__name__}.read must return a map of the shape {expected}; got {tuple(values.shape)}. For "
                        "one number for each place of several channels, write values.sum(1, keepdim=True)"
                    )
                empty.append((values == 0).flatten(1).all(1) & ~unaffected[-1])
                maps.append(self.resize_and_smooth(values.float(), space))
        with subject.surroundings.computing(), torch.no_grad():
            warn_of_no_effect(torch.cat(unaffected), layer)
            warn_of_empty_maps(torch.cat(empty), type(self).__name__)
            return Attribution(map=torch.cat(maps), whole=torch.cat(whole), about=self.about(subject))


def _outputs(subject: Subject, inputs: Float[Tensor, "N C *S"]) -> Any:
    """The model's outputs for the first inputs."""
    return subject.outputs(inputs, subject.query[: len(inputs)])


REDUCTIONS: dict[str, Callable[[Float[Tensor, "N C *L"]], Float[Tensor, "N 1 *L"]]] = {
    "max_abs": lambda values: values.abs().amax(1, keepdim=True),
    "sum_abs": lambda values: values.abs().sum(1, keepdim=True),
    "norm": lambda values: values.norm(dim=1, keepdim=True),
    "sum": lambda values: values.sum(1, keepdim=True),
}
"""The largest magnitude (Simonyan et al. 2014), the sum of magnitudes, the Euclidean
norm, and the sum, which keeps the sign."""

SYNONYMS = {"largest": "max_abs", "absolute": "sum_abs"}
"""Other names of reductions, which stand in existing settings of `Captum`."""


def check_reduction(setting: str, reduction: Any) -> None:
    """Raise `ValueError` unless the value of the setting is the name of a reduction."""
    if not isinstance(reduction, str) or SYNONYMS.get(reduction, reduction) not in REDUCTIONS:
        raise ValueError(f"{setting} must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")


def reduce_channels(values: Float[Tensor, "N C *L"], reduction: str) -> Float[Tensor, "N 1 *L"]:
    """One value for each place. `reduction` is a key of `REDUCTIONS`, or one of its `SYNONYMS`."""
    return REDUCTIONS[SYNONYMS.get(reduction, reduction)](values)
