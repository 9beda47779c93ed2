"""Methods that need only scores of sampled masks of cells: what `RISE`, `Sobol` and `HSIC` share.

Each of them draws masks from a coarse grid of cells, scores what they show, and estimates from these scores how much each cell
matters. They differ in the masks and in the estimate.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.attribution import Attribution, saliency
from sfumato.masks.regions import CELLS, default_counts
from sfumato.methods.method import Method
from sfumato.model.black_box import NoAnswerError, warn_of_stop
from sfumato.model.evaluate import Evaluation
from sfumato.model.inputs import warn_of_no_effect
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbed, check_single, seeded
from sfumato.search.loop import Progress
from sfumato.settings import check_whole, is_whole
from sfumato.space.smoothing import per_axis

ROUND = 128
"""The number of masks in a round, after which an estimate is made; a power of two, as Sobol sequences need it."""

IN_CACHE = 16
"""Rows in one batch on a CPU, whose caches hold no more: EfficientNet-Lite0 takes 27 ms per row with 16, and 52 ms with 64."""

DRAWS = ("random", "sobol")


@dataclass(frozen=True, eq=False)
class SampledRound:
    """The estimate after a round of masks. The last round has the result."""

    index: int
    """The number of the round, from 0."""
    steps: int
    """The largest possible number of rounds."""
    map: Float[Tensor, "B 1 *S"]
    """The estimated map."""
    samples: Int[Tensor, " B"]
    """The number of masks of each query so far."""
    values: Float[Tensor, " B"]
    """The mean score of these masks."""
    areas: Float[Tensor, " B"]
    """The mean area of these masks."""

    def details(self) -> dict[str, list[Any]]:
        """Lists with one value for each query, for the `about` of a result whose last round this is."""
        return {}


class Masks(Protocol):
    """Masks that are made when they are indexed, so that only those of one batch take memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, chunk: slice, /) -> Float[Tensor, "n 1 *S"]: ...


