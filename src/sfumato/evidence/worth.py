r"""How much of the score a set of places is worth.

For the game that keeps, $w(m) = (\Phi(m \otimes x) - \Phi(0 \otimes x)) / (\Phi(x) - \Phi(0 \otimes x))$: 1 for the whole,
0 for the hidden input. For the game that destroys, it is $1 - w(1 - m)$: what is lost without the set; for the dual game the
mean of both.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.games import Game
from sfumato.model.evaluate import Evaluation, Moved
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbation

AT_ONCE = 32
"""Rows in one batch of the network, at most."""

EQUAL = 1e-6
"""Scores of which the difference is a smaller share are equal."""


def shown_scores(
    subject: Subject,
    perturbations: Sequence[Perturbation],
    places: Bool[Tensor, " N *S"],
    query: Int[Tensor, " N"],
    *moves: Moved,
) -> Float[Tensor, " N"]:
    r"""$\Phi(m \otimes x)$, float64, where each m shows one of the sets of places; the mean over the perturbations."""
    with subject.surroundings.computing(), torch.no_grad():
        perturbed = tuple(perturbation(subject.inputs) for perturbation in perturbations)
    masks = places[:, None].to(subject.inputs.dtype)
    return Evaluation(subject, perturbed, query, AT_ONCE).scores(masks, *moves).double()


def ends(subject: Subject, perturbations: Sequence[Perturbation], *moves: Moved) -> Float[Tensor, "B 2"]:
    """The scores of the whole and of the hidden inputs."""
    batch, space = len(subject.inputs), subject.inputs.shape[2:]
    everything = torch.ones(batch, *space, dtype=torch.bool, device=subject.inputs.device)
    both = torch.cat([everything, ~everything])
    return shown_scores(subject, perturbations, both, subject.query.repeat(2), *moves).view(2, batch).T


def worth(
    subject: Subject,
    perturbations: Sequence[Perturbation],
    places: Bool[Tensor, " N *S"],
    query: Int[Tensor, " N"],
    game: Game,
    bounds: Float[Tensor, "B 2"],
    *moves: Moved,
) -> Float[Tensor, " N"]:
    """What the sets are worth, `(N,)`; `bounds` are the `ends`. It may exceed 1.

    NaN where the hidden input has the score of the whole one.
    """
    whole, hidden = bounds[query].unbind(1)
    span = whole - hidden
    span = torch.where(span.abs() <= EQUAL * whole.abs().maximum(hidden.abs()), torch.nan, span)
    total = torch.zeros_like(span)
    if game.keep:
        total += game.keep * (shown_scores(subject, perturbations, places, query, *moves) - hidden) / span
    if game.drop:
        total += game.drop * (1 - (shown_scores(subject, perturbations, ~places, query, *moves) - hidden) / span)
    return total / (game.keep + game.drop)
