r"""Calibrated probabilities of pictures of which only a part is shown.

Masked pictures lie far from those a network has learnt from, so its probabilities for them mislead, and differently for each
area. One temperature for each range of areas mends most of it: $p = \mathrm{softmax}(z / T_b)$, with the $T_b$ that
is most probable for masked calibration pictures of the range b. The idea is that of *ReCalX* (NeurIPS
2025); temperature scaling is C. Guo et al.: *On calibration of modern neural networks*, ICML 2017.
"""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.evidence import stored
from sfumato.evidence.answers import of_two, shown_logits, whole_answers
from sfumato.evidence.measured import weights_of
from sfumato.evidence.random_sets import cut, random_fields
from sfumato.evidence.worth import ready
from sfumato.masks.level_set import LevelSet
from sfumato.model.effects import Model
from sfumato.model.subject import Subject
from sfumato.perturbations import Blur, Fade, Perturbation, check_perturbation, seeded
from sfumato.settings import Settings, check_number, check_seed, check_whole, keywords_told

EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""The ranges of areas, by default."""

COLDEST, HOTTEST = 0.01, 100.0
"""Between which temperatures are sought."""

GRID = 40
"""Steps between both, of which the best is the beginning."""


@dataclass(frozen=True)
class Calibration:
    """A temperature for each perturbation and each range of shown areas.

    - `edges`: the bounds of the ranges, from 0 to 1.
    - `temperatures`: for each of the `perturbations`, one for each range.
    - `pictures`: on how many pictures they were chosen.
    - `errors_before`, `errors_after`: the expected calibration error in each range, over all perturbations, on these pictures.
    - `model`: the network's name, if it has one.
    - `weights`: a hash of its weights; empty for one that is no module. `SameAnswer` uses it for this network alone.
    """

    edges: tuple[float, ...]
    perturbations: tuple[Perturbation, ...]
    temperatures: tuple[tuple[float, ...], ...]
    pictures: int
    errors_before: tuple[float, ...] = ()
    errors_after: tuple[float, ...] = ()
    model: str = ""
    weights: str = ""

    def __post_init__(self) -> None:
        for name in ("edges", "perturbations", "errors_before", "errors_after"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "temperatures", tuple(tuple(row) for row in self.temperatures))
        check_edges(self.edges)
        for perturbation in self.perturbations:
            check_perturbation(perturbation)
        if [len(row) for row in self.temperatures] != [len(self.edges) - 1] * len(self.perturbations):
            raise ValueError(
                "temperatures need a row for each perturbation, and in it one number for each range of areas"
            )
        for row in self.temperatures:
            for temperature in row:
                check_number("temperatures", temperature, "what logits are divided by", above=0)

    def temperature(self, area: float, perturbation: Perturbation) -> float:
        """That of an area. Raises `ValueError` for a perturbation for which there is none, and for what is no area."""
        check_number("area", area, "a share of the picture", least=0, most=1)
        for known, row in zip(self.perturbations, self.temperatures, strict=True):
            if known == perturbation or seeded(known, getattr(perturbation, "seed", 0)) == perturbation:
                return row[range_of(area, self.edges)]
        raise ValueError(
            f"the calibration knows {', '.join(map(repr, self.perturbations))}, not {perturbation!r}; calibrate with it"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        stored.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. Raises `ValueError` for another file."""
        return stored.load(cls, path, "is no calibration")


