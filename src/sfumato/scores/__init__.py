"""What is explained: a scalar Φ of the model's outputs for every query.

A score maps outputs of `N` evaluations and the index `(N,)` of the query that each belongs to, to `(N,)` numbers. Scores
add, subtract and scale: `Logit(281) - 0.5 * Logit(282)`. Targets are one class for all queries or one per query.

A model with one output $z$ per input, `(N, 1, …)`, is read as one with two classes: class 0 is the output itself, with the
probability $σ(z) = 1 / (1 + e^{-z})$, and class 1 is its complement, with $1 - σ(z)$. These are the softmax of the logits $z$
and 0, so that the same class index means the same in all scores.

`score.py` says what a score is. `of_class.py` holds the scores of a class, `link.py` what makes probabilities of logits. The
other questions have a file each: `region.py` (maps), `box.py` and `detections.py` (detectors), `similarity.py` (embeddings),
`tokens.py` (answers), `regression.py` (numbers), `entropy.py` (doubt). `words.py` says how they are called.
"""

from sfumato.scores.box import Box as Box
from sfumato.scores.detections import Detections as Detections
from sfumato.scores.detections import DetrDetections as DetrDetections
from sfumato.scores.detections import TorchvisionDetections as TorchvisionDetections
from sfumato.scores.detections import YoloDetections as YoloDetections
from sfumato.scores.entropy import Entropy as Entropy
from sfumato.scores.link import AUTO as AUTO
from sfumato.scores.link import LINKS as LINKS
from sfumato.scores.link import SIGMOID as SIGMOID
from sfumato.scores.link import SOFTMAX as SOFTMAX
from sfumato.scores.link import check_link as check_link
from sfumato.scores.link import link_of as link_of
from sfumato.scores.link import probabilities as probabilities
from sfumato.scores.link import top_class as top_class
from sfumato.scores.of_class import OF_A_CLASS as OF_A_CLASS
from sfumato.scores.of_class import ONE_OUTPUT as ONE_OUTPUT
from sfumato.scores.of_class import Contrastive as Contrastive
from sfumato.scores.of_class import Linked as Linked
from sfumato.scores.of_class import Logit as Logit
from sfumato.scores.of_class import LogOdds as LogOdds
from sfumato.scores.of_class import OfClass as OfClass
from sfumato.scores.of_class import Probability as Probability
from sfumato.scores.of_class import Sigmoid as Sigmoid
from sfumato.scores.of_class import as_score as as_score
from sfumato.scores.of_class import as_target as as_target
from sfumato.scores.of_class import check_meaning as check_meaning
from sfumato.scores.of_class import is_of_class as is_of_class
from sfumato.scores.of_class import link_of_meaning as link_of_meaning
from sfumato.scores.of_class import without as without
from sfumato.scores.region import Places as Places
from sfumato.scores.region import Region as Region
from sfumato.scores.regression import Regression as Regression
from sfumato.scores.score import Combined as Combined
from sfumato.scores.score import Output as Output
from sfumato.scores.score import PlaceScore as PlaceScore
from sfumato.scores.score import Score as Score
from sfumato.scores.score import check_finite as check_finite
from sfumato.scores.score import check_rows as check_rows
from sfumato.scores.score import check_score as check_score
from sfumato.scores.score import class_scores as class_scores
from sfumato.scores.score import logits_of as logits_of
from sfumato.scores.score import mean_over_space as mean_over_space
from sfumato.scores.score import parts as parts
from sfumato.scores.score import two_classes as two_classes
from sfumato.scores.similarity import Similarity as Similarity
from sfumato.scores.tokens import Tokens as Tokens
from sfumato.scores.words import QUANTITIES as QUANTITIES
from sfumato.scores.words import differing as differing
from sfumato.scores.words import quantity as quantity
from sfumato.settings import public_names

vars().update(__all__=public_names(vars()))  # out of sight of type checkers, which read the lines above
