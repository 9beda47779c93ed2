"""What is said before the first picture: all that is wrong with a plan, and whether one item of each combination works."""

import json
import re
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.runs.checks import models as check_models
from sfumato.runs.checks.check import check_plan
from sfumato.runs.checks.models import device_fault
from sfumato.runs.checks.trial import forecast, trials
from sfumato.runs.execution.session import begin
from sfumato.runs.plans.data_sample import FEW, MANY, DataSample, setting_meant, spread
from sfumato.runs.plans.findings import PlanError, sentence
from sfumato.runs.plans.plan import parse
from sfumato.runs.results.record import Place, read_record
from sfumato.runs.work.workbench import Workbench

SUBJECT = '''
"""Networks of three classes in another order than the data's, and what can be wrong with some."""
from dataclasses import dataclass
from pathlib import Path
import torch
from torch import nn
from sfumato.data import Example, Thing
from sfumato.models import Classifier, Preparation

LOADED = []

class Colours(nn.Module):
    """Says which of red, green and blue there is most of, in an order of its own."""
    def __init__(self, order, more=0):
        super().__init__()
        self.features = nn.Conv2d(3, 3, 1)
        self.features.weight.data = torch.eye(3)[list(order)].view(3, 3, 1, 1)
        self.features.bias.data.zero_()
        self.more = more
    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("expected three colours")
        means = self.features(x).mean((2, 3))
        return torch.cat([means, torch.zeros(len(x), self.more)], 1)

def classifier(labels, order=(0, 1, 2), layers=True, more=0):
    LOADED.append(labels)
    preparation = Preparation(size=8, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Classifier("net", Colours(order, more).eval(), preparation, labels, {"GradCAM": "features"} if layers else {})

def net(): return classifier(("green", "red", "blue"), (1, 0, 2))
def same(): return classifier(("red", "green", "blue"))
def other(): return classifier(("green", "red", "azure"), (1, 0, 2))
def unlayered(): return classifier(("red", "green", "blue"), layers=False)
def numbered(): return classifier(("class 0", "class 1", "class 2"))
def four(): return classifier(("red", "green", "blue"), more=1)
def broken(): raise RuntimeError("there are no weights")
def ends(): raise SystemExit(3)

class Grey(Colours):
    def forward(self, x): return super().forward(x.mean(1, keepdim=True))

def grey():
    plain = classifier(("red", "green", "blue"))
    return Classifier("grey", Grey((0, 1, 2)).eval(), plain.preparation, plain.labels)

def single():
    class Single(nn.Module):
        def forward(self, x): return x.mean((1, 2, 3))[:, None]
    return Classifier("single", Single().eval(), Preparation(size=8, resize=None), ("red", "green"))

@dataclass(frozen=True)
class Squares:
    """Pictures of one colour, which are boxed, or only some of which are."""
    path: str
    count: int = 6
    boxed: int = 1000000
    classes = ("red", "green", "blue")
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        box = (2, 2, 10, 10) if index < self.boxed else None
        return Example(f"picture-{index}", Path(self.path) / f"{index % 6}.png", (Thing(index % 3, box),))

@dataclass(frozen=True)
class Faulty(Squares):
    def __getitem__(self, index):
        raise KeyError("no such row")
'''

PLAN = """
[models]
net = "{module}:net"

[methods]
gradient = "Gradient"
grad-cam = "GradCAM"

[data.squares]
use = "{module}:Squares"
path = "pictures"

[protocols]
pointing = {{ use = "PointingGame", tolerance = 2 }}
accuracy = {{ use = "Accuracy", methods = ["gradient"] }}
"""


@pytest.fixture
def subject(tmp_path, monkeypatch):
    """The folder of a plan, its pictures and its module, whose name is new each time."""
    name = f"checked_{tmp_path.name.replace('-', '_')}_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(SUBJECT)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pictures").mkdir()
    for index in range(6):
        values = np.full((12, 12, 3), 60, np.uint8)
        values[2:10, 2:10, index % 3] = 250
        Image.fromarray(values).save(tmp_path / f"pictures/{index}.png")
    torch.save({"head.weight": torch.zeros(2)}, tmp_path / "other.pth")
    return SimpleNamespace(folder=tmp_path, module=name)


def planned(subject, *changes):
    """The plan, with texts in it changed."""
    text = PLAN.format(module=subject.module)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new.format(module=subject.module))
    return parse(text, subject.folder, "plan.toml")


def findings_of(plan, **options):
    """What is wrong with a plan, and what should be known."""
    findings = check_plan(plan, Workbench(plan), **options)
    return [sentence(plan, fault) for fault in findings.faults], [sentence(plan, note) for note in findings.notes]


