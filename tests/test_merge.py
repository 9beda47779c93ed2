"""Merged runs: what another machine has done of a plan is not computed again, and nothing else is taken for it."""

# ruff: noqa: F811  # fixtures of another file

import shutil
from dataclasses import replace

import pytest
from test_runs import ITEMS, KEPT, carried_out, planned, subject, table, typed, written  # noqa: F401  # fixtures

from sfumato.runs.execution.session import begin
from sfumato.runs.results.merge import Taken, merge
from sfumato.runs.results.record import Place, read_record
from sfumato.runs.stores.sqlite import SqliteStore
from sfumato.runs.work.undone import look

FAILED = 15


def merged(into, other, adopt=False):
    """Take a run into another; how many items became what."""
    one, two = read_record(Place(into)), read_record(Place(other))
    with one.place.store() as store, two.place.store() as other_store:
        look(one.read_plan(), store, anew=True)
        return sum(merge(one, store, two, other_store, adopt), Taken())


def measured(run):
    return [row for row in table(run) if '"failed": ""' in row]


def moved(folder, name):
    """The plan's folder as another machine has it: elsewhere."""
    other = folder / name
    other.mkdir()
    shutil.copytree(folder / "pictures", other / "pictures")
    return other


def test_what_another_machine_has_done_is_not_computed_again(subject, tmp_path):
    folder, name = subject
    carried_out(planned((moved(folder, "elsewhere"), name)), tmp_path / "theirs")
    session = begin(planned(subject), Place(tmp_path / "mine"))
    assert merged(tmp_path / "mine", tmp_path / "theirs") == Taken(ITEMS - FAILED, 0, FAILED, 0)
    with session.place.store() as store:
        assert session.look(store) == FAILED
    list(session.work())
    assert measured(tmp_path / "mine") == measured(tmp_path / "theirs")
    assert merged(tmp_path / "mine", tmp_path / "theirs") == Taken(0, ITEMS - FAILED, FAILED, 0)


def test_parts_of_a_plan_make_the_whole(subject, tmp_path):
    part = {'extremal = { use = "ExtremalPerturbation", areas = [0.2], steps = 3 }': ""}
    rest = {'gradient = "Gradient"': "", 'accuracy = { use = "Accuracy", methods = ["gradient"] }': ""}
    carried_out(planned(subject, **part), tmp_path / "one")
    carried_out(planned(subject, **rest), tmp_path / "two")
    begin(planned(subject), Place(tmp_path / "all"))
    taken = merged(tmp_path / "all", tmp_path / "one") + merged(tmp_path / "all", tmp_path / "two")
    assert taken == Taken(ITEMS - FAILED, 0, FAILED, 0)


def test_another_picture_annotation_or_class_is_not_taken_for_the_one_asked_for(subject, tmp_path):
    folder, name = subject
    other = moved(folder, "elsewhere")
    shutil.copy(other / "pictures/0.png", other / "pictures/1.png")
    carried_out(planned((other, name)), tmp_path / "theirs")
    begin(planned(subject), Place(tmp_path / "mine"))
    taken = merged(tmp_path / "mine", tmp_path / "theirs")
    assert taken == Taken(ITEMS - FAILED - 6, 0, FAILED, 6)  # three items for each of two targets
    with read_record(Place(tmp_path / "mine")).place.store() as store:
        assert "square-1" not in {each.example for each in store.done()}


def test_a_picture_that_a_data_set_has_twice_is_taken_twice(subject, tmp_path):
    folder, name = subject
    module = folder / f"{name}.py"
    module.write_text(
        module.read_text().replace("label = index % 3", "index = 0 if index == 1 else index; label = index % 3")
    )
    carried_out(planned(subject), tmp_path / "theirs")
    begin(planned(subject), Place(tmp_path / "mine"))
    assert merged(tmp_path / "mine", tmp_path / "theirs") == Taken(ITEMS - FAILED, 0, FAILED, 0)


@pytest.mark.parametrize("page", [1000, 2])
def test_the_places_of_a_picture_that_is_there_several_times_are_taken_in_order(subject, tmp_path, monkeypatch, page):
    folder, name = subject
    module = folder / f"{name}.py"
    module.write_text(
        module.read_text().replace("label = index % 3", "index = 0 if index in (4, 8) else index; label = index % 3")
    )
    monkeypatch.setattr("sfumato.runs.results.merge.PLACES", page)
    carried_out(planned(subject), tmp_path / "theirs")
    begin(planned(subject), Place(tmp_path / "mine"))
    assert merged(tmp_path / "mine", tmp_path / "theirs") == Taken(ITEMS - FAILED, 0, FAILED, 0)


