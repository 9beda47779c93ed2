"""A package outside the tree adds a method, a protocol, a data set, a model, a perturbation and a score: one file each."""

import sys
from dataclasses import fields

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.cli import naming
from sfumato.runs.plans.plan import read

FILES = {
    "method.py": '''
r"""Dark: places matter by their value.

A. Nobody, B. Somebody: *A method that is not there*, ICML 2031, arXiv 3101.00001.
"""
from dataclasses import dataclass
import torch
from sfumato import Method
from sfumato.attribution import Attribution
from sfumato.perturbations import Perturbation
from sfumato.settings import later
from extension.perturbation import Halved

@dataclass(frozen=True)
class Dark(Method):
    power: float = 1.0
    perturbation: Perturbation = Halved()
    seed: int = 0
    score: str = later("logit")

    def explain(self, subject, progress):
        _, whole = subject.probe(1.0)
        with subject.surroundings.computing():
            hidden = self.perturbation(subject.inputs)(torch.zeros_like(subject.inputs[:, :1]), subject.query)
            darkness = hidden.mean(1, keepdim=True) ** self.power
        return Attribution(map=darkness, whole=whole, about=self.about(subject))
''',
    "perturbation.py": """
from dataclasses import dataclass

@dataclass(frozen=True)
class Halved:
    share: float = 0.5

    def __call__(self, x):
        return lambda masks, query: x[query] * (self.share + (1 - self.share) * masks)
""",
    "score.py": """
from dataclasses import dataclass
from sfumato.scores import Score

@dataclass(frozen=True)
class First(Score):
    def __call__(self, outputs, query):
        return outputs[:, 0]
""",
    "protocol.py": """
from dataclasses import dataclass
from sfumato.metrics import Measure, Protocol
from sfumato.metrics.statistic import mean

@dataclass(frozen=True)
class Brightest(Protocol):
    def measure(self, case):
        return {"most": float(case.map_of_picture.max())}

    def measures(self, rows):
        return (Measure("most", mean("most")),)
""",
    "pictures.py": """
from dataclasses import dataclass
from pathlib import Path
from sfumato.data import Example, Thing

@dataclass(frozen=True)
class Pair:
    path: str = "."
    classes = ("one", "two")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return Example(str(index), Path(self.path) / f"{index}.png", (Thing(index),))
""",
    "nets.py": """
import torch
from sfumato.models import Classifier, Preparation

def tiny():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return Classifier("tiny", net.eval(), Preparation(size=8, resize=8), ("one", "two"))
""",
}


@pytest.fixture
def extension(tmp_path, monkeypatch):
    folder = tmp_path / "extension"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for index in range(2):
        Image.new("RGB", (8, 8), (60 * index, 90, 30)).save(tmp_path / f"{index}.png")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "extension"]:
        del sys.modules[name]


def test_a_method_has_the_call_the_checks_and_the_about_of_all(extension):
    (method,) = naming.build_methods("extension.method:Dark", {"seed": 3}).values()
    assert method.seed == 3
    x = torch.rand(2, 3, 4, 4)
    result = method(lambda x: x.flatten(1), x, 0)
    torch.testing.assert_close(result.map, x.mean(1, keepdim=True) / 2)
    assert result.about["method"]["class"] == "extension.method:Dark"
    assert result.about["perturbation"]["class"] == "extension.perturbation:Halved"
    with pytest.raises(ValueError, match="score must be one of"):
        type(method)(score="nothing")
    with pytest.raises(ValueError, match="seed must be a whole number; got 'x'"):
        type(method)(seed="x")
    assert not naming.makes_masks(method)
    assert "@inproceedings{nobody2031method," in sfumato.citation(method)


def test_the_smallest_area_is_searched_by_methods_that_say_so(extension):
    """Not by every method that has a setting called areas, which may mean something else by it."""
    source = (extension / "extension" / "method.py").read_text()
    source = source.replace("class Dark", "class Areas").replace(
        "power: float", "areas: tuple = (0.1,)\n    power: float"
    )
    source = source.replace("(Method):", "(Method):\n    makes_masks = True")
    (extension / "extension" / "areas.py").write_text(source)
    arguments = ["--method", "extension.areas:Areas", "--model", "extension.nets:tiny", "--smallest", "0.9"]
    done = CliRunner().invoke(
        cli.app, ["explain", str(extension / "0.png"), *arguments, "--out", str(extension / "out")]
    )
    assert done.exit_code == 2
    assert "--smallest is for one method that makes masks of an area" in done.stderr


def test_a_score_explains(extension):
    from extension.score import First

    x = torch.rand(1, 3, 2, 2)
    map_ = sfumato.Gradient(reduction="sum")(lambda x: x.flatten(1), x, First()).map
    assert map_.flatten().tolist() == [1, 0, 0, 0]


def test_a_plan_names_them_by_their_paths(extension):
    text = f"""
    [models]
    tiny = "extension.nets:tiny"
    [methods]
    dark = {{ use = "extension.method:Dark", perturbation = {{ use = "extension.perturbation:Halved", share = 0.25 }} }}
    [data.pair]
    use = "extension.pictures:Pair"
    path = "{extension}"
    [protocols]
    brightest = {{ use = "extension.protocol:Brightest" }}
    """
    (extension / "plan.toml").write_text(text)
    plan = read(extension / "plan.toml")
    assert plan.methods["dark"].perturbation.share == 0.25
    outcome = CliRunner().invoke(
        cli.app, ["bench", "run", str(extension / "plan.toml"), "--out", str(extension / "run")]
    )
    assert outcome.exit_code == 0, outcome.output
    assert "2 items are done, 2 of them now; 0 failed" in outcome.output


def test_the_command_line_names_them_by_their_paths(extension):
    arguments = ["explain", str(extension / "1.png"), "--model", "extension.nets:tiny", "--target", "one"]
    outcome = CliRunner().invoke(
        cli.app, [*arguments, "--method", "extension.method:Dark", "--out", str(extension / "out")]
    )
    assert outcome.exit_code == 0, outcome.output
    outcome = CliRunner().invoke(cli.app, [*arguments, "--method", "extension.method:Nothing"])
    assert outcome.exit_code == 2
    assert "expected package.module:Name" in " ".join(outcome.output.split())


@pytest.mark.parametrize("name", ["Gradient", "GradCAM", "ContrastiveExcitationBackprop", "RISE", "Centre", "Captum"])
def test_settings_keep_their_order(name):
    """Positional arguments of callers, and the JSON of stored results, hang on it."""
    order = {
        "Gradient": "layer layout reduction smooth resize memory call score",
        "GradCAM": "layer layout smooth resize memory call score",
        "ContrastiveExcitationBackprop": "layer layout contrast_layer smooth resize memory call score",
        "RISE": "samples cells keep draw perturbation batch tolerance smooth seed memory score",
        "Centre": "sigma score",
        "Captum": "name layer arguments channels seed score",
    }
    cls = getattr(sfumato, name)
    assert [entry.name for entry in fields(cls)] == order[name].split()
    assert issubclass(cls, sfumato.Method)
