"""Models with further arguments besides the input: a patient's age, a prompt, the times at which a series was measured.

A method calls a model with many changed copies of each input, in an order of its own. Each row needs the further arguments of
the input from which it was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from sfumato.model.effects import Model


@dataclass(frozen=True, eq=False)
class Shared:
    """An argument that is the same for all inputs, e.g. an adjacency matrix."""

    value: Any


class WithArguments:
    """A model with further arguments, which is called as `model(inputs, *arguments, **named)`.

    Every tensor among the arguments, also in lists, tuples and dicts, has one row for each of the `B` inputs. The model gets
    the rows that belong to the copies of the inputs. `Shared(tensor)` is a tensor that is the same for all inputs. Other
    values are passed unchanged. With `WithArguments(model, torch.arange(B))` the model gets the number of the input from which
    each row was made.

    Use it in the place of a model: `method(WithArguments(net, age, sex=sex), inputs, targets)`. Layers have the same names as
    in `net`. Raises `ValueError` if the model is itself a `WithArguments`, or when a method is called, if a tensor does not
    have one row for each input.

    >>> net = torch.nn.Bilinear(2, 1, 3)
    >>> WithArguments(net, torch.ones(5, 1))(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(self, model: Model, /, *arguments: Any, **named: Any) -> None:
        if isinstance(model, WithArguments):
            raise ValueError(
                "the model has its arguments already; give all of them at once: WithArguments(net, age, sex=sex)"
            )
        self.model = model
        self.arguments, self.named = tree_map(_tensor, (arguments, named))

    def __call__(self, inputs: Shaped[Tensor, "B C *S"]) -> Any:
        """The model's outputs for all inputs."""
        arguments, named = self.of(torch.arange(len(inputs), dtype=torch.long, device=inputs.device))
        return self.model(inputs, *arguments, **named)

    def of(self, query: Int[Tensor, " N"]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the named arguments for rows that belong to these inputs."""

        def rows(value: Any) -> Any:
            if isinstance(value, Shared):
                return value.value
            return value[query.to(value.device)] if isinstance(value, Tensor) else value

        return tree_map(rows, (self.arguments, self.named))

    def part(self, queries: Sequence[int]) -> "WithArguments":
        """The model with the further arguments of these queries alone."""

        def rows(value: Any) -> Any:
            return value[list(queries)] if isinstance(value, Tensor) and value.ndim else value

        arguments, named = tree_map(rows, (self.arguments, self.named))
        return WithArguments(self.model, *arguments, **named)

    def check(self, queries: int) -> None:
        """Raise `ValueError` unless all tensors have one row for each of `queries` inputs."""
        for value in (*self.arguments, *self.named.values()):
            if isinstance(value, list | tuple) and value and all(isinstance(item, int | float) for item in value):
                raise ValueError(
                    f"the model's arguments are tensors with one row for each input; got {value!r}: give torch.tensor(…), "
                    "or Shared(…) if it is the same for all inputs"
                )
        for value in tree_leaves((self.arguments, self.named)):
            if isinstance(value, Tensor) and (not value.ndim or len(value) != queries):
                raise ValueError(
                    f"the model's arguments have one row for each of the {queries} inputs; got a tensor of shape "
                    f"{tuple(value.shape)}: give Shared(tensor) if it is the same for all inputs"
                )


def _tensor(value: Any) -> Any:
    """A numpy array as a tensor; any other value unchanged."""
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def split_arguments(model: Model) -> tuple[Model, WithArguments | None]:
    """The model itself, and its `WithArguments` if it has further arguments."""
    return (model.model, model) if isinstance(model, WithArguments) else (model, None)
