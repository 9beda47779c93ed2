r"""Weak localisation: a box around what the map marks, beside the object's own.

R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Array, Columns, Measure, Row, turned
from sfumato.metrics.pointing import finite_map
from sfumato.metrics.protocol import Protocol
from sfumato.settings import check_number

SHARES = tuple(step / 20 for step in range(20))
MULTIPLES = tuple(step / 2 for step in range(21))


@dataclass(frozen=True)
class WeakLocalisation(Protocol):
    r"""The error $1 - \Pr[\max_b \mathrm{IoU}(b, \hat b_\alpha) > \mathrm{overlap}]$ of the tightest box $\hat b_\alpha$
    around all that a threshold leaves of the map, where b are the boxes of the class.

    Three kinds of threshold, each with its grid of α (Fong & Vedaldi 2017):

    - `value`: keep places with $S - \min S \geq \alpha (\max S - \min S)$.
    - `energy`: keep the highest places that hold the share α of the map's energy, $\sum S^+$; places of equal height stay
      or go together, and the highest always stay; of a map without energy, all.
    - `mean`: keep places with $S^+ \geq \alpha \, \overline{S^+}$. Where none is left there is no box, and the overlap is 0.

    `overlap` is what a box needs more of: intersection over union, published as 0.5. The box is found where the network
    looks, and carried to the picture by the case's window, so that no interpolation moves its sides.

    For each kind α is chosen on a part of the pictures and the error counted on the rest. A picture belongs to the tuning
    part by a hash of its name, about half of them, the same in every run; without names, rows are numbered. Every
    resampling chooses its own α (of equal ones the least), so that the intervals contain what the choice adds. A grid of
    one α needs no tuning: there all rows count. With no picture on one of the sides the error is NaN.

    A row holds the overlaps for each α, as lists under `value`, `energy` and `mean`, and whether its picture tunes.
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
        """The overlaps, for each kind of threshold and each α. Raises `ValueError` where the truth is missing."""
        truth = case.need("truth", "weak localisation")
        saliency = case.map
        height, width = truth.places.shape
        if case.window is None:
            finite_map(saliency, (height, width))
        finite_map(saliency, saliency.shape)
        positive = saliency.clamp(min=0)  # what is negative is no energy
        multiples = torch.tensor(self.mean, dtype=torch.float64, device="cpu") * positive.double().mean()
        kept = torch.cat(
            [
                boxes_above(saliency, at_values(saliency, self.value)),
                boxes_above(positive, torch.cat([at_energies(positive, self.energy), multiples])),
            ]
        )
        counts = [len(self.value), len(self.energy), len(self.mean)]
        boxes = kept.flip(1).transpose(1, 2).flatten(1)  # left, top, right, bottom
        if case.window is not None:
            window = case.window
            height, width = saliency.shape
            scale = [(window.right - window.left) / width, (window.bottom - window.top) / height] * 2
            start = [window.left, window.top] * 2
            of_pixels, origin = (torch.tensor(each, dtype=torch.float64, device="cpu") for each in (scale, start))
            boxes = boxes * of_pixels + origin
        best = overlaps(boxes, truth.boxes.double()).amax(1)
        lists = dict(zip(self.kinds, (part.tolist() for part in best.split(counts)), strict=True))
        named = {"tuning": tunes(case.picture)} if case.picture else {}
        return {**lists, "difficult": truth.difficult, "label": truth.label, **named}

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all
        """The error by each kind of threshold."""
        return tuple(
            Measure(f"error by {kind}", TunedError(kind, self.overlap), higher_is_better=False, percent=True)
            for kind in self.kinds
        )

    def tuned(self, rows: Sequence[Row]) -> dict[str, float]:
        """The α that the tuning part of the rows chooses, for each kind; NaN where that part is empty."""
        columns = turned(rows)
        chosen = {kind: TunedError(kind, self.overlap).chosen(columns) for kind in self.kinds}
        return {kind: getattr(self, kind)[at] if at >= 0 else float("nan") for kind, at in chosen.items()}


