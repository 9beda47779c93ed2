"""What a network sees of pictures: their values less a mean, over a deviation, channel by channel."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sfumato.settings import check_number

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalisation:
    """What a network sees of pictures in [0, 1]: their values less `mean`, over `std`, with one number per channel each.

    Without both (None), what it sees are the pictures themselves, of any value.
    """

    mean: tuple[float, ...] | None = IMAGENET_MEAN
    std: tuple[float, ...] | None = IMAGENET_STD

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"give both mean and std, or None for both; got mean={self.mean}, std={self.std}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if isinstance(values, list):
                object.__setattr__(self, name, values := tuple(values))
            if values is not None and not isinstance(values, tuple):
                raise ValueError(f"{name} is a tuple with one number per channel, or None; got {values!r}")
            for value in values or ():
                check_number(f"each {name}", value, "a number", above=0 if name == "std" else None)

    def check(self, channels: int) -> None:
        """Raise `ValueError` unless there is one number per channel."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                raise ValueError(
                    f"{name} has {len(values)} values for pictures with {channels} channels; give one per channel, or "
                    "None for both mean and std to find inputs that are no pictures"
                )

    @property
    def bounded(self) -> bool:
        """Whether there are bounds, 0 and 1."""
        return self.mean is not None

    def seen(self, pictures: Float[Tensor, "*P"], axes: int | None = None) -> Float[Tensor, "*P"]:
        """What the network sees of pictures `(…, C, *S)` with so many axes of space; by default `(N, C, *S)`."""
        if self.mean is None or self.std is None:
            return pictures
        return (pictures - per_channel(self.mean, pictures, axes)) / per_channel(self.std, pictures, axes)

    def pictures(self, seen: Float[Tensor, "*P"], axes: int | None = None) -> Float[Tensor, "*P"]:
        """The pictures of which the network sees `(…, C, *S)` with so many axes of space; by default `(N, C, *S)`."""
        if self.mean is None or self.std is None:
            return seen
        return seen * per_channel(self.std, seen, axes) + per_channel(self.mean, seen, axes)

    def within(self, pictures: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """The pictures, with values beyond the bounds put to them."""
        return pictures.clamp(0, 1) if self.bounded else pictures


def per_channel(
    values: Sequence[float], like: Float[Tensor, "..."], axes: int | None = None
) -> Float[Tensor, " C *ones"]:
    """One number for each channel as `(C, 1, …)`, for tensors `(…, C, *S)` with so many axes of space; by default `(N, C, *S)`.

    >>> import torch
    >>> per_channel((1, 2, 3), torch.zeros(8, 3, 5, 5)).shape, per_channel((1, 2, 3), torch.zeros(3, 5, 5), axes=2).shape
    (torch.Size([3, 1, 1]), torch.Size([3, 1, 1]))
    """
    return like.new_tensor(values).view(-1, *[1] * (like.ndim - 2 if axes is None else axes))
