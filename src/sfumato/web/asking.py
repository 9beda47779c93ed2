"""What a page asks of a picture: the score of a class, or another question, with the box or the picture that it needs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sfumato.data.labels import synonyms
from sfumato.model.effects import device_of
from sfumato.models import Classifier, Detector
from sfumato.models.questions import (
    BOX,
    ENTROPY,
    REGION,
    REGRESSION,
    SIMILARITY,
    Asked,
    Corners,
    Details,
    Spelling,
    Where,
    question,
    refusal,
    written,
)
from sfumato.scores import OF_A_CLASS, Contrastive, Logit, class_scores
from sfumato.settings import is_whole
from sfumato.web import uploads
from sfumato.web.tabs import TabPicture

LOGIT = "logit"

SCORES = {
    LOGIT: "its score (logit)",
    "probability": "its probability",
    "log-odds": "its log-odds",
    "sigmoid": "its probability alone (sigmoid)",
    REGION: "a class in a box or a mask",
    BOX: "a box that it finds",
    SIMILARITY: "likeness to another picture",
    REGRESSION: "an estimated number",
    ENTROPY: "how undecided the network is (entropy)",
}
"""What may be asked, and what the page calls it."""

SPELLING = Spelling("choose", {name: f"“{title}”" for name, title in SCORES.items()}, "the box", "the mask")
"""How the page writes questions."""

WITHOUT_CLASS = (ENTROPY, SIMILARITY)
"""Questions that are not about a class or an output."""

NO_MAPS = "for networks whose outputs are maps, such as segmentations"
"""Why a network with one number for each class cannot be asked about a region."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is asked, before the network has run for it."""

    score: str
    """One of `SCORES`."""
    target: int | None = None
    """The index of a class; `None` for the one that the network is surest of, or where the question is not about one."""
    against: int | None = None
    box: Corners | None = None
    """In pixels of the picture."""
    to: TabPicture | None = None
    """The picture to compare with."""
    mask: TabPicture | None = None
    """The picture that is white in the region."""

    @classmethod
    def parse(
        cls, request: Mapping[str, Any], classifier: Classifier, pictures: Mapping[str, TabPicture] | None = None
    ) -> "Wanted":
        """The question in the page's request, of a tab with these pictures. Raises `ValueError` for what cannot be asked."""
        score = request.get("score", BOX if isinstance(classifier, Detector) else LOGIT)
        if not isinstance(score, str) or score not in SCORES:
            raise ValueError(f"score is one of {', '.join(SCORES)}; got {score!r:.80}")
        if reason := refusal(score, classifier, SPELLING):
            raise ValueError(reason)
        target = None
        if score not in WITHOUT_CLASS and not (score in (BOX, REGION) and request.get("target") is None):
            target = class_index(request.get("target"), "target", classifier)
        against = None if request.get("against") is None else class_index(request["against"], "against", classifier)
        if against is not None and score != LOGIT:
            raise ValueError(f"two classes are compared by their logits; choose no other class, or score={LOGIT}")
        if against is not None and against == target:
            raise ValueError("the two classes are the same; choose another one to set it against")
        box = None if request.get("box") is None else corners(request["box"])
        if box is not None and score not in (REGION, BOX):
            raise ValueError(f"a box is for {SPELLING(REGION)} or {SPELLING(BOX)}; take the box away")
        mask = None if request.get("mask") is None else _of_tab(request["mask"], "the mask", pictures or {})
        if mask is not None and score != REGION:
            raise ValueError(f"a mask is for {SPELLING(REGION)}; take the mask away")
        if score == REGION and (box is None) == (mask is None):
            what = "a box or a mask" if box is None else "either a box or a mask, and got both"
            raise ValueError(
                f"a region needs {what}; draw a box on the picture, or choose a picture that is white there"
            )
        to = None
        if score == SIMILARITY:
            if request.get("to") is None:
                raise ValueError("a similarity needs a second picture; choose the picture to compare with")
            to = _of_tab(request["to"], "the picture to compare with", pictures or {})
        return cls(score, target, against, box, to, mask)

    @property
    def memory(self) -> int:
        """The bytes of its pictures."""
        return sum(picture.memory for picture in (self.to, self.mask) if picture is not None)

    @property
    def is_of_class(self) -> bool:
        """Whether it is the score of a class of a classifier."""
        return self.score in OF_A_CLASS

    def ask(self, classifier: Classifier, picture: TabPicture) -> Asked:
        """The question about a picture. It may run the network. Raises `ValueError` where it does not fit the picture."""
        if self.is_of_class:
            return self._of_class(classifier)
        device, key = device_of(classifier.net), None if self.box is None else written(self.box)
        details = Details(Where(self.box, key=key))
        if self.mask is not None:
            digest = hashlib.sha256(self.mask.content).hexdigest()
            details = Details(Where(None, uploads.picture(self.mask.content, "black"), digest, Path(self.mask.file)))
        if self.to is not None:
            details = Details(file=Path(self.to.file), reference=self.to.inputs[0])
        asks = question(self.score, classifier, device, SPELLING, details)
        return asks.ask(picture.size, picture.inputs[0], [] if self.target is None else [self.target])[0]

    def _of_class(self, classifier: Classifier) -> Asked:
        target = self.target or 0
        names = [synonyms(classifier.labels[index])[0] for index in (target, self.against) if index is not None]
        if self.against is not None:
            return Asked(target, Contrastive(target, against=self.against), ", not ".join(names))
        score = OF_A_CLASS[classifier.meaning(self.score)](target)
        return Asked(target, score, names[0] if isinstance(score, Logit) else f"{names[0]}, {SCORES[self.score]}")


