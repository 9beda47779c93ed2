"""Every row belongs to its picture, class, annotation and code; a run that is done needs nothing but itself."""

import contextlib
import csv
import importlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.runs.execution.session import begin
from sfumato.runs.plans.plan import parse
from sfumato.runs.results import summary
from sfumato.runs.results.record import Place, read_record
from sfumato.runs.stores import content
from sfumato.runs.stores.content import stamp
from sfumato.runs.stores.store import Done, Item, Owner
from sfumato.runs.work import undone
from sfumato.runs.work.workbench import identity

PICTURES = 6

NETS = '''
"""Networks that see colours."""
from dataclasses import replace
import torch
from torch import nn
from sfumato.models import Classifier, Preparation

class Seer(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.head = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.head(x).mean((2, 3)) + (x * torch.eye(3)[:, :, None, None].sum(0)).amax((2, 3))

def seer():
    return Classifier("seer", Seer(0).eval(), Preparation(24, None, (0.5,) * 3, (0.25,) * 3), ("red", "green", "blue"))

def tags():
    return replace(seer(), multi_label=True)

def other():
    return Classifier("other", Seer(1).eval(), Preparation(24, None, (0.5,) * 3, (0.25,) * 3), ("red", "green", "blue"))
'''

METHODS = '''
"""A method and a protocol of a user's own."""
from dataclasses import dataclass
from {helper} import FACTOR
import torch
from sfumato.attribution import Attribution
from sfumato.metrics.estimate import Measure, mean
from sfumato.metrics.protocol import Protocol

@dataclass(frozen=True)
class Mine:
    def __call__(self, model, inputs, target=None):
        return Attribution(map=FACTOR * inputs.sum(1, keepdim=True), about={{"method": "mine"}})

@dataclass(frozen=True)
class Dice:
    def __call__(self, model, inputs, target=None):
        return Attribution(map=inputs.sum(1, keepdim=True) + torch.rand(len(inputs), 1, 1, 1), about={{"method": "dice"}})

@dataclass(frozen=True)
class Sum(Protocol):
    def measure(self, case):
        return {{"sum": float(case.map.sum()), "seed": float(case.seed % 2**20)}}

    def measures(self, rows):
        return (Measure("sum", mean("sum")),)
'''

PLAN = """
{options}
[models]
seer = "{module}_nets:seer"
{models}
[methods]
gradient = "Gradient"
{methods}
[protocols]
{pointing}
{protocols}
"""
POINTING = 'pointing = { use = "PointingGame", tolerance = 1 }'


