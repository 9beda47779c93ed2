"""Where a search begins, and what it is drawn to: what the network makes of windows of the input, each shown alone.

The gradient at the whole input says little about what would suffice alone, and noise of one grey level changes it. A few dozen
windows that are looked at without a gradient say nearly the same for every seed. Many sets do about as well, and chance decides
which of them a search finds. So on its way it is drawn to windows that do well, and chance has less to decide.
"""

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.games import Game
from sfumato.masks.level_set import LevelSets
from sfumato.search.loop import Stage
from sfumato.search.problem import Problem
from sfumato.search.rules import like
from sfumato.settings import Settings, check_number, check_whole, later
from sfumato.space.smoothing import enlarged


@dataclass(frozen=True)
class Windows(Settings):
    """The first field of a search, high where a window does well, and a pull towards such places on its way.

    About `count` windows lie evenly over the input. Each is a disc (a ball, an interval), cut off at the input's border, of the
    wanted area; of several, of their geometric mean. The game's values of a query's windows, stretched to [0, 1] and
    interpolated between the windows' centres, are its first field, `weight` high between its lowest and its highest place.
    Parameters of masks lie in [0, 1]. Where all windows do equally well, the field is as flat as one that knows nothing.

    While the area falls, each step draws the parameters towards windows that do well: it adds `pull` times the height of the
    first field above its mean, less and less as the area comes near the smallest that is wanted. So of places that matter
    equally in the whole, those stay that suffice alone. By default it is .15; in games that hide the set, 0, as each place that
    an answer rests on must go there, also those that do little alone.

    A window alone may do worse than nothing, though the whole needs it. With `game="dual"`, what the whole loses without a
    window counts as well, for twice the passes; by default windows play the search's own game.

    It takes a forward pass for each window, perturbation and weight of the game, for all areas of a query together.
    """

    count: int = 49
    weight: float = 0.5
    pull: float | None = None
    game: Game | str | None = later(None)

    def __post_init__(self) -> None:
        if self.game is not None:
            object.__setattr__(self, "game", Game.named(self.game))
        check_whole("count", self.count)
        check_number("weight", self.weight, "the height of the first field", above=0, most=1)
        if self.pull is not None:
            check_number("pull", self.pull, "a share of the height of the first field", least=0)

    def __call__(
        self, problem: Problem
    ) -> Generator[Stage, None, tuple[Float[Tensor, "B 1 *L"], Float[Tensor, "B 1 *L"]]]:
        """Return parameters `(B, 1, *L)` to begin with, a field for each query, and what the first step of a path adds to them.

        Yield how many windows have been seen.
        """
        sets = problem.parametrisation
        assert isinstance(sets, LevelSets)  # noqa: S101  # for the type checker
        queries, one_each = len(problem.areas), problem.queries
        areas = problem.areas.log().mean(1).exp()
        game = problem.game if self.game is None else Game.named(self.game)
        grid = along_axes(self.count, sets.size)
        centres = list(itertools.product(*map(centres_along, grid, sets.size)))
        values = []
        # The model's batches are then those of all windows together.
        batch = one_each.batch_rows // math.gcd(one_each.batch_rows, queries)
        together = max(1, min(batch, TOGETHER // (queries * math.prod(sets.shape))))
        for first in range(0, len(centres), together):
            yield Stage(LOOKING, first, len(centres))
            masks = torch.cat([window(sets, centre, areas) for centre in centres[first : first + together]])
            rows = replace(one_each.roughly, query=one_each.query.repeat(len(masks) // queries))
            values.append(rows.values(masks, game).view(-1, queries))
        heights = torch.cat(values).mT
        low, high = heights.aminmax(dim=1, keepdim=True)
        rounding = ROUNDING * low.abs().maximum(high.abs())
        heights = (heights - low) / (high - low).maximum(rounding).clamp(min=torch.finfo(heights.dtype).tiny)
        field = enlarged(heights.view(queries, 1, *grid), sets.size).to(sets.everything)
        above = self.weight * (field - like(field.flatten(1).mean(1), field))
        pull = (0.0 if problem.game.drop else PULL) if self.pull is None else self.pull
        return sets.start() + above, pull * above


PULL = 0.15
"""By default, in games that only keep the set."""

ROUNDING = 1e-5
"""Of a score: windows whose scores differ by less do equally well, and the less they differ, the flatter is the field."""

LOOKING = "looking at windows"
"""What is done, for those who wait."""

TOGETHER = 2**22
"""Places of all masks that are made at a time: those of 83 pictures of 224 x 224."""


def along_axes(count: int, size: Sequence[int]) -> tuple[int, ...]:
    """How many windows lie along each axis of a lattice, for about so many in all.

    >>> along_axes(49, (28, 28)), along_axes(49, (28, 42)), along_axes(49, (256,)), along_axes(49, (3, 4))
    ((7, 7), (6, 9), (49,), (3, 4))
    """
    spacing = (math.prod(size) / count) ** (1 / len(size))
    return tuple(min(length, max(1, round(length / spacing))) for length in size)


def centres_along(count: int, length: int) -> list[float]:
    """The middles of so many equal parts of an axis with this many nodes, counted in nodes from the first.

    >>> centres_along(2, 8)
    [1.5, 5.5]
    """
    return [(part + 0.5) * length / count - 0.5 for part in range(count)]


def window(sets: LevelSets, centre: Sequence[float], areas: Float[Tensor, " N"]) -> Float[Tensor, "N 1 *S"]:
    """Masks `(N, 1, *S)` of the places that are nearest to a centre, in nodes of the lattice, with the areas `(N,)`."""
    squares = torch.zeros((), dtype=areas.dtype, device=areas.device)
    for middle, size, length in zip(centre, sets.size, sets.shape, strict=True):
        nodes = torch.arange(length, dtype=areas.dtype, device=areas.device) + 0.5
        squares = squares[..., None] + (nodes * size / length - 0.5 - middle).square()
    nearest = squares.flatten().sort().values
    count = (areas * len(nearest)).round().long().clamp(1, len(nearest) - 1)
    return sets.masks(0.5 + nearest[count].view(-1, *[1] * (squares.ndim + 1)) - squares)
