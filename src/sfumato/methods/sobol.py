r"""Sobol attribution: the share of the score's variance that each cell of a random mask is involved in.

T. Fel, R. Cadène, M. Chalvidal, M. Cord, D. Vigouroux, T. Serre: *Look at the variance! Efficient black-box explanations with
Sobol-based sensitivity analysis*, NeurIPS 2021, arXiv 2111.04138. It needs only the model's outputs.

With independent cells $M_i \in [0, 1]$ the total index of a cell is

$$S_{T_i} = \frac{\mathrm{E}[\mathrm{Var}(\Phi \mid M_{\sim i})]}{\mathrm{Var}(\Phi)} \approx
\frac{\frac{1}{2n} \sum_j (\Phi(A_j) - \Phi(C^{(i)}_j))^2}{\frac{1}{n - 1} \sum_j (\Phi(A_j) - \bar\Phi)^2}$$

by Jansen's estimator, where $A$ and $B$ are two sets of $n$ masks, and $C^{(i)}_j$ is $A_j$ with cell $i$ of $B_j$.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.methods.sampled import ROUND, CellMasks, SampledMasks, SampledRound
from sfumato.model.subject import Subject
from sfumato.perturbations import Fade, Perturbation
from sfumato.settings import check_whole
from sfumato.space.precision import widest_float
from sfumato.space.smoothing import enlarged

ORDERS = ("total", "first")


@dataclass(frozen=True)
class Sobol(SampledMasks):
    r"""$S_{T_i} = \mathrm{E}[\mathrm{Var}(\Phi(M \otimes x) \mid M_{\sim i})] \big/ \mathrm{Var}(\Phi(M \otimes x))$ over masks
    $M$ whose cells are uniform in [0, 1] (Fel et al. 2021, section 3).

    A call with a model, inputs `(B, C, *S)` and targets returns an `Attribution` with `map` `(B, 1, *S)`: shares of the
    variance, 0 for a cell without influence. The shares of cells that act together count for each of them, so that their sum
    may exceed 1. They have no sign: a cell that lowers the score counts as much as one that raises it. `progress` is called
    with each `SampledRound`, one for each design, or for several designs of few cells. The model needs no gradients, and may
    return numpy arrays.

    - `designs`: the number n of masks $A_j$; a power of two for a balanced Sobol sequence. With d cells the
      model runs on n (d + 1) masks; the published n (d + 2) include the masks $B_j$, whose scores the total index does not use.
    - `cells`: the number of cells of a mask along each axis, one number for all axes, or one per axis. Each is a box of places
      of one value. By default 8 along each of two axes, as in the authors' code, 64 along one axis, and 4 along each of three.
    - `order`: "total", the variance that a cell is involved in, alone or together with others; or "first", what it explains
      alone, which takes n (d + 2) masks. The difference is due to interactions.
    - `draw`: "sobol" for a scrambled Sobol sequence (published), of at most 21201 numbers, two for each cell; or "random".
    - `perturbation`: what hides a place; as published, it fades to zero.
    - `batch`: rows in one batch, by default 16 on a CPU and 128 on other devices, and fewer if a differentiable model would
      keep more than `memory` GiB for them.
    - `smooth`: width of a Gaussian that smooths the map, as a fraction of the input's shortest side.
    - `seed`: the seed of the masks. All queries share the masks, so that no result depends on its batch.
    - `score`: what a class index means, "logit", "probability", "log-odds" or "sigmoid"; any other target is a score itself.

    The map is interpolated linearly between the centres of cells. The authors' code does so with cubic splines, which exceed
    the range of the indices.
    """

    default_cells: ClassVar[Mapping[int, int]] = {1: 64, 2: 8, 3: 4}

    designs: int = 64
    cells: int | tuple[int, ...] | None = None
    order: str = "total"
    draw: str = "sobol"
    perturbation: Perturbation = Fade()
    batch: int | None = None
    smooth: float = 0.0
    seed: int = 0
    memory: float | None = None
    score: str = "logit"

    def __post_init__(self) -> None:
        check_whole("designs", self.designs, 2)
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}; got {self.order!r}")
        super().__post_init__()

    def rounds(self, subject: Subject, batch_rows: int) -> Iterator[SampledRound]:
        x = subject.inputs
        shape = tuple(x.shape[2:])
        grid = self.grid(shape)
        count = math.prod(grid)
        first, second = self.uniform(2 * count)(self.designs).to(x.device).split(count, 1)
        masks = [CellMasks(cells.view(-1, *grid), shape) for cells in (first, second)]
        scorer = self.scorer(subject, batch_rows)
        scores = scorer.scores(masks[0])
        # What a design's masks with one cell exchanged are compared with: they share all cells but one with A, and one with B.
        compared = scores if self.order == "total" else scorer.scores(masks[1])
        samples, area = self.designs * (1 if self.order == "total" else 2), masks[0].areas.mean()
        mean = scores.mean(0)
        variance = scores.to(widest_float(x.device)).var(0)[:, None]
        own = torch.eye(count, dtype=torch.bool, device=x.device)
        squares = torch.zeros(len(x), count, dtype=variance.dtype, device=x.device)
        together = max(1, ROUND // count)
        starts = range(0, self.designs, together)
        for index, start in enumerate(starts):
            designs = slice(start, min(start + together, self.designs))
            exchanged = torch.where(own, second[designs, None], first[designs, None])
            varied = scorer.scores(CellMasks(exchanged.view(-1, *grid), shape)).unflatten(0, (-1, count))
            differences = varied - compared[designs, None]  # (designs, cells, queries)
            squares += differences.to(squares.dtype).square().sum(0).T
            indices = total_indices(squares / designs.stop, variance)
            yield SampledRound(
                index=index,
                steps=len(starts),
                map=enlarged((indices if self.order == "total" else 1 - indices).view(-1, 1, *grid).float(), shape),
                samples=torch.full_like(subject.query, samples + designs.stop * count),
                values=mean,
                areas=area.expand(len(x)),
            )


def total_indices(squares: Float[Tensor, "B d"], variance: Float[Tensor, "B 1"]) -> Float[Tensor, "B d"]:
    """Half of the mean squared differences, as a share of the variance; not divided if the scores of A have no variance."""
    return squares / 2 / torch.where(variance > 0, variance, 1.0)
