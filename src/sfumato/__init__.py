"""sfumato shows what a deep network needs to see.

Names are imported at their first use, so that a command line that needs no tensors starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato import annotations as annotations
    from sfumato import behaviour as behaviour
    from sfumato import captum as captum
    from sfumato import data as data
    from sfumato import metrics as metrics
    from sfumato import models as models
    from sfumato import plots as plots
    from sfumato import quantus as quantus
    from sfumato import report as report
    from sfumato import samples as samples
    from sfumato import sheets as sheets
    from sfumato.arguments import Shared, WithArguments
    from sfumato.attribution import Attribution, load
    from sfumato.blackbox import EvolutionAscent
    from sfumato.canvas import CanvasMask
    from sfumato.games import DELETE, DUAL, PRESERVE, Game
    from sfumato.grid_mask import GridMask
    from sfumato.inversion import Inversion, invert, masked
    from sfumato.jitter import Jitter
    from sfumato.lower import activations
    from sfumato.masks import SmoothMask
    from sfumato.methods import (
        RISE,
        Captum,
        Centre,
        ContrastiveExcitationBackprop,
        Deconvnet,
        ExcitationBackprop,
        ExtremalChannels,
        ExtremalPerturbation,
        GradCAM,
        Gradient,
        GuidedBackprop,
        LinearApproximation,
        MeaningfulPerturbation,
    )
    from sfumato.natural import Fourier, Pixels
    from sfumato.per_class import ClassChannels, class_channels
    from sfumato.perturbations import Blur, Constant, Fade, Noise
    from sfumato.scores import Contrastive, Logit, LogOdds, Output, Probability, Score, Sigmoid
    from sfumato.sufficient import SmallestArea, smallest

HOME = {
    "arguments": ("Shared", "WithArguments"),
    "attribution": ("Attribution", "load"),
    "blackbox": ("EvolutionAscent",),
    "canvas": ("CanvasMask",),
    "games": ("DELETE", "DUAL", "PRESERVE", "Game"),
    "grid_mask": ("GridMask",),
    "inversion": ("Inversion", "invert", "masked"),
    "jitter": ("Jitter",),
    "lower": ("activations",),
    "masks": ("SmoothMask",),
    "methods": (
        "RISE",
        "Captum",
        "Centre",
        "ContrastiveExcitationBackprop",
        "Deconvnet",
        "ExcitationBackprop",
        "ExtremalChannels",
        "ExtremalPerturbation",
        "GradCAM",
        "Gradient",
        "GuidedBackprop",
        "LinearApproximation",
        "MeaningfulPerturbation",
    ),
    "natural": ("Fourier", "Pixels"),
    "per_class": ("ClassChannels", "class_channels"),
    "perturbations": ("Blur", "Constant", "Fade", "Noise"),
    "scores": ("Contrastive", "LogOdds", "Logit", "Output", "Probability", "Score", "Sigmoid"),
    "sufficient": ("SmallestArea", "smallest"),
}
MODULES = (
    "annotations",
    "behaviour",
    "captum",
    "data",
    "metrics",
    "models",
    "plots",
    "quantus",
    "report",
    "samples",
    "sheets",
)

__all__ = [
    "DELETE",
    "DUAL",
    "PRESERVE",
    "RISE",
    "Attribution",
    "Blur",
    "CanvasMask",
    "Captum",
    "Centre",
    "ClassChannels",
    "Constant",
    "Contrastive",
    "ContrastiveExcitationBackprop",
    "Deconvnet",
    "EvolutionAscent",
    "ExcitationBackprop",
    "ExtremalChannels",
    "ExtremalPerturbation",
    "Fade",
    "Fourier",
    "Game",
    "GradCAM",
    "Gradient",
    "GridMask",
    "GuidedBackprop",
    "Inversion",
    "Jitter",
    "LinearApproximation",
    "LogOdds",
    "Logit",
    "MeaningfulPerturbation",
    "Noise",
    "Output",
    "Pixels",
    "Probability",
    "Score",
    "Shared",
    "Sigmoid",
    "SmallestArea",
    "SmoothMask",
    "WithArguments",
    "activations",
    "annotations",
    "behaviour",
    "captum",
    "class_channels",
    "data",
    "invert",
    "load",
    "masked",
    "metrics",
    "models",
    "plots",
    "quantus",
    "report",
    "samples",
    "sheets",
    "smallest",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"sfumato.{name}")
    for module, names in HOME.items():
        if name in names:
            return getattr(import_module(f"sfumato.{module}"), name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