class Bench:
    """Pictures, tables of them, a user's modules, and runs over these."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.module = f"own_{root.name.replace('-', '_')}_{time.monotonic_ns()}"
        monkeypatch.syspath_prepend(root)
        (root / f"{self.module}_nets.py").write_text(NETS)
        (root / f"{self.module}_helper.py").write_text("FACTOR = 1.0\n")
        (root / f"{self.module}_methods.py").write_text(METHODS.format(helper=f"{self.module}_helper"))
        (root / "pictures").mkdir()
        for index in range(PICTURES):
            self.draw(index, index)
        self.table("first", [0, 0, 8, 8], "red")
        self.table("second", [24, 24, 40, 40], "red")
        self.table("third", [0, 0, 40, 40], "blue")

    def draw(self, index, seed):
        """A picture whose file is as large whatever is in it."""
        values = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(values).save(self.root / "pictures" / f"{index}.bmp")

    def table(self, name, box, target):
        lines = [f'pictures/{index}.bmp,{target},"[{box}]"' for index in range(PICTURES)]
        (self.root / f"{name}.csv").write_text("\n".join(["path,target,boxes", *lines]) + "\n")

    def text(self, *data, options="", models="", methods="", protocols="", more="", pointing=POINTING):
        text = PLAN.format(
            module=self.module,
            options=options,
            models=models,
            methods=methods,
            protocols=protocols,
            pointing=pointing,
        ).replace("MODULE", self.module)
        sets = (
            f'[data.{name}]\nuse = "Table"\npath = "{name}.csv"\nnames = ["red", "green", "blue"]\n{more}'
            for name in data
        )
        return text + "\n".join(sets)

    def run(self, folder, *data, **parts):
        """The run after it was done, and how many items were done now."""
        session = begin(parse(self.text(*data, **parts), self.root), Place(self.root / folder))
        with session.place.store() as store:
            left = session.look(store)
        done = sum(progress.done for progress in list(session.work())[-1:])
        assert done == left
        with session.place.store() as store:
            assert session.left(store) == 0
        return session, done

    def rows(self, folder):
        record = read_record(Place(self.root / folder))
        with record.place.store() as store:
            return [json.dumps(row) for row in summary.rows(record, store)]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def typed(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)], env={"COLUMNS": "160"})


# Whose annotation


def test_data_sets_over_the_same_pictures_have_each_its_own_annotation(bench):
    alone = [row for name in ("first", "second", "third") for row in (bench.run(name, name), bench.rows(name))[1]]
    bench.run("together", "first", "second", "third")
    assert bench.rows("together") == alone
    hits = {name: [json.loads(row)["hit"] for row in bench.rows(name)] for name in ("first", "third")}
    assert all(hits["third"])  # the box is the picture
    assert not all(hits["first"])


def test_the_probability_of_one_of_several_labels_is_its_own(bench):
    """To methods and to protocols alike."""
    meanings = [f'{name} = {{ use = "InsertionDeletion", steps = 4, score = "{name}" }}' for name in SCORES]
    rise = 'rise = { use = "RISE", samples = 20 }'
    bench.run(
        "run", "first", models='tags = "MODULE_nets:tags"', methods=rise, protocols="\n".join(meanings), pointing=""
    )
    found = {}
    for row in map(json.loads, bench.rows("run")):
        key = row["model"], row["method"], row["protocol"]
        found.setdefault(key, []).append((row["insertion"], row["deletion"], row["whole"]))
    assert found["tags", "gradient", "probability"] == found["seer", "gradient", "sigmoid"]
    assert found["tags", "gradient", "probability"] != found["seer", "gradient", "probability"]
    assert found["tags", "gradient", "logit"] == found["seer", "gradient", "logit"]
    assert found["tags", "rise", "logit"] != found["seer", "rise", "logit"]  # another map


SCORES = "probability", "sigmoid", "logit"


def test_rows_of_a_network_with_several_labels_are_not_those_of_one_label(bench):
    nets = importlib.import_module(f"{bench.module}_nets")
    names = [identity(make(), f"{bench.module}_nets:seer") for make in (nets.seer, nets.tags, nets.seer)]
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("order", [("first", "listed"), ("listed", "first")], ids="-".join)
def test_a_list_of_difficult_cases_is_about_its_own_data_set(bench, order):
    (bench.root / "list.csv").write_text("picture,class\npictures/1,red\npictures/4,red\n")
    table = bench.text("first").partition("[data.first]\n")[2].replace("\n", ", ").rstrip(", ")
    sets = {
        "first": bench.text("first").partition("[data.first]")[2],
        "listed": f'\nuse = "Listed"\npath = "list.csv"\ndata = {{ {table} }}\n',
    }
    text = bench.text() + "".join(f"[data.{name}]{sets[name]}" for name in order)
    list(begin(parse(text, bench.root), Place(bench.root / "run")).work())
    rows = [json.loads(row) for row in bench.rows("run")]
    difficult = {name: [row["difficult"] for row in rows if row["data"] == name] for name in order}
    assert difficult["listed"] == [index in (1, 4) for index in range(PICTURES)]
    assert len(set(difficult["first"])) == 1  # by the rule, which says the same of all, as their boxes are the same


@pytest.mark.parametrize("seed", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in range(1, 9))])
def test_rows_do_not_depend_on_how_they_came_about(bench, seed):
    """Any order of data sets, methods and batches of plans that grow and shrink ends in the rows of one plan."""
    draw = random.Random(seed)
    names = ["first", "second", "third"]
    methods = ['guided = "GuidedBackprop"', 'mine = "MODULE_methods:Mine"']
    bench.run("fresh", *names, methods="\n".join(methods))
    for _ in range(3):
        some = draw.sample(names, draw.randint(1, 3))
        chosen = draw.sample(methods, draw.randint(0, 2))
        bench.run("history", *some, methods="\n".join(chosen))
    bench.run("history", *names, methods="\n".join(methods))
    assert bench.rows("history") == bench.rows("fresh")


def test_an_annotation_that_changes_makes_other_items_and_comes_back(bench):
    bench.run("run", "first")
    before = bench.rows("run")
    bench.table("first", [0, 0, 40, 40], "red")
    _, done = bench.run("run", "first")
    assert done == PICTURES
    assert all(json.loads(row)["hit"] for row in bench.rows("run"))
    bench.table("first", [0, 0, 8, 8], "red")
    assert bench.run("run", "first")[1] == 0
    assert bench.rows("run") == before


def test_a_picture_that_is_added_or_taken_away_moves_no_row(bench):
    bench.run("run", "first")
    before = bench.rows("run")
    lines = (bench.root / "first.csv").read_text().splitlines()
    (bench.root / "first.csv").write_text("\n".join([lines[0], *lines[3:], lines[1]]) + "\n")
    assert bench.run("run", "first")[1] == 0
    assert bench.rows("run") == [*before[2:], before[0]]
    (bench.root / "first.csv").write_text("\n".join(lines) + "\n")
    assert bench.run("run", "first")[1] == 0
    assert bench.rows("run") == before


def test_what_a_method_draws_depends_on_its_picture_and_not_on_its_batch(bench):
    """A picture in front moves the others to other batches: their rows are as if it had been there from the start."""
    parts = {
        "options": "batch = 2",
        "methods": 'dice = "MODULE_methods:Dice"',
        "protocols": 'sum = "MODULE_methods:Sum"',
    }
    lines = (bench.root / "first.csv").read_text().splitlines()
    (bench.root / "first.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    bench.run("history", "first", **parts)
    (bench.root / "first.csv").write_text("\n".join(lines) + "\n")
    _, done = bench.run("history", "first", **parts)
    assert done == 4  # of the new picture
    bench.run("fresh", "first", **parts)
    assert bench.rows("history") == bench.rows("fresh")
    bench.run("alone", "first", **{**parts, "options": ""})
    assert bench.rows("alone") == bench.rows("fresh")


@pytest.mark.parametrize("page", [1000, 4, 3, 1])
def test_what_is_left_is_the_same_after_a_look(bench, monkeypatch, page):
    """Windows of queries whose items are all done are passed over by their numbers; the others have the same chunks."""
    monkeypatch.setattr(undone, "QUERIES", page)
    session, _ = bench.run("run", "first", "second", options="batch = 2", methods='guided = "GuidedBackprop"')
    draw = random.Random(page)
    with session.place.store() as store:
        items = [done.item for done in store.done()]
        for count in (0, 1, 3, 12, len(items)):
            store.forget(draw.sample(items, count))
            session.look(store)
            windows = [list(session.undone(store, looked)) for looked in (False, True)]
            assert windows[0] == windows[1]
            left = sum(len(some) for window in windows[0] for _, some in window)
            assert left == session.left(store) >= count


def test_a_start_looks_at_all_files_once(bench, monkeypatch):
    """And again at those of which something is left to do: with a million pictures each look takes seconds."""
    monkeypatch.setattr(undone, "QUERIES", 1)
    looks = []
    plan = bench.root / "plan.toml"
    plan.write_text(bench.text("first"))
    assert typed("run", plan, "--out", bench.root / "run").exit_code == 0
    with Place(bench.root / "run").store() as store:
        store.forget([list(store.done())[-1].item])
    monkeypatch.setattr(undone, "stamp", lambda paths: looks.append(paths) or stamp(paths))
    ended = typed("run", plan, "--out", bench.root / "run")
    assert "1 of them now" in ended.output
    assert len(looks) == PICTURES + 1


def test_a_stamp_is_plain_json(tmp_path):
    (tmp_path / "file").write_text("some")
    there, away = json.loads(stamp([tmp_path / "file", tmp_path / "nowhere"]))
    status = (tmp_path / "file").stat()
    assert (there, away) == ([4, status.st_mtime_ns, status.st_ctime_ns, status.st_ino], None)


def test_a_link_to_another_picture_of_the_same_size_and_time_is_another_picture(bench, monkeypatch):
    """Pictures that a script writes one after the other have the same times on most disks."""

    def coarse(path):
        status = Path(path).stat()
        return SimpleNamespace(st_size=status.st_size, st_mtime_ns=1, st_ctime_ns=1, st_ino=status.st_ino)

    monkeypatch.setattr(content, "os", SimpleNamespace(stat=coarse))
    pictures = bench.root / "pictures"
    (pictures / "2.bmp").rename(pictures / "some.bmp")
    bench.draw(7, 7)
    (pictures / "2.bmp").symlink_to("some.bmp")
    bench.run("run", "first")
    (pictures / "2.bmp").unlink()
    (pictures / "2.bmp").symlink_to("7.bmp")
    assert bench.run("run", "first")[1] == 1
    bench.run("fresh", "first")
    assert bench.rows("run") == bench.rows("fresh")


# Whose picture


def test_a_picture_is_known_by_its_content(bench):
    bench.run("run", "first", "second")
    before, path = bench.rows("run"), bench.root / "pictures/2.bmp"
    content, size = path.read_bytes(), path.stat().st_size
    bench.draw(2, 100)
    assert path.stat().st_size == size
    _, done = bench.run("run", "first", "second")
    assert done == 2  # in each data set one
    assert bench.rows("run") != before
    bench.run("fresh", "first", "second")
    assert bench.rows("run") == bench.rows("fresh")
    path.write_bytes(content)
    assert bench.run("run", "first", "second")[1] == 0  # as it was before
    assert bench.rows("run") == before
    os.utime(path, (1, 1))
    assert bench.run("run", "first", "second")[1] == 0  # touched only


def test_pictures_that_are_away_keep_their_rows(bench):
    """As of a run that is gone on with where a disk is not mounted: nothing is done anew, and what is new fails."""
    guided = {"methods": 'guided = "GuidedBackprop"'}
    bench.run("run", "first")
    before = bench.rows("run")
    (bench.root / "moved").mkdir()
    away = [bench.root / f"pictures/{index}.bmp" for index in range(1, PICTURES)]
    for path in away:
        path.rename(bench.root / "moved" / path.name)
    assert bench.run("run", "first")[1] == 0
    assert bench.rows("run") == before
    session, done = bench.run("run", "first", **guided)
    assert done == PICTURES
    with session.place.store() as store:
        assert session.counts(store) == (2 * PICTURES, PICTURES - 1)
    for path in away:
        (bench.root / "moved" / path.name).rename(path)
    with session.place.store() as store:
        session.retry(store)
    assert bench.run("run", "first", **guided)[1] == PICTURES - 1
    assert bench.rows("run")[:PICTURES] == before


def test_a_picture_that_changes_while_a_run_is_under_way_is_not_the_old_one(bench):
    session = begin(parse(bench.text("first"), bench.root), Place(bench.root / "run"))
    bench.draw(4, 100)
    list(session.work())
    bench.run("fresh", "first")
    assert bench.rows("run") == bench.rows("fresh")


def test_what_is_done_of_a_picture_that_was_replaced_meanwhile_does_not_count(bench):
    """Another process has looked into the new picture before this one commits what it found in the old one."""
    session = begin(parse(bench.text("first"), bench.root), Place(bench.root / "run"))
    with session.place.store() as store:
        (window,) = session.undone(store)
        items = [item for _, missing in window for item in missing]
        bench.draw(3, 100)
        assert session.look(store) == PICTURES
        store.commit([Done(item, "some", 0, {"hit": True}) for item in items])
        assert session.counts(store) == (PICTURES - 1, 0)
        assert session.left(store) == 1
        assert len(list(store.done())) == PICTURES


def test_a_mask_is_known_by_its_content(bench):
    for index in range(2):
        for part in ("images", "masks"):
            (bench.root / "masked" / part / "red").mkdir(parents=True, exist_ok=True)
        shutil.copy(bench.root / f"pictures/{index}.bmp", bench.root / f"masked/images/red/{index}.bmp")
        Image.new("L", (40, 40), 255).save(bench.root / f"masked/masks/red/{index}.png")
    (bench.root / "masked/images/green").mkdir()
    (bench.root / "masked/images/blue").mkdir()
    text = bench.text() + '[data.masked]\nuse = "Masked"\npath = "masked"\n'

    def done():
        session = begin(parse(text, bench.root), Place(bench.root / "run"))
        return sum(progress.done for progress in list(session.work())[-1:])

    assert done() == 2
    mask = Image.new("L", (40, 40))
    mask.putpixel((0, 0), 255)
    mask.save(bench.root / "masked/masks/red/1.png")
    assert done() == 1
    hits = [json.loads(row)["hit"] for row in bench.rows("run")]
    assert hits == [True, False]


# Whose code


SUM = {"protocols": 'sum = "MODULE_methods:Sum"'}
OWN = {"methods": 'mine = "MODULE_methods:Mine"', "protocols": 'sum = "MODULE_methods:Sum"'}


def changed(bench, name, old, new):
    """Edit a module and load it anew, as a new process would."""
    path = bench.root / f"{bench.module}_{name}.py"
    path.write_text(path.read_text().replace(old, new))
    importlib.invalidate_caches()
    for each in ("helper", "methods", "nets"):
        sys.modules.pop(f"{bench.module}_{each}", None)


def test_a_method_whose_source_changes_is_done_anew(bench):
    _, first = bench.run("run", "first", **OWN)
    assert first == 4 * PICTURES
    before = bench.rows("run")
    changed(bench, "methods", "inputs.sum(1", "inputs.mean(1")
    _, done = bench.run("run", "first", **OWN)
    assert done == 3 * PICTURES  # what the protocol of that module judges too
    assert bench.rows("run") != before
    changed(bench, "methods", "inputs.mean(1", "inputs.sum(1")
    assert bench.run("run", "first", **OWN)[1] == 0
    assert bench.rows("run") == before


def test_what_a_user_s_module_imports_counts_too(bench):
    bench.run("run", "first", **OWN)
    changed(bench, "helper", "1.0", "2.0")
    assert bench.run("run", "first", **OWN)[1] == 3 * PICTURES
    sums = [json.loads(row) for row in bench.rows("run")]
    one, two = (
        [row["sum"] for row in sums if row["protocol"] == "sum" and row["method"] == name]
        for name in ("gradient", "mine")
    )
    assert one != two


def test_a_model_s_source_counts(bench):
    bench.run("run", "first")
    changed(bench, "nets", "self.head(x).mean", "-self.head(x).mean")
    assert bench.run("run", "first")[1] == PICTURES


LAZY = """
from dataclasses import dataclass
from sfumato.attribution import Attribution

