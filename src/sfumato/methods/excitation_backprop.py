r"""Excitation backpropagation: which units won, from the top down.

J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff: *Top-down neural attention by excitation backprop*, ECCV 2016, arXiv
1608.00507.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.layers.flow import check_options, explained, flowing
from sfumato.model.backward.excitation import negated, top_layers
from sfumato.model.effects import Model
from sfumato.settings import later


@dataclass(frozen=True)
class ExcitationBackprop:
    r"""The probability that each place wins, $S(u) = \sum_k P(a_k(u))$ (Zhang et al. 2016, section 3.2).

    Winners pick theirs among the units that excited them: $P(a_i) = a_i \sum_j w^+_{ij} P(y_j) / \sum_{i'} w^+_{i'j} a_{i'}$
    through convolutions, linear layers and means; sums share by what each summand contributed, maxima pass to the
    winner, activations and normalisation pass it on: see `sfumato.model.backward.excitation`. The top's probability is the
    score's gradient by the model's outputs: 1 at the class of a `Logit`, and for a score that subtracts, a difference of maps.

    At every layer the probabilities sum to one, less what reached units that nothing excites. That is checked for the
    first input, at every operation: see `sfumato.model.backward.conservation`.

    - `layer`: the dotted name of the module whose output is $a$; "" for the input, where only positive values can win.
    - `call`: which of the layer's calls, if the model calls it several times: from 0, or from -1, the last, backwards.
    - `layout`: which axis of that output is which, as "BHWC", where it cannot be found out; see `ExtremalPerturbation`.
    - `smooth`: width of the Gaussian that smooths the map, as a fraction of its shortest side.
    - `resize`: whether the map is interpolated linearly to the inputs' size, or stays as large as the layer.
    - `memory`: GiB that the model may keep for its backward pass; more inputs than fit go through it in turns.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.
    """

    layer: str = ""
    layout: str = later("")
    smooth: float = 0.0
    resize: bool = True
    memory: float = 2.0
    call: int = later(-1)
    score: str = later("logit")

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        targets: Any,
        progress: object = None,  # noqa: ARG002  # for the sake of the common call: there are no steps to tell
    ) -> Attribution:
        """The map for inputs `(B, C, *S)`, prepared as the model wants them.

        `targets`: a class index, one per input, a `Score`, or a function of the model's outputs. Raises `ValueError` where
        the layer, the inputs or the targets cannot be used, where the model is compiled by torch.compile or torch.jit, or
        where probabilities do not add up above the layer: there is something without a rule (attention, LSTM, ...). The
        model comes out as it went in.
        """
        return explained(self, model, inputs, targets, _over_channels, rules="excitation")


@dataclass(frozen=True)
class ContrastiveExcitationBackprop:
    r"""Where the class wins more than its dual: $S = \max(0, \sum_k P_k - \bar P_k)$ (Zhang et al. 2016, section 3.3).

    $\bar P$ starts from a unit with the negated weights of the class; both go down to `contrast_layer`, and their difference
    from there. It is clipped once, at the end, where channels are summed.

    - `layer`: the dotted name of the module whose output is $a$; "" for the input, where only positive values can win.
    - `layout`: which axis of that output is which, as "BHWC", where it cannot be found out; see `ExtremalPerturbation`.
    - `contrast_layer`: the dotted name of the module at whose output the two are subtracted, above `layer` and below the
      top; "" for what goes into the model's last layer with weights, as published.
    - `call`: which of the layer's calls, if the model calls it several times: from 0, or from -1, the last, backwards.
    - `smooth`: width of the Gaussian that smooths the map, as a fraction of its shortest side.
    - `resize`: whether the map is interpolated linearly to the inputs' size, or stays as large as the layer.
    - `memory`: GiB that the model may keep for its backward pass; more inputs than fit go through it in turns.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.
    """

    layer: str = ""
    layout: str = later("")
    contrast_layer: str = ""
    smooth: float = 0.0
    resize: bool = True
    memory: float = 2.0
    call: int = later(-1)
    score: str = later("logit")

    def __post_init__(self) -> None:
        check_options(self)
        if not isinstance(self.contrast_layer, str):
            raise ValueError(f"contrast_layer is the dotted name of a module; got {self.contrast_layer!r}")

    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        targets: Any,
        progress: object = None,  # noqa: ARG002  # for the sake of the common call: there are no steps to tell
    ) -> Attribution:
        """The map for inputs `(B, C, *S)`, prepared as the model wants them.

        `targets`: a class index, one per input, a `Score`, or a function of the model's outputs. Raises `ValueError` where
        a layer, the inputs or the targets cannot be used, where the model is compiled by torch.compile or torch.jit, or
        where probabilities do not add up above the layer: there is something without a rule (attention, LSTM, ...). The
        model comes out as it went in.
        """

        def read(activation: Tensor, probability: Tensor) -> Tensor:
            return _over_channels(activation, probability).clamp(min=0)

        watch = [self.contrast_layer] if self.contrast_layer else []
        return explained(self, model, inputs, targets, read, "excitation", watch, _contrast)


def _over_channels(_: Tensor, probability: Tensor) -> Tensor:
    return probability.sum(1, keepdim=True)


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
    own = flowing([scores.sum()], at)
    with negated(tops):
        dual = flowing([scores.sum()], at)
    (found,) = flowing(at, [output], [mine - other for mine, other in zip(own, dual, strict=True)])
    return found
