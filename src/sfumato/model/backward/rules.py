r"""The context that applies backward rules to a forward pass, so that signals flow back by these rules.

It sees all functions of torch that a model calls (by a module, `F.relu`, `x.relu_()`, `y += x`), and changes only how their
gradients are computed: it replaces no module, leaves no hook on one, and does not act in other threads. Functions that no rule
names, such as views, permutations, concatenation, padding and maximum pooling, have their own gradient, which passes a signal
on to where the values came from.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from sfumato.model.backward.conservation import Span, check_conserved, check_thread
from sfumato.model.backward.excitation import ExcitationRule
from sfumato.model.backward.functions import Function, carries, is_rectifier
from sfumato.model.backward.rectifier_rules import DeconvnetRule, GuidedRule
from sfumato.model.backward.rectifiers import next_number, rectifiers
from sfumato.model.backward.rule import BackwardRule, FunctionRule, RectifierRule
from sfumato.model.effects import in_transform
from sfumato.model.inputs import compiled_part

RULES: dict[str, BackwardRule] = {"deconvnet": DeconvnetRule(), "guided": GuidedRule(), "excitation": ExcitationRule()}
"""The published rules by name."""


class BackwardRules(TorchFunctionMode):
    r"""In this context, a forward pass is prepared so that signals will flow back through it by these rules.

    A rule is an object, or the name of a published one: "deconvnet" (`DeconvnetRule`), "guided" (`GuidedRule`) or "excitation"
    (`ExcitationRule`). To write your own, see `RectifierRule` and `FunctionRule`. Several rules combine as follows:

    - rules for rectifiers transform the signal one after another, in their order; the activation's derivative multiplies it
      unless one of them excludes that;
    - if several rules name a function, the last one applies; at rectifiers, rules for rectifiers take precedence.

    >>> BackwardRules(GuidedRule())  # is BackwardRules("guided")
    BackwardRules(GuidedRule())
    >>> BackwardRules("lrp")
    Traceback (most recent call last):
    ValueError: the rules are deconvnet, guided, excitation; got 'lrp'. Give one of these, or an object, as GuidedRule()

    The papers define their rules for ReLU only. Here any activation that suppresses negative values is a rectifier: ReLU,
    ReLU6, LeakyReLU, PReLU, RReLU, ELU, SELU, CELU, GELU, SiLU, Mish, Hardswish, Softplus, and clamping with minimum 0.
    Sigmoid, Tanh and similar functions, which serve as gates, have their own gradient under rules for rectifiers.

    Rectifiers written in another way (`torch.maximum(x, 0)`, `x * (x > 0)`, `torch.log(1 + torch.exp(x))`, or inside a
    scripted function, an `autograd.Function` or `torch.vmap`) are recognised by their outputs for values of both signs: see
    `sfumato.model.backward.rectifiers`. The backward pass raises `ValueError` where a signal meets a rectifier to which the
    rule cannot be applied, or an operation that may hide one: a custom operation that is not symmetric about zero, or an
    `autograd.Function` that computes without torch. `check` raises `ValueError` for parts that another thread computed, and
    under rules of probabilities for functions without a rule.

    Two kinds of rectifiers are not recognised and have their own gradient: those made of operations that are not elementwise,
    e.g. the maximum over a stack of `x` and zeros, and smooth ones that are neither flat far below zero nor straight far above.

    The rules apply to the forward pass inside the context; the backward pass may run inside or outside of it. There are no
    second derivatives. `check_visible` refuses models whose functions the context cannot see.
    """

    def __init__(self, *rules: BackwardRule | str) -> None:
        if not rules:
            raise ValueError(f"no rule given; give one of {', '.join(RULES)}, or an object, as GuidedRule()")
        self.rules = tuple(_rule(rule) for rule in rules)
        super().__init__()
        self.of_function: dict[Function, FunctionRule] = {}
        for rule in self.rules:
            self.of_function |= rule.functions()
        of_rectifiers = tuple(rule for rule in self.rules if isinstance(rule, RectifierRule))
        self.rectifying = bool(of_rectifiers)
        self.operations = rectifiers(of_rectifiers)
        self.span, self.first = Span(), next_number()

    def __repr__(self) -> str:
        return f"BackwardRules({', '.join(map(repr, self.rules))})"

    @property
    def conserves(self) -> bool:
        """Whether signals are probabilities, whose sum must stay the same."""
        return all(rule.conserves for rule in self.rules)

    def __enter__(self) -> Self:
        self.saving = _saving()
        self.operations.__enter__()
        super().__enter__()
        self.span.begin()
        return self

    def __exit__(self, *error: object) -> None:
        self.span.end()
        super().__exit__(*error)
        self.operations.__exit__(*error)

    def __torch_function__(
        self, func: Function, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # torch.utils.checkpoint computes again in the backward pass, without the rules. So its hooks get nothing to save.
        saving = _saving()
        checkpointed = saving is not None and saving != self.saving and saving[0].__module__ == CHECKPOINT
        with saved_tensors_hooks(*(self.saving or (_same, _same))) if checkpointed else nullcontext():
            return self._call(func, args, dict(kwargs or {}))

    def _call(self, func: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a function, by its rule if it has one."""
        rectifier = self.rectifying and is_rectifier(func, args, kwargs)
        rule = None if rectifier else self.of_function.get(func)
        batched = any(map(in_transform, chain(args, kwargs.values())))
        if rule is None or batched or not torch.is_grad_enabled():
            if rectifier and not batched:
                return self._call_rectifier(func, args, kwargs)
            # Functions inside of torch's own layers are not examined: F.lp_pool2d calls relu, but is no rectifier.
            torchs_own = getattr(func, "__module__", "") == nn.functional.__name__
            with self.operations.paused(rule is None and not rectifier and torchs_own):
                return self._call_without_rule(func, args, kwargs, rule is not None)
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        return self.operations.apply(rule, func, args, kwargs)

    def _call_rectifier(self, func: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a rectifier by its name, to which `operations` apply the rule."""
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and carries(x) and x._is_view()):
            return func(*args, **kwargs)
        # An operation in place on a view becomes part of the base tensor, and torch loses a hook on the view.
        copy = x.clone()
        y = func(copy, *args[1:], **kwargs)
        if y is not copy:
            return y
        with self.operations.paused(True):
            return x.copy_(y)

    def _call_without_rule(
        self, func: Function, args: Sequence[Any], kwargs: dict[str, Any], missed: bool = False
    ) -> Any:
        """The result of a function without a rule. Under rules of probabilities, the call is recorded for `check`."""
        if not self.conserves:
            return func(*args, **kwargs)
        return self.span.call(func, args, kwargs, missed)

    def check(self, scores: Float[Tensor, "..."], outputs: Sequence[Float[Tensor, "..."]]) -> None:
        """Raise `ValueError` unless the rules applied to everything between layers' outputs and scores computed from them.

        They did not apply if another thread computed a part, or for rules of probabilities, if these do not add up. The layers
        must have run after this object was made.
        """
        check_thread(scores, outputs, self.first)
        if self.conserves:
            title = " and ".join(rule.title for rule in self.rules)
            check_conserved(scores, outputs, self.span, self.operations.is_ruled, title)


def _rule(rule: BackwardRule | str) -> BackwardRule:
    """The rule, or the published rule of this name. Raises `ValueError` if there is none."""
    if isinstance(rule, str) and rule in RULES:
        return RULES[rule]
    if not isinstance(rule, BackwardRule):
        raise ValueError(
            f"the rules are {', '.join(RULES)}; got {rule!r}. Give one of these, or an object, as GuidedRule()"
        )
    if not isinstance(rule, RectifierRule) and not rule.functions():
        raise ValueError(f"{rule!r} names no functions; write of=every(…) with the names of its functions")
    return rule


CHECKPOINT = "torch.utils.checkpoint"


def _saving() -> tuple[Function, Function] | None:
    """The hooks that pack and unpack the tensors that autograd saves for the backward pass."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def check_visible(model: Any) -> None:
    """Raise `ValueError` if the rules would silently not apply, because the model's functions are not called from Python."""
    compiled = compiled_part(model)
    if compiled is not None:
        part, compiler = compiled
        remedies = {
            "torch.jit": "torch.jit.script or torch.jit.trace",
            "torch.compile": "(torch.compile keeps it as model._orig_mod)",
        }
        raise ValueError(
            f"{part} is compiled by {compiler}, which hides its functions from the rules of this method; give the model from "
            f"before {remedies[compiler]}"
        )
