"""Judge methods by the measured importance of parts: `python bench/planted.py CACHE ROWS.jsonl`.

Networks × worlds × methods × pictures, a line of the file each. What is in the file is not done again, so that a run can be
stopped and continued, and files of several machines can be joined by `cat`. `--table` only sums a file up. CACHE is the folder
of the networks (`bench/planted_nets.py`), which are trained if they are missing.

The pictures are held-out ones that the network gets right; in the world "planted" those of class 0 with the cue.
"""

import argparse
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from planted_nets import FIRST, HELD_OUT, LAYERS, MEAN, NETWORKS, STD, WORLDS, accuracy, network, normalised
from torch import Tensor, nn

import sfumato
from sfumato.data.scenes import CUE, DISTRACTOR, PARTS, Scenes
from sfumato.metrics import Case, PartImportance

AT_ONCE = 10
"""Pictures in one call of a method."""

Extremal = sfumato.ExtremalPerturbation
FOR_ORDERS: dict[str, Any] = {"score": "log-odds", "perturbation": sfumato.Blur(max_sigma=5), "evenly": True}
"""The settings whose mean of smooth masks orders places best: see decision 19."""

WINDOW = {"sliding_window_shapes": (3, 12, 12), "strides": (3, 4, 4)}

METHODS: dict[str, Callable[[str], Any]] = {
    "extremal order": lambda layer: sfumato.ExtremalOrder(),
    "smooth masks": lambda layer: Extremal.smooth_masks((0.05, 0.2, 0.5), steps=75, **FOR_ORDERS),
    "extremal, delete": lambda layer: Extremal(game="delete", steps=75),
    "extremal": lambda layer: Extremal(steps=75),
    "meaningful": lambda layer: sfumato.MeaningfulPerturbation(steps=150),
    "IGOS": lambda layer: sfumato.IGOS(),
    "RISE": lambda layer: sfumato.RISE(samples=500),
    "greedy order": lambda layer: sfumato.GreedyOrder(),
    "occlusion": lambda layer: sfumato.Captum("Occlusion", arguments=WINDOW),
    "Grad-CAM": lambda layer: sfumato.GradCAM(layer=layer),
    "linear, layer": lambda layer: sfumato.LinearApproximation(layer=layer),
    "linear, input": lambda layer: sfumato.LinearApproximation(layer="input"),
    "integrated gradients": lambda layer: sfumato.Captum("IntegratedGradients"),
    "guided backprop": lambda layer: sfumato.GuidedBackprop(),
    "gradient": lambda layer: sfumato.Gradient(),
    "centre": lambda layer: sfumato.Centre(),
}
"""By name, for the layer of Grad-CAM. Settings are the defaults, except for fewer steps, fewer masks of RISE, and occlusion's
window: what two shared cores allow."""
REFERENCE = "extremal order"
"""With which all methods are compared, paired."""


def protocol(scenes: Scenes) -> PartImportance:
    return PartImportance(scenes, mean=MEAN, std=STD)


def subjects(net: nn.Module, world: str, count: int) -> Iterator[tuple[int, Tensor, int]]:
    """Scenes that the network gets right: their index, the input and the class."""
    scenes = WORLDS[world]
    for index in range(FIRST, FIRST + 100 * count):
        if count == 0:
            return
        drawing = scenes.drawing(index)
        if world == "planted" and (drawing.scene.label or CUE not in drawing.scene.names):
            continue
        x = normalised(drawing.picture()[None].float() / 255)
        with torch.no_grad():
            right = int(net(x).argmax()) == drawing.scene.label
        if right:
            count -= 1
            yield index, x, drawing.scene.label


def measure(path: Path, options: argparse.Namespace) -> None:
    """Do what the file does not have yet."""
    done = {key_of(row) for row in read(path)} if path.exists() else set()
    with path.open("a", encoding="utf-8") as file:
        for world in options.worlds:
            for name in options.networks:
                net, judge = network(name, world, options.cache), protocol(WORLDS[world])
                chosen = list(subjects(net, world, options.pictures))
                for start in range(0, len(chosen), AT_ONCE):
                    for method in options.methods:
                        group = chosen[start : start + AT_ONCE]
                        group = [one for one in group if (world, name, method, one[0]) not in done]
                        if group:
                            about = {"world": world, "network": name, "method": method}
                            lines = [json.dumps(about | row) + "\n" for row in rows_of(net, name, method, group, judge)]
                            file.write("".join(lines))
                            file.flush()


