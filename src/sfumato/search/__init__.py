"""The search for masks: loops that climb, schedules, and what they share.

`ascent` first: gradient, step, projection. `black_box` needs no gradients. `search` holds the model for the time of a search.
"""

from sfumato.search.ascent import PenalisedAscent, ProjectedAscent
from sfumato.search.black_box import EvolutionAscent
from sfumato.search.schedules import Geometric

__all__ = ["EvolutionAscent", "Geometric", "PenalisedAscent", "ProjectedAscent"]
