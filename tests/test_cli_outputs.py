"""What the command line leaves in the folder of results: after Ctrl-C, in a second run, and for many pictures."""

import json
import weakref
from pathlib import Path

import pytest
import torch
from factories import importable
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import sfumato
from sfumato import cli
from sfumato.cli import queries
from sfumato.models import Classifier, Preparation

pytest.importorskip("matplotlib", reason="figures need matplotlib")

EXPLAIN = ["explain", "--model", "toy_for_outputs:classifier", "--steps", "2", "--areas", "0.2"]


class Toy(nn.Module):
    """Logits of red, green and blue: each is a channel's mean."""

    def __init__(self, gain=4.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.mean = nn.AdaptiveAvgPool2d(2)

    def forward(self, inputs):
        return self.gain * self.mean(inputs).mean((2, 3))


def classifier(gain=4.0):
    return Classifier("toy", Toy(gain).eval(), Preparation(16, 16), ("crane", "green", "crane"))


def louder():
    return classifier(5.0)


@pytest.fixture(autouse=True)
def pictures(monkeypatch, tmp_path):
    """The factory on the path, and a working folder with a red, a darker and a blue picture."""
    importable(monkeypatch, tmp_path, "toy_for_outputs", __name__)
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a", (250, 20, 10)), ("b", (200, 30, 10)), ("c", (10, 20, 250))):
        Image.new("RGB", (20, 20), colour).save(f"{name}.png")


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def summaries():
    return {path.name: path.stat().st_mtime_ns for path in Path("sfumato-out").glob("*.json")}


def interrupting(monkeypatch, at):
    """Ctrl-C in the search for the picture of this number, from 0."""
    call, count = sfumato.ExtremalPerturbation.__call__, iter(range(100))

    def interrupted(*arguments, **settings):
        if next(count) == at:
            raise KeyboardInterrupt
        return call(*arguments, **settings)

    monkeypatch.setattr(sfumato.ExtremalPerturbation, "__call__", interrupted)


def test_after_ctrl_c_what_is_done_is_there_and_the_rest_is_done_later(monkeypatch):
    interrupting(monkeypatch, at=2)
    stopped = run(*EXPLAIN, "a.png", "b.png", "c.png")
    assert stopped.exit_code == 130
    assert stopped.stderr == (
        "sfumato: interrupted; 2 results in sfumato-out; the same command with --resume does the others\n"
    )
    before = summaries()
    assert sorted(before) == ["a-crane-0.json", "b-crane-0.json"]
    done = run(*EXPLAIN, "a.png", "b.png", "c.png", "--resume")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "1 result in sfumato-out; 2 were there already"
    assert {name: summaries()[name] for name in before} == before, "nothing is done twice"
    assert "c-crane-2.json" in summaries()


def test_ctrl_c_before_the_first_result_promises_nothing(monkeypatch):
    interrupting(monkeypatch, at=0)
    assert run(*EXPLAIN, "a.png").stderr == "sfumato: interrupted; 0 results in sfumato-out\n"


@pytest.mark.parametrize("target", [[], ["--target", "0"]])
def test_results_are_not_overwritten_unasked(target):
    assert run(*EXPLAIN, "a.png", *target).exit_code == 0
    before = summaries()
    again = run(*EXPLAIN, "b.png", "a.png", *target)
    assert again.exit_code == 2
    assert "'sfumato-out/a-crane-0.json' is there already. Write --overwrite to replace" in again.stderr
    assert summaries() == before, "it is refused before the work"
    assert run(*EXPLAIN, "a.png", "--target", "1").exit_code == 0, "other results are no obstacle"
    assert run(*EXPLAIN, "a.png", *target, "--overwrite").exit_code == 0
    assert summaries()["a-crane-0.json"] > before["a-crane-0.json"]
    assert "give one of them" in run(*EXPLAIN, "a.png", "--overwrite", "--resume").stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: ["--steps", "3"], "another method"),
        (lambda: ["--model", "toy_for_outputs:louder"], "another network"),
        (lambda: ["--smallest", "0.5"], "another smallest"),
        (lambda: Image.new("RGB", (20, 20), (240, 0, 0)).save("a.png") or [], "another picture"),
    ],
)
def test_the_result_of_something_else_is_not_taken_for_done(change, said):
    run(*EXPLAIN, "a.png")
    before = summaries()
    done = run(*EXPLAIN, "a.png", "b.png", "--resume", *change())
    assert done.exit_code == 1
    assert f"was made from {said}. Write --overwrite" in done.stderr
    assert {name: summaries()[name] for name in before} == before
    assert "b-crane-0.json" in summaries(), "the other picture is explained"


def test_what_is_done_is_known_wherever_the_command_runs(monkeypatch, tmp_path):
    run(*EXPLAIN, "a.png")
    Path("elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = run(*EXPLAIN, "../a.png", "--out", "../sfumato-out", "--resume")
    assert "0 results in ../sfumato-out; 1 was there already" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        [*EXPLAIN[:3], "--method", "rise,gradient", "--set", "samples=4"],
        ["channels", *EXPLAIN[1:5], "--layer", "mean", "--counts", "1", "--no-invert"],
    ],
    ids=["methods", "channels"],
)
def test_channels_and_several_methods_are_resumed_too(command):
    assert run(*command, "a.png").exit_code == 0
    before = summaries()
    assert run(*command, "a.png").exit_code == 2
    assert "1 was there already" in run(*command, "a.png", "--resume").stdout
    assert summaries() == before


def test_quick_methods_come_first_and_each_is_written_when_it_is_done(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sfumato.RISE, "__call__", interrupted)
    done = run(*EXPLAIN[:3], "a.png", "--method", "rise,gradient")
    assert done.exit_code == 130
    assert sfumato.load("sfumato-out/a-crane-0-gradient.safetensors").map.shape == (1, 1, 16, 16)


def test_no_more_than_a_batch_of_pictures_is_in_memory(monkeypatch):
    alive, most = weakref.WeakSet(), 0
    made = queries.Query

    def counted(*arguments):
        nonlocal most
        query = made(*arguments)
        alive.add(query)
        most = max(most, len(alive))
        return query

    for index in range(12):
        Image.new("RGB", (20, 20), (250, index, 10)).save(f"many-{index}.png")
    monkeypatch.setattr(queries, "Query", counted)
    done = run(*EXPLAIN, *sorted(Path().glob("many-*.png")), "--batch", "2")
    assert done.exit_code == 0, done.output
    assert len(summaries()) == 12
    assert most <= 5, "two batches and one, at most"


def test_the_summary_is_the_last_file_to_be_written(monkeypatch):
    """So that what has a summary is complete."""
    from sfumato.attribution import Attribution

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Attribution, "save", full)
    done = run(*EXPLAIN, "a.png")
    assert done.exit_code == 2
    assert not summaries()
    assert json.dumps("No space left") not in done.stderr
