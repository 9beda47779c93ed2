"""What can be asked about a picture, besides the score of a class: doubt, a number, a region, a box, a similarity.

The command line and the explorer ask these questions, each in its own spelling. `question` says which a model can answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from sfumato.data.labels import default_labels, find, synonyms
from sfumato.data.pictures import rgb, upright
from sfumato.models.classifier import Classifier
from sfumato.models.clips import takes_clips
from sfumato.models.detector import Detected, Detector
from sfumato.models.embedder import Embedder
from sfumato.scores import Box, Entropy, Logit, Places, Region, Regression, Score, Similarity, probabilities, top_class

ENTROPY, REGRESSION, REGION, BOX, SIMILARITY = "entropy", "regression", "region", "box", "similarity"

OTHERS = (ENTROPY, REGRESSION, REGION, BOX, SIMILARITY)
"""What can be asked besides the score of a class."""

Corners = tuple[float, float, float, float]
"""Left, top, right and bottom of a box."""


@dataclass(frozen=True)
class Spelling:
    """How a question is written where it is asked, for sentences that say what to write instead."""

    verb: str
    """What a person does with a question, such as "write"."""
    scores: Mapping[str, str]
    """How each question is written."""
    box: str
    """The name of the option for a box."""
    mask: str = ""
    """The name of the option for a mask, if there is one."""
    target: str = ""
    """The name of the option for a class, if there is one."""

    def __call__(self, score: str | None) -> str:
        """How a question is written."""
        return self.scores.get(str(score), str(score))


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of one picture."""

    target: int
    """The index of the question's name: of a class, or 0."""
    score: Score
    """The score of this picture alone."""
    caption: str
    """In words, for figures and tables."""
    is_of_class: bool = True
    """Whether `target` is the index of a class."""
    probabilities: Float[Tensor, " classes"] | None = None
    """Those of the classes for the whole picture, if the question is about classes."""

    @property
    def has_probability(self) -> bool:
        """Whether it has a probability under each mask: whether it is a class of a classifier."""
        return isinstance(self.score, Logit)


@dataclass(frozen=True)
class Where:
    """The place of a picture that a question is about: a box in its pixels, or what is white in a mask of its size."""

    box: Corners | None = None
    mask: Image.Image | None = None
    key: Any = None
    """What a result depends on: how the box was written, or the hash of the mask."""
    file: Path = Path()
    """The name of the mask's file."""

    @property
    def name(self) -> str:
        """What it is called in the names of files."""
        return f"box {self.key}" if self.mask is None else self.file.stem


