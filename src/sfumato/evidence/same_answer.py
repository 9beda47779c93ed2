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

    In the game that destroys, the claim is that it is no longer so without the set.

    With a `calibration` the probabilities are calibrated for the set's area; it must know these perturbations.
    """

    calibration: Calibration | None = None

    def test(self, tested: Tested) -> Finding:
        """Show the set, or in the game that destroys all but the set, and the whole picture."""
        name = "Same answer" if tested.game.keep else "Other answer"
        hides = tested.perturbations
        shown = torch.stack([tested.shown, torch.ones_like(tested.shown)])
        query = torch.zeros(2, dtype=torch.long, device=shown.device)
        try:
            logits = shown_logits(tested.subject, hides, shown, query, tested.edge).double()
        except ValueError as error:
            return Finding(name, None, f"The network names no class: {error}.")
        tested.passes += 2 * len(hides)
        area = float(tested.shown.float().mean())
        temperatures = [
            self.calibration.temperature(area, perturbation) if self.calibration else 1.0 for perturbation in hides
        ]
        divisor = torch.tensor(temperatures, dtype=torch.float64, device=logits.device)[:, None]
        of_part, of_whole = (logits[:, 0] / divisor).softmax(1).mean(0), logits[:, 1].softmax(1).mean(0)
        answer, expected = int(of_part.argmax()), int(of_whole.argmax())
        numbers = {
            "class": float(answer),
            "class_whole": float(expected),
            "probability": float(of_part[expected]),
            "probability_whole": float(of_whole[expected]),
        }
        kind = "calibrated probability" if self.calibration else "probability"
        part = "For the set alone" if tested.game.keep else "Without the set"
        sentence = f"{part} the network answers {tested.name_of(answer)}"
        if answer == expected:
            sentence += f", as for the whole picture, with the {kind} {numbers['probability']:.2f}."
        else:
            whole = tested.name_of(expected)
            sentence += f", for the whole picture {whole}, whose {kind} is now {numbers['probability']:.2f}."
        return Finding(name, (answer == expected) == bool(tested.game.keep), sentence, numbers)
