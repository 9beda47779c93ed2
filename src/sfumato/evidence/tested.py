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
from sfumato.data.labels import name_of
from sfumato.evidence.worth import area_of, edge_of, ends, reaches, ready, shown_scores, worth, worth_by
from sfumato.games import Game
from sfumato.layers.dropping import first_block
from sfumato.methods.extremal import ExtremalPerturbation
from sfumato.model.effects import Model
from sfumato.model.evaluate import Moved
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbation, Perturbed, seeded
from sfumato.scores import AUTO, SIGMOID, Linked, OfClass, Probability, Score, Sigmoid
from sfumato.settings import from_json, percent


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
    labels: Sequence[str] = ()
    """The names of the classes, if they are known."""
    backgrounds: Float[Tensor, "K C *S"] | None = None
    """Other pictures, prepared as the input."""
    default_link: str = AUTO
    """What makes probabilities of the network's outputs where the explained score does not say it."""
    passes: int = 0
    """How many inputs the network has been given so far."""
    _ends: dict[Any, Float[Tensor, "1 2"]] = field(default_factory=dict)
    """The scores of the whole and of the hidden input, by what hid it."""
    _ready: dict[Perturbation, Perturbed] = field(default_factory=dict)
    """The input, ready to be hidden by each perturbation."""

    @property
    def area(self) -> float:
        """The share of the input that the set takes."""
        return area_of(self.places)

    @property
    def variants(self) -> int:
        """How many masks the search had to find together."""
        masks = self.result.masks
        return 1 if masks is None else masks.shape[1]

    @property
    def edge(self) -> float:
        """The width of the edges of all masks in the tests, in places: that of the search's masks."""
        return edge_of(self.method, self.places.shape)

    @property
    def game(self) -> Game:
        """What was asked: to keep the score by the set, to destroy it by hiding the set, or both."""
        return Game.named(self.method.game)

    @property
    def shown(self) -> Bool[Tensor, "*S"]:
        """What is shown where the set is put to the test: the set; in the game that destroys, all but the set."""
        return self.places if self.game.keep else ~self.places

    @property
    def perturbations(self) -> tuple[Perturbation, ...]:
        """What hid places in the search."""
        return tuple(seeded(perturbation, self.method.seed) for perturbation in self.method.used_perturbations())

    @property
    def link(self) -> str:
        """What makes probabilities of the network's outputs, of `LINKS`, as the explained score says."""
        link = link_of_score(self.subject.used_score)
        return self.default_link if link == AUTO else link

    def ready(self, perturbations: Sequence[Perturbation] = ()) -> tuple[Perturbed, ...]:
        """The input, ready to be hidden by each of the perturbations, by default those of the search."""
        hides = tuple(perturbations) or self.perturbations
        for perturbation in hides:
            if perturbation not in self._ready:
                (self._ready[perturbation],) = ready(self.subject, (perturbation,))
        return tuple(self._ready[perturbation] for perturbation in hides)

    def worth(
        self,
        places: Bool[Tensor, " N *S"],
        perturbations: Sequence[Perturbation] = (),
        *moves: Moved,
        subject: Subject | None = None,
    ) -> Float[Tensor, " N"]:
        """What sets of places are worth, `(N,)`, see `sfumato.evidence.worth`: 1 for the whole input, 0 for the hidden one.

        NaN where hiding everything takes no score away. The perturbations are by default those of the search. `subject` takes
        the place of the explained network and score.
        """
        subject, hides = subject or self.subject, tuple(perturbations) or self.perturbations
        key, perturbed = (hides, moves, subject), self.ready(hides)
        if key not in self._ends:
            self._ends[key] = ends(subject, perturbed, *moves)
            self.passes += 2 * len(hides)
        query = torch.zeros(len(places), dtype=torch.long, device=places.device)
        self.passes += len(places) * len(hides) * (bool(self.game.keep) + bool(self.game.drop))
        return worth(subject, perturbed, places, query, self.game, self._ends[key], *moves, edge=self.edge)

    def worth_without_tokens(self) -> float | None:
        """What the set is worth where a transformer gets no tokens of hidden places.

        `None` for a network that has no tokens, or that needs all of them; NaN where all of them take no score away.
        """
        tokens = first_block(self.subject)
        self.passes += 1
        if tokens is None:
            return None
        whole, query = self.ready(self.perturbations[:1]), self.subject.query[:1]

        def scores(shown: Bool[Tensor, " 1 *S"]) -> Float[Tensor, " 1"]:
            self.passes += 1
            with tokens.shown(shown[0]):
                return shown_scores(self.subject, whole, torch.ones_like(shown), query)

        places = self.places[None]
        try:
            bounds = torch.stack([scores(torch.ones_like(places)), scores(torch.zeros_like(places))], 1)
            return float(worth_by(scores, places, self.game, bounds))
        except Exception:  # noqa: BLE001  # positions may be counted on the way, and a mean of no tokens is none
            return None

    def probability(self, places: Bool[Tensor, "*S"]) -> float:
        """The probability of the class when the set is shown alone, under the search's perturbations; NaN without a class."""
        if self.of_class is None:
            return math.nan
        self.passes += len(self.perturbations)
        query = self.of_class.query
        return float(shown_scores(self.of_class, self.ready(), places[None], query, edge=self.edge)[0])

    def name_of(self, index: int) -> str:
        """The name of a class in a sentence."""
        name = name_of(self.labels, index)
        return f"{name} ({index})" if index < len(self.labels) else name

    @property
    def alone(self) -> str:
        """How the set is tested, as the beginning of a sentence."""
        share = f"{percent(self.area)} of the picture"
        if self.game.keep and self.game.drop:
            return f"Shown alone and hidden, these {share}"
        return f"Shown alone, these {share}" if self.game.keep else f"Hidden, these {share}"


@contextmanager
def tested(
    result: Attribution,
    model: Model,
    inputs: Float[Tensor, "1 C *S"],
    target: Any,
    keep: float,
    models: Mapping[str, Model],
    labels: Sequence[str],
    backgrounds: Float[Tensor, "K C *S"] | None,
    default_link: str,
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
    sets = (masks[0, :, 0] > 0.5).to(inputs.device)  # a result may have been moved since
    with Subject.prepared(model, inputs, target, method.score, method.seed, method.deterministic) as subject:
        subject.probe(method.memory)
        score = subject.used_score
        of_class = None
        if isinstance(score, OfClass):
            link = link_of_score(score)
            of_class = replace(subject, score=Probability(score.target, default_link if link == AUTO else link))
        first = Tested(
            model,
            inputs,
            target,
            result,
            method,
            0,
            sets[0],
            subject,
            of_class,
            models,
            labels,
            backgrounds,
            default_link,
        )
        enough = [reaches(value, keep) for value in first.worth(sets).tolist()]
        variant = enough.index(True) if True in enough else len(enough) - 1
        yield replace(first, variant=variant, places=sets[variant])


def link_of_score(score: Score) -> str:
    """What makes probabilities of outputs, of `LINKS`, where this score is explained."""
    if isinstance(score, Sigmoid):
        return SIGMOID
    return score.link if isinstance(score, Linked) else AUTO


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
