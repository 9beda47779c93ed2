"""What scores are called in tables, and which methods explain different quantities."""

from collections.abc import Mapping
from typing import Any

from sfumato.scores.box import Box
from sfumato.scores.entropy import Entropy
from sfumato.scores.link import AUTO, SIGMOID, SOFTMAX
from sfumato.scores.of_class import Contrastive, Logit, LogOdds, Probability, Sigmoid
from sfumato.scores.region import Region
from sfumato.scores.regression import Regression
from sfumato.scores.score import Combined, Output
from sfumato.scores.similarity import Similarity
from sfumato.scores.tokens import Tokens


def quantity(about: Any) -> str:
    """What a score is, in words, from its JSON in a result's `about["score"]`.

    >>> from sfumato.settings import as_json
    >>> quantity(as_json(Probability(3, link="sigmoid"))), quantity(as_json(Logit(3)))
    ('sigmoid probability', 'logit')
    """
    path = str(about.get("class", "")) if isinstance(about, Mapping) else ""
    link = about.get("link", SOFTMAX) if isinstance(about, Mapping) else AUTO  # files from before links have a softmax
    module, _, name = path.rpartition(":")
    own = module.split(".")[0] == __name__.split(".")[0]
    words = QUANTITIES.get(name, name) if own else name or "score of its own"
    if own and name == LogOdds.__name__ and link == SIGMOID:
        return QUANTITIES[Logit.__name__]  # the same number
    if own and name == Region.__name__:
        return f"{quantity(about.get('score'))} in a region"
    if own and name == Probability.__name__:
        return {SIGMOID: QUANTITIES[Sigmoid.__name__], SOFTMAX: f"softmax {words}"}.get(link, words)
    return words


QUANTITIES: Mapping[str, str] = {
    Logit.__name__: "logit",
    Probability.__name__: "probability",
    LogOdds.__name__: "log-odds",
    Sigmoid.__name__: "sigmoid probability",
    Contrastive.__name__: "contrast with a rival",
    Combined.__name__: "sum of scores",
    Output.__name__: "function of the outputs",
    Box.__name__: "similarity of a detection",
    Similarity.__name__: "similarity to a reference",
    Tokens.__name__: "probability of an answer",
    Regression.__name__: "estimated number",
    Entropy.__name__: "entropy",
}
"""What scores are called in tables."""


def differing(quantities: Mapping[str, str]) -> str:
    """A sentence that says which quantity each method explains, by the methods' names; empty where all explain the same.

    >>> differing({"grad-cam": "logit", "rise": "probability"})
    'The methods explain different quantities: grad-cam the logit, rise the probability.'
    >>> differing({"grad-cam": "logit", "gradient": "logit"})
    ''
    """
    if len(set(quantities.values())) < 2:
        return ""
    listed = ", ".join(f"{name} the {words}" for name, words in quantities.items())
    return f"The methods explain different quantities: {listed}."
