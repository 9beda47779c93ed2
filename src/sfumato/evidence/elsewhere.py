"""The set holds under perturbations that the search did not use."""

import math
from dataclasses import dataclass

from sfumato.evidence.claim import NOTHING, Claim, Finding
from sfumato.evidence.tested import Tested
from sfumato.evidence.worth import reaches
from sfumato.metrics.transfer import Transfer
from sfumato.perturbations import Blur, Fade, Noise, Perturbation, seeded
from sfumato.settings import check_number, percent


@dataclass(frozen=True)
class HoldsElsewhere(Claim):
    """Under each of the perturbations the set is worth at least the share `keep` of the whole input.

    A set that owes its score to one perturbation, as an artefact of its edges does, fails under others. Where a perturbation
    takes no score away from the whole input, it says nothing; at least one that the search did not use has to say something.
    """

    perturbations: tuple[Perturbation, ...] = (Blur(), Fade(), Noise(std=1.0))
    keep: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "perturbations", tuple(self.perturbations))
        Transfer(self.perturbations)  # checks them
        check_number("keep", self.keep, "a share of the score", above=0, most=1)

    def test(self, tested: Tested) -> Finding:
        """Compare the set with the whole and the hidden input under each perturbation."""
        perturbations = [seeded(perturbation, tested.method.seed) for perturbation in self.perturbations]
        names = Transfer(self.perturbations).names
        worth = {
            name: float(tested.worth(tested.places[None], (perturbation,))[0])
            for name, perturbation in zip(names, perturbations, strict=True)
        }
        known = {name: value for name, value in worth.items() if not math.isnan(value)}
        said = ", ".join(f"{name} {percent(round(value, 2))}" for name, value in known.items())
        if not known:
            return Finding("Holds elsewhere", None, NOTHING, worth)
        bad = [name for name, value in known.items() if not reaches(value, self.keep)]
        others = [
            name
            for name, perturbation in zip(names, perturbations, strict=True)
            if name in known and perturbation not in tested.perturbations
        ]
        begin = "Whatever hides the other places" if len(known) == len(worth) else f"Under {' and '.join(known)}"
        sentence = f"{begin}, the set {'keeps' if tested.game.keep else 'takes away'} its part: {said}."
        if bad:
            sentence = f"The set does not hold under {' and '.join(bad)}: {said}."
        if unknown := [name for name in worth if name not in known]:
            sentence += (
                f" {' and '.join(unknown)} {'takes' if len(unknown) == 1 else 'take'} no score away from the picture."
            )
        return Finding("Holds elsewhere", False if bad else True if others else None, sentence, worth)
