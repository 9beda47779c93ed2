"""Check a plan before its first picture: all faults at once, each with its line.

Models are loaded and run on an empty picture, and a few examples of each data set are read. No method is called: see
`sfumato.runs.checks.trial`.
"""

import pickle
from collections.abc import Collection, Iterator
from dataclasses import replace

import torch

from sfumato.data.labels import default_labels
from sfumato.runs.checks.data import data_findings, without_places
from sfumato.runs.checks.models import model_fault, unlike_others, without_device, without_layer
from sfumato.runs.plans.class_notes import class_line
from sfumato.runs.plans.classes import ORDER, ClassMap
from sfumato.runs.plans.data_sample import DataSample
from sfumato.runs.plans.findings import Finding, Findings, comma_list, first_line
from sfumato.runs.plans.plan import Plan
from sfumato.runs.plans.spellings import PLURAL
from sfumato.runs.plans.unmatched import ClassesError
from sfumato.runs.work.workbench import Workbench
from sfumato.scores import OF_A_CLASS, as_score


def check_plan(
    plan: Plan, bench: Workbench, on_cluster: bool = False, unread: Collection[str] | None = None
) -> Findings:
    """The findings about a plan, as far as they show without explaining a picture. Afterwards `bench` holds its models.

    `on_cluster` says that workers of a Ray cluster will do the work. No example is
    read of the data sets in `unread`; their classes are compared with labels all the same.
    """
    samples = {name: DataSample(entry.data) for name, entry in plan.data.items()}
    findings = Findings(plan, samples=samples)
    device = list(without_device(plan, on_cluster))
    if device:
        bench = Workbench(replace(plan, device="cpu"))  # so that all else is told, too
    findings.faults += [*device, *_without_work(plan), *_not_sendable(plan)]
    findings.notes += _unused(plan)
    models = {name: fault for name in plan.models if (fault := model_fault(plan, bench, name))}
    findings.faults += models.values()
    for name, sample in samples.items():
        faults, notes = ([], []) if name in (unread or ()) else data_findings(plan, name, sample)
        findings.faults += faults
        findings.notes += notes
        if not faults:
            findings.faults += [] if name in (unread or ()) else without_places(plan, name, sample)
            for model in plan.data[name].models:
                if model not in models:
                    _pair(findings, bench, name, model)
    usable = [name for name in plan.models if name not in models]
    findings.faults += without_layer(plan, bench, usable)
    findings.faults += unlike_others(plan, bench, usable, findings.notes)
    return findings


def _without_work(plan: Plan) -> Iterator[Finding]:
    """Protocols and data sets without any item, as they have no method in common."""
    combinations = list(plan.combinations())
    judged = {protocol for combination in combinations for protocol in combination.protocols}
    for name, entry in plan.protocols.items():
        users = [data for data, other in plan.data.items() if name in other.protocols]
        if users and name not in judged:
            yield Finding(
                ("protocols", name),
                f"no method is judged by protocol {name!r}: it judges {comma_list(entry.methods)}, and data set "
                f"{' and '.join(map(repr, users))} has none of these; change that, or take the protocol out",
                protocol=name,
            )
    for name, data in plan.data.items():
        if name not in {combination.data for combination in combinations}:
            yield Finding(
                ("data", name),
                f"nothing is done with data set {name!r}: its protocols {comma_list(data.protocols)} judge none of its "
                f"methods {comma_list(data.methods)}",
                data=name,
            )


def _not_sendable(plan: Plan) -> Iterator[Finding]:
    """Methods and protocols that cannot be sent to the processes that compute."""
    things = [(("methods", name), method) for name, method in plan.methods.items()]
    things += [(("protocols", name), entry.protocol) for name, entry in plan.protocols.items()]
    for keys, thing in things:
        try:
            pickle.dumps(thing)
        except Exception as error:  # noqa: BLE001  # what a thing of anyone's own raises
            yield Finding(
                keys,
                f"it cannot be sent to worker processes ({first_line(error)}); name a class or function at the top level of a "
                "module, or a factory that returns an object of such a class",
                **{keys[0][:-1]: keys[1]},
            )


def _unused(plan: Plan) -> Iterator[Finding]:
    """Methods, models and protocols that no data set names."""
    combinations = list(plan.combinations())
    compared_with = {other for entry in plan.protocols.values() for other in entry.others}
    used = {
        "methods": {combination.method for combination in combinations},
        "models": {combination.model for combination in combinations} | compared_with,
        "protocols": {name for entry in plan.data.values() for name in entry.protocols},
    }
    for kind, names in (("methods", plan.methods), ("models", plan.models), ("protocols", plan.protocols)):
        for name in names:
            if name not in used[kind]:
                yield Finding((kind, name), f"nothing is done with it: no data set names it under its {kind}")


def _pair(findings: Findings, bench: Workbench, data: str, model: str) -> None:
    """Match a data set's classes with a model's labels, and check the scores of these classes."""
    plan, sample = findings.plan, findings.samples[data]
    entry = plan.data[data]
    if not entry.names_targets:
        return
    labels = list(bench.classifier(model).labels) or list(default_labels(bench.outputs(model)))
    try:
        mapped = bench.class_map(data, model)
    except ClassesError as error:
        keys = ("data", data, "classes", *([error.key] if error.key else []))
        remedy = error.remedy(data)
        message = f"{error}; {remedy}" if remedy else str(error)
        findings.faults.append(Finding(keys, message, data=data, model=model))
        return
    except ValueError as error:  # of the data set, where no example was looked at
        findings.faults.append(Finding(("data", data), str(error), data=data, model=model))
        return
    note = mapped.as_json(data, model, sample.classes, labels)
    findings.classes.append(note)
    if {ORDER, PLURAL} & {*mapped.ways}:
        findings.notes.append(Finding(("data", data), class_line(note), data=data, model=model))
    findings.faults += _scores(plan, data, model, mapped, bench.outputs(model))


def _scores(plan: Plan, data: str, model: str, mapped: ClassMap, outputs: int) -> Iterator[Finding]:
    """Methods and protocols whose score the model does not have, such as the logit of the complement of its only output."""
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
