"""What looking at a large run costs: synthetic rows of so many pictures by four methods and three protocols.

    python bench/scale.py --pictures 10000 100000 1000000 --out build/scale     # the last takes an hour and 5 GB

The rows are such as the protocols write. The run lacks its last ten pictures, so that a start has to find out what is left; the
time to the first of them ends when a worker shows it to the model. A run that is there is not filled again, and is measured
with the code of today whatever code filled it. Times are those of whole commands, with the start of Python. Memory is the most
that the command's own process held; the process of a worker comes on top.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from sfumato.data import Example, Thing
from sfumato.models import Classifier, Preparation
from sfumato.runs.execution.session import ADOPT, Session, begin
from sfumato.runs.plans.plan import parse
from sfumato.runs.results.record import Place, read_record
from sfumato.runs.stores.store import Done, Item

CLASSES = tuple(f"class {index}" for index in range(20))
LEFT = 10
"""Pictures of which nothing is done."""

PLAN = """
[models]
net = "scale:net"
[methods]
gradient = "Gradient"
guided = "GuidedBackprop"
deconvnet = "Deconvnet"
squared = { use = "Gradient", reduction = "norm" }
[data.synthetic]
use = "scale:Synthetic"
path = "."
count = COUNT
[protocols]
pointing = "PointingGame"
energy = "EnergyPointing"
curves = { use = "InsertionDeletion", steps = 4 }
"""


FIRST = Path("first")
"""In the working directory: holds the time at which the model saw its first picture."""


class Net(nn.Module):
    version = "1"  # else a run would begin again after every edit of this file

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Sequential(nn.Conv2d(3, 20, 1), nn.ReLU())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not FIRST.exists() and inputs.any():  # the check before a run shows it an empty picture
            FIRST.write_text(str(time.time()), encoding="utf-8")
        return self.head(inputs).mean((2, 3))


def net() -> Classifier:
    return Classifier("net", Net().eval(), Preparation(24, None, (0.5,) * 3, (0.25,) * 3), CLASSES)


net.version = "1"  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Synthetic:
    """So many pictures, all in one file."""

    path: str
    count: int
    classes = CLASSES

    @property
    def sources(self) -> list[Path]:
        return [Path(self.path, "picture.png")]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        things = (Thing(index % 20, (2.0, 2.0, 20.5, 18.25)), Thing((index + 1) % 20, (0.0, 3.0, 7.5, 22.0)))
        return Example(
            f"val/picture_{index:08}.jpg", Path(self.path, "picture.png"), things, (24, 24), asked=(index % 20,)
        )


def filled(folder: Path, pictures: int) -> float:
    """Seconds that it took to fill the run, if it was not."""
    if not (folder / "picture.png").exists():  # a new file would be another picture, of which all is looked into again
        Image.new("RGB", (24, 24), (200, 90, 30)).save(folder / "picture.png")
    (folder / "plan.toml").write_text(PLAN.replace("COUNT", str(pictures)), encoding="utf-8")
    began = time.perf_counter()
    session = begin(parse(PLAN.replace("COUNT", str(pictures)), folder), Place(folder / "run"), ADOPT)
    with session.place.store() as store:
        if session.counts(store)[0] == 0:
            parcel: list[Done] = []
            for each in rows(session, pictures):
                parcel.append(each)
                if len(parcel) == 12_000:
                    store.commit(parcel)
                    parcel = []
            store.commit(parcel)
            for _ in session.undone(store):  # which looks into all pictures, as the run would have done
                pass
    return time.perf_counter() - began


def rows(session: Session, pictures: int) -> Iterator[Done]:
    """Rows as the three protocols write them."""
    draw = np.random.default_rng(0)
    places = [(where.recipe, where.protocol) for where in session.places]
    with session.place.store() as store:
        for first in range(0, pictures - LEFT, 1000):
            for each in store.planned("synthetic", first, min(first + 1000, pictures - LEFT) - 1):
                name = f"val/picture_{each.place:08}.jpg"
                for (recipe, protocol), value in zip(places, draw.random(12).tolist(), strict=True):
                    told = {"label": each.target, **measured(protocol, value)}
                    yield Done(Item(recipe, each.query), name, each.target, told, seconds=value / 10)


def measured(protocol: str, value: float) -> dict[str, float | bool]:
    if protocol == "pointing":
        return {"hit": value > 0.3, "difficult": value > 0.6}
    if protocol == "energy":
        return {"energy": value, "above": value - 1 / 3, "difficult": value > 0.6}
    return {"insertion": value, "deletion": value / 3, "difference": value - value / 3}


def open_last(folder: Path, pictures: int) -> None:
    """Let the last pictures of a run count as not done."""
    place = Place(folder / "run")
    recipes = [where.recipe for where in read_record(place).places]
    with place.store() as store:
        last = store.planned("synthetic", pictures - LEFT, pictures - 1)
        store.forget([Item(recipe, query.query) for recipe in recipes for query in last])


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    processor: float
    """Seconds of processor time, of all its processes: on a busy machine it says more than the clock."""
    memory: float
    """The most megabytes of its own process."""
    first: float | None
    """Seconds until a picture was shown to the model, if one was."""

    def __str__(self) -> str:
        until = "" if self.first is None else f", {self.first:.1f} s until the first item"
        return f"{self.seconds:7.1f} s {self.processor:7.1f} s of processor {self.memory:6.0f} MB{until}"


def timed(words: list[str], folder: Path) -> Cost:
    first = folder / FIRST
    first.unlink(missing_ok=True)
    started = time.time()
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from sfumato.cli import app\n"
        # getrusage would give the most of the parent, where that is more.
        "try:\n    app()\nfinally:\n"
        "    print(*(line for line in open('/proc/self/status') if 'VmHWM' in line), file=sys.stderr)"
    )
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    seconds = time.perf_counter() - began
    if ended.returncode not in (0, 1):
        sys.exit(f"{' '.join(words)}: {ended.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(
        seconds,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        int(ended.stderr.rpartition("VmHWM:")[2].split()[0]) / 1024,
        float(first.read_text(encoding="utf-8")) - started if first.exists() else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[10_000])
    parser.add_argument("--out", type=Path, default=Path("build/scale"))
    parser.add_argument("--commands", nargs="+", help="only these, by their names in the output")
    asked = parser.parse_args()
    for pictures in asked.pictures:
        folder = (asked.out / str(pictures)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        seconds = filled(folder, pictures)
        size = sum(path.stat().st_size for path in (folder / "run").iterdir())
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        told = {
            "pictures": pictures,
            "filled s": round(seconds),
            "bytes an item": round(size / 12 / pictures),
            "MB": round(memory),
        }
        print(json.dumps(told), flush=True)
        run = str(folder / "run")
        again = ["bench", "run", str(folder / "plan.toml"), "--out", run, "--other-version", "adopt"]
        commands = {
            "status": ["bench", "status", run],
            "table": ["bench", "table", run],
            "compare": ["bench", "compare", run, "gradient", "guided"],
            "csv": ["bench", "export", run, str(folder / "rows.csv"), "--rows"],
            "parquet": ["bench", "export", run, str(folder / "rows.parquet"), "--rows"],
            "report": ["report", run, "-o", str(folder / "report.html")],
            "last ten": again,
            "all done": again,
        }
        for name, words in commands.items():
            if not asked.commands or name in asked.commands:
                if name == "last ten":
                    open_last(folder, pictures)
                print(f"{pictures:>8} {name:10} {timed(words, folder)}", flush=True)


if __name__ == "__main__":
    main()