@dataclass(frozen=True)
class Lazy:
    def __call__(self, model, inputs, target=None):
        from . import factor
        return Attribution(map=factor.FACTOR * inputs.sum(1, keepdim=True), about={"method": "lazy"})
"""

DERIVED = """
from dataclasses import dataclass
from {base}.lazy import Lazy

@dataclass(frozen=True)
class Derived(Lazy):
    pass
"""


def test_what_a_method_imports_when_it_is_called_and_what_it_derives_from_counts_too(bench):
    """In whatever process, the modules that are loaded there do not count but those that would be."""
    base, own = f"{bench.module}_base", f"{bench.module}_own"
    for package in (base, own):
        (bench.root / package).mkdir()
        (bench.root / package / "__init__.py").touch()
    (bench.root / base / "lazy.py").write_text(LAZY)
    (bench.root / own / "derived.py").write_text(DERIVED.format(base=base))
    parts = {"methods": f'lazy = "{base}.lazy:Lazy"\nderived = "{own}.derived:Derived"', "pointing": "", **SUM}

    def done(factor):
        (bench.root / base / "factor.py").write_text(f"FACTOR = {factor}\n")
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.startswith(bench.module)]:
            del sys.modules[name]
        return bench.run("run", "first", **parts)[1]

    assert done("1.0") == 3 * PICTURES
    assert bench.run("run", "first", **parts)[1] == 0  # where all is loaded
    assert done("-12.5") == 2 * PICTURES
    bench.run("fresh", "first", **parts)
    assert bench.rows("run") == bench.rows("fresh")
    assert done("1.0") == 0


def test_a_class_with_a_version_is_known_by_that(bench):
    changed(bench, "methods", "class Mine:\n", 'class Mine:\n    version = "1"\n')
    bench.run("run", "first", methods=OWN["methods"])
    changed(bench, "helper", "1.0", "2.0")
    assert bench.run("run", "first", methods=OWN["methods"])[1] == 0
    changed(bench, "methods", 'version = "1"', 'version = "2"')
    assert bench.run("run", "first", methods=OWN["methods"])[1] == PICTURES


def test_what_is_named_is_done_again(bench):
    bench.run("run", "first", **OWN)
    before = bench.rows("run")
    (bench.root / "plan.toml").write_text(bench.text("first", **OWN))
    for name, count in (("mine", 2), ("sum", 2), ("seer", 4)):
        ended = typed("run", bench.root / "plan.toml", "--out", bench.root / "run", "--redo", name)
        assert f"{4 * PICTURES} items are done, {count * PICTURES} of them now; 0 failed" in ended.output
    assert bench.rows("run") == before
    ended = typed("run", bench.root / "plan.toml", "--out", bench.root / "run", "--redo", "mina")
    assert ended.exit_code == 2
    assert "nothing in the plan is called 'mina'" in ended.output
    assert "mine" in ended.output


def test_another_batch_is_another_item(bench):
    """Which queries share a batch shows in the last digits."""
    bench.run("run", "first")
    assert bench.run("run", "first", options="batch = 4")[1] == PICTURES
    assert bench.run("run", "first")[1] == 0


# What is drawn


def test_what_protocols_draw_is_the_same_for_all_methods_and_models(bench):
    bench.run("run", "first", "second", **OWN, models='other = "MODULE_nets:other"')
    rows = [json.loads(row) for row in bench.rows("run") if '"seed"' in row]
    seeds = {}
    for row in rows:
        seeds.setdefault(row["example"], set()).add(row["seed"])
    assert len(rows) == 2 * 2 * 2 * PICTURES
    assert all(len(each) == 1 for each in seeds.values())
    assert len({tuple(each) for each in seeds.values()}) == PICTURES


# A finished run needs nothing but itself


def looked_at(folder, out):
    """What every command that looks at a run says."""
    told = {words[0]: typed(*words, folder) for words in (["status"], ["table"])}
    told["compare"] = typed("compare", folder, "mine", "gradient")
    for name in ("rows.csv", "rows.json", "table.csv", "table.md", "table.tex"):
        told[name] = typed("export", folder, out / name, *(["--rows"] if name.startswith("rows") else []))
    told["report"] = CliRunner().invoke(app, ["report", str(folder), "-o", str(out / "report.html")])
    assert {name: each.exit_code for name, each in told.items()} == dict.fromkeys(told, 0)
    files = {path.name: path.read_text() for path in sorted(out.iterdir()) if path.suffix != ".html"}
    return {name: told[name].output for name in ("status", "table", "compare")}, files


def test_a_finished_run_needs_nothing_but_itself(bench, monkeypatch, read_only):
    monkeypatch.setenv("OWN_DATA", str(bench.root))
    bench.run("run", "first", options="masks = true", **{**OWN, "protocols": ""})
    text = bench.text("first", **{**OWN, "protocols": ""}).replace('path = "first.csv"', 'path = "$OWN_DATA/first.csv"')
    session = begin(parse(text, bench.root), Place(bench.root / "run"))
    list(session.work())
    (bench.root / "before").mkdir()
    before = looked_at(bench.root / "run", bench.root / "before")
    monkeypatch.delenv("OWN_DATA")
    shutil.move(bench.root / "pictures", bench.root / "moved")
    (bench.root / "first.csv").unlink()
    for name in ("methods", "nets", "helper"):
        changed(bench, name, "import", "import nowhere_to_be_found, ")
    (bench.root / "after").mkdir()
    assert looked_at(bench.root / "run", bench.root / "after") == before
    assert "12 of 12 items are done" in before[0]["status"]
    elsewhere = bench.root / "elsewhere"
    shutil.copytree(bench.root / "run", elsewhere)
    (bench.root / "copied").mkdir()
    with read_only(elsewhere):
        assert looked_at(elsewhere, bench.root / "copied") == before


def test_how_far_a_run_is_is_said_without_torch(bench):
    """Which takes seconds to load."""
    bench.run("run", "first")
    words = "import sys; from sfumato.cli import app\ntry:\n    app()\nfinally:\n    print('torch' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", words, "bench", "status", bench.root / "run"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[1:] == ["6 of 6 items are done, of which 0 failed", "False"]


def test_a_copy_with_its_log_is_whole(bench, read_only):
    """A run that was copied while it was under way: some of its rows are in SQLite's log."""
    session, _ = bench.run("run", "first")
    with session.place.store() as store:
        store.commit([Done(Item(min(session.recipes), 10**6), "late", 0, {"hit": True})])  # of no query
        shutil.copytree(bench.root / "run", bench.root / "copy")
    assert (bench.root / "copy/run.sqlite-wal").stat().st_size
    with read_only(bench.root / "copy"):
        record = read_record(Place(bench.root / "copy"))
        with record.place.store() as store:
            assert len(list(store.done())) == PICTURES + 1


