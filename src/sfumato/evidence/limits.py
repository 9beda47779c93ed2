"""Limits that a comparison of two networks must keep, such as "iou < .6"."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from sfumato.metrics.estimate import Estimate
from sfumato.settings import near

SIGNS = ("<=", ">=", "<", ">")

SIGNED = ("new", "grew")
"""Measures that may be less than 0."""


@dataclass(frozen=True)
class Limit:
    """A condition on the mean of a measure, at which a comparison fails."""

    measure: str
    sign: str
    value: float

    def __post_init__(self) -> None:
        low = -1 if self.measure in SIGNED else 0
        if not low <= self.value <= 1:
            hint = f'; write "{self.measure} {self.sign} {self.value / 100:g}"' if 1 < self.value <= 100 else ""
            raise ValueError(f"{self.measure} lies between {low} and 1; got the limit {self.value:g}{hint}")

    @classmethod
    def parse(cls, text: str, measures: Mapping[str, object]) -> Self:
        """Read "NAME < VALUE", with <, <=, > or >=. Raises `ValueError` for another text or measure.

        >>> Limit.parse("iou < .6", {"iou": 0})
        Limit(measure='iou', sign='<', value=0.6)
        """
        found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*(-?[\d.]+(?:e-?\d+)?)\s*", text)
        if found is None or found[3].count(".") > 1 or not re.search(r"\d", found[3]):
            raise ValueError(
                f'a limit is a measure, one of {", ".join(SIGNS)}, and a number, as in "iou < .6"; got {text!r}'
            )
        if found[1] not in measures:
            names = list(measures)
            raise ValueError(f"no measure {found[1]!r}{near(found[1], names)}; there are {', '.join(names)}")
        return cls(found[1], found[2], float(found[3]))

    def broken_by(self, estimates: Mapping[str, Estimate]) -> bool:
        """Whether the mean meets the condition at which a comparison fails; a mean that is not known does."""
        value = estimates[self.measure].value
        meets = {"<": value < self.value, "<=": value <= self.value, ">": value > self.value, ">=": value >= self.value}
        return meets[self.sign] or value != value  # noqa: PLR0124  # NaN

    def __str__(self) -> str:
        """As it was read."""
        return f"{self.measure} {self.sign} {self.value:g}"
