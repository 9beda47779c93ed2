"""What a run costs on one machine and on a Ray cluster, and what that means for a million pictures on 64 GPUs.

`python bench/cluster.py` measures on this machine: rows a second of one worker, of two, and of Ray with one and two; what a
chunk costs the driver, where neither the method nor the model does anything; what the store takes; and decoding. From these it
prints an estimate. It takes some minutes; `--pictures 6 --chunks 200` is quick and coarse.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

import sfumato
from sfumato import samples
from sfumato.attribution import Attribution
from sfumato.data.pictures import read
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, Row
from sfumato.metrics.protocol import Protocol
from sfumato.models.classifier import Classifier, Preparation
from sfumato.runs.execution import on_ray, workers
from sfumato.runs.execution.session import Session, begin
from sfumato.runs.plans.cluster import Cluster
from sfumato.runs.plans.plan import parse
from sfumato.runs.results.record import Place
from sfumato.runs.stores.processes import this_process
from sfumato.runs.stores.store import Done

PLAN = """
[models]
model = "{model}"
[methods]
method = {method}
[data.pictures]
use = "sfumato.data.folder:Folder"
path = "{folder}"
targets = "predicted"
[protocols]
protocol = "{protocol}"
"""

REAL = {
    "model": "lite0",
    "method": '{ use = "ExtremalPerturbation", areas = [0.1], steps = 20 }',
    "protocol": "sfumato.metrics.accuracy:Accuracy",
}
NOTHING = {"model": "cluster:idle", "method": '"cluster:NoMethod"', "protocol": "cluster:NoProtocol"}

PICTURES, GPUS = 1_000_000, 64


@dataclass(frozen=True)
class NoMethod:
    """A method that does nothing."""

    def __call__(self, model: object, inputs: Tensor, targets: object) -> Attribution:
        return Attribution(inputs[:, :1])


@dataclass(frozen=True)
class NoProtocol(Protocol):
    """A protocol that measures nothing."""

    def measure(self, case: Case) -> Row:
        return {"nothing": 0.0}

    def measures(self, rows: Sequence[Row]) -> Sequence[Measure]:
        return ()


def idle() -> Classifier:
    """A model that does next to nothing."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return Classifier("idle", net, Preparation(size=8, resize=8), ("one", "other"))


@dataclass(frozen=True)
class Costs:
    """What was measured, in seconds."""

    query: float
    """A query, by one core."""
    chunk: float
    """A chunk, by the driver, from its claim to its commit."""
    commit: float
    """A row, by the store, where a hundred are committed at once."""
    decode: float
    """A picture, from its file to the model's input, by one core."""


def session(root: Path, name: str, pictures: Path, what: dict[str, str]) -> Session:
    return begin(parse(PLAN.format(folder=pictures, **what), root), Place(root / name))


def paced(run: Session, steps: Iterator[object]) -> tuple[float, float, float]:
    """Seconds until the first items were done, items a second after that, and the processor time that this process took."""
    began, before = time.perf_counter(), time.process_time()
    seen: list[tuple[float, int]] = []
    with run.place.store() as store:
        seen.extend((time.perf_counter() - began, run.counts(store)[0]) for _ in steps)
        used = time.process_time() - before
        at, done = next((at, done) for at, done in seen if done)
        end = next(at for at, count in seen if count == run.total)
    return at, (run.total - done) / (end - at) if end > at else float("nan"), used


def alone(run: Session) -> Iterator[object]:
    with workers.one_thread():
        yield from run.work()


def rates(root: Path, count: int) -> float:
    """Print how fast each way is; one worker's rate."""
    print("\n## The demo model, extremal perturbation of one area in 20 steps\n")
    print("| way | items | seconds to the first commit | items a second after it | of one worker's |")
    print("| --- | --- | --- | --- | --- |")
    pictures = copies(root / "pictures", count)
    ways: dict[str, Callable[[Session], Iterator[object]]] = {
        "one worker": alone,
        "two workers": lambda run: workers.spread(run, 2),
        "Ray, one worker": lambda run: on_ray.spread(run, "ray", Cluster(actors=1)),
        "Ray, two workers": lambda run: on_ray.spread(run, "ray", Cluster(actors=2)),
    }
    one = 0.0
    for number, (name, way) in enumerate(ways.items()):
        run = session(root, f"rates-{number}", pictures, REAL)
        first, rate, _ = paced(run, way(run))
        one = one or rate
        print(f"| {name} | {run.total} | {first:.1f} | {rate:.2f} | {rate / one:.2f} × |", flush=True)
    return one


