r"""Agreement: how alike the explanations of two networks are, such as one in float32 and the same in int8."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import overlap, spearman, ssim_of_maps
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.question import finite
from sfumato.settings import check_number


@dataclass(frozen=True)
class Agreement(Protocol):
    r"""The map of the case's network beside those of others, for the same input and target: Spearman's rank correlation,
    structural similarity (each map stretched to [0, 1]), and intersection over union of the highest places.

    - `share`: how many places count as the highest, as a fraction of all.

    The method is called once for each other network. A row holds `rank_correlation NAME`, `ssim NAME` and `overlap NAME` for
    each of them. The correlation is NaN where a map is constant.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "method", "others"})

    share: float = 0.1

    def __post_init__(self) -> None:
        check_number("share", self.share, "a fraction of the map's places", above=0, below=1)

    def measure(self, case: Case) -> Row:
        method, inputs, target = (case.need(name, "Agreement") for name in ("method", "inputs", "target"))
        if not case.others:
            raise ValueError("Agreement needs others, networks to compare with; got none")
        mine = finite(case.map)
        row: dict[str, Any] = {}
        for name, model in case.others.items():
            theirs = finite(Case(method(model, inputs, target), inputs=inputs).map)
            row |= {
                f"rank_correlation {name}": spearman(mine, theirs),
                f"ssim {name}": ssim_of_maps(mine, theirs),
                f"overlap {name}": overlap(mine, theirs, self.share),
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
