"""What a run costs besides the work: its overhead, a second run, and what a second worker brings.

`python bench/runs.py [--pictures 300] [--repeats 5]` needs the demo's extra only: pictures are variations of the samples.
The loop beside a run decodes the same pictures, calls the same method and measures the same protocol, on one thread too.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

import sfumato
from sfumato import metrics
from sfumato.data import Table
from sfumato.data.pictures import read
from sfumato.data.truth import truth
from sfumato.runs.execution.session import begun
from sfumato.runs.execution.workers import one_thread, spread
from sfumato.runs.plans.plan import Plan, parse
from sfumato.runs.results.record import Place

PLAN = """
[models]
lite0 = "lite0"
[methods]
gradient = "Gradient"
[data.samples]
use = "Table"
path = "pictures.csv"
[protocols]
energy = "EnergyPointing"
"""
TARGETS = {"chelsea": "Egyptian cat", "coffee": "espresso", "camera": "Polaroid camera, Polaroid Land camera"}


def written(folder: Path, count: int) -> None:
    """So many pictures, a table of them, and a plan."""
    lines = ["path,target,boxes"]
    for index in range(count):
        name, target = list(TARGETS.items())[index % 3]
        picture = Image.open(sfumato.samples.path(name)).convert("RGB")
        picture.rotate(index / 10).save(folder / f"{index:05}.jpg")
        box = [0.2 * picture.width, 0.2 * picture.height, 0.7 * picture.width, 0.7 * picture.height]
        lines.append(f'{index:05}.jpg,"{target}",{json.dumps(str([box]))}')
    (folder / "pictures.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "plan.toml").write_text(PLAN, encoding="utf-8")


def looped(folder: Path) -> float:
    """Seconds that a plain loop takes, with loading the model, which a run does too."""
    began = time.perf_counter()
    classifier = sfumato.models.load("lite0")
    method, protocol, data = sfumato.Gradient(), metrics.EnergyPointing(), Table(str(folder / "pictures.csv"))
    for example in data:
        picture = read(example.path)
        inputs = classifier.prepare(picture)[None]
        (label,) = example.targets
        target = classifier.labels.index(data.classes[label])
        window = metrics.Window(picture.size, *classifier.preparation.window(picture.size))
        result = method(classifier.net, inputs, target)
        protocol.measure(metrics.Case(result, truth=truth(example, label, picture.size), window=window))
    return time.perf_counter() - began


def carried_out(plan: Plan, place: Place) -> float:
    """Seconds that a run takes, with loading the model, which it does once."""
    began = time.perf_counter()
    assert sum(1 for _ in begun(plan, place).work())
    return time.perf_counter() - began


def timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sfumato.cli", *command], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    ratios, gains = [], []
    with tempfile.TemporaryDirectory() as place, one_thread():
        folder = Path(place)
        written(folder, asked.pictures)
        plan = parse(PLAN, folder)
        for repeat in range(asked.repeats):
            if repeat % 2:  # each goes first as often, as the first may find the machine otherwise
                loop, run = looped(folder), carried_out(plan, Place(folder / f"run-{repeat}"))
            else:
                run, loop = carried_out(plan, Place(folder / f"run-{repeat}")), looped(folder)
            ratios.append(run / loop)
            print(f"loop {loop:.2f} s, run {run:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
        for repeat in range(asked.repeats):
            seconds = []
            for workers in (1, 2):
                session = begun(plan, Place(folder / f"run-{repeat}-{workers}"))
                began = time.perf_counter()
                for _ in spread(session, workers):
                    pass
                seconds.append(time.perf_counter() - began)
            gains.append(seconds[0] / seconds[1])
            print(f"one worker {seconds[0]:.2f} s, two {seconds[1]:.2f} s, gain {gains[-1]:.2f}", flush=True)
        command = ["bench", "run", str(folder / "plan.toml"), "--out", str(folder / "run-0")]
        again = [timed(command) for _ in range(asked.repeats)]
        helped = [timed(["--help"]) for _ in range(asked.repeats)]
    print(f"\na run against a loop: {statistics.median(ratios):.3f} (goal 1.05)")
    print(f"two workers against one, both with their start: {statistics.median(gains):.2f} (goal 1.7)")
    print(f"a second, complete run: {statistics.median(again):.2f} s (goal 3)")
    print(f"sfumato --help: {statistics.median(helped):.2f} s (goal 0.5)")


if __name__ == "__main__":
    main()
