"""Protocols: tests that judge explanations, one file each.

`protocol.py` is their base, `case.py` the input of `measure`. `estimate.py` computes means with intervals from the rows of
`measure`; `statistic.py`, `intervals.py` and `bags.py` hold its parts.
"""

from sfumato.metrics.accuracy import Accuracy as Accuracy
from sfumato.metrics.agreement import Agreement as Agreement
from sfumato.metrics.area_under_roc import AreaUnderROC as AreaUnderROC
from sfumato.metrics.artefacts import Artefacts as Artefacts
from sfumato.metrics.case import Case as Case
from sfumato.metrics.case import Window as Window
from sfumato.metrics.deletion_game import DeletionGame as DeletionGame
from sfumato.metrics.energy_pointing import EnergyPointing as EnergyPointing
from sfumato.metrics.estimate import Estimate as Estimate
from sfumato.metrics.estimate import Measure as Measure
from sfumato.metrics.insertion_deletion import InsertionDeletion as InsertionDeletion
from sfumato.metrics.monotonicity import Monotonicity as Monotonicity
from sfumato.metrics.part_importance import PartImportance as PartImportance
from sfumato.metrics.pointing import PointingGame as PointingGame
from sfumato.metrics.protocol import Protocol as Protocol
from sfumato.metrics.randomisation import Randomisation as Randomisation
from sfumato.metrics.stability import Stability as Stability
from sfumato.metrics.sufficient_area import SufficientArea as SufficientArea
from sfumato.metrics.transfer import Transfer as Transfer
from sfumato.metrics.weak_localisation import WeakLocalisation as WeakLocalisation
from sfumato.settings import public_names

vars().update(__all__=public_names(vars()))  # out of sight of type checkers, which read the lines above