class SampledMasks(Method):
    """Base of methods whose map is estimated from the scores of sampled masks, in rounds.

    A subclass defines `rounds`. It is a frozen dataclass with these fields:

    - `cells`: the number of cells along each axis, one number for all axes or one per axis; `None` for `default_cells`.
    - `draw`: "random", or "sobol" for a scrambled Sobol sequence.
    - `perturbation`: what hides a place; one only.
    - `batch`: rows in one batch, by default 16 on a CPU and 128 on other devices, and fewer if a differentiable model would
      keep more than `memory` GiB for them.
    - `memory`, `smooth`, `seed`, `score`: see `Method`.

    All queries share the masks, so that no result depends on its batch.
    """

    default_cells: ClassVar[Mapping[int, int]] = CELLS
    """The default number of cells along each axis, by the number of axes: masks have a similar number of cells in all."""

    cells: int | tuple[int, ...] | None = None
    draw: str = "random"
    batch: int | None = None
    smooth: float = 0.0
    memory: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.cells, Sequence):
            object.__setattr__(self, "cells", tuple(self.cells))
        if self.batch is not None:
            check_whole("batch", self.batch, 1)
        for count in self.cells if isinstance(self.cells, tuple) else () if self.cells is None else (self.cells,):
            if not is_whole(count, 2):
                raise ValueError(f"cells are whole numbers from 2 up, one for all axes or one per axis; got {count!r}")
        if self.draw not in DRAWS:
            raise ValueError(f"draw must be one of {', '.join(DRAWS)}; got {self.draw!r}")
        check_single(self.perturbation, type(self).__name__)
        super().__post_init__()

    @abstractmethod
    def rounds(self, subject: Subject, batch_rows: int) -> Iterator[SampledRound]:
        """The estimates of all queries, round by round. `batch_rows` go through the model together."""

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:
        """The maps of all queries. `progress` is called with each `SampledRound`."""
        most, whole = subject.probe(self.memory)
        batch_rows = min(self.batch or default_batch(subject.inputs.device), most)
        last = None
        try:
            for last in subject.surroundings.iterate(self.rounds(subject, batch_rows)):
                if progress is not None:
                    progress(last)
        except NoAnswerError as error:
            if last is None:
                raise
            warn_of_stop(error)
        if last is None:
            raise RuntimeError("no masks were drawn")
        with subject.surroundings.computing(), torch.no_grad():
            saliency_map = saliency(last.map[:, None], self.smooth)
            values = last.map.flatten(1)
            warn_of_no_effect((values == values[:, :1]).all(1), "")
        cells = list(self.grid(subject.inputs.shape[2:]))
        return Attribution(map=saliency_map, whole=whole, about=self.about(subject, last.details(), cells=cells))

    def counts(self, shape: Sequence[int]) -> tuple[float, ...]:
        """The number of cells along each axis, for inputs whose axes of space have the lengths `shape`.

        >>> from sfumato import RISE
        >>> RISE().counts((224, 224)), RISE().counts((5,)), RISE().counts((8, 112, 112))
        ((7, 7), (5,), (4, 4, 4))
        """
        if self.cells is not None:
            return per_axis(self.cells, len(shape))
        return default_counts(shape, self.default_cells)

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The same as `counts`. Raises `ValueError` if an axis has fewer places than cells."""
        grid = tuple(int(count) for count in self.counts(shape))
        if any(length < count for length, count in zip(shape, grid, strict=True)):
            raise ValueError(
                f"an input of {' x '.join(map(str, shape))} places is too small for cells={self.cells}; "
                "give fewer, or one count per axis, or none, for a default that fits the shape"
            )
        return grid

    def uniform(self, dimension: int) -> Callable[[int], Float[Tensor, "n dimension"]]:
        """A function from n to the next numbers in [0, 1), on the CPU."""
        if self.draw == "random":
            generator = torch.Generator("cpu").manual_seed(self.seed)
            return lambda count: torch.rand(count, dimension, generator=generator, dtype=torch.float32, device="cpu")
        most = torch.quasirandom.SobolEngine.MAXDIM
        if dimension > most:
            raise ValueError(
                f'draw="sobol" has at most {most} dimensions; cells={self.cells} need {dimension}: take draw="random"'
            )
        engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=self.seed)

        def draw(count: int) -> Float[Tensor, "n dimension"]:
            first = engine.quasi.to(torch.float32) / 2**engine.MAXBIT if engine.num_generated == 0 else None
            points = engine.draw(count, dtype=torch.float32)
            if first is not None:  # torch rounds the first point to the default dtype, which may be a short one
                points[0] = first
            return points

        return draw

    def scorer(self, subject: Subject, batch_rows: int) -> "SharedMasks":
        """Scores masks that all queries share."""
        perturbed = seeded(self.perturbation, self.seed)(subject.inputs)
        return SharedMasks(subject, perturbed, batch_rows)


@dataclass(frozen=True, eq=False)
class SharedMasks:
    """Scores of masks that all queries share."""

    subject: Subject
    perturbed: Perturbed
    batch_rows: int
    """How many rows go through the model together."""

    def chunks(
        self, masks: Masks, queries: Int[Tensor, " A"]
    ) -> Iterator[tuple[Float[Tensor, "n 1 *S"], Float[Tensor, "n A"]]]:
        """The masks in chunks, with their scores for some of the queries."""
        size = max(1, self.batch_rows // len(queries))
        for start in range(0, len(masks), size):
            chunk = masks[start : start + size]
            rows = chunk.unsqueeze(1).expand(-1, len(queries), *chunk.shape[1:]).flatten(0, 1)
            evaluation = Evaluation(self.subject, (self.perturbed,), queries.repeat(len(chunk)), self.batch_rows)
            yield chunk, evaluation.scores(rows).view(len(chunk), -1)

    def scores(self, masks: Masks) -> Float[Tensor, "n B"]:
        """The scores of the masks for all queries."""
        return torch.cat([scores for _, scores in self.chunks(masks, self.subject.query)])


@dataclass(frozen=True, eq=False)
class CellMasks:
    """Masks whose cells are boxes of places with one value: an axis of H places is cut into h parts of ⌊H/h⌋ or ⌈H/h⌉."""

    cells: Float[Tensor, " n *cells"]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, chunk: slice) -> Float[Tensor, "n 1 *S"]:
        masks = self.cells[chunk]
        for axis, length in enumerate(self.shape, 1):
            places = torch.arange(length, dtype=torch.long, device=masks.device)
            masks = masks.index_select(axis, places * masks.shape[axis] // length)
        return masks.unsqueeze(1)

    @property
    def areas(self) -> Float[Tensor, " n"]:
        """The mean of each mask over its places."""
        means = self.cells
        for length in reversed(self.shape):
            count = means.shape[-1]
            cell = torch.arange(length, dtype=torch.long, device=means.device) * count // length
            sizes = torch.bincount(cell, minlength=count).to(means.dtype)
            means = means @ (sizes / length)
        return means


def default_batch(device: torch.device) -> int:
    """Rows in one batch, if memory allows."""
    return IN_CACHE if device.type == "cpu" else ROUND
