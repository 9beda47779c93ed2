r"""The deletion game: the smallest box that must be blurred for the class to vanish.

R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.pointing import finite_map
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.weak_localisation import at_values, boxes_above
from sfumato.model.evaluate import Evaluation
from sfumato.model.subject import Subject
from sfumato.perturbations import Blur, Perturbation, seeded
from sfumato.scores import check_meaning
from sfumato.settings import check_memory, check_number, check_whole, later, renewed

HEIGHTS = tuple(step / 20 for step in range(20))


@dataclass(frozen=True)
class DeletionGame(Protocol):
    r"""$\min_h |b_h|$ over boxes whose perturbation leaves $\frac{\Phi(b_h) - \Phi(\emptyset)}{\Phi(x) - \Phi(\emptyset)} \leq
    1 - s$.

    $b_h$ is the tightest box around the places where the map is no lower than the share h of the way from its least to its
    largest value; $\Phi(b_h)$ is the score of the input that is perturbed within it, $\Phi(\emptyset)$ that of the input
    perturbed everywhere.

    - `suppressions`: the shares s of the score to remove, in (0, 1).
    - `heights`: the shares h, in [0, 1). The box of the whole input is always a candidate, and it always suffices.
    - `perturbation`: what hides the box; as published, a blend with a blur of 10 places.
    - `batch`: how many boxes go through the model in one batch. The batch is smaller if `memory`, in GiB, is too small for
      what a differentiable model stores of it.
    - `score`: what a class index means, "probability" (published), "logit", "log-odds" or "sigmoid"; any other target is a
      score itself.

    A row holds, for each suppression, such as 0.8, the area as `pixels 80`, in places of the network's input (px²), and as
    `share 80`, a fraction of the input. `whole` and `blank` are $\Phi(x)$ and $\Phi(\emptyset)$. If
    $\Phi(x) \leq \Phi(\emptyset)$ there is nothing to suppress: then all areas are NaN, for every method, and do not count.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    suppressions: tuple[float, ...] = (0.8, 0.9, 0.95, 0.99)
    heights: tuple[float, ...] = HEIGHTS
    perturbation: Perturbation = Blur(max_sigma=10, levels=2)
    batch: int = 16
    memory: float | None = renewed(None, 2.0)
    score: str = later("probability")

    def __post_init__(self) -> None:
        for name, meaning in (("suppressions", "shares of the score"), ("heights", "shares of the map's range")):
            values = getattr(self, name)
            values = tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)
            for value in values:
                check_number(name, value, meaning, least=0, below=1)
            if not values or (name == "suppressions" and 0 in values):
                raise ValueError(f"{name} must be one or more {meaning}, and no suppression may be 0; got {values}")
            object.__setattr__(self, name, values)
        check_whole("batch", self.batch)
        check_memory(self.memory)
        check_meaning(self.score)

    def measure(self, case: Case) -> Row:
        """The areas of the smallest boxes. Raises `ValueError` if the model, its inputs or the target are missing."""
        model, inputs, target = (case.need(name, "the deletion game") for name in ("model", "inputs", "target"))
        boxes = self.boxes(finite_map(case.map, inputs.shape[2:]))
        with Subject.prepared(model, inputs, target, self.score) as subject:
            rows = min(self.batch, subject.probe(self.memory)[0])
            with subject.surroundings.computing():
                perturbed = seeded(self.perturbation, case.seed)(subject.inputs)
                evaluation = Evaluation(subject, (perturbed,), subject.query.repeat(len(boxes) + 1), rows)
                space = inputs.shape[2:]
                everything = torch.ones(space, dtype=torch.float32, device="cpu")
                masks = [everything, *(outside(box, space) for box in boxes)]
            scores = evaluation.scores(torch.stack(masks)[:, None].to(inputs.device)).cpu().double()
        # the first box is the whole input: its score is the blank's
        whole_score, blank_score, scores = scores[0], scores[1], scores[1:]
        areas = (boxes[..., 1] - boxes[..., 0]).prod(1)
        row: dict[str, float] = {}
        for suppression in self.suppressions:
            enough = scores - blank_score <= (1 - suppression) * (whole_score - blank_score)
            area = float(areas[enough].min()) if whole_score > blank_score else math.nan
            row[f"pixels {100 * suppression:g}"] = area
            row[f"share {100 * suppression:g}"] = area / float(areas[0])
        return {**row, "whole": float(whole_score), "blank": float(blank_score)}

    def boxes(self, saliency: Float[Tensor, "*S"]) -> Float[Tensor, "n axes 2"]:
        """The candidate boxes of a map: the whole map first, then all different boxes."""
        boxes = boxes_above(saliency, at_values(saliency, self.heights))
        everything = torch.tensor([[0, length] for length in saliency.shape], dtype=boxes.dtype, device=boxes.device)
        different = torch.unique(boxes, dim=0)
        return torch.cat([everything[None], different[(different != everything).flatten(1).any(1)]])

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all
        """The mean area for each suppression, in places of the input and as a fraction of it."""
        levels = [f"{100 * suppression:g}" for suppression in self.suppressions]
        pixels = [Measure(f"pixels {level}", mean(f"pixels {level}"), higher_is_better=False) for level in levels]
        shares = [
            Measure(f"share {level}", mean(f"share {level}"), higher_is_better=False, percent=True) for level in levels
        ]
        return (*pixels, *shares)


def outside(box: Float[Tensor, "axes 2"], shape: Sequence[int]) -> Float[Tensor, "*S"]:
    """A mask that is 0 within a box and 1 elsewhere."""
    mask = torch.ones(tuple(shape), dtype=torch.float32, device="cpu")
    mask[tuple(slice(int(start), int(end)) for start, end in box)] = 0
    return mask
