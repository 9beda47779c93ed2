"""How good the model itself is: whether it sees the target, whatever a method says of it."""

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
    r"""Whether the target's logit is the largest, or among the five largest; and its rank, 1 for the largest.

    It judges the model, not the method: a plan asks it of one method only. Where pictures have several targets, the largest
    logit can be right for one of them alone. A fully convolutional model's logits are their means over space; those of a
    model with one output are that and 0, see `sfumato.scores`.

    A class counts as ranked behind the target only if its logit is at most the target's, so that where the target's is NaN
    its rank is the last and never a hit, however few classes there are. `nan` counts the classes whose logit is NaN.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def measure(self, case: Case) -> Row:
        """`rank`, from 1, and how many logits are `nan`."""
        model, inputs = case.need("model", "Accuracy"), case.need("inputs", "Accuracy")
        target = case.target
        if not is_whole(target):
            raise ValueError(f"Accuracy needs a class index as the target; got {target!r}")
        score = Logit(target)
        with Subject.prepared(model, inputs, score) as subject, subject.surroundings.computing():
            logits = score.logits(subject.outputs(subject.inputs, subject.query), subject.query).detach()
            score.column(logits, subject.query)  # raises where there is no such class
        values = logits.flatten(2).mean(2)[0] if logits.ndim > 2 else logits[0]
        known = not bool(values[target].isnan())
        rank = 1 + int((~(values <= values[target])).sum()) if known else len(values)
        return {
            "rank": rank,
            "first": known and rank == 1,
            "in_five": known and rank <= 5,
            "nan": int(values.isnan().sum()),
        }

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all rows
        return (Measure("top 1", mean("first"), percent=True), Measure("top 5", mean("in_five"), percent=True))
