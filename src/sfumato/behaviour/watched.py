"""A network's answers to pictures, unchanged and transformed."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.behaviour.transformations import Draw, Levels, Transformation
from sfumato.model.effects import Model, device_of
from sfumato.model.subject import Subject
from sfumato.scores import AUTO, SIGMOID, check_link, class_scores, probabilities, two_classes

RESPONSES = ("probability", "sigmoid", "logit", "top1")
"""The probability of a class (see `Watched.link`), the sigmoid of its output, its output, or whether it is the top class.

A model with one output has two classes, see `sfumato.scores`: class 0 has the sigmoid of the output, class 1 the complement.
For "logit" it has only class 0.
"""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the model's input, with the classes that it shows."""

    name: str
    """Unique among the pictures of a `Watched`. The random changes of the picture depend on it."""
    inputs: Float[Tensor, " C *S"]
    present: frozenset[str] = frozenset()
    """The classes in the picture, with the data set's names."""
    doubtful: frozenset[str] = frozenset()
    """Classes for which it is not known whether the picture shows them."""


@dataclass(frozen=True, eq=False)
class Watched:
    """A model and pictures.

    - `pictures`: a list, or another iterable that can be iterated repeatedly, for example one that reads files each time.
    - `levels`: black and white in the values of the inputs.
    - `rows`: how many inputs the model gets in one batch.
    - `link`: what makes probabilities of the outputs, of `sfumato.scores.LINKS`: "softmax" where one class is right, "sigmoid"
      where each is right or wrong by itself; "auto" is a softmax. `Classifier.probability_link()` says which one fits.

    The answers to unchanged pictures are cached: classes × pictures numbers.
    """

    model: Model
    pictures: Iterable[Picture]
    levels: Levels | None = None
    rows: int = 16
    link: str = AUTO
    _unchanged: dict[str, dict[str, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _layouts: list[torch.memory_format] = field(default_factory=list, init=False, repr=False)
    """Memory formats that the model's inputs may have, once they are known."""

    def __post_init__(self) -> None:
        check_link(self.link)

    def whole(self, response: str) -> dict[str, Tensor]:
        """The answers `(K,)` to the unchanged pictures, by name: logits for "logit", probabilities otherwise."""
        kind = _kind(response)
        if kind not in self._unchanged:
            by_name: dict[str, Tensor] = {}
            for pictures in _batches(self.pictures, self.rows):
                answers = self._answers(torch.stack([picture.inputs for picture in pictures]), kind)
                for picture, values in zip(pictures, answers, strict=True):
                    if picture.name in by_name:
                        raise ValueError(f"two pictures are called {picture.name!r}; give each its own name")
                    by_name[picture.name] = values
            if not by_name:
                raise ValueError("a rule needs pictures to be tested on; got none")
            self._unchanged[kind] = by_name
        return self._unchanged[kind]

    def changed(
        self, transformation: Transformation, draws: int, seed: int, response: str
    ) -> Iterator[tuple[Picture, Float[Tensor, "{draws} K"]]]:
        """Yield each picture with the answers to changed versions, drawn from its name and `seed`."""
        kind = _kind(response)
        for pictures in _batches(self.pictures, max(1, self.rows // draws)):
            inputs = []
            for picture in pictures:
                generator = torch.Generator("cpu").manual_seed(_number(f"{seed}/{picture.name}"))
                draw = Draw(generator, self.levels)
                inputs += [transformation(picture.inputs[None], draw) for _ in range(draws)]
            answers = self._answers(torch.cat(inputs), kind)
            yield from zip(pictures, answers.split(draws), strict=True)

    def _answers(self, inputs: Float[Tensor, "N C *S"], kind: str) -> Float[Tensor, "N K"]:
        """The answers to inputs. Outputs with space are averaged over it."""
        inputs = inputs.to(device_of(self.model))
        with Subject.prepared(self.model, inputs, 0) as subject, subject.surroundings.computing(), torch.no_grad():
            if self._layouts:
                subject.habits.layouts, subject.habits.settled = self._layouts, True
            else:
                subject.settle_layout(subject.outputs(subject.inputs[:1], subject.query[:1]))
                self._layouts[:] = subject.habits.layouts
            chunks = []
            for chunk in subject.query.split(self.rows):
                values = class_scores(subject.outputs(subject.inputs[chunk], chunk), len(chunk))
                if kind != "logit":
                    one_output = values.shape[1] == 1
                    rule = AUTO if one_output else SIGMOID if kind == "sigmoid" else self.link
                    values = probabilities(two_classes(values), rule)
                chunks.append(values.flatten(2).mean(2) if values.ndim > 2 else values)
        answers = torch.cat(chunks).cpu()
        if not torch.isfinite(answers).all():
            raise ValueError("the model's answers are not finite; check the model")
        return answers


def _kind(response: str) -> str:
    """The kind of answers that a response needs: "top1" needs probabilities."""
    return "probability" if response == "top1" else response


def check_response(response: str) -> None:
    """Raise `ValueError` unless it is one of `RESPONSES`."""
    if response not in RESPONSES:
        raise ValueError(f"response must be one of {', '.join(RESPONSES)}; got {response!r}")


def check_class(target: int, answers: Float[Tensor, "... K"]) -> None:
    """Raise `ValueError` unless the answers have the class `target`."""
    if not 0 <= target < answers.shape[-1]:
        raise ValueError(
            f"target {target} is out of range: the model has {answers.shape[-1]} outputs (0 to {answers.shape[-1] - 1})"
        )


def _batches(pictures: Iterable[Picture], count: int) -> Iterator[list[Picture]]:
    """Yield batches of up to `count` pictures of one shape, in their order."""
    batch: list[Picture] = []
    for picture in pictures:
        if batch and (len(batch) == count or picture.inputs.shape != batch[0].inputs.shape):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch


def _number(text: str) -> int:
    """A number from 0 to 2⁶³ − 1 for a text, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