def test_what_failed_here_and_was_measured_elsewhere_is_taken(subject, tmp_path):
    carried_out(planned(subject), tmp_path / "theirs")
    session = carried_out(planned(subject), tmp_path / "mine")
    before = table(tmp_path / "mine")
    with session.place.store() as store:
        first = next(each for each in store.done() if each.row is not None)
        store.forget([first.item])
        store.commit([replace(first, row=None, reason="it took longer than 1 s")])
        assert session.counts(store) == (ITEMS, FAILED + 1)
    assert merged(tmp_path / "mine", tmp_path / "theirs").new == 1
    assert table(tmp_path / "mine") == before
    with session.place.store() as store:
        assert session.counts(store) == (ITEMS, FAILED)


def test_shards_that_are_being_merged_are_not_swept(subject, tmp_path, monkeypatch):
    carried_out(planned(subject, **KEPT), tmp_path / "theirs")
    begin(planned(subject, **KEPT), Place(tmp_path / "mine"))
    commit = SqliteStore.commit

    def begun_meanwhile(store, done, origin=""):
        begin(planned(subject, **KEPT), Place(tmp_path / "mine"))
        return commit(store, done, origin)

    monkeypatch.setattr(SqliteStore, "commit", begun_meanwhile)
    merged(tmp_path / "mine", tmp_path / "theirs")
    record = read_record(Place(tmp_path / "mine"))
    with record.place.store() as store:
        assert store.shards() == {path.name for path in (tmp_path / "mine/masks").iterdir()}
        assert not store.claimed()


def test_how_many_were_taken_is_true_whoever_merges_and_whatever_is_done_again(subject, tmp_path, monkeypatch):
    carried_out(planned(subject), tmp_path / "theirs")
    session = begin(planned(subject), Place(tmp_path / "mine"))
    commit = SqliteStore.commit

    def merged_meanwhile(store, done, origin=""):
        monkeypatch.setattr(SqliteStore, "commit", commit)
        merged(tmp_path / "mine", tmp_path / "theirs")
        return commit(store, done, origin)

    monkeypatch.setattr(SqliteStore, "commit", merged_meanwhile)
    assert merged(tmp_path / "mine", tmp_path / "theirs").new == 0
    (count,) = read_record(Place(tmp_path / "mine")).merged.values()
    assert count == ITEMS - FAILED
    with session.place.store() as store:
        session.redo(store, "accuracy")
    (count,) = read_record(Place(tmp_path / "mine")).merged.values()
    assert count == (ITEMS - FAILED) * 2 // 3
    begin(planned(subject, **{'accuracy = { use = "Accuracy", methods = ["gradient"] }': ""}), Place(tmp_path / "mine"))
    rest = planned(subject, **{'pointing = { use = "PointingGame", tolerance = 4 }': ""})
    begin(rest, Place(tmp_path / "mine"))
    assert read_record(Place(tmp_path / "mine")).merged == {}


def test_a_run_with_the_note_of_an_earlier_version_can_be_read_and_merged(subject, tmp_path):
    carried_out(planned(subject), tmp_path / "theirs")
    place = Place(tmp_path / "mine")
    begin(planned(subject), place)
    with place.store() as store:
        store.note("merged", {"sfumato 0.1": 3})  # counted by versions alone
    assert read_record(place).merged == {}
    assert merged(tmp_path / "mine", tmp_path / "theirs").new == ITEMS - FAILED
    assert sum(read_record(place).merged.values()) == ITEMS - FAILED


def test_what_is_here_stays(subject, tmp_path):
    carried_out(planned(subject), tmp_path / "theirs")
    session = carried_out(planned(subject), tmp_path / "mine")
    before = table(tmp_path / "mine")
    with session.place.store() as store:
        first = next(each for each in store.done() if each.row is not None)
    merged(tmp_path / "mine", tmp_path / "theirs")
    with session.place.store() as store:
        (after,) = store.look_up([first.item])
    assert after == first  # with its time
    assert table(tmp_path / "mine") == before


def test_times_of_another_machine_are_not_taken(subject, tmp_path):
    carried_out(planned(subject), tmp_path / "theirs")
    session = begin(planned(subject), Place(tmp_path / "mine"))
    merged(tmp_path / "mine", tmp_path / "theirs")
    with session.place.store() as store:
        pages = [page for where in session.places for page in store.pages(where.recipe)]
    assert {second for page in pages for second in page.seconds} == {None}


