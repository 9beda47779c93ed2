r"""The base classes of backward rules. A rule is a small frozen object that says how a signal flows back; `BackwardRules`
applies it.

Papers change one of two things, so there are two kinds of rule:

- a `RectifierRule` changes the signal at *every* rectifier, however the rectifier is written;
- a `FunctionRule` replaces the backward pass of the functions of torch that it names. A `GroupRule` is several of these, as
  excitation backprop is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sfumato.model.backward.functions import Function


class BackwardRule(ABC):
    """A rule by which signals flow back. Subclass `RectifierRule`, `FunctionRule` or `GroupRule`."""

    conserves: ClassVar[bool] = False
    """Whether signals are probabilities, whose sum must not change. `BackwardRules.check` then checks the sums."""

    @property
    def title(self) -> str:
        """The rule's name in messages."""
        return type(self).__name__

    @abstractmethod
    def functions(self) -> Mapping[Function, "FunctionRule"]:
        """The functions of torch whose backward pass is replaced, each with its rule."""


@dataclass(frozen=True)
class RectifierRule(BackwardRule):
    r"""The signal at every rectifier $y = \sigma(x)$ becomes $R_x = \sigma'(x)\,f(R_y)$, or $R_x = f(R_y)$.

    A subclass defines $f$ in `transform`, and sets `derivative` to say whether the activation's own derivative multiplies it.
    It does not list the operations that are rectifiers: see `BackwardRules`. In $c\,\sigma(x)$ and $-c\,\sigma(-x)$ the rule
    applies at $\sigma$ only; the factors have their own gradient.

    >>> import torch
    >>> from dataclasses import dataclass
    >>> from sfumato.model.backward.rules import BackwardRules
    >>> @dataclass(frozen=True)
    ... class LeakyGuidedRule(RectifierRule):
    ...     "Guided backprop that keeps a part of negative signals."
    ...     alpha: float = 0.1
    ...     def transform(self, signal):
    ...         return torch.where(signal > 0, signal, self.alpha * signal)
    >>> x = torch.tensor([-1.0, 1.0, 1.0], requires_grad=True)
    >>> with BackwardRules(LeakyGuidedRule(alpha=0.5)):
    ...     y = torch.relu(x)
    >>> torch.autograd.grad(y, x, torch.tensor([2.0, 2.0, -2.0]))[0]
    tensor([ 0.,  2., -1.])
    """

    derivative: ClassVar[bool] = True
    r"""Whether $\sigma'(x)$ multiplies the result of `transform`."""

    @abstractmethod
    def transform(self, signal: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """$f(R_y)$ for the signal $R_y$."""

    def functions(self) -> Mapping[Function, "FunctionRule"]:
        return {}


@dataclass(frozen=True)
class FunctionRule(BackwardRule):
    """Another backward pass of the functions of torch in `of`, a set that `functions.every("add", "add_", …)` makes.

    >>> import torch
    >>> from dataclasses import dataclass
    >>> from sfumato.model.backward.functions import every
    >>> from sfumato.model.backward.rules import BackwardRules
    >>> @dataclass(frozen=True)
    ... class StraightThroughRule(FunctionRule):
    ...     "Rounding with the gradient of the identity."
    ...     of: frozenset = every("round")
    ...     def __call__(self, func, x):
    ...         return x + (func(x) - x).detach()
    >>> x = torch.tensor([0.4, 0.6], requires_grad=True)
    >>> with BackwardRules(StraightThroughRule()):
    ...     y = torch.round(x)
    >>> y.detach(), torch.autograd.grad(y.sum(), x)[0]
    (tensor([0., 1.]), tensor([1., 1.]))
    """

    of: frozenset[Function] = field(default=frozenset(), repr=False)

    @abstractmethod
    def __call__(self, func: Function, *args: Any, **kwargs: Any) -> Any:
        """The result of `func(*args, **kwargs)` with another backward pass. Functions called in here have no rule."""

    def functions(self) -> Mapping[Function, "FunctionRule"]:
        return dict.fromkeys(self.of, self)


@dataclass(frozen=True)
class GroupRule(BackwardRule):
    """Several rules for functions under one name. If two have the same function, the later one applies."""

    parts: tuple[FunctionRule, ...] = field(default=(), repr=False)

    def functions(self) -> Mapping[Function, FunctionRule]:
        return {function: rule for part in self.parts for function, rule in part.functions().items()}
