"""The set is the only one: where it is hidden, no other set of its area does as well.

Several sets may suffice, each alone: H. Chockler, D. Kelly, D. Kroening: *Multiple different explanations for image
classifiers*, arXiv 2309.14309.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from sfumato.evidence.claim import NOTHING, Claim, Finding
from sfumato.evidence.tested import Tested
from sfumato.evidence.worth import ROUNDING, reaches
from sfumato.masks.excluding import excluding
from sfumato.metrics.likeness import order
from sfumato.settings import check_number, check_whole, percent


@dataclass(frozen=True)
class OnlyOne(Claim):
    """No set of its area that does not touch this one is worth the share `keep` of the whole input, or as much as this one.

    The search is run again for the same area, and may not take places of the set. It has the steps of all the result's masks,
    as the set comes from a path through all their areas. While it finds a set that does as well, it goes on without both, up
    to `most` other sets. What it does not find may still be there: the sentence says so.
    """

    keep: float = 0.9
    most: int = 1

    def __post_init__(self) -> None:
        check_number("keep", self.keep, "a share of the score", above=0, most=1)
        check_whole("most", self.most)

    def test(self, tested: Tested) -> Finding:
        """Search again without the set."""
        own = float(tested.worth(tested.places[None])[0])
        if math.isnan(own):
            return Finding("The only one", None, NOTHING)
        if own <= ROUNDING:
            return Finding("The only one", None, f"The set itself is worth {percent(round(own, 2))}.")
        taken, others, values = tested.places, {}, []
        for number in range(1, self.most + 1):
            if int((~taken).sum()) < int(tested.places.sum()):  # no room for another
                break
            place = self._search(tested, taken)
            values.append(float(tested.worth(place[None])[0]))
            if not reaches(values[-1], min(self.keep, own)):
                break
            others[f"other {number}"] = place
            taken = taken | place
        if not values:
            return Finding("The only one", None, "The set leaves no room for another of its area.")
        numbers = {"others": float(len(others)), "best_other": max(values)}
        if not others:
            sentence = (
                "A second search, without these places, found no set of this area that does as well: its best is worth "
                f"{percent(round(values[0], 2))}. Another one may be there that it missed."
            )
            return Finding("The only one", True, sentence, numbers)
        more = " at least" if len(others) == self.most else ""
        sets = "set, which shares" if len(others) == 1 else "sets, which share"
        sentence = (
            f"It is not the only one:{more} {len(others)} other {sets} no place with it, "
            f"would do as well ({', '.join(f'{percent(round(value, 2))}' for value in values[: len(others)])})."
        )
        return Finding("The only one", False, sentence, numbers, others)

    def _search(self, tested: Tested, taken: Bool[Tensor, "*S"]) -> Bool[Tensor, "*S"]:
        """The best set of the same area that has none of the places that are taken."""
        steps = tested.method.steps * tested.variants
        with tested.method.prepared(tested.model, tested.inputs, tested.target) as subject:
            search = tested.method.search(subject)
            search = replace(search, parametrisation=excluding(search.parametrisation, taken))
            area = torch.tensor([[tested.area]], dtype=torch.float32, device=tested.places.device)
            masks = search.masks(search.ascend(area, steps=steps).parameters, area)
        tested.passes += 3 * steps
        # Where a mask is smooth, fewer places than its area are above one half.
        ranks = order(masks[0, 0, 0].detach().float().masked_fill(taken, -1).cpu()).to(taken.device)
        return ranks < int(tested.places.sum())
