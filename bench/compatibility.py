"""Every method on every family of networks: whether it works, or says in words why not, or is at fault.

    python bench/compatibility.py                          # run what is missing in build/compatibility.jsonl
    python bench/compatibility.py --page docs/compatibility.md

Families of which the file has no rows stay on the page as they are there, if it was made with the same versions.

Each cell is run, on a small network with random weights (`families.py`). It works if the map has the input's shape and is
finite and not the same everywhere, and if the network is left as it was. It is refused if the library raises its own
`ValueError`, or warns that the map means nothing. All else is a fault: another error, a map that means nothing, a network that
changed, no answer in time. Every family has a process of its own. Rows are appended to a file: an interrupted run continues.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import re
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from families import FAMILIES, Question
from torch import nn

import sfumato
from sfumato import methods
from sfumato.attribution import Attribution
from sfumato.models.anatomy import LAYER_METHODS

ROOT = Path(__file__).parents[1]
PACKAGE = Path(sfumato.__file__).parent
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "captum")
SAME = "a map that is the same everywhere"
EMPTY = re.compile("means nothing|marks nothing")
"""What the library's warnings say of such a map."""
WORKS, REFUSED, FAULT = "works", "refused", "fault"

PATHS = {
    "steps": 2,
    "points": 2,
    "l1": 0.0,
    "tv": 0.02,
    "perturbation": sfumato.Constant(-2.0),
    "score": "logit",
}
"""Of I-GOS and iGOS++: what hides places changes what a network with random weights says."""

QUICK: dict[str, dict[str, Any]] = {
    "ExtremalPerturbation": {"areas": (0.2,), "steps": 2},
    "ExtremalOrder": {"areas": (0.1, 0.3), "steps": 2},
    "MeaningfulPerturbation": {"steps": 2},
    "IGOS": PATHS,
    "IGOSPlus": PATHS,
    "RISE": {"samples": 16, "cells": 3},
    "Sobol": {"designs": 2, "cells": 3},
    "HSIC": {"samples": 16, "cells": 3},
    "GreedyOrder": {"regions": sfumato.Cells(2), "candidates": 2},
    "ExtremalChannels": {"counts": (1, 2), "steps": 2},
    "Captum": {"name": "IntegratedGradients", "arguments": {"n_steps": 3}},
}
"""Settings for which a method takes few passes."""

SHORT = {
    "ExtremalPerturbation": "EP",
    "ExtremalOrder": "EO",
    "MeaningfulPerturbation": "MP",
    "IGOS": "IG",
    "IGOSPlus": "I+",
    "Gradient": "Gr",
    "Deconvnet": "De",
    "GuidedBackprop": "GB",
    "GradCAM": "GC",
    "LayerCAM": "LC",
    "ScoreCAM": "SC",
    "LinearApproximation": "LA",
    "ExcitationBackprop": "EB",
    "ContrastiveExcitationBackprop": "cEB",
    "RISE": "RI",
    "Sobol": "So",
    "HSIC": "HS",
    "GreedyOrder": "GO",
    "ExtremalChannels": "EC",
    "Captum": "Ca",
    "Centre": "Ce",
}
"""What the page calls the methods above its columns."""


@dataclass(frozen=True)
class Row:
    """What came of a method on a family."""

    family: str
    method: str
    outcome: str
    says: str = ""
    """The error, or the warnings."""
    layer: str = ""
    """The layer that the method looked at, if any."""
    seconds: float = 0.0


class LateError(Exception):
    """A cell took too long."""


def first_call(question: Question) -> None:
    """Run the network, as some of transformers put hooks of their own on themselves when they first run."""
    if net := question.watched:
        with torch.no_grad():
            net(question.inputs)


