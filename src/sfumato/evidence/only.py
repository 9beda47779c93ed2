"""The set is the only one: where it is hidden, no other set of its area does as well.

Several sets may suffice, each alone: H. Chockler, D. Kelly, D. Kroening: *Multiple different explanations for image
classifiers*, arXiv 2309.14309.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.evidence.claim import Claim, Finding
from sfumato.evidence.tested import Tested
from sfumato.settings import check_number, check_whole


@dataclass(frozen=True)
class OnlyOne(Claim):
    """No set that does not touch this one is worth the share `keep` of the whole input.

    The set is hidden in the picture, and the search is run again on what is left, for the same area: places of the set show
    nothing there. While another set suffices, both are hidden and the search goes on, up to `most` other sets.
    """

    keep: float = 0.9
    most: int = 1

    def __post_init__(self) -> None:
        check_number("keep", self.keep, "a share of the score", above=0, most=1)
        check_whole("most", self.most)

    def test(self, tested: Tested) -> Finding:
        """Search again without the set."""
        taken, others, values = tested.places, {}, []
        for number in range(1, self.most + 1):
            place = self._search(tested, taken)
            values.append(float(tested.worth(place[None])[0]))
            if not values[-1] >= self.keep:
                break
            others[f"other {number}"] = place
            taken = taken | place
        numbers = {"others": float(len(others)), "best_other": max(values)}
        if not others:
            sentence = (
                f"Without these places no set of this area does as well: the best found is worth {values[0]:.0%}."
            )
            return Finding("The only one", True, sentence, numbers)
        more = " at least" if len(others) == self.most else ""
        sentence = (
            f"It is not the only one:{more} {len(others)} other set{'s' * (len(others) > 1)}, which share no place with it, "
            f"would do ({', '.join(f'{value:.0%}' for value in values[: len(others)])} of the score)."
        )
        return Finding("The only one", False, sentence, numbers, others)

    def _search(self, tested: Tested, taken: Bool[Tensor, "*S"]) -> Bool[Tensor, "*S"]:
        """The best set in the picture in which some places are hidden, without these places."""
        with tested.method.prepared(tested.model, _hidden(tested, taken), tested.target) as subject:
            search = tested.method.search(subject)
            area = torch.tensor([[tested.area]], dtype=torch.float32, device=tested.places.device)
            masks = search.masks(search.ascend(area).parameters, area)
        tested.passes += 3 * tested.method.steps
        return (masks[0, 0, 0] > 0.5) & ~taken


def _hidden(tested: Tested, places: Bool[Tensor, "*S"]) -> Float[Tensor, "1 C *S"]:
    """The input with some places hidden, by the first of the search's perturbations."""
    with tested.subject.surroundings.computing(), torch.no_grad():
        perturbed = tested.perturbations[0](tested.inputs)
        mask = (~places)[None, None].to(tested.inputs.dtype)
        return perturbed(mask, torch.zeros(1, dtype=torch.long, device=mask.device))
