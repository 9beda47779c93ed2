"""What class a network answers where only some places are shown."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.evidence.worth import AT_ONCE, masks_of
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbed
from sfumato.scores import check_finite, class_scores


def shown_logits(
    subject: Subject,
    perturbed: tuple[Perturbed, ...],
    places: Bool[Tensor, " N *S"],
    query: Int[Tensor, " N"],
    edge: float = 0.0,
) -> Float[Tensor, "P N K"]:
    """The model's outputs, `(P, N, K)`, where the `places` of the queries are shown and each of `perturbed` hides the rest.

    `perturbed` and `edge` are as for `sfumato.evidence.worth.shown_scores`. Outputs at several places count as their mean.
    Raises `ValueError` where the model's outputs are no tensor of classes, and where one is not finite.
    """
    with subject.surroundings.computing(), torch.no_grad():
        rows = [
            torch.cat(
                [
                    _logits(subject, hidden(masks_of(some, edge), queries), queries)
                    for some, queries in zip(places.split(AT_ONCE), query.split(AT_ONCE), strict=True)
                ]
            )
            for hidden in perturbed
        ]
    return torch.stack(rows)


def whole_answers(subject: Subject) -> Int[Tensor, " B"]:
    """The class that the network answers for each whole input. Raises `ValueError` as `shown_logits` does."""
    with subject.surroundings.computing(), torch.no_grad():
        parts = [_logits(subject, subject.inputs[some], some) for some in subject.query.split(AT_ONCE)]
    return of_two(torch.cat(parts)).argmax(1)


def of_two(logits: Float[Tensor, "*N K"]) -> Float[Tensor, "*N M"]:
    """Logits of two classes or more: of one output $z$ those of it and its opposite, $z$ and 0."""
    return torch.cat([logits, torch.zeros_like(logits)], -1) if logits.shape[-1] == 1 else logits


def _logits(subject: Subject, inputs: Float[Tensor, "N C *S"], query: Int[Tensor, " N"]) -> Float[Tensor, "N K"]:
    """Outputs for rows of the queries; one by one where the model needs it."""
    if subject.habits.alone and len(inputs) > 1:
        pairs = zip(inputs.split(1), query.split(1), strict=True)
        return torch.cat([_logits(subject, row, of_row) for row, of_row in pairs])
    logits = class_scores(subject.outputs(inputs, query), len(query))
    logits = logits.flatten(2).mean(2) if logits.ndim > 2 else logits
    check_finite(logits.amax(1), "the most probable class")  # others may be minus infinity
    return logits
