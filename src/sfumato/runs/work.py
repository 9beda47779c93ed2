"""What a worker does with a chunk: pictures in, explanations and measurements out. It knows of no store and no other worker."""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sfumato import models
from sfumato.attribution import Attribution
from sfumato.configuration import as_json
from sfumato.data import Example, Truth, truth
from sfumato.metrics.case import Case, Window
from sfumato.metrics.estimate import Row
from sfumato.models import Classifier
from sfumato.pictures import read
from sfumato.records import fingerprint
from sfumato.runs.classes import ClassMap, asked_classes, match_classes
from sfumato.runs.items import PREDICTED_TARGET, Chunk, Unit, seed_of
from sfumato.runs.kept import Explained
from sfumato.runs.plan import Plan
from sfumato.runs.store import Done
from sfumato.runs.unmatched import ClassesError
from sfumato.scores import top_class

PICTURES = 64
"""Decoded pictures that are kept, for the methods that follow."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture as a model is shown it."""

    inputs: Tensor
    """`(1, C, H, W)`."""
    window: Window
    example: Example


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
    _pictures: "OrderedDict[tuple[str, str], Seen | ValueError]" = field(default_factory=OrderedDict)
    _classes: dict[tuple[str, str], ClassMap | ClassesError] = field(default_factory=dict)
    _outputs: dict[str, int] = field(default_factory=dict)

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

    def outputs(self, name: str) -> int:
        """How many outputs a model has, which its labels may not say: seen by showing it an empty picture."""
        if name not in self._outputs:
            classifier = self.classifier(name)
            inputs = torch.zeros(1, *classifier.preparation.shape, dtype=torch.float32, device=self.plan.device)
            try:
                with torch.no_grad():
                    self._outputs[name] = classifier.logits(inputs).shape[1]
            except FATAL:
                raise
            except Exception as error:
                raise ValueError(
                    f"model {name!r} fails on an empty picture of shape {tuple(inputs.shape)}: {_said(error)}"
                ) from error
        return self._outputs[name]

    def let_go(self) -> None:
        """Forget the models, where other processes are to hold them."""
        self._classifiers.clear()

    def done(
        self, chunk: Chunk, wanted: frozenset[str] | None = None, kept: Mapping[str, Explained] | None = None
    ) -> tuple[list[Done], dict[tuple[str, ...], Attribution]]:
        """The chunk's items, of those `wanted`, and the method's results that are new, each by its items' keys.

        All queries of a chunk go through the method whichever are wanted, so that their digits are the same; none does where
        the results of all are among the `kept` ones, by the units' identities.
        """
        self.classifier(chunk.combination.model)  # a model that is not the planned one is no item's fault
        done: list[Done] = []
        results: dict[tuple[str, ...], Attribution] = {}
        queries: list[tuple[Query, tuple[str, ...]]] = []
        for unit, keys in zip(chunk.units, chunk.keys, strict=True):
            try:
                queries.append((self._query(chunk, unit), keys))
            except ValueError as error:
                done += [_failed(key, recipe, unit, error) for key, recipe in zip(keys, chunk.recipes, strict=True)]
        for query, keys, explained in self._explained(chunk, queries, kept or {}):
            if isinstance(explained.outcome, Exception):
                done += [
                    _failed(key, recipe, query.unit, explained.outcome, explained.seconds)
                    for key, recipe in zip(keys, chunk.recipes, strict=True)
                ]
                continue
            if not explained.masks:
                results[keys] = explained.outcome
            located: list[Truth | ValueError] = []
            for key, recipe, name in zip(keys, chunk.recipes, chunk.combination.protocols, strict=True):
                if wanted is None or key in wanted:
                    done.append(self._measured(chunk, query, explained, name, (key, recipe), located))
        if wanted is not None:
            done = [each for each in done if each.key in wanted]
        return done, results

    def _query(self, chunk: Chunk, unit: Unit) -> Query:
        """What the model is shown; `ValueError` where the picture or its annotation is no good."""
        if unit.example is None:
            raise ValueError(unit.reason)
        combination = chunk.combination
        classifier = self.classifier(combination.model)
        seen = self._seen(combination.model, unit.example)
        if unit.target == PREDICTED_TARGET:
            with torch.no_grad():
                predicted = top_class(classifier.logits(seen.inputs.to(self.plan.device))[0])
            return Query(unit, seen, predicted, predicted)
        return Query(unit, seen, self.class_map(combination.data, combination.model)[unit.target], unit.target)

    def class_map(self, data: str, model: str) -> ClassMap:
        """The model's output of each of a data set's classes. Raises `ClassesError` where something is doubtful."""
        if (data, model) not in self._classes:
            entry = self.plan.data[data]
            try:
                self._classes[data, model] = match_classes(
                    entry.data.classes,
                    self.classifier(model).labels,
                    entry.classes,
                    self.outputs(model),
                    asked_classes(entry.data),
                )
            except ClassesError as error:
                self._classes[data, model] = error.about(f"the classes of {data!r} and the labels of model {model!r}")
        found = self._classes[data, model]
        if isinstance(found, ClassesError):
            raise found
        return found

    def _seen(self, model: str, example: Example) -> Seen:
        """The picture as the model is shown it, kept for the methods that follow."""
        place = (model, str(example.path))
        if place not in self._pictures:
            self._pictures[place] = self._prepared(model, example)
            if len(self._pictures) > PICTURES:
                self._pictures.popitem(last=False)
        seen = self._pictures[place]
        if isinstance(seen, ValueError):
            raise seen
        return seen

    def _prepared(self, model: str, example: Example) -> Seen | ValueError:
        classifier = self.classifier(model)
        try:
            picture: Image.Image = read(example.path)
        except ValueError as error:
            return error
        window = Window(picture.size, *classifier.preparation.window(picture.size))
        return Seen(classifier.prepare(picture)[None], window, example)

    def _explained(
        self, chunk: Chunk, queries: Sequence[tuple[Query, tuple[str, ...]]], kept: Mapping[str, Explained]
    ) -> list[tuple[Query, tuple[str, ...], Explained]]:
        """The method's result for each query and its share of the time, in batches of one shape; one by one where a batch
        fails, so that one query's fault is not another's."""
        if all(query.unit.identity in kept for query, _ in queries):
            return [(query, keys, kept[query.unit.identity]) for query, keys in queries]
        method = self._method(chunk)
        net = self.classifier(chunk.combination.model).net
        shapes: dict[tuple[int, ...], list[tuple[Query, tuple[str, ...]]]] = {}
        for entry in queries:
            shapes.setdefault(tuple(entry[0].seen.inputs.shape), []).append(entry)
        found: list[tuple[Query, tuple[str, ...], Explained]] = []
        for group in shapes.values():
            began = time.perf_counter()
            outcomes = self._attempted(method, net, [query for query, _ in group])
            share = (time.perf_counter() - began) / len(group)
            found += [
                (query, keys, Explained(outcome, share)) for (query, keys), outcome in zip(group, outcomes, strict=True)
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
        identity: tuple[str, str],
        located: list[Truth | ValueError],
    ) -> Done:
        """What a protocol finds in a query; what it raises makes the item a failed one."""
        entry = self.plan.protocols[protocol_name]
        key, recipe = identity
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
                seed=seed_of(key) ^ self.plan.seed,
                others={other: self.classifier(other).net for other in entry.others},
            )
            row: Row = {
                "picture": query.unit.name,
                "label": query.label,
                **entry.protocol.measure(case),
            }
        except FATAL:
            raise
        except Exception as error:  # noqa: BLE001  # as above
            return _failed(key, recipe, query.unit, error, explained.seconds)
        return Done(
            key, recipe, query.unit.name, query.unit.target, row, seconds=explained.seconds, masks=explained.masks
        )

    def _truth(self, query: Query, located: list[Truth | ValueError]) -> Truth:
        """Where the target is in the picture; found once for all protocols."""
        if not located:
            try:
                located.append(truth(query.seen.example, query.unit.target, query.seen.window.size))
            except ValueError as error:
                located.append(error)
        if isinstance(located[0], ValueError):
            raise located[0]
        return located[0]


FATAL = (MemoryError, torch.OutOfMemoryError, OSError)
"""What is the machine's fault and not the item's: the run ends, and may be taken up again."""


def identity(classifier: Classifier) -> str:
    """A hash of all of a model that results depend on: its weights, its preparation, labels and layers."""
    told = [as_json(classifier.preparation), list(classifier.labels), dict(classifier.layers)]
    return hashlib.sha256(f"{fingerprint(classifier.net)} {json.dumps(told)}".encode()).hexdigest()[:32]


def _settled(result: Any, device: str) -> Attribution:
    """A result on the device, laid out as if it had been kept and read: for the same digits, whether it was or not."""
    found = {entry.name: getattr(result, entry.name) for entry in fields(result)}
    tensors: dict[str, Any] = {
        name: value.to(device).contiguous() for name, value in found.items() if isinstance(value, Tensor)
    }
    return replace(result, **tensors)


def _failed(key: str, recipe: str, unit: Unit, error: Exception, seconds: float = 0.0) -> Done:
    return Done(key, recipe, unit.name, unit.target, None, _said(error), seconds)


def _said(error: Exception) -> str:
    said = " ".join(str(error).split())
    return said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