@dataclass(frozen=True, eq=False)
class Question(ABC):
    """What is asked of each of several pictures."""

    names_classes = True
    """Whether it is about classes, so that their names matter."""

    classifier: Classifier
    device: torch.device
    spelling: Spelling

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The name of each target, for the names of files."""

    @abstractmethod
    def ask(self, size: tuple[int, int], inputs: Float[Tensor, " C *S"], targets: Sequence[int]) -> list[Asked]:
        """What is asked of one picture, of a width and height: for each target, or without any for the one it has itself.

        Raises `ValueError` where the question does not fit the picture or the model.
        """

    @abstractmethod
    def joined(self, asked: Sequence[Asked], inputs: Float[Tensor, "B C *S"]) -> Any:
        """The targets that a method takes for a batch of pictures."""

    def find(self, text: str) -> int:
        """The index of a target in a text. Raises `ValueError`."""
        return find(self.classifier.labels, text)

    @property
    def key(self) -> Mapping[str, Any]:
        """What results depend on, as an entry for their summaries; empty for a class, whose index is in the name."""
        return {}


@dataclass(frozen=True, eq=False)
class OfAClass(Question):
    """A class, as a logit or a probability; by default the top class."""

    link: str = "auto"

    @cached_property
    def names(self) -> Sequence[str]:
        return first_names(self.classifier.labels)

    def ask(self, size: tuple[int, int], inputs: Float[Tensor, " C *S"], targets: Sequence[int]) -> list[Asked]:  # noqa: ARG002
        shares = self.probabilities(inputs)
        return [
            Asked(target, Logit(target), f"{self.names[target]} ({target})", probabilities=shares)
            for target in targets or [top_class(shares)]
        ]

    def probabilities(self, inputs: Float[Tensor, " C *S"]) -> Float[Tensor, " classes"]:
        """Those of the classes for one picture, on the CPU."""
        with torch.no_grad():
            return probabilities(self.classifier.logits(inputs[None].to(self.device)), self.link)[0].cpu()

    def joined(self, asked: Sequence[Asked], inputs: Float[Tensor, "B C *S"]) -> Any:
        return torch.tensor([one.target for one in asked], dtype=torch.long, device=inputs.device)


@dataclass(frozen=True, eq=False)
class OfDoubt(OfAClass):
    """How undecided the network is: the entropy of its probabilities."""

    @property
    def names(self) -> Sequence[str]:
        return [ENTROPY]

    def ask(self, size: tuple[int, int], inputs: Float[Tensor, " C *S"], targets: Sequence[int]) -> list[Asked]:  # noqa: ARG002
        caption = "how undecided the network is (entropy)"
        return [Asked(0, Entropy(self.link), caption, False, self.probabilities(inputs))]

    def find(self, text: str) -> int:
        raise ValueError(
            f"{self.spelling(ENTROPY)} is about all classes together; leave out {self.spelling.target} {text}"
        )

    def joined(self, asked: Sequence[Asked], inputs: Float[Tensor, "B C *S"]) -> Any:  # noqa: ARG002
        return asked[0].score

    @property
    def key(self) -> Mapping[str, Any]:
        return {"asked": ENTROPY}


@dataclass(frozen=True, eq=False)
class OfANumber(Question):
    """An output as it is, which estimates a number; by default the first one."""

    names_classes = False

    @property
    def names(self) -> Sequence[str]:
        return [f"output {index}" for index in range(len(self.classifier.labels))]

    def ask(self, size: tuple[int, int], inputs: Float[Tensor, " C *S"], targets: Sequence[int]) -> list[Asked]:  # noqa: ARG002
        return [
            Asked(target, Regression(target), f"{self._name(target)} (estimated number)", False)
            for target in targets or [0]
        ]

    def _name(self, target: int) -> str:
        label = self.classifier.labels[target]
        own = label not in default_labels(len(self.classifier.labels))
        return f"{self.names[target]}, {label}" if own else self.names[target]

    def joined(self, asked: Sequence[Asked], inputs: Float[Tensor, "B C *S"]) -> Any:  # noqa: ARG002
        return Regression(tuple(one.target for one in asked))

    @property
    def key(self) -> Mapping[str, Any]:
        return {"asked": REGRESSION}


@dataclass(frozen=True, eq=False)
class OfARegion(Question):
    """A class in a region of maps; by default the class that has the largest mean logit there."""

    where: Where = field(default_factory=Where)

    @cached_property
    def names(self) -> Sequence[str]:
        return [f"{name} in {self.where.name}" for name in first_names(self.classifier.labels)]

    def ask(self, size: tuple[int, int], inputs: Float[Tensor, " C *S"], targets: Sequence[int]) -> list[Asked]:
        places = self._places(size, inputs)
        return [
            Asked(target, Region(target, places), f"{self.names[target]} ({target})")
            for target in targets or [self._top(places, inputs)]
        ]

    def _top(self, places: Places, inputs: Float[Tensor, " C *S"]) -> int:
        """The class with the largest mean logit in the region."""
        query = torch.zeros(1, dtype=torch.long, device=self.device)
        with torch.no_grad():
            outputs = self.classifier.net(inputs[None].to(self.device))
            scores = [Region(target, places)(outputs, query) for target in range(len(self.classifier.labels))]
        return top_class(torch.cat(scores))

    def _places(self, size: tuple[int, int], inputs: Float[Tensor, " C *S"]) -> Places:
        """The places of the input that lie in the region."""
        shape = tuple(inputs.shape[1:])
        seen = self.classifier.preparation.window(size)
        if self.where.mask is not None:
            return Places.of(_white(self.where, size, seen, shape, self.spelling.mask))
        assert self.where.box is not None  # noqa: S101  # for the type checker: who asks has seen to it
        return Places.in_box(in_input(self.where.box, size, shape, seen, self.spelling.box), shape)

    def joined(self, asked: Sequence[Asked], inputs: Float[Tensor, "B C *S"]) -> Any:  # noqa: ARG002
        return Region([one.target for one in asked], [one.score.mask for one in asked])  # type: ignore[attr-defined]

    @property
    def key(self) -> Mapping[str, Any]:
        return {"asked": {REGION: self.where.key}}


@dataclass(frozen=True, eq=False)
class OfABox(Question):
    """How well a detector finds a box of a class: a given one, or by default the one of which it is surest."""

    box: Corners | None = None
    """In pixels of the picture."""

    @cached_property
    def names(self) -> Sequence[str]:
        where = "box" if self.box is None else f"in box {written(self.box)}"
        return [f"{name} {where}" for name in first_names(self.classifier.labels)]

    def ask(self, size: tuple[int, int], inputs: Float[Tensor, " C *S"], targets: Sequence[int]) -> list[Asked]:
        detector, shape = self._detector, tuple(inputs.shape[1:])
        batch = inputs[None].to(self.device)
        found = detector.found(batch)[0]
        shares = torch.zeros(len(detector.labels), dtype=torch.float32, device="cpu")
        for one in reversed(found):  # the surest of a class comes last
            shares[one.target] = one.sureness
        seen = detector.preparation.window(size)
        asked = []
        for target in targets or [None]:  # type: ignore[list-item]
            if self.box is None:
                score = detector.surest(batch, target)
                index = score.target[0]
            else:
                index = found[0].target if target is None and found else target or 0
                inside = in_input(self.box, size, shape, seen, self.spelling.box)
                score = Box(inside, index, detections=detector.reader(shape))
            where = ",".join(f"{side:.0f}" for side in in_picture(score.box[0], shape, seen))
            name = first_names(detector.labels)[index]
            asked.append(Asked(index, score, f"{name} ({index}) in the box {where}", probabilities=shares))
        return asked

    @property
    def _detector(self) -> Detector:
        assert isinstance(self.classifier, Detector)  # noqa: S101  # for the type checker: `question` has seen to it
        return self.classifier

    def joined(self, asked: Sequence[Asked], inputs: Float[Tensor, "B C *S"]) -> Any:
        scores = [one.score for one in asked]
        return Box(
            [score.box[0] for score in scores],  # type: ignore[attr-defined]
            [score.target[0] for score in scores],  # type: ignore[attr-defined]
            detections=self._detector.reader(inputs.shape[2:]),
        )

    @property
    def key(self) -> Mapping[str, Any]:
        return {"asked": {BOX: self.box}}


@dataclass(frozen=True, eq=False)
class OfSimilarity(Question):
    """How similar the network finds a picture to a reference picture."""

    names_classes = False

    file: Path = Path()
    """The name of the reference picture's file."""
    reference: Float[Tensor, " C *S"] | None = None
    """The network's input for the reference picture."""
    digest: str = ""
    """The hash of its file."""

    @property
    def names(self) -> Sequence[str]:
        return [f"similarity to {self.file.stem}"]

    @cached_property
    def _score(self) -> Similarity:
        assert self.reference is not None  # noqa: S101  # for the type checker: `question` has seen to it
        return Similarity.to(self.classifier.net, self.reference[None].to(self.device))

    def find(self, text: str) -> int:
        raise ValueError(f"{self.spelling(SIMILARITY)} has no classes; leave out {self.spelling.target} {text}")

    def ask(self, size: tuple[int, int], inputs: Float[Tensor, " C *S"], targets: Sequence[int]) -> list[Asked]:  # noqa: ARG002
        return [Asked(0, self._score, f"similarity to {self.file.name}", False)]

    def joined(self, asked: Sequence[Asked], inputs: Float[Tensor, "B C *S"]) -> Any:  # noqa: ARG002
        return asked[0].score

    @property
    def key(self) -> Mapping[str, Any]:
        return {"asked": {SIMILARITY: self.digest}}


