r"""RISE: the importance of a place is the mean score of random masks, weighted by how much of the place each mask shows.

V. Petsiuk, A. Das, K. Saenko: *RISE: Randomized Input Sampling for Explanation of Black-box Models*, BMVC 2018,
arXiv 1806.07421. It needs only the model's outputs: the model may be a session, a service, or a function of arrays.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.methods.sampled import ROUND, SampledMasks, SampledRound
from sfumato.model.black_box import NoAnswerError
from sfumato.model.subject import Subject
from sfumato.perturbations import Fade, Perturbation
from sfumato.settings import check_number, check_whole, later, renewed
from sfumato.space.precision import widest_float


@dataclass(frozen=True, eq=False)
class Round(SampledRound):
    """The estimate after a round of masks, and its error. The last round has the result."""

    error: Float[Tensor, "B 1 *S"]
    """The standard error of the map at every place, in the score's units."""
    relative: Float[Tensor, " B"]
    """The root mean square of `error` over the places, as a fraction of the map's range."""

    def details(self) -> dict[str, list[Any]]:
        return {"samples": self.samples.tolist(), "standard_error": _root_mean_square(self.error).tolist()}


@dataclass(frozen=True)
class RISE(SampledMasks):
    r"""$S(\lambda) = \mathbb{E}[\Phi(M \otimes x) \mid \lambda \text{ shown}]
    \approx \sum_i \Phi(M_i \otimes x)\, M_i(\lambda) \big/ \sum_i M_i(\lambda)$ over random masks $M_i$.

    A call with a model, inputs `(B, C, *S)` and targets returns an `Attribution` with `map` `(B, 1, *S)`, in the score's units;
    `progress` is called with each `Round`. A class index means its `Probability`, as published; if the model already returns
    probabilities, or for raw outputs, use `score="logit"`, the output itself. The model needs no gradients, and may return
    numpy arrays.

    - `samples`: masks for each query. `batch`: rows in one batch, by default 16 on a CPU and 128 on other devices, and fewer if
      a differentiable model would keep more than `memory` GiB for them.
    - `cells`: the number of cells of a mask along each axis (one number for all axes, or one per axis). Each cell is 0 or
      1. They are linearly interpolated to one cell more than the input, and cropped at random. By default 7 along each of
      two axes, as published, 49 along one axis and 4 along each of three, so that a mask has a similar number of cells, and
      no cell is smaller than a place. `keep`: the probability of a 1.
    - `draw`: "random", or "sobol" for a scrambled Sobol sequence, whose masks balance cells and pairs of cells. It has the same
      error with fewer masks if cells act almost independently. Its dimension, the product of `cells` plus the number of axes,
      must be at most 21201, and it works best if `samples` is a power of two.
    - `perturbation`: what hides a place; as published, it fades to zero.
    - `tolerance`: a query stops when the standard error of its map, as a fraction of the map's range (`Round.relative`), is at
      most this. It is checked every 128 masks; 0 for never. For "sobol" this error is an upper bound in practice.
    - `smooth`: width of a Gaussian that smooths the map, as a fraction of the input's shortest side.
    - `seed`: the seed of the masks. All queries share the masks, so that no result depends on its batch.
    - `score`: what a class index means, "probability" (published), "logit", "log-odds" or "sigmoid"; any other target is a
      score itself.

    The paper divides by $N\,\mathbb{E}[M]$, which is N times `keep` at every place. Here the divisor is the sum of the masks,
    which has the same limit but cancels the noise of places that were shown more often by chance. The paper's cell of
    $\lfloor H/h \rfloor$ places cannot be cropped if h does not divide H, so it is rounded up here.

    How to choose:

    - `samples`: 256 for a sketch, the default for results. The error falls with the square root of the number; `result.about`
      says it. Or set `tolerance`, and the method stops when the map is settled.
    - `cells`: more cells show finer parts and need more samples.
    - `draw`: "sobol", with a power of two for `samples`, if parts of the picture matter independently of each other.
    - `score`: "logit" if the model returns probabilities already, or if the class is rare, as its probability may be near 0
      for most masks.
    - `batch`: the default, or less if memory is short.

    `result.about` has `samples` and `standard_error` (the root mean square over the places), one for each query.
    """

    samples: int = 4000
    cells: int | tuple[int, ...] | None = None
    keep: float = 0.5
    draw: str = "random"
    perturbation: Perturbation = Fade()
    batch: int | None = None
    tolerance: float = 0.0
    smooth: float = 0.0
    seed: int = 0
    memory: float | None = renewed(None, 2.0)
    score: str = later("probability")

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, 2)
        check_number("keep", self.keep, "the probability that a cell is shown", above=0, below=1)
        check_number("tolerance", self.tolerance, "a fraction of the map's range, 0 for never", least=0, below=1)
        super().__post_init__()

    def masks(self, shape: Sequence[int], device: torch.device | None = None) -> Iterator["Draws"]:
        """The draws of all masks, one for each round, for inputs whose axes of space have the lengths `shape`.

        Raises `ValueError` if an axis has fewer places than cells, or if a Sobol sequence has too many dimensions.
        """
        lengths, grid = tuple(shape), self.grid(shape)
        uniform = self.uniform(math.prod(grid) + len(grid))
        for start in range(0, self.samples, ROUND):
            numbers = uniform(min(ROUND, self.samples - start)).to(device)
            cells, shifts = numbers[:, : -len(grid)], numbers[:, -len(grid) :]
            yield Draws((cells < self.keep).to(torch.float32).view(-1, *grid), shifts, lengths)

    def rounds(self, subject: Subject, batch_rows: int) -> Iterator[Round]:
        x = subject.inputs
        scorer = self.scorer(subject, batch_rows)
        sums = Sums.empty(x)
        active = subject.query
        steps = math.ceil(self.samples / ROUND)
        for index, draws in enumerate(self.masks(x.shape[2:], x.device)):
            try:
                for masks, scores in scorer.chunks(draws, active):
                    sums.add(masks, scores, active)
            except NoAnswerError:
                if sums.count.all():
                    yield sums.round(index, steps)
                raise
            estimate = sums.round(index, steps)
            yield estimate
            active = active[estimate.relative[active] > self.tolerance] if self.tolerance else active
            if not len(active):
                return


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers from which masks are made when they are indexed: cells of 0 or 1, and crops as fractions
    of a cell."""

    cells: Float[Tensor, " n *cells"]
    crops: Float[Tensor, "n axes"]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, chunk: slice) -> Float[Tensor, "n 1 *S"]:
        """The masks of a slice of the draws (Petsiuk et al. 2018, section 3.2).

        Along an axis of H places with h cells, the cells are interpolated to (h + 1) · C places with C = ⌈H/h⌉, of which H are
        cropped, beginning with place 0, …, C.
        """
        masks = self.cells[chunk]
        for axis, length in enumerate(self.shape):
            count = self.cells.shape[1 + axis]
            cell = math.ceil(length / count)
            first = (self.crops[chunk, axis] * (cell + 1)).floor()
            place = first[:, None] + torch.arange(length, dtype=torch.float32, device=masks.device)
            # The centres of places in units of the grid's own cells. Beyond the outermost centres the mask is constant.
            positions = ((place + 0.5) * (count / ((count + 1) * cell)) - 0.5).clamp(0, count - 1)
            masks = _interpolate(masks.movedim(1 + axis, -1), positions).movedim(-1, 1 + axis)
        return masks.unsqueeze(1)


def _interpolate(
    values: Float[Tensor, "n *P count"], positions: Float[Tensor, "n length"]
) -> Float[Tensor, "n *P length"]:
    """The values of rows at positions from 0 to count - 1, interpolated."""
    below = positions.floor().clamp(max=max(0, values.shape[-1] - 2))
    rows, index = [1] * (values.ndim - 2), below.long()
    low, high = (
        values.gather(-1, neighbour.view(len(positions), *rows, -1).expand(*values.shape[:-1], -1))
        for neighbour in (index, (index + 1).clamp(max=values.shape[-1] - 1))
    )
    return low + (positions - below).view(len(positions), *rows, -1) * (high - low)


class Sums:
    """Running sums of M, M², fM, fM² and f²M² over masks M with scores f, for each query.

    The first score of a query is subtracted from all its scores, so that differences of the sums lose little precision if the
    scores differ little. The sums are in float64 if the device has it.
    """

    def __init__(self, batch: int, shape: tuple[int, ...], device: torch.device) -> None:
        self.shape = shape
        self.dtype = widest_float(device)
        places = math.prod(shape)
        self.origin = torch.full((batch, 1), torch.nan, dtype=self.dtype, device=device)
        self.count = torch.zeros(batch, 1, dtype=self.dtype, device=device)
        self.score = torch.zeros_like(self.count)
        self.m, self.mm, self.fm, self.fmm, self.ffmm = (
            torch.zeros(batch, places, dtype=self.dtype, device=device) for _ in range(5)
        )

    @classmethod
    def empty(cls, x: Float[Tensor, "B C *S"]) -> "Sums":
        """Sums of no masks yet, for inputs."""
        return cls(len(x), tuple(x.shape[2:]), x.device)

    def add(self, masks: Float[Tensor, "n 1 *S"], scores: Float[Tensor, "n A"], queries: Int[Tensor, " A"]) -> None:
        """Add masks with their scores for some of the queries."""
        m = masks.flatten(1).to(self.dtype)
        f = scores.to(self.dtype).T  # (A, n)
        rows = slice(None) if len(queries) == len(self.m) else queries  # a slice does not copy
        origin = self.origin[rows]
        self.origin[rows] = origin = torch.where(origin.isnan(), f[:, :1], origin)
        f = f - origin
        squares = m.square()
        self.count[rows] += len(m)
        self.score[rows] += f.sum(1, keepdim=True)
        self.m[rows] += m.sum(0)
        self.mm[rows] += squares.sum(0)
        self.fm[rows] += f @ m
        self.fmm[rows] += f @ squares
        self.ffmm[rows] += f.square() @ squares

    def round(self, index: int, steps: int) -> Round:
        r"""The estimate $S = \sum fM / \sum M$ and its standard error.

        To first order in the noise, $\operatorname{Var} S = \sum M^2 (f - S)^2 / (\sum M)^2$, times N / (N − 1), as the mean is
        estimated from the same masks.
        """
        weight = self.m.clamp(min=1e-12)
        s = self.fm / weight
        spread = (self.ffmm - 2 * s * self.fmm + s.square() * self.mm).clamp(min=0)
        error = (spread * self.count / (self.count - 1).clamp(min=1)).sqrt() / weight
        size = (len(s), 1, *self.shape)
        scale = s.amax(1) - s.amin(1)
        rms = _root_mean_square(error)
        return Round(
            index=index,
            steps=steps,
            map=(s + self.origin).view(size).float(),
            error=error.view(size).float(),
            relative=torch.where(rms > 0, rms / scale, 0.0).float(),
            samples=self.count[:, 0].long(),
            values=(self.score / self.count + self.origin)[:, 0].float(),
            areas=(self.m.mean(1) / self.count[:, 0]).float(),
        )


def _root_mean_square(error: Float[Tensor, " B *P"]) -> Float[Tensor, " B"]:
    return error.flatten(1).square().mean(1).sqrt()
