r"""The smallest sufficient area: $a^* = \min \{ a : \Phi(m_a \otimes x) \geq \Phi_0 \}$.

R. Fong, M. Patrick, A. Vedaldi: *Understanding deep networks via extremal perturbations and smooth masks*, ICCV 2019,
arXiv 1910.08485, eq. 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import sfumato
from sfumato.attribution import SHARED, Attribution, TensorResult
from sfumato.games import Game
from sfumato.masks.level_set import LevelSets
from sfumato.methods.extremal import ExtremalPerturbation, check_areas
from sfumato.methods.extremal_channels import ExtremalChannels, check_counts
from sfumato.model.black_box import BlackBox, NoAnswerError, noted, warn_of_stop
from sfumato.model.effects import Model
from sfumato.model.of_pictures import PictureModel, opened, shown_by
from sfumato.search.loop import Progress
from sfumato.settings import keywords_told

CURVE = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Areas at which the score is sampled first, from a small spot to nearly the whole input."""

TOLERANCE = 0.01
"""Of areas, by default."""

ROUNDING = 1e-6
"""Of areas in float32: a bracket this much wider than the tolerance is as wide."""


@dataclass(frozen=True, eq=False, repr=False)
class SmallestArea(TensorResult):
    """For each of `B` queries, the smallest area whose mask keeps enough, and the curve that shows how it was found.

    Areas of masks of channels are shares of all channels.
    """

    area: Float[Tensor, " B"]
    """$a^*$ as a fraction of the input, `(B,)`; NaN where no area reaches the wanted score."""
    reached: Bool[Tensor, " B"]
    """Whether any did, `(B,)`."""
    wanted: Float[Tensor, " B"]
    r"""The score $\Phi_0$ to reach, `(B,)`."""
    attribution: Attribution
    """The mask of that area, `(B, 1, 1, *S)`; where none reaches the score, the mask that came nearest. Each query's own
    area is in `achieved`; `areas` holds the largest."""
    curve_areas: Float[Tensor, " n"] = field(metadata=SHARED)
    """`(n,)`, growing."""
    curve_scores: Float[Tensor, "B n"]
    """The score that the best mask of each of these areas keeps, `(B, n)`."""
    count: Int[Tensor, " B"] | None = None
    """Of masks of channels, how many $a^*$ are, `(B,)`; 0 where no number reaches the wanted score."""

    @property
    def blank_suffices(self) -> Bool[Tensor, " B"]:
        """Whether the fully perturbed input has the wanted score as well, `(B,)`: then $a^*$ says nothing of the input.

        Another perturbation, or a score that falls with it such as `LogOdds`, may tell more.
        """
        assert self.attribution.blank is not None  # noqa: S101  # for the type checker: a search gives it
        return self.attribution.blank >= self.wanted

    def __repr__(self) -> str:
        """Three lines: the areas, the scores that they had to keep, and where to find all."""
        areas, wanted = self.area.tolist(), self.wanted.tolist()
        found = [
            f"{area:.3g}" if reached else "none" for area, reached in zip(areas, self.reached.tolist(), strict=True)
        ]
        return "\n".join(
            (
                f"SmallestArea of {len(found)} {'query' if len(found) == 1 else 'queries'}: at most {', '.join(found)}",
                f"to keep a score of {', '.join(f'{score:.3g}' for score in wanted)}; {len(self.curve_areas)} areas tried",
                f"on {self.area.device}: {', '.join(entry.name for entry in fields(self))}",
            )
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the mask, and the curve with $a^*$."""
        return str(sfumato.report.notebook(self))


@keywords_told
def smallest(
    method: ExtremalPerturbation | ExtremalChannels,
    model: Model | PictureModel,
    inputs: Any,
    targets: Any = None,
    keep: float = 0.9,
    tolerance: float | None = None,
    areas: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> SmallestArea:
    r"""Find $a^*$ for $\Phi_0 = \mathrm{keep} \cdot \Phi(x)$.

    The score is sampled at `areas` in one batch; then the bracket around the first area that suffices is halved until it
    is no wider than `tolerance`, by default 0.01 of the input. Each halving starts from the mask just above, and takes a
    quarter of the method's steps. The method's game must be one that only keeps; its own areas are not used.

    For `ExtremalChannels` it finds the smallest number of channels, exactly by default; `areas` are then counts, by default
    1, 2, 5, 10, 20, 50 and so on up to all.

    A `Classifier` in place of the model takes pictures and names of classes, as in the call of a method.

    Raises `ValueError` where the whole input's score is not positive: a share of it means nothing. Where the score of the fully
    perturbed input suffices, `blank_suffices` says so.

    Where a `BlackBox` gives no more answers, the area is the smallest that was found to suffice until then.

    `attribution.agreement` and `attribution.alternatives` are of what the restarts found for the first sampled area that
    suffices, cut at $a^*$: each halving goes on from one mask.

    Scores need not grow strictly with the area, as each is found by its own ascent; $a^*$ is the first crossing.
    """
    if not 0 < keep <= 1:
        hint = f". Did you mean {keep / 100:g}?" if 1 < keep <= 100 else ""
        raise ValueError(f"keep is the share of the whole input's score and must lie in (0, 1]; got {keep:g}{hint}")
    if not getattr(method, "finds_smallest", False):
        raise ValueError(
            f"smallest takes a search for masks, ExtremalPerturbation(…) or ExtremalChannels(…), as its first argument; got "
            f"{type(method).__name__}"
        )
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance is a fraction of the input and must lie in (0, 1); got {tolerance:g}")
    if Game.named(method.game).drop:
        raise ValueError('the smallest sufficient area is defined for game="preserve"; got a game with a drop')
    of_channels = isinstance(method, ExtremalChannels)
    if isinstance(method, ExtremalPerturbation):
        areas = None if areas is None else check_areas(areas)
        method = replace(method, areas=areas or CURVE)
    elif areas is not None:
        areas = check_counts(areas)
    if isinstance(model, PictureModel):
        net, inputs, targets, shapes = opened(model, inputs, targets)
        outcome = smallest(model.placed(method), net, inputs, targets, keep, tolerance, areas, progress)
        return replace(outcome, attribution=shown_by(model, outcome.attribution, inputs, shapes))
    with method.prepared(model, inputs, targets) as subject:
        box = subject.model if isinstance(subject.model, BlackBox) else None
        before = box and box.begin()
        search = method.placed(subject).search(subject)
        grain = search.parametrisation.finest if of_channels else 0.0
        least = search.parametrisation.finest if isinstance(search.parametrisation, LevelSets) else 0.0  # of one place
        tolerance = max(tolerance or (0.0 if grain else TOLERANCE), grain)  # nothing lies between two counts
        batch = len(inputs)
        device = inputs.device
        wanted = keep * search.whole
        if (search.whole <= 0).any():
            raise ValueError(
                f"a share of the score means nothing where the whole input's is not positive: {search.whole.tolist()}; "
                "explain a positive score, e.g. targets=Probability(class), or of several labels Sigmoid(class); on the "
                "command line --score probability, or --score sigmoid"
            )
        if of_channels:
            areas = tuple(count * grain for count in areas or round_numbers(search.parametrisation.size[0]))
        elif areas is None:
            areas = tuple(area for area in CURVE if area >= least)
        grid = torch.tensor(areas, dtype=torch.float32, device=device)
        sampled = grid.expand(batch, -1)
        curve = search.ascend(sampled, progress)
        parameters = curve.parameters.unflatten(0, (batch, -1))
        scores = search.scores(search.masks(parameters.flatten(0, 1), sampled))
        enough = scores >= wanted[:, None]
        reached = enough.any(1)
        # The first area that suffices; where none does, the one that comes nearest.
        first = torch.where(reached, enough.int().argmax(1), scores.argmax(1))
        rows = torch.arange(batch, dtype=torch.long, device=device)
        upper, best = grid[first], parameters[rows, first]
        runs = None if curve.alternatives is None else curve.alternatives.unflatten(0, (batch, -1))[rows, first]
        lower = torch.where(first > 0, grid[(first - 1).clamp(min=0)], 0.0)
        lower = torch.where(reached, lower, upper)
        try:
            while (open_ := (upper - lower > tolerance + ROUNDING) & (upper > least + ROUNDING)).any():
                middle = ((lower + upper) / 2).clamp(min=least)
                if grain:
                    middle = (middle / grain + 0.25).floor() * grain  # of a whole number or a half, the whole
                middle = torch.where(open_, middle, upper)
                found = search.ascend(middle[:, None], progress, warm=best, steps=max(1, method.steps // 4)).parameters
                score = search.scores(search.masks(found, middle[:, None]))[:, 0]
                suffices = open_ & (score >= wanted)
                best = torch.where(suffices.view(-1, *[1] * (best.ndim - 1)), found, best)
                lower = torch.where(open_ & ~suffices, middle, lower)
                upper = torch.where(suffices, middle, upper)
        except NoAnswerError as error:  # the bracket is wider than it was to be
            warn_of_stop(error)
        if isinstance(search.parametrisation, LevelSets):  # a set may be half a place larger than it was to be
            upper = search.parametrisation.areas(search.parametrisation.nodes(best))
            if runs is not None:
                runs = torch.stack([search.parametrisation.settled(run, upper) for run in runs.unbind(1)], 1)
        attribution = search.attribution(best, upper[:, None], runs)
        return SmallestArea(
            area=torch.where(reached, upper, torch.nan),
            reached=reached,
            wanted=wanted,
            attribution=noted(attribution, box, before) if box and before else attribution,
            curve_areas=grid,
            curve_scores=scores,
            count=torch.where(reached, (upper / grain).round(), 0).long() if grain else None,
        )


def round_numbers(most: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 and so on up to a number, and that.

    >>> round_numbers(64)
    [1, 2, 5, 10, 20, 50, 64]
    """
    numbers = [digit * 10**zeros for zeros in range(len(str(most))) for digit in (1, 2, 5)]
    return [number for number in numbers if number < most] + [most]
