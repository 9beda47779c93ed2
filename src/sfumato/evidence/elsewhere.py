"""The set holds under perturbations that the search did not use."""

import math
from dataclasses import dataclass

from sfumato.evidence.claim import Claim, Finding
from sfumato.evidence.tested import Tested
from sfumato.metrics.transfer import Transfer
from sfumato.perturbations import Blur, Fade, Noise, Perturbation, seeded
from sfumato.settings import check_number


@dataclass(frozen=True)
class HoldsElsewhere(Claim):
    """Under each of the perturbations the set is worth at least the share `keep` of the whole input.

    A set that owes its score to one perturbation, as an artefact of its edges does, fails under others.
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
        worth = {
            name: float(tested.worth(tested.places[None], (perturbation,))[0])
            for name, perturbation in zip(Transfer(self.perturbations).names, perturbations, strict=True)
        }
        known = {name: value for name, value in worth.items() if not math.isnan(value)}
        said = ", ".join(f"{name} {value:.0%}" for name, value in known.items())
        if not known:
            return Finding(
                "Holds elsewhere", None, "Under no perturbation does hiding the picture change its score.", worth
            )
        good = all(value >= self.keep for value in known.values())
        sentence = f"Whatever hides the other places, the set {'keeps' if tested.game.keep else 'takes away'} its part: {said}."
        if not good:
            bad = [name for name, value in known.items() if value < self.keep]
            sentence = f"The set does not hold under {' and '.join(bad)}: {said}."
        return Finding("Holds elsewhere", good, sentence, worth)
