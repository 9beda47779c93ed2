"""Agreement: how similar the explanations of two networks are, for example of one network in float32 and in int8."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import overlap, spearman, ssim_of_maps
from sfumato.metrics.part_scores import finite
from sfumato.metrics.protocol import Protocol
from sfumato.settings import check_number


@dataclass(frozen=True)
class Agreement(Protocol):
    """Compares the map of the case's network with the maps of other networks, for the same input and target.

    It computes Spearman's rank correlation, the structural similarity (of maps stretched to [0, 1]) and the intersection over
    union of the highest places.

    - `share`: how many places count as the highest, as a fraction of all places.

    The method is called once for each other network. A row holds `rank_correlation NAME`, `ssim NAME` and `overlap NAME` for
    each of them. The correlation is NaN if a map is constant.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "method", "others"})

    share: float = 0.1

    def __post_init__(self) -> None:
        check_number("share", self.share, "a fraction of the map's places", above=0, below=1)

    def measure(self, case: Case) -> Row:
        method, inputs, target = (case.need(name, "Agreement") for name in ("method", "inputs", "target"))
        if not case.others:
            raise ValueError(
                "Agreement needs other networks to compare with; got none. Give Case(others={name: network})"
            )
        saliency = finite(case.map)
        row: dict[str, Any] = {}
        for name, model in case.others.items():
            other_saliency = finite(Case(method(model, inputs, target), inputs=inputs).map)
            row |= {
                f"rank_correlation {name}": spearman(saliency, other_saliency),
                f"ssim {name}": ssim_of_maps(saliency, other_saliency),
                f"overlap {name}": overlap(saliency, other_saliency, self.share),
            }
        return row

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:
        names = dict.fromkeys(key.removeprefix("overlap ") for row in rows for key in row if key.startswith("overlap "))
        return tuple(
            measure
            for name in names
            for measure in (
                Measure(f"rank correlation with {name}", mean(f"rank_correlation {name}")),
                Measure(f"SSIM with {name}", mean(f"ssim {name}")),
                Measure(f"overlap with {name}", mean(f"overlap {name}"), percent=True),
            )
        )
