"""A plan: models × methods × data × protocols, from a TOML file.

```toml
seed = 0                                  # of all that protocols draw
batch = 1                                 # queries that go through a method together
device = "cpu"
masks = false                             # whether the methods' results are kept
timeout = 600                             # seconds that an item may take, at most; without it, any time
score = "logit"                           # what a class means to all methods; without it each has its own default

[models]
lite0 = "lite0"                           # as `sfumato.models.load` takes it
mine = { use = "my_package.nets:resnet", checkpoint = "weights.pth", labels = "classes.txt" }

[methods]
grad-cam = "GradCAM"                      # or "grad-cam", as for --method; the model's adapter says at which layer
extremal = { use = "ExtremalPerturbation", areas = [0.05, 0.1], perturbation = { use = "Blur", max_sigma = 10 } }

[data.voc]
use = "VOC"
path = "$DATA/VOCdevkit"                  # relative to the plan's folder; variables of the environment are filled in
models = ["mine"]                         # all, unless said otherwise; and so with protocols and methods
targets = "present"                       # each class that is there, or the "predicted" one: 0 where there is one output

[data.voc.classes]                        # what models call classes where their names differ; see `sfumato.runs.plans.classes`
aeroplane = "airplane"                    # a label, a list of labels (each model has one of them), or the output's index
tvmonitor = ["tv", "television"]          # or, for all: classes = "in order", or classes = "in order from 1"

[protocols]
pointing = "PointingGame"
accuracy = { use = "Accuracy", methods = ["grad-cam"] }

[ray]                                     # for runs on a cluster
gpus = 0.5                                # of a worker: two share a GPU
```
"""

import inspect
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sfumato.data import Data
from sfumato.metrics.protocol import Protocol
from sfumato.runs.plans.catalogue import USE, SettingError, exported, make, make_method
from sfumato.runs.plans.classes import ClassNames
from sfumato.runs.plans.cluster import Cluster
from sfumato.settings import check_number, check_seed, line_of, near

PRESENT, PREDICTED = "present", "predicted"


@dataclass(frozen=True)
class ModelEntry:
    """A model, by its name for `sfumato.models.load`."""

    name: str
    checkpoint: Path | None = None
    labels: Path | tuple[str, ...] | None = None
    """A file with the names of its classes, or the names."""


@dataclass(frozen=True)
class DataEntry:
    """A data set, and what the run does with it."""

    data: Data
    models: tuple[str, ...]
    methods: tuple[str, ...]
    protocols: tuple[str, ...]
    targets: str = PRESENT
    classes: ClassNames = ClassNames()

    @property
    def names_targets(self) -> bool:
        """Whether the data set names the classes to explain; else they are those that a model predicts."""
        return self.targets == PRESENT and bool(self.data.classes)


@dataclass(frozen=True)
class ProtocolEntry:
    """A protocol, the methods that it judges, and the models of the plan that it compares with."""

    protocol: Protocol
    methods: tuple[str, ...]
    others: tuple[str, ...] = ()


class Combination(NamedTuple):
    """What a run does with each query of a data set, by the names in the plan."""

    data: str
    model: str
    method: str
    protocols: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A whole plan."""

    models: Mapping[str, ModelEntry]
    methods: Mapping[str, Any]
    data: Mapping[str, DataEntry]
    protocols: Mapping[str, ProtocolEntry]
    seed: int = 0
    batch: int = 1
    device: str = "cpu"
    masks: bool = False
    timeout: float | None = None
    """Seconds that a method may take for a query, and a protocol for its result, before the item fails. Rows do not
    depend on it otherwise. It holds for worker processes, and not for `Session.work` in this process."""
    text: str = field(default="", compare=False)
    """The text of the file; and the folder that its paths are relative to."""
    folder: Path = field(default=Path(), compare=False)
    ray: Cluster = Cluster()
    """How work is spread over a cluster; rows do not depend on it."""
    name: str = field(default="the plan", compare=False)
    """The name of the file, for messages."""

    @cached_property
    def entries(self) -> Mapping[str, Any]:
        """The tables of the file, as they are written; empty for a plan that was made without a text."""
        return tomllib.loads(self.text)

    def place_of(self, keys: tuple[str, ...]) -> str:
        """The place of keys in the file, or of the nearest table: "plan.toml, line 3, models.mine"."""
        line = line_of(self.text, keys)
        return f"{self.name}, line {line}, {'.'.join(keys)}" if line else f"{self.name}, {'.'.join(keys)}"

    def combinations(self) -> Iterator[Combination]:
        """The combinations of the plan, in order: one data set and model after the other."""
        for name, entry in self.data.items():
            for model in entry.models:
                for method in entry.methods:
                    protocols = tuple(
                        protocol for protocol in entry.protocols if method in self.protocols[protocol].methods
                    )
                    if protocols:
                        yield Combination(name, model, method, protocols)


def read(path: str | os.PathLike[str]) -> Plan:
    """Read a plan from a file. Raises `ValueError` with the file, the line and the key."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read the plan {str(path)!r}: {error.strerror}; expected a TOML file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read the plan {str(path)!r}: it is no UTF-8 text; expected a TOML file") from error
    return parse(text, path.absolute().parent, str(path))


