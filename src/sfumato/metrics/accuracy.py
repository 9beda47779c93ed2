"""Accuracy of the model itself: whether it predicts the target."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.protocol import Protocol
from sfumato.model.subject import Subject
from sfumato.scores import Logit
from sfumato.settings import is_whole


@dataclass(frozen=True)
class Accuracy(Protocol):
    r"""Whether the target's logit is the largest or among the five largest, and its rank: 1 for the largest logit.

    This protocol judges the model, not the method: use it with one method of a plan only. If a picture has several targets,
    the largest logit can be right for only one of them. The logits of a fully convolutional model are their means over space.
    A model with one output has the logits 0 and that output, see `sfumato.scores`.

    A class ranks behind the target only if its logit is at most the target's. So a target whose logit is NaN has the last
    rank and is never a hit, however few classes there are.

    A row holds `rank`, from 1; `first` and `in_five`, whether the rank is 1 or at most 5; and `nan`, the number of classes
    whose logit is NaN.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def measure(self, case: Case) -> Row:
        """The row of one case. Raises `ValueError` if the target is no class index, or no class of the model."""
        model, inputs = case.need("model", "Accuracy"), case.need("inputs", "Accuracy")
        target = case.target
        if not is_whole(target):
            raise ValueError(f"Accuracy needs a class index as the target; got {target!r}")
        score = Logit(target)
        with Subject.prepared(model, inputs, score) as subject, subject.surroundings.computing():
            logits = score.logits(subject.outputs(subject.inputs, subject.query), subject.query).detach()
            score.column(logits, subject.query)  # raises if there is no such class
        values = logits.flatten(2).mean(2)[0] if logits.ndim > 2 else logits[0]
        is_number = not bool(values[target].isnan())
        rank = 1 + int((~(values <= values[target])).sum()) if is_number else len(values)
        return {
            "rank": rank,
            "first": is_number and rank == 1,
            "in_five": is_number and rank <= 5,
            "nan": int(values.isnan().sum()),
        }

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all rows
        return (Measure("top 1", mean("first"), percent=True), Measure("top 5", mean("in_five"), percent=True))
