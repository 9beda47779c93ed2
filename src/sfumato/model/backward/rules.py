r"""Backward rules at work: a context in which signals through what is computed will flow back by rules.

The functions that a model calls are seen whoever calls them (a module, `F.relu`, `x.relu_()`, `y += x`), and only how their
gradients are computed is changed: no module is replaced, no hook is left on one, and other threads do not notice.
Views, permutations, concatenation, padding, maximum pooling and whatever else no rule names keep their own gradient,
which hands a signal on to where the values came from.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, Self

import torch
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

RULES: dict[str, BackwardRule] = {"deconvnet": DeconvnetRule(), "guided": GuidedRule(), "excitation": ExcitationRule()}
"""The published rules by name."""


class BackwardRules(TorchFunctionMode):
    r"""Within this context, signals through what is computed will flow back by these rules.

    A rule is an object, or the name of a published one: "deconvnet" (`DeconvnetRule`), "guided" (`GuidedRule`) or "excitation"
    (`ExcitationRule`). To write your own, see `RectifierRule` and `FunctionRule`. Several rules act together:

    - rules of rectifiers transform the signal one after another, in the order given; the activation's derivative
      multiplies it unless one of them leaves that out;
    - where several rules name a function, the last one counts; at rectifiers, rules of rectifiers come first.

    >>> BackwardRules(GuidedRule())  # is BackwardRules("guided")
    BackwardRules(GuidedRule())
    >>> BackwardRules("lrp")
    Traceback (most recent call last):
    ValueError: the rules are deconvnet, guided, excitation; got 'lrp'. Give one of these, or an object, as GuidedRule()

    The papers know ReLU alone. Here rectifiers are all activations that silence one half of their input: ReLU, ReLU6,
    LeakyReLU, PReLU, RReLU, ELU, SELU, CELU, GELU, SiLU, Mish, Hardswish, Softplus, and clamping from 0 up. Sigmoid, Tanh
    and their kin, whose place is in gates, keep their own gradient under rules of rectifiers.

    Rectifiers that are written otherwise (`torch.maximum(x, 0)`, `x * (x > 0)`, `torch.log(1 + torch.exp(x))`, within a
    scripted function, an `autograd.Function` or `torch.vmap`) are known by what they make of values of both signs: see
    `sfumato.model.backward.rectifiers`. A signal raises `ValueError` where it meets one to which its rule cannot be applied,
    or what may have one inside: an operation of the user's own that is not symmetric about zero, or an `autograd.Function`
    that computes without torch. What `check` finds: parts that were computed in another thread, and for rules of probabilities
    what has no rule.

    Two kinds of rectifiers cannot be told and keep their own gradient: one made of operations that are not elementwise, as
    the maximum over a stack of `x` and zeros is, and a smooth one that is neither flat far below zero nor straight far above.

    Only what is computed inside the context counts; the backward pass may run in or out of it. Second derivatives are
    not to be had. Models that hide all their functions are refused before: see `check_visible`.
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
        # torch.utils.checkpoint would compute anew in the backward pass, without the rules; so it is given nothing to save.
        saving = _saving()
        checkpointed = saving is not None and saving != self.saving and saving[0].__module__ == CHECKPOINT
        with saved_tensors_hooks(*(self.saving or (_same, _same))) if checkpointed else nullcontext():
            return self._ruled(func, args, dict(kwargs or {}))

    def _ruled(self, func: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        rectifier = self.rectifying and is_rectifier(func, args, kwargs)
        rule = None if rectifier else self.of_function.get(func)
        batched = any(map(in_transform, chain(args, kwargs.values())))
        if rule is None or batched or not torch.is_grad_enabled():
            if rectifier and not batched:
                return self._rectified(func, args, kwargs)
            # What torch's own layers are made of is not looked at: F.lp_pool2d calls relu, and is no rectifier.
            torchs_own = getattr(func, "__module__", "") == nn.functional.__name__
            with self.operations.rest(rule is None and not rectifier and torchs_own):
                return self._own_gradient(func, args, kwargs, rule is not None)
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        return self.operations.ruled(rule, func, args, kwargs)

    def _rectified(self, func: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A rectifier by its name, to which `operations` give the rule."""
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and carries(x) and x._is_view()):
            return func(*args, **kwargs)
        # What is done in place to a view becomes part of the tensor it views, and a hook on the view is forgotten.
        own = x.clone()
        y = func(own, *args[1:], **kwargs)
        if y is not own:
            return y
        with self.operations.rest(True):
            return x.copy_(y)

    def _own_gradient(self, func: Function, args: Sequence[Any], kwargs: dict[str, Any], missed: bool = False) -> Any:
        """The function without a rule; what it was is remembered for what `check` has to say."""
        if not self.conserves:
            return func(*args, **kwargs)
        return self.span.call(func, args, kwargs, missed)

    def check(self, scores: Tensor, outputs: Sequence[Tensor]) -> None:
        """Raise `ValueError` where the rules did not act on all between scores computed with them and layers' outputs.

        So it is where a part was computed in another thread, and for rules of probabilities where these do not add up. The
        outputs are of layers that ran since this object was made.
        """
        check_thread(scores, outputs, self.first)
        if self.conserves:
            title = " and ".join(rule.title for rule in self.rules)
            check_conserved(scores, outputs, self.span, self.operations.is_ruled, title)


def _rule(rule: BackwardRule | str) -> BackwardRule:
    """The rule of that name, checked."""
    if isinstance(rule, str) and rule in RULES:
        return RULES[rule]
    if not isinstance(rule, BackwardRule):
        raise ValueError(
            f"the rules are {', '.join(RULES)}; got {rule!r}. Give one of these, or an object, as GuidedRule()"
        )
    if not isinstance(rule, RectifierRule) and not rule.functions():
        raise ValueError(f"{rule!r} names no functions; write of=every(…) with the names of those that it is for")
    return rule


CHECKPOINT = "torch.utils.checkpoint"


def _saving() -> tuple[Function, Function] | None:
    """The hooks that take the tensors which are saved for the backward pass, and give them back."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def check_visible(model: Any) -> None:
    """Raise `ValueError` where the rules would silently not apply: the model's functions are not called from Python."""
    parts = list(model.named_modules()) if isinstance(model, nn.Module) else [("", model)]
    for name, part in parts:
        what = f"its part {name!r}" if name else "the model"
        if isinstance(part, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            raise ValueError(
                f"{what} is compiled by torch.jit, which hides its functions from the rules of this method; give the model "
                "from before torch.jit.script or torch.jit.trace"
            )
        if (
            hasattr(part, "_orig_mod")
            or hasattr(part, "_torchdynamo_orig_callable")
            or getattr(part, "_compiled_call_impl", None) is not None
        ):
            raise ValueError(
                f"{what} is compiled by torch.compile, which hides its functions from the rules of this method; give the "
                "model from before (torch.compile keeps it as model._orig_mod)"
            )
