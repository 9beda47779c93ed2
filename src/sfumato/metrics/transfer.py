"""Transfer: how much of the score a mask keeps under perturbations that it was not learnt with."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sfumato.attribution import Attribution
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.part_scores import check_perturbation, check_positive, kept_parts, part_scores
from sfumato.metrics.protocol import Protocol
from sfumato.perturbations import Blur, Fade, Noise, Perturbation, seeded
from sfumato.scores import check_meaning
from sfumato.settings import check_number, numbered


@dataclass(frozen=True)
class Transfer(Protocol):
    r"""$\Phi(m \otimes_p x) / \Phi(x)$, the share of the score that a mask m keeps, for several perturbations p.

    - `perturbations`: the perturbations p.
    - `home`: the perturbation that the masks were learnt with. By default it is read from the result, which may name several.
      There is none for methods that perturb nothing, and for masks of a layer.
    - `area`: for a method without masks, the mask is this share of the places, the highest of the map, or the first of
      the result's `order`.
    - `score`: what a class index means, "probability", "logit", "log-odds" or "sigmoid"; any other target is a score itself.

    A row holds shares of the whole picture's score, as means over the method's masks:

    - `kept NAME`, for every perturbation, by the name of its class, with a number if a name occurs again;
    - `home`, the share under the home perturbation, or the mean over several; NaN if there is none;
    - `elsewhere`, the mean over all other perturbations; NaN if there is no other;
    - `lost`, `home` minus `elsewhere`.

    It also holds `masks`, whether the method made masks. `measure` raises `ValueError` if the score of the whole picture is
    not positive.
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
            raise ValueError(
                f"perturbations must be one or more, for example (Blur(), Fade()); got {self.perturbations!r}"
            )
        for perturbation in self.perturbations:
            check_perturbation("each of perturbations", perturbation)
        if self.home is not None:
            check_perturbation("home", self.home)
        check_number("area", self.area, "the share of the places that is kept", above=0, below=1)
        check_meaning(self.score)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the perturbations, all different.

        >>> Transfer((Blur(5), Fade(), Blur(10))).names
        ('Blur', 'Fade', 'Blur 2')
        """
        return tuple(numbered(getattr(one, "__name__", type(one).__name__) for one in self.perturbations))

    def measure(self, case: Case) -> Row:
        parts, are_masks = kept_parts(case, self.area)
        homes = learnt_with(case.attribution) if self.home is None else (self.home,)
        perturbations = [_home_or_itself(perturbation, homes) for perturbation in self.perturbations]
        with part_scores(case, self.score, "Transfer") as scorer:
            check_positive(scorer.whole_score)

            def share(perturbation: Perturbation) -> float:
                return float(scorer.of_masks(perturbation, parts).mean()) / scorer.whole_score

            shares = [share(perturbation) for perturbation in perturbations]
            home_shares = [
                shares[perturbations.index(home)] if home in perturbations else share(home) for home in homes
            ]
        pairs = zip(shares, perturbations, strict=True)
        home = _mean(home_shares)
        elsewhere = _mean([value for value, perturbation in pairs if perturbation not in homes])
        row: dict[str, Any] = {f"kept {name}": value for name, value in zip(self.names, shares, strict=True)}
        return row | {"home": home, "elsewhere": elsewhere, "lost": home - elsewhere, "masks": are_masks}

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002
        return (
            Measure("kept elsewhere", mean("elsewhere"), percent=True),
            Measure("kept at home", mean("home"), percent=True),
            Measure("lost", mean("lost"), higher_is_better=False, percent=True),
            *(Measure(f"kept under {name}", mean(f"kept {name}"), percent=True) for name in self.names),
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _home_or_itself(perturbation: Perturbation, homes: Sequence[Perturbation]) -> Perturbation:
    """The home perturbation that equals this one, apart from a seed that this one leaves open; else the perturbation itself."""
    return next((home for home in homes if seeded(perturbation, getattr(home, "seed", 0)) == home), perturbation)


def learnt_with(result: Attribution) -> tuple[Perturbation, ...]:
    """The perturbations that hid places of the picture, as the result names them; none if it hid places of a layer.

    Raises `ValueError` for a perturbation of another package, which sfumato cannot build from its name.
    """
    if result.layer:
        return ()  # a perturbation of a layer hides no places of the picture
    try:
        return result.perturbations()
    except ValueError as error:
        raise ValueError(f"{error}, as Transfer(home=…)") from error
