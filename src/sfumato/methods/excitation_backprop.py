r"""Excitation backpropagation: the probability that each unit wins, from the top down.

J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff: *Top-down neural attention by excitation backprop*, ECCV 2016, arXiv
1608.00507.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sfumato.layers.flow import signals_at
from sfumato.methods.method import AtLayer, LayerMethod
from sfumato.model.backward.excitation import negated, top_layers


@dataclass(frozen=True)
class ExcitationBackprop(LayerMethod):
    r"""The probability that each place wins, $S(u) = \sum_k P(a_k(u))$ (Zhang et al. 2016, section 3.2).

    A unit that wins passes its probability to the units that excite it, through convolutions, linear layers and means by
    $P(a_i) = a_i \sum_j w^+_{ij} P(y_j) / \sum_{i'} w^+_{i'j} a_{i'}$. Sums divide it in proportion to what each summand
    contributed, maxima give it to their largest input, and activations and normalisation pass it on: see
    `sfumato.model.backward.excitation`. At the top the probability is the gradient of the score by the model's outputs: 1
    at the class of a `Logit`. For a score that subtracts outputs, the map is a difference.

    At every layer the probabilities sum to one, except for what reaches units that nothing excites. This is checked for the
    first input, at every operation: see `sfumato.model.backward.conservation`.

    A call also raises `ValueError` if the model is compiled by torch.compile or torch.jit, or if the probabilities do not
    add up above the layer, because a function there has no rule (attention, LSTM, …).

    The settings are those of `LayerMethod`; `layer` is the dotted name of the module whose output is $a$; by default the last
    one with places that the outputs depend on, and "input" for the model's input, where only positive values can win.
    """

    needs_layer: ClassVar[bool | None] = True
    rules: ClassVar[str | None] = "excitation"

    def read(
        self,
        activation: Float[Tensor, "N C *L"],  # noqa: ARG002
        gradient: Float[Tensor, "N C *L"],  # here it is the probability
    ) -> Float[Tensor, "N 1 *L"]:
        return gradient.sum(1, keepdim=True)


@dataclass(frozen=True)
class _WithContrastLayer(AtLayer):
    """The setting that comes before the shared ones, so that positional arguments keep their order."""

    contrast_layer: str = ""


@dataclass(frozen=True)
class ContrastiveExcitationBackprop(LayerMethod, _WithContrastLayer):
    r"""Contrastive excitation backpropagation: how much likelier a place is to win for the class than for its dual.

    $S = \max(0, \sum_k P_k - \bar P_k)$ (Zhang et al. 2016, section 3.3). $\bar P$ starts from a unit with the negated
    weights of the class. Both flow down to `contrast_layer`, and their difference flows on from there. It is clipped once, at
    the end, when channels are summed.

    - `contrast_layer`: the dotted name of the module at whose output the two are subtracted, above `layer` and below the
      top; "" for the input of the model's last layer with weights, as published.

    The other settings are those of `LayerMethod`, with `layer` and its errors as for `ExcitationBackprop`.
    """

    needs_layer: ClassVar[bool | None] = True
    below_weights: ClassVar[bool] = True
    rules: ClassVar[str | None] = "excitation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.contrast_layer, str):
            raise ValueError(f"contrast_layer is the dotted name of a module; got {self.contrast_layer!r}")

    def read(
        self,
        activation: Float[Tensor, "N C *L"],  # noqa: ARG002
        gradient: Float[Tensor, "N C *L"],  # here it is the probability
    ) -> Float[Tensor, "N 1 *L"]:
        return gradient.sum(1, keepdim=True).clamp(min=0)

    def watched(self) -> Sequence[str]:
        return [self.contrast_layer] if self.contrast_layer else []

    def backward(
        self, scores: Float[Tensor, " N"], output: Float[Tensor, " N *P"], watched: Sequence[Float[Tensor, "..."]]
    ) -> Float[Tensor, " N *P"]:
        return _contrast(scores, output, watched)


def _contrast(
    scores: Float[Tensor, " N"], output: Float[Tensor, " N *P"], watched: Sequence[Float[Tensor, "..."]]
) -> Float[Tensor, " N *P"]:
    """The signal at the layer's output for the difference between the class and its dual."""
    tops = top_layers(scores)
    if not tops:
        raise ValueError(
            "there is no layer with weights between the layer and the score, so that there is no dual to contrast with; name "
            "an earlier layer"
        )
    # The saved input of a layer has the same place in the graph as the tensor itself.
    tensors = list(watched) or [top.saved_tensors[0] for top in tops]
    of_class = signals_at([scores.sum()], tensors)
    with negated(tops):
        of_dual = signals_at([scores.sum()], tensors)
    differences = [signal - dual for signal, dual in zip(of_class, of_dual, strict=True)]
    try:
        (signal,) = signals_at(tensors, [output], differences)
    except ValueError as error:
        raise ValueError(
            "the layer does not lie below the place where the class and its dual are subtracted, by default the input of the "
            "model's last layer with weights; name an earlier layer, or a later contrast_layer, or use ExcitationBackprop, "
            "which has no dual"
        ) from error
    return signal
