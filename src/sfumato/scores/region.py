"""The mean of a score over a region of maps: how strongly a segmentation, or another dense output, says so there."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from sfumato.scores.of_class import Logit, as_target
from sfumato.scores.score import PlaceScore, Score
from sfumato.settings import PER_QUERY, is_whole


@dataclass(frozen=True)
class Places:
    """A set of the input's places, as a result's file can hold it: the lengths of runs of places, outside and inside in turn.

    `shape` are the lengths of the axes of space. The runs follow the order of memory, the last axis first, and begin outside.
    """

    shape: tuple[int, ...]
    runs: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("shape", "runs"):
            value = getattr(self, name)
            if not isinstance(value, Sequence) or not all(is_whole(item, 0) for item in value):
                raise ValueError(f"{name} are whole numbers from 0 up; got {value!r}")
            object.__setattr__(self, name, tuple(value))
        total = torch.Size(self.shape).numel()
        if not 1 <= len(self.shape) <= 3 or sum(self.runs) != total:
            raise ValueError(f"the runs of places of shape {self.shape} have the sum {total}; got {sum(self.runs)}")

    @classmethod
    def of(cls, mask: Any) -> "Places":
        """The places where a mask `(*S)` of truth values, or of zeros and ones, is true.

        >>> Places.of(torch.tensor([[0, 1], [1, 1]])).runs
        (1, 3)
        """
        if isinstance(mask, Places):
            return mask
        values = mask.detach().cpu() if isinstance(mask, Tensor) else torch.from_numpy(np.asarray(mask))
        if not 1 <= values.ndim <= 3:
            raise ValueError(
                f"a region's mask has the input's axes of space, e.g. (H, W); got shape {tuple(values.shape)}. Give a list of "
                "masks for one per input, e.g. list(masks[:, 0])"
            )
        if values.dtype != torch.bool and not ((values == 0) | (values == 1)).all():
            raise ValueError("a region's mask has the values 0 and 1, or False and True; write e.g. mask > 0.5")
        flat = values.flatten().bool()
        if not flat.any():
            raise ValueError("a region's mask is empty: it must have at least one place that is true")
        changes = (flat[1:] != flat[:-1]).nonzero().flatten() + 1
        ends = [0, *changes.tolist(), len(flat)]
        runs = [after - before for before, after in pairwise(ends)]
        return cls(tuple(values.shape), (0, *runs) if flat[0] else tuple(runs))

    @classmethod
    def in_box(cls, box: Sequence[float], shape: Sequence[int]) -> "Places":
        """The places whose centres lie in a box (left, top, right, bottom), in pixels of a picture of `shape` (H, W).

        >>> Places.in_box((1, 0, 3, 1), (2, 4)).runs
        (1, 2, 5)
        """
        left, top, right, bottom = box
        height, width = shape
        x = torch.arange(width, dtype=torch.float64, device="cpu") + 0.5
        y = torch.arange(height, dtype=torch.float64, device="cpu") + 0.5
        inside = ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))
        if not inside.any():
            raise ValueError(
                f"the box {tuple(box)} has no pixel of a picture of {width} × {height} pixels; give left, top, right and "
                "bottom in its pixels"
            )
        return cls.of(inside)

    @property
    def mask(self) -> Bool[Tensor, " *S"]:
        """The mask, on the processor."""
        inside = torch.arange(len(self.runs), dtype=torch.long, device="cpu") % 2 == 1
        runs = torch.tensor(self.runs, dtype=torch.long, device="cpu")
        return inside.repeat_interleave(runs).view(self.shape)


@dataclass(frozen=True)
class Region(Score):
    r"""The mean of a score over a region: $\sum_u w_u\, \Phi_u / \sum_u w_u$ for a score $\Phi_u$ of each place $u$.

    For models whose outputs are maps `(N, K, *P)`: segmentation, depth, heat maps.

    - `score`: what is asked at each place: a class index, one per query, or a score such as `Logit(3)`, `Probability(3)`,
      `Contrastive(3, against=5)`, `Regression(0)` or `Entropy()`.
    - `mask`: a tensor or an array `(*S)` of the whole input's places that are 1 in the region; or a list of them, one per
      query. `Region.in_box` makes it of boxes. It is kept as `Places`.

    The outputs may be coarser or finer than the mask: their places divide the input evenly among them, and $w_u$ is the share
    of the output's place that lies in the region. A search does not mirror the input for it.
    """

    names_places = True

    score: Any
    mask: Any = field(metadata=PER_QUERY)

    def __post_init__(self) -> None:
        if not isinstance(self.score, Score):
            object.__setattr__(self, "score", Logit(as_target(self.score)))
        if not isinstance(self.score, PlaceScore):
            raise ValueError(
                "a Region is of a score that each place of the outputs has, e.g. Region(Logit(3), mask) or Region(3, mask); "
                f"got {self.score!r}"
            )
        several = isinstance(self.mask, list | tuple)
        masks = tuple(map(Places.of, self.mask)) if several else Places.of(self.mask)
        object.__setattr__(self, "mask", masks)
        if len({places.shape for places in self._regions}) != 1:
            raise ValueError("the masks of a Region have one shape, that of the inputs; got several, or none at all")

    @classmethod
    def in_box(cls, score: Any, box: Any, shape: Sequence[int]) -> "Region":
        """The region of a box (left, top, right, bottom) in pixels, or of one per query, for inputs of `shape` (H, W)."""
        boxes = as_boxes(box)
        places = tuple(Places.in_box(one, shape) for one in boxes)
        single = len(places) == 1 and not isinstance(_listed(box)[0], list | tuple)
        return cls(score, places[0] if single else places)

    @property
    def _regions(self) -> tuple[Places, ...]:
        return self.mask if isinstance(self.mask, tuple) else (self.mask,)

    def check(self, queries: int) -> None:
        self.score.check(queries)
        if isinstance(self.mask, tuple) and len(self.mask) != queries:
            raise ValueError(
                f"got {len(self.mask)} masks of a region for {queries} inputs; give a list with one per input, or a tensor "
                "(H, W) for all"
            )

    def resolve(self, outputs: Any) -> "Region":
        return replace(self, score=self.score.resolve(outputs))

    @cached_property
    def _weights(self) -> dict[tuple[int, ...], Float[Tensor, "M 1 *P"]]:
        """The weights of all regions, by the lengths of the outputs' axes, on the processor."""
        return {}

    def weights(self, places: Sequence[int], query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:
        """The share of each place of outputs, whose axes have the lengths `places`, that lies in the queries' regions."""
        places, shape = tuple(places), self._regions[0].shape
        if len(places) != len(shape):
            raise ValueError(
                f"the model's outputs have {len(places)} axes of places and the region {len(shape)}: "
                f"{places} and {shape}; a Region is for outputs that are maps (N, K, …)"
            )
        if places not in self._weights:
            shares = torch.stack([region.mask for region in self._regions])[:, None].double()
            for axis, count in enumerate(places, 2):
                shares = (shares.movedim(axis, -1) @ _overlaps(shape[axis - 2], count).mT).movedim(-1, axis)
            self._weights[places] = shares.float()
        weights = self._weights[places].to(query.device)
        return weights[query] if isinstance(self.mask, tuple) else weights.expand(len(query), *weights.shape[1:])

    def __call__(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        values = self.score.at_places(outputs, query)
        weights = self.weights(values.shape[2:], query)
        return (values * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)


def _overlaps(length: int, count: int) -> Float[Tensor, "count length"]:
    """The share of each of `count` equal parts of an axis that each of its `length` places fills.

    >>> _overlaps(3, 2)
    tensor([[0.6667, 0.3333, 0.0000],
            [0.0000, 0.3333, 0.6667]], dtype=torch.float64)
    """
    borders = torch.arange(count + 1, dtype=torch.float64, device="cpu")[:, None] * length / count
    place = torch.arange(length, dtype=torch.float64, device="cpu")
    shared = torch.minimum(borders[1:], place + 1) - torch.maximum(borders[:-1], place)
    return shared.clamp(min=0) * count / length


def as_boxes(box: Any) -> tuple[tuple[float, ...], ...]:
    """Boxes (left, top, right, bottom) as tuples of numbers, from one box or a sequence or tensor of them.

    >>> as_boxes([0, 1, 2, 3])
    ((0.0, 1.0, 2.0, 3.0),)
    """
    listed = _listed(box)
    rows = listed if listed and isinstance(listed[0], list | tuple) else [listed]
    for row in rows:
        numbers = isinstance(row, list | tuple) and all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in row
        )
        if not numbers or len(row) != 4 or not (row[0] < row[2] and row[1] < row[3]):
            raise ValueError(
                f"a box is left, top, right and bottom with left < right and top < bottom, or one per input; got {row!r}"
            )
    return tuple(tuple(map(float, row)) for row in rows)


def _listed(value: Shaped[Tensor, "..."] | Sequence[Any] | Any) -> list[Any]:
    """Numbers, or rows of them, as lists, also from tensors and arrays."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise ValueError(f"a box is left, top, right and bottom, or one per input; got {value!r}")
    return [item.tolist() if hasattr(item, "tolist") else item for item in value]
