"""The store of a run, in a file and in a database: claims, commits, deaths, full disks, lost servers.

Run as a script, this file is a worker of those tests.
"""

# ruff: noqa: S607, T201

import contextlib
import errno
import hashlib
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.attribution import Attribution
from sfumato.runs.stores import sql
from sfumato.runs.stores.opened import FILE, open_store
from sfumato.runs.stores.postgres import PostgresStore
from sfumato.runs.stores.processes import has_ended, machine, this_process
from sfumato.runs.stores.shards import Shards
from sfumato.runs.stores.sqlite import LOG, SqliteStore
from sfumato.runs.stores.store import Done, Item, Owner, StoredExample, StoreError

ME = this_process("me")
ELSEWHERE = Owner("another machine", 1, "1")
LONG = 600  # seconds, for a machine that is busy


class Place:
    """Where the store of a test is."""

    def __init__(self, folder: Path, url: str | None):
        self.folder, self.url = folder, url

    def open(self, **options):
        return open_store(self.folder, self.url, run="" if self.url is None else self.folder.parent.name, **options)

    @property
    def words(self):
        return [str(self.folder), self.url or "", self.folder.parent.name]

    def start(self, worker, *arguments, **options):
        """A worker, in a process of its own."""
        path = os.pathsep.join(filter(None, sys.path))
        return subprocess.Popen(
            [sys.executable, __file__, worker, *self.words, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            **options,
        )


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    url = request.getfixturevalue("postgres").url() if request.param == "postgres" else None
    return Place(tmp_path / "run", url)


quick_in_a_file = pytest.mark.parametrize(
    "place", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def store(place):
    with place.open() as opened:
        yield opened


@pytest.fixture
def small_disk():
    """A disk of 2 MB."""
    folder = Path(tempfile.mkdtemp(prefix="sfumato-small-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=777", "tmpfs", str(folder)]
    try:
        if (
            os.geteuid()
            or shutil.which("mount") is None
            or subprocess.run(mount, capture_output=True, check=False).returncode
        ):
            pytest.skip("a small disk can be made by root only")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        folder.rmdir()


A, B, C, D, X, Y = (Item(1, query) for query in range(1, 7))


def an_item(item, row=None, **more):
    return Done(**{"item": item, "example": "picture", "target": 1, "row": {"hit": True} | (row or {})} | more)


def a_failure(item, **more):
    return Done(item, "picture", 1, None, "no such file", **more)


def keys(count, start=""):
    """So many items of one recipe, in no order."""
    hashes = (hashlib.sha256(f"{start}{index}".encode()).digest() for index in range(count))
    return [Item(1, int.from_bytes(each[:6])) for each in hashes]


def measured(store):
    """How many items were measured, in all recipes; none may have failed."""
    assert not any(each.cause for each in store.tallies())
    return sum(each.items for each in store.tallies())


def said(caught):
    """The message of a `StoreError`, which must be one line that is not endless."""
    assert isinstance(caught.value, StoreError)
    text = str(caught.value)
    assert "\n" not in text
    assert 20 < len(text) < 400
    return text


def bits(value):
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value)
    if isinstance(value, list | tuple):
        return [bits(each) for each in value]
    return type(value).__name__, value


# What is committed comes back


def test_what_is_committed_comes_back_to_the_bit(store):
    numbers = random.Random(0)
    patterns = [struct.unpack("<d", numbers.randbytes(8))[0] for _ in range(500)]
    row = {
        "nan": math.nan,
        "infinite": [math.inf, -math.inf],
        "zeros": [0.0, -0.0, 5e-324, 0.1 + 0.2, 1 / 3],
        "whole": 2**62,
        "float": 3.0,
        "hit": False,
        "picture": "Käfer \u4e2d\U0001f63a\0\udcff \\ \" ' ? % $now",
        "patterns": patterns,
        "none": [],
    }
    written = an_item(A, row, seconds=0.1, masks="0.safetensors")
    failed = replace(a_failure(B), reason="first line\nsecond\0 \u2028 % ? $keys " + "x" * 100_000, seconds=math.nan)
    store.commit([written, failed])
    one, other = store.done()
    assert {name: bits(value) for name, value in one.row.items()} == {
        name: bits(each) for name, each in written.row.items()
    }
    assert list(one.row) == list(written.row)
    assert replace(one, row=None) == replace(written, row=None, example="", target=0)  # of no query that is listed
    assert other.row is None
    assert math.isnan(other.seconds)
    assert replace(other, seconds=0.0) == replace(failed, seconds=0.0, example="", target=0)


def test_what_would_not_come_back_is_refused_whole(store):
    store.claim([A], ME)
    with pytest.raises(ValueError, match="a row holds numbers, words and lists of them; that of 'picture' does not"):
        store.commit([an_item(A), an_item(B, {"map": torch.zeros(1)})])
    assert store.which_done([A, B]) == set()
    assert store.claim([A], ELSEWHERE) == []


def test_a_done_item_stays_as_it_is_until_forgotten(store):
    store.commit([an_item(A, {"x": 1}), an_item(A, {"x": 2})])
    store.commit([an_item(A, {"x": 3}), an_item(B, {"x": 4}), a_failure(C)])
    assert [each.row and each.row["x"] for each in store.done()] == [1, 4, None]
    store.forget([A, C, Item(9, 9)])
    assert store.which_done([A, B, C]) == {B}
    store.commit([an_item(A, {"x": 5})])
    assert [each.row["x"] for each in store.done()] == [5, 4]


def test_rows_come_in_the_order_of_their_numbers(store):
    """Across the pages in which they are read."""
    items = [Item(recipe, query) for recipe in (1, 2) for query in (0, *range(5, sql.PAGE + 9))]
    mixed = random.Random(0).sample(items, len(items))
    store.commit([an_item(each) for each in mixed])
    assert [each.item for each in store.done()] == items
    assert [each.item for each in store.done(2)] == items[len(items) // 2 :]
    assert list(store.done(3)) == []


def test_reading_half_of_the_rows_keeps_nobody_from_writing(store):
    store.commit([an_item(key) for key in keys(3)])
    rows = store.done()
    next(rows)
    store.commit([an_item(Item(9, 1))])
    store.forget(keys(3))
    assert store.which_done([*keys(3), Item(9, 1)]) == {Item(9, 1)}


def test_items_are_looked_up_by_their_keys(store):
    store.commit([an_item(B), an_item(A, masks="shard/a"), a_failure(C)])
    assert [each.item for each in store.look_up([C, Item(9, 9), A])] == [A, C]
    assert next(store.look_up([A])) == an_item(A, masks="shard/a", example="", target=0)


def test_counts_are_by_recipe(store):
    assert store.tallies() == []
    store.commit([an_item(Item(2, query)) for query in range(5)])
    store.commit([a_failure(X), an_item(Y)])
    assert [each[:3] for each in store.tallies()] == [(1, "", 1), (1, "no such file", 1), (2, "", 5)]


def test_a_cause_names_the_first_example_of_it(store):
    """However many items are committed at once."""
    said = "cannot read picture 'x': it is damaged"
    store.commit([Done(Item(1, query), f"picture {query}", 0, None, said) for query in (5, 3, 4)])
    store.commit([Done(Item(1, 1), "picture 1", 0, None, said)])
    assert [(each.items, each.example) for each in store.tallies()] == [(4, "picture 3")]


def listing(store, words, page=9):
    """List examples of one annotation, which differ in their files alone, and look into these, so many places at a time.
    Returns by place the file, its content and its query."""
    store.put_examples("data", 0, [StoredExample("same", "alike", (each,), f'"{each}"', (7,)) for each in words])
    store.finish_examples("data", len(words))
    for first in range(0, len(words), page):
        planned = store.planned("data", first, first + page - 1)
        store.set_contents(
            "data", [(each.example, f"stamp {each.files[0]}", f"holds {each.files[0]}") for each in planned]
        )
    return [(each.files[0], each.content, each.query) for each in store.planned("data", 0, len(words))]


@pytest.mark.parametrize("page", [1, 2, 9])
@pytest.mark.parametrize("after", ["b c a", "c a", "a a b", "c b a d", "b", "d a b c", "a d b c", "d e", "c d b"])
def test_examples_of_one_annotation_have_each_its_place(store, after, page):
    """Those that are there again are the ones that they were, wherever they are now: nothing of them is done again."""
    words = after.split()
    before = {file: query for file, _, query in listing(store, "abc", page)}
    now = listing(store, words, page)
    assert [entry[:2] for entry in now] == [(each, f"holds {each}") for each in words]
    queries = [query for _, _, query in now]
    assert len(set(queries)) == len(queries)
    assert {before[file] for file in words if file in before} <= set(queries)
    assert {file: query for file, _, query in listing(store, "abc", page)} == before


def test_files_that_move_take_their_queries_with_them(tmp_path):
    """Any list of examples with one annotation after any other: a file that was there before has the query that it had, and
    what is done of it counts where it is listed."""
    draw = random.Random(0)
    for number in range(20):
        queries, done = {}, set()
        with open_store(tmp_path / str(number)) as store:
            recipe = store.add_recipes({"hash": {"data": "data"}})["hash"]
            for _ in range(5):
                words = draw.sample("abcdefg", draw.randint(1, 6))
                now = listing(store, words, draw.randint(1, 4))
                assert [entry[:2] for entry in now] == [(each, f"holds {each}") for each in words]
                for file, _, query in now:
                    assert queries.setdefault(file, query) == query
                assert len(set(queries.values())) == len(queries)
                counts = Counter(bool(each.cause) for each in store.tallies() for _ in range(each.items))
                assert counts == Counter(query % 2 == 0 for _, _, query in now if query in done)
                new = {query for _, _, query in now if query not in done and draw.random() < 0.7}
                items = [Item(recipe, query) for query in new]
                store.commit([a_failure(item) if item.query % 2 == 0 else an_item(item) for item in items])
                done |= new


@quick_in_a_file
def test_queries_are_found_by_what_they_are(store):
    """Of a picture that is listed twice, each query is another; what has left the list, or was never hashed, is no query."""
    listing(store, "aab", 9)
    queries = store.query_keys("data", 0, 9)
    found = store.find_queries("data", queries.values())
    assert sorted(query for numbers in found.values() for query in numbers) == sorted(queries)
    assert sorted(map(len, found.values())) == [1, 2]
    twice = next(key for key, numbers in found.items() if len(numbers) == 2)
    assert twice.content == "holds a"
    assert store.find_queries("data", [twice._replace(target=9), twice._replace(content="")]) == {}
    assert store.find_queries("other", queries.values()) == {}
    listing(store, "b", 9)
    assert list(store.find_queries("data", [twice])) == []
    store.put_examples("data", 1, [StoredExample("new", "another", ("c",), "{}", (0,))])
    assert len(store.query_keys("data", 0, 9)) == 1


def steps_of_a_list(folder, count):
    """How many thousands of steps SQLite takes to list so many examples, list them again, and look into their files."""
    steps = []
    with open_store(folder / str(count)) as store:
        store._connection.set_progress_handler(lambda: steps.append(1), 1000)
        for turn in ("first", "other"):
            for first in range(0, count, 100):
                listed = range(first, first + 100)
                store.put_examples(
                    "data",
                    first,
                    [StoredExample(f"{at}", f"of {at}", (f"{turn}/{at}",), f'"{turn} {at}"', (7,)) for at in listed],
                )
            store.finish_examples("data", count)
            for first in range(0, count, 100):
                planned = store.planned("data", first, first + 99)
                store.set_contents("data", [(each.example, each.files[0], each.files[0]) for each in planned])
    return len(steps)


def test_a_long_list_takes_as_long_as_it_has_examples(tmp_path):
    """The time does not grow with the square: a list of a million takes minutes and not hours."""
    assert steps_of_a_list(tmp_path, 4000) < 6 * steps_of_a_list(tmp_path, 1000)


def test_recipes_and_notes(place):
    with place.open() as store:
        first = store.add_recipes({"b": {"method": "GradCAM", "area": 0.1 + 0.2}, "a": {"method": "größer"}})
        again = store.add_recipes({"a": {"method": "another"}, "c": {}})
        assert again["a"] == first["a"]
        assert store.add_recipes({}) == {}
        store.note("plan", {"text": "x = 1\n"})
        store.note("plan", None)
        store.note("made by", ["1", 2])
    with place.open(create=False) as store:
        assert store.recipes() == {
            first["b"]: {"method": "GradCAM", "area": 0.1 + 0.2},
            first["a"]: {"method": "größer"},
            again["c"]: {},
        }
        assert store.notes() == {"made by": ["1", 2], "plan": None}


def test_many_keys_at_once(store):
    many = keys(2 * sql.PART + 5)
    assert store.claim(many, ME) == many
    assert store.claim(many, ELSEWHERE) == []
    store.commit([an_item(key) for key in many[::2]])
    assert store.which_done(many) == set(many[::2])
    assert store.claim([], ME) == []
    assert store.which_done([]) == set()
    store.commit([])
    store.forget(many)
    assert store.which_done(many) == set()


# Claims


def test_a_claim_keeps_others_off(store):
    other = this_process("another thread")
    assert store.claim([C, A, B, A], ME) == [C, A, B]
    assert store.claim([A, B, D], other) == [D]
    assert store.claim([D, C, B], ME) == [C, B]
    store.commit([an_item(C)])
    assert store.claim([C], ME) == []
    store.release(ME)
    assert store.claim([A, B, C, D], other) == [A, B, D]
    store.forget([C])
    assert store.claim([C], ME) == [C]


def test_a_claim_from_another_machine_ends_with_its_lease(store):
    assert store.claim([A, B], ELSEWHERE, lease=600) == [A, B]
    assert store.claim([A], ME) == []
    store.renew(ELSEWHERE, lease=0.01)
    time.sleep(0.05)
    assert store.claim([A], ME) == [A]
    store.renew(ELSEWHERE)  # too late for what another has claimed since
    assert store.claim([A, B], ELSEWHERE) == [B]


def test_a_renewed_claim_holds(store):
    store.claim([A], ELSEWHERE, lease=0.4)
    store.renew(ELSEWHERE, lease=600)
    time.sleep(0.5)
    assert store.claim([A], ME) == []
    store.release(ME)
    assert store.claim([A], ME) == []


def test_a_late_commit_counts_and_ends_the_claim_of_the_next(store):
    store.claim([A], ELSEWHERE, lease=0.01)
    time.sleep(0.05)
    assert store.claim([A], ME) == [A]
    store.commit([an_item(A, {"x": 1})])
    store.commit([an_item(A, {"x": 2})])
    assert next(store.done()).row["x"] == 1
    store.forget([A])
    assert store.claim([A], ELSEWHERE) == [A]


@pytest.mark.parametrize("lease", [0, -1, math.nan, "long"])
def test_a_lease_is_a_time(store, lease):
    with pytest.raises(ValueError, match="lease is a time in seconds, more than 0"):
        store.claim([A], ME, lease=lease)
    with pytest.raises(ValueError, match="lease is a time in seconds"):
        store.renew(ME, lease=lease)


def test_what_a_killed_process_had_claimed_is_free_at_once(place):
    worker = place.start("claim", 50)
    try:
        assert worker.stdout.readline() == "50\n"
        with place.open() as store:
            assert store.claim(keys(50), ME) == []
            worker.kill()
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried by this process
            assert store.claim(keys(25), ME) == keys(25)
            worker.wait()
            assert store.claim(keys(50), ME) == keys(50)
    finally:
        worker.kill()
        worker.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_is_told_from_a_later_one_of_its_number(store):
    assert not has_ended(ME)
    assert not has_ended(ELSEWHERE)
    assert (
        not has_ended(Owner(machine(), 1, this_process().started)) or os.getpid() == 1 or Path("/proc/1/stat").exists()
    )
    before = Owner(machine(), os.getpid(), "1 me")
    assert has_ended(before)
    store.claim([A], before)
    assert store.claim([A], ME) == [A]


def test_without_proc_a_process_lives_as_long_as_its_number(monkeypatch, tmp_path):
    monkeypatch.setattr("sfumato.runs.stores.processes.PROC", tmp_path)
    assert this_process("x").started == "? x"
    assert not has_ended(Owner(machine(), os.getpid(), "1"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert has_ended(Owner(machine(), ended.pid, "?"))
    for odd in (0, -1):
        assert not has_ended(Owner(machine(), odd, "?"))


@quick_in_a_file
def test_many_processes_never_get_one_item_twice(place):
    worker = place.start("share", 5, 400)
    out, _ = worker.communicate(timeout=LONG)
    assert worker.returncode == 0
    got = [line.split() for line in out.splitlines()]
    assert len(got) == 5
    assert sorted(int(query) for each in got for query in each) == sorted(each.query for each in keys(400))
    assert all(got), "each claimed something while the others were at work"
    with place.open(create=False) as store:
        assert measured(store) == 400
        assert store.claim(keys(400), ME) == []


def test_threads_share_a_store(store):
    failures = []

    def work(part):
        try:
            for key in keys(30, part):
                assert store.claim([key], replace(ME, started=f"{ME.started} {part}")) == [key]
                store.commit([an_item(key)])
                store.renew(ME)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert measured(store) == 90


# Deaths


@quick_in_a_file
def test_a_process_killed_at_any_moment_leaves_nothing_half_done(place):
    """A worker commits batches of 20 rows, each batch with one shard; children of it are killed in the midst, 16 times."""
    worker = place.start("die", 16)
    out, _ = worker.communicate(timeout=LONG)
    assert worker.returncode == 0
    shards = Shards(place.folder / "masks")
    with place.open(create=False) as store:
        done = list(store.done())
        batches = {}
        for each in done:
            batches.setdefault(each.row["batch"], []).append(each)
        assert len(batches) >= 20, f"too little was done to tell: {out}"
        assert {len(batch) for batch in batches.values()} == {20}
        for batch in batches.values():
            assert len({each.masks for each in batch}) == 1
        for each in done[::7]:
            assert shards.read(each.masks, str(each.item)).map.item() == each.row["batch"]
        assert all((shards.folder / each.masks).is_file() for each in done)
        # and all goes on: what was claimed is free
        left = [Item(1, 100 * index + part) for index in range(len(batches) + 1) for part in range(20)]
        assert set(store.claim(left, ME)) == set(left) - {each.item for each in done}
        store.commit([an_item(key) for key in left])
        assert store.which_done(left) == set(left)
    if place.url is None:
        assert _integrity(place.folder) == "ok"
    shards.sweep()
    assert list(shards.folder.glob(".*")) == []


def _integrity(folder):
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


def test_an_interrupt_rolls_back_and_the_store_goes_on(store):
    def interrupted(rows):
        rows("INSERT INTO notes (name, value) VALUES (?, ?)", "half", "1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store._transaction(interrupted, write=True)
    assert store.notes() == {}
    store.note("whole", 1)
    assert store.notes() == {"whole": 1}


# What goes wrong with a file


def test_where_no_run_is(place, tmp_path):
    with pytest.raises(StoreError) as caught:
        place.open(create=False)
    assert "there is no run" in said(caught)
    assert not (tmp_path / "run").exists()
    place.open().close()
    place.open(create=False).close()


def test_an_empty_file_is_no_run(tmp_path):
    (tmp_path / FILE).touch()
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path, create=False)
    assert "there is no run" in said(caught)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(StoreError) as caught:
            open_store(folder)
        assert "cannot keep a run in" in said(caught)


def test_a_file_that_is_no_run(tmp_path):
    (tmp_path / FILE).write_bytes(b"a picture, perhaps" * 1000)
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path)
    assert "is not a run of sfumato" in said(caught)
    (tmp_path / FILE).unlink()
    for statement in ("CREATE TABLE mine (a, b)", "CREATE TABLE format (version)"):
        with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
            other.execute(statement)
        before = (tmp_path / FILE).read_bytes()
        with pytest.raises(StoreError) as caught:
            open_store(tmp_path)
        assert "is not a run of sfumato" in said(caught)
        assert (tmp_path / FILE).read_bytes() == before


def test_a_run_of_a_future_format(place):
    with place.open() as store:
        store.commit([an_item(A)])
        store._transaction(lambda rows: rows("UPDATE format SET version = ?", 99), write=True)
    with pytest.raises(StoreError) as caught:
        place.open()
    assert "newer version of sfumato, in format 99, and this one knows formats up to 3" in said(caught)


def test_a_damaged_file(tmp_path):
    with open_store(tmp_path) as store:
        store.commit([an_item(key, {"curve": [1 / 3] * 50}) for key in keys(2000)])
    path = tmp_path / FILE
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:30_000] + bytes(len(whole) - 30_000),
        whole[:100] + b"x" * 4000 + whole[4100:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(StoreError) as caught:
            _used(tmp_path)
        assert "damaged" in said(caught)
        assert str(path) in said(caught)
    path.write_bytes(whole)
    with open_store(tmp_path) as store:
        assert len(list(store.done())) == 2000


def _used(folder):
    with open_store(folder) as store:
        list(store.done())
        store.commit([an_item(key) for key in keys(2000, "more")])


def test_a_damaged_row(store):
    store.commit([an_item(A)])
    store._transaction(lambda rows: rows("UPDATE done SET measured = '{\"x\": 1'"), write=True)
    with pytest.raises(StoreError) as caught:
        list(store.done())
    assert "is damaged" in said(caught)


@pytest.mark.slow
def test_a_file_in_use_is_waited_for_and_not_for_ever(tmp_path):
    path = tmp_path / FILE
    with SqliteStore(path, patience=0.2) as store, contextlib.closing(_hand(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as caught:
            store.commit([an_item(A)])
        assert "another process has kept" in said(caught)
        assert store.which_done([A]) == set()  # reading goes on
    with SqliteStore(path) as store, contextlib.closing(_hand(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        later = threading.Timer(1.5, other.execute, ["ROLLBACK"])  # more than the second that SQLite waits
        later.start()
        store.commit([an_item(A)])
        later.join()
        assert store.which_done([A]) == {A}


def _hand(path):
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def test_the_log_stays_short(tmp_path):
    row = {"curve": [1 / 3] * 1000}
    with open_store(tmp_path) as store:
        sizes = []
        for part in range(20):
            store.commit([an_item(key, row) for key in keys(50, part)])
            sizes.append((tmp_path / f"{FILE}-wal").stat().st_size)
    assert max(sizes) < 2 * LOG
    assert min(sizes) < LOG < (tmp_path / FILE).stat().st_size
    assert not (tmp_path / f"{FILE}-wal").exists()


@pytest.mark.slow
def test_a_long_reader_does_not_stop_the_writer(tmp_path):
    row = {"curve": [1 / 3] * 1000}
    with (
        open_store(tmp_path) as store,
        contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as reader,
    ):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM done").fetchone()
        tries = []
        store._connection.set_trace_callback(lambda words: tries.append(words) if "wal_checkpoint" in words else None)
        for part in range(10):
            store.commit([an_item(key, row) for key in keys(50, part)])
        size = (tmp_path / f"{FILE}-wal").stat().st_size
        assert 1 <= len(tries) <= size // LOG  # a second for each try to shorten the log, after each 4 MB
        assert reader.execute("SELECT count(*) FROM done").fetchone() == (0,)
        assert measured(store) == 500


def test_a_forked_process_opens_its_own(store, monkeypatch):
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    with pytest.raises(StoreError) as caught:
        store.commit([an_item(A)])
    assert "was opened by another process" in said(caught)
    with pytest.raises(StoreError):
        store.tallies()
    store.close()  # leaves the other's connection alone
    monkeypatch.undo()
    store.commit([an_item(A)])


def test_a_full_disk(small_disk):
    row = {"curve": [1 / 3] * 300}
    with open_store(small_disk / "run") as store:
        committed = []
        with pytest.raises(StoreError) as caught:
            _fill(store, committed)
        assert "no room is left" in said(caught) or "see whether the disk is full" in said(caught)
        assert committed
        assert store.which_done(committed) == set(committed)
        with pytest.raises(StoreError):
            store.commit([an_item(key, row) for key in keys(50, "many")])
    with pytest.raises(StoreError) as caught:
        Shards(small_disk / "masks").keep({"a": an_attribution(torch.rand(1, 1, 1024, 1024))})
    assert "No space left" in said(caught)
    assert list((small_disk / "masks").iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    with open_store(small_disk / "run") as store:
        assert [each.item for each in store.done()] == sorted(committed)
        store.commit([an_item(key, row) for key in keys(50, "many")])
        assert store.which_done(keys(50, "many")) == set(keys(50, "many"))
    assert _integrity(small_disk / "run") == "ok"


def _fill(store, committed):
    """Commit until that fails."""
    for part in range(1000):
        items = [an_item(key, {"curve": [random.random() for _ in range(300)]}) for key in keys(10, part)]
        store.commit(items)
        committed += [item.item for item in items]


@pytest.mark.slow  # a full disk is tried above
def test_files_that_may_not_grow(tmp_path):
    """As on a full disk, and for everybody: the system refuses to write past 1 MB."""
    worker = Place(tmp_path / "run", None).start("grow")
    out, _ = worker.communicate(timeout=LONG)
    assert worker.returncode == 0, out
    assert "run the same command again, what was committed is kept" in out
    committed = int(re.search(r"committed (\d+)", out)[1])
    with open_store(tmp_path / "run") as store:
        assert measured(store) == committed
        store.commit([an_item(key, {"curve": [1 / 3] * 300}) for key in keys(500, "more")])
        assert measured(store) == committed + 500
    assert _integrity(tmp_path / "run") == "ok"


@pytest.mark.parametrize("begun", [False, True])
def test_a_read_only_folder(tmp_path, begun, read_only):
    folder = tmp_path / "run"
    folder.mkdir()
    if begun:
        with open_store(folder) as store:
            store.commit([an_item(A)])
    with read_only(folder):
        with pytest.raises(StoreError) as caught, open_store(folder) as store:
            store.commit([an_item(B)])
        assert "cannot be written" in said(caught)
        with pytest.raises(StoreError) as caught:
            Shards(folder / "masks").keep({"a": an_attribution()})
        assert "cannot keep masks" in said(caught)
        with pytest.raises(StoreError) as caught:
            open_store(folder / "below")
        assert "cannot keep a run in" in said(caught)
    with open_store(folder) as store:
        store.commit([an_item(B)])
        assert store.which_done([A, B]) == ({A, B} if begun else {B})


# What goes wrong with a database


def test_runs_are_kept_apart_by_their_names(postgres, tmp_path):
    names = ["one", 'a "quoted" ?%$name;--', "Käfer", "Ka"]
    for name in names:
        with open_store(tmp_path, postgres.url(), run=f"{tmp_path.name} {name}"[-40:]) as store:
            store.commit([an_item(A, {"name": name})])
    for name in names:
        with open_store(tmp_path, postgres.url(), run=f"{tmp_path.name} {name}"[-40:], create=False) as store:
            assert [each.row["name"] for each in store.done()] == [name]
    for name in ("", "x" * 49, "a\0b"):
        with pytest.raises(ValueError, match="a run's name in a database has 1 to 48 bytes"):
            PostgresStore(postgres.url(), name)


def test_a_connection_that_is_cut_is_made_again(postgres, tmp_path):
    with (
        PostgresStore(postgres.url(), tmp_path.name, waits=(0.05,)) as store,
        open_store(tmp_path, postgres.url(), "other") as hand,
    ):
        store.claim([A], ME)
        for part in (A, B):
            _cut(hand, store)
            store.commit([an_item(part)])
        _cut(hand, store)
        assert store.which_done([A, B]) == {A, B}
        _cut(hand, store)
        assert [each.item for each in store.done()] == [A, B]

        def cut_in_the_midst(rows):
            rows("INSERT INTO notes (name, value) VALUES (?, ?)", "cut", "1")
            if cuts:
                cuts.pop()
                _cut(hand, store)
                rows("SELECT 1")

        cuts = [1]
        store._transaction(cut_in_the_midst, write=True)
        assert store.notes() == {"cut": 1}


def _cut(hand, store):
    """End a store's connection, from another one."""
    process = store._connection.info.backend_pid
    hand._transaction(lambda rows: rows("SELECT pg_terminate_backend(?, 5000)", process))


def test_a_server_that_goes_away_and_comes_back(postgres, tmp_path):
    with PostgresStore(postgres.url(), tmp_path.name, waits=(0.05, 0.1)) as store:
        store.claim(keys(10), ME)
        store.commit([an_item(key) for key in keys(5)])
        postgres.stop()
        try:
            for attempt in (lambda: store.commit([an_item(X)]), store.tallies, lambda: next(store.done())):
                with pytest.raises(StoreError) as caught:
                    attempt()
                assert "cannot be reached" in said(caught)
                assert "run the same command again, what was committed is kept" in said(caught)
            with pytest.raises(StoreError) as caught:
                open_store(tmp_path, postgres.url())
            assert "Connection refused" in said(caught)
        finally:
            postgres.start()
        assert store.which_done([*keys(10), X]) == set(keys(5))
        assert store.claim(keys(10), ELSEWHERE) == []  # the claims have outlived it too
        store.commit([an_item(key) for key in keys(10)])
        assert measured(store) == 10


def test_a_server_that_comes_back_in_time_is_not_missed(postgres, tmp_path):
    with PostgresStore(postgres.url(), tmp_path.name, waits=(0.5,) * 2 * LONG) as store:
        postgres.stop()
        later = threading.Timer(0.7, postgres.start)
        later.start()
        try:
            store.commit([an_item(A)])
        finally:
            later.join()
        assert store.which_done([A]) == {A}


def test_a_disk_of_the_server_that_is_full(postgres, small_disk, tmp_path):
    folder = small_disk / "tables"
    folder.mkdir()
    os.chown(folder, postgres.account["user"], -1)
    with open_store(tmp_path, postgres.url(), "hand") as hand:
        hand._transaction(lambda rows: rows(f"CREATE TABLESPACE small LOCATION '{folder}'"))
        hand._transaction(lambda rows: rows("ALTER ROLE tester SET default_tablespace TO small"))
        try:
            with open_store(tmp_path, postgres.url()) as store:
                committed = []
                with pytest.raises(StoreError) as caught:
                    _fill(store, committed)
                assert "the server has no room left" in said(caught)
                assert committed
                assert measured(store) == len(committed)
                subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
                store.commit([an_item(Item(9, 1))])
                assert measured(store) == len(committed) + 1
        finally:
            hand._transaction(lambda rows: rows("ALTER ROLE tester RESET default_tablespace"))
            hand._transaction(lambda rows: rows(f'DROP SCHEMA "sfumato {tmp_path.name}" CASCADE'))
            hand._transaction(lambda rows: rows("DROP TABLESPACE small"))


def test_who_may_not_write(postgres, tmp_path):
    with open_store(tmp_path, postgres.url(), "hand") as hand:
        hand._transaction(lambda rows: rows("CREATE ROLE guest LOGIN"))
        with pytest.raises(StoreError) as caught:
            open_store(tmp_path, postgres.url(user="guest"))
        assert "cannot be written" in said(caught)
        hand._transaction(lambda rows: rows("DROP ROLE guest"))


def test_a_run_that_was_dropped(postgres, tmp_path):
    with open_store(tmp_path, postgres.url()) as store:
        store._transaction(lambda rows: rows(f'DROP SCHEMA "sfumato {tmp_path.name}" CASCADE'))
        with pytest.raises(StoreError) as caught:
            store.tallies()
        assert "is no longer there" in said(caught)


def test_another_schema_of_that_name_is_no_run(postgres, tmp_path):
    with open_store(tmp_path, postgres.url(), "hand") as hand:
        hand._transaction(lambda rows: rows(f'CREATE SCHEMA "sfumato {tmp_path.name}" CREATE TABLE mine (a int)'))
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path, postgres.url())
    assert "is not a run of sfumato" in said(caught)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgresql://me:geh%40eim@127.0.0.1:1/x", "Connection refused"),
        ("postgresql://me:geh%40eim@127.0.0.1:1,127.0.0.1:2/x", "cannot be reached"),
        ("postgresql://me@127.0.0.1:1/x?password=geh%40eim", "Connection refused"),
        ("postgresql://me:geh@eim@127.0.0.1:1/x", "address cannot be read"),
        ("postgresql://me:geh@eim:x@127.0.0.1/x", "address cannot be read"),
        ("postgresql://me:geh/eim@127.0.0.1:1/x", "address cannot be read"),
        ("postgresql://me:12/eim@127.0.0.1:1/x", "address cannot be read"),
        ("postgresql://me:geh%40eim@127.0.0.1:1/x?nonsense=1", "address cannot be read"),
        ("postgresql://me:geh%zzeim@127.0.0.1:1/x", "address cannot be read"),
        ("postgresql://nobody-known:geh%40eim@127.0.0.1:PORT/postgres", 'role "nobody-known" does not exist'),
        ("postgresql://tester:geh%40eim@127.0.0.1:PORT/nowhere", 'database "nowhere" does not exist'),
    ],
)
def test_no_message_holds_the_password(postgres, tmp_path, address, expected):
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path, address.replace("PORT", str(postgres.port)))
    assert expected in said(caught)
    told = "".join(traceback.format_exception(caught.value))
    assert "geh" not in told.replace(address, "")
    assert "eim" not in told


def test_a_store_does_not_show_its_password(postgres, tmp_path):
    with open_store(tmp_path, postgres.url().replace("tester@", "tester:geheim@")) as store:
        assert "geheim" not in f"{store!r} {store} {store.where}"
        assert f"postgresql://tester@127.0.0.1:{postgres.port}/postgres" in repr(store)
        store._transaction(lambda rows: rows(f'DROP SCHEMA "sfumato {tmp_path.name}" CASCADE'))
        with pytest.raises(StoreError) as caught:
            store.tallies()
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["mysql://me:geheim@host/x", "run.sqlite", "http://me:geheim@x"])
def test_an_address_of_something_else(tmp_path, url):
    with pytest.raises(ValueError, match="a run's database is at postgresql://") as caught:
        open_store(tmp_path, url)
    assert "geheim" not in str(caught.value)


def test_without_psycopg(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path, "postgresql://me@127.0.0.1/x")
    assert 'pip install "sfumato[postgres]"' in said(caught)


# Shards


def an_attribution(values=None, **about):
    values = torch.rand(1, 1, 5, 4) if values is None else values
    return Attribution(
        map=values, masks=torch.rand(1, 2, 1, 5, 4), areas=torch.tensor([0.1, 0.2]), about={"method": "x"} | about
    )


def test_shards_hold_results_to_the_bit(tmp_path):
    strange = torch.tensor([math.nan, math.inf, -0.0, 1 / 3]).view(1, 1, 2, 2)
    results = {
        "a": an_attribution(number=0.1),
        "b": Attribution(map=strange.half(), about={"word": "Käfer\0"}),
        "c/d": an_attribution(),
    }
    results["e"] = Attribution(map=torch.rand(1, 1, 4, 6).transpose(2, 3))
    shards = Shards(tmp_path / "masks")
    name = shards.keep(results)
    assert Path(name).name == name
    assert shards.keys(name) == ["a", "b", "c/d", "e"]
    for key, result in results.items():
        read = shards.read(name, key)
        assert read.about == result.about
        for field in ("map", "masks", "areas", "scores"):
            before, after = getattr(result, field), getattr(read, field)
            assert (before is None) == (after is None)
            if before is not None:
                assert before.dtype == after.dtype
                assert (
                    before.contiguous().flatten().view(torch.uint8).tolist()
                    == after.flatten().view(torch.uint8).tolist()
                )
    assert [path.name for path in shards.folder.iterdir()] == [name]


def test_a_shard_is_named_by_its_content(tmp_path):
    shards = Shards(tmp_path)
    one, other = an_attribution(x=1, y=2), an_attribution()
    name = shards.keep({"a": one, "b": other})
    assert shards.keep({"b": other, "a": one}) == name
    assert shards.keep({"a": other, "b": one}) != name
    assert shards.keep({"a": one}) != name
    assert len(list(tmp_path.iterdir())) == 3


def test_missing_and_damaged_shards(tmp_path):
    shards = Shards(tmp_path)
    name = shards.keep({"a": an_attribution()})
    with pytest.raises(StoreError) as caught:
        shards.read(name, "b")
    assert "holds nothing of the item 'b'" in said(caught)
    for read in (lambda: shards.read("none.safetensors", "a"), lambda: shards.keys("none.safetensors")):
        with pytest.raises(StoreError) as caught:
            read()
        assert "none.safetensors" in said(caught)
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", whole.replace(b"sfumato-shard-1", b"sfumato-shard-9")):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(StoreError) as caught:
            shards.read(name, "a")
        assert "is damaged" in said(caught)
    Attribution(map=torch.zeros(1, 1, 2, 2)).save(tmp_path / "other.safetensors")
    with pytest.raises(StoreError) as caught:
        shards.keys("other.safetensors")
    assert "is damaged" in said(caught)


def test_a_shard_is_what_was_written(tmp_path):
    shards = Shards(tmp_path)
    name = shards.keep({"a": an_attribution()})
    shards.check(name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert shards.read(name, "a")  # nothing is missing, but a number has changed
    with pytest.raises(StoreError, match="its content is not what it was"):
        shards.check(name)


def test_sweeping_spares_what_is_being_written(tmp_path):
    shards = Shards(tmp_path)
    name = shards.keep({"a": an_attribution()})
    mark = hashlib.sha256(machine().encode()).hexdigest()[:16]
    living = tmp_path / f".x.safetensors.{mark}-{os.getpid()}-{this_process().started}.partial"
    dead = tmp_path / f".x.safetensors.{mark}-{os.getpid()}-1.partial"
    foreign = tmp_path / f".x.safetensors.{'0' * 16}-{os.getpid()}-1.partial"
    for path in (living, dead, foreign):
        path.touch()
    shards.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {name, living.name, foreign.name}
    Shards(tmp_path / "none").sweep()


# Workers


def claim(place, count):
    """Claim some items, say so, and wait to be killed."""
    with place.open() as store:
        print(len(store.claim(keys(int(count)), this_process())), flush=True)
        sys.stdin.read()


def share(place, workers, count):
    """Processes that begin at once, on a run that is not there yet, and do as many of the items as the others leave; forked,
    as starting afresh takes seconds."""
    if place.url is not None:
        import psycopg  # noqa: F401
    together = multiprocessing.get_context("fork").Barrier(int(workers))
    children = []
    for seed in range(int(workers)):
        result, out = os.pipe()
        if not os.fork():
            with open(out, "w") as file:  # noqa: PTH123
                print(*(each.query for each in shared(place, seed, int(count), together)), file=file)
            os._exit(0)
        os.close(out)
        children.append(result)
    for result in children:
        with open(result) as file:  # noqa: PTH123
            print(file.read(), end="")
        assert os.wait()[1] == 0


def shared(place, seed, count, together):
    """What one process does of the items, in an order of its own; all begin at once, and none goes on alone."""
    order, me, mine = keys(count), this_process(), []
    random.Random(seed).shuffle(order)
    together.wait(LONG)
    with place.open() as store:
        for index in range(0, len(order), 7):
            claimed = store.claim(order[index : index + 7], me)
            if not index:
                together.wait(LONG)
            time.sleep(0.01)  # the work
            store.commit([an_item(key, {"seed": seed}) for key in claimed])
            mine += claimed
    return mine


def die(place, count):
    """Children, each killed at some moment of its work; they are forked, as starting afresh takes seconds.

    A moment is after so many of a child's doings, which it tells, and a little later.
    """
    place.open().close()  # and loads what is needed
    moments = random.Random(0)
    for _ in range(int(count)):
        hear, tell = os.pipe()
        child = os.fork()
        if not child:
            os.close(hear)
            with contextlib.suppress(BaseException):
                work_on(place, lambda: os.write(tell, b"."))  # noqa: B023
            os._exit(1)
        os.close(tell)
        for _ in range(moments.randint(1, 15)):
            assert os.read(hear, 1), "it ended by itself"
        time.sleep(moments.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(hear)
        assert os.WTERMSIG(status) == signal.SIGKILL, "it ended by itself"


def work_on(place, tell):
    shards = Shards(place.folder / "masks")
    with place.open() as store:
        batch = 0
        while True:
            items = [Item(1, 100 * batch + part) for part in range(20)]
            if store.claim(items, this_process()):
                tell()
                results = {str(each): Attribution(map=torch.full((1, 1, 1, 1), float(batch))) for each in items}
                masks = shards.keep(results)
                tell()
                store.commit([an_item(key, {"batch": batch, "curve": [0.1] * 50}, masks=masks) for key in items])
                tell()
            batch += 1


def grow(place):
    """Write until the system refuses, and say what was said."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    committed = []
    with place.open() as store:
        with pytest.raises(StoreError) as caught:
            _fill(store, committed)
        print(said(caught))
        assert measured(store) == len(committed)
    with pytest.raises(StoreError) as caught:
        Shards(place.folder / "masks").keep({"a": an_attribution(torch.rand(1, 1, 1024, 1024))})
    assert caught.value.__cause__.errno == errno.EFBIG
    print("committed", len(committed))


if __name__ == "__main__":
    _, worker, folder, url, run, *arguments = sys.argv
    globals()[worker](Place(Path(folder), url or None), *arguments)
