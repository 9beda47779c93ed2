r"""Meaningful perturbation: the smallest smooth mask whose deletion destroys the score, or whose display preserves it.

R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.attribution import Attribution, saliency
from sfumato.games import DELETE, Game
from sfumato.masks.grid import Grid, GridMask
from sfumato.masks.priors import l1, total_variation
from sfumato.methods.method import Method
from sfumato.model.evaluate import Evaluation
from sfumato.model.inputs import warn_of_no_effect
from sfumato.model.subject import Subject
from sfumato.perturbations import Blur, Perturbation
from sfumato.search.loop import Look, Progress, Step, climb
from sfumato.search.rules import TorchOptimiser
from sfumato.settings import check_number, check_whole, later, renewed
from sfumato.space.jitter import Jitter, Move, shifts

STARTS = ("circle", "ones")

SUPPRESSED = 0.01
"""A score counts as destroyed if it exceeds that of the fully perturbed input by less than this share of the difference to the
score of the whole input."""


@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    r"""Minimise $\lambda_1 \lVert 1 - m \rVert_1 + \lambda_2 \sum_u \lVert \nabla m(u) \rVert_\beta^\beta +
    \mathrm{E}_\tau \Phi(m \otimes x(\cdot - \tau))$ over masks $m \in [0, 1]$ (Fong & Vedaldi 2017, eq. 4).

    This is the deletion game; the preservation game minimises $\lambda_1 \lVert m \rVert_1 + \dots - \Phi(m \otimes x)$. The
    area follows from the weights; for `ExtremalPerturbation` it is a setting. A call with a model, inputs `(B, C, *S)` and
    targets returns an `Attribution` with one mask for each query, `(B, 1, 1, *S)`, which marks what matters: $m$ of the
    preservation game, $1 - m$ of the deletion game. Its `areas` are `None`, as no area is requested.

    - `game`: "delete", "preserve", or another `Game`.
    - `steps`, `rate`: of Adam. Each step clips $m$ to [0, 1]. The last mask is the answer.
    - `l1`, `tv`, `beta`: $\lambda_1$, $\lambda_2$ and $\beta$; both terms are sums over the cells of the coarse mask.
    - `perturbation`: what hides a place. For several, the score is the mean of their scores, also in the result.
    - `mask`: the coarse grid and its smoothing.
    - `jitter`: at every step the input moves beneath the mask by up to this number of places along each axis; 0 for none. The
      default depends on the shape: 4 for a picture of 224 pixels. $\tau$ is drawn at each step, uniformly, and is the same for
      all queries; borders are reflected.
    - `start`: "circle", the smallest centred disc (interval, ball) whose perturbation destroys the score: less than 1 % remains
      of the difference between the whole and the fully perturbed input; or "ones", $m = 1$, which shows the whole input.
    - `smooth`: width of the Gaussian that smooths `result.map`, as a fraction of the input's shortest side.
    - `seed`: the seed of all random numbers.
    - `memory`: GiB that the model may keep for its backward pass; by default 0.5, for six rows up to 1.5, on a GPU half of
      what is free.
    - `score`: what a class index means: "probability", as in the paper, for a model that returns logits; the default weights
      are those for probabilities. Or "logit", "log-odds" or "sigmoid", with weights that fit their range. Any other target is a
      score itself.

    How to choose: take this method to compare with the paper of 2017. If you know the area that you want, take
    `ExtremalPerturbation`.

    - `l1`: the larger it is, the less is removed. Try values a factor of 10 apart, and look at `result.achieved`.
    - `tv`, `beta`: the larger the weight, the smoother the mask. `localisation()` has the published values for tight masks.
    - `game`: "delete", for which the default weights were published. Other games need weights of their own.
    - `steps`: the default. The last mask is the answer, so a search that ends early is not settled.
    - `score`: with "logit" or "log-odds", make `l1` and `tv` larger, as the score's range is larger than 1.
    """

    makes_masks: ClassVar[bool] = True

    game: Game | str = DELETE
    steps: int = 300
    rate: float = 0.1
    l1: float = 1e-4
    tv: float = 1e-2
    beta: float = 3
    perturbation: Perturbation | tuple[Perturbation, ...] = Blur(max_sigma=10, levels=2)
    mask: GridMask = GridMask()
    jitter: int | None = None
    start: str = "circle"
    smooth: float = 0.0
    seed: int = 0
    memory: float | None = renewed(None, 2.0)
    score: str = later("probability")

    def __post_init__(self) -> None:
        object.__setattr__(self, "game", Game.named(self.game))
        if isinstance(self.perturbation, list):
            object.__setattr__(self, "perturbation", tuple(self.perturbation))
        perturbations = self.perturbation if isinstance(self.perturbation, tuple) else (self.perturbation,)
        if not perturbations or not all(map(callable, perturbations)):
            raise ValueError(
                f"perturbation must be one or several, e.g. (Blur(10, 2), Noise()); got {self.perturbation!r}"
            )
        check_whole("steps", self.steps, 1)
        if self.jitter is not None:
            check_whole("jitter", self.jitter, 0)
        check_number("rate", self.rate, "Adam's", above=0)
        check_number("l1", self.l1, "the weight of a penalty", least=0)
        check_number("tv", self.tv, "the weight of a penalty", least=0)
        check_number("beta", self.beta, "the exponent of the total variation", least=1)
        if not isinstance(self.mask, GridMask):
            raise ValueError(f"mask must be a GridMask, e.g. GridMask(); got {self.mask!r}")
        if self.start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}; got {self.start!r}")
        super().__post_init__()

    @classmethod
    def localisation(cls, **changes: Any) -> "MeaningfulPerturbation":
        r"""The published settings for weak localisation: $\lambda_1 = 10^{-3}$ and $\beta = 2$, for tighter masks."""
        return replace(cls(l1=1e-3, beta=2), **changes)

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:
        """One mask for each query."""
        optimisation = MaskOptimisation.of(self, subject)
        return optimisation.attribution(optimisation.run(progress))


@dataclass(frozen=True, eq=False)
class MaskOptimisation:
    """The optimisation of one batch of masks.

    Its parameters are called marks, as they mark what matters: $m$ in the preservation game, $1 - m$ in the
    deletion game. So the penalties are the same in both games, and `Game` defines the rest of the objective.
    """

    method: MeaningfulPerturbation
    evaluation: Evaluation
    grid: Grid
    whole: Float[Tensor, " B"]
    about: dict[str, Any]

    @classmethod
    def of(cls, method: MeaningfulPerturbation, subject: Subject) -> "MaskOptimisation":
        """The optimisation for a subject, whose whole inputs are scored here."""
        with subject.surroundings.computing():
            grid = method.mask.on(subject.inputs.shape[2:], subject.inputs.device)
            rows, whole = subject.probe(method.memory)
            perturbed = tuple(perturbation(subject.inputs) for perturbation in method.used_perturbations())
        about = method.about(subject, mask=grid.family, jitter=list(_limits(method, grid)))
        return cls(method, Evaluation(subject, perturbed, subject.query, rows), grid, whole, about)

    def run(self, progress: Progress | None = None) -> Float[Tensor, "B 1 *L"]:
        """The marks after all steps."""
        surroundings = self.evaluation.subject.surroundings
        with surroundings.computing():
            marks = self.circle() if self.method.start == "circle" else self.ones()
        for step in surroundings.iterate(self.steps(marks)):
            marks = step.parameters
            if progress is not None:
                progress(step)
        return marks

    def steps(self, start: Float[Tensor, "B 1 *L"]) -> Iterator[Step]:
        """The steps of Adam. Each has the marks after it, and the values and areas before it."""
        method = self.method
        generator = torch.Generator("cpu").manual_seed(method.seed)
        limits = _limits(method, self.grid)
        rule = TorchOptimiser(lambda leaves: torch.optim.Adam(leaves, lr=method.rate))
        steps = climb(
            lambda marks, _: self.look(marks, shifts(limits, generator)),
            start,
            method.steps,
            rule,
            lambda marks, _: marks.clamp(0, 1),
        )
        for step in steps:
            assert step.following is not None  # noqa: S101  # for the type checker: the loop gives it
            yield replace(step, parameters=step.following)

    def look(self, marks: Float[Tensor, "B 1 *L"], shift: tuple[int, ...]) -> Look:
        """The objective at these marks, for inputs that are shifted: its value, its gradient, and the areas."""
        method = self.method
        leaf = marks.detach().requires_grad_()
        masks = self.grid(leaf)
        # Evaluation moves the input together with its mask. So the mask is moved back first, and only the input moves.
        moved_back = Move(tuple(-places for places in shift))(masks)
        values, gain = self.evaluation.gradients(moved_back, Game.named(method.game), Move(shift))
        penalty = method.l1 * l1(leaf) + method.tv * total_variation(leaf, method.beta)
        (gradient,) = torch.autograd.grad([moved_back, penalty], leaf, [gain, -torch.ones_like(penalty)])
        return Look(values, gradient, masks.detach().flatten(1).mean(1))

    def ones(self) -> Float[Tensor, "B 1 *L"]:
        r"""The marks for $m = 1$: 0 in a game that only deletes, else 1."""
        value = 1.0 if Game.named(self.method.game).keep else 0.0
        return self.whole.new_full((len(self.whole), 1, *self.grid.size), value)

    def circle(self) -> Float[Tensor, "B 1 *L"]:
        """The marks of the smallest centred ball whose perturbation destroys the score of each query."""
        marks = self.whole.new_ones((len(self.whole), 1, *self.grid.size))
        blank = self.scores(torch.zeros_like(self.grid(marks)))
        bound = blank + SUPPRESSED * (self.whole - blank)
        done = torch.zeros_like(blank, dtype=torch.bool)
        for ball in self.grid.balls():
            masks = 1 - self.grid(ball).expand(len(marks), *[-1] * (ball.ndim - 1))
            destroyed = ~done & (self.scores(masks) <= bound)
            marks = torch.where(destroyed.view(-1, *[1] * (marks.ndim - 1)), ball, marks)
            done |= destroyed
            if done.all():
                break
        return marks

    def scores(self, masks: Float[Tensor, "B 1 *S"]) -> Float[Tensor, " B"]:
        """The scores of inputs under masks, averaged over the perturbations."""
        return self.evaluation.scores(masks)

    def attribution(self, marks: Float[Tensor, "B 1 *L"]) -> Attribution:
        """The result for marks."""
        return of_marks(marks, self.evaluation, self.grid, self.whole, self.method.smooth, self.about)


def of_marks(
    marks: Float[Tensor, "B 1 *L"],
    evaluation: Evaluation,
    grid: Grid,
    whole: Float[Tensor, " B"],
    smooth: float,
    about: Mapping[str, Any],
) -> Attribution:
    """The result for cells which mark what matters: its masks, and the scores of what they mark, of the rest and of nothing.

    `evaluation` is that of one mask for each query, `whole` the scores of the whole inputs, `smooth` the setting of a method.
    """
    with evaluation.subject.surroundings.computing(), torch.no_grad():
        masks = grid(marks).clamp(0, 1)
        saliency_map = saliency(masks[:, None], smooth)
    scores, blank = evaluation.scores(masks), evaluation.scores(torch.zeros_like(masks))
    warn_of_no_effect((blank == whole) & (scores == whole), "")
    return Attribution(
        map=saliency_map,
        masks=masks[:, None],
        achieved=masks.flatten(1).mean(1, keepdim=True),
        scores=scores[:, None],
        complements=evaluation.scores(1 - masks)[:, None],
        whole=whole,
        blank=blank,
        about=about,
    )


def _limits(method: MeaningfulPerturbation, grid: Grid) -> tuple[int, ...]:
    """The largest shift of the input along each axis, in places."""
    shift = Jitter(method.jitter, flip=False).for_shape(grid.shape).shift
    return shift if isinstance(shift, tuple) else (shift or 0,) * len(grid.shape)
