"""What can be known of a plan before its first picture: all that is wrong, at once, each with its line.

Models are loaded and shown an empty picture; of data sets a few examples are looked at. No method is called: that is for
`sfumato.runs.trial`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sfumato.capture import find_layer
from sfumato.configuration import as_json, line_of
from sfumato.labels import numbered
from sfumato.models.anatomy import last_spatial
from sfumato.models.names import near
from sfumato.runs.classes import ORDER, PLURAL, ClassesError, ClassMap, described, plain
from sfumato.runs.looks import Look, located, segmented, setting_meant
from sfumato.runs.plan import PREDICTED, PRESENT, Combination, Plan
from sfumato.runs.work import Workbench
from sfumato.scores import OF_A_CLASS, as_score

DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or that should be known: where in the plan, and for which of its combinations; all those whose
    part it does not name."""

    keys: tuple[str, ...]
    message: str
    """One sentence, and maybe lines to write in the plan."""
    data: str = ""
    model: str = ""
    method: str = ""
    protocol: str = ""

    def concerns(self, combination: Combination, protocol: str) -> bool:
        """Whether it is about a protocol's judgement in a combination."""
        parts = (combination.data, combination.model, combination.method, protocol)
        return all(
            name in ("", part)
            for name, part in zip((self.data, self.model, self.method, self.protocol), parts, strict=True)
        )


class PlanError(ValueError):
    """A plan that cannot be carried out: all that is wrong with it."""

    def __init__(self, plan: Plan, faults: list[Finding]) -> None:
        self.faults = faults
        self.lines = [told(plan, fault) for fault in faults]
        super().__init__("\n".join(self.lines))


def place(plan: Plan, finding: Finding) -> str:
    """Where in the plan it is, in short."""
    line = line_of(plan.text, finding.keys)
    return f"line {line}" if line else ".".join(finding.keys)


def told(plan: Plan, finding: Finding) -> str:
    """A finding with its place in the plan."""
    return f"{plan.place_of(finding.keys)}: {finding.message}"


@dataclass(eq=False)
class Findings:
    """What is known of a plan before its first picture."""

    plan: Plan
    faults: list[Finding] = field(default_factory=list)
    """What makes items fail."""
    notes: list[Finding] = field(default_factory=list)
    """What should be known, and stops nothing."""
    classes: list[dict[str, Any]] = field(default_factory=list)
    """How each data set's classes are mapped to each model's outputs; plain JSON, see `ClassMap.as_json`."""
    looks: dict[str, Look] = field(default_factory=dict)
    """By data set."""

    def stop(self) -> None:
        """Raise `PlanError` where something is wrong."""
        if self.faults:
            raise PlanError(self.plan, self.faults)


def checked(plan: Plan, bench: Workbench, on_cluster: bool = False, unread: Collection[str] | None = None) -> Findings:
    """All that is wrong with a plan, as far as that is known without explaining a picture. `bench` then holds its models.

    `on_cluster` says that workers of a Ray cluster will do the work. Of data sets that are named in `unread`, classes are
    compared with labels, and no example is looked at.
    """
    looks = {name: Look(entry.data) for name, entry in plan.data.items()}
    findings = Findings(plan, looks=looks)
    device = list(_device(plan, on_cluster))
    if device:
        bench = Workbench(replace(plan, device="cpu"))  # so that all else is told, too
    findings.faults += [*device, *_without_work(plan)]
    findings.notes += _unused(plan)
    models = {name: fault for name in plan.models if (fault := _model(plan, bench, name))}
    findings.faults += models.values()
    for name, look in looks.items():
        faults, notes = ([], []) if name in (unread or ()) else _data(plan, name, look)
        findings.faults += faults
        findings.notes += notes
        if not faults:
            findings.faults += [] if name in (unread or ()) else _places(plan, name, look)
            for model in plan.data[name].models:
                if model not in models:
                    _pair(findings, bench, name, model)
    usable = [name for name in plan.models if name not in models]
    findings.faults += _layers(plan, bench, usable)
    findings.faults += _others(plan, bench, usable, findings.notes)
    return findings


def _device(plan: Plan, on_cluster: bool) -> Iterator[Finding]:
    if wrong := device_fault(plan.device):
        yield Finding(("device",), wrong)
    elif on_cluster:
        try:
            plan.ray.check_device(plan.device)
        except ValueError as error:
            yield Finding(("device",), str(error))


