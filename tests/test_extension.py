"""A package outside the tree adds a method, a protocol, a data set, a model, a perturbation and a score: one file each."""

from dataclasses import dataclass, fields
from functools import partial

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.attribution import Attribution
from sfumato.cli import naming
from sfumato.model.backward.rule import RectifierRule
from sfumato.runs.plans.plan import read
from sfumato.search import ProjectedAscent
from sfumato.search.loop import climb

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
    return tmp_path


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


INPUTS = torch.linspace(0, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
RAMP = torch.arange(1.0, 9.0).expand(8, 8)


def weighed(x):
    """Two outputs `(N, 2)` for pictures `(N, 3, 8, 8)`."""
    return torch.stack([(x * RAMP).sum((1, 2, 3)), x.sum((1, 2, 3))], 1)


@dataclass(frozen=True)
class Columns:
    """Masks of whole columns."""

    def on(self, shape, device=None):
        return LaidColumns(self, shape)


class LaidColumns:
    everything = torch.ones(1)

    def __init__(self, family, shape):
        self.family, self.shape, self.size, self.finest = family, shape, (shape[-1],), 1 / shape[-1]

    def check(self, areas):
        pass

    def nodes(self, parameters):
        return parameters

    def masks(self, nodes):
        return nodes[:, :, None, :].expand(-1, 1, *self.shape)

    def areas(self, nodes):
        return nodes.mean((1, 2))

    def __call__(self, parameters):
        return self.masks(self.nodes(parameters))


@dataclass(frozen=True)
class OwnAscent:
    """An ascent with a rule of the step of its own."""

    def __call__(self, problem, steps, warm=None):
        def rule(parameters, gradient, state, progress):
            return parameters + 0.1 * gradient / gradient.abs().amax(), state

        areas = problem.areas.flatten()
        start = problem.exactly(problem.start() if warm is None else warm, areas)
        return climb(
            lambda parameters, _: problem.look(parameters, areas),
            start,
            steps,
            rule,
            lambda parameters, _: problem.exactly(parameters, areas),
        )


def extremal(**settings):
    return sfumato.ExtremalPerturbation(**{"areas": (0.25,), "steps": 100, "jitter": None, **settings})


def test_a_family_of_masks_and_an_ascent_with_a_rule_of_its_own_find_the_best_columns():
    """The weights of a row grow to the right, so the last two of eight columns keep most."""
    result = extremal(mask=Columns(), ascent=OwnAscent(), perturbation=sfumato.Fade())(weighed, 1 + 0 * INPUTS, 0)
    best = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]).expand(2, 1, 1, 8, 8)
    # The steps end in this corner; the area is held to 1e-5, which is 8e-5 of one column.
    torch.testing.assert_close(result.masks, best.float(), atol=1e-3, rtol=0)
    assert result.about["mask"]["class"].endswith(":Columns")


@dataclass(frozen=True)
class SignRule:
    """Every parameter moves as far as any other."""

    rate: float = 0.1

    def __call__(self, parameters, gradient, state, progress):
        assert state is None
        assert 0 <= progress < 1
        return parameters + self.rate * gradient.sign(), state


@pytest.mark.parametrize("ascent", [ProjectedAscent, sfumato.EvolutionAscent])
def test_an_ascent_takes_a_rule_of_the_step(ascent):
    settings = {"mask": Columns(), "perturbation": sfumato.Fade(), "steps": 40}
    result = extremal(**settings, ascent=ascent(rule=SignRule(0.07)))(weighed, INPUTS, 0)
    assert result.about["method"]["ascent"]["rule"] == {"class": f"{__name__}:SignRule", "rate": 0.07}
    assert not torch.equal(result.masks, extremal(**settings, ascent=ascent())(weighed, INPUTS, 0).masks)


def test_the_rule_of_a_level_set_ascent_leads_all_of_its_steps():
    """At rate 0 nothing moves, neither in the restarts nor in the last run: the set is that of the flat start."""

    def map_of(rate):
        ascent = sfumato.LevelSetAscent(rule=SignRule(rate), pruning=None, windows=None)
        settings = {"areas": (0.25,), "steps": 100, "ascent": ascent}
        return sfumato.ExtremalPerturbation(**settings)(weighed, INPUTS[:1], 0)

    still, moved = map_of(1e-9), map_of(0.05)
    assert still.agreement.item() == 1
    assert moved.scores.item() > still.scores.item()


@pytest.mark.parametrize("rule", [SignRule, 0.1])
def test_a_wrong_rule_of_the_step_is_refused(rule):
    with pytest.raises(ValueError, match="rule must be a rule of the step"):
        ProjectedAscent(rule=rule)


def test_a_backward_rule_of_its_own_makes_a_method():
    @dataclass(frozen=True)
    class Leaky(RectifierRule):
        def transform(self, signal):
            return torch.where(signal > 0, signal, 0.5 * signal)

    @dataclass(frozen=True)
    class LeakyBackprop(sfumato.LayerMethod):
        rules = Leaky()

        def read(self, activation, gradient):
            return gradient.sum(1, keepdim=True)

    net = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(2, 1, bias=False))
    net[2].weight.data = torch.tensor([[2.0, -2.0]])
    result = LeakyBackprop()(net, torch.ones(1, 1, 2), 0)
    assert result.map.flatten().tolist() == [2, -1]


