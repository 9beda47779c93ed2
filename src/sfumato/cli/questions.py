"""The options of `sfumato explain` that say what is asked: `--score`, and what some questions need besides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.naming import check_choice

if TYPE_CHECKING:
    import torch

    from sfumato.models import Classifier
    from sfumato.models.questions import Corners, Question

IN_PYTHON = {
    "tokens": (
        "a command gives a model pictures alone, and an answer needs its prompt and its tokens too. Write in Python: "
        "model = lambda pixels: net(pixel_values=pixels, input_ids=ids.expand(len(pixels), -1)); "
        "targets = sfumato.Tokens(answer); result = method(model, prompt.pixel_values, targets). See docs/howto/answers.md"
    ),
    "contrastive": "a class against another one is asked in Python, by sfumato.Contrastive(281, against=285)",
    "output": "a function of the outputs is given in Python, by sfumato.Output(function)",
}
"""Scores that have no spelling here, and what to do."""


@dataclass(frozen=True)
class Details:
    """The options that say more about a question than --score and --target."""

    box: str | None = None
    mask: Path | None = None
    to: Path | None = None

    def check(self, score: str | None, pictures: int) -> None:
        """Raise `ValueError` for options that do not go with the score, or are missing."""
        from sfumato.models.questions import BOX, REGION, SIMILARITY

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


def corners(text: str) -> "Corners":
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


def question(
    score: str | None, classifier: "Classifier", device: "torch.device", details: Details, link: str = "auto"
) -> "Question":
    """The question of a command. Raises `ValueError` where the model cannot answer it."""
    from sfumato.cli.inputs import shown
    from sfumato.cli.outputs import digest_of
    from sfumato.data import pictures
    from sfumato.models import questions

    scores = {name: f"--score {name}" for name in questions.OTHERS} | {
        questions.SIMILARITY: "--score similarity --to PICTURE"
    }
    spelling = questions.Spelling("write", scores, "--box", "--mask", "--target")
    if reason := questions.refusal(score, classifier, spelling):
        raise ValueError(reason)
    box = None if details.box is None else corners(details.box)
    key = details.box if details.mask is None else digest_of(details.mask)
    if details.mask is not None and not details.mask.is_file():
        raise ValueError(f"--mask: there is no file {str(details.mask)!r}; name a picture that is white in the region")
    mask = None if details.mask is None else pictures.read(details.mask, paper="black")
    more = questions.Details(questions.Where(box, mask, key, details.mask or Path()), link=link)
    if details.to is not None:
        if not details.to.is_file():
            raise ValueError(f"--to: there is no file {str(details.to)!r}; name the picture to compare with")
        _, _, reference = shown(details.to, classifier)
        more = questions.Details(file=details.to, reference=reference, digest=digest_of(details.to))
    return questions.question(score, classifier, device, spelling, more)


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
    from sfumato.models.questions import OTHERS

    if score not in IN_PYTHON:
        check_choice("--score", score, (*of_a_class, *OTHERS))