def test_nothing_is_wrong_with_a_plan_that_works(subject):
    assert findings_of(planned(subject)) == ([], [])


def squares(line):
    """The change of a plan that gives its data set one more setting."""
    return 'path = "pictures"', f'path = "pictures"\n{line}'


def extra(model):
    """The change of a plan that gives it one more model."""
    return "net = ", f"extra = {model}\nnet = "


NO_BOXES = squares("boxed = 0")
PREDICTED = squares('targets = "predicted"')


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([extra('"{module}:broken"')], r"line 3, models.extra: .*RuntimeError: there are no weights"),
        ([extra('"{module}:ends"')], r"line 3, models.extra: .*SystemExit: 3"),
        ([extra('"{module}:nett"')], r"models.extra: .*no function 'nett'; did you mean net\?"),
        ([extra('"lite1"')], r"line 3, models.extra: .*no model 'lite1'; did you mean lite0"),
        ([extra('"torchvison:x"')], r"models.extra: .*'torchvison'.*; did you mean torchvision\?"),
        ([extra('"{module}:grey"')], r"models.extra: .*fails on an empty .*expected three colours"),
        (
            [extra('{{ use = "{module}:net", checkpoint = "picturs" }}')],
            r"line 3, models.extra.checkpoint: no checkpoint '.*picturs'; did you mean pictures",
        ),
        (
            [extra('{{ use = "{module}:net", checkpoint = "other.pth" }}')],
            r"line 3, models.extra.checkpoint: .*does not fit Colours: .*head.weight is not in the model",
        ),
        (
            [extra('{{ use = "{module}:net", labels = "names.txt" }}')],
            r"line 3, models.extra.labels: .*cannot read the class names in '.*names.txt'",
        ),
        (
            [extra('{{ use = "{module}:net", labels = ["one"] }}')],
            r"line 3, models.extra: .*labels has 1 names, but the model has \d+ classes",
        ),
        ([(":net", ":unlayered")], r'line 7, methods.grad-cam: .*\n  \[methods\]\n  grad-cam = { use = "GradCAM", lay'),
        ([('"GradCAM"', '{{ use = "GradCAM", layer = "feature" }}')], r"line 7, methods.grad-cam.layer: .*'features'"),
        (
            [('"GradCAM"', '{{ use = "ContrastiveExcitationBackprop", contrast_layer = "heat" }}')],
            r"line 7, methods.grad-cam.contrast_layer: .*no layer 'heat'",
        ),
        (
            [('"GradCAM"', '{{ use = "Captum", name = "LayerGradCam" }}')],
            r"line 7, methods.grad-cam: .*looks into a layer|captum, which is not installed",
        ),
        ([NO_BOXES], r"line 9, data.squares.protocols: PointingGame needs .* 6 examples have neither boxes nor masks; leave"),
        ([PREDICTED], r'line 12, data.squares.targets: PointingGame needs .*; write targets = "present"'),
        (
            [("tolerance = 2", 'ground = "segmentation"')],
            r'data.squares.protocols: .* by a segmentation, and its 6 examples have boxes only; write ground = "boxes"',
        ),
        ([('path = "pictures"', 'path = "picture"')], r"line 11, data.squares.path: .*none of the pictures .* is there"),
        ([("Squares", "Faulty")], r"line 9, data.squares: .*fails: KeyError: 'no such row'"),
        ([squares('count = 0')], r"data.squares: data set 'squares' has no pictures"),
        ([("[models]", 'device = "cuda:99"\n[models]')], r"line 2, device: there is no device 'cuda:99'"),
        ([("[models]", 'device = "cdua"\n[models]')], r"line 2, device: torch knows no device 'cdua'; did you mean cuda"),
        (
            [squares('methods = ["grad-cam"]')],
            r"line 16, protocols.accuracy: .*it judges 'gradient', and data set 'squares' has none of these",
        ),
        (
            [squares('methods = ["grad-cam"]\nprotocols = ["accuracy"]')],
            r"line 9, data.squares: nothing is done with data set 'squares'",
        ),
        ([(":net", ":other")], r'data.squares.classes: .*\'blue\' fits none.*\n  \[data.squares.classes\]\n  blue = "azure"'),
        ([(":net", ":four")], r"data.squares.classes: .*4 outputs and 3 labels"),
        ([squares('classes = {{ bleu = 2 }}')], r"line 12, data.squares.classes.bleu: .*no class 'bleu'; did you mean blue"),
        (
            [(":net", ":single"), ("[data", '[data.squares.classes]\nblue = 0\n[data'), ('"GradCAM"', '"RISE"')],
            r"line 6, methods.gradient.score: .*score = 'logit'.*write targets=-Logit\(0\)",
        ),
        (
            [
                ("net = ", 'same = "{module}:same"\nnet = '),
                ('accuracy = { use = "Accuracy"', 'agreement = {{ use = "Agreement", others = ["same"]'),
                squares('models = ["net"]'),
            ],
            r"protocols.agreement.others: Agreement asks 'net' and 'same' .*'green' is output 0 of the one and 1 of the other",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_first_picture(subject, changes, said):
    plan = planned(subject, *changes)
    faults, _ = findings_of(plan)
    assert any(re.search(said, fault) for fault in faults), faults
    with pytest.raises(PlanError, match=said):
        begin(plan, Place(subject.folder / "run"))
    assert not (subject.folder / "run").exists()


def test_all_is_said_at_once(subject):
    plan = planned(
        subject,
        (
            "[models]",
            'device = "mps:7"\n[models]\nextra = "{module}:broken"\nmore = "lite1"\nbare = "{module}:unlayered"',
        ),
        NO_BOXES,
    )
    faults, _ = findings_of(plan)
    keys = [fault.split(":")[0].split(", ")[-1] for fault in faults]
    assert {"device", "models.extra", "models.more", "data.squares.protocols", "methods.grad-cam"} <= set(keys)


def test_classes_are_explained_as_what_they_are_called(subject):
    """The network names the same classes in another order: red pictures are explained as red."""
    plan = planned(subject)
    session = begin(plan, Place(subject.folder / "run"))
    list(session.work())
    with session.place.store() as store:
        rows = [each.row for each in store.done() if each.row and "rank" in each.row]
    notes = read_record(Place(subject.folder / "run")).said["classes"]
    assert len(rows) == 6
    assert all(row["rank"] == 1 for row in rows)  # each picture's class comes first
    assert json.loads(json.dumps(notes)) == notes
    assert [note["indices"] for note in notes] == [[1, 0, 2]]


def test_another_mapping_is_another_item(subject):
    """The network calls blue azure; what the plan says of that is a part of the items' keys."""
    azure = planned(subject, (":net", ":other"), squares('classes = {{ blue = "azure" }}'))
    wrong = planned(subject, (":net", ":other"), squares('classes = "in order"'))
    session = begin(azure, Place(subject.folder / "run"))
    list(session.work())
    other = begin(wrong, Place(subject.folder / "run"))
    with other.place.store() as store:
        assert other.left(store) == other.total


@pytest.mark.parametrize(
    ("labels", "others", "wrong"),
    [
        (["cat", "dog"], ["cat, house cat", "Dog"], ""),
        (["cat", "dog"], ["class 0", "class 1"], ""),  # nothing is known of it
        (["class 1", "class 0"], ["class 0", "class 1"], ""),
        (["cat", "swimsuit"], ["cat", "maillot"], ""),  # maybe another name for the same
        (["crane", "hen", "crane"], ["crane", "hen", "crane"], ""),
        (["cat", "dog"], ["dog", "cat"], "'cat' is output 0 of the one and 1 of the other"),
        (["cat", "dog"], ["cat", "dog", "cow"], "they have 2 and 3 outputs"),
    ],
)
def test_networks_are_compared_at_outputs_of_the_same_class(labels, others, wrong):
    assert check_models.unlike(len(labels), labels, len(others), others) == wrong


def test_a_data_set_that_is_known_already_is_not_read_again(subject):
    plan = planned(subject, ("Squares", "Faulty"))
    assert findings_of(plan, unread={"squares"}) == ([], [])


def test_some_that_are_missing_are_noted_and_stop_nothing(subject):
    (subject.folder / "pictures/3.png").unlink()
    faults, notes = findings_of(planned(subject, squares("boxed = 1")))
    assert faults == []
    assert any("of 6 pictures looked at, 1 are missing" in note for note in notes)


def test_what_is_in_order_is_noted(subject):
    faults, notes = findings_of(planned(subject, (":net", ":numbered")))
    assert faults == []
    assert any("squares → net: 3 of 3 classes in order" in note for note in notes)


def test_what_nothing_is_done_with_is_noted(subject):
    changes = [
        ("net = ", 'same = "{module}:same"\nnet = '),
        squares('models = ["net"]\nprotocols = ["pointing"]'),
    ]
    faults, notes = findings_of(planned(subject, *changes))
    assert faults == []
    assert any("line 3, models.same: nothing is done with it" in note for note in notes)
    assert any("protocols.accuracy: nothing is done with it" in note for note in notes)


def test_of_a_large_data_set_few_examples_are_looked_at(subject, monkeypatch):
    plan = planned(subject, squares("count = 100000"))
    data = plan.data["squares"].data
    asked = []
    original = type(data).__getitem__
    monkeypatch.setattr(type(data), "__getitem__", lambda self, index: asked.append(index) or original(self, index))
    assert findings_of(plan) == ([], [])
    assert {0, 99999} < set(asked)
    assert len(asked) <= FEW
    asked.clear()
    plan = planned(subject, squares("count = 100000\nboxed = 0"))
    faults, _ = findings_of(plan)
    assert "1032 examples looked at" in faults[0] or "1030 examples looked at" in faults[0]
    assert len(asked) <= FEW + MANY


def test_a_few_places_are_spread_over_all():
    assert spread(0, 5) == []
    assert spread(5, 5) == [0, 1, 2, 3, 4]
    assert spread(1_000_001, 5) == [0, 250_000, 500_000, 750_000, 1_000_000]


def test_examples_that_cannot_be_read_are_told_from_others(subject):
    plan = planned(subject)
    sample = DataSample(plan.data["squares"].data)
    assert sample.queries == 6
    assert sample.complete
    assert setting_meant(plan.data["squares"].data, f"no {subject.folder / 'pictures'}") == ("path",)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "gpu", "cpu:x", "meta", ""])
