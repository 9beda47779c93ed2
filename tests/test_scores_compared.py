"""Several methods side by side explain one quantity, or it is said that they do not; and what models with one output show."""

import json
import math
from pathlib import Path

import pytest
import torch
from factories import importable
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from sfumato import RISE, ExtremalPerturbation, Gradient, Logit, SmoothMask, cli, report
from sfumato.models import Classifier, Preparation
from sfumato.runs.execution.session import begin
from sfumato.runs.execution.workers import one_thread
from sfumato.runs.plans.plan import parse
from sfumato.runs.results import export, summary
from sfumato.runs.results.record import Place
from sfumato.runs.work import items
from sfumato.settings import as_key

BIAS = {"one": [-2.0], "two": [1.5, 1.0], "broken": [math.nan, 0.0]}


class Toy(nn.Module):
    """A logit a channel, of red and green, or of red alone; with a layer to look into."""

    def __init__(self, bias):
        super().__init__()
        self.layer = nn.Identity()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, inputs):
        return 2 * self.layer(inputs).mean((2, 3))[:, : len(self.bias)] + self.bias


def one():
    return _made("one", ("hot dog",))


def two():
    return _made("two", ("red", "green"))


def broken():
    return _made("broken", ("red", "green"))


def _made(name, labels):
    return Classifier(name, Toy(BIAS[name]).eval(), Preparation(16, 16), labels, {"GradCAM": "layer"})


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    """The factories on the path, and a working folder with a picture."""
    importable(monkeypatch, tmp_path, "toy_for_scores", __name__)
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").save("grey.png")


def run(*arguments):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def explained(model, *arguments):
    """What the command says, and the one summary that it writes."""
    done = run("explain", "grey.png", "--model", f"toy_for_scores:{model}", "--out", "found", *arguments)
    assert done.exit_code == 0, done.output
    (path,) = Path("found").glob("*.json")
    return done.stdout, json.loads(path.read_text())


def outputs(factory):
    classifier = factory()
    with torch.no_grad():
        return classifier.logits(classifier.prepare(Image.open("grey.png"))[None])[0].double()


def test_methods_with_other_defaults_say_so():
    said, told = explained("two", "--method", "grad-cam,rise")
    assert "The methods explain different quantities: grad-cam the logit, rise the softmax probability." in " ".join(
        said.split()
    )
    assert "--score sets one for all" in said
    assert {name: each["explains"] for name, each in told["methods"].items()} == {
        "grad-cam": "logit",
        "rise": "softmax probability",
    }


@pytest.mark.parametrize(
    ("score", "quantity"),
    [
        ("logit", "logit"),
        ("probability", "softmax probability"),
        ("log-odds", "log-odds"),
        ("sigmoid", "sigmoid probability"),
    ],
)
def test_one_option_sets_the_same_for_all(score, quantity):
    said, told = explained("two", "--method", "grad-cam,gradient,centre", "--score", score)
    assert "different quantities" not in said
    assert {each["explains"] for each in told["methods"].values()} == {quantity}
    assert {each["method"]["score"] for each in told["methods"].values()} == {score}


def test_an_unknown_quantity_is_refused():
    done = run("explain", "grey.png", "--model", "toy_for_scores:two", "--score", "chance")
    assert done.exit_code == 2
    assert "got 'chance'. Write --score logit" in done.stderr


QUICK = ("--steps", "2", "--areas", "0.3")


def test_one_output_has_the_probability_of_its_sigmoid():
    """It was 100 %, whatever the picture."""
    expected = float(outputs(one)[0].sigmoid())
    assert 0.05 < expected < 0.5
    said, told = explained("one", *QUICK, "--score", "probability")
    assert told["target"] == {"index": 0, "label": "hot dog"}
    assert told["probability"] == told["whole"] == pytest.approx(expected, rel=1e-4)
    assert told["top_classes"] == [{"index": 0, "label": "hot dog", "probability": pytest.approx(expected, rel=1e-4)}]
    assert told["areas"][0]["probability_kept"] == pytest.approx(told["areas"][0]["score"], rel=1e-4)
    assert told["score"]["link"] == "sigmoid"
    assert said.count("100 %") == 1  # what the whole picture is worth


def test_a_head_of_several_labels_is_told_to_be_one():
    expected = outputs(two).sigmoid()
    _, told = explained("two", *QUICK, "--score", "sigmoid", "--target", "green")
    assert told["whole"] == told["probability"] == pytest.approx(float(expected[1]), rel=1e-4)
    assert [each["probability"] for each in told["top_classes"]] == pytest.approx(expected.tolist(), rel=1e-4)
    assert told["areas"][0]["probability_kept"] == pytest.approx(told["areas"][0]["score"], rel=1e-4)


def test_a_smallest_area_that_says_nothing_is_told_to():
    """The grey picture's mean, which blur keeps, is all that the network looks at."""
    said, _ = explained("two", "--steps", "2", "--smallest", "0.9", "--areas", "0.3,0.9")
    assert "The fully perturbed picture keeps as much, so this area says nothing about the picture." in " ".join(
        said.split()
    )


def test_channels_take_the_score_too():
    done = run(
        *("channels", "grey.png", "--model", "toy_for_scores:two", "--layer", "layer", "--counts", "1", "--steps", "2"),
        *("--no-invert", "--smallest", "1", "--score", "sigmoid", "--target", "green", "--out", "found"),
    )
    assert done.exit_code == 0, done.output
    told = json.loads(Path("found/grey-green.json").read_text())
    assert told["whole"] == told["probability"] == pytest.approx(float(outputs(two)[1].sigmoid()), rel=1e-4)


