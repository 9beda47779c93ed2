"""How a worker computes a chunk: pictures in, explanations and measurements out. No store and no other worker is known here."""

import gc
import hashlib
import json
import os
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from sfumato import models
from sfumato.attribution import Attribution
from sfumato.data import Truth, truth
from sfumato.data.pictures import read
from sfumato.data.plain import files
from sfumato.metrics.case import Case, Window
from sfumato.metrics.estimate import Row
from sfumato.model.fingerprint import fingerprint
from sfumato.models import Classifier
from sfumato.models.clips import check_takes_pictures
from sfumato.runs.plans.classes import ClassMap, match_classes, target_classes
from sfumato.runs.plans.plan import Plan
from sfumato.runs.plans.unmatched import ClassesError
from sfumato.runs.stores.content import content
from sfumato.runs.stores.store import Done, Item
from sfumato.runs.work import source
from sfumato.runs.work.cache import MethodResult
from sfumato.runs.work.faults import Fault, LostDeviceError, OpenItems, describe_error, machine_fault
from sfumato.runs.work.items import PREDICTED_TARGET, Chunk, Code, Unit, code_of, seed_of
from sfumato.runs.work.model_state import ModelState, plain_tensors
from sfumato.runs.work.process_state import functions_restored, process_state_restored, random_restored, random_state
from sfumato.runs.work.steps import LOADING, METHOD, PICTURE, PROTOCOL, SENDING, Step
from sfumato.scores import top_class
from sfumato.settings import as_json

PICTURES = 64
"""How many decoded pictures are kept for the next methods."""


TAKEN = ("data", "model", "method", "protocol", "example", "target", "failed", "picture")
"""Names that rows and tables use themselves: a protocol must give its values other names."""

T = TypeVar("T")


class Outcome(NamedTuple):
    """The outcome of a chunk."""

    done: list[Done]
    results: dict[tuple[Item, ...], Attribution]
    """New results of the method, each with the items that were measured on it."""
    left: list[OpenItems]
    """Items that a fault of the machine left open."""


class DrawnError(Exception):
    """A batch drew from the global random numbers: its results depend on which queries are in it, and in which order."""


@dataclass(frozen=True, eq=False)
class ShownPicture:
    """A picture, prepared as the input of a model."""

    inputs: Tensor
    """`(1, C, H, W)`."""
    window: Window


@dataclass(frozen=True, eq=False)
class Query:
    """A unit whose picture and target are known."""

    place: int
    """Of the unit in the chunk."""
    unit: Unit
    picture: ShownPicture
    target: int
    """The model's own index of the class."""
    label: int
    """The data set's index of the class; the model's if the target is what it predicts."""