def test_a_table_says_what_the_protocol_says_of_its_rows(bench):
    """Though a table's pictures are numbers, and part of them tunes by its name."""
    session, _ = bench.run("run", "first", "second", protocols='weak = "WeakLocalisation"')
    with session.place.store() as store:
        lines = list(summary.lines(session, store))
        every = list(summary.rows(session, store))
    for protocol in ("pointing", "weak"):
        for data in ("first", "second"):
            rows = [row for row in every if (row["data"], row["protocol"]) == (data, protocol)]
            told = [
                {name: value for name, value in row.items() if name != "tuning"} | {"picture": row["example"]}
                for row in rows
            ]
            expected = session.protocols[protocol].summarise(told)
            found = {
                line.measure.name: line.estimate for line in lines if (line.data, line.protocol) == (data, protocol)
            }
            assert str(found) == str(dict(expected))


# Pairs


HOLES = '''
from dataclasses import dataclass
from sfumato.metrics.estimate import Measure, mean
from sfumato.metrics.protocol import Protocol

@dataclass(frozen=True)
class Holes(Protocol):
    """The same for all methods, but that one has no value where others have."""
    def measure(self, case):
        value = float(case.inputs.mean())
        return {"value": float("nan") if case.attribution.about["method"] == "mine" and case.seed % 2 else value}

    def measures(self, rows):
        return (Measure("value", mean("value")),)
'''


