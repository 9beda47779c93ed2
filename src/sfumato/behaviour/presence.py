r"""The rule that a network answers to a class: $f(x) > t$ if and only if the class is in the picture.

Fong & Vedaldi 2017, section 3: $Q_1(x; f) = \{x \in X_c \Leftrightarrow f(x) = +1\}$, whose error is
$L_1 = \mathbb{E}[1 - \delta_{Q_1(x; f)}]$ over pictures that were not used to make the rule.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sfumato.behaviour.shares import estimated_share, widened
from sfumato.behaviour.watched import Watched, check_class, check_response
from sfumato.metrics.estimate import Array, Columns, Estimate, Measure, Row, estimated, mean
from sfumato.settings import check_number, check_seed


@dataclass(frozen=True)
class Presence:
    """f is the model's `response` for its class `target`; the class goes by `label` in the data set.

    - `threshold`: t, in the response's units; `None` to learn it on a share `learn` of the pictures, drawn with `seed` in equal
      parts from those with and without the class. The rule is then tested on the rest. "top1" needs none: the class
      comes first or does not.
    - What is learnt has the least *balanced* error, the mean of false alarms and misses: of a rare class, never to speak of
      it has the least error. It lies midway between two scores; among equals, where these are furthest apart.
    """

    target: int
    label: str
    threshold: float | None = None
    response: str = "probability"
    learn: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_response(self.response)
        if self.threshold is not None:
            check_number("threshold", self.threshold, "in the response's units")
        check_number("learn", self.learn, "the share of pictures to learn from", above=0, below=1)
        check_seed(self.seed)

    def rows(self, watched: Watched) -> list[Row]:
        """For each picture, f(x) and whether the class is present; doubtful ones are left out."""
        whole = watched.whole(self.response)
        check_class(self.target, next(iter(whole.values())))
        rows: list[Row] = []
        for picture in watched.pictures:
            if self.label in picture.doubtful:
                continue
            values = whole[picture.name]
            first = int(values.argmax()) == self.target
            score = float(first) if self.response == "top1" else float(values[self.target])
            rows.append({"picture": picture.name, "score": score, "present": self.label in picture.present})
        with_class = sum(bool(row["present"]) for row in rows)
        if not 0 < with_class < len(rows):
            raise ValueError(
                f"a rule on the presence of {self.label!r} needs pictures with it and without; "
                f"{with_class} of {len(rows)} have it"
            )
        return rows

    def learnt(self, rows: Sequence[Row]) -> tuple["Presence", list[Row]]:
        """The rule with its threshold, and the rows that it has not seen: all of them where the threshold was given."""
        if self.response == "top1" and self.threshold is None:
            return replace(self, threshold=0.5), list(rows)
        if self.threshold is not None:
            return self, list(rows)
        seen = self._drawn(rows)
        score = np.array([row["score"] for row in rows if row["picture"] in seen], float)
        present = np.array([row["present"] for row in rows if row["picture"] in seen], bool)
        return replace(self, threshold=least_wrong(score, present)), [row for row in rows if row["picture"] not in seen]

    def tested(self, rows: Sequence[Row]) -> Mapping[str, Estimate]:
        """Of unseen rows: error, balanced error, false alarms (of pictures without the class), misses (of those with it), and
        the area under the ROC curve, which no threshold changes.

        All but the first are NaN where no row has the class, or all have it. Resampling says nothing of an area of exactly 1:
        then its interval is that one number.
        """
        if self.threshold is None:
            raise ValueError("a rule without a threshold predicts nothing; take the one that `learnt` gives")
        judged = [
            {**row, "said": row["score"] > self.threshold, "wrong": (row["score"] > self.threshold) != row["present"]}  # type: ignore[operator]
            for row in rows
        ]
        wrong = Measure("error", mean("wrong"), higher_is_better=False, percent=True)
        without = [row for row in judged if not row["present"]]
        others = [row for row in judged if row["present"]]
        alarms = estimated_share(replace(wrong, name="false alarms"), without)
        misses = estimated_share(replace(wrong, name="misses"), others)
        balanced = estimated(Measure("balanced error", _balanced, higher_is_better=False, percent=True), judged)
        if balanced.value == 0:
            balanced = replace(balanced, high=(alarms.high + misses.high) / 2)
        return {
            "error": widened(estimated(wrong, judged), len(judged)),
            "balanced error": balanced,
            "false alarms": alarms,
            "misses": misses,
            "roc auc": estimated(Measure("roc auc", roc_auc), judged),
        }

    def _drawn(self, rows: Sequence[Row]) -> set[str]:
        """The names of the pictures to learn from."""
        drawn: set[str] = set()
        for present in (True, False):
            names = sorted((str(row["picture"]) for row in rows if row["present"] == present), key=self._place)
            count = round(self.learn * len(names))
            if not 0 < count < len(names):
                raise ValueError(
                    f"{len(names)} {'picture' if len(names) == 1 else 'pictures'} {'with' if present else 'without'} "
                    f"{self.label!r} cannot be parted into some to learn from and some to test on; give a threshold"
                )
            drawn.update(names[:count])
        return drawn

    def _place(self, name: str) -> bytes:
        """Where a picture stands in an order that has nothing to do with the pictures."""
        return hashlib.sha256(f"{self.seed}/{name}".encode()).digest()


def least_wrong(score: Array, present: Array) -> float:
    """The threshold whose balanced error on these is least.

    >>> least_wrong(np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True]))
    0.4
    """
    values = np.unique(score)
    thresholds = np.append((values[1:] + values[:-1]) / 2, values[-1])
    gaps = np.append(np.diff(values), 0.0)
    said = score[None] > thresholds[:, None]
    wrong = (said & ~present).sum(1) / (~present).sum() + (~said & present).sum(1) / present.sum()
    best = np.flatnonzero(wrong <= wrong.min() + 1e-12)
    return float(thresholds[best[gaps[best].argmax()]])


def _balanced(columns: Columns, weights: Array) -> Array:
    """The mean of false alarms and misses."""
    present, wrong = columns["present"].astype(bool), columns["wrong"].astype(float)
    with np.errstate(invalid="ignore"):
        parts = [(weights[:, some] @ wrong[some]) / weights[:, some].sum(1) for some in (present, ~present)]
    return (parts[0] + parts[1]) / 2


def roc_auc(columns: Columns, weights: Array) -> Array:
    """How often a picture with the class scores above one without; ties count half."""
    _, place = np.unique(columns["score"], return_inverse=True)
    order = np.argsort(place, kind="stable")
    place, present = place[order], columns["present"].astype(bool)[order]
    weights = weights[:, order]
    positive, negative = weights * present, weights * ~present
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    with_class, without = (np.add.reduceat(part, starts, axis=1) for part in (positive, negative))
    below = without.cumsum(1) - without / 2
    with np.errstate(invalid="ignore"):
        return (with_class * below).sum(1) / (positive.sum(1) * negative.sum(1))
