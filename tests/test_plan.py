"""Plans: what a TOML file means, and what is said of one that means nothing."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import sfumato
from sfumato.cli import naming
from sfumato.metrics import Accuracy
from sfumato.runs.plans import plan as plan_module
from sfumato.runs.plans.catalogue import make_method, method_classes
from sfumato.runs.plans.cluster import Cluster
from sfumato.runs.plans.plan import parse, read
from sfumato.search import Momentum, ProjectedAscent

PLAN = """
batch = 2

[models]
lite0 = "lite0"
mine = { use = "my_package.nets:resnet", checkpoint = "weights.pth" }

[methods]
gradient = "Gradient"
extremal = { use = "ExtremalPerturbation", areas = [0.1, 0.2], perturbation = { use = "Blur", max_sigma = 10 } }

[data.pictures]
use = "Folder"
path = "pictures"

[data.others]
use = "Folder"
path = "$ELSEWHERE/pictures"
models = ["mine"]
methods = ["gradient"]
targets = "predicted"

[protocols]
accuracy = { use = "accuracy", methods = ["gradient"] }
pointing = { use = "PointingGame", tolerance = 5 }
"""


class Nameless:
    """A data set without classes and length."""

    def __init__(self, path):
        self.path = path

    def __getitem__(self, index):
        raise NotImplementedError


class Unread(Nameless):
    """A data set whose class names cannot be read yet: a plan can be read all the same."""

    @property
    def classes(self):
        raise ValueError("its file is missing")

    def __len__(self):
        return 0


@pytest.fixture
def plan(monkeypatch, tmp_path):
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    (tmp_path / "plan.toml").write_text(PLAN)
    return read(tmp_path / "plan.toml")


@pytest.mark.parametrize(("text", "labels"), [('"classes.txt"', "classes.txt"), ('["cat", "dog"]', ("cat", "dog"))])
def test_a_model_with_names_of_its_classes(tmp_path, text, labels):
    changed = PLAN.replace('checkpoint = "weights.pth"', f"labels = {text}")
    expected = tmp_path / labels if isinstance(labels, str) else labels
    assert parse(changed.replace("$ELSEWHERE", "elsewhere"), tmp_path).models["mine"].labels == expected


def test_entries_become_configurations(plan, tmp_path):
    assert plan.batch == 2
    assert plan.models["mine"].checkpoint == tmp_path / "weights.pth"
    assert plan.models["mine"].labels is None
    assert plan.methods["extremal"] == sfumato.ExtremalPerturbation(
        areas=(0.1, 0.2), perturbation=sfumato.Blur(max_sigma=10)
    )
    assert plan.protocols["accuracy"].protocol == Accuracy()
    assert plan.data["pictures"].data.path == str(tmp_path / "pictures")
    assert plan.data["others"].data.path == "/elsewhere/pictures"


def test_a_plan_is_read_without_its_data(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_data", SimpleNamespace(Unread=Unread))
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    assert isinstance(parse(PLAN.replace('"Folder"', '"own_data:Unread"'), Path()).data["others"].data, Unread)


def test_methods_have_the_names_of_the_command_line_too():
    for name, cls in method_classes().items():
        if name != "captum:NAME":
            for spec in (name, cls.__name__, {"use": name}):
                assert make_method(spec, ("methods", "mine")) == cls()
            assert make_method({}, ("methods", name)) == cls()
            assert naming.build_methods(cls.__name__, {}) == {cls.__name__: cls()}
    assert make_method({"use": "extremal", "steps": 3}, ("methods", "mine")) == sfumato.ExtremalPerturbation(steps=3)


def test_methods_of_captum_have_the_names_of_the_command_line_too():
    pytest.importorskip("captum", reason="captum is not installed")
    for spec in ("captum:Saliency", {"use": "captum:Saliency"}, {"use": "Captum", "name": "Saliency"}):
        assert make_method(spec, ("methods", "mine")) == sfumato.Captum("Saliency")


def test_a_setting_names_an_ascent_and_the_rule_of_its_steps():
    ascent = '{ use = "ProjectedAscent", rule = { use = "Momentum", rate = 0.1, momentum = 0.5 } }'
    text = f'{{ use = "ExtremalPerturbation", mask = {{ use = "SmoothMask" }}, ascent = {ascent} }}'
    plan = parse(PLAN.replace('"Gradient"', text).replace("$ELSEWHERE", ""), Path())
    assert plan.methods["gradient"].ascent == ProjectedAscent(rule=Momentum(0.1, 0.5))


def test_combinations_are_those_that_go_together(plan):
    assert [tuple(each) for each in plan.combinations()] == [
        ("pictures", "lite0", "gradient", ("accuracy", "pointing")),
        ("pictures", "lite0", "extremal", ("pointing",)),
        ("pictures", "mine", "gradient", ("accuracy", "pointing")),
        ("pictures", "mine", "extremal", ("pointing",)),
        ("others", "mine", "gradient", ("accuracy", "pointing")),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("areas = ", "aeras = "), r"line 10, methods.extremal.aeras: .*no setting 'aeras'; did you mean areas"),
        (("max_sigma", "max_sgima"), r"line 10, methods.extremal.perturbation.max_sgima: .*did you mean max_sigma"),
        (("0.1, 0.2", "10, 20"), r"line 10, methods.extremal: areas must lie in \(0, 1\); got 10. Did you mean 0.1"),
        (('"Gradient"', '"Gradeint"'), r"line 9, methods.gradient: no method 'Gradeint'; did you mean Gradient"),
        (("[protocols]", "[protokols]"), r"line 23, protokols: a plan has no 'protokols'; did you mean protocols"),
        (('models = ["mine"]', 'models = ["mien"]'), r"line 19, data.others.models: .*no 'mien'.* did you mean mine"),
        (('"predicted"', '"guessed"'), r"line 21, data.others.targets: targets are 'present' or 'predicted'"),
        (("batch = 2", "batch = 0"), r"line 2, batch: batch is a number of queries, at least 1; got 0"),
        (("batch = 2", "batch = 1.5"), r"line 2, batch: batch must be a whole number; got 1.5"),
        (("tolerance = 5", "tolerance = -5"), r"line 25, protocols.pointing: tolerance"),
        (("$ELSEWHERE", "$NOWHERE_AT_ALL"), r"line 18, data.others.path: .*no variable 'NOWHERE_AT_ALL'"),
        (
            ('use = "Folder"\npath = "pic', 'use = "Floder"\npath = "pic'),
            r"line 13, data.pictures.use: no data set 'Floder'",
        ),
        (("checkpoint", "chekpoint"), r"line 6, models.mine.chekpoint: .*did you mean checkpoint"),
        (('"weights.pth"', '"w.pth", labels = 3'), r"line 6, models.mine.labels: expected a path; got 3"),
        (('"weights.pth"', '"w.pth", labels = [3]'), r"line 6, models.mine.labels: labels are a file .*; got \[3\]"),
        (("batch = 2", "batch = "), r"TOML"),
        (("batch = 2", "ray = 3"), r"line 2, ray: expected a table \[ray\], with settings such as gpus = 0.5; got 3"),
        (
            ("batch = 2", f"seed = {2**64}"),
            r"line 2, seed: seed must be from -2\*\*63 to 2\*\*64 - 1; got 18446744073709551616",
        ),
        (('models = ["mine"]', 'models = ["mine", "mine"]'), r"line 19, data.others.models: models must differ"),
        (
            ('"Gradient"', '"gradinet"'),
            r"methods.gradient: no method 'gradinet'; did you mean gradient.*expected one of Captum, ",
        ),
        (
            ('"Folder"\npath = "pic', '"own_data:Nameless"\npath = "pic'),
            r"line 12, data.pictures: Nameless has no classes and no __len__\(\)\. A data set, see sfumato.data.Data, has",
        ),
        (('"Gradient"', '"no_such_module:Method"'), r"line 9, methods.gradient: .*cannot be imported"),
    ],
)
def test_an_error_names_the_line_and_the_key(monkeypatch, change, said):
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    monkeypatch.setitem(sys.modules, "own_data", SimpleNamespace(Nameless=Nameless))
    assert change[0] in PLAN
    with pytest.raises(ValueError, match=said):
        parse(PLAN.replace(*change), Path(), "plan.toml")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ('windows = "PhaseWindows"', 'windows = { use = "PhaseWindows" }'),
        ('regions = "superpixels"', 'regions = { use = "Superpixels" }'),
        ('perturbation = "Blur(max_sigma=10)"', 'perturbation = { use = "Blur", max_sigma = 10 }'),
        ('game = "Game(keep=1, drop=2)"', 'game = { use = "Game", keep = 1, drop = 2 }'),
    ],
)
def test_a_class_that_is_named_by_a_text_gets_the_line_to_write(monkeypatch, setting, line):
    """Where a plan takes a table. With the line that it says, the plan is read."""
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    begin = "\n[methods.mine]\nuse = 'greedy-order'\n"
    with pytest.raises(ValueError, match=r"plan\.toml, line \d+, methods\.mine\.\w+: .*; got .*\. Write .*") as error:
        parse(PLAN + begin + setting, Path(), "plan.toml")
    assert str(error.value).endswith(f"Write {line}")
    assert "mine" in parse(PLAN + begin + line, Path()).methods


def test_only_lines_that_help_are_said():
    with pytest.raises(ValueError, match=r"score must be one of logit, .*; got 'Entropy'$"):
        make_method({"use": "rise", "score": "Entropy"}, ("methods", "mine"))
    with pytest.raises(
        ValueError, match=r'Write perturbation = \[{ use = "Fade" }, { use = "Blur", max_sigma = 2 }\]$'
    ):
        make_method({"use": "extremal", "perturbation": ["Fade", "Blur(max_sigma=2)"]}, ("methods", "mine"))


def test_a_plan_that_lacks_a_kind_says_so():
    with pytest.raises(ValueError, match=r"plan.toml, methods: a plan needs \[methods\]"):
        parse('[models]\nlite0 = "lite0"\n', Path(), "plan.toml")


def test_a_cluster_is_no_part_of_what_is_done(monkeypatch):
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    plan = parse(PLAN + "\n[ray]\ngpus = 0.5\n", Path())
    assert plan.ray == Cluster(gpus=0.5)
    with pytest.raises(ValueError, match=r"line 28, ray.gpsu: Cluster has no setting 'gpsu'; did you mean gpus"):
        parse(PLAN + "\n[ray]\ngpsu = 0.5\n", Path())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the plan .*plan.toml.*: No such file"):
        read(tmp_path / "plan.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read(tmp_path / "binary")


def test_the_plans_of_the_documentation_are_plans(monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    page = (Path(__file__).parents[1] / "docs/runs.md").read_text(encoding="utf-8")
    first, *more = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    for text in (first, *(f"{first}\n{part}" for part in more)):
        assert list(parse(text, Path()).combinations())
    described = re.search(r"```toml\n(.*?)```", plan_module.__doc__, re.DOTALL)[1]
    assert parse(described, Path()).ray == Cluster(gpus=0.5)


def test_the_plan_of_the_results_is_one(monkeypatch):
    monkeypatch.setenv("SFUMATO_SHARED", "/shared")
    results = read(Path(__file__).parents[1] / "bench/results.toml")
    assert {each.method for each in results.combinations()} == set(results.methods)
    assert results.methods["extremal"] == sfumato.ExtremalPerturbation(steps=50)
    assert results.methods["smooth"] == sfumato.ExtremalPerturbation.smooth_masks(steps=100)
    assert results.methods["order"] == sfumato.ExtremalOrder()