@dataclass(frozen=True, eq=False)
class Details:
    """What a question needs besides its name."""

    where: Where = field(default_factory=Where)
    """For a region or a box."""
    file: Path = Path()
    """The name of the picture to compare with."""
    reference: Float[Tensor, " C *S"] | None = None
    """The network's input for it."""
    digest: str = ""
    """The hash of its file."""
    link: str = "auto"
    """How outputs become probabilities, of `sfumato.scores.LINKS`."""


def question(
    score: str | None, classifier: Classifier, device: torch.device, spelling: Spelling, details: Details | None = None
) -> Question:
    """The question of a name among `OTHERS`, or about a class. Raises `ValueError` where the model cannot answer it.

    A detector is asked about boxes if no question is named.
    """
    details = details or Details()
    if reason := refusal(score, classifier, spelling):
        raise ValueError(reason)
    common, link = (classifier, device, spelling), classifier.probability_link(details.link)
    if isinstance(classifier, Detector):
        return OfABox(*common, details.where.box)
    if score == SIMILARITY:
        return OfSimilarity(*common, details.file, details.reference, details.digest)
    if score == REGION:
        return OfARegion(*common, details.where)
    if score == REGRESSION:
        return OfANumber(*common)
    return OfDoubt(*common, link) if score == ENTROPY else OfAClass(*common, link)


