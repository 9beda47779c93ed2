"""A run on a Ray cluster: whatever dies, its rows are those of an undisturbed run on one machine, to the bit."""

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.runs.execution import execute, on_ray
from sfumato.runs.execution.crew import Worker
from sfumato.runs.execution.session import Session, begin, current
from sfumato.runs.execution.workers import one_thread
from sfumato.runs.plans.cluster import Cluster
from sfumato.runs.plans.plan import parse
from sfumato.runs.results.record import Place
from sfumato.runs.stores.store import Item, Owner

HAS_RAY = importlib.util.find_spec("ray") is not None

pytestmark = [
    pytest.mark.skipif(not HAS_RAY and os.environ.get("CI") != "true", reason="Ray is not installed"),
]

HERE = Path(__file__).parent
LONG = 600  # seconds, for a machine that is busy
PICTURES = 24
BROKEN = "005.png"

PLAN = """
seed = 3
batch = 2
masks = {masks}
[models]
small = "{module}:{model}"
[methods]
gradient = "Gradient"
extremal = {{ use = "ExtremalPerturbation", areas = [0.1, 0.3], steps = 5 }}
[data.drawn]
use = "sfumato.data.table:Table"
path = "{table}"
[protocols]
accuracy = {{ use = "sfumato.metrics.accuracy:Accuracy", methods = ["gradient"] }}
pointing = {{ use = "sfumato.metrics.pointing:PointingGame", tolerance = 3 }}
"""

DRIVER = """
import os
import sys
from pathlib import Path
from sfumato.runs.execution import execute, on_ray
from sfumato.runs.plans.cluster import Cluster
from sfumato.runs.plans.plan import parse
from sfumato.runs.results.record import Place
from sfumato.runs.execution.session import begin

plan, folder, address, actors = sys.argv[1:]
execute.BETWEEN_COMMITS = 0.05
add = execute.Parcel.add
os.environ["CLUSTER_DRIVER"] = "1"  # where models are tried before the first picture, and wait for nobody

def told(parcel, done, results):
    add(parcel, done, results)
    print(*(f'{each.item.recipe}-{each.item.query}' for each in done))

execute.Parcel.add = told
session = begin(parse(Path(plan).read_text(), Path(plan).parent), Place(Path(folder)))
for _ in on_ray.spread(session, address, Cluster(actors=int(actors))):
    pass
"""


class Bed:
    """Pictures with their boxes, a module with models, plans over both, and runs of these."""

    def __init__(self, root):
        self.root = root
        self.module = f"cluster_subject_{root.name}".replace("-", "_")
        shutil.copy(HERE / "cluster_subject.py", root / f"{self.module}.py")
        (root / "deaths").mkdir()
        drawn = np.random.default_rng(0)
        lines = ["path,target,boxes"]
        for index in range(PICTURES):
            name = f"{index:03}.png"
            Image.fromarray(drawn.integers(0, 255, (48, 40, 3), dtype=np.uint8)).save(root / name)
            target = ("disc", "square", "stripes")[index % 3]
            lines.append(f'{name},{target},"[[4,4,20,20]]"')
        (root / BROKEN).write_bytes(b"no picture")
        (root / "table.csv").write_text("\n".join(lines) + "\n")

    def plan(self, model="sound", masks="false", table="table.csv"):
        text = PLAN.format(module=self.module, model=model, masks=masks, table=self.root / table)
        return parse(text, self.root)

    def session(self, name, **settings):
        return begin(self.plan(**settings), Place(self.root / name))

    def tokens(self, count):
        """So many workers will die."""
        for index in range(count):
            (self.root / "deaths" / str(index)).touch()

    def local(self, model="sound"):
        """The rows of a run on this machine that nothing disturbs."""
        session = self.session(f"local-{model}", model=model)
        with one_thread():
            for _ in session.work():
                pass
        return rows(session)


def rows(session):
    """All that is done, but for what it took."""
    with session.place.store() as store:
        return [(each.item, each.example, each.target, json.dumps(each.row), each.reason) for each in store.done()]


