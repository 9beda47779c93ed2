r"""Score-CAM: the sum of a layer's maps, each weighted by the score of what it shows when it is used as a mask.

H. Wang, Z. Wang, M. Du, F. Yang, Z. Zhang, S. Ding, P. Mardziel, X. Hu: *Score-CAM: score-weighted visual explanations for
convolutional neural networks*, CVPR workshops 2020, arXiv 1910.01279. It needs a layer's output, but no gradients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.layers.capture import captured, check_rows, place_of
from sfumato.layers.tokens import laid_out
from sfumato.methods.method import LayerMap
from sfumato.methods.sampled import ROUND, default_batch
from sfumato.model.evaluate import Evaluation
from sfumato.model.inputs import warn_of_empty_maps, warn_of_no_effect
from sfumato.model.subject import Subject
from sfumato.perturbations import Fade, Perturbation, Perturbed, check_single, seeded
from sfumato.search.loop import Progress
from sfumato.settings import check_whole
from sfumato.space.smoothing import enlarged

WEIGHTS = ("increase", "softmax")


FLAT = 1e-6
"""A map is flat if its range is less than this share of its largest magnitude, as it may then be rounding alone."""


@dataclass(frozen=True, eq=False)
class MapStep:
    """The scores of what some of the layer's maps show."""

    index: int
    """The number of the step, from 0."""
    steps: int
    """The number of all steps."""
    values: Float[Tensor, " N"]
    """The score of what each of these maps shows."""
    areas: Float[Tensor, " N"]
    """How much each of them shows."""


@dataclass(frozen=True)
class ScoreCAM(LayerMap):
    r"""$S = \max(0, \sum_k \alpha_k A_k)$ with $\alpha_k = \Phi(H_k \otimes x) - \Phi(0 \otimes x)$ and $H_k$ the map $A_k$,
    enlarged to the input and scaled to [0, 1] (Wang et al. 2020, section 3).

    A call with a model, inputs `(B, C, *S)` and targets returns an `Attribution` with `map` and `blank`, the score of the input
    with everything hidden. The model needs no gradients. It runs once for each map of the layer that is not flat, of each
    query; `progress` is called with a `MapStep` after every 128 maps.

    - `layer`: the dotted name of the module whose output is $A$; by default the last one with places that the outputs depend
      on, which `about["method"]` then names.
    - `weights`: "increase", $\alpha_k$ as above; or "softmax", as in the paper's algorithm 1, the softmax of $\alpha$ over the
      maps, which suits logits. A flat map has the weight 0.
    - `perturbation`: what hides a place; as published, it fades to zero.
    - `batch`: rows in one batch, by default 16 on a CPU and 128 on other devices, and fewer if a differentiable model would
      keep more than `memory` GiB for them.
    - `score`: what a class index means: "probability", as in the authors' code, "logit", "log-odds" or "sigmoid"; any other
      target is a score itself.

    The other settings are those of `LayerMethod`.
    """

    needs_layer: ClassVar[bool | None] = True

    memory: float | None = None
    call: int = -1
    score: str = "probability"
    weights: str = "increase"
    perturbation: Perturbation = Fade()
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}; got {self.weights!r}")
        check_single(self.perturbation, type(self).__name__)
        if self.batch is not None:
            check_whole("batch", self.batch, 1)
        super().__post_init__()

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:
        most, whole = subject.probe(self.memory)
        batch_rows = min(self.batch or default_batch(subject.inputs.device), most)
        space = tuple(subject.inputs.shape[2:])
        activation = self.activation(subject, batch_rows)
        with subject.surroundings.computing(), torch.no_grad():
            perturbed = seeded(self.perturbation, self.seed)(subject.inputs)
            nothing = torch.zeros(len(whole), 1, *space, dtype=torch.float32, device=whole.device)
            blank = Evaluation(subject, (perturbed,), subject.query, batch_rows).scores(nothing)
            uneven = ~flat(activation)
            scores = blank[:, None].expand(uneven.shape).clone()
        for step, pairs in subject.surroundings.iterate(
            self._steps(subject, perturbed, activation, uneven, batch_rows)
        ):
            scores[tuple(pairs.T)] = step.values
            if progress is not None:
                progress(step)
        with subject.surroundings.computing(), torch.no_grad():
            increase = scores - blank[:, None]
            warn_of_no_effect((increase == 0).all(1), place_of(subject.model, self.layer))
            weights = increase if self.weights == "increase" else softmax(scores, uneven)
            saliency = torch.einsum("nk,nk...->n...", weights, activation)[:, None].clamp(min=0)
            warn_of_empty_maps((saliency == 0).flatten(1).all(1) & (increase != 0).any(1), type(self).__name__)
            saliency_map = self.resize_and_smooth(saliency, space)
        return Attribution(map=saliency_map, whole=whole, blank=blank, about=self.about(subject))

    def activation(self, subject: Subject, batch_rows: int) -> Float[Tensor, "B C *L"]:
        """The layer's output for all inputs, in float32 at least, with the channels first."""
        space, axes = tuple(subject.inputs.shape[2:]), self.axes(subject)
        outputs = []
        layer = place_of(subject.model, self.layer)
        if not layer:
            return subject.inputs.float()
        with subject.surroundings.computing(), torch.no_grad():
            for query in subject.query.split(1 if subject.habits.alone else batch_rows):
                with captured(subject.model, layer, call=self.call) as capture:
                    subject.outputs(subject.inputs[query], query)
                check_rows(capture.output, len(query), layer, places=True)
                outputs.append(laid_out(capture.output.detach(), space, layer, axes, self.layout))
            return torch.cat(outputs).float()

    def _steps(
        self,
        subject: Subject,
        perturbed: Perturbed,
        activation: Float[Tensor, "B C *L"],
        uneven: Bool[Tensor, "B C"],
        batch_rows: int,
    ) -> Iterator[tuple[MapStep, Int[Tensor, "n 2"]]]:
        """The scores of the maps that are not flat, with the query and the channel of each."""
        rounds = uneven.nonzero().split(ROUND) if uneven.any() else ()
        for index, pairs in enumerate(rounds):
            query, channel = pairs.T
            masks = scaled(enlarged(activation[query, channel][:, None], subject.inputs.shape[2:]))
            with torch.no_grad():
                scores = Evaluation(subject, (perturbed,), query, batch_rows).scores(masks)
            yield MapStep(index, len(rounds), scores, masks.flatten(1).mean(1)), pairs


def flat(maps: Float[Tensor, "B C *L"]) -> Bool[Tensor, "B C"]:
    """Which maps have the same value at all places, up to rounding."""
    values = maps.flatten(2)
    return values.amax(2) - values.amin(2) <= FLAT * values.abs().amax(2)


def scaled(maps: Float[Tensor, "n 1 *S"]) -> Float[Tensor, "n 1 *S"]:
    """Each map from 0 at its smallest value to 1 at its largest; 0 if they are equal."""
    size = (-1, *[1] * (maps.ndim - 1))
    low, high = (bound.view(size) for bound in (maps.flatten(1).amin(1), maps.flatten(1).amax(1)))
    return (maps - low) / torch.where(high > low, high - low, 1.0)


def softmax(scores: Float[Tensor, "B C"], uneven: Bool[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """The softmax over those maps that are not flat; 0 for the others."""
    return scores.masked_fill(~uneven, -torch.inf).softmax(1).nan_to_num(0.0)