@dataclass(frozen=True)
class Calibrate(Settings):
    """Finds the temperatures of a network on pictures.

    Called with a model and pairs of inputs `(B, C, *S)` and labels `(B,)`, a few hundred pictures in all, it returns a
    `Calibration`. Of each picture `count` random smooth sets are shown in each range of areas, with each perturbation. Without
    labels, `None`, the network's own answers for the whole pictures are the right ones. Of a network with one output, class 0
    is this output and class 1 its opposite.
    """

    edges: tuple[float, ...] = EDGES
    perturbations: tuple[Perturbation, ...] = (Blur(), Fade())
    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(self.edges))
        object.__setattr__(self, "perturbations", tuple(self.perturbations))
        check_edges(self.edges)
        if not self.perturbations:
            raise ValueError("perturbations must be one or more, for example (Blur(), Fade()); got none")
        for perturbation in self.perturbations:
            check_perturbation(perturbation)
        check_whole("count", self.count)
        check_seed(self.seed)

    @keywords_told
    def __call__(
        self, model: Model, batches: Iterable[tuple[Float[Tensor, "B C *S"], Int[Tensor, " B"] | None]], name: str = ""
    ) -> Calibration:
        """The temperatures. `name` is kept as the model's. Raises `ValueError` without pictures."""
        logits, labels = self.shown(model, batches)
        if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[3]:
            raise ValueError(
                f"labels are classes of the network, 0 to {logits.shape[3] - 1}; got {int(labels.min())} to "
                f"{int(labels.max())}"
            )
        ranges = range(len(self.edges) - 1)
        temperatures = [[best_temperature(of_one[:, area], labels) for area in ranges] for of_one in logits]
        divisor = torch.tensor(temperatures, dtype=torch.float64, device="cpu")[:, None, :, None]
        before, after = logits.softmax(3), (logits / divisor).softmax(3)
        repeated = labels.repeat(len(self.perturbations))
        return Calibration(
            self.edges,
            self.perturbations,
            tuple(tuple(row) for row in temperatures),
            len(labels) // self.count,
            tuple(calibration_error(before[:, :, area].flatten(0, 1), repeated) for area in ranges),
            tuple(calibration_error(after[:, :, area].flatten(0, 1), repeated) for area in ranges),
            name,
            weights_of(model),
        )

    def shown(
        self, model: Model, batches: Iterable[tuple[Float[Tensor, "B C *S"], Int[Tensor, " B"] | None]]
    ) -> tuple[Float[Tensor, "P N R K"], Int[Tensor, " N"]]:
        """Logits `(P, N, R, K)`, float64, of random sets in each of R ranges under P perturbations, and the labels `(N,)`."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        logits, labels = [], []
        for inputs, given in batches:
            if given is not None and given.shape != inputs.shape[:1]:
                raise ValueError(f"labels are one for each of the {len(inputs)} inputs; got shape {tuple(given.shape)}")
            if given is not None and (given.is_floating_point() or given.dtype == torch.bool):
                raise ValueError(f"labels are numbers of classes; got {given.dtype}. Write labels.long(), if they are")
            some, answers = self._of_batch(model, inputs, generator)
            logits.append(some.cpu().double())
            labels.append((answers if given is None else given.to(answers)).repeat_interleave(self.count).cpu())
        if not logits:
            raise ValueError("calibration needs pictures, a few hundred; got none")
        return torch.cat(logits, 1), torch.cat(labels)

    def _of_batch(
        self, model: Model, inputs: Float[Tensor, "B C *S"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "P N R K"], Int[Tensor, " B"]]:
        """Logits of random sets of the inputs in each range, and the classes that the network answers for the whole inputs."""
        space, ranges = tuple(inputs.shape[2:]), len(self.edges) - 1
        sets = LevelSet().on(space, inputs.device)
        rows = len(inputs) * self.count * ranges
        fields = random_fields(sets, rows, generator)
        shares = torch.rand(len(inputs) * self.count, ranges, generator=generator, dtype=torch.float32, device="cpu")
        low, high = (
            torch.tensor(edges, dtype=torch.float32, device="cpu") for edges in (self.edges[:-1], self.edges[1:])
        )
        areas = (low + shares * (high - low)).flatten().clamp(sets.finest, 1 - sets.finest).to(inputs.device)
        places = cut(sets, fields, areas)
        query = torch.arange(len(inputs), dtype=torch.long, device=inputs.device)
        with Subject.prepared(model, inputs, 0) as subject:
            subject.probe(None)
            hides = [seeded(perturbation, self.seed) for perturbation in self.perturbations]
            repeated = query.repeat_interleave(self.count * ranges)
            logits = of_two(shown_logits(subject, ready(subject, hides), places, repeated, sets.family.edge))
            answers = whole_answers(subject)
        return logits.unflatten(1, (-1, ranges)), answers


def best_temperature(logits: Float[Tensor, "N K"], labels: Int[Tensor, " N"]) -> float:
    r"""The temperature, between 0.01 and 100, that is most probable for the labels.

    The prior is that $\log T$ is normal with mean 0 and a standard deviation of 1. It keeps a few pictures, all of them right,
    from making the answers certain. The loss is $\sum_i -\log p_i + (\log T)^2 / 2$. It may have two minima, where the logits
    hardly differ; near the lower one on a grid, the root of its slope is bisected. Logits of minus infinity, of classes that a
    network never answers, count for nothing.
    """
    wanted = logits.gather(1, labels[:, None])[:, 0]
    possible = logits.where(logits > -math.inf, 0.0)

    def loss(log_inverse: float) -> float:
        scaled = logits * math.exp(log_inverse)
        return float((scaled.logsumexp(1) - wanted * math.exp(log_inverse)).sum()) + log_inverse**2 / 2

    def slope(log_inverse: float) -> float:
        inverse = math.exp(log_inverse)
        expected = (logits * inverse).softmax(1).mul(possible).sum(1)
        return inverse * float((expected - wanted).sum()) + log_inverse

    coldest, hottest = math.log(1 / COLDEST), math.log(1 / HOTTEST)
    grid = [hottest + (coldest - hottest) * number / GRID for number in range(GRID + 1)]
    best = min(grid, key=loss)
    width = (coldest - hottest) / GRID
    low, high = max(hottest, best - width), min(coldest, best + width)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def calibration_error(probabilities: Float[Tensor, "N K"], labels: Int[Tensor, " N"], bins: int = 15) -> float:
    """The expected calibration error: the mean distance of the confidence from the share of right answers, over bins."""
    confidence, answer = probabilities.max(1)
    right = (answer == labels).double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device="cpu").index_add_(0, place, confidence.double() - right)
    return float(gaps.abs().sum() / len(labels))


def range_of(area: float, edges: Sequence[float]) -> int:
    """The number of the range in which an area lies; a bound belongs to the range below it.

    >>> [range_of(area, (0, 0.1, 0.5, 1)) for area in (0, 0.05, 0.1, 0.2, 1)]
    [0, 0, 0, 1, 2]
    """
    return max(0, next(number for number, edge in enumerate(edges) if area <= edge) - 1)


def check_edges(edges: Any) -> None:
    """Raise `ValueError` unless they grow from 0 to 1."""
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or sorted(set(edges)) != list(edges):
        raise ValueError(f"edges must grow from 0 to 1, e.g. (0, 0.1, 0.3, 1); got {edges}")