def driver(root: Path, count: int) -> float:
    """What a chunk takes the driver, where the workers do nothing: its claim, its way there and back, and its commit."""
    run = session(root, "driver", copies(root / "small", count, size=(8, 8)), NOTHING)
    _, rate, used = paced(run, on_ray.spread(run, "ray", Cluster(actors=2, in_flight=8)))
    print(f"\nThe driver, with two workers that do nothing: {rate:.0f} chunks a second, claims and commits among it;")
    print(f"{1000 * used / run.total:.2f} ms of its processor for each (of {run.total}, with its start and its end).")
    return 1 / rate


def store(root: Path, count: int = 2000) -> float:
    """Seconds for a row committed with others."""
    row = {"hit": True, "x": 1.0}
    done = [Done(f"{index:032}", "recipe", "example", 0, row, seconds=1.0) for index in range(count)]
    place = Place(root / "store")
    place.folder.mkdir()
    with place.store(create=True) as opened:
        began = time.perf_counter()
        for each in done[:200]:
            opened.claim([each.key], this_process())
        claims = 200 / (time.perf_counter() - began)
        began = time.perf_counter()
        for start in range(0, count, 100):
            opened.commit(done[start : start + 100])
        commit = (time.perf_counter() - began) / count
    print(
        f"\nThe store, a file here: {claims:.0f} claims a second, each alone; {1 / commit:.0f} rows, a hundred at once."
    )
    return commit


def decoding() -> float:
    """Seconds for a picture, from its file to the model's input."""
    model = sfumato.models.load("lite0")
    took = []
    for path in originals() * 5:
        began = time.perf_counter()
        model.prepare(read(path))
        took.append(time.perf_counter() - began)
    sizes = ", ".join("{} × {}".format(*Image.open(path).size) for path in originals())
    print(
        f"\nA picture, from its file to the model's input: {1000 * statistics.median(took):.1f} ms a core (of {sizes})."
    )
    return statistics.median(took)


def estimate(costs: Costs, speed: float, batch: int, pictures: int = PICTURES, gpus: int = GPUS) -> dict[str, float]:
    """Hours for so many pictures, a query each, by what would need them, where a GPU is `speed` times one core."""
    return {
        "the GPUs": pictures * costs.query / (speed * gpus) / 3600,
        "the driver": pictures / batch * costs.chunk / 3600,
        "the store's commits": pictures * costs.commit / 3600,
        "decoding, a core a GPU": pictures * costs.decode / gpus / 3600,
    }


def report(costs: Costs) -> None:
    print(f"\n## {PICTURES:,} pictures, one query each by one method and one protocol, on {GPUS} GPUs\n")
    print(
        "Hours that each would need if it were the only limit; they work at the same time, so that the longest counts."
    )
    print(
        f"A query takes {costs.query:.2f} s of one core, as above. How much faster a GPU is was not measured here: the"
    )
    print(
        "table says what follows from it. There is one driver and one store, however many GPUs. The more answers come in,"
    )
    print(
        "the more chunks the driver claims at once, so its claims are counted as measured with it. Masks are not kept.\n"
    )
    names = list(estimate(costs, 1, 1))
    print("| a GPU, in cores | queries a chunk |", " | ".join(names), "| bottleneck |")
    print("|", " | ".join(["---"] * (len(names) + 3)), "|")
    for speed in (10, 100, 1000):
        for batch in (1, 16):
            hours = estimate(costs, speed, batch)
            print(
                f"| {speed} | {batch} |",
                " | ".join(f"{value:.3g}" for value in hours.values()),
                f"| {max(hours, key=hours.__getitem__)} |",
            )
    limit = costs.query / costs.chunk
    print(
        f"\nOne driver feeds {limit:,.0f} cores' worth of GPUs with chunks of one such query; with n a chunk, n times that."
    )


def originals() -> list[Path]:
    return sorted(Path(samples.__file__).parent.glob("*.jpg"))


def copies(folder: Path, count: int, size: tuple[int, int] | None = None) -> Path:
    """So many pictures, of the samples by turns."""
    folder.mkdir()
    for index in range(count):
        path = originals()[index % len(originals())]
        if size:
            Image.open(path).resize(size).save(folder / f"{index:05}.png")
        else:
            shutil.copy(path, folder / f"{index:05}.jpg")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=24, help="for each way")
    parser.add_argument("--chunks", type=int, default=2000, help="for the driver")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        one = rates(root, arguments.pictures)
        chunk = driver(root, arguments.chunks)
        report(Costs(1 / one, chunk, store(root), decoding()))


if __name__ == "__main__":
    main()
