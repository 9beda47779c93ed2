"""A claim about a set of places, and what a test of it finds."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool
from torch import Tensor

from sfumato.evidence.tested import Tested
from sfumato.settings import Settings

NOTHING = "The hidden picture scores about as much as the whole one, or more, so nothing can be said."
"""Where places have no worth, see `sfumato.evidence.worth`."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What the test of a claim found."""

    claim: str
    """The claim in two or three words."""
    holds: bool | None
    """Whether the claim holds; `None` where the test cannot tell."""
    sentence: str
    """What was found, in a plain sentence with its numbers."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by name; scores are shares, see `sfumato.evidence.worth`."""
    sets: Mapping[str, Bool[Tensor, "*S"]] = field(default_factory=dict)
    """Other sets of places that the test came upon, by name."""


class Claim(Settings, ABC):
    """A claim about a set of places. It is a frozen dataclass of settings; `test` asks the network."""

    @abstractmethod
    def test(self, tested: Tested) -> Finding:
        """Test it for one set."""
