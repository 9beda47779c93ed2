r"""Gradient ascent on one field for all areas: sets within sets, and with them the order of all places.

For each query it seeks the field $f$ that is best in the mean over areas,

$\int_0^1 \mathrm{keep}\cdot\Phi(m_a \otimes x) - \mathrm{drop}\cdot\Phi((1 - m_a) \otimes x)\; da,$

where $m_a$ is the level set of $f$ of the area $a$. With both weights 1 this is the area under the insertion curve minus that
under the deletion curve (Petsiuk et al., *RISE*, BMVC 2018), of the order in which $f$ falls.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.masks.level_set import LevelSets
from sfumato.search.loop import Look, Step, climb
from sfumato.search.problem import Problem
from sfumato.search.projection import project
from sfumato.search.rules import like
from sfumato.search.schedules import GradientAscent
from sfumato.settings import check_number, check_whole, later


@dataclass(frozen=True)
class NestedAscent(GradientAscent):
    r"""Ascent on one field whose level sets of all areas play the game, for masks of the family `LevelSet`.

    At each step the field is cut at an area, and the mask is a ramp of this area (see `LevelSetAscent`). From step to step the
    areas follow the golden ratio, $(u + i\,(\sqrt 5 - 1)/2) \bmod 1$, so that the steps up to any one lie evenly in (0, 1); the
    seed draws u. The slope grows from 1 to `sharpness` in the share `approach` of the steps. The gradient is divided by its
    largest entry and enters a velocity that keeps `momentum` of itself and moves the parameters by `rate`. Then the field is
    shifted so that the mean of its ramp is one half. Its parameters have no bounds: at a bound places would become level, and
    lose their order.

    What a run finds is the mean of the fields of its last steps, the share `settling` of all. Its level set of each wanted area
    is that area's mask: the smaller lie within the larger ones, up to the width of their edges.

    With several `restarts` the result says how far they agree, see `result.agreement`. They see other moves of the input and
    other areas, share the steps, and are climbed side by side; the answer is the mean of what they found. Each has 50 steps at
    least, and with fewer steps there are fewer restarts. Where nothing moves, as at a layer, there is one.

    A step takes a forward and a backward pass for each restart and weight of the game. Its `values` are those of the areas at
    which it cuts the fields, in the mean over restarts, its `parameters` those of the wanted areas.

    How to choose: one run makes the best order for its steps. Take `restarts=2` and twice the steps to know how settled it is.
    """

    rate: float = 0.05
    sharpness: float = 16
    approach: float = 0.5
    settling: float = 0.3
    restarts: int = later(1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sharpness", self.sharpness, "the slope of an edge", least=1)
        check_number("approach", self.approach, "a share of the steps", least=0, below=1)
        check_number("settling", self.settling, "a share of the steps", least=0, below=1)
        check_whole("restarts", self.restarts)

    @property
    def fewest(self) -> int | None:
        """With how many steps a search has restarts to compare; `None` if it never has."""
        return 2 * SHORTEST if self.restarts > 1 else None

    def __call__(self, problem: Problem, steps: int, warm: Float[Tensor, "N 1 *L"] | None = None) -> Iterator[Step]:
        """Ascend; from the mean over the areas of `warm` `(B · V, 1, *L)`, if given."""
        sets = problem.parametrisation
        if not isinstance(sets, LevelSets):
            raise TypeError(f"NestedAscent goes with masks of the family LevelSet; got {sets.family!r}")
        queries, variants = problem.areas.shape
        count = 1 if problem.still else max(1, min(self.restarts, steps // SHORTEST))
        length = steps // count
        query = problem.queries.query.repeat(count)  # rows in the order of restart, then query
        fields = replace(problem, evaluation=replace(problem.evaluation, query=query), groups=count)
        generator = torch.Generator("cpu").manual_seed(problem.seed)
        begin = torch.rand((), generator=generator, dtype=torch.float64, device="cpu")
        parts = torch.arange(count, dtype=torch.float64, device="cpu") / count
        half = problem.areas.new_full((len(query),), 0.5)
        begins = (begin + parts).repeat_interleave(queries).to(half)

        def ramps(index: int) -> LevelSets:
            done = min(1.0, index / (self.approach * length)) if self.approach else 1.0
            return sets.at(self.sharpness**done)

        def look(parameters: Float[Tensor, "N 1 *L"], index: int) -> Look:
            areas = ((begins + index * GOLDEN % 1) % 1).clamp(LEAST, 1 - LEAST)
            cut = project(ramps(index), parameters, areas, fields.near, bounded=False)
            return replace(fields, parametrisation=ramps(index)).look(cut, areas, index // 2)

        def halved(parameters: Float[Tensor, "N 1 *L"], index: int) -> Float[Tensor, "N 1 *L"]:
            return project(ramps(index), parameters, half, fields.near, bounded=False)

        start = sets.start().expand(queries, *[-1] * (len(sets.size) + 1))
        if warm is not None:  # 0.5 but for a bump, the start decides between equal places
            start = warm.unflatten(0, (queries, variants)).mean(1) + start - 0.5
        start = start.repeat(count, *[1] * (start.ndim - 1))
        first = min(round((1 - self.settling) * length), length - 1)
        total = torch.zeros_like(start)
        for step in climb(look, halved(start, 0), length, self.step_rule, halved):
            final = step.index == length - 1
            total = total + step.parameters * (step.index >= first)
            found = (total / (length - first) if final else step.parameters).unflatten(0, (count, queries))
            runs = [_cut(sets, run, problem.areas, exactly=True) for run in found] if final and count > 1 else []
            field = found.mean(0)
            yield replace(
                step,
                parameters=_cut(sets, field, problem.areas, exactly=final),
                values=step.values.view(count, queries).mean(0).repeat_interleave(variants),
                areas=problem.areas.flatten(),
                following=None,  # and what was seen: they are of one field for each query
                look=None,
                alternatives=torch.stack(runs, 1) if runs else None,
                order=field if final else None,
            )


SHORTEST = 50
"""Steps that a restart has, at least: fewer steps make fewer restarts."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo one, lie most evenly in (0, 1)."""

LEAST = 0.003
"""The smallest area that is looked at, and the smallest rest."""


def _cut(
    sets: LevelSets, field: Float[Tensor, "B 1 *L"], areas: Float[Tensor, "B V"], exactly: bool
) -> Float[Tensor, "N 1 *L"]:
    """The parameters `(B · V, 1, *L)` of the level sets of areas, shifted by one number each; to a place where `exactly`."""
    parameters = field.repeat_interleave(areas.shape[1], 0)
    if exactly:
        return sets.settled(parameters, areas.flatten(), decide=False)
    falling = sets.nodes(field).flatten(1).sort(1, descending=True).values
    levels = falling.gather(1, (areas * (falling.shape[1] - 1)).round().long())
    return parameters + 0.5 - like(levels.flatten(), parameters)
