"""Models whose score is a sum over known places, and certificates of given sets for them."""

import torch

import sfumato
from sfumato.evidence import Suffices
from sfumato.perturbations import Constant

SIDE = 32


def spots(*corners: tuple[int, int], size: int = 8, worth: float = 1.0):
    """A model whose first output is the sum of squares of places, `worth` each; the second is its negative."""
    weights = torch.zeros(SIDE, SIDE)
    for top, left in corners:
        weights[top : top + size, left : left + size] = worth / size**2

    def model(x: torch.Tensor) -> torch.Tensor:
        value = (x[:, 0] * weights.to(x)).sum((1, 2))
        return torch.stack([value, -value], 1)

    return model


def ones(batch: int = 1) -> torch.Tensor:
    return torch.ones(batch, 1, SIDE, SIDE)


def rectangle(top: int, left: int, height: int, width: int) -> torch.Tensor:
    places = torch.zeros(1, 1, SIDE, SIDE)
    places[..., top : top + height, left : left + width] = 1
    return places


METHOD = sfumato.ExtremalPerturbation(
    areas=(1 / 16,), steps=60, perturbation=Constant(), jitter=None, mask=sfumato.LevelSet(4, 3, edge=0)
)


def result_of(
    model, *masks: torch.Tensor, method=METHOD, target: int = 0, inputs: torch.Tensor | None = None, **more
) -> sfumato.Attribution:
    """A result with these masks, as if the method had found them."""
    with method.prepared(model, ones() if inputs is None else inputs, target) as subject:
        about, whole = method.about(subject), subject.whole()
    return sfumato.Attribution(map=masks[0], masks=torch.stack(masks, 1), whole=whole, about=about, **more)


def certificate(model, *masks: torch.Tensor, claims=(Suffices(),), method=METHOD, keep=0.9, **more):
    """The certificate of one query."""
    (found,) = sfumato.Certify(claims, keep)(result_of(model, *masks, method=method), model, ones(), 0, **more)
    return found
