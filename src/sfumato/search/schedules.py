"""Numbers that change during an optimisation, as functions of the step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometric:
    """`start · ratio**step`, with `step` counted from 0."""

    start: float
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.start <= 0 or self.ratio <= 0:
            raise ValueError(f"start and ratio must be positive; got start={self.start}, ratio={self.ratio}")

    def __call__(self, step: int) -> float:
        return self.start * self.ratio**step
