"""An adapter with the interface of Captum's methods.

`attribution(method, model)` has the interface of a `captum.attr.Attribution`, for `NoiseTunnel`, `infidelity`,
`sensitivity_max` and code written for Captum. It does not need Captum. (`methods.captum` is the reverse: a method of Captum
as a method of this library.)
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.model.arguments import Shared, WithArguments
from sfumato.model.effects import Model
from sfumato.model.inputs import describe
from sfumato.model.of_pictures import PictureModel
from sfumato.scores import Output, Score, class_scores

Method = Callable[[Model, Tensor, Any], Attribution]
"""A method of this library, which is called with a model, inputs and targets, and returns a result with a `map`."""


def attribution(method: Method, model: Model | PictureModel) -> "CaptumFace":
    """The method bound to a model, or to the network of a `Classifier`, with the interface of a `captum.attr.Attribution`."""
    return CaptumFace(method, model.net if isinstance(model, PictureModel) else model)


def _with_wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with itself as its `__wrapped__`, which `NoiseTunnel` calls to avoid Captum's logging."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class CaptumFace:
    """A method of this library bound to a model, with the interface of Captum's attribution methods."""

    def __init__(self, method: Method, model: Model) -> None:
        self.method = method
        self.forward_func = model

    @property
    def multiplies_by_inputs(self) -> bool:
        """False, as maps say where the important places are, not how much each adds to the output."""
        return False

    def has_convergence_delta(self) -> bool:
        """False, as maps do not add up to the output."""
        return False

    @_with_wrapped
    def attribute(
        self,
        inputs: Float[Tensor, "B C *S"] | tuple[Float[Tensor, "B C *S"]],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Float[Tensor, "B C *S"] | tuple[Float[Tensor, "B C *S"]]:
        """The method's map, repeated over the channels to the shape of the inputs, as Captum's metrics need it.

        `inputs` is a tensor, or a tuple with one tensor; the result has the same form. `target` is as for
        Captum: a class index, one index per input, a tuple that indexes outputs with several axes, or a list of such
        tuples; `None` if the model returns one number per input. It may also be a `Score`. `additional_forward_args` are
        passed to the model after the inputs; a tensor with a row for each input is passed with the rows of the inputs (see
        `WithArguments`). Raises `ValueError` for several input tensors, and for a target that does not fit the outputs.
        """
        (x,) = inputs if isinstance(inputs, tuple) and len(inputs) == 1 else (inputs,)
        if not isinstance(x, Tensor):
            raise ValueError(
                f"methods of sfumato explain one input tensor (B, C, *S); got {describe(inputs)}; give one, e.g. inputs[0]"
            )
        more = additional_forward_args
        more = () if more is None else more if isinstance(more, tuple) else (more,)
        model = (
            WithArguments(self.forward_func, *(_argument(value, len(x)) for value in more))
            if more
            else self.forward_func
        )
        attributions = self.method(model, x, _targets(target)).map.to(x.dtype).expand(x.shape).contiguous()
        return (attributions,) if isinstance(inputs, tuple) else attributions


def _argument(value: Any, batch: int) -> Any:
    """An additional argument of Captum as one of `WithArguments`: with a row for each input, or shared by all inputs."""
    if not isinstance(value, Tensor) or not value.ndim:
        return Shared(value)
    if len(value) == 1:
        return value.expand(batch, *value.shape[1:])
    return value if len(value) == batch else Shared(value)


def _targets(target: Any) -> Any:
    """Captum's `target` as targets of this library."""
    if target is None:
        return Output(_only)
    if isinstance(target, Tensor) and target.numel() == 1:
        return int(target)
    if isinstance(target, tuple) and len(target) == 1:
        return target[0]
    if isinstance(target, tuple):
        return Entry((target,))
    if isinstance(target, list) and target and all(isinstance(item, tuple) for item in target):
        return Entry(tuple(target))
    return target


def _only(outputs: Any) -> Shaped[Tensor, " N"]:
    """The only number that the model returns for each input. Raises `ValueError` if it returns more."""
    if not isinstance(outputs, Tensor) or outputs.numel() != len(outputs):
        raise ValueError(
            f"target=None is for models that give one number per input; this one gives {describe(outputs)}; "
            "name a target, e.g. target=281"
        )
    return outputs.flatten()


@dataclass(frozen=True)
class Entry(Score):
    """One entry of outputs with several axes `(N, K, …)`.

    `indices` has one index for each axis after the first, as a tuple; one tuple for all queries, or one per query.
    """

    indices: tuple[tuple[int, ...], ...]

    def check(self, queries: int) -> None:
        if len(self.indices) not in (1, queries):
            raise ValueError(
                f"got {len(self.indices)} targets for {queries} inputs; give one per input, or one for all"
            )

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        values = class_scores(outputs, len(query))
        indices = torch.tensor(self.indices, dtype=torch.long, device=values.device).expand(
            max(len(self.indices), int(query.max()) + 1), -1
        )
        if indices.shape[1] != values.ndim - 1:
            raise ValueError(
                f"a target is an index into all axes after the first; got {self.indices[0]} for outputs of shape "
                f"{tuple(values.shape)}"
            )
        limits = torch.tensor(values.shape[1:], dtype=torch.long, device=values.device)
        if ((indices < 0) | (indices >= limits)).any():
            raise ValueError(f"a target of {self.indices} is out of range: outputs have shape {tuple(values.shape)}")
        return values[(torch.arange(len(values), dtype=torch.long, device=values.device), *indices[query].T)]