def refusal(score: str | None, classifier: Classifier, spelling: Spelling) -> str:
    """Why a model cannot be asked this, and what to ask instead; empty if it can."""
    name, detects = classifier.name, isinstance(classifier, Detector)
    if score in (REGION, BOX) and takes_clips(classifier):
        return (
            f"{spelling(score)} is about a place of a picture, and model {name!r} takes clips; give the mask (T, H, W) of a "
            "region in Python: sfumato.Region(class, mask)"
        )
    if detects and score not in (None, BOX):
        instead = f"{spelling.verb.capitalize()} {spelling(BOX)}"
        return f"model {name!r} is a detector, which finds boxes; got {spelling(score)}. {instead}"
    if score == BOX and not detects:
        return (
            f"{spelling(BOX)} is for detectors, and model {name!r} is none; {spelling.verb} {spelling(REGION)} for a class in "
            "a box of a segmentation, or see sfumato models for detectors"
        )
    if isinstance(classifier, Embedder) and score != SIMILARITY:
        return f"model {name!r} gives embeddings; {spelling.verb} {spelling(SIMILARITY)}"
    return ""


def first_names(labels: Sequence[str]) -> list[str]:
    """The first synonym of each label."""
    return [synonyms(label)[0] for label in labels]


def written(box: Corners) -> str:
    """A box as text.

    >>> written((10.0, 20.5, 110.0, 120.0))
    '10,20.5,110,120'
    """
    return ",".join(f"{side:g}" for side in box)


def in_input(box: Corners, size: tuple[int, int], shape: Sequence[int], seen: Corners, option: str) -> Corners:
    """A box in pixels of a picture of `size`, in pixels of the input of `shape`, which shows the part `seen` of the picture.

    Raises `ValueError` if it lies outside of that.
    """
    height, width = shape
    left, top, right, bottom = seen
    x, y = width / (right - left), height / (bottom - top)
    inside = (
        max(0.0, (box[0] - left) * x),
        max(0.0, (box[1] - top) * y),
        min(float(width), (box[2] - left) * x),
        min(float(height), (box[3] - top) * y),
    )
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        shown = ",".join(f"{side:.0f}" for side in seen)
        raise ValueError(
            f"{option} lies outside of what the network sees of this picture of {size[0]} × {size[1]} pixels, "
            f"which is {shown}; give left,top,right,bottom in pixels of the picture"
        )
    return inside


