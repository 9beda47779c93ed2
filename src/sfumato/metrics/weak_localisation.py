r"""Weak localisation: the overlap of a box around the high places of a map with the object's box.

R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Columns, Measure, Row, as_columns
from sfumato.metrics.pointing import finite_map
from sfumato.metrics.protocol import Protocol
from sfumato.settings import check_number

SHARES = tuple(step / 20 for step in range(20))
MULTIPLES = tuple(step / 2 for step in range(21))


@dataclass(frozen=True)
class WeakLocalisation(Protocol):
    r"""The error $1 - \Pr[\max_b \mathrm{IoU}(b, \hat b_\alpha) > \mathrm{overlap}]$ of the tightest box $\hat b_\alpha$
    around the places of the map above a threshold, where b are the boxes of the class.

    There are three kinds of threshold, each with a grid of α (Fong & Vedaldi 2017):

    - `value`: keep places with $S - \min S \geq \alpha (\max S - \min S)$.
    - `energy`: keep the highest places that together have the share α of the map's energy, $\sum S^+$. Places of equal value
      are kept or removed together, and the highest are always kept. A map without energy keeps all places.
    - `mean`: keep places with $S^+ \geq \alpha \, \overline{S^+}$. If no place is kept there is no box, and the overlap is 0.

    A box is a hit if its intersection over union is more than `overlap`, published as 0.5. The box is computed on the
    network's input and then mapped to the picture by the case's window, so that no interpolation moves its sides.

    For each kind, α is tuned on a part of the pictures, and the error is counted on the others. A hash of the picture's name
    decides; about half of the pictures are tuning pictures, the same in every run. Without names, the numbers of the rows are
    hashed. Every resampling tunes its own α (the smallest of equally good ones), so that the intervals include the uncertainty
    of that choice. A grid of one α needs no tuning: all rows count. The error is NaN if one of the two parts is empty.

    A row holds the overlaps for each α, as lists `value`, `energy` and `mean`; `tuning`, whether its picture is a tuning
    picture, if the picture has a name; `difficult` and `label`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})
    kinds: ClassVar[tuple[str, ...]] = ("value", "energy", "mean")

    value: tuple[float, ...] = SHARES
    energy: tuple[float, ...] = SHARES
    mean: tuple[float, ...] = MULTIPLES
    overlap: float = 0.5

    def __post_init__(self) -> None:
        for kind in self.kinds:
            grid = getattr(self, kind)
            grid = tuple(grid) if isinstance(grid, Sequence) and not isinstance(grid, str) else (grid,)
            if not grid:
                raise ValueError(f"{kind} must list at least one α; got none")
            for alpha in grid:
                if kind == "mean":
                    check_number(kind, alpha, "multiples of the mean", least=0)
                else:
                    check_number(kind, alpha, "shares", least=0, below=1)
            object.__setattr__(self, kind, grid)
        check_number("overlap", self.overlap, "intersection over union", least=0, below=1)

    def measure(self, case: Case) -> Row:
        """The overlaps for each kind of threshold and each α. Raises `ValueError` if the truth is missing."""
        truth = case.need("truth", "weak localisation")
        saliency = case.map
        height, width = truth.places.shape
        if case.window is None:
            finite_map(saliency, (height, width))
        finite_map(saliency, saliency.shape)
        positive = saliency.clamp(min=0)  # negative values are no energy
        multiples = torch.tensor(self.mean, dtype=torch.float64, device="cpu") * positive.double().mean()
        sides = torch.cat(
            [
                boxes_above(saliency, at_values(saliency, self.value)),
                boxes_above(positive, torch.cat([at_energies(positive, self.energy), multiples])),
            ]
        )
        counts = [len(self.value), len(self.energy), len(self.mean)]
        boxes = sides.flip(1).transpose(1, 2).flatten(1)  # left, top, right, bottom
        if case.window is not None:
            window = case.window
            height, width = saliency.shape
            scale = [(window.right - window.left) / width, (window.bottom - window.top) / height] * 2
            start = [window.left, window.top] * 2
            boxes = boxes * torch.tensor(scale, dtype=torch.float64, device="cpu")
            boxes = boxes + torch.tensor(start, dtype=torch.float64, device="cpu")
        best = overlaps(boxes, truth.boxes.double()).amax(1)
        lists = dict(zip(self.kinds, (part.tolist() for part in best.split(counts)), strict=True))
        tuning = {"tuning": tunes(case.picture)} if case.picture else {}
        return {**lists, "difficult": truth.difficult, "label": truth.label, **tuning}

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all
        """The error for each kind of threshold."""
        return tuple(
            Measure(f"error by {kind}", TunedError(kind, self.overlap), higher_is_better=False, percent=True)
            for kind in self.kinds
        )

    def tuned(self, rows: Sequence[Row]) -> dict[str, float]:
        """The tuned α for each kind of threshold; NaN if the rows have no tuning pictures."""
        columns = as_columns(rows)
        indices = {kind: TunedError(kind, self.overlap).best_index(columns) for kind in self.kinds}
        return {kind: getattr(self, kind)[index] if index >= 0 else float("nan") for kind, index in indices.items()}