def count(session):
    with session.place.store() as store:
        return session.counts(store)[0]


def claims(session):
    """What a stranger cannot claim, of all that is planned."""
    stranger = Owner("elsewhere", 1, "now")
    with session.place.store() as store:
        items = [item for window in session.undone(store) for chunk, _ in window for item in chunk.all_items]
        free = store.claim(items, stranger)
        store.release(stranger)
        return set(items) - set(free) - store.which_done(items)


@pytest.fixture
def bed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(execute, "BETWEEN_COMMITS", 0.05)
    return Bed(tmp_path)


@pytest.fixture(scope="module")
def cluster(surroundings):
    """A cluster of two machines with room for a worker each, all on this one; tests add others, and remove them."""
    from ray.cluster_utils import Cluster as Machines

    machines = Machines()
    try:
        add(machines)  # the first is the head
        add(machines)
        yield machines
    finally:
        machines.shutdown()


def add(machines):
    """One more machine. Ray gives each half a minute to start, which it may need longer for on a busy one."""
    for _ in range(20):
        try:
            machine = machines.add_node(wait=False, num_cpus=1, object_store_memory=80_000_000)
        except Exception as error:  # Ray has no class for it
            if "timed out" not in str(error):
                raise
        else:
            machines.wait_for_nodes(LONG)
            return machine
    pytest.fail("Ray starts no machine")


def children(parent):
    """The processes below one, all generations."""
    below = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            below += [int(stat.parent.name), *children(int(stat.parent.name))]
    return below


def alive(process):
    """Whether a process lives and is none of Ray's agents, which notice the death of their machine within two minutes."""
    try:
        if b"Agent" in Path(f"/proc/{process}/cmdline").read_bytes():
            return False
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


# Machines and workers die


@pytest.mark.slow
def test_a_machine_dies_in_the_middle(bed, cluster):
    undisturbed = bed.local()
    session = bed.session("cluster", masks="true")
    third, killed = add(cluster), None
    for _ in on_ray.spread(session, cluster.address):
        if killed is None and count(session) >= len(undisturbed) // 3:
            killed = count(session)
            cluster.remove_node(third, allow_graceful=False)
    assert killed < len(undisturbed)  # there was something left to do
    assert rows(session) == undisturbed
    assert [row[-1] for row in undisturbed if row[1] == BROKEN] == [row[-1] for row in undisturbed if row[-1]] != []
    with session.place.store() as store:
        kept = {each.item: each.masks for each in store.done() if each.row is not None}
    assert all((session.place.folder / "masks" / name).parent.is_file() for name in kept.values())
    assert not claims(session)


@pytest.mark.slow
def test_a_protocol_that_is_added_judges_the_masks_that_were_kept(bed, cluster):
    undisturbed = bed.local()
    session = bed.session("cluster", masks="true")
    for _ in on_ray.spread(session, cluster.address, Cluster(actors=2)):
        pass
    with session.place.store() as store:
        places = {each.item: each.masks for each in store.done()}
        store.forget([each.item for each in store.done() if each.row and "rank" in each.row])
    for _ in on_ray.spread(session, cluster.address, Cluster(actors=2)):
        pass
    assert rows(session) == undisturbed
    with session.place.store() as store:
        assert {each.item: each.masks for each in store.done()} == places


def test_workers_die(bed, cluster):
    undisturbed = bed.local("mortal")
    session = bed.session("cluster", model="mortal")
    bed.tokens(2)
    for _ in on_ray.spread(session, cluster.address, Cluster(actors=2)):
        pass
    assert not list((bed.root / "deaths").iterdir())
    assert rows(session) == undisturbed


@pytest.mark.slow
def test_rows_are_the_same_in_a_database(bed, cluster, postgres):
    undisturbed = bed.local("mortal")
    session = begin(bed.plan("mortal"), Place(bed.root / "database", postgres.url()))
    bed.tokens(1)
    for _ in on_ray.spread(session, cluster.address, Cluster(actors=2)):
        pass
    assert not list((bed.root / "deaths").iterdir())
    assert not (session.place.folder / "run.sqlite").exists()
    assert rows(session) == undisturbed
    assert not claims(session)