def device_fault(device: str) -> str:
    """What is wrong with a device; empty where torch computes on it.

    >>> device_fault("cpu"), device_fault("cqu")
    ('', "torch knows no device 'cqu'; did you mean cpu?")
    """
    try:
        kind, index = torch.device(device).type, torch.device(device).index
    except RuntimeError:
        return f"torch knows no device {device!r}{near(device.partition(':')[0], DEVICES)}"
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            built = "" if torch.backends.cuda.is_built() else ", as this torch is built without CUDA"
            return f'there is no device {device!r}: torch sees no GPU here{built}; write device = "cpu"'
        if index is not None and index >= count:
            last = f"cuda:{count - 1}" if count > 1 else "cuda"
            return f'there is no device {device!r}: torch sees {count} GPUs here; write device = "{last}"'
    if kind == "mps" and not torch.backends.mps.is_available():
        return f'there is no device {device!r}: torch cannot use Metal here; write device = "cpu"'
    try:
        (torch.ones(1, dtype=torch.float32, device=device) + 1).tolist()
    except Exception as error:  # noqa: BLE001  # each backend has errors of its own
        return f'torch cannot compute on {device!r} here ({_first_line(error)}); write device = "cpu"'
    return ""


def _without_work(plan: Plan) -> Iterator[Finding]:
    """Protocols and data sets for which nothing is planned."""
    combinations = list(plan.combinations())
    judged = {protocol for each in combinations for protocol in each.protocols}
    for name, entry in plan.protocols.items():
        if name not in judged:
            chosen = [data for data, other in plan.data.items() if name in other.protocols]
            why = (
                f"it judges {_listed(entry.methods)}, and data set {' and '.join(map(repr, chosen))} has none of these"
                if chosen
                else "no data set names it under its protocols"
            )
            yield Finding(
                ("protocols", name),
                f"no method is judged by protocol {name!r}: {why}; change that, or take the protocol out",
                protocol=name,
            )
    for name, data in plan.data.items():
        if name not in {each.data for each in combinations}:
            yield Finding(
                ("data", name),
                f"nothing is done with data set {name!r}: its protocols {_listed(data.protocols)} judge none of its methods "
                f"{_listed(data.methods)}",
                data=name,
            )


def _unused(plan: Plan) -> Iterator[Finding]:
    """Methods and models that no combination has."""
    combinations = list(plan.combinations())
    asked = {other for entry in plan.protocols.values() for other in entry.others}
    used = {"methods": {each.method for each in combinations}, "models": {each.model for each in combinations} | asked}
    for kind, names in (("methods", plan.methods), ("models", plan.models)):
        for name in names:
            if name not in used[kind]:
                yield Finding((kind, name), f"nothing is done with it: no data set names it under its {kind}")


def _model(plan: Plan, bench: Workbench, name: str) -> Finding | None:
    """What is wrong with a model: it cannot be loaded, or does not answer an empty picture."""
    entry = plan.models[name]
    if entry.checkpoint is not None and not entry.checkpoint.is_file():
        folder = entry.checkpoint.parent
        offered = near(entry.checkpoint.name, [path.name for path in folder.iterdir()] if folder.is_dir() else [])
        message = (
            f"no checkpoint {str(entry.checkpoint)!r}{offered}; expected a file written by torch.save or safetensors"
        )
        return Finding(("models", name, "checkpoint"), message, model=name)
    try:
        bench.outputs(name)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a factory of anyone's own raises whatever it trips over
        about_checkpoint = entry.checkpoint is not None and str(entry.checkpoint) in str(error)
        said = " ".join(str(error).split()) if isinstance(error, ValueError | ImportError) else _first_line(error)
        keys = ("models", name, "checkpoint") if about_checkpoint else ("models", name)
        return Finding(keys, f"model {name!r} cannot be used: {said}", model=name)
    return None


