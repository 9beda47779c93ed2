"""Whether two networks see the same: their sets for the same questions, and what each set is worth to the other network."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.attribution import TensorResult
from sfumato.evidence.answers import answered, whole_answers
from sfumato.evidence.worth import ROUNDING, edge_of, ends, ready, worth
from sfumato.games import Game
from sfumato.methods.extremal import ExtremalPerturbation
from sfumato.metrics.estimate import Estimate, Measure, estimates
from sfumato.metrics.statistic import mean
from sfumato.model.effects import Model
from sfumato.model.subject import Subject
from sfumato.perturbations import Perturbed, seeded
from sfumato.scores import LogOdds
from sfumato.settings import check_number

KEPT = 0.8
"""Of what a network's own sets are worth, the least that another's are worth to it where both see the same. Sets of the same
network (SqueezeNet 1.1) at another seed keep .95 and more, see docs/evidence.md."""

MEASURES = (
    Measure("answer", mean("answer"), percent=True),
    Measure("iou", mean("iou")),
    Measure("iou_self", mean("iou_self")),
    Measure("kept", mean("kept")),
    Measure("kept_back", mean("kept_back")),
    Measure("kept_self", mean("kept_self")),
    Measure("changed", mean("changed"), higher_is_better=False, percent=True),
    Measure("new", mean("new"), higher_is_better=False),
    Measure("grew", mean("grew"), higher_is_better=False),
)
"""What is measured of each picture, see `Differences.rows`; each is a mean over the pictures."""


@dataclass(frozen=True, eq=False)
class Differences(TensorResult):
    """Two networks asked about the same class of `B` pictures; the other network is the second one, the candidate.

    Worths are shares of the score, see `sfumato.evidence.worth`.
    """

    answer: Int[Tensor, " B"]
    """The class that the first network answers, which both explain."""
    other_answer: Int[Tensor, " B"]
    """The class that the other one answers."""
    masks: Float[Tensor, "B V 1 *S"]
    """The first network's sets."""
    other_masks: Float[Tensor, "B V 1 *S"]
    """The other network's sets."""
    iou: Float[Tensor, "B V"]
    """Intersection over union of the two networks' sets."""
    iou_self: Float[Tensor, "B V"]
    """The same of the first network's sets and of those that it has with another seed: how far sets agree that are of one
    network."""
    own: Float[Tensor, "B V"]
    """What the first network's sets are worth to itself."""
    kept: Float[Tensor, "B V"]
    """What the first network's sets are worth to the other network."""
    other_own: Float[Tensor, "B V"]
    """What the other network's sets are worth to itself."""
    kept_back: Float[Tensor, "B V"]
    """What the other network's sets are worth to the first one."""
    kept_self: Float[Tensor, "B V"]
    """What the first network's sets of another seed are worth to itself."""

    def rows(self, enough: float = KEPT) -> list[dict[str, float]]:
        """A row for each picture, of means over the sets of all areas.

        - `answer`: 1 where the answers are the same, else 0;
        - `iou`, `iou_self`: intersections over union of the sets;
        - `kept`: the worth of the first network's sets to the other network, as a share of what the other's own sets are worth,
          as far as these are worth a hundredth or more; `kept_back`: the other way round. It is 0 where hiding everything takes
          no score away from the network whose share it is, which so does not read the picture, and 1 where this is so of both;
        - `kept_self`: the same of the first network's sets of another seed, to itself: what chance does to `kept`;
        - `changed`: 1 where the answer is the same but one of the two falls below `enough`: the same answer for another reason;
        - `new`: the share of the other network's sets that lies outside of the first one's, beyond the same share between two
          seeds of the first one;
        - `grew`: how much larger the smallest set is that is worth .9 to the other network, as a share of the picture; 1 stands
          for the area where none is.
        """
        check_number("enough", enough, "a share of the score", above=0, most=1)
        reads, other_reads = (~worths.isnan().any(1) for worths in (self.own, self.other_own))
        kept = torch.where(other_reads, _share(self.kept, self.other_own), (~reads).double())
        back = torch.where(reads, _share(self.kept_back, self.own), (~other_reads).double())
        same = self.answer == self.other_answer
        columns = {
            "answer": same.double(),
            "iou": self.iou.double().mean(1),
            "iou_self": self.iou_self.double().mean(1),
            "kept": kept,
            "kept_back": back,
            "kept_self": torch.where(reads, _share(self.kept_self, self.own), 1.0),
            "changed": (same & (kept.minimum(back) < enough)).double(),
            "new": (_outside(self.iou) - _outside(self.iou_self)).mean(1),
            "grew": self._smallest(self.other_masks, self.other_own) - self._smallest(self.masks, self.own),
        }
        values = {name: column.tolist() for name, column in columns.items()}
        return [{name: column[row] for name, column in values.items()} for row in range(len(self))]

    @staticmethod
    def _smallest(masks: Float[Tensor, "B V 1 *S"], own: Float[Tensor, "B V"]) -> Float[Tensor, " B"]:
        """The area of the smallest set that is worth .9; 1 where none is."""
        areas = (masks > 0.5).flatten(2).double().mean(2)
        return torch.where(own >= ENOUGH - ROUNDING, areas, 1.0).amin(1)