def parse(text: str, folder: Path, name: str = "the plan") -> Plan:
    """Read a plan from a text; its paths are relative to the folder."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name}: {error}; expected TOML") from error
    try:
        return replace(_plan(content, folder, text), name=name)
    except SettingError as error:
        line = line_of(text, error.keys)
        where = f"{name}, line {line}" if line else name
        raise ValueError(f"{where}, {'.'.join(error.keys)}: {error}") from error


def protocols(text: str, name: str = "the plan") -> dict[str, Protocol | ValueError]:
    """The protocols of a plan alone: to read results, its methods, models and data sets need not be there.

    In place of a protocol that cannot be made here, such as one whose module is missing, is the error."""
    content = tomllib.loads(text)
    models, methods = list(content["models"]), list(content["methods"])
    made: dict[str, Protocol | ValueError] = {}
    for protocol_name, spec in content["protocols"].items():
        try:
            made[protocol_name] = _protocol(spec, ("protocols", protocol_name), methods, models).protocol
        except SettingError as error:
            made[protocol_name] = ValueError(f"{name}, {'.'.join(error.keys)}: {error}")
    return made


KINDS = ("models", "methods", "data", "protocols")
OPTIONS = ("seed", "batch", "device", "masks", "timeout")
SCORE = "score"
CLUSTER = "ray"
CLASSES = "classes"
OF_MODELS = ("checkpoint", "labels")
"""What a model may have besides its name."""
KEYS = (*KINDS, *OPTIONS, SCORE, CLUSTER)


def _plan(content: Mapping[str, Any], folder: Path, text: str) -> Plan:
    for key in content:
        if key not in KEYS:
            raise SettingError((key,), f"a plan has no {key!r}{near(key, KEYS)}")
    for kind in KINDS:
        if not isinstance(content.get(kind), Mapping) or not content[kind]:
            raise SettingError((kind,), f"a plan needs [{kind}], each with a name of its own; this has none")
    options = {key: content[key] for key in OPTIONS if key in content}
    _check_options(options)
    score = content.get(SCORE)
    methods = {name: _method(spec, ("methods", name), score) for name, spec in content["methods"].items()}
    models = {name: _model(spec, ("models", name), folder) for name, spec in content["models"].items()}
    protocols = {
        name: _protocol(spec, ("protocols", name), list(methods), list(models))
        for name, spec in content["protocols"].items()
    }
    data = {
        name: _data(spec, ("data", name), folder, models=models, methods=methods, protocols=protocols)
        for name, spec in content["data"].items()
    }
    if not isinstance(content.get(CLUSTER, {}), Mapping):
        raise SettingError(
            (CLUSTER,), f"expected a table [{CLUSTER}], with settings such as gpus = 0.5; got {content[CLUSTER]!r}"
        )
    cluster = make({USE: "Cluster", **content.get(CLUSTER, {})}, {"Cluster": Cluster}, (CLUSTER,), "cluster")
    return Plan(models, methods, data, protocols, **options, text=text, folder=folder, ray=cluster)


def _check_options(options: Mapping[str, Any]) -> None:
    try:
        check_seed(options.get("seed", 0))
        check_number("timeout", options.get("timeout", 1), "a time in seconds", above=0)
        batch = options.get("batch", 1)
        check_number("batch", batch, "a number of queries", least=1)
        if not isinstance(batch, int):
            raise ValueError(f"batch must be a whole number; got {batch!r}")
        if not isinstance(options.get("masks", False), bool):
            raise ValueError(f"masks must be true or false; got {options['masks']!r}")
        if not isinstance(options.get("device", "cpu"), str):
            raise ValueError(f'device must be a name such as "cpu" or "cuda"; got {options["device"]!r}')
    except ValueError as error:
        key = str(error).split()[0]
        raise SettingError((key,), str(error)) from error


def _method(spec: Any, keys: tuple[str, ...], score: Any) -> Any:
    """The method, with the plan's `score` if it has such a setting and does not set it itself."""
    method = make_method(spec, keys)
    if score is None or not hasattr(method, SCORE) or (isinstance(spec, Mapping) and SCORE in spec):
        return method
    try:
        return replace(method, score=score)
    except ValueError as error:
        raise SettingError((SCORE,), str(error)) from error


