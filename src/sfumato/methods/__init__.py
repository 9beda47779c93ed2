"""Attribution methods, one file a paper."""

from sfumato.methods.captum import Captum
from sfumato.methods.centre import Centre
from sfumato.methods.deconvnet import Deconvnet
from sfumato.methods.excitation_backprop import ContrastiveExcitationBackprop, ExcitationBackprop
from sfumato.methods.extremal import ExtremalPerturbation
from sfumato.methods.extremal_channels import ExtremalChannels
from sfumato.methods.grad_cam import GradCAM
from sfumato.methods.gradient import Gradient
from sfumato.methods.guided_backprop import GuidedBackprop
from sfumato.methods.linear_approximation import LinearApproximation
from sfumato.methods.meaningful import MeaningfulPerturbation
from sfumato.methods.rise import RISE

__all__ = [
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
]
