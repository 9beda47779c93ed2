r"""The area at which a network's answer survives, with a confidence that holds for any distribution of pictures.

For each of n calibration pictures let $a_i$ be the smallest area from which on the answer is that of the whole picture. With
the $\lceil (n + 1)\,c \rceil$-th smallest of them, $\hat a$, a new picture from the same source has $a_{n+1} \leq \hat a$ with
a probability of at least the confidence c: split conformal prediction, V. Vovk, A. Gammerman, G. Shafer: *Algorithmic learning
in a random world*, 2005.
"""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.evidence import stored
from sfumato.evidence.answers import answer_explained, answered, of_two, shown_logits
from sfumato.evidence.claim import Claim, Finding
from sfumato.evidence.measured import same_network, weights_of
from sfumato.evidence.tested import Tested
from sfumato.evidence.worth import edge_of, ready
from sfumato.methods.extremal import ExtremalPerturbation
from sfumato.model.effects import Model
from sfumato.model.subject import Subject
from sfumato.perturbations import seeded
from sfumato.settings import Settings, check_number


@dataclass(frozen=True)
class Survival(Settings):
    """The areas from which on the answer survived on calibration pictures, as shares of the picture, one for each.

    `method` made the sets. An area of 1 stands for a picture whose answer changes even with the largest set. `weights` is a
    hash of the network's weights; empty for one that is no module.
    """

    areas: tuple[float, ...]
    method: ExtremalPerturbation
    weights: str = ""

    def __post_init__(self) -> None:
        for area in self.areas:
            check_number("areas", area, "shares of the picture", above=0, most=1)
        object.__setattr__(self, "areas", tuple(sorted(self.areas)))
        if not isinstance(self.method, ExtremalPerturbation):
            raise ValueError(f"method is the ExtremalPerturbation that made the sets; got {self.method!r}")
        if not self.areas:
            raise ValueError("survival needs pictures, a few hundred; got none")

    def area(self, confidence: float = 0.9) -> float:
        """The area at which the answer survives on a new picture with this confidence; 1 where there are too few pictures.

        >>> survival = Survival((0.05, 0.1, 0.1, 0.2, 0.2, 0.2, 0.4, 0.4, 1.0), ExtremalPerturbation())
        >>> survival.area(0.5), survival.area(0.8), survival.area(0.95)
        (0.2, 0.4, 1.0)
        """
        check_number("confidence", confidence, "a probability", above=0, below=1)
        rank = rank_of(confidence, len(self.areas))
        return self.areas[rank - 1] if rank <= len(self.areas) else 1.0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        stored.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. Raises `ValueError` for another file."""
        return stored.load(cls, path, "holds no areas of survival")


def rank_of(confidence: float, pictures: int) -> int:
    """The rank of the area among those of the pictures; more than there are pictures where these are too few."""
    return math.ceil((pictures + 1) * confidence - 1e-9)


def fewest(confidence: float) -> int:
    """The least number of pictures of which something can be said with this confidence.

    >>> fewest(0.9), fewest(0.5)
    (9, 1)
    """
    return max(1, math.ceil((confidence - 1e-9) / (1 - confidence)))


def survival(method: ExtremalPerturbation, model: Model, batches: Iterable[Float[Tensor, "B C *S"]]) -> Survival:
    """Explain the network's answer for each picture, and find from which of the method's areas on its sets have that answer.

    `batches` are inputs `(B, C, *S)`, a few hundred pictures in all: of the kind to which the statement shall apply, and used
    for nothing else. Each picture costs a search. Give the method areas up to nearly 1, as the statement is about these.
    """
    found: list[float] = []
    weights = weights_of(model)
    for inputs in batches:
        with Subject.prepared(model, inputs, 0) as subject:
            subject.probe(None)
            answers, targets = answered(subject, method.score)
            masks = method(model, inputs, targets).masks
            assert masks is not None  # noqa: S101  # for the type checker
            same = same_answers(method, subject, masks, answers)
        found += [surviving_area(survives, method.areas) for survives in same.tolist()]
    return Survival(tuple(found), method, weights)


def same_answers(
    method: ExtremalPerturbation, subject: Subject, masks: Float[Tensor, "B V 1 *S"], answers: Int[Tensor, " B"]
) -> Bool[Tensor, "B V"]:
    """Whether the network's answer to each mask's set alone is `answers`, those to the whole inputs.

    The answer is the class of the highest mean probability under the perturbations of the method that made the masks.
    """
    hides = [seeded(perturbation, method.seed) for perturbation in method.used_perturbations()]
    places = masks[:, :, 0] > 0.5
    rows = subject.query.repeat_interleave(places.shape[1])
    edge = edge_of(method, places.shape[2:])
    logits = of_two(shown_logits(subject, ready(subject, hides), places.flatten(0, 1), rows, edge))
    shown = logits.softmax(2).mean(0).argmax(1)
    return shown.view(len(masks), -1) == answers[:, None]


def surviving_area(same: Sequence[bool], areas: Sequence[float]) -> float:
    """The smallest area from which on the answer is always the same, or 1.

    >>> surviving_area([True, False, True, True], (0.05, 0.1, 0.2, 0.4))
    0.2
    >>> surviving_area([True, True, False], (0.05, 0.1, 0.2))
    1.0
    """
    area = 1.0
    for survives, candidate in zip(reversed(same), reversed(areas), strict=True):
        if not survives:
            break
        area = candidate
    return area


@dataclass(frozen=True)
class Survives(Claim):
    """The set is as large as sets must be for the network's answer to survive with a confidence.

    `survival`: what `survival(…)` found on calibration pictures. It is about sets that the same method made for the answer of
    the same network; of others nothing can be said.
    """

    survival: Survival
    confidence: float = 0.9

    def __post_init__(self) -> None:
        check_number("confidence", self.confidence, "a probability", above=0, below=1)

    def test(self, tested: Tested) -> Finding:
        """Compare areas."""
        area, pictures = self.survival.area(self.confidence), len(self.survival.areas)
        numbers = {"area": area, "confidence": self.confidence, "pictures": float(pictures)}
        if wrong := self._unfit(tested):
            return Finding("Survives", None, f"Nothing can be said: {wrong}.", numbers)
        # The area that was asked for, as in the calibration; that of the set is off by a place, and the edges of a mask.
        asked = tested.result.areas
        own = tested.area if asked is None else float(asked[tested.variant])
        near = 1 / tested.places.numel() if asked is None else 1e-6
        sure = f"{100 * self.confidence:.4g} % confidence"
        if rank_of(self.confidence, pictures) > pictures:
            sentence = f"Nothing can be said with {sure}: there are {pictures} calibration pictures, and it takes "
            return Finding("Survives", None, f"{sentence}{fewest(self.confidence)} or more.", numbers)
        if area == 1:
            sentence = f"On none of the areas does the network's answer survive with {sure}"
            sentence += f" ({pictures} calibration pictures)."
        else:
            sentence = f"With {sure} the network's answer survives on sets of {100 * area:.3g} % made this way"
            sentence += f" ({pictures} calibration pictures); this set has {100 * own:.3g} %."
        return Finding("Survives", own >= area - near, sentence, numbers)

    def _unfit(self, tested: Tested) -> str:
        """Why the areas do not go with what is tested; empty if they do."""
        if tested.method != self.survival.method:
            return "the areas of survival are of sets that another method, or other settings, made"
        if not same_network(self.survival.weights, tested.model):
            return "the areas of survival are those of another network"
        try:
            answer, explained = answer_explained(tested.subject, tested.method.score)
        except ValueError as error:
            return f"the network names no class ({error})"
        tested.passes += 1
        if not explained:
            return f"the areas of survival are of sets for the network's answer, here {tested.name_of(answer)}"
        return ""