def test_devices_that_are_not_there_are_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert repr(device) in device_fault(device)


def test_a_gpu_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert 'torch sees 2 GPUs here; write device = "cuda:1"' in device_fault("cuda:2")


def test_a_cluster_gives_its_workers_devices(subject, monkeypatch):
    monkeypatch.setattr(check_models, "device_fault", lambda _: "")
    plan = replace(planned(subject), device="cuda")
    faults, _ = findings_of(plan, on_cluster=True)
    assert any("workers are given none; say how many under [ray]" in fault for fault in faults)


def test_one_item_of_each_combination_is_tried(subject):
    plan = planned(subject)
    findings = check_plan(plan, bench := Workbench(plan))
    tried = list(trials(findings, bench))
    assert [(each.data, each.model, each.method, each.protocol) for each in tried] == [
        ("squares", "net", "gradient", "pointing"),
        ("squares", "net", "gradient", "accuracy"),
        ("squares", "net", "grad-cam", "pointing"),
    ]
    assert all(not each.reason and each.seconds > 0 for each in tried)
    assert tried[1].explaining == 0  # by the same explanation
    work = forecast(findings, tried)
    assert (work.items, work.queries, work.exact) == (18, 6, True)
    assert work.seconds == pytest.approx(6 * sum(each.seconds for each in tried))
    many = forecast(findings, tried, workers=10**6)
    assert work.seconds / 10**6 < many.seconds < work.seconds or many.seconds == work.seconds  # of so many processors


