"""A search for masks at work on one batch: what its ascents share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.about import about_run
from sfumato.attribution import Attribution
from sfumato.games import Game
from sfumato.layers.above import AboveLayer, above
from sfumato.model.effects import Model
from sfumato.model.evaluate import Evaluation
from sfumato.model.inputs import warn_of_no_effect
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbed
from sfumato.search.ascent import Ascent, Problem, Step
from sfumato.space.jitter import Jitter, MirrorEvenSteps

Progress = Callable[[Step], object]
"""Is told every step: a progress bar, a log, a live picture."""


class Seeking(Protocol):
    """What a method that seeks masks says of itself: `ExtremalPerturbation`, `ExtremalChannels`."""

    @property
    def by_channel(self) -> bool:
        """Whether it masks channels, not places."""

    @property
    def layer(self) -> str: ...
    @property
    def at(self) -> str: ...
    @property
    def call(self) -> int:
        """Which of the layer's calls."""

    @property
    def layout(self) -> str: ...
    @property
    def deterministic(self) -> bool: ...
    @property
    def game(self) -> Game | str: ...
    @property
    def score(self) -> str:
        """What a class index means, of `OF_A_CLASS`."""

    @property
    def steps(self) -> int: ...
    @property
    def ascent(self) -> Ascent: ...
    @property
    def jitter(self) -> Jitter | MirrorEvenSteps | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def memory(self) -> float: ...

    def lattice(self, seen: Tensor, space: Sequence[int]) -> Any:
        """The masks' family over what is seen, `(B, C, *L)`, of inputs of `space`."""

    def hiding(self, seen: Tensor) -> Perturbed:
        """What masks do to what is seen."""

    def mapped(self, masks: Tensor, seen: Tensor, space: Sequence[int]) -> dict[str, Tensor]:
        """The fields of an `Attribution` that show masks `(B, V, …)` in the input."""


@dataclass(frozen=True, eq=False)
class Search:
    """A method at work on one batch."""

    method: Seeking
    evaluation: Evaluation
    lattice: Any
    space: tuple[int, ...]
    """Of the inputs."""
    whole: Tensor
    about: dict[str, Any]

    @classmethod
    @contextmanager
    def prepared(cls, method: Seeking, model: Model, inputs: Tensor, targets: Any) -> Iterator["Search"]:
        """Check what was given, look once at the whole inputs, and hold the model frozen for the time of the search."""
        with Subject.prepared(model, inputs, targets, method.score, method.seed, method.deterministic) as given:
            space = tuple(given.inputs.shape[2:])
            subject = given
            if method.layer:
                given.looked_at(method.memory)
                subject = above(given, method.layer, method.at, method.by_channel, method.layout, method.call)
            with subject.surroundings.computing():
                lattice = method.lattice(subject.inputs, space)
                rows, whole = subject.looked_at(method.memory)
                perturbed = method.hiding(subject.inputs)
            evaluation = Evaluation(subject, perturbed, subject.query, rows)
            search = cls(method, evaluation, lattice, space, whole, {})
            yield replace(search, about=about_run(method, subject.used_score, **search.lengths))

    def ascend(
        self, areas: Tensor, progress: Progress | None = None, warm: Tensor | None = None, steps: int | None = None
    ) -> Tensor:
        """Parameters `(B · V, 1, *L)` of the best masks of areas `(B, V)`, from `warm` parameters if there are any."""
        method = self.method
        self.lattice.check(areas.flatten().tolist())
        generator = torch.Generator("cpu").manual_seed(method.seed)
        surroundings = self.evaluation.subject.surroundings
        with surroundings.computing():
            areas = areas.clone()
            problem = Problem(
                evaluation=self._evaluation(areas),
                lattice=self.lattice,
                areas=areas,
                game=Game.named(method.game),
                moves=self.jitter.moves(len(self.space), generator),
                seed=method.seed,
            )
            ascent = method.ascent(problem, steps or method.steps, None if warm is None else warm.clone())
        step = None
        for step in surroundings.each(ascent):
            if progress is not None:
                progress(step)
        if step is None:
            raise RuntimeError("the ascent made no step")
        return step.parameters

    def masks(self, parameters: Tensor, areas: Tensor) -> Tensor:
        """Masks `(B, V, 1, *S)`, or of channels `(B, V, K, 1, …)`, of parameters `(B · V, 1, *L)`."""
        with self.evaluation.subject.surroundings.computing(), torch.no_grad():
            masks = self.lattice.masks(self.lattice.nodes(parameters)).clamp(0, 1)
        return masks.unflatten(0, areas.shape)

    def scores(self, masks: Tensor) -> Tensor:
        """Scores `(B, V)` of what masks `(B, V, …)` keep."""
        return self._evaluation(masks).scores(masks.flatten(0, 1)).view(masks.shape[:2])

    def attribution(self, parameters: Tensor, areas: Tensor) -> Attribution:
        """The result for parameters `(B · V, 1, *L)` that were sought for areas `(B, V)`."""
        masks = self.masks(parameters, areas)
        subject = self.evaluation.subject
        with subject.surroundings.computing():
            seen = subject.shown() if isinstance(subject, AboveLayer) else subject.inputs
            shown = self.method.mapped(masks, seen, self.space)
        scores, blank = self.scores(masks), self.scores(torch.zeros_like(masks[:, :1]))[:, 0]
        warn_of_no_effect((blank == self.whole) & (scores == blank[:, None]).all(1), self.method.layer)
        return Attribution(
            **shown,
            masks=masks,
            areas=areas.amax(0),
            achieved=masks.flatten(2).mean(2),
            scores=scores,
            complements=self.scores(1 - masks),
            whole=self.whole,
            blank=blank,
            about=self.about,
        )

    @property
    def jitter(self) -> Jitter | MirrorEvenSteps:
        """The method's, for inputs of this shape; none at a layer, whose values do not move as the input does."""
        if self.method.layer or self.method.jitter is None:
            return Jitter(0, flip=False)
        jitter = self.method.jitter
        return jitter.for_shape(self.space) if isinstance(jitter, Jitter) else jitter

    @property
    def lengths(self) -> dict[str, Any]:
        """The mask's family and the jitter with the lengths that were derived from the shape, at a layer in its places."""
        jitter = None if self.method.layer or self.method.jitter is None else self.jitter
        family = getattr(self.lattice, "family", None)
        return {"jitter": jitter} if family is None else {"mask": family, "jitter": jitter}

    def _evaluation(self, variants: Tensor) -> Evaluation:
        """The evaluation for rows in the order of `(B, V)`."""
        return replace(self.evaluation, query=self.evaluation.query.repeat_interleave(variants.shape[1]))
