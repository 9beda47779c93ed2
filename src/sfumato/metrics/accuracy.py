"""How good the model itself is: whether it sees the target, whatever a method says of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row, mean
from sfumato.metrics.protocol import Protocol
from sfumato.scores import class_scores
from sfumato.subject import Subject


@dataclass(frozen=True)
class Accuracy(Protocol):
    r"""Whether the target's logit is the largest, or among the five largest; and its rank, 1 for the largest.

    It judges the model, not the method: a plan asks it of one method only. Where pictures have several targets, the largest
    logit can be right for one of them alone. A fully convolutional model's logits are their means over space.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})

    def measure(self, case: Case) -> Row:
        """`rank`, from 1."""
        model, inputs = case.need("model", "Accuracy"), case.need("inputs", "Accuracy")
        target = case.target
        if isinstance(target, bool) or not isinstance(target, int):
            raise ValueError(f"Accuracy needs a class index as the target; got {target!r}")
        with Subject.prepared(model, inputs, target) as subject, subject.surroundings.computing():
            logits = class_scores(subject.outputs(subject.inputs, subject.query)).detach()
        values = logits.flatten(2).mean(2)[0] if logits.ndim > 2 else logits[0]
        rank = 1 + int((values > values[target]).sum())
        return {"rank": rank, "first": rank == 1, "in_five": rank <= 5}

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:  # noqa: ARG002  # the same for all rows
        return (Measure("top 1", mean("first"), percent=True), Measure("top 5", mean("in_five"), percent=True))