def in_picture(box: Sequence[float], shape: Sequence[int], seen: Corners) -> Corners:
    """A box in pixels of the input of `shape`, in pixels of the picture, of which the input shows the part `seen`."""
    height, width = shape
    left, top, right, bottom = seen
    x, y = (right - left) / width, (bottom - top) / height
    return left + box[0] * x, top + box[1] * y, left + box[2] * x, top + box[3] * y


def detected(
    detector: Detector, size: tuple[int, int], inputs: Float[Tensor, "1 C H W"]
) -> list[tuple[Detected, Corners]]:
    """What a detector finds in a picture of `size`, the surest first, each with its box in pixels of the picture."""
    seen = detector.preparation.window(size)
    return [(one, in_picture(one.box, inputs.shape[2:], seen)) for one in detector.found(inputs)[0]]


def _white(
    where: Where, size: tuple[int, int], seen: Corners, shape: Sequence[int], option: str
) -> Bool[Tensor, "H W"]:
    """The places of the input at which a mask of the same size as the explained picture is white. What is transparent is not.

    Raises `ValueError` for a mask of another size, for one with more colours than two, and where no place is white.
    """
    mask = where.mask
    assert mask is not None  # noqa: S101  # for the type checker: who asks has seen to it
    if mask.size != size:
        raise ValueError(
            f"{option} is a picture of {mask.width} × {mask.height} pixels, but the explained one has {size[0]} × "
            f"{size[1]}; give one of the same size, white in the region"
        )
    colours = rgb(upright(mask, paper="black"))
    if (count := _colours(colours)) > 2:
        raise ValueError(
            f"{option}: {str(where.file)!r} has {count} colours or shades, as a map of labels has; give a picture that is "
            "white in the region and black elsewhere"
        )
    values = colours.mean(0)
    white = values > values.max() / 2
    left, top, right, bottom = seen
    height, width = shape
    x = left + (torch.arange(width, dtype=torch.float64, device="cpu") + 0.5) * (right - left) / width
    y = top + (torch.arange(height, dtype=torch.float64, device="cpu") + 0.5) * (bottom - top) / height
    inside = ((y >= 0) & (y < mask.height))[:, None] & ((x >= 0) & (x < mask.width))
    rows, columns = y.long().clamp(0, mask.height - 1), x.long().clamp(0, mask.width - 1)
    places = white[rows][:, columns] & inside
    if not places.any():
        raise ValueError(f"{option}: {str(where.file)!r} is white nowhere in what the network sees of the picture")
    return places


SHADES = 16
"""Levels of each of red, green and blue that are told apart, from black to a mask's brightest value."""

SHARE = 0.002
"""The least share of a mask that a colour fills."""


def _colours(picture: Float[Tensor, "3 H W"]) -> int:
    """How many colours fill a part of a picture each, not counting small differences and soft outlines."""
    levels = (picture / picture.max().clamp(min=1e-6) * SHADES).long().clamp(max=SHADES - 1)
    codes = (levels[0] * SHADES + levels[1]) * SHADES + levels[2]
    inside = torch.ones_like(codes, dtype=torch.bool)  # the pixels whose neighbours have the same colour
    for axis in (0, 1):
        same = codes.diff(dim=axis) == 0
        count = codes.shape[axis] - 1
        inside.narrow(axis, 0, count).logical_and_(same)
        inside.narrow(axis, 1, count).logical_and_(same)
    return int((codes[inside].bincount() >= SHARE * codes.numel()).sum())