class Explains(sfumato.Method):
    def explain(self, subject, progress):
        return self.result(subject)


def test_a_method_that_returns_something_else_is_told_what_to_return():
    def made(name, result):
        return dataclass(frozen=True)(type(name, (Explains,), {"result": result}))()

    nothing = made("Forgets", lambda self, subject: None)
    with pytest.raises(ValueError, match=r"Forgets.explain must return an Attribution; got NoneType"):
        nothing(weighed, INPUTS, 0)

    def of_channels(self, subject):
        result = Attribution(map=subject.inputs[:, :1])
        vars(result)["map"] = subject.inputs  # the tests' checks of shapes would refuse it before
        return result

    channels = made("Channels", of_channels)
    with pytest.raises(ValueError, match=r"one map for each input, of the shape \(2, 1, …\); got \(2, 3, 8, 8\)"):
        channels(weighed, INPUTS, 0)
    one = made("One", lambda self, subject: Attribution(map=subject.inputs[:1, :1]))
    with pytest.raises(ValueError, match=r"of the shape \(2, 1, …\); got \(1, 1, 8, 8\)"):
        one(weighed, INPUTS, 0)


@pytest.mark.parametrize("axis", [{}, {"keepdim": True}])
def test_a_map_of_a_layer_of_a_wrong_shape_is_refused(axis):
    @dataclass(frozen=True)
    class Reads(sfumato.LayerMethod):
        def read(self, activation, gradient):
            return gradient.sum(1) if not axis else gradient

    got = r"\(1, 3, 8, 8\)" if axis else r"\(1, 8, 8\)"
    with pytest.raises(ValueError, match=rf"Reads.read must return a map of the shape \(1, 1, 8, 8\); got {got}"):
        Reads()(weighed, INPUTS[:1], 0)


def test_a_score_without_a_call_and_a_class_for_a_score_are_refused():
    class Forgets(sfumato.Score):
        pass

    with pytest.raises(TypeError, match="abstract method '?__call__"):
        Forgets()
    with pytest.raises(ValueError, match=r"targets must be a score, e.g. Logit\(…\), not its class"):
        sfumato.Gradient()(weighed, INPUTS, sfumato.Logit)


def test_a_protocol_without_its_members_is_refused():
    class Forgets(sfumato.metrics.Protocol):
        def measure(self, case):
            return {}

    with pytest.raises(TypeError, match="abstract method '?measures"):
        Forgets()


@pytest.mark.parametrize(
    "method", [extremal, partial(sfumato.RISE, samples=4), partial(sfumato.MeaningfulPerturbation, steps=2)]
)
def test_a_wrong_perturbation_is_told_what_it_has_to_be(method):
    with pytest.raises(ValueError, match=r"perturbation must be .*; got <class"):
        method(perturbation=sfumato.Blur)
    with pytest.raises(ValueError, match="must return a function of masks and queries; got Tensor"):
        method(perturbation=lambda x: x)(weighed, INPUTS, 0)
    mean = method(perturbation=lambda x: lambda masks, query: (x[query] * masks).mean(1, keepdim=True))
    with pytest.raises(ValueError, match=r"must give inputs of the shape \(\d+, 3, 8, 8\) .*; got \(\d+, 1, 8, 8\)"):
        mean(weighed, INPUTS, 0)


def test_rise_takes_one_perturbation():
    with pytest.raises(ValueError, match="RISE hides places with one perturbation"):
        sfumato.RISE(perturbation=(sfumato.Blur(), sfumato.Fade()))


def test_a_wrong_family_of_masks_is_told_what_it_lacks():
    class Empty:
        def on(self, shape, device=None):
            return object()

    with pytest.raises(ValueError, match=r"Empty.on must return .*; object has no size, finest, .*__call__"):
        extremal(mask=Empty())(weighed, INPUTS, 0)
    with pytest.raises(ValueError, match="a Columns lies over the input only, as it has no for_shape and divided"):
        extremal(mask=Columns(), layer="0")
    with pytest.raises(ValueError, match="mask must be a GridMask"):
        sfumato.MeaningfulPerturbation(mask=Columns())
    with pytest.raises(ValueError, match=r"sets have no gradient; climb on ramps"):
        extremal(mask=sfumato.LevelSet(), ascent=OwnAscent())(weighed, INPUTS, 0)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (lambda: None, "function must return an iterator of steps, .*; got NoneType"),
        (lambda: iter([1]), "function must yield objects of sfumato.search.loop.Step; got int"),
        (lambda: iter([]), "function made no step; it must yield at least one"),
    ],
)
def test_a_wrong_ascent_is_told_what_it_has_to_give(steps, message):
    with pytest.raises(ValueError, match=message):
        extremal(ascent=lambda problem, count, warm=None: steps())(weighed, INPUTS, 0)


def test_the_command_line_says_what_a_method_lacks(extension):
    (extension / "extension" / "lacks.py").write_text(
        "from dataclasses import dataclass\nimport sfumato\n"
        "@dataclass(frozen=True)\nclass Lacks(sfumato.Method):\n    power: float = 1.0\n"
    )
    with pytest.raises(ValueError, match="method 'extension.lacks:Lacks' does not define explain"):
        naming.build_methods("extension.lacks:Lacks", {})


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
