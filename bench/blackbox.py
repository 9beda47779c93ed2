"""Masks found from scores alone, beside RISE's map made into masks of the same area, at as many evaluations.

`python bench/blackbox.py --evaluations 1000 2000 --areas 0.1`; models and pictures are read where SFUMATO_SHARED says.
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import sfumato
from sfumato.masks.smooth import Lattice
from sfumato.methods.rise import RISE
from sfumato.search.evolution import EvolutionAscent
from sfumato.search.projection import EXACTLY, project
from sfumato.search.search import Search

SHARED = Path(os.environ.get("SFUMATO_SHARED", "../shared/data"))
SLOPES = (5.0, 20.0, 100.0)


def subjects(count: int) -> tuple[torch.nn.Module, Tensor, Tensor, list[str]]:
    """EfficientNet-Lite0 and pictures of ImageNet that it classifies right, whose objects cover less than 0.35."""
    sys.path.insert(0, str(SHARED))
    net = importlib.import_module("zoo").efficientnet_lite0()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in net.norm)
    folder = SHARED / "imagenet-val-dev"
    found: list[tuple[Tensor, int, str]] = []
    for entry in json.loads((folder / "annotations.json").read_text())["images"][::7]:
        path = next(folder.rglob(entry["file"]))
        picture = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        x = (torch.tensor(np.array(picture)).permute(2, 0, 1) / 255 - mean) / std
        with torch.no_grad():
            right = net(x[None]).argmax(1).item() == entry["label"]
        if right and entry["box_cover"] < 0.35:
            found.append((x, entry["label"], entry["name"]))
        if len(found) == count:
            break
    inputs, targets, names = zip(*found, strict=True)
    return net, torch.stack(inputs), torch.tensor(targets), list(names)


def masks_of_map(search: Search, lattice: Lattice, saliency: Tensor, areas: Tensor) -> Tensor:
    """The best-scoring of a few smooth masks that show where a map `(B, 1, *S)` is high: scores `(B, V)`.

    The map at the lattice's nodes, scaled to [0, 1] and made steep, is shifted and clipped to the area.
    """
    for axis, (length, size) in enumerate(zip(lattice.shape, lattice.size, strict=True), start=2):
        nodes = (torch.arange(size) - (size - 1) / 2) * lattice.family.step + (length - 1) / 2
        saliency = saliency.index_select(axis, nodes.round().long().clamp(0, length - 1))
    low, high = saliency.flatten(1).amin(1), saliency.flatten(1).amax(1)
    share = (saliency - low.view(-1, 1, 1, 1)) / (high - low).view(-1, 1, 1, 1)
    rows = share.repeat_interleave(areas.shape[1], 0)
    scores = [
        search.scores(search.masks(project(lattice, slope * (rows - 0.5), areas.flatten(), EXACTLY), areas))
        for slope in SLOPES
    ]
    return torch.stack(scores).amax(0)


def quality(areas: tuple[float, ...], evaluations: list[int], pictures: int, gradients: bool) -> None:
    net, inputs, targets, names = subjects(pictures)
    ascent = EvolutionAscent()
    method = sfumato.ExtremalPerturbation(areas=areas, ascent=ascent, jitter=None)
    columns: dict[str, Tensor] = {}
    with method.prepared(net, inputs, targets) as subject:
        search = method.search(subject)
        lattice = search.parametrisation
        assert isinstance(lattice, Lattice)
        wanted = torch.tensor(areas).expand(len(inputs), -1)
        for count in evaluations:
            for score in (sfumato.Probability, sfumato.Logit):
                saliency = RISE(samples=count - len(SLOPES))(net, inputs, score(targets)).map
                name = f"RISE of the {score.__name__.lower()}, {count}"
                columns[name] = masks_of_map(search, lattice, saliency, wanted)
                report(name, columns[name])
            steps = round(count / ascent.evaluations)
            name = f"EvolutionAscent, {steps} steps = {steps * ascent.evaluations}"
            columns[name] = search.scores(search.masks(search.ascend(wanted, steps=steps).parameters, wanted))
            report(name, columns[name])
    if gradients:
        found = sfumato.ExtremalPerturbation(areas=areas)(net, inputs, targets).scores
        assert found is not None
        columns["ProjectedAscent, 200 gradients"] = found
        whole = search.whole
        columns["whole picture"] = whole[:, None].expand_as(found)
    print(f"\n| | {' | '.join(names)} | mean |\n| --- |{' --- |' * (len(names) + 1)}")
    for name, scores in columns.items():
        cells = [" ".join(f"{value:.2f}" for value in row) for row in [*scores.tolist(), scores.mean(0).tolist()]]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nLogits kept at areas {areas}; RISE's masks: the best of slopes {SLOPES}, whose evaluations count.")


def report(name: str, scores: Tensor) -> None:
    print(f"{name}: {scores.mean(0).tolist()}", file=sys.stderr, flush=True)


def overhead(repeats: int) -> None:
    """RISE's time against that of the bare forward passes on as many rows, in the same layout and batches."""
    net, inputs, targets, _ = subjects(1)
    x = inputs.expand(16, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    bare, ours = [], []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.perf_counter()
            for _ in range(4):
                net(x)
            bare.append(time.perf_counter() - start)
            # Two lengths, so that what is done once drops out.
            times = []
            for samples in (64, 128):
                start = time.perf_counter()
                RISE(samples=samples, batch=16)(net, inputs, targets)
                times.append(time.perf_counter() - start)
            ours.append(times[1] - times[0])
    a, b = statistics.median(bare), statistics.median(ours)
    print(
        f"64 rows, 16 at once: bare {1e3 * a:.0f} ms, in RISE {1e3 * b:.0f} ms, {b / a:.2f} times; medians of {repeats}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--areas", type=float, nargs="+", default=[0.1])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[1000, 2000])
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--no-gradients", action="store_true", help="leave out the ascent by gradients")
    parser.add_argument("--overhead", type=int, metavar="REPEATS", help="measure RISE's time instead")
    given = parser.parse_args()
    if given.overhead:
        overhead(given.overhead)
    else:
        quality(tuple(given.areas), given.evaluations, given.pictures, not given.no_gradients)


if __name__ == "__main__":
    main()
