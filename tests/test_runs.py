"""Runs: done once, gone on with, the same whoever does them, and summed up."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import sfumato
from sfumato import models
from sfumato.cli import app
from sfumato.runs.execution.session import begin
from sfumato.runs.execution.workers import one_thread, spread
from sfumato.runs.plans.plan import parse
from sfumato.runs.results import parquet, summary
from sfumato.runs.results.export import latex, markdown, records, write
from sfumato.runs.results.leaders import results
from sfumato.runs.results.record import Place, Record, Where, read_record
from sfumato.runs.stores.opened import open_store
from sfumato.runs.stores.store import Done, Item, StoredExample
from sfumato.runs.work import source
from sfumato.runs.work.workbench import Workbench

SUBJECT = '''
"""A network that sees colours, and pictures of coloured squares."""
from dataclasses import dataclass, replace
from pathlib import Path
import time
import torch
from torch import nn
from sfumato.data import Example, Thing
from sfumato.models import Classifier, Preparation

COLOURS = ("red", "green", "blue")

class Seer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        held()
        return self.head(self.features(x).mean((2, 3))) + x.mean((2, 3))

HERE = Path(__file__).parent
CALLS = iter(range(10**9))
SLOW = False

def held():
    """Takes a moment; while there is a file called hold, the tenth call says so and waits for what comes."""
    if SLOW:
        time.sleep(0.002)
        if next(CALLS) >= 10 and (HERE / "hold").exists():
            (HERE / "held").touch()
            while (HERE / "hold").exists():
                time.sleep(0.01)

def seer():
    preparation = Preparation(size=24, resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Classifier("seer", Seer().eval(), preparation, COLOURS, {"GradCAM": "features"})

def other():
    return replace(seer(), labels=("green", "red", "azure"))

def slow():
    global SLOW
    SLOW = True
    return seer()

@dataclass(frozen=True)
class Squares:
    path: str
    count: int = 12
    classes = COLOURS

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == 7:
            raise ValueError("the annotation of example 7 is damaged")
        label = index % 3
        left = 4 + index
        things = (Thing(label, (left, 8, left + 10, 20)), Thing((label + 1) % 3, (0, 30, 6, 36)))
        return Example(f"square-{index}", Path(self.path) / f"{index}.png", things)
'''

PLAN = """
batch = 2

[models]
seer = "{module}:{model}"

[methods]
gradient = "Gradient"
extremal = {{ use = "ExtremalPerturbation", areas = [0.2], steps = 3 }}

[data.squares]
use = "{module}:Squares"
path = "pictures"

