"""What a method or protocol leaves behind shows in no row of another, and ends no run."""

import itertools
import json
import sys

import numpy as np
import pytest
from PIL import Image

from sfumato.runs.execution.session import begin
from sfumato.runs.execution.workers import spread
from sfumato.runs.plans.plan import parse
from sfumato.runs.results import summary
from sfumato.runs.results.record import Place, read_record
from sfumato.runs.work.faults import LONGEST, describe_error

NUMBERS = itertools.count()

MODULE = """
import os
from dataclasses import dataclass
import torch
from torch import nn
from sfumato.attribution import Attribution
from sfumato.metrics import Protocol
from sfumato.metrics.estimate import Measure, mean
from sfumato.models import Classifier, Preparation

class Net(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("others", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.others = self.others + 1
        return super().forward(x) + 0.01 * self.calls * self.others * torch.arange(3)

def net():
    return Classifier("net", Net().eval(), Preparation(8, None, (0.0,) * 3, (1.0,) * 3), ("one", "two", "three"))

class NoWordsError(Exception):
    def __str__(self):
        raise RuntimeError("no words")

@dataclass(frozen=True)
class Method:
    leaves: str = ""
    def __call__(self, model, inputs, target=None):
        with torch.no_grad():
            if self.leaves == "weights":
                next(model.parameters()).mul_(2)
            if self.leaves == "parameter":
                model[4].weight = nn.Parameter(2 * model[4].weight)
            if self.leaves == "mode":
                model.train()
                model(inputs)
            if self.leaves == "hook":
                model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
            if self.leaves == "message":
                raise NoWordsError
            if self.leaves == "process" and os.fork() == 0:
                raise ValueError("in a copy of the process")
            scale = model(inputs)[:, 1, None, None, None]
        return Attribution(map=scale * inputs.sum(1, keepdim=True), about={})

@dataclass(frozen=True)
class Sum(Protocol):
    leaves: str = ""
    def measure(self, case):
        row = {"sum": float(case.map.sum()), "score": float(case.model(case.inputs)[0, 0].detach())}
        if self.leaves == "inputs":
            case.inputs.mul_(0)
        if self.leaves == "map":
            case.attribution.map.mul_(0)
        return row
    def measures(self, rows):
        return (Measure("sum", mean("sum")),)
"""

PLAN = """
[models]
net = "{module}:net"
[methods]
{methods}
mine = "{module}:Method"
[protocols]
{protocols}
sum = "{module}:Sum"
[data.some]
use = "Folder"
path = "pictures"
targets = "predicted"
"""


class Bench:
    def __init__(self, root, monkeypatch):
        self.root, self.module = root, f"left{next(NUMBERS)}"
        (root / f"{self.module}.py").write_text(MODULE)
        monkeypatch.syspath_prepend(root)
        (root / "pictures").mkdir()
        for seed in range(3):
            values = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(values).save(root / "pictures" / f"{seed}.png")

    def session(self, name, methods="", protocols=""):
        text = PLAN.format(module=self.module, methods=methods, protocols=protocols)
        return begin(parse(text.replace("X", self.module), self.root), Place(self.root / name))

    def rows(self, name, method="mine", protocol="sum"):
        record = read_record(Place(self.root / name))
        with record.place.store() as store:
            return [
                json.dumps(row)
                for row in summary.rows(record, store)
                if (row["method"], row["protocol"]) == (method, protocol)
            ]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path, monkeypatch)
    yield made
    sys.modules.pop(made.module, None)


@pytest.mark.filterwarnings("ignore:model 'net' was left with other weights or hooks")
@pytest.mark.parametrize(
    ("methods", "protocols"),
    [
        ('other = { use = "X:Method", leaves = "weights" }', ""),
        ('other = { use = "X:Method", leaves = "parameter" }', ""),
        ('other = { use = "X:Method", leaves = "mode" }', ""),
        ('other = { use = "X:Method", leaves = "hook" }', ""),
        ('other = "X:Method"', ""),
        ("", 'other = { use = "X:Sum", leaves = "inputs" }'),
        ("", 'other = { use = "X:Sum", leaves = "map" }'),
    ],
)
def test_what_is_left_behind_shows_in_no_other_row(bench, methods, protocols):
    list(bench.session("alone").work())
    list(bench.session("beside", methods, protocols).work())
    assert len(bench.rows("alone")) == 3
    assert bench.rows("beside") == bench.rows("alone")


def test_a_model_that_is_changed_is_named(bench):
    with pytest.warns(UserWarning, match="model 'net' was left with other weights or hooks than it had"):
        list(bench.session("run", 'other = { use = "X:Method", leaves = "weights" }').work())


def test_an_error_that_cannot_say_what_it_is_ends_no_run(bench):
    list(bench.session("run", 'other = { use = "X:Method", leaves = "message" }').work())
    assert len(bench.rows("run")) == 3
    assert all("NoWordsError: (its message cannot be read: RuntimeError)" in row for row in bench.rows("run", "other"))


def test_a_message_is_kept_in_part():
    assert len(describe_error(RuntimeError("word " * 10_000))) < LONGEST + 20
    assert describe_error(RuntimeError("a word")) == "RuntimeError: a word"


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_copy_of_a_worker_does_not_go_on_as_a_second_one(bench):
    """Code that forks and does not end the copy, as where that raises an error: it would answer in the worker's place."""
    session = bench.session("run", 'other = { use = "X:Method", leaves = "process" }')
    work = list(spread(session))
    assert (work[-1].done, work[-1].failed) == (6, 0)
    assert [len(bench.rows("run", method)) for method in ("mine", "other")] == [3, 3]
