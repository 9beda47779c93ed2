r"""I-GOS and iGOS++: masks found by descent along integrated gradients.

I-GOS minimises, over masks $m \in [0, 1]$ that show an input where they are 1,

$$
F(m) = \frac{1}{T} \sum_{t = 1}^{T} \Phi\!\left(\tfrac{t}{T} m \otimes x + n_t\right)
+ \lambda_1 \overline{1 - m} + \lambda_2 \overline{\lVert \nabla m \rVert_\beta^\beta}
$$

The mean runs over the straight path from the input that is hidden completely to $m \otimes x$. So the gradient of the first
term is the integrated gradient. It points to what matters also where the plain gradient is nearly 0: at $m = 1$ the probability
is often saturated. $n_t$ is noise.

Z. Qi, S. Khorram, F. Li: *Visualizing Deep Networks by Optimizing with Integrated Gradients*, AAAI 2020, arXiv 1905.00954.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.attribution import Attribution
from sfumato.games import PRESERVE
from sfumato.masks.grid import Grid, GridMask
from sfumato.masks.priors import evenness, l1, total_variation
from sfumato.methods.meaningful import of_marks
from sfumato.methods.method import Method
from sfumato.model.evaluate import Evaluation
from sfumato.model.inputs import frames_of_ours, marked
from sfumato.model.subject import Subject
from sfumato.perturbations import Blur, Perturbation
from sfumato.search.loop import Look, Progress, Step, climb
from sfumato.search.rules import Backtracking, Rule
from sfumato.settings import check_number, check_whole


class Term(NamedTuple):
    """One of the terms of an objective that look at the model."""

    mask: Float[Tensor, "N 1 *L"]
    """The cells of the mask $m$, which is 1 where it shows the input."""
    inserts: bool = False
    r"""Whether the term is $-\Phi((1 - m) \otimes x)$, which is lowest if what the mask hides suffices; else it is
    $\Phi(m \otimes x)$, which is lowest if what the mask hides is needed."""


@dataclass(frozen=True)
class IGOS(Method):
    r"""The deletion game by descent along integrated gradients, $\min_m F(m)$ (Qi et al. 2020).

    A call with a model, inputs `(B, C, *S)` and targets returns an `Attribution` with one mask for each query, `(B, 1, 1, *S)`,
    which marks what matters: $1 - m$. Its `areas` are `None`, as the area follows from the weights.

    - `steps`: of the descent, 20 as published, from $m = 1$, which shows everything. Each step clips $m$ to [0, 1].
    - `points`: $T$, the points of the path, 15 as published. A step takes so many passes with gradients, and as many without
      for each length that the line search tries.
    - `l1`, `tv`, `beta`: $\lambda_1$, $\lambda_2$ and $\beta$, 1, 20 and 2 as published. Both terms are means over the
      cells of the coarse mask, so the weights suit any number of them; those of `MeaningfulPerturbation` are for sums.
    - `noise`: the standard deviation of $n_t$, in the units of the model's input, .2 as published; 0 for none. It is
      drawn at each step for each point, and is the same for all queries.
    - `rule`: the line search, a `Backtracking` with the published lengths, 8, 1.6, .32 and so on; or a rule of the step.
    - `perturbation`: what hides a place: a blend with a blur of 10 places. For several, the score is the mean of their scores.
    - `mask`: the coarse grid, by default 28 × 28 cells for a picture of 224 pixels, interpolated linearly and not smoothed.
    - `smooth`: width of the Gaussian that smooths `result.map`, as a fraction of the input's shortest side.
    - `seed`: the seed of the noise.
    - `memory`: GiB that the model may keep for its backward pass; by default 0.5, for six rows up to 1.5, on a GPU half of
      what is free.
    - `score`: what a class index means: "probability", as published, for a model that returns logits; the default weights are
      those for probabilities. Or "logit", "log-odds" or "sigmoid", with weights that fit their range. Any other target is a
      score itself.
    """

    makes_masks: ClassVar[bool] = True
    masks: ClassVar[int] = 1
    """How many masks a query has during the descent."""

    steps: int = 20
    points: int = 15
    l1: float = 1.0
    tv: float = 20.0
    beta: float = 2.0
    noise: float = 0.2
    rule: Rule | Backtracking = Backtracking()
    perturbation: Perturbation | tuple[Perturbation, ...] = Blur(max_sigma=10, levels=2)
    mask: GridMask = GridMask(sigma=0)
    smooth: float = 0.0
    seed: int = 0
    memory: float | None = None
    score: str = "probability"

    def __post_init__(self) -> None:
        if isinstance(self.perturbation, list):
            object.__setattr__(self, "perturbation", tuple(self.perturbation))
        if not self.perturbation:
            raise ValueError(
                f"perturbation must be one or several, e.g. (Blur(10, 2), Fade()); got {self.perturbation!r}"
            )
        check_whole("steps", self.steps, 1)
        check_whole("points", self.points, 1)
        check_number("l1", self.l1, "the weight of a penalty", least=0)
        check_number("tv", self.tv, "the weight of a penalty", least=0)
        check_number("beta", self.beta, "the exponent of the total variation", least=1)
        check_number("noise", self.noise, "a standard deviation", least=0)
        if isinstance(self.rule, type) or not (isinstance(self.rule, Backtracking) or callable(self.rule)):
            raise ValueError(
                f"rule must be a line search or a rule of the step, e.g. Backtracking(); got {self.rule!r}"
            )
        if not isinstance(self.mask, GridMask):
            raise ValueError(f"mask must be a GridMask, e.g. GridMask(sigma=0); got {self.mask!r}")
        super().__post_init__()

    def explain(self, subject: Subject, progress: Progress | None) -> Attribution:
        """One mask for each query."""
        return PathDescent.of(self, subject).run(progress)

    def terms(self, masks: Float[Tensor, "N K *L"]) -> tuple[Term, ...]:
        """The terms that look at the model, for all masks of each query."""
        return (Term(masks),)

    def answer(self, masks: Float[Tensor, "N K *L"]) -> Float[Tensor, "N 1 *L"]:
        """The mask that is the answer, which the penalties are of."""
        return masks

    def weights(self, pictures: Float[Tensor, "N C *L"]) -> Sequence[Float[Tensor, "N 1 *_"]]:  # noqa: ARG002
        """What each difference of neighbours along each axis counts in the total variation, if not all count 1.

        `pictures` are the inputs as coarse as the mask.
        """
        return ()


@dataclass(frozen=True)
class IGOSPlus(IGOS):
    r"""iGOS++: one mask that deletes, another that inserts, and their product, which must do both.

    S. Khorram, T. Lawson, F. Li: *iGOS++: Integrated Gradient Optimized Saliency by Bilateral Perturbations*, CHIL 2021,
    arXiv 2012.15783.

    It minimises, over $m_x$ and $m_y$, the sum of $\Phi(m_x \otimes x)$, $-\Phi((1 - m_y) \otimes x)$,
    $\Phi(m_x m_y \otimes x)$, $-\Phi((1 - m_x m_y) \otimes x)$, $\lambda_1 \overline{1 - m_x m_y}$ and
    $\lambda_2\, \mathrm{BTV}(m_x m_y)$.

    Each $\Phi$ is the mean over a path as in `IGOS`: to delete along $\tfrac{t}{T} m$, to insert along
    $1 - \tfrac{t}{T} m$, which begins with the whole input. The result marks $1 - m_x m_y$. BTV is the bilateral total
    variation: each difference of neighbours counts $e^{-\lVert \nabla x \rVert^2 / \sigma^2}$, so that a mask may change
    where the picture does.

    The settings are those of `IGOS`, with 15 steps of 20 points, $\lambda_1 = 10$ and $\lambda_2 = 20$, and

    - `edge`: $\sigma$, in the units of the model's input, .1 as published ($\sigma^2 = .01$). The picture is averaged over the
      cells of the mask first, and $\lVert \nabla x \rVert^2$ is a mean over channels.
    """

    masks: ClassVar[int] = 2

    steps: int = 15
    points: int = 20
    l1: float = 10.0
    edge: float = 0.1

    def __post_init__(self) -> None:
        check_number("edge", self.edge, "a difference between neighbours in the units of the model's input", above=0)
        super().__post_init__()

    def terms(self, masks: Float[Tensor, "N K *L"]) -> tuple[Term, ...]:
        """Of each mask, and twice of their product."""
        deletes, inserts = masks.split(1, 1)
        both = self.answer(masks)
        return Term(deletes), Term(inserts, inserts=True), Term(both), Term(both, inserts=True)

    def answer(self, masks: Float[Tensor, "N K *L"]) -> Float[Tensor, "N 1 *L"]:
        """The product of the masks."""
        return masks.prod(1, keepdim=True)

    def weights(self, pictures: Float[Tensor, "N C *L"]) -> Sequence[Float[Tensor, "N 1 *_"]]:
        """Those of the bilateral total variation."""
        return evenness(pictures, self.edge)


@dataclass(frozen=True, eq=False)
class Added:
    """What adds noise `(C, *S)` to inputs."""

    noise: Float[Tensor, " C *S"]

    def __call__(self, inputs: Float[Tensor, "N C *S"]) -> Float[Tensor, "N C *S"]:
        """Noisy inputs `(N, C, *S)`."""
        return inputs + self.noise


@dataclass(frozen=True, eq=False)
class PathDescent:
    """The descent of one batch of queries. Its parameters are their masks, `(B, K, *L)`, which show the input where they are 1.

    `climb` goes up, so the objective is $-F$.
    """

    method: IGOS
    evaluation: Evaluation
    grid: Grid
    points: Float[Tensor, " T"]
    weights: Sequence[Float[Tensor, "B 1 *_"]]
    whole: Float[Tensor, " B"]
    about: dict[str, Any]

    @classmethod
    def of(cls, method: IGOS, subject: Subject) -> "PathDescent":
        """The descent for a subject, whose whole inputs are scored here."""
        inputs = subject.inputs
        with subject.surroundings.computing(), torch.no_grad():
            grid = method.mask.on(inputs.shape[2:], inputs.device)
            rows, whole = subject.probe(method.memory)
            perturbed = tuple(perturbation(inputs) for perturbation in method.used_perturbations())
            points = torch.arange(1, method.points + 1, dtype=torch.float32, device=inputs.device) / method.points
            weights = method.weights(_averaged(inputs.float(), grid.size))
        evaluation = Evaluation(subject, perturbed, subject.query, rows)
        return cls(method, evaluation, grid, points, weights, whole, method.about(subject, mask=grid.family))

    def run(self, progress: Progress | None = None) -> Attribution:
        """The result after all steps."""
        surroundings = self.evaluation.subject.surroundings
        with surroundings.computing():
            masks = self.whole.new_ones(len(self.whole), self.method.masks, *self.grid.size)
        for step in surroundings.iterate(self.steps(masks)):
            masks = step.parameters
            if progress is not None:
                progress(step)
        with surroundings.computing(), torch.no_grad():
            marks = 1 - self.method.answer(masks)
            warn_of_no_marks((marks == 0).flatten(1).all(1))
        return of_marks(marks, self.evaluation, self.grid, self.whole, self.method.smooth, self.about)

    def steps(self, start: Float[Tensor, "B K *L"]) -> Iterator[Step]:
        """The steps of the descent. Each has the masks after it, and the values and areas before it."""
        generator = torch.Generator("cpu").manual_seed(self.method.seed)
        steps = climb(
            lambda masks, _: self.look(masks, self.noise(generator)),
            start,
            self.method.steps,
            self.method.rule,
            lambda masks, _: masks.clamp(0, 1),
        )
        for step in steps:
            assert step.following is not None  # noqa: S101  # for the type checker: the loop gives it
            yield replace(step, parameters=step.following)

    def noise(self, generator: torch.Generator) -> tuple[Added, ...]:
        """What is added at each point of the path; nothing where the method has no noise."""
        if not self.method.noise:
            return ()
        inputs = self.evaluation.subject.inputs
        shape = (len(self.points), *inputs.shape[1:])
        noise = self.method.noise * torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        return tuple(map(Added, noise.to(inputs.device)))

    def look(self, masks: Float[Tensor, "B K *L"], noise: Sequence[Added]) -> Look:
        """The objective at these masks, its gradient, and how much they mark."""
        leaf = masks.detach().requires_grad_()
        queries = self.evaluation.query
        values = -self.penalty(leaf, queries)
        outputs, gains = [values], [torch.ones_like(values)]
        for term in self.method.terms(leaf):
            shown = self.grid(term.mask)
            phi, gradient = self.along(queries).gradients(self.path(shown, term.inserts), PRESERVE, *noise)
            values = values + self.toward(phi, term.inserts)
            # Both kinds of term grow if the mask shrinks: -t of what shows t · m, and -t of what shows 1 - t · m.
            outputs.append(shown)
            gains.append(
                torch.einsum("t,tn...->n...", -self.points / len(self.points), gradient.unflatten(0, (-1, len(leaf))))
            )
        (gradient,) = torch.autograd.grad(outputs, leaf, gains)
        with torch.no_grad():
            areas = (1 - self.grid(self.method.answer(leaf))).flatten(1).mean(1)
        return Look(values.detach(), gradient, areas, again=lambda others, rows: self.values(others, rows, noise))

    def values(
        self, masks: Float[Tensor, "N K *L"], queries: Int[Tensor, " N"], noise: Sequence[Added]
    ) -> Float[Tensor, " N"]:
        """The objective at masks of some queries."""
        with torch.no_grad():
            values = -self.penalty(masks, queries)
            for term in self.method.terms(masks):
                phi = self.along(queries).scores(self.path(self.grid(term.mask), term.inserts), *noise)
                values = values + self.toward(phi, term.inserts)
        return values

    def penalty(self, masks: Float[Tensor, "N K *L"], queries: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """What a mask costs for what it marks, and for being uneven."""
        method, answer = self.method, self.method.answer(masks)
        variation = total_variation(answer, method.beta, [weights[queries] for weights in self.weights])
        return (method.l1 * l1(1 - answer) + method.tv * variation) / math.prod(self.grid.size)

    def path(self, shown: Float[Tensor, "N 1 *S"], inserts: bool) -> Float[Tensor, "M 1 *S"]:
        """What is shown at all points of the path, point by point, of all masks."""
        path = (self.points.view(-1, *[1] * shown.ndim) * shown.detach()).flatten(0, 1)
        return 1 - path if inserts else path

    def along(self, queries: Int[Tensor, " N"]) -> Evaluation:
        """The evaluation of all points of the paths of some queries."""
        return replace(self.evaluation, query=queries.repeat(len(self.points)))

    def toward(self, phi: Float[Tensor, " M"], inserts: bool) -> Float[Tensor, " N"]:
        """What a term adds to the objective, from the scores along the paths."""
        mean = phi.unflatten(0, (len(self.points), -1)).mean(0)
        return mean if inserts else -mean


def warn_of_no_marks(queries: Bool[Tensor, " B"]) -> None:
    """Warn about the queries whose mask is still the one that the descent began with, as no step improved it."""
    if queries.any():
        warnings.warn(
            f"the result marks nothing in input {marked(queries)}, as no step of the search improves on that; see that the "
            'score depends on the input, lower the penalties l1 and tv, or explain score="logit" if the probability is near 0 '
            "or 1",
            stacklevel=1 + frames_of_ours(),
        )


def _averaged(inputs: Float[Tensor, "N C *S"], size: Sequence[int]) -> Float[Tensor, "N C *L"]:
    """The mean over each of so many cells along each axis of space."""
    pool = getattr(torch.nn.functional, f"adaptive_avg_pool{len(size)}d")
    averaged: Tensor = pool(inputs, tuple(size))
    return averaged