@dataclass(eq=False)
class Workbench:
    """A plan's models and pictures, which are loaded when they are first needed."""

    plan: Plan
    weights: Mapping[str, str] = field(default_factory=dict)
    """The identities of the models where the run began. The models of each worker must have the same."""
    code: Code = field(default_factory=dict)
    """The code of methods and protocols where the run began (see `code_of`). That of each worker must be the same."""
    on_step: Callable[[Step], None] = lambda _: None
    """Is called with each step before it begins, so that the parent knows where a process died."""
    isolated: bool = False
    """Whether this process ignores Ctrl-C. If so, a `KeyboardInterrupt` comes from a method, model or protocol."""
    _process: int = field(default_factory=os.getpid)
    _classifiers: dict[str, Classifier] = field(default_factory=dict)
    _states: dict[str, ModelState] = field(default_factory=dict)
    _pictures: "OrderedDict[tuple[str, str, str], ShownPicture | ValueError]" = field(default_factory=OrderedDict)
    _classes: dict[tuple[str, str], ClassMap | ClassesError] = field(default_factory=dict)
    _outputs: dict[str, int] = field(default_factory=dict)
    _foreign: dict[int, bool] = field(default_factory=dict)

    def classifier(self, name: str) -> Classifier:
        """The model by its name in the plan, on the plan's device."""
        if name not in self._classifiers:
            entry = self.plan.models[name]
            with process_state_restored(), random_restored(self.plan.device):
                classifier = models.load(entry.name, entry.checkpoint, entry.labels)
            check_takes_pictures(classifier, "a plan")
            if name in self.weights and identity(classifier, entry.name) != self.weights[name]:
                raise ValueError(
                    f"model {name!r} has other weights here than where the run was planned; give every machine the same"
                )
            classifier.net.to(self.plan.device)
            self._classifiers[name] = classifier
            self._states[name] = ModelState(classifier.net)
        return self._classifiers[name]

    def outputs(self, name: str) -> int:
        """How many outputs a model has, from a forward pass of an empty picture: labels may not tell."""
        if name not in self._outputs:
            classifier = self.classifier(name)
            inputs = torch.zeros(1, *classifier.preparation.shape, dtype=torch.float32, device=self.plan.device)
            try:
                with torch.no_grad():
                    self._outputs[name] = self._call(partial(classifier.logits, inputs)).shape[1]
            except Exception as error:
                if machine_fault(error) is not None:
                    raise
                raise ValueError(
                    f"model {name!r} fails on an empty picture of shape {tuple(inputs.shape)}: {describe_error(error)}"
                ) from error
        return self._outputs[name]

    def check_code(self) -> None:
        """Raise `ValueError` if this process has other code of a method or protocol than the run: a process that starts while
        the run goes on loads the files as they are then."""
        here = code_of(self.plan)
        for (kind, name), before in self.code.items():
            if changed := source.differing(before, here.get((kind, name), ())):
                raise ValueError(
                    f"the code of {kind[:-1]} {name!r} ({', '.join(changed)}) is another here than where the run began; if it "
                    "was edited meanwhile, run the same command again, and its items are computed again"
                )

    def unload(self) -> None:
        """Free the models and pictures, as other processes will hold them."""
        self._classifiers.clear()
        self._states.clear()
        self._pictures.clear()
        _free_memory()

    def compute(
        self, chunk: Chunk, wanted: frozenset[Item] | None = None, cached: Mapping[int, MethodResult] | None = None
    ) -> Outcome:
        """Compute the items of a chunk; with `wanted` only these.

        All queries of the chunk go through the method, whichever are wanted, so that digits do not depend on it. None does if
        `cached` holds the results of all, by query. An error of a method, model or protocol is the fault of its item, unless
        `machine_fault` says otherwise. Raises `LostDeviceError`, and `ValueError` if a model is not the planned one.
        """
        self.on_step(Step(LOADING))
        self._load(chunk)
        outcome = Outcome([], {}, [])
        queries: list[tuple[Query, tuple[Item, ...]]] = []
        for place, (unit, items) in enumerate(zip(chunk.units, chunk.items, strict=True)):
            self.on_step(Step(PICTURE, (place,)))
            query = self._attempt(partial(self._query, chunk, place, unit), seed_of(unit))
            if isinstance(query, BaseException):
                _note(outcome, chunk, place, range(len(items)), query)
            else:
                queries.append((query, items))
        for query, items, explained in self._explain(chunk, queries, cached or {}):
            if isinstance(explained.outcome, BaseException):
                _note(outcome, chunk, query.place, range(len(items)), explained.outcome, explained.seconds)
                continue
            if not explained.masks:
                outcome.results[items] = explained.outcome
            located: list[Truth | ValueError] = []
            for number, item in enumerate(items):
                if wanted is None or item in wanted:
                    self.on_step(Step(PROTOCOL, (query.place,), number))
                    measure = partial(self._measure, chunk, query, explained, number, located)
                    done = self._attempt(measure, seed_of(query.unit), self._is_foreign_protocol(chunk, number))
                    if isinstance(done, BaseException):
                        _note(outcome, chunk, query.place, (number,), done, explained.seconds)
                    else:
                        outcome.done.append(done)
        self.on_step(Step(SENDING))
        return outcome if wanted is None else _only(outcome, wanted)

    def _load(self, chunk: Chunk) -> None:
        """Load the models of the chunk first: a missing model is not the fault of an item."""
        protocols = [self.plan.protocols[name] for name in chunk.combination.protocols]
        for name in dict.fromkeys((chunk.combination.model, *(other for entry in protocols for other in entry.others))):
            try:
                self.classifier(name)
            except (ImportError, AttributeError) as error:
                raise ValueError(f"model {name!r} cannot be loaded: {describe_error(error)}") from error

    def _attempt(self, work: Callable[[], T], seed: int = 0, thorough: bool = False) -> T | BaseException:
        """Call code of the plan, and return its result or its error, even one that would end the process."""
        try:
            return self._call(work, seed, thorough)
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

    def _call(self, work: Callable[[], T], seed: int = 0, thorough: bool = False) -> T:
        """Call code of the plan. Whatever it does to a model or to the process, the next finds these as they were.

        The global random numbers begin with `seed`, so that what the code draws does not depend on what ran before it.
        `thorough` also finds changes that leave no trace, for code that is not this package's.
        """
        try:
            with ExitStack() as stack:
                stack.enter_context(process_state_restored())
                stack.enter_context(random_restored(self.plan.device, seed ^ self.plan.seed))
                if thorough:
                    stack.enter_context(functions_restored())
                return work()
        finally:
            if os.getpid() != self._process:
                os._exit(1)  # a copy of this process that the code forked: going on, it would do the same items
            for name in [name for name, state in self._states.items() if not state.restore(thorough)]:
                del self._classifiers[name], self._states[name]
                warnings.warn(
                    f"model {name!r} was left with other weights than it had; it is loaded again for the next item",
                    stacklevel=1,
                )

    def _is_foreign_method(self, chunk: Chunk) -> bool:
        """Whether the chunk's method has code that is not this package's."""
        return self._is_foreign(self.plan.methods[chunk.combination.method])

    def _is_foreign_protocol(self, chunk: Chunk, number: int) -> bool:
        """Whether a protocol, given by its number in the combination, has or calls code that is not this package's."""
        protocol = self.plan.protocols[chunk.combination.protocols[number]].protocol
        return self._is_foreign(protocol) or ("method" in protocol.needs and self._is_foreign_method(chunk))

    def _is_foreign(self, thing: Any) -> bool:
        if id(thing) not in self._foreign:  # which the plan keeps
            self._foreign[id(thing)] = bool(source.of(thing))
        return self._foreign[id(thing)]

    def _query(self, chunk: Chunk, place: int, unit: Unit) -> Query:
        """Prepare a query. Raises `ValueError` if its picture or annotation cannot be used."""
        if unit.example is None:
            raise ValueError(unit.reason)
        combination = chunk.combination
        classifier = self.classifier(combination.model)
        picture = self._picture(combination.model, unit.example.path, unit.content)
        if unit.content and content(files(unit.example)) != unit.content:
            raise ValueError(
                "the picture or a mask of it was replaced while the run was under way; run the same command again"
            )
        if unit.target == PREDICTED_TARGET:
            with torch.no_grad():
                inputs = picture.inputs.to(self.plan.device, copy=True)  # which a model may write to
                predicted = top_class(classifier.logits(inputs)[0])
            return Query(place, unit, picture, predicted, predicted)
        output = self.class_map(combination.data, combination.model)[unit.target]
        return Query(place, unit, picture, output, unit.target)

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
                    target_classes(entry.data),
                )
            except ClassesError as error:
                self._classes[data, model] = error.about(f"the classes of {data!r} and the labels of model {model!r}")
        class_map = self._classes[data, model]
        if isinstance(class_map, ClassesError):
            raise class_map
        return class_map

    def _picture(self, model: str, path: Path, content_hash: str) -> ShownPicture:
        """The picture prepared for the model, from a cache if possible; `content_hash` is the hash of its files."""
        place = (model, str(path), content_hash)
        if place not in self._pictures:
            prepared = self._read_picture(model, path)
            if isinstance(prepared, ValueError) and machine_fault(prepared) is not None:
                raise prepared  # another time it may be read
            self._pictures[place] = prepared
            if len(self._pictures) > PICTURES:
                self._pictures.popitem(last=False)
        picture = self._pictures[place]
        if isinstance(picture, ValueError):
            raise picture
        return picture

    def _read_picture(self, model: str, path: Path) -> ShownPicture | ValueError:
        classifier = self.classifier(model)
        try:
            picture: Image.Image = read(path)
        except ValueError as error:
            return error
        window = Window(picture.size, *classifier.preparation.window(picture.size))
        return ShownPicture(classifier.prepare(picture)[None], window)

    def _explain(
        self, chunk: Chunk, queries: Sequence[tuple[Query, tuple[Item, ...]]], cached: Mapping[int, MethodResult]
    ) -> list[tuple[Query, tuple[Item, ...], MethodResult]]:
        """Explain the queries in batches of one shape; each result has its share of the time.

        If a batch fails, its queries are explained one by one, so that only the faulty one fails. So are those of a batch that
        draws from the global random numbers, so that each result depends on its own picture alone."""
        if all(query.unit.query in cached for query, _ in queries):
            return [(query, items, cached[query.unit.query]) for query, items in queries]
        method = self._attempt(lambda: self._method(chunk))
        if isinstance(method, BaseException):  # it cannot serve this model
            return [(query, items, MethodResult(method, 0.0)) for query, items in queries]
        shapes: dict[tuple[int, ...], list[tuple[Query, tuple[Item, ...]]]] = {}
        for entry in queries:
            shapes.setdefault(tuple(entry[0].picture.inputs.shape), []).append(entry)
        results: list[tuple[Query, tuple[Item, ...], MethodResult]] = []
        for group in shapes.values():
            began = time.perf_counter()
            outcomes = self._explain_batch(chunk, method, [query for query, _ in group])
            share = (time.perf_counter() - began) / len(group)
            results += [
                (query, items, MethodResult(outcome, share))
                for (query, items), outcome in zip(group, outcomes, strict=True)
            ]
        return results

    def _explain_batch(self, chunk: Chunk, method: Any, group: Sequence[Query]) -> list[Attribution | BaseException]:
        def explained() -> list[Attribution]:
            inputs = torch.cat([query.picture.inputs for query in group]).to(self.plan.device)
            net = self.classifier(chunk.combination.model).net
            before = random_state(self.plan.device) if len(group) > 1 else ()
            result = method(net, inputs, [query.target for query in group])
            if before and random_state(self.plan.device) != before:
                raise DrawnError
            if self.plan.masks:
                json.dumps(
                    dict(result.about)
                )  # what cannot be kept is the method's fault, and would otherwise stop the run
            return [result[index] for index in range(len(group))]

        self.on_step(Step(METHOD, tuple(query.place for query in group)))
        outcomes = self._attempt(explained, seed_of(group[0].unit), self._is_foreign_method(chunk))
        if not isinstance(outcomes, BaseException):
            return list(outcomes)
        if len(group) == 1:
            return [outcomes]
        return [self._explain_batch(chunk, method, [query])[0] for query in group]

    def _method(self, chunk: Chunk) -> Callable[..., Attribution]:
        """The method, with the layer that the model's adapter names for it."""
        classifier = self.classifier(chunk.combination.model)
        return classifier.placed(self.plan.methods[chunk.combination.method])

    def _measure(
        self, chunk: Chunk, query: Query, explained: MethodResult, number: int, located: list[Truth | ValueError]
    ) -> Done:
        """Measure a query by a protocol, given by its number in the combination."""
        entry = self.plan.protocols[chunk.combination.protocols[number]]
        item = chunk.items[query.place][number]
        where = self._truth(query, located) if "truth" in entry.protocol.needs else None
        case = Case(
            attribution=_on_device(explained.outcome, self.plan.device),
            model=self.classifier(chunk.combination.model).net,
            inputs=query.picture.inputs.to(self.plan.device, copy=True),  # which a protocol may write to
            target=query.target,
            method=self._method(chunk),
            truth=where,
            window=query.picture.window,
            picture=query.unit.name,
            seed=seed_of(query.unit) ^ self.plan.seed,
            others={other: self.classifier(other).net for other in entry.others},
        )
        measured = self.classifier(chunk.combination.model).placed(entry.protocol).measure(case)
        if clashes := [name for name in measured if name in TAKEN]:
            raise ValueError(
                f"{type(entry.protocol).__name__} names a value {clashes[0]!r}, as a run's rows name what they are of; "
                f"give it another name than {', '.join(TAKEN)}"
            )
        row: Row = {"label": query.label, **measured}
        json.dumps(row)  # what cannot be kept is the protocol's fault, and would otherwise stop the run
        return Done(item, query.unit.name, query.unit.target, row, seconds=explained.seconds, masks=explained.masks)

    def _truth(self, query: Query, located: list[Truth | ValueError]) -> Truth:
        """Where the target is in the picture. `located` keeps it for the other protocols."""
        if not located:
            try:
                assert query.unit.example is not None  # noqa: S101  # a query has one
                located.append(truth(query.unit.example, query.unit.target, query.picture.window.size))
            except ValueError as error:
                located.append(error)
        if isinstance(located[0], ValueError):
            raise located[0]
        return replace(located[0], boxes=located[0].boxes.clone(), places=located[0].places.clone())  # its own copy


