"""What class a network answers where only some places are shown."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.evidence.worth import AT_ONCE, masks_of
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbed
from sfumato.scores import OF_A_CLASS, Logit, LogOdds, OfClass, check_finite, class_scores


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
    return of_two(_whole_logits(subject)).argmax(1)


def answered(subject: Subject, meaning: str) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"] | LogOdds]:
    """The class that the network answers for each whole input, and the targets that ask why.

    They are the classes, with a score of the `meaning`. But one output $z$ has a logit for class 0 alone: there they are the
    log-odds, $z$ for class 0 and $-z$ for its complement.
    """
    logits = _whole_logits(subject)
    answers = of_two(logits).argmax(1)
    return answers, LogOdds(tuple(answers.tolist())) if _has_complement(logits, meaning) else answers


def answer_explained(subject: Subject, meaning: str) -> tuple[int, bool]:
    """The class that the network answers for the only input, and whether the subject's score asks why, as in `answered`."""
    logits, score = _whole_logits(subject), subject.used_score
    answer = int(of_two(logits)[0].argmax())
    has_complement = _has_complement(logits, meaning)
    kinds = {OF_A_CLASS[meaning], LogOdds} if has_complement else {OF_A_CLASS[meaning]}
    names_it = isinstance(score, OfClass) and type(score) in kinds and score.target in (answer, (answer,))
    says_no = has_complement and answer == 1 and score in (-Logit(0), -Logit((0,)))
    return answer, names_it or says_no


def _whole_logits(subject: Subject) -> Float[Tensor, "B K"]:
    with subject.surroundings.computing(), torch.no_grad():
        parts = [_logits(subject, subject.inputs[some], some) for some in subject.query.split(AT_ONCE)]
    return torch.cat(parts)


def _has_complement(logits: Float[Tensor, "B K"], meaning: str) -> bool:
    """Whether there is one output, so that class 1 has no logit of its own."""
    return logits.shape[1] == 1 and meaning == "logit"


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
