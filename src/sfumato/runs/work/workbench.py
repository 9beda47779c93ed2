"""What a worker does with a chunk: pictures in, explanations and measurements out. It knows of no store and no other worker."""

import gc
import hashlib
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from sfumato import models
from sfumato.attribution import Attribution
from sfumato.data import Truth, truth
from sfumato.data.pictures import read
from sfumato.data.plain import files
from sfumato.metrics.case import Case, Window
from sfumato.metrics.estimate import Row
from sfumato.model.fingerprint import fingerprint
from sfumato.models import Classifier
from sfumato.runs.plans.classes import ClassMap, asked_classes, match_classes
from sfumato.runs.plans.plan import Plan
from sfumato.runs.plans.unmatched import ClassesError
from sfumato.runs.stores.content import content
from sfumato.runs.stores.store import Done, Item
from sfumato.runs.work import source
from sfumato.runs.work.faults import Fault, LostDeviceError, OpenItems, machine_fault, said
from sfumato.runs.work.items import PREDICTED_TARGET, Chunk, Unit, seed_of
from sfumato.runs.work.kept import Explained
from sfumato.runs.work.steps import LOADING, METHOD, PICTURE, PROTOCOL, SENDING, Step
from sfumato.scores import top_class
from sfumato.settings import as_json

PICTURES = 64
"""Decoded pictures that are kept, for the methods that follow."""


TAKEN = ("data", "model", "method", "protocol", "example", "target", "failed", "picture")
"""Names that rows and tables have already: no protocol's value may go by them."""

T = TypeVar("T")


class Outcome(NamedTuple):
    """What became of a chunk's items."""

    done: list[Done]
    results: dict[tuple[Item, ...], Attribution]
    """The method's results that are new, each by the items that rest on it."""
    left: list[OpenItems]
    """What is left open, as the machine failed and not the item."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture as a model is shown it."""

    inputs: Tensor
    """`(1, C, H, W)`."""
    window: Window