def state(net: nn.Module | None, inputs: torch.Tensor) -> dict[str, Any]:
    """All that a method must leave as it was, by what it is."""
    modules = {} if net is None else dict(net.named_modules())
    tensors = {} if net is None else net.state_dict(keep_vars=True)
    return {
        "values": {name: value.detach().clone() for name, value in tensors.items()},
        "tensors": {name: (id(value), value.requires_grad, value.grad) for name, value in tensors.items()},
        "modes": {name: module.training for name, module in modules.items()},
        "hooks": {
            (name, kind): list(value)
            for name, module in modules.items()
            for kind, value in vars(module).items()
            if "_hooks" in kind and isinstance(value, dict)
        },
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "inputs": {"": inputs.clone()},
        "random numbers": {"": torch.get_rng_state()},
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What is no longer the same."""

    def same(one: Any, other: Any) -> bool:
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)

    return [
        kind
        for kind, values in before.items()
        if values.keys() != after[kind].keys() or not all(same(values[key], after[kind][key]) for key in values)
    ]


def wrong_with(result: Attribution, method: Any, question: Question) -> str:
    """What a result lacks to mean something, or nothing."""
    expected = (len(question.inputs), 1, *question.inputs.shape[2:])
    saliency = result.map
    if tuple(saliency.shape) != expected:
        return f"a map of shape {tuple(saliency.shape)}, not {expected}"
    if not torch.isfinite(saliency).all():
        return "a map that is not finite"
    if type(method).__name__ in LAYER_METHODS and question.watched is question.model and not layer_of(result):
        return "looks at the input, although nobody said so"
    return SAME if not saliency.flatten(1).std(1).all() else ""


def layer_of(result: Attribution) -> str:
    """The layer at which the method looked, as the result tells it."""
    method = result.about["method"]
    return str(method.get("settings", method).get("layer", ""))


def tried(family: str, name: str, question: Question) -> Row:
    """One cell."""
    method = getattr(methods, name)(**{**QUICK.get(name, {}), **question.settings.get(name, {})})
    before, began = state(question.watched, question.inputs), time.monotonic()
    layer, problem = "", ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for target in question.targets:
                result = method(question.model, question.inputs, target)
                layer, problem = layer_of(result), wrong_with(result, method, question)
                if not problem:
                    break
            outcome = FAULT if problem else WORKS
        except Exception as error:  # noqa: BLE001  # whatever it is belongs into the table
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
            own = PACKAGE in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents
            refused = own and isinstance(error, ValueError)
            outcome, problem = (REFUSED, problem.partition(": ")[2]) if refused else (FAULT, problem)
    seconds = time.monotonic() - began
    if differences := changed(before, state(question.watched, question.inputs)):
        outcome, problem = FAULT, f"the network has other {', '.join(differences)} than before ({problem})"
    told = next((str(warning.message) for warning in caught if EMPTY.search(str(warning.message))), "")
    if problem == SAME and told:
        outcome, problem = REFUSED, told
    return Row(family, name, outcome, problem or told, layer, round(seconds, 2))


def run_family(family: str, names: Sequence[str], out: Path, limit: float) -> None:
    """The cells of a family, in this process; each is written when it is done."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise LateError(f"no answer in {limit:g} s")

    signal.signal(signal.SIGALRM, late)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        question: Question | None = FAMILIES[family]()
        first_call(question)
        failure = ""
    except Exception as error:  # noqa: BLE001  # a network that cannot be made, or described, is a fault of each cell
        question, failure = None, f"cannot be made: {type(error).__name__}: {error}"
    for name in names:
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            row = tried(family, name, question) if question else Row(family, name, FAULT, failure)
        except LateError as error:
            row = Row(family, name, FAULT, str(error), seconds=limit)
        signal.setitimer(signal.ITIMER_REAL, 0)
        append(out, [row])


def append(out: Path, rows: Iterable[Row]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def read(out: Path) -> dict[tuple[str, str], Row]:
    """The rows of a file by family and method; of several for one cell, the last."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {(row.family, row.method): row for row in rows}


def warm_up() -> None:
    """Import what families need, so that their processes, which are forks of this one, need not."""
    for library in (*LIBRARIES, "transformers.models.auto", "captum.attr"):
        with contextlib.suppress(ImportError):
            importlib.import_module(library)


def run(families: Sequence[str], names: Sequence[str], out: Path, limit: float) -> None:
    """What is missing, each family in a process of its own. A process that dies is a fault of the cell that it ran."""
    warm_up()
    processes = multiprocessing.get_context("fork")
    for family in families:
        while missing := [name for name in names if (family, name) not in read(out)]:
            process = processes.Process(target=run_family, args=(family, missing, out, limit))
            process.start()
            size, since = 0, time.monotonic()
            while process.is_alive():
                process.join(0.5)
                grown = out.stat().st_size if out.exists() else 0
                if grown > size:
                    size, since = grown, time.monotonic()
                if time.monotonic() - since > limit + 60:  # it does not even hear the alarm
                    process.kill()
            left = [name for name in missing if (family, name) not in read(out)]
            if left:
                append(out, [Row(family, left[0], FAULT, f"its process ended with {process.exitcode}")])
        rows = read(out)
        counts = Counter(rows[family, name].outcome for name in names)
        print(f"{family}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()), flush=True)


# --- the page ---------------------------------------------------------------------------------------------------------


def template(sentence: str) -> str:
    """A refusal without what differs from network to network: names, numbers and shapes."""
    without = re.sub(r"\b(" + "|".join(SHORT) + r"|\w+_\w+|(?<=the model is a )\w+)\b", "…", sentence)
    without = re.sub(r"'[^']*'|\([\d, ]+\)|\d+(\.\d+)?(e-?\d+)?", "…", without)
    return re.sub(r"(…[ ,×·+*]*)+", "… ", without)


def letters(rows: Iterable[Row]) -> dict[str, tuple[str, Row, int]]:
    """By the template of each refusal: its letter, the first row that has it, and how many have it."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.outcome == REFUSED:
            found.setdefault(template(row.says), []).append(row)
    return {
        text: (chr(ord("a") + index % 26) * (1 + index // 26), having[0], len(having))
        for index, (text, having) in enumerate(found.items())
    }


def versions() -> str:
    """The libraries with their versions, in words."""
    known = []
    for library in LIBRARIES:
        try:
            known.append(f"{library} {version(library).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return ", ".join(known)


INTRODUCTION = """\
# Which method works on which model

{families} networks, {methods} methods, and each pair was run: {works} work, {refused} are refused in words, {fault} at fault.

- ● works: the map has the size of the input, it is finite and not the same everywhere, and the network is left as it was, with
  its weights, buffers, modes and hooks.
- a letter: the method is refused by an error, or warns that its map means nothing. The sentence is below the tables.
- ✗ a fault: anything else. Each is listed at the end.

No layer was named: a method that needs one takes the network's default layer. The networks are small and their weights random,
as the question is whether a method works, not what it finds. Segmentation is asked by `Region`, detection by `Box`, pictures
with texts by `Similarity`, and answers by `Tokens`.

Made with {versions} by `python bench/compatibility.py` and
`python bench/compatibility.py --page docs/compatibility.md`.

Columns: {columns}.
"""


def page(rows: Mapping[tuple[str, str], Row]) -> str:
    """The page of the families of which all methods were tried."""
    names = [name for name in SHORT if any(method == name for _, method in rows)]
    families = [family for family in FAMILIES if all((family, name) in rows for name in names)]
    rows = {(family, name): rows[family, name] for family in families for name in names}
    refusals = letters(rows.values())
    counts = Counter(row.outcome for row in rows.values())
    intro = INTRODUCTION.format(
        families=len(families),
        methods=len(names),
        versions=versions(),
        columns=", ".join(f"{SHORT[name]} `{name}`" for name in names),
        **{outcome: counts[outcome] for outcome in (WORKS, REFUSED, FAULT)},
    )
    lines = intro.splitlines()
    for library in dict.fromkeys(family.partition(": ")[0] for family in families):
        lines += ["", f"## {library}", ""]
        lines += ["| network | " + " | ".join(SHORT[name] for name in names) + " |"]
        lines += ["| --- |" + " :-: |" * len(names)]
        for family in families:
            if family.startswith(f"{library}: "):
                signs = [sign(rows[family, name], refusals) for name in names]
                lines.append(f"| {family.partition(': ')[2]} | " + " | ".join(signs) + " |")
    if refusals:
        lines += ["", "## What the refusals say", ""]
        for letter, row, count in refusals.values():
            lines.append(f"- **{letter}** ({count}×), here `{row.method}` on {row.family}: {escaped(row.says)}")
    faults = [row for row in rows.values() if row.outcome == FAULT]
    if faults:
        lines += ["", "## Faults", ""]
        lines += [f"- `{row.method}` on {row.family}: {escaped(row.says)}" for row in faults]
    return "\n".join(lines) + "\n"


def rows_of(text: str) -> dict[tuple[str, str], Row]:
    """The rows that a page shows: of a refusal or a fault, with the sentence of the first row that has its letter.

    Empty for a page that was made with other versions.
    """
    if f"Made with {versions()} by" not in text:
        return {}
    named = {short: name for name, short in SHORT.items()}
    said = dict(re.findall(r"^- \*\*(\w+)\*\* \(\d+×\), here `\w+` on \w+: [^:\n]+: (.*)$", text, re.MULTILINE))
    faults = dict(re.findall(r"^- (`\w+` on \w+: [^:\n]+): (.*)$", text.partition("\n## Faults")[2], re.MULTILINE))
    rows, library, columns = {}, "", list[str]()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            library = line.removeprefix("## ")
        elif line.startswith("| network |"):
            columns = [named[short] for short in cells[1:]]
        elif line.startswith("| ") and columns and not line.startswith("| ---"):
            for name, shown in zip(columns, cells[1:], strict=True):
                family = f"{library}: {cells[0]}"
                outcome = {"●": WORKS, "✗": FAULT}.get(shown, REFUSED)
                says = faults.get(f"`{name}` on {family}", "") if outcome == FAULT else said.get(shown, "")
                rows[family, name] = Row(family, name, outcome, plain(says))
    return rows


def plain(text: str) -> str:
    """The text of which `escaped` makes Markdown.

    >>> plain(escaped("a_b [c]"))
    'a_b [c]'
    """
    return re.sub(r"\\([\\`*_<>|\[\]$#])", r"\1", text)


def sign(row: Row, refusals: Mapping[str, tuple[str, Row, int]]) -> str:
    """What a cell shows."""
    return {WORKS: "●", FAULT: "✗"}.get(row.outcome) or refusals[template(row.says)][0]


def escaped(text: str) -> str:
    """Text in which Markdown sees nothing of its own."""
    return re.sub(r"([\\`*_<>|\[\]$#])", r"\\\1", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/compatibility.jsonl", help="the file of rows")
    parser.add_argument("--families", nargs="*", default=[], help="parts of their names; by default all")
    parser.add_argument("--methods", nargs="*", default=list(methods.__all__), help="names; by default all")
    parser.add_argument("--limit", type=float, default=240, help="seconds for a cell")
    parser.add_argument("--page", type=Path, help="write the page of what the file holds")
    options = parser.parse_args()
    if options.page:
        before = options.page.read_text(encoding="utf-8") if options.page.exists() else ""
        rows = read(options.out)
        kept = {key: row for key, row in rows_of(before).items() if key[0] not in {family for family, _ in rows}}
        options.page.write_text(page(kept | rows), encoding="utf-8")
        return
    wanted = [family for family in FAMILIES if not options.families or any(part in family for part in options.families)]
    run(wanted, options.methods, options.out, options.limit)


if __name__ == "__main__":
    main()