ENOUGH = 0.9
"""Of the score, for a set that suffices."""


def compare_models(
    method: ExtremalPerturbation, model: Model, other: Model, batches: Iterable[Float[Tensor, "B C *S"]]
) -> Iterator[Differences]:
    """The differences in each batch of inputs `(B, C, *S)`, which both networks take.

    Each batch costs three searches: one for each network, and one more for the first, with another seed.
    """
    for inputs in batches:
        with ExitStack() as stack:
            subjects = [
                stack.enter_context(Subject.prepared(net, inputs, 0, method.score, method.seed, method.deterministic))
                for net in (model, other)
            ]
            for subject in subjects:
                subject.probe(method.memory)
            answers, targets = answered(subjects[0], method.score)
            other_answers = whole_answers(subjects[1])
            masks, again, other_masks = (
                _masks(searching, net, inputs, targets)
                for searching, net in ((method, model), (replace(method, seed=method.seed + 1), model), (method, other))
            )
            both = {}
            for asked, name, shown in (
                (subjects[0], "own", (masks, other_masks, again)),
                (subjects[1], "other", (masks, other_masks)),
            ):
                subject = asked.asking(targets, method.score)
                perturbed = ready(subject, [seeded(one, method.seed) for one in method.used_perturbations()])
                bounds = ends(subject, perturbed)
                both[name] = [_worths(subject, perturbed, some, method, bounds) for some in shown]
        yield Differences(
            answer=answers,
            other_answer=other_answers,
            masks=masks,
            other_masks=other_masks,
            iou=_iou(masks, other_masks),
            iou_self=_iou(masks, again),
            own=both["own"][0],
            kept=both["other"][0],
            other_own=both["other"][1],
            kept_back=both["own"][1],
            kept_self=both["own"][2],
        )


def summarise(differences: Sequence[Differences], enough: float = KEPT) -> dict[str, Estimate]:
    """The mean over all pictures of each of `MEASURES`, with its interval."""
    rows = list(chain.from_iterable(difference.rows(enough) for difference in differences))
    if not rows:
        raise ValueError("a comparison needs pictures; got none")
    numbered = [{**row, "picture": number} for number, row in enumerate(rows)]
    return dict(zip((measure.name for measure in MEASURES), estimates(MEASURES, numbered), strict=True))


def _masks(
    method: ExtremalPerturbation, model: Model, inputs: Float[Tensor, "B C *S"], targets: Int[Tensor, " B"] | LogOdds
) -> Float[Tensor, "B V 1 *S"]:
    masks = method(model, inputs, targets).masks
    assert masks is not None  # noqa: S101  # for the type checker
    return masks


def _worths(
    subject: Subject,
    perturbed: tuple[Perturbed, ...],
    masks: Float[Tensor, "B V 1 *S"],
    method: ExtremalPerturbation,
    bounds: Float[Tensor, "B 2"],
) -> Float[Tensor, "B V"]:
    query = subject.query.repeat_interleave(masks.shape[1])
    places = (masks[:, :, 0] > 0.5).flatten(0, 1)
    edge = edge_of(method, masks.shape[3:])
    values = worth(subject, perturbed, places, query, Game.named(method.game), bounds, edge=edge)
    return values.view(masks.shape[:2]).float()


def _iou(first: Float[Tensor, "B V 1 *S"], second: Float[Tensor, "B V 1 *S"]) -> Float[Tensor, "B V"]:
    one, two = ((masks > 0.5).flatten(2) for masks in (first, second))
    union = (one | two).sum(2)
    return torch.where(union > 0, (one & two).sum(2) / union.clamp(min=1), 1.0)  # two empty sets are the same


def _outside(iou: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """Of two sets of equal area, the share of one that lies outside of the other."""
    return 1 - 2 * iou.double() / (1 + iou.double())


def _share(part: Float[Tensor, "B V"], of: Float[Tensor, "B V"]) -> Float[Tensor, " B"]:
    """The mean worth as a share of another mean worth, in [0, 1]. A set that is worth less than a hundredth has nothing to lose
    and does not count, as one of very little worth would hide the others; 1 where there is no other."""
    counts = of >= LITTLE
    part, whole = (worths.double().where(counts, 0.0).sum(1) for worths in (part, of))
    return torch.where(counts.any(1), (part / whole.clamp(min=LITTLE)).clamp(0, 1), 1.0)


LITTLE = 0.01
"""A worth that is none."""
