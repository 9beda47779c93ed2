"""Explanations as rules that predict a network's answers, tested on pictures (Fong & Vedaldi, ICCV 2017, section 3).

Rules are `invariance.py` and `presence.py`. `watched.py` computes the network's answers, `strongest.py` searches for the
strongest transformation, and `written_rules.py` reads rules from a command line or a file. `per_class.py` finds the channels
that a class needs.
"""

from sfumato.behaviour.invariance import Invariance as Invariance
from sfumato.behaviour.presence import Presence as Presence
from sfumato.behaviour.strongest import StrengthTest as StrengthTest
from sfumato.behaviour.strongest import Strongest as Strongest
from sfumato.behaviour.strongest import strongest as strongest
from sfumato.behaviour.transformations import Blurring as Blurring
from sfumato.behaviour.transformations import Brightness as Brightness
from sfumato.behaviour.transformations import Contrast as Contrast
from sfumato.behaviour.transformations import Flip as Flip
from sfumato.behaviour.transformations import Levels as Levels
from sfumato.behaviour.transformations import Noisiness as Noisiness
from sfumato.behaviour.transformations import Rotation as Rotation
from sfumato.behaviour.transformations import Scaling as Scaling
from sfumato.behaviour.transformations import Shift as Shift
from sfumato.behaviour.transformations import Together as Together
from sfumato.behaviour.transformations import Transformation as Transformation
from sfumato.behaviour.watched import Picture as Picture
from sfumato.behaviour.watched import Watched as Watched
from sfumato.settings import public_names

vars().update(__all__=public_names(vars()))  # out of sight of type checkers, which read the lines above
