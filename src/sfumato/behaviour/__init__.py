"""Explanations as rules that predict a network's answers, tested on pictures (Fong & Vedaldi, ICCV 2017, section 3)."""

from sfumato.behaviour.invariance import Invariance
from sfumato.behaviour.presence import Presence
from sfumato.behaviour.strongest import Look, Strongest, strongest
from sfumato.behaviour.transformations import (
    Blurring,
    Brightness,
    Contrast,
    Flip,
    Levels,
    Noisiness,
    Rotation,
    Scaling,
    Shift,
    Together,
    Transformation,
)
from sfumato.behaviour.watched import Picture, Watched

__all__ = [
    "Blurring",
    "Brightness",
    "Contrast",
    "Flip",
    "Invariance",
    "Levels",
    "Look",
    "Noisiness",
    "Picture",
    "Presence",
    "Rotation",
    "Scaling",
    "Shift",
    "Strongest",
    "Together",
    "Transformation",
    "Watched",
    "strongest",
]
