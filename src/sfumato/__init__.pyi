# The public names, one line a name. Type checkers read this file, and `__init__.py` reads it at run time.

from sfumato import behaviour as behaviour
from sfumato import data as data
from sfumato import metrics as metrics
from sfumato import models as models
from sfumato.attribution import Attribution as Attribution
from sfumato.attribution import load as load
from sfumato.behaviour.per_class import ClassChannels as ClassChannels
from sfumato.behaviour.per_class import class_channels as class_channels
from sfumato.data import samples as samples
from sfumato.figures import annotations as annotations
from sfumato.figures import plots as plots
from sfumato.figures import report as report
from sfumato.figures import sheets as sheets
from sfumato.games import DELETE as DELETE
from sfumato.games import DUAL as DUAL
from sfumato.games import PRESERVE as PRESERVE
from sfumato.games import Game as Game
from sfumato.layers.below import activations as activations
from sfumato.masks.canvas import CanvasMask as CanvasMask
from sfumato.masks.grid import GridMask as GridMask
from sfumato.masks.level_set import LevelSet as LevelSet
from sfumato.masks.regions import Cells as Cells
from sfumato.masks.regions import Superpixels as Superpixels
from sfumato.masks.smooth import SmoothMask as SmoothMask
from sfumato.methods import *  # noqa: F403  # its own export lines
from sfumato.methods.compat import captum as captum
from sfumato.methods.compat import quantus as quantus
from sfumato.methods.inversion import Inversion as Inversion
from sfumato.methods.inversion import invert as invert
from sfumato.methods.inversion import masked as masked
from sfumato.methods.method import LayerMethod as LayerMethod
from sfumato.methods.method import Method as Method
from sfumato.methods.natural import Fourier as Fourier
from sfumato.methods.natural import Pixels as Pixels
from sfumato.methods.sufficient import SmallestArea as SmallestArea
from sfumato.methods.sufficient import smallest as smallest
from sfumato.model.arguments import Shared as Shared
from sfumato.model.arguments import WithArguments as WithArguments
from sfumato.papers import citation as citation
from sfumato.perturbations import Blur as Blur
from sfumato.perturbations import Constant as Constant
from sfumato.perturbations import Fade as Fade
from sfumato.perturbations import Noise as Noise
from sfumato.scores import Contrastive as Contrastive
from sfumato.scores import Logit as Logit
from sfumato.scores import LogOdds as LogOdds
from sfumato.scores import Output as Output
from sfumato.scores import Probability as Probability
from sfumato.scores import Score as Score
from sfumato.scores import Sigmoid as Sigmoid
from sfumato.search.evolution import EvolutionAscent as EvolutionAscent
from sfumato.search.level_set import LevelSetAscent as LevelSetAscent
from sfumato.search.nested import NestedAscent as NestedAscent
from sfumato.space.jitter import Jitter as Jitter

__version__: str
