"""sfumato shows what a deep network needs to see."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sfumato.attribution import Attribution, load
from sfumato.canvas import CanvasMask
from sfumato.games import DELETE, DUAL, PRESERVE, Game
from sfumato.jitter import Jitter
from sfumato.masks import SmoothMask
from sfumato.methods import ExtremalPerturbation
from sfumato.perturbations import Blur, Constant, Fade, Noise
from sfumato.scores import Contrastive, Logit, Output, Probability, Score
from sfumato.smallest import SmallestArea, smallest

if TYPE_CHECKING:
    from sfumato import models as models
    from sfumato import plots as plots
    from sfumato import samples as samples

__all__ = [
    "DELETE", "DUAL", "PRESERVE", "Attribution", "Blur", "CanvasMask", "Constant", "Contrastive",
    "ExtremalPerturbation", "Fade", "Game", "Jitter", "Logit", "Noise", "Output", "Probability", "Score", "SmallestArea",
    "SmoothMask",
    "load", "models", "plots", "samples", "smallest",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`sfumato.models`, `plots` and `samples` are imported at first use."""
    if name in ("models", "plots", "samples"):
        return import_module(f"sfumato.{name}")
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
