"""The network still answers the same class where only the set is shown, and how probable that answer is."""

from dataclasses import dataclass

import torch

from sfumato.evidence.answers import shown_logits
from sfumato.evidence.calibration import Calibration
from sfumato.evidence.claim import Claim, Finding
from sfumato.evidence.tested import Tested


@dataclass(frozen=True)
class SameAnswer(Claim):
    """The most probable class of the whole picture is so for the set alone, on average over the search's perturbations.

    With a `calibration` the probabilities are calibrated for the set's area; it must know these perturbations.
    """

    calibration: Calibration | None = None

    def test(self, tested: Tested) -> Finding:
        """Show the set, and the whole picture."""
        hides = tested.perturbations
        shown = torch.stack([tested.places, torch.ones_like(tested.places)])
        query = torch.zeros(2, dtype=torch.long, device=shown.device)
        try:
            logits = shown_logits(tested.subject, hides, shown, query).double()
        except ValueError as error:
            return Finding("Same answer", None, f"The network names no class: {error}.")
        tested.passes += 2 * len(hides)
        temperatures = [
            self.calibration.temperature(tested.area, perturbation) if self.calibration else 1.0
            for perturbation in hides
        ]
        divisor = torch.tensor(temperatures, dtype=torch.float64, device=logits.device)[:, None]
        of_set, of_whole = (logits[:, 0] / divisor).softmax(1).mean(0), logits[:, 1].softmax(1).mean(0)
        answer, expected = int(of_set.argmax()), int(of_whole.argmax())
        numbers = {
            "class": float(answer),
            "class_whole": float(expected),
            "probability": float(of_set[expected]),
            "probability_whole": float(of_whole[expected]),
        }
        kind = "calibrated probability" if self.calibration else "probability"
        sentence = f"For the set alone the network answers {tested.name_of(answer)}"
        if answer == expected:
            sentence += f", as for the whole picture, with the {kind} {numbers['probability']:.2f}."
        else:
            whole = tested.name_of(expected)
            sentence += f", for the whole picture {whole}, whose {kind} is now {numbers['probability']:.2f}."
        return Finding("Same answer", answer == expected, sentence, numbers)
