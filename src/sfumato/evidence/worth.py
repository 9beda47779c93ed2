r"""How much of the score a set of places is worth.

For the game that keeps, $w(m) = (\Phi(m \otimes x) - \Phi(0 \otimes x)) / (\Phi(x) - \Phi(0 \otimes x))$: 1 for the whole,
0 for the hidden input. For the game that destroys, it is $1 - w(1 - m)$: what is lost without the set; for the dual game the
mean of both. It needs a hidden input that scores clearly less than the whole one: else no set of places carries the score.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfumato.games import Game
from sfumato.masks.level_set import TENTHS, LevelSet
from sfumato.methods.extremal import ExtremalPerturbation
from sfumato.metrics.part_scores import span
from sfumato.model.evaluate import Evaluation, Moved
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbation, Perturbed
from sfumato.space.precision import widest_float
from sfumato.space.smoothing import gaussian_blur

AT_ONCE = 32
"""Rows in one batch of the network, at most."""

ROUNDING = 1e-4
"""Worths that differ by less are the same."""


def masks_of(places: Bool[Tensor, " N *S"], edge: float) -> Float[Tensor, "N 1 *S"]:
    """Masks `(N, 1, *S)` of sets, whose edges need `edge` places to fall from 0.9 to 0.1, as those of `LevelSet`."""
    masks = places[:, None].float()
    return gaussian_blur(masks, edge / TENTHS) if edge else masks


def area_of(places: Bool[Tensor, "*S"]) -> float:
    """The share of the input that a set takes; counted, as a mean in float32 may be above the limit that it is."""
    return int(places.sum()) / places.numel()


def edge_of(method: ExtremalPerturbation, shape: Sequence[int]) -> float:
    """The width of the edges of a method's masks over inputs of a shape, in places."""
    return method.mask.for_shape(shape).edge if isinstance(method.mask, LevelSet) else 0.0


def reaches(worth: float, wanted: float) -> bool:
    """Whether a worth is as much as another, up to rounding; not where one is unknown."""
    return worth >= wanted - ROUNDING


def ready(subject: Subject, perturbations: Sequence[Perturbation]) -> tuple[Perturbed, ...]:
    """The subject's inputs, ready to be hidden by each of the perturbations."""
    with subject.surroundings.computing(), torch.no_grad():
        return tuple(perturbation(subject.inputs) for perturbation in perturbations)


def shown_scores(
    subject: Subject,
    perturbed: tuple[Perturbed, ...],
    places: Bool[Tensor, " N *S"],
    query: Int[Tensor, " N"],
    *moves: Moved,
    edge: float = 0.0,
) -> Float[Tensor, " N"]:
    r"""$\Phi(m \otimes x)$, where each m shows one of the sets of places; the mean over all of `perturbed`.

    `perturbed` is what `ready` returns. The masks of all sets have edges of one width, that of the search: a sharp edge is a
    feature of its own.
    """
    masks = masks_of(places, edge)
    return Evaluation(subject, perturbed, query, AT_ONCE).scores(masks, *moves).to(widest_float(masks.device))


def ends(subject: Subject, perturbed: tuple[Perturbed, ...], *moves: Moved) -> Float[Tensor, "B 2"]:
    """The scores of the whole and of the hidden inputs."""
    batch, space = len(subject.inputs), subject.inputs.shape[2:]
    everything = torch.ones(batch, *space, dtype=torch.bool, device=subject.inputs.device)
    both = torch.cat([everything, ~everything])
    return shown_scores(subject, perturbed, both, subject.query.repeat(2), *moves).view(2, batch).T


def worth(
    subject: Subject,
    perturbed: tuple[Perturbed, ...],
    places: Bool[Tensor, " N *S"],
    query: Int[Tensor, " N"],
    game: Game,
    bounds: Float[Tensor, "B 2"],
    *moves: Moved,
    edge: float = 0.0,
) -> Float[Tensor, " N"]:
    """What the sets are worth, `(N,)`; `bounds` are the `ends`. It may exceed 1.

    NaN where the hidden input scores about as much as the whole one, or more.
    """

    def scores(shown: Bool[Tensor, " N *S"]) -> Float[Tensor, " N"]:
        return shown_scores(subject, perturbed, shown, query, *moves, edge=edge)

    return worth_by(scores, places, game, bounds[query])


def worth_by(
    scores: Callable[[Bool[Tensor, " N *S"]], Float[Tensor, " N"]],
    places: Bool[Tensor, " N *S"],
    game: Game,
    bounds: Float[Tensor, "N 2"],
) -> Float[Tensor, " N"]:
    """What the sets are worth, from the scores of what is shown and those of the whole and of the hidden input."""
    whole, hidden = bounds.unbind(1)
    taken = span(whole, hidden)
    total = torch.zeros_like(taken)
    if game.keep:
        total += game.keep * (scores(places) - hidden) / taken
    if game.drop:
        total += game.drop * (1 - (scores(~places) - hidden) / taken)
    return total / (game.keep + game.drop)