def test_an_item_is_of_a_class_that_is_located_where_any_is(subject):
    plan = planned(subject, squares("count = 3\nboxed = 1"))
    (subject.folder / "pictures/1.png").write_bytes(b"no picture")
    findings = check_plan(plan, bench := Workbench(plan))
    assert all(not each.reason for each in trials(findings, bench))


def test_a_trial_that_fails_says_why_and_the_others_go_on(subject):
    plan = planned(subject, ('"GradCAM"', '{{ use = "ExtremalChannels", layer = "features", counts = [50] }}'))
    findings = check_plan(plan, bench := Workbench(plan))
    tried = {each.method: each.reason for each in trials(findings, bench)}
    assert tried["gradient"] == ""
    assert "has 3 channels" in tried["grad-cam"]
    assert "picture-0" in tried["grad-cam"]


JUDGE = '''
"""A protocol that names its measures by its settings."""
from dataclasses import dataclass
from sfumato.metrics.estimate import Measure, mean
from sfumato.metrics.protocol import Protocol

@dataclass(frozen=True)
class Judge(Protocol):
    column: str = "brightness"
    sometimes: str = ""
    names: int = 1

    def measure(self, case):
        row = {"brightness": float(case.inputs.mean()), "colour": "red"}
        return row | ({self.sometimes: 1.0} if case.picture != "picture-0" and self.sometimes else {})

    def measures(self, rows):
        return [Measure("mean", mean(self.column))] * self.names
'''


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("", None),
        (
            ', column = "brigthness"',
            r"\(KeyError: 'brigthness'\).*its rows have label, brightness, colour; did you mean bright",
        ),
        (', column = "seen"', r"\(KeyError: 'seen'\).*its rows have label, brightness, colour$"),
        (', column = "colour"', r"\(ValueError: could not convert string to float"),
        (', column = "seen", sometimes = "seen"', None),  # the first row lacks it, and others have it
        (", names = 2", "several measures have one name: mean, mean"),
    ],
)
def test_a_trial_sums_up_its_row(subject, settings, said):
    """What a protocol's `measures` name wrongly is told before the run, and not by its table."""
    (subject.folder / f"judge_{subject.module}.py").write_text(JUDGE)
    judge = f'judge = {{ use = "judge_{subject.module}:Judge"{settings} }}\npointing = '
    plan = planned(subject, ("pointing = ", judge.replace("{", "{{").replace("}", "}}")))
    findings = check_plan(plan, bench := Workbench(plan))
    tried = {each.protocol: each.reason for each in trials(findings, bench) if each.method == "gradient"}
    assert tried["pointing"] == tried["accuracy"] == ""
    if said is None:
        assert tried["judge"] == ""
    else:
        assert tried["judge"].startswith("protocol 'judge' cannot say what its rows of 'gradient' come down to (")
        assert re.search(said, tried["judge"]), tried["judge"]