@dataclass(frozen=True, eq=False)
class Query:
    """A unit that can be explained."""

    place: int
    """In the chunk."""
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
    at: Callable[[Step], None] = lambda _: None
    """Is told each step before it begins, so that a process that dies has said where it was."""
    isolated: bool = False
    """Whether this process ignores Ctrl-C, so that a `KeyboardInterrupt` comes from a method, model or protocol."""
    _classifiers: dict[str, Classifier] = field(default_factory=dict)
    _pictures: "OrderedDict[tuple[str, str, str], Seen | ValueError]" = field(default_factory=OrderedDict)
    _classes: dict[tuple[str, str], ClassMap | ClassesError] = field(default_factory=dict)
    _outputs: dict[str, int] = field(default_factory=dict)

    def classifier(self, name: str) -> Classifier:
        """The model by its name in the plan, on the plan's device."""
        if name not in self._classifiers:
            entry = self.plan.models[name]
            classifier = models.load(entry.name, checkpoint=entry.checkpoint)
            if name in self.weights and identity(classifier, entry.name) != self.weights[name]:
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
            except Exception as error:
                if machine_fault(error) is not None:
                    raise
                raise ValueError(
                    f"model {name!r} fails on an empty picture of shape {tuple(inputs.shape)}: {said(error)}"
                ) from error
        return self._outputs[name]

    def let_go(self) -> None:
        """Forget the models, where other processes are to hold them."""
        self._classifiers.clear()
        self._pictures.clear()
        _free_memory()

    def done(
        self, chunk: Chunk, wanted: frozenset[Item] | None = None, kept: Mapping[int, Explained] | None = None
    ) -> Outcome:
        """The chunk's items, of those `wanted`.

        All queries of a chunk go through the method whichever are wanted, so that their digits are the same; none does where
        the results of all are among the `kept` ones, by the units' queries. Whatever a method, model or protocol raises is
        its item's fault, unless `machine_fault` says otherwise. Raises `LostDeviceError`, and `ValueError` for a model
        that is not the planned one.
        """
        self.at(Step(LOADING))
        self._load(chunk)
        outcome = Outcome([], {}, [])
        queries: list[tuple[Query, tuple[Item, ...]]] = []
        for place, (unit, items) in enumerate(zip(chunk.units, chunk.items, strict=True)):
            self.at(Step(PICTURE, (place,)))
            query = self._tried(partial(self._query, chunk, place, unit))
            if isinstance(query, BaseException):
                _note(outcome, chunk, place, range(len(items)), query)
            else:
                queries.append((query, items))
        for query, items, explained in self._explained(chunk, queries, kept or {}):
            if isinstance(explained.outcome, BaseException):
                _note(outcome, chunk, query.place, range(len(items)), explained.outcome, explained.seconds)
                continue
            if not explained.masks:
                outcome.results[items] = explained.outcome
            located: list[Truth | ValueError] = []
            for number, item in enumerate(items):
                if wanted is None or item in wanted:
                    self.at(Step(PROTOCOL, (query.place,), number))
                    done = self._tried(partial(self._measured, chunk, query, explained, number, located))
                    if isinstance(done, BaseException):
                        _note(outcome, chunk, query.place, (number,), done, explained.seconds)
                    else:
                        outcome.done.append(done)
        self.at(Step(SENDING))
        return outcome if wanted is None else _only(outcome, wanted)

    def _load(self, chunk: Chunk) -> None:
        """Load the chunk's models first, as one that is missing would be taken for the fault of each item."""
        protocols = [self.plan.protocols[name] for name in chunk.combination.protocols]
        for name in dict.fromkeys((chunk.combination.model, *(other for entry in protocols for other in entry.others))):
            try:
                self.classifier(name)
            except (ImportError, AttributeError) as error:
                raise ValueError(f"model {name!r} cannot be loaded: {said(error)}") from error

    def _tried(self, work: Callable[[], T]) -> T | BaseException:
        """What some code of the plan's gives, or what it raises, even to end the process."""
        try:
            return work()
        except KeyboardInterrupt as error:
            if not self.isolated:
                raise
            failure: BaseException = error
        except BaseException as error:  # noqa: BLE001  # whatever it is, other items are to be done
            failure = error
        fault = machine_fault(failure)
        if fault is not None and fault.lost:
            raise LostDeviceError(fault) from failure
        _forget_frames(failure)
        if fault is not None:
            _free_memory()
        return failure

    def _query(self, chunk: Chunk, place: int, unit: Unit) -> Query:
        """What the model is shown; `ValueError` where the picture or its annotation is no good."""
        if unit.example is None:
            raise ValueError(unit.reason)
        combination = chunk.combination
        classifier = self.classifier(combination.model)
        seen = self._seen(combination.model, unit.example.path, unit.content)
        if unit.content and content(files(unit.example)) != unit.content:
            raise ValueError(
                "the picture or a mask of it was replaced while the run was under way; run the same command again"
            )
        if unit.target == PREDICTED_TARGET:
            with torch.no_grad():
                predicted = top_class(classifier.logits(seen.inputs.to(self.plan.device))[0])
            return Query(place, unit, seen, predicted, predicted)
        output = self.class_map(combination.data, combination.model)[unit.target]
        return Query(place, unit, seen, output, unit.target)

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

    def _seen(self, model: str, path: Path, held: str) -> Seen:
        """The picture as the model is shown it, kept for the methods that follow; `held` is a hash of what it holds."""
        place = (model, str(path), held)
        if place not in self._pictures:
            prepared = self._prepared(model, path)
            if isinstance(prepared, ValueError) and machine_fault(prepared) is not None:
                raise prepared  # another time it may be read
            self._pictures[place] = prepared
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
        method = self._tried(lambda: self._method(chunk))
        if isinstance(method, BaseException):  # it cannot serve this model
            return [(query, items, Explained(method, 0.0)) for query, items in queries]
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

    def _attempted(self, method: Any, net: Any, group: Sequence[Query]) -> list[Attribution | BaseException]:
        def explained() -> list[Attribution]:
            inputs = torch.cat([query.seen.inputs for query in group]).to(self.plan.device)
            result = method(net, inputs, [query.target for query in group])
            if self.plan.masks:
                json.dumps(
                    dict(result.about)
                )  # what cannot be kept is the method's fault, and would otherwise stop the run
            return [result[index] for index in range(len(group))]

        self.at(Step(METHOD, tuple(query.place for query in group)))
        outcomes = self._tried(explained)
        if not isinstance(outcomes, BaseException):
            return list(outcomes)
        if len(group) == 1:
            return [outcomes]
        return [self._attempted(method, net, [query])[0] for query in group]

    def _method(self, chunk: Chunk) -> Callable[..., Attribution]:
        """The method, at the layer that the model's adapter names for it."""
        classifier = self.classifier(chunk.combination.model)
        return classifier.placed(self.plan.methods[chunk.combination.method])

    def _measured(
        self, chunk: Chunk, query: Query, explained: Explained, number: int, located: list[Truth | ValueError]
    ) -> Done:
        """What a protocol, by its number in the combination, finds in a query."""
        entry = self.plan.protocols[chunk.combination.protocols[number]]
        item = chunk.items[query.place][number]
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
        measured = entry.protocol.measure(case)
        if taken := [name for name in measured if name in TAKEN]:
            raise ValueError(
                f"{type(entry.protocol).__name__} names a value {taken[0]!r}, as a run's rows name what they are of; "
                f"give it another name than {', '.join(TAKEN)}"
            )
        row: Row = {"label": query.label, **measured}
        json.dumps(row)  # what cannot be kept is the protocol's fault, and would otherwise stop the run
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