[protocols]
pointing = {{ use = "PointingGame", tolerance = 4 }}
accuracy = {{ use = "Accuracy", methods = ["gradient"] }}
"""

LONG = 600  # seconds, for a machine that is busy

ITEMS = (
    23 * 3
)  # eleven pictures of two targets and one whose annotation is damaged; pointing by two methods, accuracy by one


@pytest.fixture
def subject(tmp_path, monkeypatch):
    """The folder of a plan, its pictures (one damaged, one missing) and its module, whose name is new each time."""
    name = f"subject_{tmp_path.name.replace('-', '_')}_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(SUBJECT)
    monkeypatch.syspath_prepend(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(12):
        values = np.full((40, 40, 3), 60, np.uint8)
        values[8:20, 4 + index : 14 + index, index % 3] = 250
        values[30:36, :6, (index + 1) % 3] = 200
        Image.fromarray(values).save(pictures / f"{index}.png")
    (pictures / "3.png").write_bytes(b"no picture")
    (pictures / "5.png").unlink()
    return tmp_path, name


def planned(subject, model="seer", **changes):
    folder, name = subject
    text = PLAN.format(module=name, model=model)
    for old, new in changes.items():
        text = text.replace(old, new)
    return parse(text, folder)


def carried_out(plan, folder, **options):
    session = begin(plan, Place(folder), **options)
    with one_thread():
        list(session.work())
    return session


def table(folder):
    session = read_record(Place(folder))
    with session.place.store() as store:
        return [json.dumps(row, sort_keys=True) for row in summary.rows(session, store)]


def test_every_item_is_done_once(subject, tmp_path):
    session = begin(planned(subject), Place(tmp_path / "run"))
    assert session.total == ITEMS
    told = list(session.work())
    assert told[-1].done == ITEMS
    with session.place.store() as store:
        assert session.counts(store) == (ITEMS, told[-1].failed)
        failures = session.failures(store)
    assert told[-1].failed == sum(count for count, _ in failures.values()) == 3 * (2 + 2 + 1)
    named = {example: (count, cause) for cause, (count, example) in failures.items()}
    assert {example: count for example, (count, _) in named.items()} == {"square-3": 6, "square-5": 6, "example 7": 3}
    assert "not a picture of a known kind" in named["square-3"][1]
    assert "no such file" in named["square-5"][1]
    assert "is damaged" in named["example 7"][1]
    assert list(begin(planned(subject), Place(tmp_path / "run")).work()) == []  # nothing is left


def test_rows_do_not_depend_on_who_does_them(subject, tmp_path):
    carried_out(planned(subject), tmp_path / "alone")
    session = begin(planned(subject), Place(tmp_path / "many"))
    list(spread(session, 2))
    assert table(tmp_path / "many") == table(tmp_path / "alone")


def test_a_plan_that_grew_does_only_what_is_new(subject, tmp_path):
    carried_out(planned(subject), tmp_path / "run")
    grown = planned(subject, **{"[protocols]": '[protocols]\nenergy = "EnergyPointing"'})
    session = begin(grown, Place(tmp_path / "run"))
    assert session.total == ITEMS + 2 * 23
    assert sum(progress.done for progress in list(session.work())[-1:]) == 2 * 23


def test_a_plan_that_shrank_leaves_out_what_it_asks_no_more(subject, tmp_path):
    carried_out(planned(subject), tmp_path / "run")
    session = begin(planned(subject, **{'path = "pictures"': 'path = "pictures"\ncount = 2'}), Place(tmp_path / "run"))
    assert list(session.work()) == []
    with session.place.store() as store:
        assert session.left(store) == 0
        assert {row["example"] for row in summary.rows(session, store)} == {"square-0", "square-1"}


def test_renaming_a_method_does_nothing_anew(subject, tmp_path):
    carried_out(planned(subject), tmp_path / "run")
    renamed = planned(subject, **{"extremal =": "ours ="})
    assert list(begin(renamed, Place(tmp_path / "run")).work()) == []
    session = read_record(Place(tmp_path / "run"))
    with session.place.store() as store:
        assert {line.method for line in summary.lines(session, store)} == {"gradient", "ours"}


def test_a_changed_setting_is_another_item(subject, tmp_path):
    carried_out(planned(subject), tmp_path / "run")
    session = carried_out(planned(subject, **{"steps = 3": "steps = 4"}), tmp_path / "run")
    with session.place.store() as store:
        assert session.counts(store)[0] == ITEMS
        assert sum(each.items for each in store.tallies()) == ITEMS + 23


COMMAND = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sfumato.runs.plans.plan import parse
from sfumato.runs.execution.session import Place, begin
from sfumato.runs.execution.workers import one_thread
import sfumato.runs.execution.execute as execute
execute.BETWEEN_COMMITS = 0.05
session = begin(parse(Path(sys.argv[2]).read_text(), Path(sys.argv[1])), Place(Path(sys.argv[3])))
print("begun", flush=True)
with one_thread():
    for progress in session.work():
        print(progress.done, flush=True)
"""


def process(subject, out):
    folder, name = subject
    (folder / "plan.toml").write_text(PLAN.format(module=name, model="slow"))
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder), str(folder / "plan.toml"), str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )


def until_held(folder, running):
    """Wait until a process is in the midst of its run, where it stays until `hold` goes."""
    deadline = time.monotonic() + LONG
    while not (folder / "held").exists():
        assert running.poll() is None, "it ended before"
        assert time.monotonic() < deadline, "it does not begin"
        time.sleep(0.01)


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(subject, tmp_path):
    carried_out(planned(subject, "slow"), tmp_path / "undisturbed")
    (tmp_path / "hold").touch()
    with process(subject, tmp_path / "killed") as running:
        assert running.stdout.readline() == "begun\n"
        until_held(tmp_path, running)
        running.send_signal(signal.SIGKILL)
    (tmp_path / "hold").unlink()
    with open_store(tmp_path / "killed") as store:
        before = sum(each.items for each in store.tallies())
    assert 0 < before < ITEMS
    carried_out(planned(subject, "slow"), tmp_path / "killed")
    assert table(tmp_path / "killed") == table(tmp_path / "undisturbed")