@pytest.mark.slow
def test_a_chunk_at_which_every_worker_dies(bed, cluster):
    """It is left open, and all else is done; the same command does it."""
    undisturbed = bed.local("mortal")
    session = bed.session("cluster", model="mortal")
    bed.tokens(2)
    *_, last = on_ray.spread(session, cluster.address, Cluster(actors=1, in_flight=1, retries=1))
    assert last.left.startswith(
        "4 items were left open, 4 because a worker was killed (2 workers died one after another;"
    )
    assert len(rows(session)) == len(undisturbed) - 4
    assert not claims(session)
    for _ in on_ray.spread(session, cluster.address, Cluster(actors=1)):
        pass
    assert rows(session) == undisturbed


# What is wrong and no item's fault


@pytest.mark.slow
def test_a_model_without_memory_ends_the_run(bed, cluster):
    """Workers have less memory than the driver, where the model was tried before the first picture."""
    (bed.root / "plenty").touch()
    session = bed.session("cluster", model="greedy")
    (bed.root / "plenty").unlink()
    with pytest.raises(
        RuntimeError, match=r"out of memory at 5 pictures one after the other, .*MemoryError: cannot have 64 GiB"
    ):
        for _ in on_ray.spread(session, cluster.address, Cluster(actors=1)):
            pass
    assert not claims(session)


@pytest.mark.slow
def test_other_files_on_a_machine(bed, cluster, monkeypatch):
    session = bed.session("cluster")
    with session.place.store() as store:
        made = list(session.undone(store))  # of the pictures as they are now
    path = bed.root / "004.png"
    path.write_bytes(path.read_bytes() + b"more")  # and as workers see them
    monkeypatch.setattr(Session, "undone", lambda *_: iter(made))
    with pytest.raises(
        RuntimeError, match=r"004\.png' is missing on \S+, or another file than here; give every machine"
    ):
        for _ in on_ray.spread(session, cluster.address, Cluster(actors=1)):
            pass
    assert "004.png" not in {row[2] for row in rows(session)}  # which would have been that machine's


def test_a_worker_says_what_is_wrong(bed):
    session = bed.session("run")
    with session.place.store() as store:
        chunk = next(session.undone(store))[0][0]
    wanted = frozenset(chunk.all_items[:1])
    worker = Worker(session.plan, session.weights, session.code, current())
    assert worker.ready().fault == ""
    assert [each.item for each in worker.compute(chunk, wanted, {}).done] == chunk.all_items[:1]
    worker.rest()
    older = Worker(session.plan, session.weights, session.code, {**current(), "code": "older"})
    assert "another version is installed there (code " in older.ready().fault
    other = Worker(session.plan, {"small": "another"}, session.code, current())
    assert "model 'small' has other weights here" in other.compute(chunk, wanted, {}).fault
    assert not other.compute(chunk, wanted, {}).done


def test_settings():
    with pytest.raises(ValueError, match="actors is a whole number, at least 1; got 0"):
        Cluster(actors=0)
    with pytest.raises(ValueError, match="in_flight must be a whole number; got 1.5"):
        Cluster(in_flight=1.5)
    with pytest.raises(ValueError, match=r"gpus must be at most 1, or a whole number; got 1\.5"):
        Cluster(gpus=1.5)
    with pytest.raises(ValueError, match="a worker needs a part of a machine"):
        Cluster(cpus=0)
    with pytest.raises(ValueError, match="needs GPUs, and workers are given none"):
        Cluster().check_device("cuda")
    with pytest.raises(ValueError, match="a worker sees its own GPUs only"):
        Cluster(gpus=1).check_device("cuda:1")
    assert Cluster(cpus=4, gpus=0.5).fitting(cpus=30, gpus=8) == 7
    assert Cluster(cpus=0, gpus=2).fitting(cpus=1, gpus=5) == 2


def test_no_ray(bed, monkeypatch):
    session = bed.session("cluster")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sfumato\[ray\]'"):
        next(on_ray.spread(session, "ray"))


