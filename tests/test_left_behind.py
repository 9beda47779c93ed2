"""What a method or protocol leaves behind shows in no row of another, and ends no run."""

import importlib
import itertools
import json
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sfumato.runs.execution.session import begin
from sfumato.runs.execution.workers import spread
from sfumato.runs.plans.plan import parse
from sfumato.runs.results import summary
from sfumato.runs.results.record import Place, read_record
from sfumato.runs.work.faults import LONGEST, describe_error
from sfumato.runs.work.model_state import plain_tensors
from sfumato.runs.work.workbench import identity

NUMBERS = itertools.count()

MODULE = """
import os
import random
import signal
import warnings
from dataclasses import dataclass
import numpy as np
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
        self.scale, self.scales, self.tensor = 1.0, {"all": 1.0}, torch.ones(())

    def forward(self, x):
        self.calls += 1
        self.others = self.others + 1
        x.mul_(1.5)
        y = super().forward(x) + 0.01 * self.calls * self.others * torch.arange(3)
        return y * self.scale * self.scales["all"] * self.tensor

class Doubled(Net):
    def forward(self, x):
        return 2 * super().forward(x)

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
            scale = model(inputs.clone())[:, 1, None, None, None]
            with torch.enable_grad():
                (inputs.clone().requires_grad_() ** 2).sum()
            draws = torch.rand(()) + np.random.rand() + random.random() + torch.tensor([0.1]).double().item()
        LEAVE.get(self.leaves, lambda model: None)(model)
        return Attribution(map=(scale * inputs.sum(1, keepdim=True) * draws).float(), about={})

def training_and_back(model):
    model.train()
    model(torch.ones(2, 3, 8, 8))
    model[1].num_batches_tracked.data.zero_()
    model.eval()

class Doubling(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), named=None):
        output = function(*arguments, **(named or {}))
        return 2 * output if function is nn.functional.linear else output

class DoublingBelow(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        output = function(*arguments, **(named or {}))
        return 2 * output if function is torch.ops.aten.addmm.default else output

def refuse(tensor):
    raise RuntimeError("nothing may be saved")

def enter_function_mode(model):
    torch.set_default_device("cpu")
    Doubling().__enter__()

def set_value(place, name, value):
    (setattr if hasattr(place, name) else type(place).__setitem__)(place, name, value)

LEAVE = {
    "values": lambda model: next(model.parameters()).data.mul_(2),
    "exchanged values": lambda model: model[0].weight.data.copy_(model[0].weight.data.flip(0)),
    "array": lambda model: np.multiply(array := next(model.parameters()).detach().numpy(), 2, out=array),
    "memory": lambda model: setattr(model[4].weight, "data", 2 * model[4].weight.data),
    "dtype of the model": lambda model: model.half(),
    "buffer": lambda model: model[1].running_mean.data.add_(1),
    "statistics": training_and_back,
    "module": lambda model: setattr(model, "0", nn.Sequential(model[0], nn.ReLU())),
    "order of modules": lambda model: model._modules.move_to_end("0"),
    "forward": lambda model: setattr(model, "forward", lambda x: Net.forward(model, x) * 2),
    "class": lambda model: setattr(model, "__class__", Doubled),
    "function of the class": lambda model: setattr(Net, "forward", lambda self, x: x.mean((2, 3))),
    "attribute": lambda model: setattr(model, "scale", 2.0),
    "entry": lambda model: model.scales.update(all=2.0),
    "tensor": lambda model: model.tensor.mul_(2),
    "early hook": lambda model: model.register_forward_pre_hook(lambda module, inputs: 2 * inputs[0]),
    "hook of all": lambda model: nn.modules.module.register_module_forward_hook(lambda module, inputs, output: 2 * output),
    "parametrisation": lambda model: nn.utils.parametrize.register_parametrization(model[4], "weight", nn.ReLU()),
    "function of torch": lambda model: setattr(nn.functional, "linear", lambda x, weight, bias: 2 * x @ weight.T),
    "dtype": lambda model: torch.set_default_dtype(torch.float64),
    "device": lambda model: torch.set_default_device("meta"),
    "gradients off": lambda model: torch.set_grad_enabled(False),
    "inference": lambda model: torch.inference_mode().__enter__(),
    "function mode": lambda model: Doubling().__enter__(),
    "function mode and device": enter_function_mode,
    "dispatch mode": lambda model: DoublingBelow().__enter__(),
    "saved tensors": lambda model: torch.autograd.graph.saved_tensors_hooks(refuse, refuse).__enter__(),
    "timer": lambda model: signal.setitimer(signal.ITIMER_REAL, 600),
    "autocast": lambda model: torch.set_autocast_enabled("cpu", True),
    "random numbers": lambda model: (torch.rand(1), np.random.rand(), random.random()),
    "seed": lambda model: (torch.manual_seed(3), np.random.seed(3), random.seed(3)),
    "errors of NumPy": lambda model: np.seterr(all="raise"),
    "warnings": lambda model: warnings.simplefilter("error"),
    "folder": lambda model: os.chdir("/"),
    "variable": lambda model: os.environ.update(OF_ANOTHER="1"),
}

@dataclass(frozen=True)
class Sum(Protocol):
    leaves: str = ""
    def measure(self, case):
        if "OF_ANOTHER" in os.environ:
            warnings.warn("said by this protocol")
        score = case.model(case.inputs.clone())[0, 0].requires_grad_()
        row = {"sum": float(case.map.sum()), "score": float(score.detach()), "drawn": float(torch.rand(()))}
        if self.leaves == "inputs":
            case.inputs.mul_(0)
        if self.leaves == "map":
            case.attribution.map.mul_(0)
        if self.leaves == "about":
            case.attribution.about["of"] = "another"
        LEAVE.get(self.leaves, lambda model: None)(case.model)
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
    return Bench(tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore:model 'net' was left with other weights")
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


LEFT = re.findall(r'^    "([a-zA-Z ]+)": ', MODULE, re.MULTILINE)


@pytest.mark.filterwarnings("ignore:model 'net' was left with other weights")
@pytest.mark.parametrize("what", LEFT)
@pytest.mark.parametrize("who", ["method", "protocol"])
def test_the_model_and_the_process_are_set_back(bench, what, who):
    other = f'other = {{ use = "X:{"Method" if who == "method" else "Sum"}", leaves = "{what}" }}'
    before = torch.get_rng_state()
    list(bench.session("alone").work())
    list(bench.session("beside", *((other, "") if who == "method" else ("", other))).work())
    assert len(bench.rows("alone")) == 3
    assert bench.rows("beside") == bench.rows("alone")
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), before)
    assert torch._C._len_torch_function_stack() == torch._C._len_torch_dispatch_stack() == 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_model_that_writes_to_its_input_sees_each_picture_as_it_is(bench):
    """Of two methods, the second is shown the picture that the first was, though the model changes what it is shown."""
    list(bench.session("run", 'other = { use = "X:Method" , leaves = "nothing" }').work())
    values = [[{**json.loads(row), "method": ""} for row in bench.rows("run", method)] for method in ("mine", "other")]
    assert values[0] == values[1]


def test_tensors_that_are_no_weights_tell_models_apart(bench):
    module = importlib.import_module(bench.module)
    one, other, same = module.net(), module.net(), module.net()
    other.net.tensor.mul_(2)
    assert identity(one) == identity(same) != identity(other)


def test_what_is_computed_from_weights_is_no_tensor_of_its_own():
    layer = nn.Linear(3, 3)
    object.__setattr__(layer, "tied", layer.bias)
    layer.doubled = 2 * layer.weight  # as weight normalisation keeps what it computes
    assert plain_tensors(nn.Sequential(layer)) == {}


def test_a_model_that_is_changed_is_named(bench):
    with pytest.warns(UserWarning, match="model 'net' was left with other weights than it had"):
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