def typed(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)], env={"COLUMNS": "160"})


def written(subject, *changes):
    plan = planned(subject, *changes)
    (subject.folder / "plan.toml").write_text(plan.text)
    return subject.folder / "plan.toml"


def test_the_command_that_checks_writes_nothing(subject):
    path = written(subject)
    before = sorted(subject.folder.rglob("*.[!p]*"))
    ended = typed("check", path, "--workers", 2)
    assert ended.exit_code == 0, ended.output
    assert "squares → net: 3 of 3 classes by name" in ended.output
    assert ended.output.count(" ok ") == 3
    assert "The run has 18 items of 6 queries. It takes about " in ended.output
    assert "with 2 workers" in ended.output
    assert [each for each in sorted(subject.folder.rglob("*.[!p]*")) if "__pycache__" not in each.parts] == before
    assert len(sys.modules[subject.module].LOADED) == 1  # the model is loaded once


def test_the_command_that_checks_says_what_does_not_work(subject):
    path = written(subject, ("net = ", 'bare = "{module}:unlayered"\nnet = '))
    ended = typed("check", path)
    assert ended.exit_code == 1
    assert (
        "plan.toml, line 8, methods.grad-cam: GradCAM looks into a layer, and model 'bare' names none" in ended.output
    )
    assert "1 of 6 combinations do not work, of which 1 were not tried" in ended.output
    assert ended.output.count(" ok ") == 5
    assert typed("check", subject.folder / "nowhere.toml").exit_code == 2


def test_a_run_that_cannot_work_is_not_begun(subject):
    path = written(subject, ("net = ", 'bare = "{module}:unlayered"\nmore = "lite1"\nnet = '))
    ended = typed("run", path, "--out", subject.folder / "run")
    assert ended.exit_code == 2
    assert f"{path}, line 9, methods.grad-cam: GradCAM" in ended.output
    assert f"{path}, line 4, models.more: " in ended.output
    assert '\n  grad-cam = { use = "GradCAM", layer = "features" }\n' in ended.output  # to be copied
    assert "the run did not start: correct the plan, and try it with: sfumato bench check" in ended.output
    assert not (subject.folder / "run").exists()


def test_a_run_that_goes_on_is_checked_too(subject):
    begin(planned(subject), Place(subject.folder / "run"))  # and broken off
    for picture in (subject.folder / "pictures").iterdir():
        picture.unlink()
    ended = typed("resume", subject.folder / "run")
    assert ended.exit_code == 2
    assert "the run's plan, line 11, data.squares.path: data set 'squares': none of the pictures" in ended.output


def test_the_status_says_how_classes_are_mapped_and_groups_failures_by_cause(subject):
    path = written(subject, squares('classes = {{ red = "red" }}'))
    for index in (0, 1, 4):
        (subject.folder / f"pictures/{index}.png").write_bytes(b"no picture")
    assert typed("run", path, "--out", subject.folder / "run").exit_code == 1
    status = typed("status", subject.folder / "run").output
    assert "squares → net: 2 of 3 classes by name, 1 as the plan says (red is 'red')" in status
    assert "18 of 18 items are done, of which 9 failed" in status
    causes = [line for line in status.splitlines() if line.startswith("  ")]
    assert len(causes) == 1  # not one a picture
    assert causes[0].startswith("  9 × ")
    assert causes[0].endswith("(e.g. picture-0)")
