r"""Transfer: how much of the score a mask keeps under another perturbation than the one it was learnt with."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sfumato.attribution import Attribution
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.likeness import order
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.question import check_perturbation, check_positive, finite, masks_of_places, questioned
from sfumato.perturbations import Blur, Fade, Noise, Perturbation, seeded
from sfumato.scores import check_meaning
from sfumato.settings import check_number


@dataclass(frozen=True)
class Transfer(Protocol):
    r"""$\Phi(m \otimes_p x) / \Phi(x)$ for perturbations p, of a mask that was learnt with one of them or another.

    - `perturbations`: those that are tried.
    - `home`: the one that the masks were learnt with; by default what the result says of itself, of several their mean. A map
      of a method that perturbs nothing has none, nor have masks of a layer.
    - `area`: of a method without masks, the highest share of the map's places is the mask.
    - `score`: "probability", "logit", "log-odds" or "sigmoid" of a class index; any other target is a score itself.

    A row holds, each as a mean over the method's masks and a fraction of the whole picture's score: `kept NAME` for every
    perturbation, by the name of its class, numbered where it comes again; `home`, what is kept under the one at home;
    `elsewhere`, the mean over the perturbations that are not; and `lost`, the one less the other. `home` and `lost` are NaN
    where there is none at home, `elsewhere` and `lost` where there is no other. `masks`: whether the method had masks.
    Raises `ValueError` where the whole picture's score is not positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    perturbations: tuple[Perturbation, ...] = (Blur(), Fade(), Noise(std=1.0))
    home: Perturbation | None = None
    area: float = 0.1
    score: str = "probability"

    def __post_init__(self) -> None:
        if isinstance(self.perturbations, Iterable):
            object.__setattr__(self, "perturbations", tuple(self.perturbations))
        if not isinstance(self.perturbations, tuple) or not self.perturbations:
            raise ValueError(f"perturbations must be one or more, such as (Blur(), Fade()); got {self.perturbations!r}")
        for perturbation in self.perturbations:
            check_perturbation("each of perturbations", perturbation)
        if self.home is not None:
            check_perturbation("home", self.home)
        check_number("area", self.area, "the share of the map's places that is kept", above=0, below=1)
        check_meaning(self.score)

    @property
    def names(self) -> tuple[str, ...]:
        """The perturbations' names, each of them another.

        >>> Transfer((Blur(5), Fade(), Blur(10))).names
        ('Blur', 'Fade', 'Blur 2')
        """
        seen: Counter[str] = Counter()
        names = []
        for perturbation in self.perturbations:
            name = getattr(perturbation, "__name__", type(perturbation).__name__)
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
        return tuple(names)

    def measure(self, case: Case) -> Row:
        masks = masks_of_places(case)
        parts = masks
        if parts is None:
            importance = order(finite(case.map))
            parts = (importance < max(1, round(self.area * importance.numel())))[None, None].float()
        homes = learnt_with(case.attribution) if self.home is None else (self.home,)
        tried = [_at_home(perturbation, homes) for perturbation in self.perturbations]
        with questioned(case, self.score, "Transfer") as question:
            check_positive(question.whole)
            kept = [float(question.of_masks(perturbation, parts).mean()) / question.whole for perturbation in tried]
            here = [
                kept[tried.index(home)]
                if home in tried
                else float(question.of_masks(home, parts).mean()) / question.whole
                for home in homes
            ]
        at_home = sum(here) / len(here) if here else math.nan
        others = [value for value, perturbation in zip(kept, tried, strict=True) if perturbation not in homes]
        elsewhere = sum(others) / len(others) if others else math.nan
        row: dict[str, Any] = {f"kept {name}": value for name, value in zip(self.names, kept, strict=True)}
        return row | {"home": at_home, "elsewhere": elsewhere, "lost": at_home - elsewhere, "masks": masks is not None}

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002
        return (
            Measure("kept elsewhere", mean("elsewhere"), percent=True),
            Measure("kept at home", mean("home"), percent=True),
            Measure("lost", mean("lost"), higher_is_better=False, percent=True),
            *(Measure(f"kept under {name}", mean(f"kept {name}"), percent=True) for name in self.names),
        )


def _at_home(perturbation: Perturbation, homes: Sequence[Perturbation]) -> Perturbation:
    """The one at home that differs from it in nothing but a seed that it leaves open; else itself."""
    return next((home for home in homes if seeded(perturbation, getattr(home, "seed", 0)) == home), perturbation)


def learnt_with(result: Attribution) -> tuple[Perturbation, ...]:
    """What hid places of the picture, as the result says itself; nothing where it says nothing, or hid places of a layer.

    Raises `ValueError` for a perturbation of another package, which cannot be built from its name.
    """
    if result.layer:
        return ()  # what hides places of a layer hides none of the picture
    try:
        return result.perturbations()
    except ValueError as error:
        raise ValueError(f"{error}, as Transfer(home=…)") from error
