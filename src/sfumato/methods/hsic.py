r"""HSIC attribution: how much the score depends on each cell of a binary mask.

P. Novello, T. Fel, D. Vigouroux: *Making sense of dependence: efficient black-box explanations using dependence measure*,
NeurIPS 2022, arXiv 2206.06219. It needs only the model's outputs.

With $p$ masks, the Hilbert–Schmidt independence criterion between a cell $M_i$ and the score $y = \Phi(M \otimes x)$ is

$$\mathrm{HSIC}_i = \frac{1}{(p - 1)^2} \operatorname{tr}(K_i H L H), \qquad K_i[a, b] = [m_i^a = m_i^b], \qquad
L[a, b] = \exp\left(-\frac{(y^a - y^b)^2}{2 \sigma^2}\right), \qquad H = I - \frac{1}{p} 11^\top .$$
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.methods.sampled import ROUND, CellMasks, SampledMasks, SampledRound
from sfumato.model.subject import Subject
from sfumato.perturbations import Fade, Perturbation
from sfumato.settings import check_number, check_whole
from sfumato.space.precision import widest_float
from sfumato.space.smoothing import enlarged


@dataclass(frozen=True, eq=False)
class DependenceRound(SampledRound):
    """The estimate after a round of masks. The last round has the result."""

    widths: Float[Tensor, " B"]
    """The width of the kernel on scores."""

    def details(self) -> dict[str, list[Any]]:
        return {"widths": self.widths.tolist()}


@dataclass(frozen=True)
class HSIC(SampledMasks):
    r"""$\operatorname{tr}(K_i H L H) / (p - 1)^2$, the dependence of the score on each cell of binary masks (Novello et al.
    2022).

    A call with a model, inputs `(B, C, *S)` and targets returns an `Attribution` with `map` `(B, 1, *S)`: 0 for a cell on which
    the score does not depend, up to a bias of the order of 1 / p. It has no sign: a cell that lowers the score counts as much
    as one that raises it. `progress` is called with each `DependenceRound`, one for every 128 masks. The model needs no
    gradients, and may return numpy arrays.

    - `samples`: the number p of masks of each query, about as many as
      published. The kernel on scores is a matrix of p × p numbers.
    - `cells`: the number of cells of a mask along each axis, one number for all axes, or one per axis. Each is a box of places,
      shown or hidden with probability 1/2. By default 7 along each of two axes, 49 along one axis, and 4 along
      each of three.
    - `width`: $\sigma$ of the kernel on scores, in the score's units; by default the median distance of two scores, for each
      query (`result.about["widths"]`). The authors' code has the median of the scores, which depends on where their zero is.
    - `draw`: "sobol" for a scrambled Sobol sequence of at most 21201 cells, as in the authors' code; or "random".
    - `perturbation`: what hides a place; as published, it fades to zero.
    - `batch`: rows in one batch, by default 16 on a CPU and 128 on other devices, and fewer if a differentiable model would
      keep more than `memory` GiB for them.
    - `smooth`: width of a Gaussian that smooths the map, as a fraction of the input's shortest side.
    - `seed`: the seed of the masks. All queries share the masks, so that no result depends on its batch.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.

    For cells of 0 or 1 the paper's kernels on cells differ only by a constant, which $H$ removes, and by a factor. The map is
    interpolated linearly between the centres of cells. The authors' code does so with cubic splines, which exceed the range of
    the estimates.
    """

    samples: int = 1500
    cells: int | tuple[int, ...] | None = None
    width: float | None = None
    draw: str = "sobol"
    perturbation: Perturbation = Fade()
    batch: int | None = None
    smooth: float = 0.0
    seed: int = 0
    memory: float | None = None
    score: str = "logit"

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, 2)
        if self.width is not None:
            check_number("width", self.width, "in the score's units", above=0)
        super().__post_init__()

    def rounds(self, subject: Subject, batch_rows: int) -> Iterator[DependenceRound]:
        x = subject.inputs
        shape = tuple(x.shape[2:])
        grid = self.grid(shape)
        uniform = self.uniform(math.prod(grid))
        scorer = self.scorer(subject, batch_rows)
        cells = torch.zeros(0, *grid, dtype=torch.float32, device=x.device)
        scores = torch.zeros(0, len(x), dtype=torch.float32, device=x.device)
        for index, start in enumerate(range(0, self.samples, ROUND)):
            drawn = (uniform(min(ROUND, self.samples - start)) < 0.5).to(x.device, torch.float32).view(-1, *grid)
            cells = torch.cat([cells, drawn])
            scores = torch.cat([scores, scorer.scores(CellMasks(drawn, shape))])
            widths = torch.tensor(
                [self.width or median_distance(values) for values in scores.T], dtype=torch.float32, device=x.device
            )
            estimates = [
                dependence(cells.flatten(1), values, width)
                for values, width in zip(scores.T, widths.tolist(), strict=True)
            ]
            yield DependenceRound(
                index=index,
                steps=math.ceil(self.samples / ROUND),
                map=enlarged(torch.stack(estimates).view(-1, 1, *grid).float(), shape),
                samples=torch.full_like(subject.query, len(cells)),
                values=scores.mean(0),
                areas=CellMasks(cells, shape).areas.mean().expand(len(x)),
                widths=widths,
            )


def median_distance(scores: Float[Tensor, " p"]) -> float:
    """The median distance of two scores; the mean distance if more than half of them are equal, 1 if all are."""
    distances = torch.nn.functional.pdist(scores[:, None].to(widest_float(scores.device)), p=1)
    return float(distances.median()) or float(distances.mean()) or 1.0


def dependence(cells: Float[Tensor, "p d"], scores: Float[Tensor, " p"], width: float) -> Float[Tensor, " d"]:
    r"""$\operatorname{tr}(K_i H L H) / (p - 1)^2$ of every cell with the scores.

    With $K_i = m m^\top + (1 - m)(1 - m)^\top$ for a column $m$ of zeros and ones, $H K_i H = 2 H m (H m)^\top$, so that the
    trace is $2 (H m)^\top L\, H m$.
    """
    dtype = widest_float(scores.device)
    scores, cells = scores.to(dtype), cells.to(dtype)
    kernel = torch.exp(-0.5 * ((scores[:, None] - scores) / width).square())
    centred = cells - cells.mean(0)
    return 2 * (centred * (kernel @ centred)).sum(0) / (len(scores) - 1) ** 2
