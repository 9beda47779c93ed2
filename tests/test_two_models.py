"""Two networks asked the same questions: what differs, the limits, the page and the command."""

import json
import re
from dataclasses import replace

import pytest
import torch
from factories import importable
from PIL import Image
from spots import METHOD, SIDE, ones, rectangle, spots
from torch import nn
from typer.testing import CliRunner

from sfumato import cli
from sfumato.evidence.limits import Limit
from sfumato.evidence.two_models import MEASURES, Differences, _iou, compare_models, summarise
from sfumato.figures.report.differences import Compared, differences_page
from sfumato.metrics.estimate import Estimate
from sfumato.models import Classifier, Preparation

FIRST, SECOND = (4, 4), (20, 20)


def both(*corners: tuple[int, int]):
    """A model that is right about class 0 by the mean of its spots."""
    return spots(*corners, worth=1 / len(corners))


def test_the_same_network_differs_by_nothing() -> None:
    (found,) = compare_models(METHOD, both(FIRST), both(FIRST), [ones(2)])
    assert len(found) == 2
    assert torch.equal(found.masks, found.other_masks)
    for row in found.rows():
        assert row["answer"] == row["iou"] == row["kept"] == row["kept_back"] == 1
        assert row["changed"] == row["grew"] == 0
        assert row["new"] <= 0
        assert row["iou_self"] > 0.6
        assert 0.8 < row["kept_self"] <= 1


def test_another_reason_for_the_same_answer() -> None:
    (found,) = compare_models(METHOD, both(FIRST), both(SECOND), [ones()])
    (row,) = found.rows()
    assert row["answer"] == 1
    assert row["changed"] == 1
    assert row["kept"] < 0.1
    assert row["kept_back"] < 0.1
    assert row["iou"] < 0.1
    assert row["new"] > 0.5
    assert found.other_masks[0, 0, 0, 20:28, 20:28].mean() > 0.7
    assert found.masks[0, 0, 0, 4:12, 4:12].mean() > 0.7


def test_two_networks_with_one_output_that_answer_its_complement() -> None:
    """They say no, each because of another spot, and are asked why they say no."""

    def because_of(corner: tuple[int, int]):
        return lambda x: 0.5 - spots(corner)(x)[:, :1]

    (same,) = compare_models(METHOD, because_of(FIRST), because_of(FIRST), [ones()])
    (found,) = compare_models(METHOD, because_of(FIRST), because_of(SECOND), [ones()])
    assert next(iter(same.rows()))["kept"] == 1
    assert found.answer.tolist() == found.other_answer.tolist() == [1]
    assert next(iter(found.rows()))["changed"] == 1
    assert found.masks[0, 0, 0, 4:12, 4:12].mean() > 0.7
    assert found.other_masks[0, 0, 0, 20:28, 20:28].mean() > 0.7


def test_what_each_set_is_worth_to_the_other() -> None:
    """The second network needs both spots: the first one's set is half of what it needs."""
    method = replace(METHOD, areas=(1 / 8,), steps=90)
    (found,) = compare_models(method, both(FIRST), both(FIRST, SECOND), [ones()])
    (row,) = found.rows()
    assert row["kept"] == pytest.approx(0.5, abs=0.1)
    assert row["kept_back"] > 0.9


def differences(**changes) -> Differences:
    masks = torch.stack([rectangle(0, 0, 8, 8), rectangle(0, 0, 16, 16)], 1)
    others = torch.stack([rectangle(0, 4, 8, 8), rectangle(0, 16, 16, 16)], 1)
    values = {
        "answer": torch.tensor([3]),
        "other_answer": torch.tensor([3]),
        "masks": masks,
        "other_masks": others,
        "iou": torch.tensor([[1 / 3, 0.0]]),
        "iou_self": torch.tensor([[1.0, 1 / 3]]),
        "own": torch.tensor([[0.7, 0.95]]),
        "kept": torch.tensor([[0.2, 0.4]]),
        "other_own": torch.tensor([[0.5, 0.7]]),
        "kept_back": torch.tensor([[0.6, 1.05]]),
        "kept_self": torch.tensor([[0.6, 0.72]]),
    }
    return Differences(**{**values, **changes})


