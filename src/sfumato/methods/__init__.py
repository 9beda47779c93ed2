"""Attribution methods, one file a paper."""

from sfumato.methods.captum import Captum
from sfumato.methods.extremal import ExtremalPerturbation
from sfumato.methods.meaningful import MeaningfulPerturbation

__all__ = ["Captum", "ExtremalPerturbation", "MeaningfulPerturbation"]
