r"""Captum's methods as methods of this library: `Captum("IntegratedGradients")`.

N. Kokhlikyan et al.: *Captum: a unified and generic model interpretability library for PyTorch*, 2020, arXiv 2009.07896.
"""

import importlib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.attribution import Attribution
from sfumato.layers.capture import find_layer, watched
from sfumato.methods.method import Method, check_reduction, reduce_channels
from sfumato.model.effects import Model
from sfumato.model.inputs import describe
from sfumato.model.subject import Subject
from sfumato.search.loop import Progress
from sfumato.settings import later

MEMORY = 2.0
"""GiB that the model may keep for its backward pass."""

PAPERS = {
    "Saliency": "K. Simonyan, A. Vedaldi, A. Zisserman: *Deep inside convolutional networks: visualising image classification "
    "models and saliency maps*, ICLR 2014 workshop, arXiv 1312.6034",
    "Deconvolution": "M. D. Zeiler, R. Fergus: *Visualizing and understanding convolutional networks*, ECCV 2014, arXiv "
    "1311.2901",
    "Occlusion": "Deconvolution",
    "GuidedBackprop": "J. T. Springenberg, A. Dosovitskiy, T. Brox, M. Riedmiller: *Striving for simplicity: the all "
    "convolutional net*, ICLR 2015 workshop, arXiv 1412.6806",
    "LayerGradCam": "R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh, D. Batra: *Grad-CAM: visual explanations "
    "from deep networks via gradient-based localization*, ICCV 2017, arXiv 1610.02391",
    "GuidedGradCam": "LayerGradCam",
    "InputXGradient": "A. Shrikumar, P. Greenside, A. Shcherbina, A. Kundaje: *Not just a black box*, 2016, arXiv 1605.01713",
    "LayerGradientXActivation": "InputXGradient",
    "IntegratedGradients": "M. Sundararajan, A. Taly, Q. Yan: *Axiomatic attribution for deep networks*, ICML 2017, arXiv "
    "1703.01365",
    "LayerIntegratedGradients": "IntegratedGradients",
    "DeepLift": "A. Shrikumar, P. Greenside, A. Kundaje: *Learning important features through propagating activation "
    "differences*, ICML 2017, arXiv 1704.02685",
    "LayerDeepLift": "DeepLift",
    "KernelShap": "S. Lundberg, S. Lee: *A unified approach to interpreting model predictions*, NeurIPS 2017, arXiv 1705.07874",
    "GradientShap": "KernelShap",
    "LayerGradientShap": "KernelShap",
    "DeepLiftShap": "KernelShap",
    "LayerDeepLiftShap": "KernelShap",
    "Lime": "M. T. Ribeiro, S. Singh, C. Guestrin: *Why should I trust you? Explaining the predictions of any classifier*, "
    "KDD 2016, arXiv 1602.04938",
}
"""The papers of Captum's methods, for `sfumato.citation`: a citation, or the name of another method with the same paper."""


