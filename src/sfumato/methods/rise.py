r"""RISE: the importance of a place is the mean score of random masks, weighted by how much of the place each mask shows.

V. Petsiuk, A. Das, K. Saenko: *RISE: Randomized Input Sampling for Explanation of Black-box Models*, BMVC 2018,
arXiv 1806.07421. It needs only the model's outputs: the model may be a session, a service, or a function of arrays.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.attribution import Attribution, saliency
from sfumato.masks.regions import default_counts
from sfumato.methods.method import Method
from sfumato.model.evaluate import Evaluation
from sfumato.model.inputs import warn_of_no_effect
from sfumato.model.subject import Subject
from sfumato.perturbations import Fade, Perturbation, seeded
from sfumato.search.loop import Progress
from sfumato.settings import check_number, is_whole, later, renewed
from sfumato.space.precision import widest_float
from sfumato.space.smoothing import per_axis

ROUND = 128
"""The number of masks in a round, after which the standard error is checked; a power of two, as Sobol sequences need it."""

IN_CACHE = 16
"""Rows in one batch on a CPU, whose caches hold no more: EfficientNet-Lite0 takes 27 ms per row with 16, and 52 ms with 64."""

DRAWS = ("random", "sobol")


@dataclass(frozen=True, eq=False)
class Round:
    """The estimate after a round of masks. The last round has the result."""

    index: int
    """The number of the round, from 0."""
    steps: int
    """The largest possible number of rounds."""
    map: Float[Tensor, "B 1 *S"]
    """The estimated map."""
    error: Float[Tensor, "B 1 *S"]
    """The standard error of the map at every place, in the score's units."""
    relative: Float[Tensor, " B"]
    """The root mean square of `error` over the places, as a fraction of the map's range."""
    samples: Int[Tensor, " B"]
    """The number of masks of each query so far."""
    values: Float[Tensor, " B"]
    """The mean score of these masks."""
    areas: Float[Tensor, " B"]
    """The mean area of these masks."""


@dataclass(frozen=True)
class RISE(Method):
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
        if isinstance(self.cells, Sequence):
            object.__setattr__(self, "cells", tuple(self.cells))
        for name, least in (("samples", 2), ("batch", 1)):
            value = getattr(self, name)
            if (not is_whole(value) or value < least) and not (name == "batch" and value is None):
                raise ValueError(f"{name} must be a whole number from {least} up; got {value!r}")
        for count in self.cells if isinstance(self.cells, tuple) else () if self.cells is None else (self.cells,):
            if not is_whole(count, 2):
                raise ValueError(f"cells are whole numbers from 2 up, one for all axes or one per axis; got {count!r}")
        check_number("keep", self.keep, "the probability that a cell is shown", above=0, below=1)
        if self.draw not in DRAWS:
            raise ValueError(f"draw must be one of {', '.join(DRAWS)}; got {self.draw!r}")
        if isinstance(self.perturbation, tuple | list):
            raise ValueError(f"RISE hides places with one perturbation, e.g. Fade(); got {self.perturbation!r}")
        check_number("tolerance", self.tolerance, "a fraction of the map's range, 0 for never", least=0, below=1)
        super().__post_init__()

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:
        """The maps of all queries. `progress` is called with each `Round`."""
        rows, whole = subject.probe(self.memory)
        rows = min(self.batch or (IN_CACHE if subject.inputs.device.type == "cpu" else ROUND), rows)
        last = None
        for last in subject.surroundings.iterate(self._rounds(subject, rows)):
            if progress is not None:
                progress(last)
        if last is None:
            raise RuntimeError("no masks were drawn")
        with subject.surroundings.computing(), torch.no_grad():
            saliency_map = saliency(last.map[:, None], self.smooth)
            values = last.map.flatten(1)
            warn_of_no_effect((values == values[:, :1]).all(1), "")
        details = {"samples": last.samples.tolist(), "standard_error": _root_mean_square(last.error).tolist()}
        cells = [int(count) for count in self.counts(subject.inputs.shape[2:])]
        return Attribution(map=saliency_map, whole=whole, about=self.about(subject, details, cells=cells))

    def masks(self, shape: Sequence[int], device: torch.device | None = None) -> Iterator["Draws"]:
        """The draws of all masks, one for each round, for inputs whose axes of space have the lengths `shape`.

        Raises `ValueError` if an axis has fewer places than cells, or if a Sobol sequence has too many dimensions.
        """
        lengths = tuple(shape)
        counts = self.counts(lengths)
        if any(length < count for length, count in zip(lengths, counts, strict=True)):
            raise ValueError(
                f"an input of {' x '.join(map(str, lengths))} places is too small for cells={self.cells}; "
                "give fewer, or one count per axis, or none, for a default that fits the shape"
            )
        grid = tuple(int(count) for count in counts)
        uniform = self._uniform(math.prod(grid) + len(grid))
        for start in range(0, self.samples, ROUND):
            numbers = uniform(min(ROUND, self.samples - start)).to(device)
            cells, shifts = numbers[:, : -len(grid)], numbers[:, -len(grid) :]
            yield Draws((cells < self.keep).to(torch.float32).view(-1, *grid), shifts, lengths)

    def counts(self, shape: Sequence[int]) -> tuple[float, ...]:
        """The number of cells of a mask along each axis, for inputs whose axes of space have the lengths `shape`.

        >>> RISE().counts((224, 224)), RISE().counts((5,)), RISE().counts((8, 112, 112))
        ((7, 7), (5,), (4, 4, 4))
        """
        return default_counts(shape) if self.cells is None else per_axis(self.cells, len(shape))

    def _uniform(self, dimension: int) -> Callable[[int], Float[Tensor, "n dimension"]]:
        """A function from n to the next numbers in [0, 1)."""
        if self.draw == "random":
            generator = torch.Generator("cpu").manual_seed(self.seed)
            return lambda count: torch.rand(count, dimension, generator=generator, dtype=torch.float32, device="cpu")
        most = torch.quasirandom.SobolEngine.MAXDIM
        if dimension > most:
            raise ValueError(
                f'draw="sobol" has at most {most} dimensions; cells={self.cells} need {dimension}: take draw="random"'
            )
        engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=self.seed)
        return lambda count: engine.draw(count, dtype=torch.float32)

    def _rounds(self, subject: Subject, rows: int) -> Iterator[Round]:
        x = subject.inputs
        perturbed = seeded(self.perturbation, self.seed)(x)
        sums = Sums.empty(x)
        steps = math.ceil(self.samples / ROUND)
        active = subject.query
        for index, draws in enumerate(self.masks(x.shape[2:], x.device)):
            chunk = max(1, rows // len(active))
            for start in range(0, len(draws), chunk):
                masks = draws[start : start + chunk]
                batch = masks.unsqueeze(1).expand(-1, len(active), *masks.shape[1:]).flatten(0, 1)
                scores = Evaluation(subject, (perturbed,), active.repeat(len(masks)), rows).scores(batch)
                sums.add(masks, scores.view(len(masks), -1), active)
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
