r"""The strongest transformation under which an invariance still holds within ε.

The most informative rule of its kind (Fong & Vedaldi 2017, section 3: the regulariser $R(Q_3(\cdot\,; \theta)) = -\theta$),
found by bisection on the *upper confidence bound* of its error. Where the error rises with strength, and the bound with it,
this needs no correction for having looked several times: the answer is wrong only if the bound fails at the one strength
at which the error crosses ε (Bates, Angelopoulos, Lei, Malik & Jordan: *Distribution-free, risk-controlling prediction
sets*, Journal of the ACM, 2021). All strengths share their draws, so that the bound does rise but for noise.

The bound is a bootstrap's, which is too low for skewed changes in few pictures. Where 2.5 % of answers should be too strong, of
400 simulated searches with exponential changes 6 % were with 24 pictures, 3 % with 48, and 2.5 % with 200.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from sfumato.behaviour.invariance import Invariance
from sfumato.behaviour.watched import Watched
from sfumato.metrics.estimate import Estimate
from sfumato.settings import check_number

TOLERANCE = 0.05
LOOKS = 14


@dataclass(frozen=True)
class Look:
    """One strength tried."""

    strength: float
    error: Estimate
    holds: bool
    """Whether the upper bound of the error is within ε."""


@dataclass(frozen=True)
class Strongest:
    """What a search found: `strength` is the largest tried at which the rule held, 0 if it held at none."""

    strength: float
    fails: float | None
    """The least strength tried at which it did not hold; `None` where it held at the strongest there is."""
    curve: tuple[Look, ...]
    """All that was tried, weakest first."""
    tested: Mapping[str, Estimate]
    """All errors at `strength`; empty for 0."""

    @property
    def rises(self) -> bool:
        """Whether the error rose with strength wherever it was looked at, as the search takes for granted."""
        errors = [look.error.value for look in self.curve]
        return all(weaker <= stronger for weaker, stronger in pairwise(errors))


def strongest(
    rule: Invariance,
    watched: Watched,
    most: float | None = None,
    tolerance: float = TOLERANCE,
    progress: Callable[[Look], object] | None = None,
) -> Strongest:
    """Search from 0 to `most`, by default the transformation's own, until the answer is known within a fraction `tolerance`.

    Raises `ValueError` where there is no such strength, or so few pictures that none could be found.
    """
    most = rule.transformation.most if most is None else most
    check_number("most", most, "the strongest to be tried", above=0)
    check_number("tolerance", tolerance, "a fraction of the strength", above=0, below=1)
    rule.at(most)  # raises where there is no such strength
    if reason := rule.too_few(len(watched.whole(rule.response))):
        raise ValueError(reason)
    found: dict[float, Mapping[str, Estimate]] = {}

    def error(strength: float) -> Estimate:
        changed = rule.at(strength)
        found[strength] = changed.tested(changed.rows(watched))
        return found[strength][rule.error_column]

    tried = []
    for look in looks(error, rule.epsilon, most, tolerance, LOOKS if rule.transformation.graded else 1):
        tried.append(look)
        if progress is not None:
            progress(look)
    held = max((look.strength for look in tried if look.holds), default=0.0)
    return Strongest(
        strength=held,
        fails=min((look.strength for look in tried if not look.holds), default=None),
        curve=tuple(sorted(tried, key=lambda look: look.strength)),
        tested=found.get(held, {}),
    )


def looks(
    error: Callable[[float], Estimate], epsilon: float, most: float, tolerance: float = TOLERANCE, count: int = LOOKS
) -> Iterator[Look]:
    """Bisection, from `most` down: at most `count` looks at the error, fewer where the answer is known well enough."""
    held, strength = 0.0, most
    failed: float | None = None
    for _ in range(count):
        found = error(strength)
        holds = found.high <= epsilon  # not where it is NaN
        yield Look(strength, found, holds)
        if holds:
            held = strength
        else:
            failed = strength
        if failed is None or failed - held <= tolerance * failed:
            return
        strength = (held + failed) / 2