@dataclass(frozen=True)
class Captum(Method):
    """One of Captum's attribution methods, which is called like all methods here and returns an `Attribution` with a `map`.

    - `name`: the name of a class in `captum.attr`, e.g. "IntegratedGradients" or "captum:IntegratedGradients", or
      "package.module:Class" for a class of another package with the same interface.
    - `layer`: the dotted name of the model's layer, for methods that use one. Their map has the size of the layer, and is
      enlarged to the inputs' size by linear interpolation.
    - `arguments`: further arguments of the class or its `attribute`, by name: numbers, strings, and tuples of them. A number as
      `baselines` fills an input. If the method needs a distribution of baselines and none is given, it is two inputs of zeros.
    - `channels`: how the channels become one number for each place: "sum" (the default, which keeps the sum of all
      attributions), "sum_abs", "max_abs" (Simonyan et al. 2014) or "norm", as for `Gradient`. "absolute" and "largest" are
      other names of "sum_abs" and "max_abs".
    - `seed`: the seed of the random numbers that the method draws.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.

    Captum sees a model whose only output is the explained score, so that it works with any `Score` and any targets. Raises
    `ValueError` for an unknown method or argument, and `ModuleNotFoundError` if the package is not installed.
    """

    name: str = "IntegratedGradients"
    layer: str = ""
    arguments: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    channels: str = "sum"
    seed: int = 0
    score: str = later("logit")

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.removeprefix("captum:"):
            raise ValueError(f'name is that of a class in captum.attr, e.g. "IntegratedGradients"; got {self.name!r}')
        pairs = self.arguments.items() if isinstance(self.arguments, Mapping) else self.arguments
        object.__setattr__(self, "arguments", tuple((name, _plain(name, value)) for name, value in pairs))
        check_reduction("channels", self.channels)
        super().__post_init__()

    def check_model(self, model: Model) -> None:
        if self.layer and not self.needs_layer:
            raise ValueError(f"{self.name} looks into no layer; leave out layer={self.layer!r}")
        super().check_model(model)

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:  # noqa: ARG002  # there are no steps
        cls = self._class()
        _, whole = subject.probe(MEMORY)
        scores = _Scores(subject)
        layer = {"layer": self._find_layer(subject)} if self.needs_layer else {}
        with subject.surroundings.computing(), ONE_AT_A_TIME, _restored(subject.model), _seeded(self.seed):
            x = subject.inputs.clone().requires_grad_()
            of_class, of_attribute = self._split_arguments(cls, x)
            captum_method = cls(scores, **layer, **of_class)
            with _differentiable(self.name):
                attributions = captum_method.attribute(x, additional_forward_args=(subject.query,), **of_attribute)
            saliency = self._map(attributions, x)
        return Attribution(map=saliency, whole=whole, about=self.about(subject))

    @property
    def needs_layer(self) -> bool:  # type: ignore[override]  # it depends on the method of Captum
        """Whether the method uses a layer. Raises the errors of a call if there is no such method."""
        return "layer" in inspect.signature(self._class()).parameters

    def _find_layer(self, subject: Subject) -> nn.Module:
        """The layer. Raises `ValueError` if it puts out no tensors, but an object, of which Captum sees nothing."""
        module = find_layer(subject.model, self.layer)
        kinds: list[str] = []

        def see(output: Any) -> None:
            if not isinstance(output, Tensor | tuple):
                kinds.append(type(output).__name__)

        with subject.surroundings.computing(), torch.no_grad(), watched(module, "output", see):
            subject.phi(subject.inputs[:1], subject.query[:1])
        if kinds:
            raise ValueError(
                f"the layer {self.layer!r} puts out a {kinds[0]}, not a tensor; name a layer inside it, of "
                "[name for name, _ in model.named_modules()]"
            )
        return module

    def _class(self) -> Callable[..., Any]:
        path = self.name.removeprefix("captum:")
        module, _, name = path.rpartition(":") if ":" in path else ("captum.attr", "", path)
        try:
            cls = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
                raise
            raise ModuleNotFoundError(
                f"the method {self.name!r} needs {error.name}, which is not installed; run: pip install "
                f"{error.name.split('.')[0]}",
                name=error.name,
            ) from error
        if not (isinstance(cls, type) and callable(getattr(cls, "attribute", None))):
            raise ValueError(f"no attribution method {name!r} in {module}; see https://captum.ai/api")
        return cast(Callable[..., Any], cls)

    def _split_arguments(
        self, cls: Callable[..., Any], x: Float[Tensor, "B C *S"]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments of the class, and those of its `attribute`."""
        of_class = inspect.signature(cls).parameters
        of_attribute = inspect.signature(cls.attribute).parameters  # type: ignore[attr-defined]  # _class checks it
        arguments: dict[str, Any] = dict(self.arguments)
        for name in arguments:
            if name not in of_class and name not in of_attribute:
                names = ", ".join(name for name in [*of_class, *of_attribute][1:] if name not in RESERVED)
                raise ValueError(f"{self.name} takes no {name!r}; expected one of {names}")
            if name in RESERVED:
                raise ValueError(
                    f"{name!r} is not for arguments: it follows from the model, the inputs and the targets; leave it out"
                )
        baselines = of_attribute.get("baselines")
        if baselines is not None and baselines.default is inspect.Parameter.empty:
            value = arguments.get("baselines", 0)
            arguments["baselines"] = torch.full_like(x[:1].detach(), value).repeat_interleave(2, 0)
        return (
            {name: value for name, value in arguments.items() if name in of_class},
            {name: value for name, value in arguments.items() if name not in of_class},
        )

    def _map(self, attributions: Any, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B 1 *S"]:
        """The map for attributions of inputs `x`."""
        if isinstance(attributions, tuple) and len(attributions) == 1:
            (attributions,) = attributions
        if not isinstance(attributions, Tensor):
            raise ValueError(
                f"{self.name} gives {describe(attributions)}, not one map; set its arguments so that it returns one tensor"
            )
        if attributions.ndim != x.ndim or len(attributions) != len(x):
            raise ValueError(
                f"{self.name} gives attributions of shape {tuple(attributions.shape)} for inputs of shape "
                f"{tuple(x.shape)}; choose a layer whose output is (B, K, *L) with {x.ndim - 2} axes of space"
            )
        values = reduce_channels(attributions.detach().float(), self.channels)
        if values.shape[2:] == x.shape[2:]:
            return values
        mode = ("linear", "bilinear", "trilinear")[x.ndim - 3]
        return nn.functional.interpolate(values, x.shape[2:], mode=mode, align_corners=False)


RESERVED = ("self", "forward_func", "model", "layer", "inputs", "target", "additional_forward_args")


def _plain(name: str, value: Any) -> Any:
    """The value with lists as tuples. Raises `ValueError` unless it consists of numbers and strings."""
    if isinstance(value, tuple | list):
        return tuple(_plain(name, item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"arguments are numbers, strings and tuples of them; got {name}={value!r}")


class _Scores(nn.Module):
    """The model and its score as one network, from rows `(N, C, *S)` and their queries `(N,)` to scores `(N,)`.

    The queries are an additional argument for Captum, which repeats it in the same way as the inputs.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject
        self.model = subject.model  # registers a module as a submodule, for methods that visit all modules

    def forward(self, rows: Tensor, query: Tensor) -> Tensor:
        return self.subject.phi(rows, query)


ONE_AT_A_TIME = threading.RLock()
"""The lock for calls of Captum, which sets attributes of modules and draws from the random numbers of the process."""

MARKS = ("input", "output", "rule", "activations")
"""The attributes that Captum sets on modules. It leaves some of them behind, and deletes a `rule` that the user set."""


@contextmanager
def _restored(model: Model) -> Iterator[None]:
    """Restore hooks, the storage of parameters, and `MARKS` at the end, also after an exception."""
    if not isinstance(model, nn.Module):
        yield
        return
    modules = list(model.modules())
    hooks = [
        (live, dict(live))
        for module in modules
        for name, live in vars(module).items()
        if "_hooks" in name and isinstance(live, dict)
    ]
    data = [(parameter, parameter.data) for parameter in model.parameters()]
    marks = [(module, {name: vars(module)[name] for name in MARKS if name in vars(module)}) for module in modules]
    try:
        yield
    finally:
        for live, saved in hooks:
            live.clear()
            live.update(saved)
        for parameter, values in data:
            parameter.data = values
        for module, attributes in marks:
            for name in MARKS:
                vars(module).pop(name, None)
            vars(module).update(attributes)


@contextmanager
def _differentiable(name: str) -> Iterator[None]:
    """Explains the error of a backward pass through a model that has no gradients."""
    try:
        yield
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise ValueError(
            f"{name} needs gradients, and none flow from the score to the input; use a method that needs none, such as RISE() "
            'or Captum("Occlusion", arguments={"sliding_window_shapes": (3, 15, 15)})'
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the random numbers of torch and NumPy, and restore NumPy's state at the end."""
    torch.manual_seed(seed)  # `Surroundings.computing` restores torch's state
    before = np.random.get_state()  # noqa: NPY002  # Captum draws from the global generator
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
