r"""Meaningful perturbation: the smallest, simplest mask whose deletion destroys the score, or whose showing keeps it.

R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.attribution import Attribution, saliency
from sfumato.games import DELETE, Game
from sfumato.masks.grid import Grid, GridMask
from sfumato.masks.priors import l1, total_variation
from sfumato.methods.method import Method, Progress
from sfumato.model.evaluate import Evaluation
from sfumato.model.inputs import warn_of_no_effect
from sfumato.model.subject import Subject
from sfumato.perturbations import Blur, Perturbation, seeded
from sfumato.search.loop import Look, Step, climb
from sfumato.search.rules import TorchOptimiser
from sfumato.settings import check_number, check_whole, later
from sfumato.space.jitter import Jitter, Move, shifts

STARTS = ("circle", "ones")

SUPPRESSED = 0.01
"""What is left of the score, as a share of the way from the fully perturbed input to the whole, once it is destroyed."""


@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    r"""Minimise $\lambda_1 \lVert 1 - m \rVert_1 + \lambda_2 \sum_u \lVert \nabla m(u) \rVert_\beta^\beta +
    \mathrm{E}_\tau \Phi(m \otimes x(\cdot - \tau))$ over masks $m \in [0, 1]$ (Fong & Vedaldi 2017, eq. 4).

    That is the deletion game; the preservation game minimises $\lambda_1 \lVert m \rVert_1 + \dots - \Phi(m \otimes x)$.
    The area is an outcome of the weights, where `ExtremalPerturbation` takes it as given. Called with a model, inputs
    `(B, C, *S)` and targets, it returns an `Attribution` with one mask a query, `(B, 1, 1, *S)`, which marks what matters:
    $m$ of the preservation game, $1 - m$ of the deletion game. Its `areas` are `None`, as none is asked for.

    - `game`: "delete", "preserve", or another `Game`.
    - `steps`, `rate`: of Adam, which holds $m$ in [0, 1] by clipping it after each step. The last mask is the answer.
    - `l1`, `tv`, `beta`: $\lambda_1$, $\lambda_2$ and $\beta$; both terms are sums over the cells of the coarse mask.
    - `perturbation`: what hides a place. Of several, the mean of their scores counts: in the result, too.
    - `mask`: the coarse grid and its smoothing.
    - `jitter`: the input moves by up to so many places along each axis, beneath the mask, at every step; 0 for none. By
      default as many as suit its shape: 4 for a picture of 224 pixels.
      $\tau$ is drawn anew at each step, uniformly, and is the same for all queries; borders are reflected.
    - `start`: "circle", the smallest centred disc (interval, ball) whose perturbation leaves less than 1 % of the score of
      the whole input over that of the fully perturbed one; or "ones", $m = 1$, from where all of the input shows.
    - `smooth`: width of the Gaussian that smooths `result.map`, as a fraction of the input's shortest side.
    - `seed`: of all that is random. `memory`: GiB that the model may keep for its backward pass.
    - `score`: what a class index means: "probability", as in the paper, for which the weights are meant and the model is to
      return logits; or "logit", "log-odds" or "sigmoid", with weights that suit their range. Any other target is a score
      itself.
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
    memory: float = 2.0
    score: str = later("probability")

    def __post_init__(self) -> None:
        object.__setattr__(self, "game", Game.named(self.game))
        if isinstance(self.perturbation, list):
            object.__setattr__(self, "perturbation", tuple(self.perturbation))
        if not self.perturbations or not all(map(callable, self.perturbations)):
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
        if self.start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}; got {self.start!r}")
        super().__post_init__()

    @classmethod
    def localisation(cls, **changes: Any) -> "MeaningfulPerturbation":
        r"""The published settings for weak localisation: $\lambda_1 = 10^{-3}$ and $\beta = 2$, for tighter masks."""
        return replace(cls(l1=1e-3, beta=2), **changes)

    @property
    def perturbations(self) -> tuple[Perturbation, ...]:
        """`perturbation` as a tuple."""
        return self.perturbation if isinstance(self.perturbation, tuple) else (self.perturbation,)

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:
        """One mask for each query."""
        descent = Descent.of(self, subject)
        return descent.attribution(descent.run(progress))