def test_pairs_are_rows_that_both_sides_know(bench):
    (bench.root / f"{bench.module}_holes.py").write_text(HOLES)
    session, _ = bench.run("run", "first", methods=OWN["methods"], protocols='holes = { use = "MODULE_holes:Holes" }')
    with session.place.store() as store:
        (line,) = (each for each in summary.differences(session, store, "mine", "gradient") if each.protocol == "holes")
        known = sum(
            not each["failed"] and each.get("value") == each.get("value")
            for each in summary.rows(session, store)
            if each["protocol"] == "holes" and each["method"] == "mine"
        )
    assert 0 < known < PICTURES
    assert (line.estimate.value, line.estimate.count, line.of) == (0.0, known, PICTURES)
    assert not line.estimate.settled


def test_models_are_compared_on_the_classes_that_both_predict(bench):
    session, _ = bench.run(
        "run",
        "first",
        models='other = "MODULE_nets:other"',
        protocols='curves = { use = "InsertionDeletion", steps = 4 }',
        more='targets = "predicted"\n',
        pointing="",
    )
    with session.place.store() as store:
        labels = {}
        for row in summary.rows(session, store):
            labels.setdefault(row["example"], set()).add(row["label"])
        alike = sum(len(each) == 1 for each in labels.values())
        lines = list(summary.differences(session, store, "seer", "other"))
    assert 0 < alike < PICTURES
    assert {(line.estimate.count, line.of) for line in lines} == {(alike, PICTURES)}


# Leftovers


def test_masks_that_no_row_names_are_removed(bench):
    session, _ = bench.run("run", "first", options="masks = true")
    shards = session.place.shards.folder
    needed = {path.name for path in shards.iterdir()}
    (shards / f"{'0' * 32}.safetensors").write_bytes(b"of a run that was killed")
    with session.place.store() as store:
        store.claim([Item(99, 99)], Owner("elsewhere", 1, "now"))
    bench.run("run", "first", options="masks = true")
    assert {path.name for path in shards.iterdir()} > needed  # somebody may be about to name it
    with session.place.store() as store:
        store.release(Owner("elsewhere", 1, "now"))
    bench.run("run", "first", options="masks = true")
    assert {path.name for path in shards.iterdir()} == needed


def test_a_claim_by_a_clock_that_ran_ahead_does_not_hold(bench):
    session, _ = bench.run("run", "first")
    ahead = Owner("elsewhere", 1, "now")
    with session.place.store() as store:
        assert store.claim([Item(99, 1)], ahead)
        assert store.claim([Item(99, 1)], Owner("here", 1, "now")) == []
        store._transaction(lambda rows: rows("UPDATE claims SET since = since + 9e9, until = until + 9e9"), write=True)
        assert store.claim([Item(99, 1)], Owner("here", 1, "now")) == [Item(99, 1)]


def test_a_run_of_format_1_can_be_looked_at_and_gone_on_with(bench):
    session, _ = bench.run("run", "first", methods=OWN["methods"])
    lines = as_shown(session)
    downgraded(bench.root / "run/run.sqlite")
    record = read_record(Place(bench.root / "run"))
    assert as_shown(record) == lines
    with record.place.store() as store:
        assert record.left(store) == 0
        assert {row["example"] for row in summary.rows(record, store)} == {
            f"pictures/{index}.bmp" for index in range(PICTURES)
        }


def test_a_run_of_format_2_goes_on_though_classes_have_moved(bench):
    """It named the package's classes by their modules."""
    session, _ = bench.run("run", "first", methods=OWN["methods"] + '\nmasks = { use = "RISE", samples = 8 }')
    lines = as_shown(session)
    with contextlib.closing(sqlite3.connect(bench.root / "run/run.sqlite")) as base, base:
        for number, about in base.execute("SELECT id, about FROM recipes").fetchall():
            earlier = about.replace('"sfumato:RISE"', '"sfumato.methods.rise:RISE"')
            earlier = earlier.replace('"sfumato:Fade"', '"sfumato.perturbations:Fade"')
            earlier = earlier.replace('"sfumato.metrics:', '"sfumato.metrics.accuracy:')
            base.execute(
                "UPDATE recipes SET about = ?, hash = ? WHERE id = ?", (earlier, f"of format 2: {number}", number)
            )
        base.execute("UPDATE format SET version = 2")
    assert bench.run("run", "first", methods=OWN["methods"] + '\nmasks = { use = "RISE", samples = 8 }')[1] == 0
    assert as_shown(read_record(Place(bench.root / "run"))) == lines