def _data(plan: Plan, name: str, look: Look) -> tuple[list[Finding], list[Finding]]:
    """What is wrong with a data set, and what should be known."""
    try:
        count, classes, errors, examples = look.count, look.classes, look.errors, look.examples()
        look.asked  # noqa: B018  # what a subset leaves out are names of classes
    except Exception as error:  # noqa: BLE001  # as above
        said = " ".join(str(error).split()) if isinstance(error, ValueError | OSError) else _first_line(error)
        return [_about_data(plan, name, f"data set {name!r} cannot be read: {said}")], []
    unforeseen = [error for error in errors if not isinstance(error, ValueError)]
    if not count:
        return [_about_data(plan, name, f"data set {name!r} has no pictures")], []
    if unforeseen:  # a run would end at it
        return [_about_data(plan, name, f"data set {name!r} fails: {_first_line(unforeseen[0])}")], []
    if not examples:
        return [_about_data(plan, name, f"none of {_looked(look)} can be read, e.g.: {errors[0]}")], []
    missing = [example.path for example in examples if not example.path.is_file()]
    if len(missing) == len(examples):
        message = f"data set {name!r}: none of the pictures of {_looked(look)} is there, e.g. {str(missing[0])!r}"
        return [_about_data(plan, name, message)], []
    notes = []
    if missing:
        message = f"data set {name!r}: of {len(examples)} pictures looked at, {len(missing)} are missing, e.g. "
        notes.append(_about_data(plan, name, message + repr(str(missing[0]))))
    if errors:
        message = f"data set {name!r}: of {look.looked_at} examples looked at, {len(errors)} cannot be read, e.g.: "
        notes.append(_about_data(plan, name, f"{message}{errors[0]}"))
    if plan.data[name].targets == PRESENT and classes and not look.any(lambda example: bool(example.targets)):
        message = f'data set {name!r}: none of {_looked(look)} has a class to explain; write targets = "{PREDICTED}"'
        return [_about_data(plan, name, message)], notes
    return [], notes


def _about_data(plan: Plan, name: str, message: str) -> Finding:
    return Finding(("data", name, *setting_meant(plan.data[name].data, message)), message, data=name)


def _looked(look: Look) -> str:
    return f"its {look.count} examples" if look.complete else f"{look.looked_at} examples looked at"


def _places(plan: Plan, name: str, look: Look) -> Iterator[Finding]:
    """Protocols that need to know where a class is, on data that do not say so."""
    entry = plan.data[name]
    for protocol in entry.protocols:
        judge = plan.protocols[protocol].protocol
        if "truth" not in judge.needs or not any(
            protocol in each.protocols for each in plan.combinations() if each.data == name
        ):
            continue
        what = f"{type(judge).__name__} needs to know where the class is"
        remedy = f"leave {protocol!r} out of the protocols of [data.{name}]"
        if entry.targets == PREDICTED:
            message = f'{what}, and that of a predicted class is not known; write targets = "{PRESENT}", or {remedy}'
        elif not look.classes:
            message = f"{what}, and data set {name!r} has no classes; {remedy}"
        elif not look.any(lambda example: any(located(example, label) for label in example.targets)):
            message = f"{what}, and {_looked(look)} have neither boxes nor masks; {remedy}"
        elif getattr(judge, "ground", "") == "segmentation" and not look.any(
            lambda example: any(segmented(example, label) for label in example.targets)
        ):
            message = (
                f'{what} by a segmentation, and {_looked(look)} have boxes only; write ground = "boxes", or {remedy}'
            )
        else:
            continue
        keys = ("data", name, "targets") if entry.targets == PREDICTED else ("data", name, "protocols")
        yield Finding(keys, message, data=name, protocol=protocol)


def _pair(findings: Findings, bench: Workbench, data: str, model: str) -> None:
    """A data set's classes among a model's labels, and the scores of these classes."""
    plan, look = findings.plan, findings.looks[data]
    entry = plan.data[data]
    if not entry.names_targets:
        return
    labels = list(bench.classifier(model).labels) or list(numbered(bench.outputs(model)))
    try:
        mapped = bench.class_map(data, model)
    except ClassesError as error:
        keys = ("data", data, "classes", *([error.key] if error.key else []))
        remedy = error.remedy(data)
        message = f"{error}; {remedy}" if remedy else str(error)
        findings.faults.append(Finding(keys, message, data=data, model=model))
        return
    note = mapped.as_json(data, model, look.classes, labels)
    findings.classes.append(note)
    if {ORDER, PLURAL} & {*mapped.ways}:
        findings.notes.append(Finding(("data", data), described(note), data=data, model=model))
    findings.faults += _scores(plan, data, model, mapped, bench.outputs(model))


