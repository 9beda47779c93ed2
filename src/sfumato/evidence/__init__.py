"""What an explanation may claim: each claim about a set of places is tested with the network, and said in a plain sentence.

Read `certificate` first: it tests a result's set by a list of claims. `tested` is the set under test, `claim` what a claim is.
The claims are one file each: `suffices`, `same_answer`, `elsewhere`, `chance`, `needed`, `only`, `steady`, `surviving`. Two of
them use what was measured on other pictures before: `calibration` and `surviving`. `two_models` asks two networks the same
questions, and `limits` says when their answers differ too much.
"""

from sfumato.evidence.calibration import Calibrate as Calibrate
from sfumato.evidence.calibration import Calibration as Calibration
from sfumato.evidence.chance import BetterThanChance as BetterThanChance
from sfumato.evidence.claim import Claim as Claim
from sfumato.evidence.claim import Finding as Finding
from sfumato.evidence.elsewhere import HoldsElsewhere as HoldsElsewhere
from sfumato.evidence.needed import MostlyNeeded as MostlyNeeded
from sfumato.evidence.only import OnlyOne as OnlyOne
from sfumato.evidence.same_answer import SameAnswer as SameAnswer
from sfumato.evidence.steady import Steady as Steady
from sfumato.evidence.suffices import Suffices as Suffices
from sfumato.evidence.surviving import Survival as Survival
from sfumato.evidence.surviving import Survives as Survives
from sfumato.evidence.surviving import survival as survival
from sfumato.evidence.tested import Tested as Tested
from sfumato.evidence.two_models import Differences as Differences
from sfumato.evidence.two_models import compare_models as compare_models
from sfumato.evidence.two_models import summarise as summarise
from sfumato.settings import public_names

vars().update(__all__=public_names(vars()))  # out of sight of type checkers, which read the lines above
