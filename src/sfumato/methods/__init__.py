"""Attribution methods, one file for each paper.

- `method`: the base classes `Method` and `LayerMethod`, with the settings that methods share. Read it first;
- `gradient`, `deconvnet`, `guided_backprop`, `grad_cam`, `layer_cam`, `linear_approximation`, `excitation_backprop`: methods
  that read one backward pass at a layer; `score_cam`: one that weighs a layer's maps by scores;
- `extremal`, `extremal_order`, `extremal_channels`, `meaningful`, `igos`: methods with masks; `masked` is the base of the
  first and the third, and `sufficient` finds the smallest area whose mask keeps the score;
- `rise`, `sobol`, `hsic`: methods that only score sampled masks; `sampled` is their base;
- `greedy_order`: regions in the order in which they serve the score;
- `inversion` and `natural`: feature inversion, and the priors of its pictures;
- `captum`: methods of Captum; `centre`: a baseline; `compat`: these methods in the forms of other libraries.

A new method is one file, and one line below, at its place in the list of methods.
"""

# isort: off
# The lines stand in the order in which `sfumato methods` and the documentation list the methods.
from sfumato.methods.extremal import ExtremalPerturbation as ExtremalPerturbation
from sfumato.methods.extremal_order import ExtremalOrder as ExtremalOrder
from sfumato.methods.meaningful import MeaningfulPerturbation as MeaningfulPerturbation
from sfumato.methods.igos import IGOS as IGOS
from sfumato.methods.igos import IGOSPlus as IGOSPlus
from sfumato.methods.gradient import Gradient as Gradient
from sfumato.methods.deconvnet import Deconvnet as Deconvnet
from sfumato.methods.guided_backprop import GuidedBackprop as GuidedBackprop
from sfumato.methods.grad_cam import GradCAM as GradCAM
from sfumato.methods.layer_cam import LayerCAM as LayerCAM
from sfumato.methods.score_cam import ScoreCAM as ScoreCAM
from sfumato.methods.linear_approximation import LinearApproximation as LinearApproximation
from sfumato.methods.excitation_backprop import ExcitationBackprop as ExcitationBackprop
from sfumato.methods.excitation_backprop import ContrastiveExcitationBackprop as ContrastiveExcitationBackprop
from sfumato.methods.rise import RISE as RISE
from sfumato.methods.sobol import Sobol as Sobol
from sfumato.methods.hsic import HSIC as HSIC
from sfumato.methods.greedy_order import GreedyOrder as GreedyOrder
from sfumato.methods.extremal_channels import ExtremalChannels as ExtremalChannels
from sfumato.methods.captum import Captum as Captum
from sfumato.methods.centre import Centre as Centre

# isort: on
from sfumato.settings import public_names

vars().update(__all__=public_names(vars()))  # out of sight of type checkers, which read the lines above
