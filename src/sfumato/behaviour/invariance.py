r"""The rule that a network does not mind a change: $f(x) = f(x')$ where $x'$ is x rotated by up to 15°, flipped, shifted, ….

Fong & Vedaldi 2017, section 3: $Q_3(x, x'; f, \theta) = \{x \sim_\theta x' \Rightarrow f(x) = f(x')\}$, whose error is
$L = \mathbb{E}[1 - \delta_{Q_3} \mid x \sim_\theta x']$. Answers are never quite equal: how far they differ is the
error here, and "equal" is within ε.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sfumato.behaviour.shares import estimated_share, fewest
from sfumato.behaviour.transformations import Transformation
from sfumato.behaviour.watched import Watched, check_class, check_response
from sfumato.metrics.estimate import Estimate, Measure, Row, estimated, mean
from sfumato.settings import check_number, check_seed, check_whole, is_whole

HOLDS, BROKEN, UNDECIDED = "holds", "broken", "undecided"
"""The upper end of the error's interval is within ε; the lower end is beyond it; neither."""


@dataclass(frozen=True)
class Invariance:
    r"""f is the model's `response` for class `target`; by default for that class which comes first in the picture as it is.

    - `response`: "probability", "sigmoid" and "logit" have the error $\mathbb{E}\,|f(x) - f(x')|$; "top1" the share of changed
      pictures in which another class comes first. Outputs of several labels want "sigmoid" or "logit".
    - `epsilon`: how large the error may be, in the response's units (a share for "top1").
    - `draws`: changed versions of each picture, drawn with `seed` and the picture's name.
    """

    transformation: Transformation
    epsilon: float = 0.05
    response: str = "probability"
    target: int | None = None
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_response(self.response)
        check_number("epsilon", self.epsilon, "how large an error may be", above=0)
        check_whole("draws", self.draws)
        if self.target is not None and not is_whole(self.target):
            raise ValueError(f"target is a class index, or None for the top class; got {self.target!r}")
        check_seed(self.seed)

    def at(self, strength: float) -> "Invariance":
        """The same rule for a transformation of another strength."""
        return replace(self, transformation=self.transformation.at(strength))

    def rows(self, watched: Watched) -> list[Row]:
        r"""For each picture, over its draws: the mean of $|f(x) - f(x')|$ (`change`), its largest (`worst`), the share beyond
        ε (`beyond`) and the share in which another class comes first (`top1`)."""
        whole = watched.whole(self.response)
        draws = self.draws if self.transformation.drawn else 1
        rows: list[Row] = []
        for picture, answers in watched.changed(self.transformation, draws, self.seed, self.response):
            before = whole[picture.name]
            first = int(before.argmax())
            target = first if self.target is None else self.target
            check_class(target, before)
            change = (answers[:, target].double() - before[target].double()).abs()
            rows.append(
                {
                    "picture": picture.name,
                    "label": target,
                    "score": float(before[target]),
                    "change": float(change.mean()),
                    "worst": float(change.max()),
                    "beyond": float((change > self.epsilon).double().mean()),
                    "top1": float((answers.argmax(1) != first).double().mean()),
                }
            )
        return rows

    @property
    def error_column(self) -> str:
        """The column whose mean ε bounds."""
        return "top1" if self.response == "top1" else "change"

    def tested(self, rows: Sequence[Row]) -> Mapping[str, Estimate]:
        """Mean change, share of changes beyond ε, share of changes of the top class: the first of them the error."""
        found = {
            "change": estimated(Measure("change", mean("change"), higher_is_better=False), rows),
            "beyond": estimated_share(Measure("beyond", mean("beyond"), higher_is_better=False, percent=True), rows),
            "top1": estimated_share(Measure("top1", mean("top1"), higher_is_better=False, percent=True), rows),
        }
        if self.response == "top1":  # ε is a share there, and bounds no change of probability
            del found["beyond"]
        return {self.error_column: found[self.error_column]} | found

    def too_few(self, pictures: int) -> str:
        """A sentence where no outcome on so many pictures could show that the rule holds, else nothing."""
        needed = fewest(self.epsilon)
        if self.response != "top1" or pictures >= needed:
            return ""
        return f"to show a share within {self.epsilon:g} takes {needed} pictures at least; there are {pictures}"

    def verdict(self, error: Estimate) -> str:
        """Whether the rule holds: "holds", "broken", or "undecided" where so many pictures cannot tell."""
        return HOLDS if error.high <= self.epsilon else BROKEN if error.low > self.epsilon else UNDECIDED
