"""The network still answers the same class where only the set is shown, and how probable that answer is."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.evidence.answers import of_two, shown_logits
from sfumato.evidence.calibration import Calibration
from sfumato.evidence.claim import Claim, Finding
from sfumato.evidence.measured import same_network
from sfumato.evidence.tested import Tested
from sfumato.evidence.worth import area_of
from sfumato.scores import SIGMOID
from sfumato.settings import percent

EQUAL = 1e-6
"""Probabilities that differ by less are the same."""


@dataclass(frozen=True)
class SameAnswer(Claim):
    """The most probable class of the whole picture is so for the set alone, on average over the search's perturbations.

    In the game that destroys, the claim is that it is no longer so without the set. A class that shares its probability with
    another is not the most probable one. Where the score is a class's own sigmoid, so are the probabilities.

    With a `calibration` the probabilities are calibrated for the set's area; it must know these perturbations, and be of this
    network.
    """

    calibration: Calibration | None = None

    def test(self, tested: Tested) -> Finding:
        """Show the set, or in the game that destroys all but the set, and the whole picture."""
        name = "Same answer" if tested.game.keep else "Other answer"
        hides = tested.perturbations
        shown = torch.stack([tested.shown, torch.ones_like(tested.shown)])
        query = torch.zeros(2, dtype=torch.long, device=shown.device)
        try:
            outputs = shown_logits(tested.subject, tested.ready(), shown, query, tested.edge).cpu().double()
        except ValueError as error:
            return Finding(name, None, f"The network names no class: {error}.")
        several = tested.link == SIGMOID and outputs.shape[2] > 1
        if self.calibration and (wrong := self._unfit(self.calibration, tested, several)):
            return Finding(name, None, wrong)
        logits = of_two(outputs)
        tested.passes += 2 * len(hides)
        area = area_of(tested.shown)
        temperatures = [
            self.calibration.temperature(area, perturbation) if self.calibration else 1.0 for perturbation in hides
        ]
        logits = logits / torch.tensor(
            [[[temperature], [1.0]] for temperature in temperatures], dtype=torch.float64, device=logits.device
        )
        # Sigmoids of sure labels are all 1, so labels are ordered by their logits.
        order = logits.mean(0) if several else logits.softmax(2).mean(0)
        of_part, of_whole = (logits.sigmoid() if several else logits.softmax(2)).mean(0)
        answer, expected = order.argmax(1).tolist()
        numbers = {
            "class": float(answer),
            "class_whole": float(expected),
            "probability": float(of_part[expected]),
            "probability_whole": float(of_whole[expected]),
        }
        kind = "calibrated probability" if self.calibration else "probability"
        if len(first := _leading(order[1])) > 1:
            between = " and ".join(map(tested.name_of, first[:2]))
            return Finding(name, None, f"For the whole picture the network is undecided between {between}.", numbers)
        part = "For the set alone" if tested.game.keep else "Without the set"
        if len(first := _leading(order[0])) > 1 and expected in first:
            between = " and ".join(map(tested.name_of, first[:2]))
            sentence = (
                f"{part} the network is undecided between {between}: the {kind} is {percent(numbers['probability'])}."
            )
            return Finding(name, False if tested.game.keep else None, sentence, numbers)
        sentence = f"{part} the network answers {tested.name_of(answer)}"
        if answer == expected:
            sentence += f", as for the whole picture, with the {kind} {percent(numbers['probability'])}."
        else:
            whole = tested.name_of(expected)
            sentence += f", for the whole picture {whole}, whose {kind} is now {percent(numbers['probability'])}."
        return Finding(name, (answer == expected) == bool(tested.game.keep), sentence, numbers)

    @staticmethod
    def _unfit(calibration: Calibration, tested: Tested, several: bool) -> str:
        """Why a calibration does not go with what is tested, in a sentence; empty if it does."""
        if several:
            return "The calibration is for networks that answer one of several classes, not yes or no to each."
        if not same_network(calibration.weights, tested.model):
            return f"The calibration is of another network{f', {calibration.model}' if calibration.model else ''}."
        return ""


def _leading(values: Float[Tensor, " K"]) -> list[int]:
    """The classes that have the most: several where they are equal."""
    most = float(values.max())
    return [index for index, value in enumerate(values.tolist()) if value >= most - EQUAL * max(1.0, abs(most))]
