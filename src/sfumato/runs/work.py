"""What a worker does with a chunk: pictures in, explanations and measurements out. It knows of no store and no other worker."""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sfumato import models
from sfumato.attribution import Attribution
from sfumato.configuration import as_json
from sfumato.data import Truth, truth
from sfumato.labels import synonyms
from sfumato.metrics.case import Case, Window
from sfumato.metrics.estimate import Row
from sfumato.models import Classifier
from sfumato.pictures import read
from sfumato.records import fingerprint
from sfumato.runs import source
from sfumato.runs.items import PREDICTED_TARGET, Chunk, Unit, seed_of
from sfumato.runs.kept import Explained
from sfumato.runs.plan import Plan
from sfumato.runs.store import Done, Item
from sfumato.scores import top_class

PICTURES = 64
"""Decoded pictures that are kept, for the methods that follow."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture as a model is shown it."""

    inputs: Tensor
    """`(1, C, H, W)`."""
    window: Window


@dataclass(frozen=True, eq=False)
class Query:
    """A unit that can be explained."""

    unit: Unit
    seen: Seen
    target: int
    """The model's own index of the class."""
    label: int
    """The data set's index, or the model's where the target is what it predicts."""


@dataclass(eq=False)
class Workbench:
    """A plan's models and data, loaded when they are first needed."""

    plan: Plan
    weights: Mapping[str, str] = field(default_factory=dict)
    """The models' identities where the run was begun; a worker elsewhere must find the same."""
    _classifiers: dict[str, Classifier] = field(default_factory=dict)
    _pictures: "OrderedDict[tuple[str, str, str], Seen | ValueError]" = field(default_factory=OrderedDict)
    _classes: dict[tuple[str, str], tuple[int, ...] | ValueError] = field(default_factory=dict)

    def classifier(self, name: str) -> Classifier:
        """The model by its name in the plan, on the plan's device."""
        if name not in self._classifiers:
            entry = self.plan.models[name]
            classifier = models.load(entry.name, checkpoint=entry.checkpoint)
            if name in self.weights and identity(classifier) != self.weights[name]:
                raise ValueError(
                    f"model {name!r} has other weights here than where the run was planned; give every machine the same"
                )
            classifier.net.to(self.plan.device)
            self._classifiers[name] = classifier
        return self._classifiers[name]

    def let_go(self) -> None:
        """Forget the models, where other processes are to hold them."""
        self._classifiers.clear()

    def done(
        self, chunk: Chunk, wanted: frozenset[Item] | None = None, kept: Mapping[int, Explained] | None = None
    ) -> tuple[list[Done], dict[tuple[Item, ...], Attribution]]:
        """The chunk's items, of those `wanted`, and the method's results that are new, each by the items that rest on it.

        All queries of a chunk go through the method whichever are wanted, so that their digits are the same; none does where
        the results of all are among the `kept` ones, by the units' queries.
        """
        self.classifier(chunk.combination.model)  # a model that is not the planned one is no item's fault
        done: list[Done] = []
        results: dict[tuple[Item, ...], Attribution] = {}
        queries: list[tuple[Query, tuple[Item, ...]]] = []
        for unit, items in zip(chunk.units, chunk.items, strict=True):
            try:
                queries.append((self._query(chunk, unit), items))
            except ValueError as error:
                done += [_failed(item, unit, error) for item in items]
        for query, items, explained in self._explained(chunk, queries, kept or {}):
            if isinstance(explained.outcome, Exception):
                done += [_failed(item, query.unit, explained.outcome, explained.seconds) for item in items]
                continue
            if not explained.masks:
                results[items] = explained.outcome
            located: list[Truth | ValueError] = []
            for item, name in zip(items, chunk.combination.protocols, strict=True):
                if wanted is None or item in wanted:
                    done.append(self._measured(chunk, query, explained, name, item, located))
        if wanted is not None:
            done = [each for each in done if each.item in wanted]
        return done, results

    def _query(self, chunk: Chunk, unit: Unit) -> Query:
        """What the model is shown; `ValueError` where the picture or its annotation is no good."""
        if unit.example is None:
            raise ValueError(unit.reason)
        combination = chunk.combination
        classifier = self.classifier(combination.model)
        seen = self._seen(combination.model, unit.example.path, unit.content)
        if unit.target == PREDICTED_TARGET:
            with torch.no_grad():
                predicted = top_class(classifier.logits(seen.inputs.to(self.plan.device))[0])
            return Query(unit, seen, predicted, predicted)
        return Query(unit, seen, self._model_index(combination.data, combination.model, unit.target), unit.target)

    def _model_index(self, data: str, model: str, label: int) -> int:
        """The model's index of a class of the data set."""
        if (data, model) not in self._classes:
            labels, classes = list(self.classifier(model).labels), list(self.plan.data[data].data.classes)
            self._classes[data, model] = matched(classes, labels, data, model)
        indices = self._classes[data, model]
        if isinstance(indices, ValueError):
            raise indices
        return indices[label]

    def _seen(self, model: str, path: Path, content: str) -> Seen:
        """The picture as the model is shown it, kept for the methods that follow."""
        place = (model, str(path), content)
        if place not in self._pictures:
            self._pictures[place] = self._prepared(model, path)
            if len(self._pictures) > PICTURES:
                self._pictures.popitem(last=False)
        seen = self._pictures[place]
        if isinstance(seen, ValueError):
            raise seen
        return seen

    def _prepared(self, model: str, path: Path) -> Seen | ValueError:
        classifier = self.classifier(model)
        try:
            picture: Image.Image = read(path)
        except ValueError as error:
            return error
        window = Window(picture.size, *classifier.preparation.window(picture.size))
        return Seen(classifier.prepare(picture)[None], window)

    def _explained(
        self, chunk: Chunk, queries: Sequence[tuple[Query, tuple[Item, ...]]], kept: Mapping[int, Explained]
    ) -> list[tuple[Query, tuple[Item, ...], Explained]]:
        """The method's result for each query and its share of the time, in batches of one shape; one by one where a batch
        fails, so that one query's fault is not another's."""
        if all(query.unit.query in kept for query, _ in queries):
            return [(query, items, kept[query.unit.query]) for query, items in queries]
        method = self._method(chunk)
        net = self.classifier(chunk.combination.model).net
        shapes: dict[tuple[int, ...], list[tuple[Query, tuple[Item, ...]]]] = {}
        for entry in queries:
            shapes.setdefault(tuple(entry[0].seen.inputs.shape), []).append(entry)
        found: list[tuple[Query, tuple[Item, ...], Explained]] = []
        for group in shapes.values():
            began = time.perf_counter()
            outcomes = self._attempted(method, net, [query for query, _ in group])
            share = (time.perf_counter() - began) / len(group)
            found += [
                (query, items, Explained(outcome, share))
                for (query, items), outcome in zip(group, outcomes, strict=True)
            ]
        return found

    def _attempted(self, method: Any, net: Any, group: Sequence[Query]) -> list[Attribution | Exception]:
        inputs = torch.cat([query.seen.inputs for query in group]).to(self.plan.device)
        try:
            result = method(net, inputs, [query.target for query in group])
            return [result[index] for index in range(len(group))]
        except FATAL:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a method or a model trips over is the item's fault
            if len(group) == 1:
                return [error]
            return [self._attempted(method, net, [query])[0] for query in group]

    def _method(self, chunk: Chunk) -> Callable[..., Attribution]:
        """The method, at the layer that the model's adapter names for it."""
        classifier = self.classifier(chunk.combination.model)
        return classifier.placed(self.plan.methods[chunk.combination.method])

    def _measured(
        self,
        chunk: Chunk,
        query: Query,
        explained: Explained,
        protocol_name: str,
        item: Item,
        located: list[Truth | ValueError],
    ) -> Done:
        """What a protocol finds in a query; what it raises makes the item a failed one."""
        entry = self.plan.protocols[protocol_name]
        try:
            where = self._truth(query, located) if "truth" in entry.protocol.needs else None
            case = Case(
                attribution=_settled(explained.outcome, self.plan.device),
                model=self.classifier(chunk.combination.model).net,
                inputs=query.seen.inputs.to(self.plan.device),
                target=query.target,
                method=self._method(chunk),
                truth=where,
                window=query.seen.window,
                picture=query.unit.name,
                seed=seed_of(query.unit) ^ self.plan.seed,
                others={other: self.classifier(other).net for other in entry.others},
            )
            row: Row = {"label": query.label, **entry.protocol.measure(case)}
        except FATAL:
            raise
        except Exception as error:  # noqa: BLE001  # as above
            return _failed(item, query.unit, error, explained.seconds)
        return Done(item, query.unit.name, query.unit.target, row, seconds=explained.seconds, masks=explained.masks)

    def _truth(self, query: Query, located: list[Truth | ValueError]) -> Truth:
        """Where the target is in the picture; found once for all protocols."""
        if not located:
            try:
                assert query.unit.example is not None  # noqa: S101  # a query has one
                located.append(truth(query.unit.example, query.unit.target, query.seen.window.size))
            except ValueError as error:
                located.append(error)
        if isinstance(located[0], ValueError):
            raise located[0]
        return located[0]


