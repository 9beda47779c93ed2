r"""Artefacts: what a mask owes to its own pattern, and not to the picture that it shows.

The edges are those of S. Kolek, R. Windesheim, H. Andrade-Loarca, G. Kutyniok, R. Levie: *Explaining image classifiers with
multiscale directional image representations*, CVPR 2023, arXiv 2211.12857 (ShearletX), the hallucination score. They find edges
with shearlets; here Canny's detector finds them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.part_scores import check_perturbation, kept_parts, part_scores, span
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.transfer import learnt_with
from sfumato.perturbations import Fade, Perturbation, Scramble, seeded
from sfumato.scores import check_meaning
from sfumato.settings import check_number, check_whole


@dataclass(frozen=True)
class Artefacts(Protocol):
    r"""Whether a mask m scores by what it shows, or by its own pattern.

    - `perturbation`: what hides places. By default the one that the masks were learnt with (of several the first), else
      `Fade()`, as published.
    - `draws`: how many other contents the mask is laid over, for `alone`.
    - `near`: how many places an edge of the masked picture may lie from one of the picture to be the same.
    - `width`: the standard deviation, in places, of the blur before edges are found.
    - `area`: for a method without masks, the mask is this share of the places, the highest of the map, or the first of the
      result's `order`.
    - `score`: what a class index means, "probability", "logit", "log-odds" or "sigmoid"; any other target is a score itself.

    A row holds means over the method's masks:

    - `worth`, $(\Phi(m \otimes x) - \Phi(0 \otimes x)) / (\Phi(x) - \Phi(0 \otimes x))$: 1 for the whole picture;
    - `alone`, the same of the mask over other contents: $\Phi(m \otimes \tilde x) - \Phi(0 \otimes \tilde x)$ in place of the
      numerator, where $\tilde x$ has the picture's colours and textures but not its shapes, see `Scramble`. A mask whose
      pattern makes the class has a large one; one that only shows where the class is has about 0;
    - `hallucinated`, the number of places on edges of $m \otimes x$ that are not on edges of x, for each place that is on an
      edge of x; NaN for a picture without edges.

    `worth` and `alone` are NaN where hiding the whole picture takes away less than 1 % of its score. It also holds `masks`,
    whether the method made masks. It needs scikit-image, `pip install "sfumato[regions]"`, and inputs with two axes of space.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    perturbation: Perturbation | None = None
    draws: int = 4
    near: float = 2
    width: float = 1
    area: float = 0.1
    score: str = "logit"

    def __post_init__(self) -> None:
        if self.perturbation is not None:
            check_perturbation("perturbation", self.perturbation)
        check_whole("draws", self.draws)
        check_number("near", self.near, "a distance in places", least=0)
        check_number("width", self.width, "a length in places", least=0)
        check_number("area", self.area, "the share of the places that is kept", above=0, below=1)
        check_meaning(self.score)

    def measure(self, case: Case) -> Row:
        inputs = case.need("inputs", "Artefacts")
        if inputs.ndim != 4:
            raise ValueError(f"Artefacts finds edges of pictures, inputs (1, C, H, W); got {tuple(inputs.shape)}")
        parts, are_masks = kept_parts(case, self.area)
        perturbation = seeded(self.perturbation or next(iter(learnt_with(case.attribution)), None) or Fade(), case.seed)
        nothing = torch.zeros_like(parts[:1])
        probes = torch.cat([parts, nothing, nothing + 1])
        with part_scores(case, self.score, "Artefacts") as scorer:
            scores = scorer.of_masks(perturbation, probes)
        *shown, hidden, _ = scores.tolist()
        taken = float(span(scores[-1], scores[-2]))
        over = []
        for draw in range(self.draws):
            other = Scramble(case.seed + draw).scrambled(inputs).to(inputs.dtype)
            with part_scores(replace(case, inputs=other), self.score, "Artefacts") as scorer:
                *masked, blank = scorer.of_masks(perturbation, probes[:-1]).tolist()
            over.append(sum(masked) / len(masked) - blank)
        with torch.no_grad():
            query = torch.zeros(len(parts), dtype=torch.long, device=inputs.device)
            seen = perturbation(inputs)(parts.to(inputs.device), query).cpu()
        return {
            "worth": (sum(shown) / len(shown) - hidden) / taken,
            "alone": sum(over) / len(over) / taken,
            "hallucinated": hallucinated(inputs[0].float().cpu(), seen, self.near, self.width),
            "masks": are_masks,
        }

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002
        return (
            Measure("worth over other contents", mean("alone"), higher_is_better=False, percent=True),
            Measure("worth", mean("worth"), percent=True),
            Measure("hallucinated edges", mean("hallucinated"), higher_is_better=False, percent=True),
        )


def hallucinated(picture: Float[Tensor, "C H W"], masked: Float[Tensor, "V C H W"], near: float, width: float) -> float:
    """Places on edges of the masked pictures that are far from the picture's edges, for each that is on an edge of the picture.

    The mean over all masked pictures; NaN for a picture without edges.
    """
    try:
        from skimage.feature import canny
        from skimage.morphology import isotropic_dilation
    except ImportError as error:
        raise ImportError('Artefacts finds edges with scikit-image: pip install "sfumato[regions]"') from error
    low, high = picture.mean(0).aminmax()

    def edges(values: Float[Tensor, "C H W"]) -> Bool[Tensor, "H W"]:
        grey = (values.mean(0) - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)
        return torch.from_numpy(canny(grey.double().numpy(), sigma=width, low_threshold=0.1, high_threshold=0.2))

    own = edges(picture)
    if not own.any():
        return math.nan
    far = ~torch.from_numpy(isotropic_dilation(own.numpy(), near))
    return sum(int((edges(each) & far).sum()) for each in masked) / len(masked) / int(own.sum())