@dataclass(frozen=True)
class TunedError:
    """The statistic: the share of pictures not localised among those that α was not chosen by."""

    column: str
    """Of overlaps `(n, A)`."""
    overlap: float

    def __call__(self, columns: Columns, weights: Array) -> Array:
        part, rest = self._parts(columns)
        found = columns[self.column] > self.overlap
        at = _best(found[part], weights[:, part])
        held_out = weights[:, rest]
        with np.errstate(invalid="ignore"):
            error = 1 - (held_out @ found[rest].astype(float))[np.arange(len(at)), at] / held_out.sum(1)
        return np.where(at >= 0, error, np.nan)

    def chosen(self, columns: Columns) -> int:
        """The index of the best α on the tuning part; -1 where that is empty."""
        part, _ = self._parts(columns)
        return int(_best((columns[self.column] > self.overlap)[part], np.ones((1, int(part.sum()))))[0])

    def used(self, columns: Columns) -> Array:
        """The rows on which the error is counted."""
        return self._parts(columns)[1]

    def _parts(self, columns: Columns) -> tuple[Array, Array]:
        """The rows by which α is chosen, and those on which the error is counted."""
        known = ~np.isnan(columns[self.column].sum(1))
        if columns[self.column].shape[1] == 1:
            return known, known
        part = tuning(columns)
        return known & part, known & ~part


def _best(found: Array, weights: Array) -> Array:
    """The α `(R,)` by which most of the rows `(n, A)` are found, of equal ones the first; -1 where there are no rows."""
    return np.where(weights.sum(1) > 0, (weights @ found.astype(float)).argmax(1), -1)


def tuning(columns: Columns) -> Array:
    """Which rows belong to the part that α is chosen by, `(n,)`, bool.

    Those where the column `tuning` is true, if there is one, as where `picture` holds numbers; else by the pictures' names.
    """
    if "tuning" in columns:
        return columns["tuning"].astype(float) == 1
    count = len(next(iter(columns.values())))
    names = columns["picture"].tolist() if "picture" in columns else range(count)
    return np.array([tunes(str(name)) for name in names], bool)


@lru_cache(2**16)
def tunes(picture: str) -> bool:
    """Whether a picture of that name belongs to the tuning part."""
    return hashlib.blake2b(picture.encode(), digest_size=1).digest()[0] % 2 == 0


def at_values(saliency: Tensor, shares: Sequence[float]) -> Tensor:
    """The heights that lie so far up from the map's least to its largest value, `(A,)`, float64."""
    low, high = saliency.min().double(), saliency.max().double()
    return low + torch.tensor(shares, dtype=torch.float64, device="cpu") * (high - low)


def at_energies(energy: Tensor, shares: Sequence[float]) -> Tensor:
    """The largest heights above which, included, lies each share of the energy, `(A,)`, float64."""
    falling = energy.flatten().double().sort(descending=True).values
    above = falling.cumsum(0)
    # The first place at which the sum reaches the share; rounding must not ask for more than there is.
    wanted = torch.tensor(shares, dtype=torch.float64, device="cpu") * above[-1]
    return falling[torch.searchsorted(above, wanted).clamp(max=len(falling) - 1)]


def boxes_above(saliency: Tensor, thresholds: Tensor) -> Tensor:
    """The tightest boxes around the places of a map `(*S)` no lower than each threshold `(A,)`.

    `(A, axes, 2)`, float64: the first place and that after the last, along each axis; zeros where no place is left.

    >>> boxes_above(torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 0.0]]), torch.tensor([1.0, 2.0, 9.0])).int().tolist()
    [[[0, 2], [1, 3]], [[0, 2], [1, 3]], [[0, 0], [0, 0]]]
    """
    sides = []
    for axis in range(saliency.ndim):
        others = [other for other in range(saliency.ndim) if other != axis]
        highest = saliency.double().amax(others) if others else saliency.double()
        left = highest >= thresholds[:, None].double()  # (A, length)
        length = torch.arange(1, left.shape[1] + 1, dtype=torch.long, device=left.device)
        last = (left * length).amax(1)
        first = left.shape[1] - (left * length.flip(0)).amax(1)
        sides.append(torch.stack([torch.where(last > 0, first, 0), last], 1))
    return torch.stack(sides, 1).double()


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union `(n, m)` of boxes `(n, 4)` and `(m, 4)`: left, top, right, bottom; 0 for empty ones."""
    corner = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    opposite = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (opposite - corner).clamp(min=0).prod(2)
    union = _areas(boxes)[:, None] + _areas(others)[None] - both
    return torch.where(union > 0, both / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