def test_a_model_that_answers_nan_has_no_top_class():
    done = run("explain", "grey.png", "--model", "toy_for_scores:broken", *QUICK)
    assert done.exit_code == 2
    assert "2 of the model's 2 outputs are NaN, so that no class comes first" in " ".join(done.stderr.split())


# Runs.

PLAN = """
{options}
[models]
toy = "toy_for_scores:{model}"

[methods]
gradient = "Gradient"
rise = {{ use = "RISE", samples = 8, cells = 4 {settings} }}

[data.pictures]
use = "Folder"
path = "pictures"
targets = "predicted"

[protocols]
accuracy = {{ use = "Accuracy", methods = ["gradient"] }}
energy = "InsertionDeletion"
"""


def planned(folder, options="", model="two", settings=""):
    return parse(PLAN.format(options=options, model=model, settings=settings), folder)


def test_a_plan_says_what_a_class_means_to_all_methods(tmp_path):
    assert _scores(planned(tmp_path)) == {"gradient": "logit", "rise": "probability"}
    assert _scores(planned(tmp_path, 'score = "log-odds"')) == {"gradient": "log-odds", "rise": "log-odds"}
    own = planned(tmp_path, 'score = "log-odds"', settings=', score = "sigmoid"')
    assert _scores(own) == {"gradient": "log-odds", "rise": "sigmoid"}
    with pytest.raises(ValueError, match=r"line 2, score: score must be one of .*; got 'chance'"):
        planned(tmp_path, 'score = "chance"')


def _scores(plan):
    return {name: method.score for name, method in plan.methods.items()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "The methods explain different quantities: gradient the logit, rise the probability."),
        ('score = "probability"', ""),
    ],
)
def test_a_run_s_tables_say_where_quantities_differ(tmp_path, options, said):
    (tmp_path / "pictures").mkdir()
    Image.linear_gradient("L").save(tmp_path / "pictures" / "a.png")
    plan = planned(tmp_path, options)
    session = begin(plan, Place(tmp_path / "run"))
    with one_thread():
        list(session.work())
    assert summary.quantities(session, "pictures", "toy") == said
    with session.place.store() as store:
        lines = list(summary.lines(session, store))

    def notes(data, model):
        return summary.quantities(session, data, model)

    for form in (export.markdown, export.latex):
        assert (said or "different quantities") in form(lines, None, notes) or not said
        assert "different quantities" not in form(lines)
    page = report.for_run(tmp_path / "run")
    assert ("different quantities" in page) == bool(said)
    shown = CliRunner().invoke(cli.app, ["bench", "table", str(tmp_path / "run")])
    assert ("different quantities" in shown.stdout) == bool(said)


def test_the_predicted_class_of_one_output(tmp_path):
    """It is the output itself, whose accuracy is judged as one of two classes."""
    (tmp_path / "pictures").mkdir()
    Image.linear_gradient("L").save(tmp_path / "pictures" / "a.png")
    session = begin(planned(tmp_path, model="one"), Place(tmp_path / "run"))
    with one_thread():
        list(session.work())
    with session.place.store() as store:
        rows = list(summary.rows(session, store))
    assert [row["failed"] for row in rows] == [""] * len(rows)
    accuracy = next(row for row in rows if row["protocol"] == "accuracy")
    assert (accuracy["label"], accuracy["rank"], accuracy["first"]) == (0, 2, False)
    whole = [row["whole"] for row in rows if row["protocol"] == "energy"]
    assert whole == pytest.approx([float(outputs(one)[0].sigmoid())] * 2, rel=1e-4)


def test_rows_from_before_the_setting_count(tmp_path):
    """The keys of items were made of all settings; one that came later must not change them while it has its default."""
    (tmp_path / "pictures").mkdir()
    Image.linear_gradient("L").save(tmp_path / "pictures" / "a.png")
    known = {name: recipe["method"] for name, recipe in _recipes(planned(tmp_path)).items()}
    assert known["gradient"] == {
        "class": "sfumato:Gradient",
        "layer": "",
        "reduction": "max_abs",
        "smooth": 0.0,
        "resize": True,
        "memory": 2.0,
    }
    assert "score" not in known["rise"]
    assert _recipes(planned(tmp_path, 'score = "sigmoid"'))["rise"]["method"]["score"] == "sigmoid"
    assert as_key(ExtremalPerturbation())["score"] == "logit", "which had the setting before"
    assert as_key((RISE(), [Gradient(score="log-odds")]))[1][0]["score"] == "log-odds"


def _recipes(plan):
    made = items.recipes(plan, dict.fromkeys(plan.models, "weights"), {})
    return {combination.method: recipe for (combination, _), recipe in made.items()}


# Pages.


def test_a_page_says_where_quantities_differ():
    net, inputs = two().net, torch.rand(1, 3, 16, 16)
    logit, sigmoid = Gradient()(net, inputs, 0), Gradient(score="sigmoid")(net, inputs, 0)
    mask = ExtremalPerturbation(areas=(0.3,), steps=2, mask=SmoothMask(step=4, sigma=8))(net, inputs, Logit(0))
    said = "The methods explain different quantities: gradient the logit, other the sigmoid probability."
    assert said in report.html({"gradient": logit, "other": sigmoid}, inputs)
    assert "different quantities" not in report.html({"gradient": logit, "mask": mask}, inputs)
