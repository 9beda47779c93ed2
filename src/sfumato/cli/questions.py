"""What `sfumato explain` asks of each picture: a class, or with `--score` doubt, a number, a region, a box, a similarity."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.cli.naming import check_choice

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from sfumato.models import Classifier
    from sfumato.scores import Score

ENTROPY, REGRESSION, REGION, BOX, SIMILARITY = "entropy", "regression", "region", "box", "similarity"

OTHERS = (ENTROPY, REGRESSION, REGION, BOX, SIMILARITY)
"""What --score may ask besides a class."""

IN_PYTHON = {
    "tokens": "an answer needs the numbers of its tokens: write sfumato.Tokens(answer) in Python, see docs/howto/answers.md",
    "contrastive": "a class against another one is asked in Python, by sfumato.Contrastive(281, against=285)",
    "output": "a function of the outputs is given in Python, by sfumato.Output(function)",
}
"""Scores that have no spelling here, and what to do."""

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Details:
    """The options that say more about a question than --score and --target."""

    box: str | None = None
    mask: Path | None = None
    to: Path | None = None

    def check(self, score: str | None, pictures: int) -> None:
        """Raise `ValueError` for options that do not go with the score, or are missing."""
        if score in IN_PYTHON:
            raise ValueError(f"--score {score} cannot be said here: {IN_PYTHON[score]}")
        given = {"--box": (self.box, (BOX, REGION)), "--mask": (self.mask, (REGION,)), "--to": (self.to, (SIMILARITY,))}
        for option, (value, scores) in given.items():
            if value is not None and score not in scores:
                raise ValueError(f"{option} is for --score {' or '.join(scores)}; write --score {scores[0]} too")
        if score == REGION and (self.box is None) == (self.mask is None):
            what = "neither" if self.box is None else "both"
            raise ValueError(
                f"--score region needs --box or --mask, one of them; got {what}. Write e.g. --box 10,20,110,120, in pixels of "
                "the picture, or --mask FILE, a picture of the same size that is white in the region"
            )
        if score == SIMILARITY and self.to is None:
            raise ValueError("--score similarity needs a picture to compare with; write --to PICTURE")
        if pictures > 1 and (self.box is not None or self.mask is not None):
            option = "--box" if self.box is not None else "--mask"
            raise ValueError(f"{option} is of one picture; got {pictures}. Explain them one by one")
        if self.box is not None:
            corners(self.box)


def corners(text: str) -> Corners:
    """The left, top, right and bottom of a box in a text. Raises `ValueError`.

    >>> corners("10,20,110,120")
    (10.0, 20.0, 110.0, 120.0)
    >>> corners("10,20,5,120")
    Traceback (most recent call last):
    ValueError: --box is left,top,right,bottom in pixels of the picture, with left < right and top < bottom; got '10,20,5,120'
    """
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        left, top, right, bottom = 0.0, 0.0, 0.0, 0.0
    if not (left < right and top < bottom):
        raise ValueError(
            f"--box is left,top,right,bottom in pixels of the picture, with left < right and top < bottom; got {text!r}"
        )
    return left, top, right, bottom


def choices(of_a_class: Sequence[str]) -> tuple[str, ...]:
    """The values of --score."""
    return (*of_a_class, *OTHERS)


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of one picture."""

    target: int
    """The index of the question's name: of a class, or 0."""
    score: "Score"
    """The score of this picture alone."""
    caption: str
    """In words, for figures and tables."""
    is_of_class: bool = True
    """Whether `target` is the index of a class."""
    probabilities: "Tensor | None" = None
    """Those of the classes for the whole picture, `(classes,)`, if the question is about classes."""

    @property
    def has_probability(self) -> bool:
        """Whether it has a probability under each mask: whether it is a class of a classifier."""
        from sfumato.scores import Logit

        return isinstance(self.score, Logit)


