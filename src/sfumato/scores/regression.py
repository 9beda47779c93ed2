"""Scores of networks that estimate numbers: the number itself, or how near it is to a given one."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.scores.of_class import OfClass, Target
from sfumato.scores.score import class_scores
from sfumato.settings import PER_QUERY, check_number


@dataclass(frozen=True)
class Regression(OfClass):
    r"""An output $y$ as it is; or how near it is to a reference $r$: $1 / (1 + ((y - r) / s)^2)$ with the scale $s$.

    The nearness is 1 at the reference, and one half at a distance of `scale`. For networks that estimate an age, an angle, a
    depth `(N, 1, H, W)`, whose outputs are `(N,)` or `(N, K)`.

    - `target`: the index of the output; one, or one per query.
    - `reference`: the value to be near to, in the output's unit: a number, or one per query; None for the output itself. To
      explain why the network says what it says: `Regression(0, reference=net(inputs)[:, 0], scale=5.0)`.
    - `scale`: the distance in the output's unit that matters.
    """

    target: Target = field(default=0, metadata=PER_QUERY)
    reference: Any = field(default=None, metadata=PER_QUERY)
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        reference = self.reference
        if isinstance(reference, Tensor) or hasattr(reference, "tolist"):
            reference = reference.tolist()
        for value in reference if isinstance(reference, list | tuple) else [] if reference is None else [reference]:
            check_number("reference", value, "a number in the output's unit, or one per input")
        object.__setattr__(self, "reference", tuple(reference) if isinstance(reference, list) else reference)
        check_number("scale", self.scale, "a distance in the output's unit", above=0)

    def check(self, queries: int) -> None:
        super().check(queries)
        if isinstance(self.reference, tuple) and len(self.reference) != queries:
            raise ValueError(f"got {len(self.reference)} references for {queries} inputs; give one per input")

    def at_places(self, outputs: Any, query: Int[Tensor, " N"]) -> Float[Tensor, "N 1 *P"]:
        if isinstance(outputs, Tensor) and outputs.ndim == 1:
            outputs = outputs[:, None]
        values = class_scores(outputs, len(query))
        values = values.gather(1, self.column(values, query))
        if self.reference is None:
            return values
        wanted = torch.tensor(self.reference, dtype=values.dtype, device=values.device)
        wanted = wanted[query].view(-1, *[1] * (values.ndim - 1)) if wanted.ndim else wanted
        return 1 / (1 + ((values - wanted) / self.scale).square())
