"""sfumato shows what a deep network needs to see.

Names are imported at their first use, so that a command line that needs no tensors starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato import behaviour as behaviour
    from sfumato import data as data
    from sfumato import metrics as metrics
    from sfumato import models as models
    from sfumato.attribution import Attribution, load
    from sfumato.behaviour.per_class import ClassChannels, class_channels
    from sfumato.data import samples as samples
    from sfumato.figures import annotations as annotations
    from sfumato.figures import plots as plots
    from sfumato.figures import report as report
    from sfumato.figures import sheets as sheets
    from sfumato.games import DELETE, DUAL, PRESERVE, Game
    from sfumato.layers.below import activations
    from sfumato.masks.canvas import CanvasMask
    from sfumato.masks.grid import GridMask
    from sfumato.masks.smooth import SmoothMask
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
    from sfumato.methods.compat import captum as captum
    from sfumato.methods.compat import quantus as quantus
    from sfumato.methods.inversion import Inversion, invert, masked
    from sfumato.methods.natural import Fourier, Pixels
    from sfumato.methods.sufficient import SmallestArea, smallest
    from sfumato.model.arguments import Shared, WithArguments
    from sfumato.perturbations import Blur, Constant, Fade, Noise
    from sfumato.scores import Contrastive, Logit, LogOdds, Output, Probability, Score, Sigmoid
    from sfumato.search.evolution import EvolutionAscent
    from sfumato.space.jitter import Jitter

HOME = {
    "model.arguments": ("Shared", "WithArguments"),
    "attribution": ("Attribution", "load"),
    "search.evolution": ("EvolutionAscent",),
    "masks.canvas": ("CanvasMask",),
    "games": ("DELETE", "DUAL", "PRESERVE", "Game"),
    "masks.grid": ("GridMask",),
    "methods.inversion": ("Inversion", "invert", "masked"),
    "space.jitter": ("Jitter",),
    "layers.below": ("activations",),
    "masks.smooth": ("SmoothMask",),
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
    "methods.natural": ("Fourier", "Pixels"),
    "behaviour.per_class": ("ClassChannels", "class_channels"),
    "perturbations": ("Blur", "Constant", "Fade", "Noise"),
    "scores": ("Contrastive", "LogOdds", "Logit", "Output", "Probability", "Score", "Sigmoid"),
    "methods.sufficient": ("SmallestArea", "smallest"),
}
MODULES = {
    "annotations": "figures.annotations",
    "behaviour": "behaviour",
    "captum": "methods.compat.captum",
    "data": "data",
    "metrics": "metrics",
    "models": "models",
    "plots": "figures.plots",
    "quantus": "methods.compat.quantus",
    "report": "figures.report",
    "samples": "data.samples",
    "sheets": "figures.sheets",
}

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
        return import_module(f"sfumato.{MODULES[name]}")
    for module, names in HOME.items():
        if name in names:
            return getattr(import_module(f"sfumato.{module}"), name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
