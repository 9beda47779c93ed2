r"""The strongest transformation under which an invariance still holds, with an error of at most ε.

It is the most informative rule of its kind (R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful
perturbation*, ICCV 2017, arXiv 1704.03296, section 3: the regulariser $R(Q_3(\cdot\,; \theta)) = -\theta$). A bisection on the
*upper confidence bound* of the error finds it. If the error and its bound rise with strength, this needs no correction for
several tests: the result is wrong only if the bound fails at the one strength at which the error crosses ε (S. Bates, A.
Angelopoulos, L. Lei, J. Malik, M. Jordan: *Distribution-free, risk-controlling prediction sets*, Journal of the ACM 2021,
arXiv 2101.02703). All strengths share their draws, so that the bound rises, apart from noise.

The bound comes from a bootstrap, which is too low for skewed changes in few pictures. By design, 2.5 % of the results are too
strong. Of 400 simulated searches with exponential changes, it was 6 % with 24 pictures, 3 % with 48, and 2.5 % with 200.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from sfumato.behaviour.invariance import Invariance
from sfumato.behaviour.watched import Watched
from sfumato.metrics.estimate import Estimate
from sfumato.settings import Settings, check_number

TOLERANCE = 0.05
MOST_TESTS = 14


@dataclass(frozen=True)
class StrengthTest(Settings):
    """The test of one strength."""

    strength: float
    error: Estimate
    holds: bool
    """Whether the upper bound of the error is at most ε."""


@dataclass(frozen=True)
class Strongest(Settings):
    """The result of a search: `strength` is the largest tested one at which the rule holds; 0 if it holds at none."""

    strength: float
    fails: float | None
    """The smallest tested strength at which the rule does not hold; `None` if it holds at the largest."""
    curve: tuple[StrengthTest, ...]
    """All tests, the weakest strength first."""
    tested: Mapping[str, Estimate]
    """All errors at `strength`; empty for 0."""

    @property
    def rises(self) -> bool:
        """Whether the error rises with strength at all tested strengths, as the search assumes."""
        errors = [test.error.value for test in self.curve]
        return all(weaker <= stronger for weaker, stronger in pairwise(errors))


def strongest(
    rule: Invariance,
    watched: Watched,
    most: float | None = None,
    tolerance: float = TOLERANCE,
    progress: Callable[[StrengthTest], object] | None = None,
) -> Strongest:
    """Search between 0 and `most`, by default the transformation's own, until the strength is known to a fraction `tolerance`.

    `progress` is called with each test. Raises `ValueError` if `most` is no strength of the transformation, or if there are
    too few pictures to find any strength.
    """
    most = rule.transformation.most if most is None else most
    check_number("most", most, "the strongest to be tried", above=0)
    check_number("tolerance", tolerance, "a fraction of the strength", above=0, below=1)
    rule.at(most)  # raises if there is no such strength
    if reason := rule.too_few(len(watched.whole(rule.response))):
        raise ValueError(reason)
    estimates: dict[float, Mapping[str, Estimate]] = {}

    def error(strength: float) -> Estimate:
        rule_at_strength = rule.at(strength)
        estimates[strength] = rule_at_strength.tested(rule_at_strength.rows(watched))
        return estimates[strength][rule.error_column]

    tests = []
    for test in bisect(error, rule.epsilon, most, tolerance, MOST_TESTS if rule.transformation.graded else 1):
        tests.append(test)
        if progress is not None:
            progress(test)
    strength = max((test.strength for test in tests if test.holds), default=0.0)
    return Strongest(
        strength=strength,
        fails=min((test.strength for test in tests if not test.holds), default=None),
        curve=tuple(sorted(tests, key=lambda test: test.strength)),
        tested=estimates.get(strength, {}),
    )


def bisect(
    error: Callable[[float], Estimate],
    epsilon: float,
    most: float,
    tolerance: float = TOLERANCE,
    count: int = MOST_TESTS,
) -> Iterator[StrengthTest]:
    """Bisection between 0 and `most`, from `most`: yield at most `count` tests, until the strength is known to `tolerance`."""
    low, strength = 0.0, most  # the rule holds at `low`
    high: float | None = None  # the rule fails at `high`
    for _ in range(count):
        estimate = error(strength)
        holds = estimate.high <= epsilon  # False for NaN
        yield StrengthTest(strength, estimate, holds)
        if holds:
            low = strength
        else:
            high = strength
        if high is None or high - low <= tolerance * high:
            return
        strength = (low + high) / 2
