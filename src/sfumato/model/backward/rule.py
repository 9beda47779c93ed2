r"""What a backward rule is: a small frozen object that says how a signal flows back, which `BackwardRules` carries out.

There are two kinds, for the two things that papers change:

- a `RectifierRule` says what becomes of the signal at *every* rectifier, however that is written;
- a `FunctionRule` replaces the backward pass of the functions of torch that it names. `GroupRule`, as excitation backprop is,
  is several of these.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from sfumato.model.backward.functions import Function


class BackwardRule(ABC):
    """Another way back for signals. Subclass `RectifierRule`, `FunctionRule` or `GroupRule`."""

    conserves: ClassVar[bool] = False
    """Whether signals are probabilities, whose sum must stay the same: `BackwardRules.check` then adds them up."""

    @property
    def title(self) -> str:
        """The rule's name in messages."""
        return type(self).__name__

    @abstractmethod
    def functions(self) -> Mapping[Function, "FunctionRule"]:
        """The rule of each function that has another way back."""


@dataclass(frozen=True)
class RectifierRule(BackwardRule):
    r"""What becomes of a signal at every rectifier $y = \sigma(x)$: $R_x = \sigma'(x)\,f(R_y)$, or $R_x = f(R_y)$.

    A subclass gives $f$ in `transform`, and says by `derivative` whether the activation's own derivative applies as well. It
    need not know which operations are rectifiers: see `BackwardRules`. In $c\,\sigma(x)$ and $-c\,\sigma(-x)$ it acts at
    $\sigma$ alone; the factors keep their own gradient.

    >>> import torch
    >>> from dataclasses import dataclass
    >>> from sfumato.model.backward.rules import BackwardRules
    >>> @dataclass(frozen=True)
    ... class LeakyGuidedRule(RectifierRule):
    ...     "Guided backprop that lets a part of what hinders through."
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
    r"""Whether $\sigma'(x)$ multiplies what `transform` gives."""

    @abstractmethod
    def transform(self, signal: Tensor) -> Tensor:
        """$f(R_y)$, of the shape of the signal."""

    def functions(self) -> Mapping[Function, "FunctionRule"]:
        return {}


@dataclass(frozen=True)
class FunctionRule(BackwardRule):
    """Another way back through the functions of torch in `of`; make that set by `functions.every("add", "add_", …)`.

    >>> import torch
    >>> from dataclasses import dataclass
    >>> from sfumato.model.backward.functions import every
    >>> from sfumato.model.backward.rules import BackwardRules
    >>> @dataclass(frozen=True)
    ... class StraightThroughRule(FunctionRule):
    ...     "Rounding, with the gradient of the identity."
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
        """What `func(*args, **kwargs)` gives, with another way back. Functions called in here have no rule."""

    def functions(self) -> Mapping[Function, "FunctionRule"]:
        return dict.fromkeys(self.of, self)


@dataclass(frozen=True)
class GroupRule(BackwardRule):
    """Several rules for functions under one name; where two have the same function, the later one counts."""

    parts: tuple[FunctionRule, ...] = field(default=(), repr=False)

    def functions(self) -> Mapping[Function, FunctionRule]:
        return {function: rule for part in self.parts for function, rule in part.functions().items()}