@dataclass(frozen=True)
class TunedError:
    """The statistic: the share of pictures without a hit, among those that α was not tuned on."""

    column: str
    """The name of a column of overlaps `(n, A)`, one for each α."""
    overlap: float

    def __call__(self, columns: Columns, weights: Float[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
        tuning_rows, held_out_rows = self._parts(columns)
        hits = columns[self.column] > self.overlap
        alpha = _best(hits[tuning_rows], weights[:, tuning_rows])
        held_out = weights[:, held_out_rows]
        with np.errstate(invalid="ignore"):
            error = 1 - (held_out @ hits[held_out_rows].astype(float))[np.arange(len(alpha)), alpha] / held_out.sum(1)
        return np.where(alpha >= 0, error, np.nan)

    def best_index(self, columns: Columns) -> int:
        """The index of the best α on the tuning rows; -1 if there are none."""
        tuning_rows, _ = self._parts(columns)
        hits = (columns[self.column] > self.overlap)[tuning_rows]
        return int(_best(hits, np.ones((1, len(hits))))[0])

    def used(self, columns: Columns) -> Bool[np.ndarray, " n"]:
        """Whether the error is counted on each row."""
        return self._parts(columns)[1]

    def _parts(self, columns: Columns) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Masks of the rows on which α is tuned, and of the rows on which the error is counted."""
        known = ~np.isnan(columns[self.column].sum(1))
        if columns[self.column].shape[1] == 1:
            return known, known
        is_tuning = tuning(columns)
        return known & is_tuning, known & ~is_tuning


def _best(hits: Bool[np.ndarray, "n A"], weights: Float[np.ndarray, "R n"]) -> Int[np.ndarray, " R"]:
    """The index of the α with most hits, the first of equally good ones; -1 if no row has a weight."""
    return np.where(weights.sum(1) > 0, (weights @ hits.astype(float)).argmax(1), -1)


def tuning(columns: Columns) -> Bool[np.ndarray, " n"]:
    """Whether each row is a tuning row: by its column `tuning` if there is one, else by the picture's name.

    Tables whose pictures are numbers need the column `tuning`.
    """
    if "tuning" in columns:
        return columns["tuning"].astype(float) == 1
    count = len(next(iter(columns.values())))
    names = columns["picture"].tolist() if "picture" in columns else range(count)
    return np.array([tunes(str(name)) for name in names], bool)


@lru_cache(2**16)
def tunes(picture: str) -> bool:
    """Whether the picture of this name is a tuning picture."""
    return hashlib.blake2b(picture.encode(), digest_size=1).digest()[0] % 2 == 0


def at_values(saliency: Float[Tensor, "*S"], shares: Sequence[float]) -> Float[Tensor, " A"]:
    """The thresholds at these shares of the way from the map's least to its largest value, float64."""
    low, high = saliency.min().double(), saliency.max().double()
    return low + torch.tensor(shares, dtype=torch.float64, device="cpu") * (high - low)


def at_energies(energy: Float[Tensor, "*S"], shares: Sequence[float]) -> Float[Tensor, " A"]:
    """The largest thresholds such that the places at or above them have these shares of the energy, float64."""
    falling = energy.flatten().double().sort(descending=True).values
    above = falling.cumsum(0)
    # The first place at which the sum reaches the share; the clamp is against rounding of the last sum.
    energies = torch.tensor(shares, dtype=torch.float64, device="cpu") * above[-1]
    return falling[torch.searchsorted(above, energies).clamp(max=len(falling) - 1)]


def boxes_above(saliency: Float[Tensor, "*S"], thresholds: Float[Tensor, " A"]) -> Float[Tensor, "A axes 2"]:
    """The tightest boxes around the places of a map no lower than each threshold.

    Returns float64: along each axis, the first place and the one after the last; zeros for an empty box.

    >>> boxes_above(torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 0.0]]), torch.tensor([1.0, 2.0, 9.0])).int().tolist()
    [[[0, 2], [1, 3]], [[0, 2], [1, 3]], [[0, 0], [0, 0]]]
    """
    sides = []
    for axis in range(saliency.ndim):
        reduced = [dim for dim in range(saliency.ndim) if dim != axis]
        highest = saliency.double().amax(reduced) if reduced else saliency.double()
        inside = highest >= thresholds[:, None].double()  # (A, length)
        position = torch.arange(1, inside.shape[1] + 1, dtype=torch.long, device=inside.device)
        end = (inside * position).amax(1)
        start = inside.shape[1] - (inside * position.flip(0)).amax(1)
        sides.append(torch.stack([torch.where(end > 0, start, 0), end], 1))
    return torch.stack(sides, 1).double()


def overlaps(boxes: Float[Tensor, "n 4"], truth: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of boxes: left, top, right, bottom; 0 for empty boxes."""
    corner = torch.maximum(boxes[:, None, :2], truth[None, :, :2])
    opposite = torch.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    intersection = (opposite - corner).clamp(min=0).prod(2)
    union = _areas(boxes)[:, None] + _areas(truth)[None] - intersection
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def _areas(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