def test_a_run_of_format_1_does_not_guess_which_row_is_that_of_a_changed_picture(bench):
    bench.run("run", "first", **SUM)
    bench.draw(2, 100)
    bench.run("run", "first", **SUM)
    rows = bench.rows("run")
    downgraded(bench.root / "run/run.sqlite")
    assert [json.loads(row)["example"][9] for row in bench.rows("run")] == list("0134501345")
    assert bench.run("run", "first", **SUM)[1] == 2
    assert sorted(bench.rows("run")) == sorted(rows)


def as_shown(record):
    with record.place.store() as store:
        return [
            (line.data, line.model, line.method, line.protocol, line.measure.name, str(line.estimate), line.failed)
            for line in summary.lines(record, store)
        ]


def downgraded(path: Path):
    """A run of the present format as format 1 would have it: an item is a hash, its recipe another, and a row says all."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as base:
        notes = dict(base.execute("SELECT name, value FROM notes").fetchall())
        hashes = dict(base.execute("SELECT id, hash FROM recipes").fetchall())
        abouts = base.execute("SELECT hash, about FROM recipes").fetchall()
        done = base.execute(
            """SELECT done.recipe, done.query, name, target, names, measured, seconds FROM done JOIN shapes ON shapes.id = shape
            JOIN queries ON queries.id = query JOIN examples ON examples.id = example ORDER BY place"""
        ).fetchall()
        for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            base.execute(f"DROP TABLE {name}")
        for statement in (
            "CREATE TABLE format (version BIGINT NOT NULL)",
            "CREATE TABLE recipes (hash TEXT PRIMARY KEY, about TEXT NOT NULL)",
            "CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
            """CREATE TABLE done (key TEXT PRIMARY KEY, recipe TEXT NOT NULL, failed SMALLINT NOT NULL, example TEXT NOT NULL,
                target BIGINT NOT NULL, measured TEXT, reason TEXT NOT NULL, seconds DOUBLE PRECISION, masks TEXT NOT NULL)""",
            "CREATE INDEX done_of ON done (recipe, failed)",
            """CREATE TABLE claims (key TEXT PRIMARY KEY, machine TEXT NOT NULL, process BIGINT NOT NULL, started TEXT NOT NULL,
                until DOUBLE PRECISION NOT NULL)""",
            "CREATE INDEX claims_of ON claims (machine, process, started)",
            "INSERT INTO format (version) VALUES (1)",
        ):
            base.execute(statement)
        base.executemany("INSERT INTO recipes VALUES (?, ?)", abouts)
        places = [
            {**each, "protocols": [each["protocol"]], "recipe": hashes[each["recipe"]]}
            for each in json.loads(notes["places"])
        ]
        kept = {name: notes[name] for name in ("plan", "made by", "weights")} | {"places": json.dumps(places)}
        base.executemany("INSERT INTO notes VALUES (?, ?)", kept.items())
        for number, (recipe, _, name, target, names, measured, seconds) in enumerate(done):
            row = {"picture": json.loads(name), **dict(zip(json.loads(names), json.loads(measured), strict=True))}
            values = (f"{number:032x}", hashes[recipe], 0, name, target, json.dumps(row), '""', seconds, "")
            base.execute("INSERT INTO done VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


# Odd data sets, models and names, and what changes while a run is under way


FACTORY = """
import torch
from torch import nn
from sfumato.models import Classifier, Preparation

def made():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.LeakyReLU(SLOPE), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier("made", net.eval(), Preparation(24, None, (0.5,) * 3, (0.25,) * 3), ("red", "green", "blue"))
"""

READING = "float(__import__('pathlib').Path({!r}).read_text())"

TWICE = '''
from dataclasses import dataclass
from pathlib import Path
from sfumato.data.example import Example, Thing

@dataclass(frozen=True)
class Twice:
    """Pictures that all go by one name."""
    path: str
    order: tuple = ()
    classes = ("red", "green", "blue")

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return Example("same", Path(self.path) / f"{self.order[index]}.bmp", (Thing(0, (0.0, 0.0, 8.0, 8.0)),))
'''

PROTOCOL = """
from dataclasses import dataclass
from sfumato.metrics.estimate import Measure, mean
from sfumato.metrics.protocol import Protocol

@dataclass(frozen=True)
class Named(Protocol):
    def measure(self, case):
        return {"value": 1.0, "method": 2.0}

    def measures(self, rows):
        return (Measure("value", mean("value")),)
"""


def module(bench, name, text):
    (bench.root / f"{bench.module}_{name}.py").write_text(text)
    importlib.invalidate_caches()
    sys.modules.pop(f"{bench.module}_{name}", None)
    return f"{bench.module}_{name}"


def spread_out(bench, text, folder):
    session = begin(parse(text, bench.root), Place(bench.root / folder))
    list(session.work())
    with session.place.store() as store:
        return session.look(store)


def insertion(steps=4):
    return {"pointing": f'insertion = {{ use = "InsertionDeletion", steps = {steps} }}'}


def test_a_model_is_known_by_its_factory_and_the_settings_of_its_modules(bench):
    """Neither shows in its weights or in the kinds of its parts, where all of these are torch's."""
    name = module(bench, "factory", FACTORY.replace("SLOPE", "0.1"))
    parts = {"models": f'made = "{name}:made"', **insertion()}
    bench.run("run", "first", **parts)
    before = bench.rows("run")
    module(bench, "factory", FACTORY.replace("SLOPE", "5.0"))
    assert bench.run("run", "first", **parts)[1] == PICTURES
    bench.run("fresh", "first", **parts)
    assert bench.rows("run") == bench.rows("fresh") != before
    module(bench, "factory", FACTORY.replace("SLOPE", "0.1"))
    assert bench.run("run", "first", **parts)[1] == 0
    assert bench.rows("run") == before


