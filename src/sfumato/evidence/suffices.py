"""The set alone is worth nearly as much as the whole input, under the perturbation of the search."""

import math
from dataclasses import dataclass

import torch

from sfumato.evidence.claim import NOTHING, Claim, Finding
from sfumato.evidence.tested import Tested
from sfumato.evidence.worth import reaches
from sfumato.settings import check_number, percent


@dataclass(frozen=True)
class Suffices(Claim):
    """The set is worth at least the share `keep` of the whole input."""

    keep: float = 0.9

    def __post_init__(self) -> None:
        check_number("keep", self.keep, "a share of the score", above=0, most=1)

    def test(self, tested: Tested) -> Finding:
        """Compare the set with the whole input, and with the hidden one."""
        worth = float(tested.worth(tested.places[None])[0])
        shown = tested.probability(tested.shown)
        whole = tested.probability(torch.ones_like(tested.places))
        hidden = tested.probability(torch.zeros_like(tested.places))
        numbers = {"worth": worth, "probability": shown, "probability_whole": whole, "probability_hidden": hidden}
        name = "Suffices" if tested.game.keep else "Decides"
        if math.isnan(worth):
            return Finding(name, None, NOTHING, numbers)
        sentence = f"{tested.alone} are worth {percent(round(worth, 2))}"
        if not math.isnan(shown):
            compared = f"whole picture {percent(whole)}, hidden picture {percent(hidden)}"
            sentence += f"; the probability is {percent(shown)} ({compared})"
        return Finding(name, reaches(worth, self.keep), sentence + ".", numbers)
