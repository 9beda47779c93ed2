"""Divisions of an input into regions, each of which is shown or hidden as a whole: cells of a grid, or superpixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.settings import Settings, check_number, check_whole, is_whole
from sfumato.space.smoothing import per_axis

CELLS = {1: 49, 2: 7, 3: 4}
"""The default number of cells along each axis, by the number of axes."""


def default_counts(shape: Sequence[int], cells: Mapping[int, int] = CELLS) -> tuple[int, ...]:
    """The number of cells along each axis, at most what `cells` says for as many axes, for inputs of the lengths `shape`.

    >>> default_counts((224, 224)), default_counts((5,)), default_counts((1, 100))
    ((7, 7), (5,), (1, 49))
    """
    most = cells[max(1, sum(length > 1 for length in shape))]
    return tuple(min(most, length) for length in shape)


class Regions(Protocol):
    """A way to divide inputs into regions."""

    def __call__(self, inputs: Float[Tensor, "B C *S"]) -> Int[Tensor, " B *S"]:
        """The number of the region of each place, from 0, for each input by itself."""


@dataclass(frozen=True)
class Cells(Settings):
    """Cells of a grid, as equal in size as the places allow.

    `counts` along each axis: one number for all axes, or one per axis; by default 49 along one axis, 7 along each of two
    and 4 along each of three.
    """

    counts: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.counts, list):
            object.__setattr__(self, "counts", tuple(self.counts))
        for count in self.counts if isinstance(self.counts, tuple) else (self.counts,):
            if count is not None and not is_whole(count, 1):
                raise ValueError(f"counts are whole numbers of cells, one for all axes or one per axis; got {count!r}")

    def on(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The number of cells along each axis, for inputs whose axes of space have the lengths `shape`.

        Raises `ValueError` for an axis with fewer places than cells, unless the number is a default.

        >>> Cells().on((224, 224)), Cells().on((5,)), Cells(3).on((9, 9))
        ((7, 7), (5,), (3, 3))
        """
        if self.counts is None:
            return default_counts(shape)
        counts = tuple(int(count) for count in per_axis(self.counts, len(shape)))
        if any(count > length for count, length in zip(counts, shape, strict=True)):
            raise ValueError(
                f"an input of {' x '.join(map(str, shape))} places has no {' x '.join(map(str, counts))} cells; give fewer"
            )
        return counts

    def __call__(self, inputs: Float[Tensor, "B C *S"]) -> Int[Tensor, " B *S"]:
        """See `Regions`."""
        shape = inputs.shape[2:]
        index = torch.zeros((), dtype=torch.long, device=inputs.device)
        for count, length in zip(self.on(shape), shape, strict=True):
            place = torch.arange(length, dtype=torch.long, device=inputs.device) * count // length
            index = index[..., None] * count + place
        return index.expand(len(inputs), *shape)


@dataclass(frozen=True)
class Superpixels(Settings):
    """Regions of similar colour, by scikit-image's SLIC with the compactness adapted to each region.

    R. Achanta, A. Shaji, K. Smith, A. Lucchi, P. Fua, S. Süsstrunk: *SLIC superpixels compared to state-of-the-art superpixel
    methods*, IEEE Transactions on Pattern Analysis and Machine Intelligence 2012.

    `count` is about how many there are: the picture decides. For inputs of two or three axes of space, with any channels.
    """

    count: int = 49
    compactness: float = 10.0

    def __post_init__(self) -> None:
        check_whole("count", self.count)
        check_number("compactness", self.compactness, "a weight of distance against colour", above=0)

    def __call__(self, inputs: Float[Tensor, "B C *S"]) -> Int[Tensor, " B *S"]:
        """See `Regions`. Raises `ImportError` without scikit-image, and `ValueError` for inputs of one axis."""
        if inputs.ndim < 4:
            raise ValueError(f"Superpixels are for two or three axes of space; got {tuple(inputs.shape)}; take Cells()")
        try:
            from skimage.segmentation import slic
        except ImportError as error:
            raise ImportError(
                'Superpixels need scikit-image: pip install "sfumato[regions]", or take Cells()'
            ) from error
        labels = []
        for x in inputs.detach().float().cpu():
            low, high = x.amin(), x.amax()
            scaled = ((x - low) / (high - low).clamp(min=1e-12)).double().numpy()
            found = slic(
                scaled,
                n_segments=self.count,
                compactness=self.compactness,
                slic_zero=True,
                start_label=0,
                channel_axis=0,
                convert2lab=len(x) == 3,
            )
            labels.append(torch.from_numpy(found).long().unique(return_inverse=True)[1])
        return torch.stack(labels).to(inputs.device)


def check_regions(regions: Any) -> None:
    """Raise `ValueError` unless it can be called with inputs, as a configuration of regions can."""
    if isinstance(regions, type) or not callable(regions):
        raise ValueError(f"regions must be a configuration such as Cells(7); got {regions!r}")


def labels_of(regions: Regions, inputs: Float[Tensor, "B C *S"]) -> Int[Tensor, " B *S"]:
    """The number of the region of each place. Raises `ValueError` if `regions` gives anything else."""
    labels = regions(inputs)
    if labels.shape != (len(inputs), *inputs.shape[2:]) or labels.is_floating_point():
        raise ValueError(
            f"regions must give whole numbers of the shape {(len(inputs), *inputs.shape[2:])}; got {labels.dtype} of "
            f"the shape {tuple(labels.shape)}"
        )
    return labels
