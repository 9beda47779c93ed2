r"""Hooks that apply the rules for rectifiers at the nodes of the autograd graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.model.backward.curves import Root, Switch
from sfumato.model.backward.rule import RectifierRule


class Rectifier(NamedTuple):
    """A rectifier in a forward pass."""

    root: Root
    """Its input."""
    scale: float
    r"""The scale $c$ of $c\,\sigma(x)$; 0 for an operation that may have a rectifier inside."""
    name: str
    """Its operation and its place in the user's code, for messages."""
    switch: Switch
    apart: bool
    """Whether there are several operations between its input and its output."""
    others: tuple[Root, ...]
    """Other roots that equal its input, which is made from them by operations that change nothing."""

    def ways(self, node: Any) -> list[int]:
        """The indices of those inputs of a node that are the rectifier's input."""
        return [
            place
            for place, (next_node, index) in enumerate(node.next_functions)
            if (next_node is self.root.node and index == self.root.output)
            or getattr(next_node, "variable", next_node) is self.root.node
        ]


@dataclass(frozen=True)
class Hooks:
    r"""The rules as hooks, applied one after another to the signal at each rectifier.

    The output of a node is $y = c\,\sigma(x)$, or $y = c\,\sigma(-x)$ if its `scale` $c$ is negative. The rules get the signal
    at $\sigma$, which is $c R_y$.
    """

    rules: tuple[RectifierRule, ...]

    @property
    def derivative(self) -> bool:
        """Whether the activation's derivative multiplies the result of the rules."""
        return all(rule.derivative for rule in self.rules)

    def transform(self, signal: Float[Tensor, "*P"], scale: float) -> Float[Tensor, "*P"]:
        r"""The signal at $y$ after the rules, $f(c R_y) / c$. Raises `ValueError` if a rule changes its shape."""
        with torch._C.DisableTorchFunction():
            result = signal if scale == 1 else scale * signal
            for rule in self.rules:
                result = rule.transform(result)
                if not isinstance(result, Tensor) or result.shape != signal.shape:
                    shape = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
                    raise ValueError(
                        f"{rule!r}.transform must give a signal of shape {list(signal.shape)}; it gave {shape}"
                    )
            return result if scale == 1 else result / scale

    def pass_on(self, signal: Float[Tensor, "*P"], scale: float) -> Float[Tensor, "*P"]:
        r"""The signal at $x$ after the rules, if the activation's derivative does not apply."""
        with torch._C.DisableTorchFunction():
            result = self.transform(signal, scale)
            return result if abs(scale) == 1 else abs(scale) * result

    def install(self, node: Any, index: int, scale: float, inputs: Sequence[int], switch: Switch) -> None:
        """Set hooks on a node whose output `index` is that of a rectifier, and whose `inputs` are that of the rectifier."""

        def before(signals: tuple[Any, ...]) -> tuple[Any, ...]:
            if not switch.on:
                return signals
            return tuple(self.transform(s, scale) if i == index and s is not None else s for i, s in enumerate(signals))

        def after(gradients: tuple[Any, ...], signals: tuple[Any, ...]) -> tuple[Any, ...]:
            (first, *_), signal = inputs, signals[index]
            if not switch.on or signal is None:
                return gradients
            at_input = self.pass_on(signal, scale)
            return tuple(
                g if g is None else at_input.to(g.dtype) if i == first else torch.zeros_like(g)
                for i, g in enumerate(gradients)
            )

        if self.derivative:
            node.register_prehook(before)
        else:
            node.register_hook(after)

    def install_apart(self, node: Any, index: int, rectifier: Rectifier) -> None:
        """Set hooks for a rectifier of several operations, of which the node is the last.

        Without the derivative, the signal skips these operations: it is removed at the node and added at the rectifier's input.
        """
        if self.derivative:
            self.install(node, index, rectifier.scale, (), rectifier.switch)
            return
        signals_on_the_way: list[Tensor] = []

        def at_output(gradients: tuple[Any, ...], signals: tuple[Any, ...]) -> tuple[Any, ...]:
            if not rectifier.switch.on or signals[index] is None:
                return gradients
            signals_on_the_way.append(self.pass_on(signals[index], rectifier.scale))
            return tuple(None if g is None else torch.zeros_like(g) for g in gradients)

        def at_input(signal: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():
                return signal + signals_on_the_way.pop().to(signal.dtype) if signals_on_the_way else signal

        node.register_hook(at_output)
        rectifier.root.hook(at_input)


def refuse(node: Any, what: str) -> None:
    """Make a signal that flows back to this node an error, which names `what` it meets there."""

    def raise_error(_: Any) -> None:
        raise ValueError(
            f"the signal meets {what}; write it as torch.nn.functional.relu, or another function of torch, in the model's "
            "forward, or use the method Gradient"
        )

    node.register_prehook(raise_error)