def rows_of(
    net: nn.Module, name: str, method: str, group: Sequence[tuple[int, Tensor, int]], judge: PartImportance
) -> Iterator[dict[str, Any]]:
    """The rows of one method for some pictures, which are explained together."""
    inputs, targets = torch.cat([x for _, x, _ in group]), [label for *_, label in group]
    began = time.perf_counter()
    result = METHODS[method](LAYERS[name])(net, inputs, torch.tensor(targets))
    seconds = (time.perf_counter() - began) / len(group)
    for place, (index, x, label) in enumerate(group):
        case = Case(result[place], net, x, label, picture=str(index))
        row: dict[str, Any] = {"picture": index} | dict(judge.measure(case)) | {"seconds": seconds}
        if method == "centre":  # once for each picture
            row["effects"] = dict(judge.effects(case))
        yield row


def read(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["world"], row["network"], row["method"], row["picture"]


def shown(estimate: Any, percent: bool = False, signed: bool = False) -> str:
    """A number with its interval."""
    if estimate.pictures < 2:
        return "–"
    scale, digits = (100, 0) if percent else (1, 2)
    value, low, high = (
        f"{scale * number:{'+' if signed else ''}.{digits}f}"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


Groups = dict[tuple[str, str], dict[str, list[dict[str, Any]]]]


def grouped(rows: Sequence[dict[str, Any]]) -> Groups:
    """Rows by world and network, then by method, in the order of the pictures."""
    groups: Groups = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: row["picture"]):
        groups[row["world"], row["network"]][row["method"]].append(row)
    return groups


def less_than_reference(methods: dict[str, list[dict[str, Any]]], method: str) -> str:
    """By how much the rank correlation of a method is less than that of the reference, on the pictures of both."""
    if method == REFERENCE or method not in methods or REFERENCE not in methods:
        return "–"
    both = set.intersection(*({row["picture"] for row in methods[name]} for name in (REFERENCE, method)))
    pair = [[row for row in methods[name] if row["picture"] in both] for name in (REFERENCE, method)]
    return shown(PartImportance().compared(*pair)["rank correlation"], signed=True)


def overview(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Rank correlations of all methods and networks, with the number of pictures, then differences from the reference."""
    groups, judge = grouped(rows), PartImportance()
    heads = [f"{world}, {name}" for world, name in groups]
    for differences in (False, True):
        yield (
            "\n| "
            + (f"less than {REFERENCE}" if differences else "rank correlation")
            + " | "
            + " | ".join(heads)
            + " |"
        )
        yield "| --- |" + " ---: |" * len(groups)
        for method in METHODS:
            cells = []
            for methods in groups.values():
                if differences or method not in methods:
                    cells.append(less_than_reference(methods, method))
                else:
                    estimate = judge.summarise(methods[method])["rank correlation"]
                    cells.append(f"{shown(estimate)} ({estimate.pictures})")
            if not (differences and method == REFERENCE):
                yield f"| {method} | " + " | ".join(cells) + " |"


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The measures of each method, and by how much its rank correlation is less than that of the reference, paired."""
    groups, judge = grouped(rows), PartImportance()
    for (world, name), methods in groups.items():
        estimates = {method: judge.summarise(methods[method]) for method in METHODS if method in methods}
        yield f"\n{world}, {name}\n"
        columns = (*(measure.name for measure in judge.measures([])), f"less than {REFERENCE}", "s", "pictures")
        yield "| method | " + " | ".join(columns) + " |"
        yield "| --- |" + " ---: |" * len(columns)
        for method in sorted(estimates, key=lambda m: -estimates[m]["rank correlation"].value):
            numbers = [shown(estimates[method][m.name], m.percent, "above" in m.name) for m in judge.measures([])]
            less = less_than_reference(methods, method)
            seconds = statistics.median(row["seconds"] for row in methods[method])
            yield f"| {method} | " + " | ".join(numbers) + f" | {less} | {seconds:.2g} | {len(methods[method])} |"


def evidence(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What removal measured: the mean change of the score for each kind of element, in shares of the scene's largest."""
    yield "\n| world | network | parts that the class fixes | free parts | distractors | cue | pictures |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if "effects" in row:
            groups[row["world"], row["network"]].append(row)
    for (world, name), group in groups.items():
        shares: dict[str, list[float]] = defaultdict(list)
        for row in group:
            scene = WORLDS[world].scene(row["picture"])
            fixed = {part for part, v in zip(PARTS, WORLDS[world].table[scene.label], strict=True) if v is not None}
            kinds = {element.name: element.kind for element in scene.elements}
            for element, effect in row["effects"].items():
                kind = kinds[element]
                shares[kind if kind in (CUE, DISTRACTOR) else "fixed" if element in fixed else "free"].append(
                    effect / row["effect"]
                )
        means = [
            f"{statistics.mean(shares[kind]):.2f}" if shares[kind] else "–"
            for kind in ("fixed", "free", DISTRACTOR, CUE)
        ]
        yield f"| {world} | {name} | " + " | ".join(means) + f" | {len(group)} |"


SHOWN = ("extremal, delete", "extremal order", "Grad-CAM", "linear, input")
"""The methods of the figure."""


def figure(path: Path, cache: Path, name: str = "resnet") -> None:
    """Draw a scene of the world with the planted cue: its elements, the pictures without each of them, maps of four methods."""
    from matplotlib.colors import ListedColormap

    from sfumato.figures.panels import SMALL, blank, overlay, positive, show

    net, world = network(name, "planted", cache), "planted"
    index, x, label = next(subjects(net, world, 1))
    drawing = WORLDS[world].drawing(index)
    picture = drawing.picture().float() / 255
    results = {method: METHODS[method](LAYERS[name])(net, x, label) for method in SHOWN}
    case = Case(results[SHOWN[0]], net, x, label, picture=str(index))
    effects = protocol(WORLDS[world]).effects(case)
    columns = max(-(-(len(effects) + 2) // 2), len(SHOWN))  # two rows, after the picture and its elements
    canvas = blank((1.55 * columns, 5.4))
    cells = canvas.subplots(3, columns)
    for cell in cells.flat:
        cell.set_axis_off()
    show(cells[0, 0], picture).set_title(f"the picture, class {label}", fontsize=SMALL)
    cells[0, 1].imshow(drawing.front() + 1, cmap=ListedColormap(["#eeeeee", *COLOURS[: len(drawing.scene.names)]]), vmin=0,
                       vmax=len(drawing.scene.names), interpolation="nearest")  # fmt: skip
    cells[0, 1].set_title("its elements", fontsize=SMALL)
    free = [*cells[0, 2:], *cells[1]]
    ranked = sorted(effects, key=lambda element: -effects[element])
    for cell, element in zip(free, ranked, strict=False):
        show(cell, drawing.picture([element]).float() / 255)
        cell.set_title(f"no {element}: {-effects[element]:+.1f}", fontsize=SMALL)
    for cell, (method, result) in zip(cells[2], results.items(), strict=False):
        saliency = positive(result.map if result.order is None else result.order, picture)[0]
        row = protocol(WORLDS[world]).measure(Case(result, net, x, label, picture=str(index)))
        overlay(cell, picture, saliency, outline=False)
        cell.set_title(f"{method}: {row['rank_correlation']:.2f}", fontsize=SMALL)
    canvas.tight_layout(pad=0.5)
    canvas.savefig(path, dpi=100, pil_kwargs={"quality": 85})


COLOURS = ("#8c564b", "#c49c94", "#d627a8", "#2ca02c", "#ff7f0e", "#7f7f7f", "#9467bd", "#d62728", "#17becf", "#bcbd22")
"""Of elements in the figure, from back to front."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--table", action="store_true", help="sum the file up, and measure nothing")
    parser.add_argument(
        "--figure", type=Path, help="write a picture, its interventions and four maps to a picture file"
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--pictures", type=int, default=50, help="how many that the network gets right")
    options = parser.parse_args()
    if options.figure:
        figure(options.figure, options.cache)
        return
    if not options.table:
        measure(options.rows, options)
    rows = list(read(options.rows))
    for world, name in () if options.table else itertools.product(options.worlds, options.networks):
        share = accuracy(network(name, world, options.cache), WORLDS[world])
        print(f"{world}, {name}: {share:.1%} of {HELD_OUT} held-out pictures right")
    print("\n".join([*evidence(rows), *overview(rows), *table(rows)]))


if __name__ == "__main__":
    main()