def corners(value: Any) -> Corners:
    """A box in the page's request. Raises `ValueError`.

    >>> corners([10, 20, 110, 120])
    (10.0, 20.0, 110.0, 120.0)
    """
    sides = value if isinstance(value, list) and len(value) == 4 else []
    numbers = [
        float(side)
        for side in sides
        if isinstance(side, int | float) and not isinstance(side, bool) and abs(side) <= LARGEST
    ]
    if len(numbers) != 4 or not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise ValueError(
            "a box is four numbers in pixels of the picture: left, top, right and bottom, with left less than right and top "
            f"less than bottom; got {value!r:.80}"
        )
    left, top, right, bottom = numbers
    return left, top, right, bottom


LARGEST = 1e6
"""The largest coordinate of a box, in pixels. No picture is larger."""


def offered(classifier: Classifier) -> list[dict[str, Any]]:
    """What the page offers to ask, with what each question needs; and why, if this network cannot be asked it."""
    entries = []
    for name, title in SCORES.items():
        reason = refusal(name, classifier, SPELLING)
        if name == REGION and not reason and has_maps(classifier) is False:
            reason = NO_MAPS
        entries.append(
            {
                "name": name,
                "title": title,
                "reason": reason,
                "of_class": name not in WITHOUT_CLASS,
                "against": name == LOGIT,
                "box": {REGION: "needed", BOX: "possible"}.get(name, ""),
                "mask": name == REGION,
                "picture": name == SIMILARITY,
                "certifies": name in OF_A_CLASS,
            }
        )
    return entries


def has_maps(classifier: Classifier) -> bool | None:
    """Whether a network's outputs are maps, with a score for each place; `None` if that cannot be found out."""
    try:
        shape = classifier.preparation.shape
        inputs = torch.zeros(2, *shape, dtype=torch.float32, device=device_of(classifier.net))
        with torch.no_grad():
            return class_scores(classifier.net(inputs), 2).ndim > 2
    except Exception:  # noqa: BLE001  # a network may raise anything; a question that does not fit is refused when it is asked
        return None


def _of_tab(name: Any, what: str, pictures: Mapping[str, TabPicture]) -> TabPicture:
    """A picture of the tab. Raises `ValueError` if it is not there."""
    picture = pictures.get(name) if isinstance(name, str) else None
    if picture is None:
        raise ValueError(f"{what} is not here any more; choose it again")
    return picture


def class_index(value: Any, name: str, classifier: Classifier) -> int:
    """The index of a class. Raises `ValueError` if there is no such class."""
    if not (is_whole(value, 0) and value < len(classifier.labels)):
        raise ValueError(f"{name} is the index of one of the {len(classifier.labels)} classes; got {value!r:.80}")
    return value