def test_each_measure_by_hand() -> None:
    (row,) = differences().rows()
    assert row["iou"] == pytest.approx(1 / 6)
    assert row["iou_self"] == pytest.approx(2 / 3)
    assert row["kept"] == pytest.approx(0.3 / 0.6)
    assert row["kept_back"] == 1  # .825 of .825
    assert row["kept_self"] == pytest.approx(0.66 / 0.825)
    assert row["changed"] == 1  # .5 is less than .8
    assert differences().rows(enough=0.5)[0]["changed"] == 0
    assert differences(kept=torch.tensor([[0.38, 0.6]])).rows()[0]["changed"] == 0  # .81 and 1
    assert row["new"] == pytest.approx(((1 / 2 - 0) + (1 - 1 / 2)) / 2)  # of sets of equal area
    assert row["grew"] == pytest.approx(1 - 1 / 4)  # no set of the other one suffices
    (other,) = differences(other_answer=torch.tensor([4])).rows(enough=0.51)
    assert other["answer"] == other["changed"] == 0
    (nothing,) = differences(other_own=torch.tensor([[0.0, 0.001]])).rows()
    assert nothing["kept"] == 1


def constant(x: torch.Tensor) -> torch.Tensor:
    return spots((8, 8))(0 * x) + torch.tensor([1.0, -1.0])


@pytest.mark.parametrize(
    ("first", "second", "shares"),
    [(spots((8, 8)), constant, (0, None)), (constant, spots((8, 8)), (None, 0)), (constant, constant, (1, 1))],
)
@pytest.mark.filterwarnings("ignore:.*does not change with the input")
def test_a_network_that_does_not_read_the_picture_has_no_reason_in_it(first, second, shares) -> None:
    (found,) = compare_models(replace(METHOD, steps=4), first, second, [ones()])
    (row,) = found.rows()
    for name, share in zip(("kept", "kept_back"), shares, strict=True):
        assert row[name] == share if share is not None else 0 <= row[name] <= 1
    assert row["answer"] == 1
    assert row["changed"] == (0 if first is second else 1)
    assert 0 <= row["kept_self"] <= 1
    assert all(value == value for value in row.values())  # noqa: PLR0124  # no NaN, which means would leave out


def test_a_summary_has_the_means_and_their_intervals() -> None:
    found = summarise([differences(), differences(iou=torch.tensor([[1.0, 1.0]]))])
    assert list(found) == [measure.name for measure in MEASURES]
    assert found["iou"].value == pytest.approx((1 / 6 + 1) / 2)
    assert found["iou"].few
    assert found["iou"].pictures == 2
    with pytest.raises(ValueError, match="needs pictures"):
        summarise([])


def test_limits_are_read_and_judged() -> None:
    means = {"iou": Estimate(0.5, 0.4, 0.6, 20), "grew": Estimate(float("nan"), 0, 0, 0)}
    assert Limit.parse("iou < .6", means).broken_by(means)
    assert not Limit.parse("iou<.5", means).broken_by(means)
    assert Limit.parse("iou <= .5", means).broken_by(means)
    assert not Limit.parse(" iou > 0.5 ", means).broken_by(means)
    assert Limit.parse("iou >= 5e-1", means).broken_by(means)
    assert Limit.parse("grew > -1", means).broken_by(means)  # unknown: fails
    assert str(Limit.parse("iou < .6", means)) == "iou < 0.6"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("iou", "a limit is a measure, one of"),
        ("iou < much", "a limit is a measure"),
        ("iou < 1.2.3", "a limit is a measure"),
        ("iou < .", "a limit is a measure"),
        ("iuo < .6", "no measure 'iuo'.*iou"),
        ("changed > 5", 'changed lies between 0 and 1; got the limit 5; write "changed > 0.05"'),
        ("iou < 1e999", "iou lies between 0 and 1; got the limit inf"),
        ("grew < -2", "grew lies between -1 and 1"),
        ("iou > -.1", "iou lies between 0 and 1"),
    ],
)
def test_wrong_limits_are_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Limit.parse(text, {measure.name: measure for measure in MEASURES})


def test_the_page_shows_the_largest_differences_first() -> None:
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    same = differences(kept=torch.tensor([[0.5, 0.7]]))
    compared = [
        Compared("alike.png", picture, same, ("cat", "cat")),
        Compared("<b>.png", picture, differences(kept=torch.tensor([[0.0, 0.1]])), ("cat", "cat")),
        Compared("other.png", picture, differences(other_answer=torch.tensor([4])), ("cat", "dog")),
    ]
    summary = summarise([one.differences for one in compared])
    limit = Limit.parse("iou < .6", summary)
    content = differences_page(compared, summary, ("old", "new"), [limit], [limit])
    places = [content.index(words) for words in ("other.png", "&lt;b&gt;.png", "alike.png")]
    assert places == sorted(places)
    assert "<b>.png" not in content
    assert "Fails: iou &lt; 0.6." in content
    assert content.count("<img") == 3 * 5  # two sets each, and what is new
    assert "The answer is the same, the reason is not." in content
    assert "old answers cat, new dog." in content
    assert "All limits are kept." in differences_page(compared, summary, ("a", "b"), [], [limit])
    assert not re.search(r"https?:", content)


