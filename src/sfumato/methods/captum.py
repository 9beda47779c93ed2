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
from torch import Tensor, nn

from sfumato.attribution import Attribution
from sfumato.layers.capture import find_layer
from sfumato.methods.method import Method, Progress
from sfumato.model.effects import Model
from sfumato.model.inputs import described
from sfumato.model.subject import Subject
from sfumato.settings import later

MEMORY = 2.0
"""GiB."""

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda values: values.sum(1, keepdim=True),
    "absolute": lambda values: values.abs().sum(1, keepdim=True),
    "largest": lambda values: values.abs().amax(1, keepdim=True),
}
"""From `(B, C, *S)` to one channel."""

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
"""The paper of each of Captum's methods that has one, or the method whose paper it is, too, for `sfumato.citation`."""


@dataclass(frozen=True)
class Captum(Method):
    """One of Captum's attribution methods, with the call of all methods here; gives an `Attribution` with a `map`.

    - `name`: of a class in `captum.attr`, also written "captum:IntegratedGradients", or "package.module:Class" for one of
      Captum's kind that lives elsewhere.
    - `layer`: the dotted name of the model's layer, for methods that look into one; their map, which has the layer's size,
      is enlarged to the inputs' by linear interpolation.
    - `arguments`: what else the class or its `attribute` takes, by name: numbers, strings, tuples of them. A number given
      as `baselines` fills an input; where a distribution is needed and nothing is given, it is two inputs of zeros.
    - `channels`: how one channel is made of many. "sum" (keeps the sum of all attributions, which many methods define),
      "absolute" (the sum of absolute values) or "largest" (absolute value; Simonyan et al. 2014).
    - `seed`: of what the method draws.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.

    The explained score is the outputs' only axis for Captum, so that any `Score` and targets of each query serve.
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
        if self.channels not in REDUCTIONS:
            raise ValueError(f"channels must be one of {', '.join(REDUCTIONS)}; got {self.channels!r}")
        super().__post_init__()

    def check_model(self, model: Model) -> None:  # noqa: ARG002
        if self.needs_layer != bool(self.layer):
            raise ValueError(
                f'{self.name} looks into a layer; name one, e.g. layer="layer4"'
                if self.needs_layer
                else f"{self.name} looks into no layer; leave out layer={self.layer!r}"
            )

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:  # noqa: ARG002  # there are no steps
        kind = self._class()
        _, whole = subject.probe(MEMORY)
        scored = _Scored(subject)
        constructed = {"layer": find_layer(subject.model, self.layer)} if self.needs_layer else {}
        with subject.surroundings.computing(), ONE_AT_A_TIME, _left_alone(subject.model), _seeded(self.seed):
            x = subject.inputs.clone().requires_grad_()
            made, called = self._divided(kind, x)
            found = kind(scored, **constructed, **made).attribute(x, additional_forward_args=(subject.query,), **called)
            saliency = self._map(found, x)
        return Attribution(map=saliency, whole=whole, about=self.about(subject))

    @property
    def needs_layer(self) -> bool:  # type: ignore[override]  # which of Captum's methods it is decides
        """Whether the method looks into a layer. Raises as a call does where there is no such method."""
        return "layer" in inspect.signature(self._class()).parameters

    def _class(self) -> Callable[..., Any]:
        path = self.name.removeprefix("captum:")
        module, _, name = path.rpartition(":") if ":" in path else ("captum.attr", "", path)
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
                raise
            raise ModuleNotFoundError(
                f"the method {self.name!r} needs {error.name}, which is not installed; run: pip install "
                f"{error.name.split('.')[0]}",
                name=error.name,
            ) from error
        if not (isinstance(found, type) and callable(getattr(found, "attribute", None))):
            raise ValueError(f"no attribution method {name!r} in {module}; see https://captum.ai/api")
        return cast(Callable[..., Any], found)

    def _divided(self, kind: Callable[..., Any], x: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments of the class, and those of its `attribute`."""
        taken = inspect.signature(kind).parameters
        known = inspect.signature(kind.attribute).parameters  # type: ignore[attr-defined]  # _class has looked
        given: dict[str, Any] = dict(self.arguments)
        for name in given:
            if name not in taken and name not in known:
                words = ", ".join(each for each in [*taken, *known][1:] if each not in RESERVED)
                raise ValueError(f"{self.name} takes no {name!r}; expected one of {words}")
            if name in RESERVED:
                raise ValueError(
                    f"{name!r} is not for arguments: it follows from the model, the inputs and the targets"
                )
        if "baselines" in known and known["baselines"].default is inspect.Parameter.empty:
            given["baselines"] = torch.full_like(x[:1].detach(), given.get("baselines", 0)).repeat_interleave(2, 0)
        made = {name: value for name, value in given.items() if name in taken}
        return made, {name: value for name, value in given.items() if name not in taken}

    def _map(self, found: Any, x: Tensor) -> Tensor:
        if isinstance(found, tuple) and len(found) == 1:
            (found,) = found
        if not isinstance(found, Tensor):
            raise ValueError(f"{self.name} gives {described(found)}, not one map; ask for less with arguments")
        if found.ndim != x.ndim or len(found) != len(x):
            raise ValueError(
                f"{self.name} gives attributions of shape {tuple(found.shape)} for inputs of shape {tuple(x.shape)}; "
                f"choose a layer whose output is (B, K, *L) with {x.ndim - 2} axes of space"
            )
        values = REDUCTIONS[self.channels](found.detach().float())
        if values.shape[2:] == x.shape[2:]:
            return values
        mode = ("linear", "bilinear", "trilinear")[x.ndim - 3]
        return nn.functional.interpolate(values, x.shape[2:], mode=mode, align_corners=False)


RESERVED = ("self", "forward_func", "model", "layer", "inputs", "target", "additional_forward_args")


def _plain(name: str, value: Any) -> Any:
    """The value with lists as tuples, if it can be written down."""
    if isinstance(value, tuple | list):
        return tuple(_plain(name, each) for each in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"arguments are numbers, strings and tuples of them; got {name}={value!r}")


class _Scored(nn.Module):
    """The model and what is explained of it as one network: `(N, C, *S)` and queries `(N,)` to scores `(N,)`.

    The queries travel as Captum's additional argument, which it repeats as it repeats the inputs.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject
        self.model = subject.model  # registers it, where it is a module, for methods that look through all of them

    def forward(self, seen: Tensor, query: Tensor) -> Tensor:
        return self.subject.phi(seen, query)


ONE_AT_A_TIME = threading.RLock()
"""Captum marks modules, and draws from the process's random numbers: its methods take turns where threads share them."""

MARKS = ("input", "output", "rule", "activations")
"""Attributes with which Captum marks modules. Some stay behind, and a `rule` that the user gave is taken away."""


@contextmanager
def _left_alone(model: Model) -> Iterator[None]:
    """Hooks, parameters' storage and marks are restored, whatever Captum did, also after an exception."""
    if not isinstance(model, nn.Module):
        yield
        return
    modules = list(model.modules())
    hooks = [
        (each, dict(each))
        for module in modules
        for name, each in vars(module).items()
        if "_hooks" in name and isinstance(each, dict)
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
        for module, given in marks:
            for name in MARKS:
                vars(module).pop(name, None)
            vars(module).update(given)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Both torch's and NumPy's random numbers begin with the seed; NumPy's state comes out as it went in."""
    torch.manual_seed(seed)  # the surroundings restore this one
    before = np.random.get_state()  # noqa: NPY002  # Captum draws from the global one
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
