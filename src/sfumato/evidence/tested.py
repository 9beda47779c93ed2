"""A set of places under test: the network, the picture, and how much of the score a set of places is worth."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.games import Game
from sfumato.methods.extremal import ExtremalPerturbation
from sfumato.model.effects import Model
from sfumato.model.evaluate import Evaluation
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbation, seeded
from sfumato.scores import OfClass, Probability
from sfumato.settings import from_json

AT_ONCE = 32
"""Rows in one batch of the network, at most."""


@dataclass(eq=False)
class Tested:
    """One set of places of one query, and the network that is asked about it.

    `places` are `(*S)`; `variant` is the number of the mask in the result. `worth` is what every claim measures.
    """

    model: Model
    inputs: Float[Tensor, "1 C *S"]
    target: Any
    result: Attribution
    """What the method found for this query alone."""
    method: ExtremalPerturbation
    variant: int
    places: Bool[Tensor, "*S"]
    subject: Subject
    of_class: Subject | None
    """The same with the probability of the class as its score; `None` where the explained score is not of a class."""
    models: Mapping[str, Model] = field(default_factory=dict)
    """Other networks that take the same inputs, by name."""
    passes: int = 0
    """How many inputs the network has been given so far."""
    _ends: dict[Any, list[float]] = field(default_factory=dict)
    """The scores of the whole and of the hidden input, by what hid it."""

    @property
    def area(self) -> float:
        """The share of the input that the set takes."""
        return float(self.places.float().mean())

    @property
    def game(self) -> Game:
        """What was asked: to keep the score by the set, to destroy it by hiding the set, or both."""
        return Game.named(self.method.game)

    @property
    def perturbations(self) -> tuple[Perturbation, ...]:
        """What hid places in the search."""
        return tuple(seeded(perturbation, self.method.seed) for perturbation in self.method.used_perturbations())

    def scores(
        self,
        places: Bool[Tensor, " N *S"],
        perturbations: Sequence[Perturbation] = (),
        *moves: Any,
        subject: Subject | None = None,
    ) -> Float[Tensor, " N"]:
        r"""$\Phi(m \otimes x)$, float64, where each m shows one of the sets.

        The mean over the perturbations, by default those of the search. `subject` takes the place of the explained network
        and score.
        """
        subject = subject or self.subject
        with subject.surroundings.computing(), torch.no_grad():
            perturbed = tuple(perturbation(subject.inputs) for perturbation in perturbations or self.perturbations)
        masks = places[:, None].to(self.inputs.dtype)
        query = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
        self.passes += len(masks) * len(perturbed)
        return Evaluation(subject, perturbed, query, AT_ONCE).scores(masks, *moves).double()

    def worth(
        self,
        places: Bool[Tensor, " N *S"],
        perturbations: Sequence[Perturbation] = (),
        *moves: Any,
        subject: Subject | None = None,
    ) -> Float[Tensor, " N"]:
        r"""What sets of places are worth, `(N,)`: 1 for the whole input, 0 for the hidden one.

        $(\Phi(m \otimes x) - \Phi(0 \otimes x)) / (\Phi(x) - \Phi(0 \otimes x))$ for the game that keeps; for the one that
        destroys, 1 minus the same of the complement; for the dual game the mean of both. It may exceed 1. NaN where the hidden
        input has the score of the whole one.
        """
        key = (tuple(perturbations), moves, subject)
        if key not in self._ends:
            ends = torch.stack([torch.ones_like(places[0]), torch.zeros_like(places[0])])
            self._ends[key] = self.scores(ends, perturbations, *moves, subject=subject).tolist()
        whole, hidden = self._ends[key]
        if math.isclose(whole, hidden, rel_tol=1e-6, abs_tol=1e-12):
            return torch.full((len(places),), torch.nan, dtype=torch.float64, device=places.device)

        def share(shown: Bool[Tensor, " N *S"]) -> Float[Tensor, " N"]:
            return (self.scores(shown, perturbations, *moves, subject=subject) - hidden) / (whole - hidden)

        game, parts = self.game, []
        if game.keep:
            parts.append(game.keep * share(places))
        if game.drop:
            parts.append(game.drop * (1 - share(~places)))
        return torch.stack(parts).sum(0) / (game.keep + game.drop)

    def probability(self, places: Bool[Tensor, "*S"]) -> float:
        """The probability of the class when the set is shown alone, under the search's perturbations; NaN without a class."""
        return float(self.scores(places[None], subject=self.of_class)[0]) if self.of_class else math.nan

    @property
    def alone(self) -> str:
        """How the set is tested, as the beginning of a sentence."""
        share = f"{self.area:.0%} of the picture" if self.area >= 0.01 else f"{self.area:.1%} of the picture"
        if self.game.keep and self.game.drop:
            return f"Shown alone and hidden, these {share}"
        return f"Shown alone, these {share}" if self.game.keep else f"Hidden, these {share}"

    @property
    def keep(self) -> str:
        """What places do with the score: the verb of a sentence."""
        return "keep" if self.game.keep else "take away"


@contextmanager
def tested(
    result: Attribution,
    model: Model,
    inputs: Float[Tensor, "1 C *S"],
    target: Any,
    keep: float,
    models: Mapping[str, Model],
) -> Iterator[Tested]:
    """A context with the smallest of a query's sets that is worth `keep`, or else with the largest.

    Raises `ValueError` for a result that has no sets of places of the input.
    """
    method = method_of(result)
    masks = result.masks
    if masks is None or result.layer or masks.shape[2] != 1 or masks.shape[3:] != inputs.shape[2:]:
        raise ValueError(
            "a certificate is of sets of the input's places; explain with ExtremalPerturbation(), without a layer"
        )
    sets = masks[0, :, 0] > 0.5
    with Subject.prepared(model, inputs, target, method.score, method.seed, method.deterministic) as subject:
        subject.probe(method.memory)
        score = subject.used_score
        of_class = replace(subject, score=Probability(score.target)) if isinstance(score, OfClass) else None
        first = Tested(model, inputs, target, result, method, 0, sets[0], subject, of_class, models)
        enough = (first.worth(sets) >= keep).tolist()
        variant = enough.index(True) if True in enough else len(enough) - 1
        yield replace(first, variant=variant, places=sets[variant])


def method_of(result: Attribution) -> ExtremalPerturbation:
    """The method that made a result, built again from what the result tells. Raises `ValueError` where that cannot be done."""
    try:
        method = from_json(result.about.get("method"))
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise ValueError(f"the method of the result cannot be built again: {error}") from error
    if not isinstance(method, ExtremalPerturbation):
        raise ValueError(
            "a certificate is of sets made by ExtremalPerturbation or ExtremalOrder; the result was made by "
            f"{type(method).__name__ if method is not None else 'an unknown method'}"
        )
    return method