def identity(classifier: Classifier, name: str = "") -> str:
    """A hash of all that results depend on in a model: its weights, preparation, labels and layers, whether it answers several
    labels, the settings of torch's modules, and the source code of the user's own modules and of the factory that is its
    `name`. Tensors that are attributes of modules count as weights do."""
    facts = [
        as_json(classifier.preparation),
        list(classifier.labels),
        dict(classifier.layers),
        source.of(classifier.net, [] if name.partition(":")[0] in models.SOURCES else [name]),
        # What is not among the weights, such as strides: of torch's modules alone, as others may count their calls, say.
        [module.extra_repr() for module in classifier.net.modules() if type(module).__module__.startswith("torch.")],
    ]
    if classifier.multi_label:
        facts.append("several labels")
    if plain := plain_tensors(classifier.net):
        holder = nn.Module()
        for number, tensor in enumerate(plain.values()):
            holder.register_buffer(str(number), tensor)
        facts += [list(plain), fingerprint(holder)]
    return hashlib.sha256(f"{fingerprint(classifier.net)} {json.dumps(facts)}".encode()).hexdigest()[:32]


def _on_device(result: Any, device: str) -> Attribution:
    """A copy of a result on the device, contiguous as after reading it from a shard, so that digits are the same with and
    without masks. A protocol may write to it."""
    values = {entry.name: getattr(result, entry.name) for entry in fields(result)}
    tensors: dict[str, Any] = {
        name: value.detach().to(device, copy=True).contiguous()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    return replace(result, **tensors, about=dict(result.about))


def failure(chunk: Chunk, place: int, number: int, reason: str, seconds: float = 0.0) -> Done:
    """A failed item: of a unit, by its place in the chunk, and of a protocol, by its number in the combination."""
    unit = chunk.units[place]
    return Done(chunk.items[place][number], unit.name, unit.target, None, reason, seconds)


def open_items(chunk: Chunk, place: int, numbers: Iterable[int], fault: Fault) -> OpenItems:
    """Items that are left open, given in the same way."""
    items = tuple(chunk.items[place][number] for number in numbers)
    combination = chunk.combination
    return OpenItems(items, chunk.units[place].name, f"{combination.method!r} of {combination.model!r}", fault)


def _note(
    outcome: Outcome, chunk: Chunk, place: int, numbers: Iterable[int], error: BaseException, seconds: float = 0.0
) -> None:
    """Add to an outcome why items of a unit have no row."""
    fault = machine_fault(error)
    if fault is None:
        outcome.done.extend(failure(chunk, place, number, describe_error(error), seconds) for number in numbers)
    else:
        outcome.left.append(open_items(chunk, place, numbers, fault))


def _only(outcome: Outcome, wanted: frozenset[Item]) -> Outcome:
    """The part of an outcome that is about wanted items."""
    left = [replace(group, items=tuple(item for item in group.items if item in wanted)) for group in outcome.left]
    return Outcome(
        [done for done in outcome.done if done.item in wanted],
        outcome.results,
        [group for group in left if group.items],
    )


def _forget_frames(error: BaseException) -> None:
    """Drop the frames of an error and of its causes, with all tensors in them, such as a batch that was too large."""
    rest: list[BaseException | None] = [error]
    ids: set[int] = set()
    while rest:
        cause = rest.pop()
        if cause is not None and id(cause) not in ids:
            ids.add(id(cause))
            cause.__traceback__ = None
            rest += [cause.__cause__, cause.__context__]


def _free_memory() -> None:
    """Free unused memory after an error about memory."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.xpu.is_initialized():
        torch.xpu.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