def identity(classifier: Classifier, name: str = "") -> str:
    """A hash of all of a model that results depend on: its weights, its preparation, labels and layers, the settings of torch's
    modules, and the source of modules that are the user's own and of the factory that its `name` says."""
    told = [
        as_json(classifier.preparation),
        list(classifier.labels),
        dict(classifier.layers),
        sorted({*source.of(classifier.net), *source.of(_factory(name))}),
        # What is not among the weights, such as strides: of torch's modules alone, as others may count their calls, say.
        [each.extra_repr() for each in classifier.net.modules() if type(each).__module__.startswith("torch.")],
    ]
    return hashlib.sha256(f"{fingerprint(classifier.net)} {json.dumps(told)}".encode()).hexdigest()[:32]


def _factory(name: str) -> Any:
    """The user's own function that made a model which is loaded; `None` for other models."""
    module, _, attribute = name.partition(":")
    return None if module in models.SOURCES else getattr(sys.modules.get(module), attribute or "-", None)


def _settled(result: Any, device: str) -> Attribution:
    """A result on the device, laid out as if it had been kept and read: for the same digits, whether it was or not."""
    found = {entry.name: getattr(result, entry.name) for entry in fields(result)}
    tensors: dict[str, Any] = {
        name: value.to(device).contiguous() for name, value in found.items() if isinstance(value, Tensor)
    }
    return replace(result, **tensors)


def failure(chunk: Chunk, place: int, number: int, reason: str, seconds: float = 0.0) -> Done:
    """An item that failed: that of a unit, by its place in the chunk, and of a protocol, by its number in the combination."""
    unit = chunk.units[place]
    return Done(chunk.items[place][number], unit.name, unit.target, None, reason, seconds)


def open_items(chunk: Chunk, place: int, numbers: Iterable[int], fault: Fault) -> OpenItems:
    """Items, named likewise, that are left open."""
    items = tuple(chunk.items[place][number] for number in numbers)
    combination = chunk.combination
    return OpenItems(items, chunk.units[place].name, f"{combination.method!r} of {combination.model!r}", fault)


def _note(
    outcome: Outcome, chunk: Chunk, place: int, numbers: Iterable[int], error: BaseException, seconds: float = 0.0
) -> None:
    """Take in why a unit's items have no row."""
    fault = machine_fault(error)
    if fault is None:
        outcome.done.extend(failure(chunk, place, number, said(error), seconds) for number in numbers)
    else:
        outcome.left.append(open_items(chunk, place, numbers, fault))


def _only(outcome: Outcome, wanted: frozenset[Item]) -> Outcome:
    """The outcome of those items that are wanted."""
    left = [replace(each, items=tuple(item for item in each.items if item in wanted)) for each in outcome.left]
    return Outcome(
        [each for each in outcome.done if each.item in wanted], outcome.results, [each for each in left if each.items]
    )


def _forget_frames(error: BaseException) -> None:
    """Drop the frames that an error and those before it hold, with all tensors in them: of a batch that was too large, say."""
    rest: list[BaseException | None] = [error]
    seen: set[int] = set()
    while rest:
        each = rest.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            rest += [each.__cause__, each.__context__]


def _free_memory() -> None:
    """Give back what nothing holds any more, where memory was wanting."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