def _scores(plan: Plan, data: str, model: str, mapped: ClassMap, outputs: int) -> Iterator[Finding]:
    """Methods and protocols whose score the model does not have, such as the logit of what speaks against its only output."""
    entry = plan.data[data]
    scored = [("method", "methods", name, plan.methods[name]) for name in entry.methods]
    scored += [("protocol", "protocols", name, plan.protocols[name].protocol) for name in entry.protocols]
    indices = [index for index in mapped.indices if index is not None]
    for kind, table, name, thing in scored:
        score = getattr(thing, "score", None)
        if not isinstance(score, str) or score not in OF_A_CLASS or not indices:
            continue
        try:
            for index in {min(indices), max(indices)}:
                empty = torch.zeros(1, outputs, dtype=torch.float32, device="cpu")
                as_score([index], 1, score)(empty, torch.zeros(1, dtype=torch.long, device="cpu"))
        except ValueError as error:
            message = (
                f"{kind} {name!r} cannot take score = {score!r} of all classes of {data!r} on model {model!r}: {error}"
            )
            yield Finding((table, name, "score"), message, data=data, model=model, **{kind: name})


def _layers(plan: Plan, bench: Workbench, models: list[str]) -> Iterator[Finding]:
    """Methods that look into a layer which nobody names, or which the model does not have."""
    pairs = dict.fromkeys((each.model, each.method) for each in plan.combinations() if each.model in models)
    for model, name in pairs:
        classifier = bench.classifier(model)
        method = classifier.placed(plan.methods[name])
        kind, layer = type(method).__name__, getattr(method, "layer", "")
        about = {"model": model, "method": name}
        wrong: tuple[str, ...] = ()
        try:
            needs = getattr(method, "needs_layer", None)
            for setting in ("layer", "contrast_layer"):
                if given := getattr(method, setting, ""):
                    wrong = (setting,)
                    find_layer(classifier.net, given)
        except (ValueError, ImportError) as error:
            yield Finding(("methods", name, *wrong), f"{kind} on model {model!r}: {error}", **about)
            continue
        if needs and not layer:
            offered = last_spatial(classifier.net, classifier.preparation) or "…"
            yield Finding(
                ("methods", name),
                f"{kind} looks into a layer, and model {model!r} names none for it; write\n  [methods.{name}]\n"
                f'  use = "{kind}"\n  layer = "{offered}"\nor let its factory give '
                f'Classifier(…, layers={{"{kind}": "{offered}"}}); all layers: sfumato layers {plan.models[model].name}',
                **about,
            )
        elif needs is False and layer:
            yield Finding(
                ("methods", name, "layer"), f"{kind} looks into no layer; leave out layer = {layer!r}", **about
            )


def _others(plan: Plan, bench: Workbench, models: list[str], notes: list[Finding]) -> Iterator[Finding]:
    """Networks that a protocol compares with, and whose outputs are not of the same classes."""
    for name, entry in plan.protocols.items():
        mine = dict.fromkeys(
            each.model for each in plan.combinations() if name in each.protocols and each.model in models
        )
        for model, other in ((model, other) for model in mine for other in entry.others if other in models):
            about = {"model": model, "protocol": name}
            classifier, second = bench.classifier(model), bench.classifier(other)
            if wrong := _unlike(bench.outputs(model), classifier.labels, bench.outputs(other), second.labels):
                message = (
                    f"{type(entry.protocol).__name__} asks {model!r} and {other!r} for the same output, and {wrong}"
                )
                yield Finding(("protocols", name, "others"), message, **about)
            elif as_json(classifier.preparation) != as_json(second.preparation):
                message = f"model {other!r} is shown pictures as {model!r} wants them, not as its own preparation says"
                notes.append(Finding(("protocols", name, "others"), message, **about))


def _unlike(outputs: int, labels: Any, others: int, other_labels: Any) -> str:
    """What tells two models' outputs apart; empty where nothing does."""
    if outputs != others:
        return f"they have {outputs} and {others} outputs"
    pairs: Mapping[int, tuple[str, str]] = dict(enumerate(zip(labels, other_labels, strict=False)))
    for index, (one, other) in pairs.items():
        if plain(one) != plain(other):
            return f"output {index} is {one!r} of the one and {other!r} of the other"
    return ""


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))


def _first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
