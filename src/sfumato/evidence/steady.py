"""The set stays good where the picture moves a little, and the search finds it again."""

import itertools
import math
from dataclasses import dataclass

from sfumato.evidence.claim import Claim, Finding
from sfumato.evidence.tested import Tested
from sfumato.evidence.worth import reaches
from sfumato.model.subject import Subject
from sfumato.settings import check_number, percent
from sfumato.space.jitter import Jitter, Move
from sfumato.space.smoothing import per_axis


@dataclass(frozen=True)
class Steady(Claim):
    """The restarts of the search agree about the set, and it keeps its worth where the picture is moved.

    Where the search had no restarts it cannot hold: whether another search finds the set again is not known.

    - `agreement`: the least mean intersection over union of the sets that the restarts found.
    - `shift`: by how many places the picture is moved along each axis, both ways; by default 4 of 224.
    - `keep`: the share of the score that the set is worth at least at each place.

    Where other networks are given, it is also said what the set is worth for each of them. This decides nothing: a set is of
    one network.
    """

    agreement: float = 0.5
    shift: int | tuple[int, ...] | None = None
    keep: float = 0.5

    def __post_init__(self) -> None:
        check_number("agreement", self.agreement, "an intersection over union", least=0, most=1)
        check_number("keep", self.keep, "a share of the score", above=0, most=1)
        Jitter(self.shift)  # checks it

    def test(self, tested: Tested) -> Finding:
        """Move the picture along each axis, and read the agreement from the result."""
        jitter = Jitter(self.shift).for_shape(tuple(tested.places.shape))
        limits = [int(limit) for limit in per_axis(jitter.shift or 0, tested.places.ndim)]
        moves = [
            Move(tuple(sign * limit if place == axis else 0 for place in range(len(limits))))
            for (axis, limit), sign in itertools.product(enumerate(limits), (-1, 1))
            if limit
        ]
        worth = [float(tested.worth(tested.places[None], (), move)[0]) for move in moves]
        known = [value for value in worth if not math.isnan(value)]
        agreement = math.nan
        if tested.result.agreement is not None:
            agreement = float(tested.result.agreement[0, tested.variant])
        numbers = {"agreement": agreement, "least_moved": min(known, default=math.nan)}
        sentences = []
        moved: bool | None = None
        if known:
            moved = reaches(min(known), self.keep) and (len(known) == len(worth) or None)
            sentences.append(
                f"Moved by {max(limits)} places each way, the set is worth {percent(round(min(known), 2))} to "
                f"{percent(round(max(known), 2))}."
            )
        if len(known) < len(worth):
            sentences.append(
                "Moved, the picture scores at some places no more than when it is hidden, which says nothing."
            )
        agrees = None if math.isnan(agreement) else agreement >= self.agreement
        if agrees is None:
            sentences.append("Whether another search finds it again is not known: the search had no restarts.")
        else:
            sentences.append(
                f"The sets of the search's restarts share {percent(round(agreement, 2))} (intersection over union)."
            )
        for name, model in tested.models.items():
            with Subject.prepared(
                model, tested.inputs, tested.target, tested.method.score, tested.method.seed
            ) as other:
                other.probe(tested.method.memory)
                numbers[name] = float(tested.worth(tested.places[None], subject=other)[0])
            sentences.append(
                f"For {name} places have no worth."
                if math.isnan(numbers[name])
                else f"For {name} it is worth {percent(round(numbers[name], 2))}."
            )
        parts = (moved, agrees)
        holds = False if False in parts else None if None in parts else True  # None: one of them cannot be told
        return Finding("Steady", holds, " ".join(sentences), numbers)
