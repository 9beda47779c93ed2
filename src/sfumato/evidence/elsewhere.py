"""The set holds under perturbations that the search did not use."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sfumato.evidence.claim import NOTHING, Claim, Finding
from sfumato.evidence.tested import Tested
from sfumato.evidence.worth import reaches
from sfumato.metrics.transfer import Transfer
from sfumato.perturbations import Blur, Fade, Noise, Perturbation, Perturbed, seeded, towards
from sfumato.settings import check_number, listed, numbered, percent

NO_TOKENS = "dropped tokens"


@dataclass(frozen=True, eq=False)
class Pasted:
    """Blend with another picture `(1, C, *S)`: what a mask keeps is pasted on it."""

    picture: Float[Tensor, "1 C *S"]

    def __call__(self, x: Float[Tensor, "B C *S"]) -> Perturbed:
        return towards(self.picture.to(x), x)


@dataclass(frozen=True)
class HoldsElsewhere(Claim):
    """Whatever hides the other places, the set is worth at least the share `keep` of the whole input.

    A set that owes its score to one perturbation, as an artefact of its edges does, fails under others. Other places are hidden

    - by each of the `perturbations`;
    - by each of the other pictures that a certificate is given: the set is pasted on them;
    - with `tokens`, by taking their tokens away, where the network is a transformer that can do without them.

    Where one of these takes no score away from the whole input, it says nothing; at least one that the search did not use has
    to say something.
    """

    perturbations: tuple[Perturbation, ...] = (Blur(), Fade(), Noise(std=1.0))
    keep: float = 0.5
    tokens: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "perturbations", tuple(self.perturbations))
        Transfer(self.perturbations)  # checks them
        check_number("keep", self.keep, "a share of the score", above=0, most=1)

    def test(self, tested: Tested) -> Finding:
        """Compare the set with the whole and the hidden input under each perturbation."""
        perturbations = [seeded(perturbation, tested.method.seed) for perturbation in self.perturbations]
        hides = dict(zip(Transfer(self.perturbations).names, perturbations, strict=True))
        pictures = () if tested.backgrounds is None else tested.backgrounds.split(1)
        hides |= dict(zip(numbered(["another picture"] * len(pictures)), map(Pasted, pictures), strict=True))
        worth = {name: float(tested.worth(tested.places[None], (each,))[0]) for name, each in hides.items()}
        if self.tokens and (without := tested.worth_without_tokens()) is not None:
            worth[NO_TOKENS] = without
        known = {name: value for name, value in worth.items() if not math.isnan(value)}
        said = ", ".join(f"{name} {percent(round(value, 2))}" for name, value in known.items())
        if not known:
            return Finding("Holds elsewhere", None, NOTHING, worth)
        bad = [name for name, value in known.items() if not reaches(value, self.keep)]
        others = [name for name in known if hides.get(name) not in tested.perturbations]
        begin = "Whatever hides the other places" if len(known) == len(worth) else f"Under {listed(known)}"
        sentence = f"{begin}, the set {'keeps' if tested.game.keep else 'takes away'} its part: {said}."
        if bad:
            sentence = f"The set does not hold under {listed(bad)}: {said}."
        if unknown := [name for name in worth if name not in known]:
            sentence += f" {listed(unknown)} {'takes' if len(unknown) == 1 else 'take'} no score away from the picture."
        return Finding("Holds elsewhere", False if bad else True if others else None, sentence, worth)
