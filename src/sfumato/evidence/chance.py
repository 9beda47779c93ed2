r"""The set is better than random sets of its area, and than the sets of simpler maps.

The p-value is $(1 + k) / (1 + n)$ where k of n random sets are worth as much: B. Phipson, G. Smyth: *Permutation p-values
should never be zero*, Statistical Applications in Genetics and Molecular Biology 2010.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from sfumato.evidence.claim import NOTHING, Claim, Finding
from sfumato.evidence.random_sets import cut, random_fields
from sfumato.evidence.tested import Tested
from sfumato.evidence.worth import reaches
from sfumato.masks.level_set import LevelSet
from sfumato.methods.centre import Centre
from sfumato.methods.method import Method
from sfumato.metrics.likeness import order
from sfumato.settings import check_number, check_seed, check_whole, listed, numbered, percent


@dataclass(frozen=True)
class BetterThanChance(Claim):
    """At most the share `level` of random sets with equally smooth outlines is worth as much, and no set of a rival is.

    - `count`: how many random sets are drawn. The p-value is 1 / (1 + `count`) at least, so that a `level` needs so many.
    - `rivals`: methods; of each the highest places of its map, of the same area, are a set to compare with, for example
      `(Centre(), GradCAM(layer="layer4"))`.
    """

    count: int = 99
    level: float = 0.05
    rivals: tuple[Method, ...] = (Centre(),)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rivals", tuple(self.rivals))
        check_whole("count", self.count)
        check_number("level", self.level, "a share of random sets", above=0, below=1)
        check_seed(self.seed)
        least = math.ceil(1 / self.level - 1e-9) - 1
        if self.count < least:
            raise ValueError(
                f"count must be {least} sets or more, as fewer cannot have a p-value of {self.level:g}; got {self.count}"
            )

    def test(self, tested: Tested) -> Finding:
        """Draw the sets, and ask the network about each."""
        worth = float(tested.worth(tested.places[None])[0])
        if math.isnan(worth):
            return Finding("Better than chance", None, NOTHING, {"worth": worth})
        values = tested.worth(random_sets(tested, self.count, self.seed))
        as_good = sum(reaches(value, worth) for value in values.tolist())
        p_value = (1 + as_good) / (1 + self.count)
        numbers = {"p_value": p_value, "sets": self.count, "random_mean": float(values.mean())}
        numbers["random_best"] = float(values.max())
        sets, better = {}, []
        for name, rival in zip(numbered([type(rival).__name__ for rival in self.rivals]), self.rivals, strict=True):
            saliency = rival(tested.model, tested.inputs, tested.target).map[0, 0]
            sets[name] = (order(saliency.detach().float().cpu()) < int(tested.places.sum())).to(tested.places.device)
            numbers[name] = float(tested.worth(sets[name][None])[0])
            better += [name] if reaches(numbers[name], worth) else []
        sentence = (
            f"Of {self.count} random sets of the same area {as_good or 'none'} {'does' if as_good < 2 else 'do'} as well "
            f"(p {'≤' if not as_good else '='} {p_value:.2g}); their mean is {percent(round(numbers['random_mean'], 2))}."
        )
        if sets:
            sentence += (
                " Simpler sets: " + ", ".join(f"{name} {percent(round(numbers[name], 2))}" for name in sets) + "."
            )
        if better:
            sentence = f"{listed(better)} {'does' if len(better) == 1 else 'do'} as well as the set. {sentence}"
        return Finding("Better than chance", p_value <= self.level and not better, sentence, numbers, sets)


def random_sets(tested: Tested, count: int, seed: int) -> Bool[Tensor, " {count} *S"]:
    """Sets of the tested area whose outlines are level lines of random smooth fields."""
    family = tested.method.mask if isinstance(tested.method.mask, LevelSet) else LevelSet()
    sets = family.on(tuple(tested.places.shape), tested.places.device)
    generator = torch.Generator("cpu").manual_seed(seed)
    areas = torch.full((count,), tested.area, dtype=torch.float32, device=tested.places.device)
    return cut(sets, random_fields(sets, count, generator), areas)
