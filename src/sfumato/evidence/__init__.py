"""What an explanation may claim: each claim about a set of places is tested with the network, and said in a plain sentence.

Read `certificate` first: it tests a result's set by a list of claims. `tested` is the set under test, `claim` what a claim is.
The claims are one file each: `suffices`, `elsewhere`, `chance`, `needed`, `only`, `steady`.
"""

from sfumato.evidence.certificate import Certificate as Certificate
from sfumato.evidence.certificate import Certify as Certify
from sfumato.evidence.chance import BetterThanChance as BetterThanChance
from sfumato.evidence.claim import Claim as Claim
from sfumato.evidence.claim import Finding as Finding
from sfumato.evidence.elsewhere import HoldsElsewhere as HoldsElsewhere
from sfumato.evidence.needed import AllNeeded as AllNeeded
from sfumato.evidence.only import OnlyOne as OnlyOne
from sfumato.evidence.steady import Steady as Steady
from sfumato.evidence.suffices import Suffices as Suffices
from sfumato.evidence.tested import Tested as Tested
