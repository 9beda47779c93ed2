r"""The rule that a network detects a class: $f(x) > t$ if and only if the picture shows the class.

R. Fong, A. Vedaldi: *Interpretable explanations of black boxes by meaningful perturbation*, ICCV 2017, arXiv 1704.03296.

Section 3: $Q_1(x; f) = \{x \in X_c \Leftrightarrow f(x) = +1\}$, whose error is
$L_1 = \mathbb{E}[1 - \delta_{Q_1(x; f)}]$ over pictures that were not used to make the rule.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from sfumato.behaviour.shares import estimated_share, with_exact_bounds
from sfumato.behaviour.watched import Watched, check_class, check_response
from sfumato.metrics.estimate import Columns, Estimate, Measure, Row, estimated, mean
from sfumato.settings import Settings, check_number, check_seed


@dataclass(frozen=True)
class Presence(Settings):
    """f is the model's `response` for its class `target`; `label` is the data set's name of the class.

    - `threshold`: t, in the units of the response; `None` to learn it. "top1" needs none: the class is the top class or not.
    - `learn`: the share of the pictures to learn from, drawn with `seed`, the same share of pictures with and without the
      class. The rule is tested on the other pictures.

    The learnt threshold has the least *balanced* error, the mean of false alarms and misses. The least plain error would not
    do: for a rare class, a rule that never predicts it has a small error. The threshold lies midway between two scores; among
    equally good ones, between those that are furthest apart.
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
        """One row for each picture: f(x), and whether the class is present. Doubtful pictures are left out."""
        answers = watched.whole(self.response)
        check_class(self.target, next(iter(answers.values())))
        rows: list[Row] = []
        for picture in watched.pictures:
            if self.label in picture.doubtful:
                continue
            values = answers[picture.name]
            is_top = int(values.argmax()) == self.target
            score = float(is_top) if self.response == "top1" else float(values[self.target])
            rows.append({"picture": picture.name, "score": score, "present": self.label in picture.present})
        with_class = sum(bool(row["present"]) for row in rows)
        if not 0 < with_class < len(rows):
            raise ValueError(
                f"a rule on the presence of {self.label!r} needs pictures with it and without; "
                f"{with_class} of {len(rows)} have it"
            )
        return rows

    def learnt(self, rows: Sequence[Row]) -> tuple["Presence", list[Row]]:
        """The rule with its threshold, and the rows to test it on: all rows if the threshold is not learnt."""
        if self.response == "top1" and self.threshold is None:
            return replace(self, threshold=0.5), list(rows)
        if self.threshold is not None:
            return self, list(rows)
        names = self._training_pictures(rows)
        score = np.array([row["score"] for row in rows if row["picture"] in names], float)
        present = np.array([row["present"] for row in rows if row["picture"] in names], bool)
        test_rows = [row for row in rows if row["picture"] not in names]
        return replace(self, threshold=best_threshold(score, present)), test_rows

    def tested(self, rows: Sequence[Row]) -> Mapping[str, Estimate]:
        """The errors on rows that the threshold was not learnt on.

        These are the error, the balanced error, false alarms (a share of the pictures without the class), misses (a share of
        those with it), and the area under the ROC curve, which does not depend on the threshold. All but the first are NaN if
        no row has the class, or if all have it. The interval of an area of exactly 1 is the point 1, as resampling does not
        change it. Raises `ValueError` if the rule has no threshold.
        """
        if self.threshold is None:
            raise ValueError("tested needs a rule with a threshold; use the rule that learnt(rows) returns")
        judged = [
            {**row, "wrong": (row["score"] > self.threshold) != row["present"]}  # type: ignore[operator]
            for row in rows
        ]
        wrong = Measure("error", mean("wrong"), higher_is_better=False, percent=True)
        without = [row for row in judged if not row["present"]]
        with_class = [row for row in judged if row["present"]]
        alarms = estimated_share(replace(wrong, name="false alarms"), without)
        misses = estimated_share(replace(wrong, name="misses"), with_class)
        balanced = estimated(Measure("balanced error", _balanced, higher_is_better=False, percent=True), judged)
        if balanced.value == 0:
            balanced = replace(balanced, high=(alarms.high + misses.high) / 2)
        return {
            "error": with_exact_bounds(estimated(wrong, judged), len(judged)),
            "balanced error": balanced,
            "false alarms": alarms,
            "misses": misses,
            "roc auc": estimated(Measure("roc auc", roc_auc), judged),
        }

    def _training_pictures(self, rows: Sequence[Row]) -> set[str]:
        """The names of the pictures to learn from."""
        training: set[str] = set()
        for present in (True, False):
            names = sorted((str(row["picture"]) for row in rows if row["present"] == present), key=self._hash)
            count = round(self.learn * len(names))
            if not 0 < count < len(names):
                raise ValueError(
                    f"{len(names)} {'picture' if len(names) == 1 else 'pictures'} {'with' if present else 'without'} "
                    f"{self.label!r} cannot be parted into pictures to learn from and to test on; give a threshold"
                )
            training.update(names[:count])
        return training

    def _hash(self, name: str) -> bytes:
        """A sort key that orders pictures at random, by their names and the seed."""
        return hashlib.sha256(f"{self.seed}/{name}".encode()).digest()


def best_threshold(score: Float[np.ndarray, " n"], present: Bool[np.ndarray, " n"]) -> float:
    """The threshold with the least balanced error for these scores.

    >>> best_threshold(np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True]))
    0.4
    """
    values = np.unique(score)
    thresholds = np.append((values[1:] + values[:-1]) / 2, values[-1])
    gaps = np.append(np.diff(values), 0.0)
    positive = score[None] > thresholds[:, None]
    wrong = (positive & ~present).sum(1) / (~present).sum() + (~positive & present).sum(1) / present.sum()
    best = np.flatnonzero(wrong <= wrong.min() + 1e-12)
    return float(thresholds[best[gaps[best].argmax()]])


def _balanced(columns: Columns, weights: Float[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
    """The statistic of the balanced error: the mean of false alarms and misses."""
    present, wrong = columns["present"].astype(bool), columns["wrong"].astype(float)
    with np.errstate(invalid="ignore"):
        parts = [(weights[:, rows] @ wrong[rows]) / weights[:, rows].sum(1) for rows in (present, ~present)]
    return (parts[0] + parts[1]) / 2


def roc_auc(columns: Columns, weights: Float[np.ndarray, "R n"]) -> Float[np.ndarray, " R"]:
    """The statistic of the area under the ROC curve.

    It is the share of pairs in which the picture with the class scores above the one without; ties count half.
    """
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