def test_a_setting_that_comes_from_elsewhere_tells_models_apart(bench):
    """The factory's source is the same, and the slope comes from a file."""
    text = FACTORY.replace("SLOPE", READING.format(str(bench.root / "slope")))
    parts = {"models": f'made = "{module(bench, "factory", text)}:made"', **insertion()}
    (bench.root / "slope").write_text("0.1")
    bench.run("run", "first", **parts)
    (bench.root / "slope").write_text("5.0")
    assert bench.run("run", "first", **parts)[1] == PICTURES


@pytest.mark.parametrize(
    "orders",
    [
        ([0, 1, 2], [2, 1, 0]),
        ([5, 0, 1], [0, 1]),
        ([0, 0, 1], [1, 0, 0]),
        ([0, 1, 2], [5, 0, 1, 2]),
        ([0, 1], [4, 5, 0, 1]),
        ([0, 1, 2, 3], [3, 0], [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_examples_of_one_name_and_annotation_lose_no_place(bench, orders):
    name = module(bench, "data", TWICE)

    def text(order):
        return bench.text(**insertion()) + f'[data.t]\nuse = "{name}:Twice"\npath = "pictures"\norder = {order}\n'

    for order in orders:
        assert spread_out(bench, text(order), "run") == 0
    spread_out(bench, text(orders[-1]), "fresh")
    assert len(bench.rows("run")) == len(orders[-1])
    assert bench.rows("run") == bench.rows("fresh")


def test_a_data_set_that_lies_elsewhere_has_the_rows_of_its_own_pictures(bench):
    """Names and annotations are the same in both folders, and the pictures are not: the plan's path alone has changed."""
    for folder in ("one", "two"):
        shutil.copytree(bench.root / "pictures", bench.root / folder / "pictures")
        shutil.copy(bench.root / "first.csv", bench.root / folder)
    Image.new("RGB", (40, 40), (10, 200, 30)).save(bench.root / "two/pictures/3.bmp")

    def run(folder, out):
        plan = bench.root / "plan.toml"
        plan.write_text(
            bench.text(**insertion()) + f'[data.first]\nuse = "Table"\npath = "{folder}/first.csv"\n'
            'names = ["red", "green", "blue"]\n'
        )
        outcome = typed("run", plan, "--out", bench.root / out)
        assert outcome.exit_code == 0, outcome.output
        return outcome.output

    assert "6 of them now" in run("one", "run")
    before = bench.rows("run")
    assert "1 of them now" in run("two", "run")
    run("two", "fresh")
    assert bench.rows("run") == bench.rows("fresh") != before
    assert "0 of them now" in run("one", "run")
    assert bench.rows("run") == before


@pytest.mark.parametrize(
    ("order", "new"), [([5, 0, 1, 2], 1), ([2, 5, 1, 0], 1), ([5, 4, 0, 1, 2], 2), ([5], 1)], ids=str
)
def test_an_example_in_front_of_another_of_its_annotation_is_the_only_new_one(bench, order, new):
    name = module(bench, "data", TWICE)

    def items(order):
        text = bench.text(**insertion()) + f'[data.t]\nuse = "{name}:Twice"\npath = "pictures"\norder = {order}\n'
        session = begin(parse(text, bench.root), Place(bench.root / "run"))
        with session.place.store() as store:
            session.look(store)
        return sum(progress.done for progress in list(session.work())[-1:])

    assert items([0, 1, 2]) == 3
    assert items(order) == new
    assert items([0, 1, 2]) == 0


@pytest.mark.parametrize("kind", ["Folder", "Masked", "ImageNet"])
def test_a_data_set_in_folders_is_read_again_only_if_these_have_changed(bench, monkeypatch, kind):
    """A run that goes on with a million pictures does not read all their annotations first."""
    from sfumato import data

    inside = {"Folder": "set", "Masked": "set/images", "ImageNet": "set/val"}[kind]
    for index, name in enumerate(("red", "green", "blue")):
        folder = bench.root / inside / (f"n0{index}" if kind == "ImageNet" else name)
        folder.mkdir(parents=True)
        shutil.copy(bench.root / f"pictures/{index}.bmp", folder / f"{index}.bmp")
    if kind == "Masked":
        (bench.root / "set/masks").mkdir()
    if kind == "ImageNet":
        (bench.root / "set/synsets.txt").write_text("n00 red\nn01 green\nn02 blue\n")
    text = bench.text(**insertion()) + f'[data.set]\nuse = "{kind}"\npath = "set"\n'
    begun, read = parse(text, bench.root), []
    example = getattr(data, kind).example
    monkeypatch.setattr(getattr(data, kind), "example", lambda self, index: read.append(index) or example(self, index))
    for expected in (True, False, False):
        read.clear()
        begin(parse(text, bench.root), Place(bench.root / "run"))
        assert bool(read) is expected
    shutil.copy(bench.root / "pictures/4.bmp", folder / "4.bmp")
    later = time.time_ns() + 10**9
    os.utime(folder, ns=(later, later))
    session = begin(parse(text, bench.root), Place(bench.root / "run"))
    assert session.data["set"]["examples"] == len(begun.data["set"].data) == 4


def test_pictures_that_change_places_keep_their_rows(bench):
    """Of a data set whose names stay, as their contents are exchanged."""
    bench.run("run", "first")
    before = bench.rows("run")
    one, other = (bench.root / f"pictures/{index}.bmp" for index in (1, 4))
    held = one.read_bytes(), other.read_bytes()
    one.write_bytes(held[1])
    other.write_bytes(held[0])
    bench.run("run", "first")
    bench.run("fresh", "first")
    assert bench.rows("run") == bench.rows("fresh")
    one.write_bytes(held[0])
    other.write_bytes(held[1])
    assert bench.run("run", "first")[1] == 0
    assert bench.rows("run") == before


def test_a_picture_that_is_replaced_after_it_was_looked_into_is_not_the_old_one(bench):
    """The run looks into many pictures before it comes to the first."""
    session = begin(parse(bench.text("first", **insertion()), bench.root), Place(bench.root / "run"))
    work = session.work()
    next(work)
    bench.draw(5, 100)
    list(work)
    rows = [json.loads(row) for row in bench.rows("run")]
    assert [row["failed"][:13] for row in rows] == [""] * 5 + ["the picture o"]
    assert bench.run("run", "first", **insertion())[1] == 1
    bench.run("fresh", "first", **insertion())
    assert bench.rows("run") == bench.rows("fresh")


def test_what_a_protocol_that_is_gone_kept_is_not_taken_for_what_is_done_again(bench):
    (bench.root / "factor").write_text("1.0")
    path = bench.root / f"{bench.module}_methods.py"
    path.write_text(path.read_text().replace("FACTOR *", READING.format(str(bench.root / "factor")) + " *"))
    parts = {"options": "masks = true", "methods": OWN["methods"], "pointing": ""}
    bench.run(
        "run", "first", protocols=f'{OWN["protocols"]}\ninsertion = {{ use = "InsertionDeletion", steps = 2 }}', **parts
    )
    (bench.root / "factor").write_text("-2.0")
    session = begin(
        parse(bench.text("first", protocols=OWN["protocols"], **parts), bench.root), Place(bench.root / "run")
    )
    with session.place.store() as store:
        session.redo(store, "mine")
    list(session.work())
    bench.run("fresh", "first", protocols=OWN["protocols"], **parts)
    assert bench.rows("run") == bench.rows("fresh")


def compared(bench, one, other):
    """A plan whose models are compared with two others, that go by these names."""
    nets = bench.root / f"{bench.module}_nets.py"
    if "def third" not in nets.read_text():
        nets.write_text(nets.read_text() + THIRD)
    return {
        "models": f'{one} = "MODULE_nets:other"\n{other} = "MODULE_nets:third"',
        "pointing": f'agreement = {{ use = "Agreement", others = ["{one}", "{other}"] }}',
        "more": 'models = ["seer"]',
    }


THIRD = """
def third():
    return Classifier("third", Seer(2).eval(), Preparation(24, None, (0.5,) * 3, (0.25,) * 3), ("red", "green", "blue"))
"""


def test_models_that_exchange_their_names_do_not_exchange_their_rows(bench):
    bench.run("run", "first", **compared(bench, "aa", "bb"))
    bench.run("run", "first", **compared(bench, "bb", "aa"))
    bench.run("fresh", "first", **compared(bench, "bb", "aa"))
    assert bench.rows("run") == bench.rows("fresh")


def test_a_model_that_is_only_compared_with_can_be_done_again(bench):
    session, _ = bench.run("run", "first", **compared(bench, "aa", "bb"))
    with session.place.store() as store:
        session.redo(store, "bb")
        assert session.left(store) == PICTURES
        with pytest.raises(ValueError, match="did you mean bb"):
            session.redo(store, "b")


def test_a_protocol_may_not_name_a_value_as_a_row_is_named(bench):
    name = module(bench, "protocol", PROTOCOL)
    bench.run("run", "first", pointing=f'named = "{name}:Named"')
    rows = [json.loads(row) for row in bench.rows("run")]
    assert {row["method"] for row in rows} == {"gradient"}
    assert all("Named names a value 'method'" in row["failed"] for row in rows)


def test_names_that_are_markup_or_no_text_do_not_end_a_command(bench):
    folder = bench.root / "odd/red"
    (folder / "[").mkdir(parents=True)
    for name in (b"[/a].bmp", b"no\xff.bmp"):
        shutil.copy(bench.root / "pictures/1.bmp", os.fsencode(folder) + b"/" + name)
    (folder / os.fsdecode(b"broken\xfe.bmp")).write_bytes(b"no picture")
    for name in ("green", "blue"):
        (bench.root / "odd" / name).mkdir()
    plan = bench.root / "plan.toml"
    plan.write_text(bench.text(**insertion()) + '[data."odd [/d]"]\nuse = "Folder"\npath = "odd"\n')
    checked = typed("check", plan)
    assert checked.exit_code == 0, checked.output
    begun_run = typed("run", plan, "--out", bench.root / "run")
    assert "3 items are done, 3 of them now; 1 failed" in begun_run.output
    shown = typed("status", bench.root / "run")
    assert (shown.exit_code, "broken\\udcfe.bmp" in shown.output) == (0, True)
    for suffix in (".csv", ".parquet", ".json"):
        assert typed("export", bench.root / "run", bench.root / f"rows{suffix}", "--rows").exit_code == 0
    with (bench.root / "rows.csv").open(encoding="utf-8", newline="") as file:
        names = {row["example"] for row in csv.DictReader(file)}
    assert names == {"red/[/a].bmp", "red/no\\udcff.bmp", "red/broken\\udcfe.bmp"}


def test_a_comparison_of_nothing_says_so(bench):
    session = begin(
        parse(bench.text("first", methods='guided = "GuidedBackprop"'), bench.root), Place(bench.root / "run")
    )
    ended = typed("compare", session.place.folder, "gradient", "guided")
    assert "there is no query for which both gradient and guided have a value" in ended.output


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{'other': 1.0}", "KeyError: 'value'"),
        ("{'value': 'word'}", "ValueError: "),
        ("{'value': [1.0] * int(case.picture[9])}", ""),
    ],
    ids=["no such column", "words", "lists of several lengths"],
)
def test_a_protocol_whose_rows_are_not_what_it_measures_is_named(bench, monkeypatch, value, said):
    monkeypatch.setattr("sfumato.runs.stores.sql.PAGE", 1)
    name = module(bench, "protocol", PROTOCOL.replace('{"value": 1.0, "method": 2.0}', value))
    bench.run("run", "first", methods='guided = "GuidedBackprop"', protocols=f'mine = "{name}:Named"')
    for words in (["table"], ["compare", "gradient", "guided"], ["export", bench.root / "table.md"]):
        ended = typed(words[0], bench.root / "run", *words[1:])
        assert ended.exit_code == 1, ended.output
        assert f"protocol 'mine' cannot say what its rows of 'gradient' come down to ({said}" in ended.output
        assert "see that Named.measures names numbers that its rows have" in ended.output
        shown = (bench.root / "table.md").read_text() if words[0] == "export" else ended.output
        assert "pointing" in shown  # one protocol's fault hides no other
    assert "mine" not in (bench.root / "table.md").read_text()
    reported = CliRunner().invoke(app, ["report", str(bench.root / "run"), "-o", str(bench.root / "run.html")])
    assert reported.exit_code == 0, reported.output
    assert "cannot say what its rows of" in (bench.root / "run.html").read_text()
    assert typed("export", bench.root / "run", bench.root / "rows.csv", "--rows").exit_code == 0
