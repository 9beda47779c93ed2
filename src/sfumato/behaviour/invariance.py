r"""The rule that a network's answer does not change: $f(x) = f(x')$, where $x'$ is x rotated by up to 15°, flipped, ….

R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296.

Section 3: $Q_3(x, x'; f, \theta) = \{x \sim_\theta x' \Rightarrow f(x) = f(x')\}$, whose error is
$L = \mathbb{E}[1 - \delta_{Q_3} \mid x \sim_\theta x']$. As answers are never exactly equal, the error here is how far they
differ, and the rule allows an error of up to ε.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sfumato.behaviour.shares import estimated_share, pictures_needed
from sfumato.behaviour.transformations import Transformation
from sfumato.behaviour.watched import Watched, check_class, check_response
from sfumato.metrics.estimate import Estimate, Measure, Row, estimated, mean
from sfumato.settings import Settings, check_number, check_seed, check_whole, is_whole

HOLDS, BROKEN, UNDECIDED = "holds", "broken", "undecided"
"""The verdicts: the upper end of the error's interval is at most ε; the lower end is more than ε; neither."""


@dataclass(frozen=True)
class Invariance(Settings):
    r"""f is the model's `response` for the class `target`; by default for the top class of the unchanged picture.

    - `response`: the error of "probability", "sigmoid" and "logit" is $\mathbb{E}\,|f(x) - f(x')|$. The error of "top1" is the
      share of changed pictures with another top class. Use "sigmoid" or "logit" for models with several labels at a time.
    - `epsilon`: how large the error may be, in the units of the response (a share for "top1").
    - `draws`: how many changed versions of each picture are drawn, from `seed` and the picture's name.
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
            raise ValueError(f"target must be a class index, or None for the top class; got {self.target!r}")
        check_seed(self.seed)

    def at(self, strength: float) -> "Invariance":
        """The same rule with another strength of the transformation."""
        return replace(self, transformation=self.transformation.at(strength))

    def rows(self, watched: Watched) -> list[Row]:
        r"""One row for each picture, over its draws.

        It holds the mean of $|f(x) - f(x')|$ (`change`), its largest value (`worst`), the share of values above ε (`beyond`)
        and the share with another top class (`top1`).
        """
        unchanged = watched.whole(self.response)
        draws = self.draws if self.transformation.drawn else 1
        rows: list[Row] = []
        for picture, answers in watched.changed(self.transformation, draws, self.seed, self.response):
            before = unchanged[picture.name]
            top = int(before.argmax())
            target = top if self.target is None else self.target
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
                    "top1": float((answers.argmax(1) != top).double().mean()),
                }
            )
        return rows

    @property
    def error_column(self) -> str:
        """The column whose mean is the error, which ε bounds."""
        return "top1" if self.response == "top1" else "change"

    def tested(self, rows: Sequence[Row]) -> Mapping[str, Estimate]:
        """The error first, then the mean change, the share of changes above ε, and the share of changes of the top class."""
        estimates = {
            "change": estimated(Measure("change", mean("change"), higher_is_better=False), rows),
            "beyond": estimated_share(Measure("beyond", mean("beyond"), higher_is_better=False, percent=True), rows),
            "top1": estimated_share(Measure("top1", mean("top1"), higher_is_better=False, percent=True), rows),
        }
        if self.response == "top1":  # ε is a share then, not a change of probability
            del estimates["beyond"]
        return {self.error_column: estimates[self.error_column]} | estimates

    def too_few(self, pictures: int) -> str:
        """A sentence if so few pictures cannot show that the rule holds, whatever they are; else empty."""
        needed = pictures_needed(self.epsilon)
        if self.response != "top1" or pictures >= needed:
            return ""
        return f"to show a share of at most {self.epsilon:g} takes at least {needed} pictures; there are {pictures}"

    def verdict(self, error: Estimate) -> str:
        """The verdict on the rule: "holds", "broken", or "undecided" if there are too few pictures to decide."""
        return HOLDS if error.high <= self.epsilon else BROKEN if error.low > self.epsilon else UNDECIDED