@pytest.mark.slow  # two processes share a store in tests/test_store.py, and workers a run above
def test_two_processes_share_a_run(subject, tmp_path):
    carried_out(planned(subject, "slow"), tmp_path / "alone")
    with process(subject, tmp_path / "shared") as one, process(subject, tmp_path / "shared") as other:
        counts = [each.communicate(timeout=LONG)[0].split() for each in (one, other)]
    assert sum(int(words[-1]) for words in counts if words[-1] != "begun") == ITEMS  # nothing was done twice
    assert table(tmp_path / "shared") == table(tmp_path / "alone")


def test_masks_are_kept_and_can_be_read(subject, tmp_path):
    plan = planned(subject, **{"batch = 2": "batch = 2\nmasks = true"})
    session = carried_out(plan, tmp_path / "run")
    with session.place.store() as store:
        places = {each.masks for each in store.done() if each.row is not None}
    assert len(places) == 2 * 18  # a result for each method and query that did not fail
    for place in places:
        assert session.place.shards.read(*place.split("/")).map.shape == (1, 1, 24, 24)


def explanations(monkeypatch):
    """The chunks that a method is asked to explain, from now on."""
    asked = []
    explained = Workbench._explain_batch

    def counted(bench, method, net, group):
        asked.append([query.unit.name for query in group])
        return explained(bench, method, net, group)

    monkeypatch.setattr(Workbench, "_explain_batch", counted)
    return asked


KEPT = {"batch = 2": "batch = 2\nmasks = true"}
ADDED = {
    **KEPT,
    "[protocols]": '[protocols]\nenergy = "EnergyPointing"\ngame = { use = "InsertionDeletion", steps = 4 }',
}


@pytest.mark.slow
def test_a_protocol_that_is_added_judges_the_masks_that_were_kept(subject, tmp_path, monkeypatch):
    carried_out(planned(subject, **ADDED), tmp_path / "fresh")
    carried_out(planned(subject, **KEPT), tmp_path / "run")
    asked = explanations(monkeypatch)
    session = carried_out(planned(subject, **ADDED), tmp_path / "run")
    assert not asked
    assert table(tmp_path / "run") == table(tmp_path / "fresh")
    with session.place.store() as store:
        places = {each.masks for each in store.done() if each.row is not None}
        cost = results(session, store).seconds
    assert len(places) == 2 * 18  # those of the first plan
    assert all(cost.values())  # what the methods took then
    carried_out(planned(subject, **{**ADDED, "steps = 3": "steps = 4"}), tmp_path / "run")
    assert len([name for names in asked for name in names]) == 18  # those of another method are others


@pytest.mark.parametrize(
    "damage", ["missing", *(pytest.param(each, marks=pytest.mark.slow) for each in ("short", "changed"))]
)
def test_damaged_masks_are_computed_anew(subject, tmp_path, monkeypatch, damage):
    carried_out(planned(subject, **ADDED), tmp_path / "fresh")
    session = carried_out(planned(subject, **KEPT), tmp_path / "run")
    for shard in session.place.shards.folder.iterdir():
        content = shard.read_bytes()
        if damage == "missing":
            shard.unlink()
        else:
            shard.write_bytes(content[:-1] + (b"" if damage == "short" else bytes([content[-1] ^ 1])))
    asked = explanations(monkeypatch)
    with pytest.warns(UserWarning, match=r"the shard .*; what it held is computed anew where the run needs it"):
        carried_out(planned(subject, **ADDED), tmp_path / "run")
    assert asked
    assert table(tmp_path / "run") == table(tmp_path / "fresh")


@pytest.mark.slow
def test_without_masks_a_protocol_that_is_added_has_all_explained(subject, tmp_path, monkeypatch):
    carried_out(planned(subject), tmp_path / "run")
    asked = explanations(monkeypatch)
    carried_out(planned(subject, **{**ADDED, "batch = 2": "batch = 2"}), tmp_path / "run")
    assert asked


@pytest.mark.slow
def test_models_are_loaded_once(subject, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        models, "load", lambda *words, load=models.load, **more: loaded.append(words) or load(*words, **more)
    )
    session = carried_out(planned(subject), tmp_path / "run")
    assert len(loaded) == 1
    list(spread(session, 2))
    assert session.bench._classifiers == {}  # the workers hold them