FATAL = (MemoryError, torch.OutOfMemoryError, OSError)
"""What is the machine's fault and not the item's: the run ends, and may be taken up again."""


def identity(classifier: Classifier) -> str:
    """A hash of all of a model that results depend on: its weights, its preparation, labels and layers, and the source of
    modules that are the user's own."""
    told = [
        as_json(classifier.preparation),
        list(classifier.labels),
        dict(classifier.layers),
        source.of(classifier.net),
    ]
    return hashlib.sha256(f"{fingerprint(classifier.net)} {json.dumps(told)}".encode()).hexdigest()[:32]


def matched(classes: Sequence[str], labels: Sequence[str], data: str, model: str) -> tuple[int, ...] | ValueError:
    """The model's index of each of a data set's classes: by their names or synonyms, where each is one class's alone, or one to
    one where there are as many of both.

    >>> matched(["dog", "cat"], ["cat, house cat", "cow", "Dog"], "pets", "net")
    (2, 0)
    """
    known: dict[str, set[int]] = {}
    for index, label in enumerate(labels):
        for name in {label, *synonyms(label)}:
            known.setdefault(_plain(name), set()).add(index)
    found = [known.get(_plain(name), set()) for name in classes]
    if all(len(indices) == 1 for indices in found):
        return tuple(index for (index,) in found)
    if len(classes) == len(labels):
        return tuple(range(len(classes)))
    missing = [name for name, indices in zip(classes, found, strict=True) if len(indices) != 1]
    return ValueError(
        f"model {model!r} with its {len(labels)} classes does not know {len(missing)} of the {len(classes)} classes of "
        f"data set {data!r}, e.g. {missing[0]!r}; name the models that go with it under 'models'"
    )


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _settled(result: Any, device: str) -> Attribution:
    """A result on the device, laid out as if it had been kept and read: for the same digits, whether it was or not."""
    found = {entry.name: getattr(result, entry.name) for entry in fields(result)}
    tensors: dict[str, Any] = {
        name: value.to(device).contiguous() for name, value in found.items() if isinstance(value, Tensor)
    }
    return replace(result, **tensors)


def _failed(item: Item, unit: Unit, error: Exception, seconds: float = 0.0) -> Done:
    said = " ".join(str(error).split())
    reason = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
    return Done(item, unit.name, unit.target, None, reason, seconds)
