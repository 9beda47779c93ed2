"""A network watched on pictures: what it answers to each as it is, and to each as it is changed."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sfumato.behaviour.transformations import Draw, Levels, Transformation
from sfumato.model.effects import Model, device_of
from sfumato.model.subject import Subject
from sfumato.scores import AUTO, SIGMOID, class_scores, probabilities, two_classes

RESPONSES = ("probability", "sigmoid", "logit", "top1")
"""A class's softmax probability, its own sigmoid, its own output, or which class comes first.

A model with one output has two classes, see `sfumato.scores`: class 0 with the sigmoid of the output, and class 1 with the
complement. Only "logit" knows class 0 alone.
"""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the model takes it, and what is known to be in it."""

    name: str
    """It has no other among those watched together; what is drawn for the picture depends on it."""
    inputs: Tensor
    """`(C, *S)`."""
    present: frozenset[str] = frozenset()
    """The classes in the picture, by the data set's names."""
    doubtful: frozenset[str] = frozenset()
    """Classes of which nobody should say whether they are in it."""


@dataclass(frozen=True, eq=False)
class Watched:
    """A model and pictures, over which one can go again and again: a list, or whatever reads files anew each time.

    `levels` are black and white in the inputs' numbers; `rows` go through the model at once. Answers to the pictures as they
    are get kept: classes × pictures numbers.
    """

    model: Model
    pictures: Iterable[Picture]
    levels: Levels | None = None
    rows: int = 16
    _whole: dict[str, dict[str, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _layouts: list[torch.memory_format] = field(default_factory=list, init=False, repr=False)
    """How the model may have its inputs in memory, once that is known."""

    def whole(self, response: str) -> dict[str, Tensor]:
        """The answers `(K,)` to the pictures as they are, by the pictures' names: logits for "logit", else probabilities."""
        kind = _kind(response)
        if kind not in self._whole:
            known: dict[str, Tensor] = {}
            for pictures in _alike(self.pictures, self.rows):
                found = self._answers(torch.stack([picture.inputs for picture in pictures]), kind)
                for picture, values in zip(pictures, found, strict=True):
                    if picture.name in known:
                        raise ValueError(f"two pictures are called {picture.name!r}; give each its own name")
                    known[picture.name] = values
            if not known:
                raise ValueError("there are no pictures to test a rule on")
            self._whole[kind] = known
        return self._whole[kind]

    def changed(
        self, transformation: Transformation, draws: int, seed: int, response: str
    ) -> Iterator[tuple[Picture, Tensor]]:
        """Each picture with the answers `(draws, K)` to so many changed versions, which its name and `seed` decide."""
        kind = _kind(response)
        for pictures in _alike(self.pictures, max(1, self.rows // draws)):
            inputs = []
            for picture in pictures:
                generator = torch.Generator("cpu").manual_seed(_number(f"{seed}/{picture.name}"))
                draw = Draw(generator, self.levels)
                inputs += [transformation(picture.inputs[None], draw) for _ in range(draws)]
            found = self._answers(torch.cat(inputs), kind)
            yield from zip(pictures, found.split(draws), strict=True)

    def _answers(self, inputs: Tensor, kind: str) -> Tensor:
        """`(N, K)` of inputs `(N, C, *S)`; where the model's outputs are maps, their mean over space."""
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
                    one = values.shape[1] == 1
                    values = probabilities(two_classes(values), SIGMOID if kind == "sigmoid" and not one else AUTO)
                chunks.append(values.flatten(2).mean(2) if values.ndim > 2 else values)
        found = torch.cat(chunks).cpu()
        if not torch.isfinite(found).all():
            raise ValueError("the model's answers are not finite; check the model")
        return found


def _kind(response: str) -> str:
    """What numbers a response is made of: of which class comes first, probabilities."""
    return "probability" if response == "top1" else response


def check_response(response: str) -> None:
    """Raise `ValueError` for one that there is not."""
    if response not in RESPONSES:
        raise ValueError(f"response must be one of {', '.join(RESPONSES)}; got {response!r}")


def check_class(target: int, answers: Tensor) -> None:
    """Raise `ValueError` unless the answers `(…, K)` have that class."""
    if not 0 <= target < answers.shape[-1]:
        raise ValueError(
            f"target {target} is out of range: the model has {answers.shape[-1]} outputs (0 to {answers.shape[-1] - 1})"
        )


def _alike(pictures: Iterable[Picture], count: int) -> Iterator[list[Picture]]:
    """Up to so many pictures of one shape at once, in their order."""
    batch: list[Picture] = []
    for picture in pictures:
        if batch and (len(batch) == count or picture.inputs.shape != batch[0].inputs.shape):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch


def _number(text: str) -> int:
    """The same number from 0 to 2⁶³ − 1 for a text, wherever and whenever it is asked for."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
