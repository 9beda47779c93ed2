"""The search for masks: one loop, and what varies around it as values that compose.

`loop` first: gradient, step, projection. `rules` say where a gradient leads, `schedules` what changes with the step, and
`projection` brings a mask back to its area. `best` keeps the best so far, and makes rounds of loops. `problem` is what is
climbed. Of these, `level_set` (with `windows` and `pruning`), `nested`, `projected`, `penalised` and `evolution` are made; a
new ascent is a file like theirs. `search` is a method at work.
"""

from sfumato.search.evolution import EvolutionAscent
from sfumato.search.level_set import LevelSetAscent
from sfumato.search.nested import NestedAscent
from sfumato.search.penalised import PenalisedAscent
from sfumato.search.projected import ProjectedAscent
from sfumato.search.pruning import Pruning
from sfumato.search.rules import Backtracking, Momentum, TorchOptimiser
from sfumato.search.schedules import Geometric
from sfumato.search.windows import Windows

__all__ = [
    "Backtracking",
    "EvolutionAscent",
    "Geometric",
    "LevelSetAscent",
    "Momentum",
    "NestedAscent",
    "PenalisedAscent",
    "ProjectedAscent",
    "Pruning",
    "TorchOptimiser",
    "Windows",
]
