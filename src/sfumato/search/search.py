"""A method at work on one batch: the model held still, a family of masks over what it sees, and what is asked of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfumato.attribution import Attribution, ranks
from sfumato.games import Game
from sfumato.masks.family import Parametrisation
from sfumato.model.black_box import BlackBox, NoAnswerError, warn_of_stop
from sfumato.model.evaluate import Evaluation
from sfumato.model.inputs import warn_of_no_effect
from sfumato.search.loop import Progress, Stage, StageProgress, Step
from sfumato.search.problem import Ascent, Problem
from sfumato.space.jitter import Jitter, MirrorEvenSteps
from sfumato.space.smoothing import enlarged


@dataclass(frozen=True, eq=False)
class Search:
    """Everything that the searches of one batch share."""

    evaluation: Evaluation
    parametrisation: Parametrisation
    game: Game
    ascent: Ascent
    steps: int
    jitter: Jitter | MirrorEvenSteps
    seed: int
    whole: Float[Tensor, " B"]
    r"""$\Phi(x)$, `(B,)`."""
    shown: Callable[[Float[Tensor, "B V K *S"]], Mapping[str, Tensor]]
    """From masks `(B, V, …)` to the fields of an `Attribution` that show them in the input."""
    about: Mapping[str, Any]
    layer: str = ""

    def ascend(
        self,
        areas: Float[Tensor, "B V"],
        progress: Progress | None = None,
        warm: Float[Tensor, "B*V 1 *L"] | None = None,
        steps: int | None = None,
    ) -> Step:
        """The last step of a search for the best masks of areas `(B, V)`, from `warm` parameters if there are any.

        It holds their parameters `(B · V, 1, *L)`.
        """
        self.parametrisation.check(areas.flatten().tolist())
        generator = torch.Generator("cpu").manual_seed(self.seed)
        surroundings = self.evaluation.subject.surroundings
        with surroundings.computing():
            areas = areas.clone()
            moves = self.jitter.moves(self.evaluation.subject.inputs.ndim - 2, generator)
            still = isinstance(self.jitter, Jitter) and self.jitter.still
            problem = Problem(self._evaluation(areas), self.parametrisation, areas, self.game, moves, self.seed, still)
            ascent = self.ascent(problem, steps or self.steps, None if warm is None else warm.clone())
        name, step = type(self.ascent).__name__, None
        if not isinstance(ascent, Iterator):
            raise ValueError(f"{name} must return an iterator of steps, as climb(…) is; got {type(ascent).__name__}")
        model = self.evaluation.subject.model
        with model.holding_back(self._scored(areas)) if isinstance(model, BlackBox) else nullcontext():
            for seen in surroundings.iterate(ascent):
                if isinstance(seen, Stage):
                    if isinstance(progress, StageProgress):
                        progress.stage(seen)
                    continue
                if not isinstance(seen, Step):
                    raise ValueError(
                        f"{name} must yield objects of sfumato.search.loop.Step; got {type(seen).__name__}"
                    )
                step = seen
                if progress is not None:
                    progress(step)
        if step is None:
            raise ValueError(f"{name} made no step; it must yield at least one")
        return step

    def _scored(self, areas: Float[Tensor, "B V"]) -> int:
        """How many inputs are scored after a search for areas: what masks keep, what is left, and the hidden input.

        `smallest` scores the masks of all its areas, and then those of one.
        """
        queries, variants = areas.shape
        return queries * (2 * variants + 3) * len(self.evaluation.perturbed)

    def masks(self, parameters: Float[Tensor, "N 1 *L"], areas: Float[Tensor, "B V"]) -> Float[Tensor, "B V K *S"]:
        """Masks `(B, V, 1, *S)`, or of channels `(B, V, K, 1, …)`, of parameters `(B · V, 1, *L)`."""
        with self.evaluation.subject.surroundings.computing(), torch.no_grad():
            masks = self.parametrisation.masks(self.parametrisation.nodes(parameters)).clamp(0, 1)
        return masks.unflatten(0, areas.shape)

    def scores(self, masks: Float[Tensor, "B V K *S"]) -> Float[Tensor, "B V"]:
        """Scores `(B, V)` of what masks `(B, V, …)` keep."""
        return self._evaluation(masks).scores(masks.flatten(0, 1)).view(masks.shape[:2])

    def compared(self, alternatives: Float[Tensor, "N R 1 *L"], areas: Float[Tensor, "B V"]) -> dict[str, Tensor]:
        """The fields of an `Attribution` about what restarts `(B · V, R, 1, *L)` found."""
        masks = torch.stack([self.masks(parameters, areas) for parameters in alternatives.unbind(1)], 2)
        sets = masks > 0.5
        scores = self.scores(masks.flatten(1, 2)).unflatten(1, sets.shape[1:3])
        return {"agreement": agreement(sets), "alternatives": sets, "alternative_scores": scores}

    def ordered(self, parameters: Float[Tensor, "B 1 *L"], space: Sequence[int]) -> Float[Tensor, "B 1 *S"]:
        """The ranks `(B, 1, *S)` of an input's places in the field of parameters `(B, 1, *L)`."""
        with self.evaluation.subject.surroundings.computing(), torch.no_grad():
            return ranks(enlarged(self.parametrisation.nodes(parameters), space))

    def attribution(
        self,
        parameters: Float[Tensor, "N 1 *L"],
        areas: Float[Tensor, "B V"],
        alternatives: Float[Tensor, "N R 1 *L"] | None = None,
        order: Float[Tensor, "B 1 *L"] | None = None,
    ) -> Attribution:
        """The result for parameters `(B · V, 1, *L)` that were sought for areas `(B, V)`.

        `alternatives` are what restarts found, and `order` the field whose level sets all masks are, if there is one.
        """
        masks = self.masks(parameters, areas)
        with self.evaluation.subject.surroundings.computing():
            shown = self.shown(masks)
        measured = {}
        try:
            scores, blank = self.scores(masks), self.scores(torch.zeros_like(masks[:, :1]))[:, 0]
            warn_of_no_effect((blank == self.whole) & (scores == blank[:, None]).all(1), self.layer)
            measured = {"scores": scores, "blank": blank, "complements": self.scores(1 - masks)}
            measured |= {} if alternatives is None else self.compared(alternatives, areas)
        except NoAnswerError as error:  # the masks are there, only without their scores
            warn_of_stop(error)
        return Attribution(
            **shown,
            masks=masks,
            areas=areas.amax(0),  # which queries share, but for smallest areas
            achieved=masks.flatten(2).mean(2),
            whole=self.whole,
            **measured,
            order=None if order is None else self.ordered(order, shown["map"].shape[2:]),
            about=self.about,
        )

    def _evaluation(self, variants: Float[Tensor, "B V ..."]) -> Evaluation:
        """The evaluation for rows in the order of `(B, V)`."""
        return replace(self.evaluation, query=self.evaluation.query.repeat_interleave(variants.shape[1]))


def agreement(sets: Bool[Tensor, "B V R *S"]) -> Float[Tensor, "B V"]:
    """How far sets `(B, V, R, …)` of the same area agree, `(B, V)`: the mean over pairs of the intersection over the union."""
    flat = sets.flatten(3)
    overlaps = [
        (one & other).sum(2) / (one | other).sum(2).clamp(min=1) for one, other in combinations(flat.unbind(2), 2)
    ]
    return torch.stack(overlaps).mean(0)