@dataclass(frozen=True, eq=False)
class Question(ABC):
    """What is asked of each picture of a command."""

    classifier: "Classifier"
    device: "torch.device"

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The name of each target, for the names of files."""

    @abstractmethod
    def ask(self, picture: "Image", inputs: "Tensor", targets: Sequence[int]) -> list[Asked]:
        """What is asked of one picture, with inputs `(C, H, W)`: for each target, or without any for the one it has itself."""

    @abstractmethod
    def joined(self, asked: Sequence[Asked], inputs: "Tensor") -> Any:
        """The targets that a method takes for a batch of pictures with inputs `(B, C, H, W)`."""

    def find(self, text: str) -> int:
        """The index of a target in the text of --target. Raises `ValueError`."""
        from sfumato.data import labels

        return labels.find(self.classifier.labels, text)

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

    def ask(self, picture: "Image", inputs: "Tensor", targets: Sequence[int]) -> list[Asked]:  # noqa: ARG002
        from sfumato.scores import Logit, top_class

        shares = self.probabilities(inputs)
        return [
            Asked(target, Logit(target), f"{self.names[target]} ({target})", probabilities=shares)
            for target in targets or [top_class(shares)]
        ]

    def probabilities(self, inputs: "Tensor") -> "Tensor":
        """Those of the classes for one picture, on the CPU."""
        import torch

        from sfumato.scores import probabilities

        with torch.no_grad():
            return probabilities(self.classifier.logits(inputs[None].to(self.device)), self.link)[0].cpu()

    def joined(self, asked: Sequence[Asked], inputs: "Tensor") -> Any:
        import torch

        return torch.tensor([one.target for one in asked], dtype=torch.long, device=inputs.device)


@dataclass(frozen=True, eq=False)
class OfDoubt(OfAClass):
    """How undecided the network is: the entropy of its probabilities."""

    @property
    def names(self) -> Sequence[str]:
        return [ENTROPY]

    def ask(self, picture: "Image", inputs: "Tensor", targets: Sequence[int]) -> list[Asked]:  # noqa: ARG002
        from sfumato.scores import Entropy

        caption = "how undecided the network is (entropy)"
        return [Asked(0, Entropy(), caption, False, self.probabilities(inputs))]

    def find(self, text: str) -> int:
        raise ValueError(f"--score entropy is about all classes together; leave out --target {text}")

    def joined(self, asked: Sequence[Asked], inputs: "Tensor") -> Any:  # noqa: ARG002
        return asked[0].score

    @property
    def key(self) -> Mapping[str, Any]:
        return {"asked": ENTROPY}


@dataclass(frozen=True, eq=False)
class OfANumber(Question):
    """An output as it is, which estimates a number; by default the first one."""

    @property
    def names(self) -> Sequence[str]:
        return [f"output {index}" for index in range(len(self.classifier.labels))]

    def ask(self, picture: "Image", inputs: "Tensor", targets: Sequence[int]) -> list[Asked]:  # noqa: ARG002
        from sfumato.scores import Regression

        return [
            Asked(target, Regression(target), f"{self._name(target)} (estimated number)", False)
            for target in targets or [0]
        ]

    def _name(self, target: int) -> str:
        from sfumato.data import labels

        label = self.classifier.labels[target]
        own = label not in labels.default_labels(len(self.classifier.labels))
        return f"{self.names[target]}, {label}" if own else self.names[target]

    def joined(self, asked: Sequence[Asked], inputs: "Tensor") -> Any:  # noqa: ARG002
        from sfumato.scores import Regression

        return Regression(tuple(one.target for one in asked))

    @property
    def key(self) -> Mapping[str, Any]:
        return {"asked": REGRESSION}


@dataclass(frozen=True, eq=False)
class OfARegion(Question):
    """A class in a region of maps; by default the class that has the largest mean logit there."""

    details: Details = field(default_factory=Details)

    @cached_property
    def names(self) -> Sequence[str]:
        return [f"{name} in {self._where}" for name in first_names(self.classifier.labels)]

    @property
    def _where(self) -> str:
        return f"box {self.details.box}" if self.details.mask is None else self.details.mask.stem

    def ask(self, picture: "Image", inputs: "Tensor", targets: Sequence[int]) -> list[Asked]:
        from sfumato.scores import Region

        places = self._places(picture, inputs)
        return [
            Asked(target, Region(target, places), f"{self.names[target]} ({target})")
            for target in targets or [self._top(places, inputs)]
        ]

    def _top(self, places: Any, inputs: "Tensor") -> int:
        """The class with the largest mean logit in the region."""
        import torch

        from sfumato.scores import Region, top_class

        query = torch.zeros(1, dtype=torch.long, device=self.device)
        with torch.no_grad():
            outputs = self.classifier.net(inputs[None].to(self.device))
            scores = [Region(target, places)(outputs, query) for target in range(len(self.classifier.labels))]
        return top_class(torch.cat(scores))

    def _places(self, picture: "Image", inputs: "Tensor") -> Any:
        """The places of the input that lie in the region."""
        from sfumato.scores import Places

        shape = tuple(inputs.shape[1:])
        seen = self.classifier.preparation.window(picture.size)
        if self.details.mask is None:
            assert self.details.box is not None  # noqa: S101  # for the type checker: `Details.check` has seen to it
            return Places.in_box(in_input(corners(self.details.box), picture, inputs, seen, "--box"), shape)
        return Places.of(_mask(self.details.mask, picture, seen, shape))

    def joined(self, asked: Sequence[Asked], inputs: "Tensor") -> Any:  # noqa: ARG002
        from sfumato.scores import Region

        return Region([one.target for one in asked], [one.score.mask for one in asked])  # type: ignore[attr-defined]

    @property
    def key(self) -> Mapping[str, Any]:
        from sfumato.cli.outputs import digest_of

        mask = self.details.mask
        return {"asked": {REGION: self.details.box if mask is None else digest_of(mask)}}


@dataclass(frozen=True, eq=False)
class OfABox(Question):
    """How well a detector finds a box of a class: a given one, or by default the one of which it is surest."""

    box: Corners | None = None

    @cached_property
    def names(self) -> Sequence[str]:
        where = "box" if self.box is None else f"in box {','.join(f'{side:g}' for side in self.box)}"
        return [f"{name} {where}" for name in first_names(self.classifier.labels)]

    def ask(self, picture: "Image", inputs: "Tensor", targets: Sequence[int]) -> list[Asked]:
        import torch

        from sfumato.models import Detector
        from sfumato.scores import Box

        detector = self.classifier
        assert isinstance(detector, Detector)  # noqa: S101  # for the type checker: `question` has seen to it
        batch = inputs[None].to(self.device)
        found = detector.found(batch)[0]
        shares = torch.zeros(len(detector.labels), dtype=torch.float32, device="cpu")
        for one in reversed(found):  # the surest of a class comes last
            shares[one.target] = one.sureness
        seen = detector.preparation.window(picture.size)
        asked = []
        for target in targets or [None]:  # type: ignore[list-item]
            if self.box is None:
                score = detector.surest(batch, target)
                index = score.target[0]
            else:
                index = found[0].target if target is None and found else target or 0
                inside = in_input(self.box, picture, inputs, seen, "--box")
                score = Box(inside, index, detections=detector.reader(inputs.shape[1:]))
            where = ",".join(f"{side:.0f}" for side in in_picture(score.box[0], inputs, seen))
            name = first_names(detector.labels)[index]
            asked.append(Asked(index, score, f"{name} ({index}) in the box {where}", probabilities=shares))
        return asked

    def joined(self, asked: Sequence[Asked], inputs: "Tensor") -> Any:
        from sfumato.models import Detector
        from sfumato.scores import Box

        assert isinstance(self.classifier, Detector)  # noqa: S101
        scores = [one.score for one in asked]
        return Box(
            [score.box[0] for score in scores],  # type: ignore[attr-defined]
            [score.target[0] for score in scores],  # type: ignore[attr-defined]
            detections=self.classifier.reader(inputs.shape[2:]),
        )

    @property
    def key(self) -> Mapping[str, Any]:
        return {"asked": {BOX: self.box}}


@dataclass(frozen=True, eq=False)
class OfSimilarity(Question):
    """How similar the network finds a picture to a reference picture."""

    to: Path = Path()

    @property
    def names(self) -> Sequence[str]:
        return [f"similarity to {self.to.stem}"]

    @cached_property
    def _score(self) -> Any:
        from sfumato.data import pictures
        from sfumato.scores import Similarity

        reference = self.classifier.prepare(pictures.read(self.to))[None].to(self.device)
        return Similarity.to(self.classifier.net, reference)

    def find(self, text: str) -> int:
        raise ValueError(f"--score similarity has no classes; leave out --target {text}")

    def ask(self, picture: "Image", inputs: "Tensor", targets: Sequence[int]) -> list[Asked]:  # noqa: ARG002
        return [Asked(0, self._score, f"similarity to {self.to.name}", False)]

    def joined(self, asked: Sequence[Asked], inputs: "Tensor") -> Any:  # noqa: ARG002
        return asked[0].score

    @property
    def key(self) -> Mapping[str, Any]:
        from sfumato.cli.outputs import digest_of

        return {"asked": {SIMILARITY: digest_of(self.to)}}


def question(
    score: str | None, classifier: "Classifier", device: "torch.device", details: Details, link: str = "auto"
) -> Question:
    """The question of a command. Raises `ValueError` where the model cannot answer it."""
    from sfumato.models import Detector, Embedder

    detects = isinstance(classifier, Detector)
    if detects and score not in (None, BOX):
        raise ValueError(
            f"model {classifier.name!r} is a detector, which finds boxes; got --score {score}. Write --score box"
        )
    if score == BOX and not detects:
        raise ValueError(
            f"--score box is for detectors, and model {classifier.name!r} is none; write --score region for a class in a box "
            "of a segmentation, or see sfumato models for detectors"
        )
    if isinstance(classifier, Embedder) and score != SIMILARITY:
        raise ValueError(f"model {classifier.name!r} gives embeddings; write --score similarity --to PICTURE")
    if detects:
        return OfABox(classifier, device, None if details.box is None else corners(details.box))
    if score == SIMILARITY:
        assert details.to is not None  # noqa: S101  # for the type checker: `Details.check` has seen to it
        if not details.to.is_file():
            raise ValueError(f"--to: there is no file {str(details.to)!r}; name the picture to compare with")
        return OfSimilarity(classifier, device, details.to)
    if score == REGION:
        return OfARegion(classifier, device, details)
    if score == REGRESSION:
        return OfANumber(classifier, device)
    return OfDoubt(classifier, device) if score == ENTROPY else OfAClass(classifier, device, link)


def check_has_classes(classifier: "Classifier", command: str) -> None:
    """Raise `ValueError` for a detector, which the command cannot ask about a class."""
    from sfumato.models import Detector

    if isinstance(classifier, Detector):
        raise ValueError(
            f"{command} explains classes, and model {classifier.name!r} is a detector; explain one of its boxes with "
            f"sfumato explain PICTURE --model {classifier.name}"
        )


def check_score(score: str | None, of_a_class: Sequence[str]) -> None:
    """Raise `ValueError` unless --score has a value that can be used."""
    if score not in IN_PYTHON:
        check_choice("--score", score, choices(of_a_class))


def first_names(labels: Sequence[str]) -> list[str]:
    """The first synonym of each label."""
    from sfumato.data.labels import synonyms

    return [synonyms(label)[0] for label in labels]


def in_input(box: Corners, picture: "Image", inputs: "Tensor", seen: Corners, option: str) -> Corners:
    """A box in pixels of a picture, in pixels of the input, which shows the part `seen` of the picture."""
    height, width = inputs.shape[1:]
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
            f"{option} lies outside of what the network sees of this picture of {picture.width} × {picture.height} pixels, "
            f"which is {shown}; give left,top,right,bottom in pixels of the picture"
        )
    return inside


def in_picture(box: Sequence[float], inputs: "Tensor", seen: Corners) -> Corners:
    """A box in pixels of the input, in pixels of the picture, of which the input shows the part `seen`."""
    height, width = inputs.shape[1:]
    left, top, right, bottom = seen
    x, y = (right - left) / width, (bottom - top) / height
    return left + box[0] * x, top + box[1] * y, left + box[2] * x, top + box[3] * y


def _mask(path: Path, picture: "Image", seen: Corners, shape: Sequence[int]) -> "Tensor":
    """The places `(H, W)` of the input at which a picture of the same size as the explained one is white."""
    import torch

    from sfumato.data.pictures import read, rgb

    if not path.is_file():
        raise ValueError(f"--mask: there is no file {str(path)!r}; name a picture that is white in the region")
    mask = read(path)
    if mask.size != picture.size:
        raise ValueError(
            f"--mask is a picture of {mask.width} × {mask.height} pixels, but the explained one has {picture.width} × "
            f"{picture.height}; give one of the same size, white in the region"
        )
    values = rgb(mask).mean(0)
    white = values > values.max() / 2
    left, top, right, bottom = seen
    height, width = shape
    x = left + (torch.arange(width, dtype=torch.float64, device="cpu") + 0.5) * (right - left) / width
    y = top + (torch.arange(height, dtype=torch.float64, device="cpu") + 0.5) * (bottom - top) / height
    inside = ((y >= 0) & (y < mask.height))[:, None] & ((x >= 0) & (x < mask.width))
    rows, columns = y.long().clamp(0, mask.height - 1), x.long().clamp(0, mask.width - 1)
    places = white[rows][:, columns] & inside
    if not places.any():
        raise ValueError(f"--mask: {str(path)!r} is white nowhere in what the network sees of the picture")
    return places
