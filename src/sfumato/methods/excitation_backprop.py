r"""Excitation backpropagation: which units won, from the top down.

J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff: *Top-down neural attention by excitation backprop*, ECCV 2016, arXiv
1608.00507.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfumato.layers.flow import signals_at
from sfumato.methods.method import AtLayer, LayerMethod
from sfumato.model.backward.excitation import negated, top_layers


@dataclass(frozen=True)
class ExcitationBackprop(LayerMethod):
    r"""The probability that each place wins, $S(u) = \sum_k P(a_k(u))$ (Zhang et al. 2016, section 3.2).

    Winners pick theirs among the units that excited them: $P(a_i) = a_i \sum_j w^+_{ij} P(y_j) / \sum_{i'} w^+_{i'j} a_{i'}$
    through convolutions, linear layers and means; sums share by what each summand contributed, maxima pass to the
    winner, activations and normalisation pass it on: see `sfumato.model.backward.excitation`. The top's probability is the
    score's gradient by the model's outputs: 1 at the class of a `Logit`, and for a score that subtracts, a difference of maps.

    At every layer the probabilities sum to one, less what reached units that nothing excites. That is checked for the
    first input, at every operation: see `sfumato.model.backward.conservation`.

    Called, it raises `ValueError` besides where the model is compiled by torch.compile or torch.jit, or where probabilities do
    not add up above the layer: there is something without a rule (attention, LSTM, ...).

    The settings are those of `LayerMethod`; `layer` is the dotted name of the module whose output is $a$, "" for the input,
    where only positive values can win.
    """

    rules: ClassVar[str | None] = "excitation"

    def read(self, activation: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002  # here it is the probability
        return gradient.sum(1, keepdim=True)


@dataclass(frozen=True)
class _Contrasting(AtLayer):
    """The setting that stands before the shared ones, so that positional arguments keep their order."""

    contrast_layer: str = ""


@dataclass(frozen=True)
class ContrastiveExcitationBackprop(LayerMethod, _Contrasting):
    r"""Where the class wins more than its dual: $S = \max(0, \sum_k P_k - \bar P_k)$ (Zhang et al. 2016, section 3.3).

    $\bar P$ starts from a unit with the negated weights of the class; both go down to `contrast_layer`, and their difference
    from there. It is clipped once, at the end, where channels are summed.

    - `contrast_layer`: the dotted name of the module at whose output the two are subtracted, above `layer` and below the
      top; "" for what goes into the model's last layer with weights, as published.

    The other settings are those of `LayerMethod`, and its errors those of `ExcitationBackprop`.
    """

    rules: ClassVar[str | None] = "excitation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.contrast_layer, str):
            raise ValueError(f"contrast_layer is the dotted name of a module; got {self.contrast_layer!r}")

    def read(self, activation: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG002  # here it is the probability
        return gradient.sum(1, keepdim=True).clamp(min=0)

    def watched(self) -> Sequence[str]:
        return [self.contrast_layer] if self.contrast_layer else []

    def descend(self, scores: Tensor, output: Tensor, watched: Sequence[Tensor]) -> Tensor:
        return _contrast(scores, output, watched)


def _contrast(scores: Tensor, output: Tensor, watched: Sequence[Tensor]) -> Tensor:
    """What flows to the layer's output of the difference between the class and its dual."""
    tops = top_layers(scores)
    if not tops:
        raise ValueError(
            "no layer with weights lies between the layer and the score, so that there is no dual to contrast with; name a "
            "layer further down"
        )
    # A layer's saved input stands in the graph like the tensor itself.
    at = list(watched) or [top.saved_tensors[0] for top in tops]
    own = signals_at([scores.sum()], at)
    with negated(tops):
        dual = signals_at([scores.sum()], at)
    (found,) = signals_at(at, [output], [mine - other for mine, other in zip(own, dual, strict=True)])
    return found
