"""Protocols by which explanations are judged, one file each."""

from sfumato.metrics.accuracy import Accuracy
from sfumato.metrics.agreement import Agreement
from sfumato.metrics.case import Case, Window
from sfumato.metrics.deletion_game import DeletionGame
from sfumato.metrics.energy_pointing import EnergyPointing
from sfumato.metrics.estimate import Estimate, Measure
from sfumato.metrics.insertion_deletion import InsertionDeletion
from sfumato.metrics.monotonicity import Monotonicity
from sfumato.metrics.pointing import PointingGame
from sfumato.metrics.protocol import Protocol
from sfumato.metrics.randomisation import Randomisation
from sfumato.metrics.stability import Stability
from sfumato.metrics.sufficient_area import SufficientArea
from sfumato.metrics.transfer import Transfer
from sfumato.metrics.weak_localisation import WeakLocalisation

__all__ = [
    "Accuracy",
    "Agreement",
    "Case",
    "DeletionGame",
    "EnergyPointing",
    "Estimate",
    "InsertionDeletion",
    "Measure",
    "Monotonicity",
    "PointingGame",
    "Protocol",
    "Randomisation",
    "Stability",
    "SufficientArea",
    "Transfer",
    "WeakLocalisation",
    "Window",
]