def test_a_run_of_another_version_is_not_touched_unasked(subject, tmp_path):
    session = carried_out(planned(subject), tmp_path / "run")
    with session.place.store() as store:
        store.note("made by", {**session.made_by, "code": "another"})
    with pytest.raises(ValueError, match=r"another version \(code another, here .*--other-version anew"):
        begin(planned(subject), session.place)
    anew = begin(planned(subject), session.place, "anew")
    with anew.place.store() as store:
        assert anew.counts(store) == (ITEMS, 15)  # its own items, which this version had made


def test_what_only_shows_results_is_no_part_of_their_version(tmp_path, monkeypatch):
    for name in ("figures/plots.py", "figures/annotations/png.py", "methods/rise.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(source, "__file__", str(tmp_path / "runs/work/source.py"))
    before = source.code.__wrapped__()
    for name in ("figures/plots.py", "figures/annotations/png.py"):
        (tmp_path / name).write_text("changed")
    assert source.code.__wrapped__() == before
    (tmp_path / "methods/rise.py").write_text("changed")
    assert source.code.__wrapped__() != before


@pytest.mark.slow
def test_results_come_from_nothing_that_only_shows_them():
    words = (
        "import importlib, pkgutil, sys, sfumato; from sfumato.runs.work.source import ABOVE\n"
        "above = {f'sfumato.{name}' for name in ABOVE}\n"
        "sys.modules |= dict.fromkeys(above - {'sfumato.runs'})  # so that to import one of them fails\n"
        "for package in ('data', 'methods', 'metrics', 'models', 'runs.work.workbench'):\n"
        "    importlib.import_module(f'sfumato.{package}')\n"
    )
    subprocess.run([sys.executable, "-c", words], check=True)


def test_items_of_another_version_can_be_adopted(subject, tmp_path):
    session = begin(planned(subject), Place(tmp_path / "run"))
    with session.place.store() as store:
        store.note("made by", {**session.made_by, "code": "another"})
    adopted = carried_out(planned(subject), tmp_path / "run", other_version="adopt")
    assert adopted.made_by["code"] == "another"
    assert list(begin(planned(subject), session.place, "adopt").work()) == []


@pytest.mark.slow
def test_a_failing_worker_is_reported_and_the_run_goes_on(subject, tmp_path):
    session = begin(planned(subject), Place(tmp_path / "run"))
    changed = replace(session, weights={"seer": "other"}, bench=None)
    with pytest.raises(RuntimeError, match="a worker failed: model 'seer' has other weights here"):
        list(spread(changed, 1))
    assert carried_out(planned(subject), tmp_path / "run")


@pytest.mark.slow  # the next one kills workers too
def test_a_worker_that_is_killed_is_replaced(subject, tmp_path):
    carried_out(planned(subject, "slow"), tmp_path / "alone")
    session = begin(planned(subject, "slow"), Place(tmp_path / "run"))
    killed = 0
    with session.place.store() as store:
        for _ in spread(session, 1):
            if not killed and session.counts(store)[0]:
                for worker in multiprocessing.active_children():
                    worker.kill()
                    killed += 1
        assert killed == 1
        assert session.left(store) == 0
    assert table(tmp_path / "run") == table(tmp_path / "alone")


def test_workers_that_are_killed_again_and_again_end_the_run(subject, tmp_path):
    session = begin(planned(subject, "slow"), Place(tmp_path / "run"))

    def deadly():
        for _ in spread(session, 1):
            for worker in multiprocessing.active_children():
                worker.kill()

    with pytest.raises(
        RuntimeError,
        match="4 workers died one after another before they did anything, maybe for want of memory: .*take fewer",
    ):
        deadly()


def test_found_needs_a_run(tmp_path):
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises((ValueError, OSError), match="no run"):
        read_record(Place(tmp_path / "empty"))


@pytest.fixture
def lines(subject, tmp_path):
    session = carried_out(planned(subject), tmp_path / "run")
    with session.place.store() as store:
        yield session, store, list(summary.lines(session, store))


def test_lines_are_the_measures_of_the_rows(lines):
    session, store, found = lines
    accuracy = next(line for line in found if line.measure.name == "top 1")
    ranks = [row["rank"] for row in summary.rows(session, store) if row["protocol"] == "accuracy" and "rank" in row]
    assert accuracy.estimate.value == np.mean([rank == 1 for rank in ranks])
    assert accuracy.estimate.count == len(ranks) == 18
    assert accuracy.failed == 5


def test_differences_are_paired(lines):
    session, store, found = lines
    value = {
        line.method: line.estimate.value for line in found if line.protocol == "pointing" and line.measure.name == "all"
    }
    (difference, *_) = [
        line for line in summary.differences(session, store, "extremal", "gradient") if line.measure.name == "all"
    ]
    assert difference.estimate.value == pytest.approx(value["extremal"] - value["gradient"])
    marked = results(session, store).leading[difference.data, difference.model, "pointing", "all"]
    assert max(value, key=lambda method: value[method]) in marked
    with pytest.raises(
        ValueError, match="compare two different methods or models of the run; got 'extremal' and 'noth"
    ):
        list(summary.differences(session, store, "extremal", "nothing"))
    with pytest.raises(ValueError, match=r"did you mean gradient\?"):
        list(summary.differences(session, store, "extremal", "gradiant"))
    with pytest.raises(ValueError, match="two different methods or models of the run; got 'extremal' and 'extremal'"):
        list(summary.differences(session, store, "extremal", "extremal"))


def test_forms_hold_the_table(lines, tmp_path):
    session, store, found = lines
    cost = results(session, store).seconds
    assert set(cost) == {("squares", "seer", "gradient"), ("squares", "seer", "extremal")}
    text = markdown(found, cost)
    assert text.startswith("### squares, seer\n\nSeconds a query: gradient ")
    assert "\n#### pointing\n\n| method | all % ↑ | difficult % ↑ |" in text
    # Accuracy is asked of one method.
    assert (text.count("\n| extremal |"), text.count("\n| gradient |")) == (1, 2)
    assert latex(found, cost).count(r"\begin{tabular}") == text.count("\n#### ") == 2
    assert "{\\footnotesize Seconds a query: gradient" in latex(found, cost)
    write(records(found), tmp_path / "table.json")
    assert len(json.loads((tmp_path / "table.json").read_text())) == len(found)
    write(records(found), tmp_path / "table.csv")
    assert len((tmp_path / "table.csv").read_text().splitlines()) == len(found) + 1


def test_parquet_can_be_read_back(lines, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    _, _, found = lines
    write(records(found), tmp_path / "table.parquet")
    assert parquet.read_table(tmp_path / "table.parquet").to_pylist()[0]["method"] == found[0].method


def test_predicted_targets_are_the_models(subject, tmp_path):
    plan = planned(
        subject,
        **{'path = "pictures"': 'path = "pictures"\ntargets = "predicted"', "[protocols]\npointing": "[protocols]\n# "},
    )
    session = carried_out(plan, tmp_path / "run")
    with session.place.store() as store:
        rows = [row for row in summary.rows(session, store) if row["protocol"] == "accuracy"]
    assert len(rows) == 12
    assert all(row["rank"] == 1 for row in rows if not row["failed"])


def test_classes_that_match_in_part_are_not_taken_in_order(subject, tmp_path):
    """Red would be explained as green."""
    with pytest.raises(
        ValueError, match=r"line 11, data.squares.classes: .*'blue' fits none.*\n.*\n  blue = \"azure\""
    ):
        begin(planned(subject, "other"), Place(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_protocol_without_what_it_needs_is_refused_before_the_first_picture(subject, tmp_path):
    plan = planned(subject, **{'path = "pictures"': 'path = "pictures"\ntargets = "predicted"'})
    with pytest.raises(ValueError, match="PointingGame needs to know where the class is"):
        begin(plan, Place(tmp_path / "run"))


def test_a_run_without_a_terminal_writes_lines(written, tmp_path):
    ended = typed("run", written, "--out", tmp_path / "out")
    lines = [line for line in ended.stderr.splitlines() if f"of {ITEMS} items" in line]
    assert lines
    assert f" {ITEMS} of {ITEMS} items (100 %), " in lines[-1]
    assert "15 failed" in lines[-1]
    assert "\x1b" not in ended.stderr


def test_folders_that_cannot_be_made_are_named(subject, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--out must be a folder"):
        begin(planned(subject), Place(tmp_path / "file"))


def typed(*words, columns=160):
    return CliRunner().invoke(app, ["bench", *map(str, words)], env={"COLUMNS": str(columns)})


@pytest.fixture
def written(subject):
    """The plan as a file."""
    folder, name = subject
    (folder / "plan.toml").write_text(PLAN.format(module=name, model="seer"))
    return folder / "plan.toml"


def test_the_command_line_from_plan_to_table(written, tmp_path):
    out = tmp_path / "out"
    ended = typed("run", written, "--out", out)
    assert ended.exit_code == 1  # some items failed
    assert f"{ITEMS} items are done, {ITEMS} of them now; 15 failed" in ended.output
    assert "see why with: sfumato bench status" in ended.output
    again = typed("resume", out)
    assert f"{ITEMS} items are done, 0 of them now; 15 failed" in again.output
    status = typed("status", out)
    assert f"{ITEMS} of {ITEMS} items are done, of which 15 failed" in status.output
    assert "3 × the annotation of … is damaged (e.g. example 7)" in status.output
    assert "squares → seer: 3 of 3 classes by name" in status.output
    shown = typed("table", out)
    assert shown.exit_code == 0
    assert "squares, seer" in shown.output
    narrow = typed("table", out, columns=80).output
    assert "…" not in narrow
    assert "pointing (2 of 2)" in narrow  # parted rather than squeezed
    said = " ".join(narrow.split())
    assert "[low, high]: 95 % interval over pictures; ↑ more is better" in said
    assert "few: of fewer than 10 pictures" in said
    assert "items that failed, and do not count: gradient 5, extremal 5" in said
    compared = typed("compare", out, "extremal", "gradient", columns=80)
    assert "\nsquares, seer\n" in compared.output
    assert "…" not in compared.output  # nothing is cut off on a narrow screen
    assert "95 % interval" in compared.output
    assert "too few: of fewer than 10 pictures" in compared.output  # of nine, with two queries each
    assert compared.output.count("too few") > 1
    assert "accuracy" not in compared.output  # of one method only
    for suffix in (".md", ".tex", ".csv", ".json"):
        assert typed("export", out, tmp_path / f"table{suffix}").exit_code == 0
        assert "extremal" in (tmp_path / f"table{suffix}").read_text()
    typed("export", out, tmp_path / "rows.csv", "--rows")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == ITEMS + 1


def exported(folder, count, suffix):
    """The most bytes that were held while so many rows were exported."""
    place = Place(folder / str(count))
    with place.store(create=True) as store:
        recipe = store.add_recipes({"hash": {"data": "some"}})["hash"]
        for first in range(0, count, 1000):
            block = range(first, min(first + 1000, count))
            store.put_examples(
                "some", first, [StoredExample(f"picture {at}", f"of {at}", (f"{at}.png",), "{}", (1,)) for at in block]
            )
            planned = store.planned("some", block[0], block[-1])
            store.commit(
                [
                    Done(
                        Item(recipe, each.query), f"picture {each.place}", 1, {"hit": True, "energy": 0.5 + each.place}
                    )
                    for each in planned
                ]
            )
        store.finish_examples("some", count)
        where = Where("some", "net", "gradient", "pointing", recipe)
        record = Record(place, "", folder, {}, {}, (where,), {"some": {"examples": count, "queries": count}}, {})
        tracemalloc.start()
        try:
            write(summary.rows(record, store), folder / f"rows{suffix}", summary.names(store))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_an_export_holds_some_rows_at_a_time(tmp_path, monkeypatch, suffix):
    """However many there are: of twelve million, all would be more than most machines have."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        monkeypatch.setattr(parquet, "BATCH", 500)
    exported(tmp_path, 10, suffix)  # what is imported on the way
    few, many = (exported(tmp_path, count, suffix) for count in (2000, 6000))
    assert many < 1.5 * few  # all rows would be three times as much
    lines = (tmp_path / f"rows{suffix}").read_bytes()
    assert len(lines) > 6000 if suffix == ".parquet" else lines.count(b"gradient") == 6000


def test_an_export_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.json"
    write([{"value": 1.0}], path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write([{"value": 2.0}, {"value": object()}], path)
    with pytest.raises(FileNotFoundError, match="cannot write .*nowhere/rows.csv'"):
        write([{"value": 1.0}], tmp_path / "nowhere/rows.csv")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_failed_can_be_tried_again(written, tmp_path):
    typed("run", written, "--out", tmp_path / "out")
    source, target = tmp_path / "pictures/0.png", tmp_path / "pictures/5.png"
    target.write_bytes(source.read_bytes())  # the missing picture is there now: another item, as its file has a size
    ended = typed("run", written, "--out", tmp_path / "out")
    assert f"{ITEMS} items are done, 6 of them now; 9 failed" in ended.output
    retried = typed("run", written, "--out", tmp_path / "out", "--retry")
    assert f"{ITEMS} items are done, 9 of them now; 9 failed" in retried.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "nowhere.toml", "--out", "out"), "cannot read the plan 'nowhere.toml'"),
        (("status", "nowhere"), "no run in 'nowhere': there is no such folder"),
        (("table", "nowhere"), "no run in 'nowhere'"),
        (("resume", "nowhere", "--other-version", "old"), "--other-version takes"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(monkeypatch, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    ended = typed(*words)
    assert ended.exit_code == 2
    assert said in ended.output
    assert "Traceback" not in ended.output


def test_a_table_of_unknown_form_is_refused(written, tmp_path):
    typed("run", written, "--out", tmp_path / "out")
    assert "ending in .md, .tex, .csv, .parquet, .json" in typed("export", tmp_path / "out", "table.doc").output
    assert "ending in .csv, .parquet, .json" in typed("export", tmp_path / "out", "rows.md", "--rows").output


@pytest.mark.slow
def test_an_interrupted_command_says_how_to_go_on(subject, tmp_path):
    folder, name = subject
    (folder / "plan.toml").write_text(PLAN.format(module=name, model="slow"))
    command = [
        sys.executable,
        "-m",
        "sfumato.cli",
        "bench",
        "run",
        str(folder / "plan.toml"),
        "--out",
        str(tmp_path / "out"),
    ]
    (tmp_path / "hold").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        until_held(tmp_path, running)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=LONG)[1]
    (tmp_path / "hold").unlink()
    assert running.returncode == 130
    assert "interrupted; the results written so far are kept" in said
    assert f"go on with: sfumato bench resume {tmp_path / 'out'}" in said
    assert "Traceback" not in said
    assert f"{ITEMS} items are done" in typed("resume", tmp_path / "out").output


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_rows_are_the_same_in_a_database(subject, tmp_path, postgres, workers):
    carried_out(planned(subject), tmp_path / "file")
    session = begin(planned(subject), Place(tmp_path / "database", postgres.url()))
    with one_thread():
        list(spread(session, workers) if workers else session.work())
    assert not (tmp_path / "database/run.sqlite").exists()
    with session.place.store() as store:
        rows = [json.dumps(row, sort_keys=True) for row in summary.rows(session, store)]
    assert rows == table(tmp_path / "file")
    shown = typed("status", tmp_path / "database", "--store", postgres.url())
    assert f"{ITEMS} of {ITEMS} items are done" in shown.output
    for command in ("status", "resume"):  # none is begun anew in the folder itself
        assert "give its address with --store" in " ".join(typed(command, tmp_path / "database").output.split())
    assert not (tmp_path / "database/run.sqlite").exists()
    for command in ("status", "resume"):  # nor in the database
        shown = typed(command, tmp_path / "file", "--store", postgres.url())
        assert "are in its file run.sqlite" in " ".join(shown.output.split())
    assert not (tmp_path / "file/name.txt").exists()


@pytest.mark.parametrize("address", ["postgresql://tester:secret@127.0.0.1:1/rows", "mysql://tester@127.0.0.1/rows"])
def test_a_database_that_does_not_open_leaves_no_folder(written, tmp_path, address):
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    (tmp_path / "there").mkdir()
    for out in ("new/run", "there"):
        shown = typed("run", written, "--out", tmp_path / out, "--store", address)
        assert shown.exit_code == 2
        assert "secret" not in shown.output
    looked = typed("status", tmp_path / "there", "--store", address)
    assert looked.exit_code == 2
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("address", ["postgresql://tester:secret@localhost/rows", "s3://bucket/run"])
def test_an_address_is_no_folder(written, tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    shown = typed("run", written, "--out", address)
    assert shown.exit_code == 2
    assert "write --out FOLDER --store ADDRESS" in " ".join(shown.output.split())
    assert "secret" not in shown.output
    looked = typed("status", address)
    assert looked.exit_code == 2
    assert "write --out FOLDER --store ADDRESS" in " ".join(looked.output.split())
    assert "secret" not in looked.output
    with pytest.raises(ValueError, match="write --out FOLDER --store ADDRESS"):
        sfumato.report.for_run(address)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert Place(tmp_path.with_name("C:") / "runs").folder.name == "runs"  # a drive is none
