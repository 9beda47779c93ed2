r"""Stability: how much a map changes when a little noise is added to the input.

The measures are those of D. Alvarez-Melis & T. Jaakkola: *On the robustness of interpretability methods*, 2018,
arXiv 1806.08049 (the quotient), and C.-K. Yeh et al.: *On the (in)fidelity and sensitivity of explanations*, NeurIPS 2019
(the largest change over a neighbourhood, here estimated from draws).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import spearman
from sfumato.metrics.part_scores import finite
from sfumato.metrics.protocol import Protocol
from sfumato.settings import check_number, check_whole
from sfumato.space.precision import widest_float


@dataclass(frozen=True)
class Stability(Protocol):
    r"""Over draws of Gaussian noise $\epsilon$: the rank correlation of the maps $S(x)$ and $S(x + \epsilon)$, and
    $\lVert S(x + \epsilon) - S(x) \rVert_2 / \lVert S(x) \rVert_2$.

    - `draws`: how many times noise is drawn; the method is called once for each draw. One generator with the case's seed makes
      all draws.
    - `noise`: the standard deviation of the noise, as a fraction of the input's range (largest minus smallest value).

    $S(x)$ is the map of the case. If the method itself is random, the measures include that randomness.

    A row holds `rank_correlation` and `rank_correlation_worst`, the mean and the least Spearman correlation; `change` and
    `change_worst`, the mean and the largest relative change; and `quotient`, the largest $\lVert S(x + \epsilon) - S(x)
    \rVert_2 / \lVert \epsilon \rVert_2$, in units of the map over units of the input. The correlation of a constant map is
    NaN, and the mean leaves it out. The change is NaN if $S(x)$ is zero everywhere.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "method"})

    draws: int = 10
    noise: float = 0.05

    def __post_init__(self) -> None:
        check_whole("draws", self.draws)
        check_number("noise", self.noise, "a fraction of the input's range", above=0)

    def measure(self, case: Case) -> Row:
        method, model, inputs, target = (
            case.need(name, "Stability") for name in ("method", "model", "inputs", "target")
        )
        before = finite(case.map).to(widest_float(case.map.device))
        deviation = self.noise * float(inputs.max() - inputs.min())
        if not deviation > 0:
            raise ValueError(
                "the noise of Stability is a fraction of the input's range; got a constant input, which has none"
            )
        generator = torch.Generator("cpu").manual_seed(case.seed)
        correlations, changes, quotients = [], [], []
        for _ in range(self.draws):
            noise = deviation * torch.randn(inputs.shape, generator=generator, dtype=torch.float32, device="cpu")
            noisy = inputs + noise.to(inputs)
            after = finite(Case(method(model, noisy, target), inputs=noisy).map).to(before)
            change = float((after - before).norm())
            correlations.append(spearman(before, after))
            changes.append(change)
            quotients.append(change / float((noisy - inputs).to(widest_float(inputs.device)).norm()))
        values = torch.tensor(correlations, dtype=torch.float64, device="cpu")
        numbers = values[~values.isnan()]
        size = float(before.norm())
        return {
            "rank_correlation": float(numbers.mean()),
            "rank_correlation_worst": float(numbers.min()) if len(numbers) else float("nan"),
            "change": sum(changes) / len(changes) / size if size else float("nan"),
            "change_worst": max(changes) / size if size else float("nan"),
            "quotient": max(quotients),
        }

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002
        return (
            Measure("rank correlation", mean("rank_correlation")),
            Measure("worst rank correlation", mean("rank_correlation_worst")),
            Measure("change", mean("change"), higher_is_better=False),
            Measure("largest change", mean("change_worst"), higher_is_better=False),
        )
