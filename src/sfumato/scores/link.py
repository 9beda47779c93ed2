"""What makes probabilities of logits: a softmax over all classes, or a sigmoid for each."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

SOFTMAX, SIGMOID, AUTO = "softmax", "sigmoid", "auto"

LINKS = (AUTO, SOFTMAX, SIGMOID)
"""What makes probabilities of logits: one softmax over all classes, of which one is right; a sigmoid for each class, of
which several may be right; or, "auto", the softmax, but for one output the sigmoid."""


def check_link(link: Any) -> None:
    """Raise `ValueError` unless it is one of `LINKS`."""
    if not isinstance(link, str) or link not in LINKS:
        raise ValueError(f"link must be one of {', '.join(LINKS)}; got {link!r}")


def link_of(link: str, classes: int) -> str:
    """The link that is meant for so many outputs: "softmax" or "sigmoid". Raises `ValueError` for a softmax over one."""
    if link == SOFTMAX and classes == 1:
        raise ValueError(
            'link="softmax" over the only output of a model is 1 whatever the input; give link="sigmoid" or leave it out'
        )
    return link if link != AUTO else SIGMOID if classes == 1 else SOFTMAX


def probabilities(logits: Float[Tensor, "N K *P"], link: str = AUTO) -> Float[Tensor, "N K *P"]:
    """The probabilities of classes; that of one output is its sigmoid."""
    return logits.sigmoid() if link_of(link, logits.shape[1]) == SIGMOID else logits.softmax(1)


def top_class(scores: Float[Tensor, " K"]) -> int:
    """The class with the largest of scores: logits or probabilities. Raises `ValueError` where one is NaN.

    A model with one output has one class to name, 0, whatever its score.
    """
    if scores.isnan().any():
        raise ValueError(
            f"{int(scores.isnan().sum())} of the model's {len(scores)} outputs are NaN, so that no class comes first; check "
            "the model and how the input was prepared"
        )
    return int(scores.argmax())
