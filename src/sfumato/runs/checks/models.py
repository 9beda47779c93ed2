"""Check the device and the models of a plan by an empty picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from sfumato.layers.capture import find_layer, place_of
from sfumato.models.anatomy import last_spatial
from sfumato.runs.plans.findings import Finding, first_line
from sfumato.runs.plans.plan import Plan
from sfumato.runs.plans.spellings import Spellings
from sfumato.runs.plans.unmatched import NAMELESS, toml_key
from sfumato.runs.work.workbench import Workbench
from sfumato.settings import as_json, dotted_path, near

DEVICES = ("cpu", "cuda", "mps", "xpu")


def without_device(plan: Plan, on_cluster: bool) -> Iterator[Finding]:
    if wrong := device_fault(plan.device):
        yield Finding(("device",), wrong)
    elif on_cluster:
        try:
            plan.ray.check_device(plan.device)
        except ValueError as error:
            yield Finding(("device",), str(error))


def device_fault(device: str) -> str:
    """What is wrong with a device; empty if torch computes on it.

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
        return f'torch cannot compute on {device!r} here ({first_line(error)}); write device = "cpu"'
    return ""


def model_fault(plan: Plan, bench: Workbench, name: str) -> Finding | None:
    """What is wrong with a model: it cannot be loaded, or fails on an empty picture. `None` if nothing is."""
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
        files = {"checkpoint": entry.checkpoint, "labels": entry.labels if isinstance(entry.labels, Path) else None}
        about = [key for key, file in files.items() if file is not None and str(file) in str(error)]
        message = " ".join(str(error).split()) if isinstance(error, ValueError | ImportError) else first_line(error)
        keys = ("models", name, *about[:1])
        return Finding(keys, f"model {name!r} cannot be used: {message}", model=name)
    return None


def without_layer(plan: Plan, bench: Workbench, models: list[str]) -> Iterator[Finding]:
    """Methods that need a layer which is not named, or which the model does not have."""
    pairs = dict.fromkeys(
        (combination.model, combination.method) for combination in plan.combinations() if combination.model in models
    )
    for model, name in pairs:
        classifier = bench.classifier(model)
        method = classifier.placed(plan.methods[name])
        kind, layer = type(method).__name__, getattr(method, "layer", "")
        about = {"model": model, "method": name}
        wrong: tuple[str, ...] = ()
        try:
            needs = getattr(method, "needs_layer", None)
            for setting in ("layer", "contrast_layer"):
                if layer_name := place_of(classifier.net, getattr(method, setting, "")):
                    wrong = (setting,)
                    find_layer(classifier.net, layer_name)
        except (ValueError, ImportError) as error:
            yield Finding(("methods", name, *wrong), f"{kind} on model {model!r}: {error}", **about)
            continue
        if needs and not layer:
            offered = last_spatial(classifier.net, classifier.preparation) or "…"
            yield Finding(
                ("methods", name),
                f"{kind} looks into a layer, and model {model!r} names none for it; write\n  [methods]\n"
                f'  {toml_key(name)} = {{ use = "{_use(method)}", layer = "{offered}" }}\nor let the model\'s factory give '
                f'Classifier(…, layers={{"{kind}": "{offered}"}}); all layers: sfumato layers {plan.models[model].name}',
                **about,
            )
        elif needs is False and layer:
            yield Finding(
                ("methods", name, "layer"), f"{kind} looks into no layer; leave out layer = {layer!r}", **about
            )


def _use(method: object) -> str:
    """The name of a method's class in a plan."""
    ours = type(method).__module__.startswith("sfumato.methods.")
    return type(method).__name__ if ours else dotted_path(type(method))


def unlike_others(plan: Plan, bench: Workbench, models: list[str], notes: list[Finding]) -> Iterator[Finding]:
    """Networks that a protocol compares, although their outputs are of other classes."""
    for name, entry in plan.protocols.items():
        mine = dict.fromkeys(
            combination.model
            for combination in plan.combinations()
            if name in combination.protocols and combination.model in models
        )
        for model, other in ((model, other) for model in mine for other in entry.others if other in models):
            about = {"model": model, "protocol": name}
            classifier, second = bench.classifier(model), bench.classifier(other)
            if wrong := unlike(bench.outputs(model), classifier.labels, bench.outputs(other), second.labels):
                message = (
                    f"{type(entry.protocol).__name__} asks {model!r} and {other!r} for the same output, and {wrong}"
                )
                yield Finding(("protocols", name, "others"), message, **about)
            elif as_json(classifier.preparation) != as_json(second.preparation):
                message = f"model {other!r} is shown pictures as {model!r} wants them, not as its own preparation says"
                notes.append(Finding(("protocols", name, "others"), message, **about))


def unlike(outputs: int, labels: Sequence[str], others: int, other_labels: Sequence[str]) -> str:
    """How two models' outputs differ: in their number, or in the output of a name; empty if they do not."""
    if outputs != others:
        return f"they have {outputs} and {others} outputs"
    spellings = Spellings(other_labels)
    for index, label in enumerate(labels):
        indices, _ = (frozenset[int](), "") if NAMELESS.fullmatch(label) else spellings.fitting(label)
        if indices and index not in indices:
            return f"{label!r} is output {index} of the one and {min(indices)} of the other"
    return ""
