r"""Rules of rectifiers as hooks on the nodes of the autograd graph that compute these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sfumato.model.backward.curves import Root, Switch
from sfumato.model.backward.rule import RectifierRule


class Rectifier(NamedTuple):
    """A rectifier that has run."""

    root: Root
    """Its input."""
    scale: float
    """0 for what may have one inside."""
    name: str
    switch: Switch
    apart: bool
    """Whether several operations lie between its input and its output."""
    others: tuple[Root, ...]
    """What may stand for its input, which is made from them by operations that change nothing."""

    def ways(self, node: Any) -> list[int]:
        """The places, among a node's ways on, of those to the rectifier's input."""
        return [
            place
            for place, (onward, index) in enumerate(node.next_functions)
            if (onward is self.root.node and index == self.root.output)
            or getattr(onward, "variable", onward) is self.root.node
        ]


@dataclass(frozen=True)
class Hooks:
    r"""How a signal flows back through the rectifiers that a node of the graph computes: the rules, one after another.

    A node's output is $y = c\,\sigma(x)$, or $y = c\,\sigma(-x)$ where its `scale` $c$ is negative. The rules are given the
    signal at $\sigma$, $c R_y$.
    """

    rules: tuple[RectifierRule, ...]

    @property
    def derivative(self) -> bool:
        """Whether the activation's derivative multiplies what the rules give."""
        return all(rule.derivative for rule in self.rules)

    def transform(self, signal: Tensor, scale: float) -> Tensor:
        r"""What the rules leave of the signal at $y$, which is $f(c R_y) / c$."""
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

    def pass_on(self, signal: Tensor, scale: float) -> Tensor:
        r"""What then flows to $x$ without the activation's derivative."""
        with torch._C.DisableTorchFunction():
            result = self.transform(signal, scale)
            return result if abs(scale) == 1 else abs(scale) * result

    def install(self, node: Any, index: int, scale: float, inputs: Sequence[int], switch: Switch) -> None:
        """Hooks on a node whose output `index` is rectified; `inputs` are the places of the signal's ways on."""

        def before(signals: tuple[Any, ...]) -> tuple[Any, ...]:
            if not switch.on:
                return signals
            return tuple(self.transform(s, scale) if i == index and s is not None else s for i, s in enumerate(signals))

        def after(gradients: tuple[Any, ...], signals: tuple[Any, ...]) -> tuple[Any, ...]:
            (first, *_), signal = inputs, signals[index]
            if not switch.on or signal is None:
                return gradients
            passed = self.pass_on(signal, scale)
            return tuple(
                g if g is None else passed.to(g.dtype) if i == first else torch.zeros_like(g)
                for i, g in enumerate(gradients)
            )

        if self.derivative:
            node.register_prehook(before)
        else:
            node.register_hook(after)

    def install_apart(self, node: Any, index: int, rectifier: Rectifier) -> None:
        """The same for a rectifier of several operations, of which the node is the last."""
        if self.derivative:
            self.install(node, index, rectifier.scale, (), rectifier.switch)
            return
        waiting: list[Tensor] = []

        def last(gradients: tuple[Any, ...], signals: tuple[Any, ...]) -> tuple[Any, ...]:
            if not rectifier.switch.on or signals[index] is None:
                return gradients
            waiting.append(self.pass_on(signals[index], rectifier.scale))
            return tuple(None if g is None else torch.zeros_like(g) for g in gradients)

        def first(signal: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():
                return signal + waiting.pop().to(signal.dtype) if waiting else signal

        node.register_hook(last)
        rectifier.root.hook(first)


def refuse(node: Any, what: str) -> None:
    """An error, but only for a signal that gets to this node."""

    def refused(_: Any) -> None:
        raise ValueError(
            f"the signal meets {what}; write it as torch.nn.functional.relu, or another function of torch, in the model's "
            "forward, or use the method Gradient"
        )

    node.register_prehook(refused)