def test_masks_come_with_their_rows(subject, tmp_path):
    carried_out(planned(subject, **KEPT), tmp_path / "theirs")
    lost = min((tmp_path / "theirs/masks").glob("*.safetensors"))
    session = begin(planned(subject, **KEPT), Place(tmp_path / "mine"))
    lost.write_bytes(lost.read_bytes()[:-1])
    merged(tmp_path / "mine", tmp_path / "theirs")
    with session.place.store() as store:
        places = [each.masks for each in store.done()]
    assert 0 < places.count("") < len(places)  # those that the other run has lost
    for place in filter(None, places):
        assert session.place.shards.read(*place.split("/")).map.shape == (1, 1, 24, 24)
    plain = begin(planned(subject), Place(tmp_path / "without"))
    merged(tmp_path / "without", tmp_path / "theirs")
    assert not plain.place.shards.folder.exists()


def test_items_of_another_version_are_taken_only_if_told(subject, tmp_path, monkeypatch):
    monkeypatch.setattr("sfumato.runs.execution.session.current", lambda: {"sfumato": "0", "code": "old", "torch": "1"})
    carried_out(planned(subject), tmp_path / "theirs")
    monkeypatch.undo()
    begin(planned(subject), Place(tmp_path / "mine"))
    with pytest.raises(
        ValueError, match=r"made by another version or on another device \(sfumato 0, here .*code old.*torch 1"
    ):
        merged(tmp_path / "mine", tmp_path / "theirs")
    assert merged(tmp_path / "mine", tmp_path / "theirs", adopt=True).new == ITEMS - FAILED
    assert read_record(Place(tmp_path / "mine")).merged == {"sfumato 0, code old, torch 1": ITEMS - FAILED}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch = 2": "batch = 3"}, "squares, seer, gradient, pointing differ in their batch"),
        ({"batch = 2": "batch = 2\nseed = 1"}, "differ in their seed"),
        ({"[data.squares]": "[data.others]"}, "no data set, model, method and protocol of the same names in common"),
    ],
)
def test_runs_with_nothing_in_common_are_refused(subject, tmp_path, changes, said):
    carried_out(planned(subject, **changes), tmp_path / "theirs")
    begin(planned(subject), Place(tmp_path / "mine"))
    with pytest.raises(ValueError, match=said):
        merged(tmp_path / "mine", tmp_path / "theirs")


def test_the_command_begins_a_run_and_merges(subject, written, tmp_path):
    carried_out(planned(subject), tmp_path / "theirs")
    out = tmp_path / "all"
    refused = typed("merge", out, tmp_path / "theirs")
    assert refused.exit_code != 0
    assert "there is no such folder" in refused.output
    ended = typed("merge", out, tmp_path / "theirs", "--plan", written)
    assert ended.exit_code == 0, ended.output
    assert f"{ITEMS - FAILED} items taken, {FAILED} failed there and are left to be tried here" in ended.output
    assert f"{ITEMS - FAILED} of {ITEMS} items are done, of which 0 failed" in ended.output
    assert f"{ITEMS - FAILED} were taken from another run, made by sfumato" in typed("status", out).output
    again = typed("merge", out, tmp_path / "theirs")
    assert f"0 items taken, {ITEMS - FAILED} were done here already" in again.output


def test_nothing_is_begun_if_there_is_nothing_to_merge(subject, written, tmp_path):
    ended = typed("merge", tmp_path / "all", tmp_path / "nothing", "--plan", written)
    assert ended.exit_code != 0
    assert "no run in" in ended.output
    assert not (tmp_path / "all").exists()


def test_a_run_keeps_its_plan(subject, written, tmp_path):
    carried_out(planned(subject), tmp_path / "theirs")
    carried_out(planned(subject), tmp_path / "mine")
    written.write_text(
        written.read_text().replace('gradient = "Gradient"', 'other = "Centre"').replace('"gradient"', '"other"')
    )
    ended = typed("merge", tmp_path / "mine", tmp_path / "theirs", "--plan", written)
    assert ended.exit_code != 0
    assert "has another plan than" in " ".join(ended.output.split())
    assert f"{ITEMS} of {ITEMS} items are done" in typed("status", tmp_path / "mine").output


def test_rows_come_from_a_database_and_go_into_one(subject, written, tmp_path, postgres):
    url = postgres.url()
    list(begin(planned(subject), Place(tmp_path / "theirs", url)).work())
    refused = typed("merge", tmp_path / "mine", tmp_path / "theirs", "--plan", written)
    assert "give its address with --other-store" in " ".join(refused.output.split())
    ended = typed("merge", tmp_path / "mine", tmp_path / "theirs", "--plan", written, "--other-store", url)
    assert f"{ITEMS - FAILED} items taken" in ended.output
    for source in ("mine", "theirs"):
        ended = typed("merge", tmp_path / source[0], tmp_path / source, "--plan", written, "--store", url)
        assert f"{ITEMS - FAILED} items taken" in ended.output, ended.output