class Corner(nn.Module):
    """Two classes; the first is the brightness of a corner."""

    def __init__(self, bottom: bool) -> None:
        super().__init__()
        self.bottom = bottom

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part = x[:, :, 16:, 16:] if self.bottom else x[:, :, :16, :16]
        value = part.mean((1, 2, 3))
        return 4 * torch.stack([value, 0.2 - value], 1)


def top() -> Classifier:
    return Classifier("top", Corner(False), Preparation(32, 32), ("bright", "dark"))


def bottom() -> Classifier:
    return Classifier("bottom", Corner(True), Preparation(32, 32), ("bright", "dark"))


class NotDark(Corner):
    """One output, below 0 where the corner is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, 1:]


def not_dark() -> Classifier:
    return Classifier("not dark", NotDark(True), Preparation(32, 32), ("dark",))


def three() -> Classifier:
    return Classifier("three", Corner(True), Preparation(32, 32), ("bright", "dark", "grey"))


def swapped() -> Classifier:
    return Classifier("swapped", Corner(True), Preparation(32, 32), ("dark", "bright"))


def animals() -> Classifier:
    return Classifier("animals", Corner(True), Preparation(32, 32), ("cat", "dog"))


def nameless() -> Classifier:
    return Classifier("nameless", Corner(True), Preparation(32, 32), ("class 0", "class 1"))


def larger() -> Classifier:
    return Classifier("larger", Corner(True), Preparation(48, 48), ("bright", "dark"))


@pytest.fixture
def corners(monkeypatch, tmp_path):
    importable(monkeypatch, tmp_path, "corners", __name__)
    for number in range(2):
        Image.new("RGB", (32, 32), (200, 200 + number, 200)).save(tmp_path / f"{number}.png")
    return tmp_path


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["compare-models", *map(str, arguments)])


QUICK = ("--steps", 30, "--areas", "0.25")


def test_the_command_passes_the_same_network_and_stops_another(corners) -> None:
    pictures = (corners / "0.png", corners / "1.png")
    out = corners / "same"
    found = run("corners:top", "corners:top", *pictures, *QUICK, "--fail-if", "iou < .6", "--out", out)
    assert found.exit_code == 0, found.output
    content = json.loads((out / "comparison.json").read_text())
    assert content["limits"] == {"iou < 0.6": False}
    assert content["means"]["iou"][0] == 1
    assert "corners:top, A and corners:top, B" in (out / "report.html").read_text()

    out = corners / "other"
    limits = ("--fail-if", "changed > .5", "--fail-if", "grew > .9")
    found = run("corners:top", "corners:bottom", *pictures, *QUICK, *limits, "--out", out)
    assert found.exit_code == 3
    assert "the limit is not kept: changed > 0.5 (mean 1)" in found.stderr
    content = json.loads((out / "comparison.json").read_text())
    assert content["limits"] == {"changed > 0.5": True, "grew > 0.9": False}
    assert set(content["pictures"]) == {"0.png", "1.png"}
    assert content["pictures"]["0.png"]["kept"] < 0.3
    assert "too few pictures for an interval" in found.stdout


def test_the_command_compares_networks_with_one_output_that_answer_no(corners) -> None:
    found = run("corners:not_dark", "corners:not_dark", corners / "0.png", *QUICK, "--out", corners / "out")
    assert found.exit_code == 0, found.output
    assert json.loads((corners / "out" / "comparison.json").read_text())["means"]["kept"][0] == 1
    assert "Both answer not dark." in (corners / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("corners:top", "corners:three"), "the models must have the same classes"),
        (("corners:top", "corners:larger"), "the models must take the same inputs"),
        (("corners:top", "corners:swapped"), "'bright' is class 0 of corners:top and class 1 of corners:swapped"),
        (("corners:top", "corners:animals"), "class 0 is 'bright' in corners:top and 'cat' in corners:animals"),
        (("corners:top", "corners:bottom", "--fail-if", "changed > 5"), "changed lies between 0 and 1"),
        (("corners:top", "corners:bottom", "--device", "tpu"), "--device is auto, cpu, cuda or mps"),
        (("corners:top", "corners:bottom", "--fail-if", "iou"), "a limit is a measure"),
        (("corners:top", "corners:bottom", "--method", "rise"), "one method that finds sets of places"),
    ],
)
def test_wrong_things_end_with_a_sentence(corners, arguments, says: str) -> None:
    first, second, *more = arguments
    steps = () if "rise" in more else QUICK
    found = run(first, second, corners / "0.png", *more, *steps, "--out", corners / "out")
    assert found.exit_code == 2
    assert says in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_a_comparison_that_is_there_is_replaced_only_on_demand(corners) -> None:
    (corners / "out").mkdir()
    (corners / "out" / "comparison.json").write_text("mine")
    arguments = (
        "corners:top",
        "corners:top",
        corners / "0.png",
        "--steps",
        2,
        "--areas",
        "0.25",
        "--out",
        corners / "out",
    )
    found = run(*arguments)
    assert found.exit_code == 2
    assert "comparison.json' is there already. Write --overwrite to replace it" in found.stderr
    assert [path.name for path in (corners / "out").iterdir()] == ["comparison.json"]
    assert (corners / "out" / "comparison.json").read_text() == "mine"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert json.loads((corners / "out" / "comparison.json").read_text())["pictures"]


def test_a_picture_that_cannot_be_read_is_left_out(corners) -> None:
    (corners / "broken.png").write_bytes(b"no picture")
    found = run(
        "corners:top", "corners:bottom", corners / "0.png", corners / "broken.png", *QUICK, "--out", corners / "o"
    )
    assert found.exit_code == 1, found.output
    assert "broken.png" in found.stderr
    assert set(json.loads((corners / "o" / "comparison.json").read_text())["pictures"]) == {"0.png"}


def test_pictures_of_one_name_are_told_apart_and_none_counts_twice(corners) -> None:
    for folder in ("a", "b"):
        (corners / folder).mkdir()
        Image.new("RGB", (32, 32), (200, 200, 100)).save(corners / folder / "0.png")
    paths = (corners / "a", corners / "b" / "0.png", corners / "a" / "0.png", corners / "1.png")
    found = run("corners:top", "corners:nameless", *paths, "--steps", 2, "--areas", "0.25", "--out", corners / "o")
    assert found.exit_code == 0, found.output
    names = json.loads((corners / "o" / "comparison.json").read_text())["pictures"]
    assert set(names) == {(corners / "a" / "0.png").as_posix(), (corners / "b" / "0.png").as_posix(), "1.png"}


def test_a_stopped_comparison_says_that_nothing_is_written(corners, monkeypatch) -> None:
    def stopped(*_: object):
        raise KeyboardInterrupt

    monkeypatch.setattr("sfumato.evidence.two_models.compare_models", stopped)
    found = run("corners:top", "corners:bottom", corners / "0.png", *QUICK, "--out", corners / "o")
    assert found.exit_code == 130
    assert found.stderr == "sfumato: interrupted; nothing is written, as the report is of all pictures\n"
    assert not (corners / "o").exists()


def test_a_set_that_harms_does_not_hide_what_the_others_lose() -> None:
    """The smaller set harms the network whose own it is: the larger one is kept by nothing."""
    own, lost = torch.tensor([[-3.0, 1.0]]), torch.tensor([[-3.0, 0.1]])
    changes = {"own": own, "other_own": own, "kept": lost, "kept_back": own}
    (row,) = differences(**changes).rows()
    assert row["kept"] == pytest.approx(0.1)
    assert row["kept_back"] == 1
    assert row["changed"] == 1


def test_two_empty_sets_are_the_same() -> None:
    """Smooth masks of a small area may show no place by more than a half."""
    faint = torch.full((1, 2, 1, SIDE, SIDE), 0.4)
    assert _iou(faint, faint).tolist() == [[1.0, 1.0]]
    assert _iou(faint, torch.ones_like(faint)).tolist() == [[0.0, 0.0]]


class Middle(nn.Module):
    """The brightness of the middle, of pictures of any size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = x[:, :, 8:24, 8:24].mean((1, 2, 3))
        return torch.stack([value, -value], 1)


def of_any_size() -> Classifier:
    return Classifier("of any size", Middle(), Preparation(None, 32), ("bright", "dark"))


def test_pictures_of_several_sizes_are_compared(monkeypatch, tmp_path) -> None:
    importable(monkeypatch, tmp_path, "any_size_for_comparison", __name__)
    for name, width in (("a", 40), ("b", 48), ("c", 48), ("d", 40)):
        Image.new("RGB", (width, 32), (200, 200, 200)).save(tmp_path / f"{name}.png")
    pictures = [tmp_path / f"{name}.png" for name in "abcd"]
    options = ("--steps", 2, "--areas", 0.2, "--out", tmp_path / "out")
    names = ("any_size_for_comparison:of_any_size",) * 2
    found = CliRunner().invoke(cli.app, [str(word) for word in ("compare-models", *names, *pictures, *options)])
    assert found.exit_code == 0, found.output
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(content["pictures"]) == ["a.png", "b.png", "c.png", "d.png"]
