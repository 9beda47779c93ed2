"""What class a network answers where only some places are shown."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.evidence.worth import AT_ONCE, masks_of
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbation
from sfumato.scores import class_scores, two_classes


def shown_logits(
    subject: Subject,
    perturbations: Sequence[Perturbation],
    places: Bool[Tensor, " N *S"],
    query: Int[Tensor, " N"],
    edge: float = 0.0,
) -> Float[Tensor, "P N K"]:
    """The logits of all classes, `(P, N, K)`, where the `places` of the queries are shown and each perturbation hides the rest.

    `edge` is as for `sfumato.evidence.worth.shown_scores`. One output counts as two classes, it and its opposite; outputs at
    several places as their mean. Raises `ValueError` where the model's outputs are no tensor of classes.
    """
    with subject.surroundings.computing(), torch.no_grad():
        perturbed = [perturbation(subject.inputs) for perturbation in perturbations]
        rows = []
        for hidden in perturbed:
            parts = []
            for some, queries in zip(places.split(AT_ONCE), query.split(AT_ONCE), strict=True):
                inputs = hidden(masks_of(some, edge), queries)
                logits = two_classes(class_scores(subject.outputs(inputs, queries), len(queries)))
                parts.append(logits.flatten(2).mean(2) if logits.ndim > 2 else logits)
            rows.append(torch.cat(parts))
    return torch.stack(rows)


def whole_answers(subject: Subject, perturbation: Perturbation) -> Int[Tensor, " B"]:
    """The class that the network answers for each whole input; nothing is hidden by the perturbation."""
    inputs = subject.inputs
    everything = torch.ones(len(inputs), *inputs.shape[2:], dtype=torch.bool, device=inputs.device)
    return shown_logits(subject, (perturbation,), everything, subject.query)[0].argmax(1)
