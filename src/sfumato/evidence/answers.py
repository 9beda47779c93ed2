"""What class a network answers where only some places are shown."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbation
from sfumato.scores import class_scores, two_classes

AT_ONCE = 32
"""Rows in one batch of the network, at most."""


def shown_logits(
    subject: Subject, perturbations: Sequence[Perturbation], places: Bool[Tensor, " N *S"], query: Int[Tensor, " N"]
) -> Float[Tensor, "P N K"]:
    """The logits of all classes, `(P, N, K)`, where the `places` of the queries are shown and each perturbation hides the rest.

    One output counts as two classes, it and its opposite; outputs at several places as their mean. Raises `ValueError` where
    the model's outputs are no tensor of classes.
    """
    with subject.surroundings.computing(), torch.no_grad():
        perturbed = [perturbation(subject.inputs) for perturbation in perturbations]
        rows = []
        for hidden in perturbed:
            parts = []
            for some, queries in zip(places.split(AT_ONCE), query.split(AT_ONCE), strict=True):
                inputs = hidden(some[:, None].to(subject.inputs.dtype), queries)
                logits = two_classes(class_scores(subject.outputs(inputs, queries), len(queries)))
                parts.append(logits.flatten(2).mean(2) if logits.ndim > 2 else logits)
            rows.append(torch.cat(parts))
    return torch.stack(rows)
