"""Methods of this library as Captum's own.

`attribution(method, model)` has the face of a `captum.attr.Attribution`, for `NoiseTunnel`, `infidelity`,
`sensitivity_max` and code written for Captum; it needs no Captum itself. (`methods.captum` is the way back.)
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.model.arguments import Shared, WithArguments
from sfumato.model.effects import Model
from sfumato.model.inputs import described
from sfumato.scores import Output, Score, class_scores

Method = Callable[[Model, Tensor, Any], Attribution]
"""What every method here is: called with a model, inputs and targets, it gives a result with a `map`."""


def attribution(method: Method, model: Model) -> "CaptumFace":
    """The method, bound to a model, with the face of a `captum.attr.Attribution`."""
    return CaptumFace(method, model)


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with itself as `__wrapped__`: what `NoiseTunnel` calls, to pass by Captum's own logging."""

    @functools.wraps(function)
    def called(*args: Any, **named: Any) -> Any:
        return function(*args, **named)

    return called


class CaptumFace:
    """A method of this library, bound to a model, as Captum knows attribution methods."""

    def __init__(self, method: Method, model: Model) -> None:
        self.method = method
        self.forward_func = model

    @property
    def multiplies_by_inputs(self) -> bool:
        """Maps say where, not how much in units of the output."""
        return False

    def has_convergence_delta(self) -> bool:
        """There is none."""
        return False

    @_wrapped
    def attribute(
        self, inputs: Tensor | tuple[Tensor], target: Any = None, additional_forward_args: Any = None
    ) -> Tensor | tuple[Tensor]:
        """The method's map, repeated over the channels: of the inputs' shape, as Captum's metrics want it.

        `inputs` is `(B, C, *S)`, alone or as the only one of a tuple, and so is what is returned. `target` is what Captum
        takes: an index, one per input, an index into outputs with several axes as a tuple, or a list of such tuples;
        `None` where the model gives one number per input; also a `Score`. `additional_forward_args` are handed to the
        model after the inputs; tensors with a row for each input go with their input: see `WithArguments`.
        """
        (x,) = inputs if isinstance(inputs, tuple) and len(inputs) == 1 else (inputs,)
        if not isinstance(x, Tensor):
            raise ValueError(f"methods here explain one input tensor (B, C, *S); got {described(inputs)}")
        more = additional_forward_args
        more = () if more is None else more if isinstance(more, tuple) else (more,)
        model = (
            WithArguments(self.forward_func, *(_argument(each, len(x)) for each in more)) if more else self.forward_func
        )
        attributions = self.method(model, x, _targets(target)).map.to(x.dtype).expand(x.shape).contiguous()
        return (attributions,) if isinstance(inputs, tuple) else attributions


def _argument(value: Any, batch: int) -> Any:
    """An additional argument of Captum's as one of `WithArguments`: with a row for each input, or shared by all."""
    if not isinstance(value, Tensor) or not value.ndim:
        return Shared(value)
    if len(value) == 1:
        return value.expand(batch, *value.shape[1:])
    return value if len(value) == batch else Shared(value)


def _targets(target: Any) -> Any:
    """What Captum's `target` means here."""
    if target is None:
        return Output(_only)
    if isinstance(target, Tensor) and target.numel() == 1:
        return int(target)
    if isinstance(target, tuple) and len(target) == 1:
        return target[0]
    if isinstance(target, tuple):
        return Entry((target,))
    if isinstance(target, list) and target and all(isinstance(each, tuple) for each in target):
        return Entry(tuple(target))
    return target


def _only(outputs: Any) -> Tensor:
    """The one number that the model gives for each input."""
    if not isinstance(outputs, Tensor) or outputs.numel() != len(outputs):
        raise ValueError(
            f"target=None is for models that give one number per input; this one gives {described(outputs)}; "
            "name a target, e.g. target=281"
        )
    return outputs.flatten()


@dataclass(frozen=True)
class Entry(Score):
    """One place of outputs with several axes `(N, K, …)`: an index for every axis after the first.

    `indices` is one such index for all queries, or one per query.
    """

    indices: tuple[tuple[int, ...], ...]

    def check(self, queries: int) -> None:
        if len(self.indices) not in (1, queries):
            raise ValueError(
                f"got {len(self.indices)} targets for {queries} inputs; give one per input, or one for all"
            )

    def __call__(self, outputs: Any, query: Tensor) -> Tensor:
        values = class_scores(outputs, len(query))
        wanted = torch.tensor(self.indices, dtype=torch.long, device=values.device).expand(
            max(len(self.indices), int(query.max()) + 1), -1
        )
        if wanted.shape[1] != values.ndim - 1:
            raise ValueError(
                f"a target is an index into all axes after the first; got {self.indices[0]} for outputs of shape "
                f"{tuple(values.shape)}"
            )
        limits = torch.tensor(values.shape[1:], dtype=torch.long, device=values.device)
        if ((wanted < 0) | (wanted >= limits)).any():
            raise ValueError(f"a target of {self.indices} is out of range: outputs have shape {tuple(values.shape)}")
        return values[(torch.arange(len(values), dtype=torch.long, device=values.device), *wanted[query].T)]
