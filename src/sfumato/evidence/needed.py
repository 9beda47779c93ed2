"""Every part of the set is needed: taken away alone, each costs something.

A set is 1-minimal if no single part of it can be taken away: A. Zeller, R. Hildebrandt: *Simplifying and isolating
failure-inducing input*, IEEE Transactions on Software Engineering 2002.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from sfumato.evidence.claim import NOTHING, Claim, Finding
from sfumato.evidence.tested import Tested
from sfumato.evidence.worth import ROUNDING
from sfumato.masks.parts import MOST, label_parts
from sfumato.masks.regions import Cells, Regions, default_counts
from sfumato.settings import check_number, percent

CELLS = {1: 98, 2: 14, 3: 8}
"""Cells along each axis, by the number of axes: 16 places wide in pictures of 224."""


@dataclass(frozen=True)
class MostlyNeeded(Claim):
    """The cells of the set that can be given up take less than the share `idle` of its area.

    - `loss`: a cell can be given up if the rest is still worth as much as the set, to within this share of the score. What the
      set is worth above the whole input does not count.
    - `regions`: how the input is divided into cells, by default a grid of 14 by 14 for pictures.

    The cells that cost least, each alone, are given up together: 1, 2, 4 and so on, as many of these as the loss allows. When
    no more can go in this order, the cells that stay are tried alone again, until no cell can be given up alone, nor the cells
    of a connected part together. What remains is `sets["needed"]`.
    """

    loss: float = 0.02
    idle: float = 0.5
    regions: Regions | None = None

    def __post_init__(self) -> None:
        check_number("loss", self.loss, "a share of the score", least=0, below=1)
        check_number("idle", self.idle, "a share of the set's area", above=0, most=1)

    def test(self, tested: Tested) -> Finding:
        """Take cells away until each one that is left is needed."""
        cells = self._cells(tested)
        worth = float(tested.worth(tested.places[None])[0])
        if math.isnan(worth):
            return Finding("Mostly needed", None, NOTHING, {"worth": worth})
        least = min(worth, 1.0) - self.loss
        if least <= ROUNDING:
            sentence = f"The set is worth {percent(round(worth, 2))}, so that none of its cells is needed."
            return Finding("Mostly needed", False, sentence, {"worth": worth, "needed_area": 0.0, "needed_share": 0.0})
        stays, dearest = list(range(len(cells))), worth
        while len(stays) > 1:
            alone = self._worths(tested, cells, [[other for other in stays if other != cell] for cell in stays])
            cheapest = sorted(range(len(stays)), key=lambda place: -alone[place])
            left = self._without_the_first(tested, cells, [stays[place] for place in cheapest], least)
            if len(left) < len(stays):
                stays = left
                continue
            dearest = worth - max(alone)
            without_part = self._without_a_part(tested, cells, stays, least)
            if without_part is None:
                break
            stays, dearest = without_part, worth
        needed = self._union(cells, stays)
        share = float(needed.sum() / tested.places.sum())
        numbers = {
            "needed_area": float(needed.float().mean()),
            "needed_share": share,
            "cells": float(len(cells)),
            "needed_cells": float(len(stays)),
            "cheapest_cell": dearest,
            "worth_needed": float(tested.worth(needed[None])[0]),
        }
        is_one = len(stays) == 1
        hidden = "given up" if tested.game.keep and tested.game.drop else "hidden" if tested.game.keep else "shown"
        sentence = (
            f"{len(stays)} of its {len(cells)} cells {'is' if is_one else 'are'} needed, {percent(numbers['needed_area'])} of "
            f"the picture: all others can be {hidden} for at most {percent(self.loss)} of the score, but no further cell. "
            f"Alone {'it is' if is_one else 'they are'} worth {percent(round(numbers['worth_needed'], 2))}."
        )
        return Finding("Mostly needed", share > 1 - self.idle, sentence, numbers, {"needed": needed})

    def _cells(self, tested: Tested) -> Bool[Tensor, " n *S"]:
        """The set's part in each region that it touches."""
        shape = tested.places.shape
        regions = self.regions or Cells(default_counts(shape, CELLS))
        labels = regions(tested.inputs)[0]
        return torch.stack([(labels == label) & tested.places for label in labels[tested.places].unique().tolist()])

    def _without_the_first(
        self, tested: Tested, cells: Bool[Tensor, " n *S"], ordered: list[int], least: float
    ) -> list[int]:
        """The cells that stay where those at the front are given up, again and again, until not even the first can go."""
        while len(ordered) > 1:
            lists = [ordered[2**power :] for power in range((len(ordered) - 1).bit_length())]
            values = self._worths(tested, cells, lists)
            good = [some for some, value in zip(lists, values, strict=True) if value >= least]
            if not good:
                break
            ordered = good[-1]
        return ordered

    def _without_a_part(
        self, tested: Tested, cells: Bool[Tensor, " n *S"], stays: list[int], least: float
    ) -> list[int] | None:
        """The cells that stay where the connected part that costs least is given up; `None` where each part is needed."""
        union = self._union(cells, stays)
        if union.numel() > MOST:
            return None
        labels = label_parts(union[None, None])[0, 0]
        lists = []
        for part in range(1, int(labels.max()) + 1):
            others = [cell for cell in stays if (labels[cells[cell]] != part).any()]
            lists += [others] if others and len(others) < len(stays) - 1 else []  # single cells have been tried
        if not lists:
            return None
        values = self._worths(tested, cells, lists)
        best = max(range(len(lists)), key=lambda place: values[place])
        return lists[best] if values[best] >= least else None

    def _worths(self, tested: Tested, cells: Bool[Tensor, " n *S"], lists: list[list[int]]) -> list[float]:
        """What the cells of each list are worth together."""
        return tested.worth(torch.stack([self._union(cells, some) for some in lists])).tolist()

    @staticmethod
    def _union(cells: Bool[Tensor, " n *S"], some: list[int]) -> Bool[Tensor, "*S"]:
        return cells[some].any(0) if some else torch.zeros_like(cells[0])