# Drivers


@pytest.fixture
def drive():
    """Starts a driver in a process of its own, which prints what it has had done, and ends with the test."""
    processes = []

    def start(session, address, actors=2):
        plan, folder = session.plan.folder / "plan.toml", session.place.folder
        plan.write_text(session.plan.text)
        path = os.pathsep.join(entry for entry in sys.path if entry)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(plan), str(folder), address, str(actors)],
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        with process:  # waits for it, and closes what it wrote to
            pass


def at_items(session, start, done):
    """The driver that is started, once so many items are done; if it ends before, what it says."""
    for _ in range(20):
        process = start()
        wait_for(lambda: process.poll() is not None or count(session) >= done)  # noqa: B023
        if process.poll() is None:
            return process
        said = process.communicate()[0]
        assert "timed out during startup" in said, said  # Ray gives its cluster half a minute
    return pytest.fail("Ray starts no cluster")


@pytest.mark.slow
def test_the_driver_is_killed_twice(bed, cluster, drive):
    undisturbed = bed.local()
    session = bed.session("cluster")
    drawn = random.Random(4)
    for kills in (2, 1):
        before = count(session)
        wanted = before + drawn.uniform(0.1, 0.9) * (len(undisturbed) - before) / (kills + 1)
        process = at_items(session, lambda: drive(session, cluster.address), wanted)
        process.kill()
        process.communicate()
        assert before < count(session) < len(undisturbed)
    for _ in on_ray.spread(session, cluster.address, Cluster(actors=2)):
        pass
    assert rows(session) == undisturbed


@pytest.mark.slow
def test_two_drivers_on_one_run(bed, cluster, drive, monkeypatch):
    """Each does a part, and no item twice."""
    undisturbed = bed.local("sociable")
    session = bed.session("cluster", model="sociable")
    (bed.root / "present").mkdir()
    process = drive(session, cluster.address, actors=1)
    ours, add = [], execute.Parcel.add

    def told(parcel, done, results):
        add(parcel, done, results)
        ours.extend(each.item for each in done)

    monkeypatch.setattr(execute.Parcel, "add", told)
    for _ in on_ray.spread(session, cluster.address, Cluster(actors=1)):
        pass
    said, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, said
    theirs = [Item(*map(int, word.split("-"))) for word in said.split()]
    assert ours
    assert theirs
    assert sorted([*ours, *theirs]) == [row[0] for row in undisturbed]
    assert rows(session) == undisturbed
    assert not claims(session)


@pytest.mark.slow
def test_ctrl_c_ends_a_cluster_of_its_own(bed, drive, surroundings):
    session = bed.session("own")
    process = at_items(session, lambda: drive(session, "ray"), 1)
    below = children(process.pid)
    assert len(below) > 3  # Ray's own, and the workers
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=LONG)
    assert process.returncode != 0
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not claims(session)
    wait_for(lambda: not any(alive(each) for each in below))


@pytest.mark.slow
def test_the_driver_is_killed_ten_times(bed, cluster, drive):
    """At random moments, every third time with a cluster of its own, which goes with it."""
    undisturbed = bed.local()
    session = bed.session("cluster")
    drawn = random.Random(7)
    for left in range(10, 0, -1):
        before = count(session)
        own = left % 3 == 0
        address = "ray" if own else cluster.address
        if left % 5 == 0:
            process = drive(session, address)
            time.sleep(drawn.uniform(0, 8))  # perhaps before it has done anything
        else:
            wanted = before + drawn.uniform(0.1, 1) * (len(undisturbed) - before) / (left + 1)
            process = at_items(session, lambda: drive(session, address), wanted)  # noqa: B023
        below = children(process.pid)
        process.kill()
        process.communicate()
        wait_for(lambda: not any(alive(each) for each in below))  # noqa: B023
    assert count(session) < len(undisturbed)
    for _ in on_ray.spread(session, cluster.address, Cluster(actors=2)):
        pass
    assert rows(session) == undisturbed