def _model(spec: Any, keys: tuple[str, ...], folder: Path) -> ModelEntry:
    settings = {USE: spec} if isinstance(spec, str) else spec
    if not isinstance(settings, Mapping) or not isinstance(settings.get(USE, ""), str):
        raise SettingError(keys, f'a model is a name such as "lite0", or a table with {USE!r}; got {spec!r}')
    for key in settings:
        if key not in (USE, *OF_MODELS):
            raise SettingError((*keys, key), f"a model has no setting {key!r}{near(key, (USE, *OF_MODELS))}")
    checkpoint, labels = (settings.get(key) for key in OF_MODELS)
    if isinstance(labels, list) and not (labels and all(isinstance(label, str) for label in labels)):
        raise SettingError(
            (*keys, "labels"), f"labels are a file with the names of the classes, or a list of names; got {labels!r}"
        )
    return ModelEntry(
        settings.get(USE, keys[-1]),
        _path(checkpoint, folder, (*keys, "checkpoint")) if checkpoint else None,
        tuple(labels) if isinstance(labels, list) else _path(labels, folder, (*keys, "labels")) if labels else None,
    )


def _protocol(spec: Any, keys: tuple[str, ...], methods: list[str], models: list[str]) -> ProtocolEntry:
    settings = dict(spec) if isinstance(spec, Mapping) else spec
    judged_methods = _names_under(settings, "methods", methods, keys)
    others = _names_under(settings, "others", models, keys, ())
    protocol = make(settings, exported("sfumato.metrics", "measure"), keys, "protocol")
    if not isinstance(protocol, Protocol):
        raise SettingError(keys, f"{type(protocol).__name__} is no protocol; derive it from sfumato.metrics.Protocol")
    if "others" in protocol.needs and not others:
        raise SettingError(keys, f"{type(protocol).__name__} compares with other networks: name models under 'others'")
    return ProtocolEntry(protocol, judged_methods, others)


def _data(spec: Any, keys: tuple[str, ...], folder: Path, **names: Mapping[str, Any]) -> DataEntry:
    if not isinstance(spec, Mapping):
        raise SettingError(keys, f"a data set is a table, with {USE!r} and its settings; got {spec!r}")
    settings = dict(spec)
    names_by_kind = {kind: _names_under(settings, kind, list(entries), keys) for kind, entries in names.items()}
    targets = settings.pop("targets", PRESENT)
    if targets not in (PRESENT, PREDICTED):
        raise SettingError((*keys, "targets"), f"targets are {PRESENT!r} or {PREDICTED!r}; got {targets!r}")
    called = ClassNames()
    if not isinstance(settings.get(CLASSES, []), list):  # a list is for a data set of one's own that has such a setting
        called = ClassNames.read(settings.pop(CLASSES), (*keys, CLASSES))
    try:
        data = make(with_paths(settings, folder, keys), exported("sfumato.data", "classes"), keys, "data set")
    except SettingError as error:
        if error.keys == (*keys, CLASSES):
            ClassNames.read(settings[CLASSES], error.keys)  # says what is expected of it
        raise
    _check_data(data, keys)
    return DataEntry(data, **names_by_kind, targets=targets, classes=called)


def _check_data(data: Any, keys: tuple[str, ...]) -> None:
    """Raise `SettingError` unless the object has what a data set must have. Nothing is read: its files may be missing."""
    parts = {"classes": "classes", "__len__": "__len__()", "__getitem__": "__getitem__(index)"}
    missing = [
        text
        for name, text in parts.items()
        if not hasattr(type(data), name) and inspect.getattr_static(data, name, None) is None
    ]
    if missing:
        raise SettingError(
            keys,
            f"{type(data).__name__} has no {' and no '.join(missing)}. A data set, see sfumato.data.Data, has classes, "
            "their names by index, __len__(), and __getitem__(index), which returns a sfumato.data.Example. Write classes = () "
            "for one without classes",
        )


def with_paths(settings: Mapping[str, Any], folder: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The settings with each "path" taken from the plan's folder."""
    return {
        key: str(_path(value, folder, (*keys, key)))
        if key == "path"
        else with_paths(value, folder, (*keys, key))
        if isinstance(value, Mapping)
        else value
        for key, value in settings.items()
    }


def _path(value: Any, folder: Path, keys: tuple[str, ...]) -> Path:
    if not isinstance(value, str):
        raise SettingError(keys, f"expected a path; got {value!r}")
    filled = os.path.expandvars(value)
    if missing := re.search(r"\$\{?(\w+)", filled):
        raise SettingError(keys, f"the environment has no variable {missing[1]!r}, which the path {value!r} needs")
    return folder / Path(filled).expanduser()


def _names_under(
    settings: Any, key: str, options: Sequence[str], keys: tuple[str, ...], default: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Take the names under a key out of settings; all options if there is no such key."""
    if not isinstance(settings, dict) or key not in settings:
        return tuple(options) if default is None else default
    names = settings.pop(key)
    if not isinstance(names, list) or not names:
        raise SettingError((*keys, key), f"{key} must be a list of names; got {names!r}")
    for name in names:
        if name not in options:
            raise SettingError(
                (*keys, key),
                f"the plan has no {name!r} among its {key}{near(str(name), options)}; it has {', '.join(options)}",
            )
    if len(set(names)) < len(names):
        raise SettingError((*keys, key), f"{key} must differ from one another; got {names!r}")
    return tuple(names)