@dataclass(frozen=True, eq=False)
class Descent:
    """A method at work on one batch, whose masks `(B, 1, *L)` mark what matters: the paper's $1 - m$ in the deletion game.

    With marks both games read alike: what they weigh is what is marked, and what they gain is what `Game` says.
    """

    method: MeaningfulPerturbation
    evaluations: tuple[Evaluation, ...]
    grid: Grid
    whole: Tensor
    about: dict[str, Any]

    @classmethod
    def of(cls, method: MeaningfulPerturbation, subject: Subject) -> "Descent":
        """Look once at the whole inputs of what is explained."""
        with subject.surroundings.computing():
            grid = method.mask.on(subject.inputs.shape[2:], subject.inputs.device)
            rows, whole = subject.probe(method.memory)
            perturbed = [seeded(each, method.seed)(subject.inputs) for each in method.perturbations]
        evaluations = tuple(Evaluation(subject, each, subject.query, rows) for each in perturbed)
        about = method.about(subject, mask=grid.family, jitter=list(_limits(method, grid)))
        return cls(method, evaluations, grid, whole, about)

    def run(self, progress: Callable[[Step], object] | None = None) -> Tensor:
        """The marks `(B, 1, *L)` that the steps lead to."""
        surroundings = self.evaluations[0].subject.surroundings
        with surroundings.computing():
            marks = self.circle() if self.method.start == "circle" else self.ones()
        for step in surroundings.iterate(self.steps(marks)):
            marks = step.parameters
            if progress is not None:
                progress(step)
        return marks

    def steps(self, start: Tensor) -> Iterator[Step]:
        """Adam, one step at a time: each with the marks that it arrives at, and the values and areas it set out from."""
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

    def look(self, marks: Tensor, shift: tuple[int, ...]) -> Look:
        """The game's values and the masks' areas `(B,)`, and the objective's gradient `(B, 1, *L)`, with the input shifted."""
        method = self.method
        leaf = marks.detach().requires_grad_()
        masks = self.grid(leaf)
        # Evaluation moves the input together with its mask; a mask moved the other way before stays where it is.
        still = Move(tuple(-each for each in shift))(masks)
        found = [each.gradients(still, Game.named(method.game), Move(shift)) for each in self.evaluations]
        values = torch.stack([values for values, _ in found]).mean(0)
        gain = torch.stack([gain for _, gain in found]).mean(0)
        penalty = method.l1 * l1(leaf) + method.tv * total_variation(leaf, method.beta)
        (gradient,) = torch.autograd.grad([still, penalty], leaf, [gain, -torch.ones_like(penalty)])
        return Look(values, gradient, masks.detach().flatten(1).mean(1))

    def ones(self) -> Tensor:
        r"""Marks for $m = 1$: nothing in a game that only deletes, else everything."""
        marked = 1.0 if Game.named(self.method.game).keep else 0.0
        return self.whole.new_full((len(self.whole), 1, *self.grid.size), marked)

    def circle(self) -> Tensor:
        """For each query, the smallest centred ball whose perturbation suppresses the score."""
        marks = self.whole.new_ones((len(self.whole), 1, *self.grid.size))
        blank = self.scores(torch.zeros_like(self.grid(marks)))
        bound = blank + SUPPRESSED * (self.whole - blank)
        found = torch.zeros_like(blank, dtype=torch.bool)
        for ball in self.grid.balls():
            new = ~found & (self.scores(1 - self.grid(ball).expand(len(marks), *[-1] * (ball.ndim - 1))) <= bound)
            marks = torch.where(new.view(-1, *[1] * (marks.ndim - 1)), ball, marks)
            found |= new
            if found.all():
                break
        return marks

    def scores(self, masks: Tensor) -> Tensor:
        """Scores `(B,)` of what masks `(B, 1, *S)` keep: the mean over the perturbations."""
        return torch.stack([each.scores(masks) for each in self.evaluations]).mean(0)

    def attribution(self, marks: Tensor) -> Attribution:
        """The result for marks `(B, 1, *L)`."""
        with self.evaluations[0].subject.surroundings.computing(), torch.no_grad():
            masks = self.grid(marks).clamp(0, 1)
            saliency_map = saliency(masks[:, None], self.method.smooth)
        scores, blank = self.scores(masks), self.scores(torch.zeros_like(masks))
        warn_of_no_effect((blank == self.whole) & (scores == self.whole), "")
        return Attribution(
            map=saliency_map,
            masks=masks[:, None],
            achieved=masks.flatten(1).mean(1, keepdim=True),
            scores=scores[:, None],
            complements=self.scores(1 - masks)[:, None],
            whole=self.whole,
            blank=blank,
            about=self.about,
        )


def _limits(method: MeaningfulPerturbation, grid: Grid) -> tuple[int, ...]:
    """Up to how many places the input moves along each axis."""
    shift = Jitter(method.jitter, flip=False).for_shape(grid.shape).shift
    return shift if isinstance(shift, tuple) else (shift or 0,) * len(grid.shape)
