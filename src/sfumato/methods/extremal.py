r"""Extremal perturbations: among all smooth masks of an area, the one that plays the game best.

R. Fong, M. Patrick, A. Vedaldi: *Understanding deep networks via extremal perturbations and smooth masks*, ICCV 2019,
arXiv 1910.08485.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sfumato.ascent import Ascent, PenalisedAscent, Problem, ProjectedAscent, Step
from sfumato.attribution import Attribution, saliency, versions
from sfumato.canvas import Canvas, CanvasMask
from sfumato.configuration import as_json, check_number, check_seed
from sfumato.evaluate import Evaluation
from sfumato.games import PRESERVE, Game
from sfumato.jitter import Jitter, MirrorEvenSteps
from sfumato.masks import Lattice, SmoothMask
from sfumato.perturbations import Blur, Perturbation
from sfumato.probing import Model
from sfumato.subject import Subject

Progress = Callable[[Step], object]
"""Is told every step: a progress bar, a log, a live picture."""


@dataclass(frozen=True)
class ExtremalPerturbation:
    r"""For each area $a$: $m_a = \arg\max_m \Phi(m \otimes x)$ over smooth masks of mean $a$ (Fong et al. 2019, section 3).

    Called with a model, inputs `(B, C, *S)` and targets, it returns an `Attribution` with masks `(B, V, 1, *S)`.

    - `areas`: V fractions of the visible input, in (0, 1), growing.
    - `game`: "preserve" (the mask shows what suffices), "delete" (it covers what is needed), "dual", or a `Game`.
    - `steps`: of the ascent, for each mask.
    - `perturbation`: what hides a place. `mask`: the family of smooth masks.
    - `ascent`: how the best is sought: `EvolutionAscent()` needs no gradients, for models that have none.
    - `jitter`: random moves of the perturbed input, or `None`.
    - `smooth`: width of the Gaussian that smooths `result.map`, the mean of the masks, as a fraction of the input's
      shortest side; TorchRay's pointing game uses 0.09 (its sum of masks is this mean times V).
    - `seed`: of all that is random. The same seed gives the same result, alone or in any batch.
    - `memory`: GiB that the model may keep for its backward pass; more masks than fit go through it in turns.
    """

    areas: tuple[float, ...] = (0.05, 0.1, 0.2)
    game: Game | str = PRESERVE
    steps: int = 250
    perturbation: Perturbation = Blur()
    mask: SmoothMask | CanvasMask = SmoothMask()
    ascent: Ascent = ProjectedAscent()
    jitter: Jitter | MirrorEvenSteps | None = Jitter()
    smooth: float = 0.0
    seed: int = 0
    memory: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "areas", check_areas(self.areas))
        object.__setattr__(self, "game", Game.named(self.game))
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be a whole number from 1 up; got {self.steps!r}")
        check_number("smooth", self.smooth, "a fraction of the input's shortest side", least=0)
        check_number("memory", self.memory, "in GiB", above=0)
        check_seed(self.seed)
        for name, does, example in (
            ("perturbation", "__call__", "Blur()"),
            ("mask", "on", "SmoothMask()"),
            ("ascent", "__call__", "ProjectedAscent()"),
            ("jitter", "moves", "Jitter() or None"),
        ):
            value = getattr(self, name)
            if isinstance(value, type) or not (hasattr(value, does) or (name == "jitter" and value is None)):
                raise ValueError(f"{name} must be a configuration such as {example}; got {value!r}")
        if isinstance(self.ascent, PenalisedAscent) != isinstance(self.mask, CanvasMask):
            raise ValueError("PenalisedAscent goes with a CanvasMask, ProjectedAscent with a SmoothMask; give a pair")

    @classmethod
    def torchray(cls, areas: Sequence[float] = (0.1,), **changes: Any) -> "ExtremalPerturbation":
        """The published code, TorchRay 1.0: its canvas, truncated kernel, dark borders, penalty, schedule and mirroring.

        For comparison with it. The areas are those of its canvas, so that more of the input shows: see `achieved`.
        """
        published = cls(
            areas=tuple(areas),
            steps=800,
            perturbation=Blur(max_sigma=20, levels=8, border="zeros"),
            mask=CanvasMask(),
            ascent=PenalisedAscent(),
            jitter=MirrorEvenSteps(),
        )
        return replace(published, **changes)

    def __call__(self, model: Model, inputs: Tensor, targets: Any, progress: Progress | None = None) -> Attribution:
        """Find the masks for inputs `(B, C, *S)`, prepared as the model wants them.

        `targets`: a class index, one per input, a `Score`, or a function of the model's outputs. `progress` is told each
        step. Raises `ValueError` where the inputs or targets cannot be used; the model comes out as it went in.
        """
        with Search.prepared(self, model, inputs, targets) as search:
            areas = torch.tensor(self.areas, device=inputs.device).expand(len(inputs), -1)
            return search.attribution(search.ascend(areas, progress), areas)


def check_areas(areas: Any) -> tuple[float, ...]:
    """Areas as a tuple, if they are growing fractions in (0, 1)."""
    values = tuple(areas) if isinstance(areas, Iterable) else (areas,)
    if not values:
        raise ValueError("areas are empty; give at least one fraction of the input, e.g. areas=(0.1,)")
    for area in values:
        if isinstance(area, bool) or not isinstance(area, int | float):
            raise ValueError(f"areas must be numbers in (0, 1); got {area!r}")
        if not 0 < area < 1:
            hint = f". Did you mean {area / 100:g} ({area:g} %)?" if 1 <= area < 100 else ""
            raise ValueError(f"areas must lie in (0, 1); got {area:g}{hint}")
    growing = tuple(sorted(set(values)))
    if values != growing:
        raise ValueError(f"areas must grow, each named once; got {values}. Did you mean {growing}?")
    return tuple(float(area) for area in values)


@dataclass(frozen=True)
class Search:
    """A method at work on one batch: what its ascents share."""

    method: ExtremalPerturbation
    evaluation: Evaluation
    lattice: Lattice | Canvas
    shape: tuple[int, ...]
    whole: Tensor
    about: dict[str, Any]

    @classmethod
    @contextmanager
    def prepared(cls, method: ExtremalPerturbation, model: Model, inputs: Tensor, targets: Any) -> Iterator["Search"]:
        """Check what was given, look once at the whole inputs, and hold the model frozen for the time of the search."""
        with Subject.prepared(model, inputs, targets) as subject:
            with subject.surroundings.computing():
                lattice = method.mask.on(subject.inputs.shape[2:], subject.inputs.device)
                lattice.check(method.areas)
                rows = subject.rows_in_memory(method.memory)
                perturbed = method.perturbation(subject.inputs)
            evaluation = Evaluation(subject, perturbed, subject.query, rows)
            whole = subject.whole(rows)
            about = {"method": as_json(method), "score": as_json(subject.score), "versions": versions()}
            yield cls(method, evaluation, lattice, tuple(subject.inputs.shape), whole, about)

    def ascend(
        self, areas: Tensor, progress: Progress | None = None, warm: Tensor | None = None, steps: int | None = None
    ) -> Tensor:
        """Parameters `(B · V, 1, *L)` of the best masks of areas `(B, V)`, from `warm` parameters if there are any."""
        method = self.method
        generator = torch.Generator().manual_seed(method.seed)
        surroundings = self.evaluation.subject.surroundings
        with surroundings.computing():
            areas = areas.clone()
            problem = Problem(
                evaluation=self._evaluation(areas),
                lattice=self.lattice,
                areas=areas,
                game=Game.named(method.game),
                moves=(method.jitter or Jitter(0, flip=False)).moves(len(self.shape) - 2, generator),
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
        """Masks `(B, V, 1, *S)` of parameters `(B · V, 1, *L)`."""
        with self.evaluation.subject.surroundings.computing(), torch.no_grad():
            masks = self.lattice.masks(self.lattice.nodes(parameters)).clamp(0, 1)
        return masks.view(*areas.shape, 1, *self.shape[2:])

    def scores(self, masks: Tensor) -> Tensor:
        """Scores `(B, V)` of what masks `(B, V, 1, *S)` keep."""
        return self._evaluation(masks).scores(masks.flatten(0, 1)).view(masks.shape[:2])

    def attribution(self, parameters: Tensor, areas: Tensor) -> Attribution:
        """The result for parameters `(B · V, 1, *L)` that were sought for areas `(B, V)`."""
        masks = self.masks(parameters, areas)
        with self.evaluation.subject.surroundings.computing():
            saliency_map = saliency(masks, self.method.smooth)
        return Attribution(
            map=saliency_map,
            masks=masks,
            areas=areas.amax(0),
            achieved=masks.flatten(2).mean(2),
            scores=self.scores(masks),
            complements=self.scores(1 - masks),
            whole=self.whole,
            blank=self.scores(torch.zeros_like(masks[:, :1]))[:, 0],
            about=self.about,
        )

    def _evaluation(self, variants: Tensor) -> Evaluation:
        """The evaluation for rows in the order of `(B, V)`."""
        return replace(self.evaluation, query=self.evaluation.query.repeat_interleave(variants.shape[1]))
