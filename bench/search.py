"""What searches for masks find, how far two seeds agree, and what that costs: `python bench/search.py ROWS.jsonl`.

Games × networks × pictures × searches × areas × seeds, a line of the file each; what is in the file is not done again, so
that a run can be stopped and go on, and files of several machines can be joined by `cat`. `--table` sums a file up.

All masks are compared as sets: the places with the largest values, exactly as many as the area says, with an edge of 1.5
pixels. Scores are those before a blur, the mean colour, and noise. `crisp` is the mean of a search's own mask within its set.
"""

import argparse
import base64
import heapq
import json
import math
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shared_models
import torch
from PIL import Image
from torch import Tensor

import sfumato
from sfumato.attribution import saliency
from sfumato.figures.annotations.outlines import is_hole, outlines
from sfumato.masks.level_set import TENTHS
from sfumato.masks.parts import label_parts
from sfumato.methods.extremal import SMOOTH
from sfumato.metrics.likeness import spearman
from sfumato.space.smoothing import gaussian_blur

PICTURES = shared_models.SHARED / "imagenet-val-dev"
NETWORKS = ("squeezenet1_1", "resnet50", "vit_tiny", "efficientnet_lite0")
AREAS = (0.05, 0.1, 0.2)
GAMES = ("preserve", "delete", "dual")
BACKGROUNDS = {"blur": sfumato.Blur(), "grey": sfumato.Fade(), "noise": sfumato.Noise(0.5)}
CELLS = 14
"""Of the greedy search, along a side."""
EDGE = 1.5
"""How many pixels an edge has."""

Extremal = sfumato.ExtremalPerturbation

Found = tuple[Tensor, list[float] | None]
"""Masks `(V, 1, H, W)`, and how far restarts agree about each."""


class Counted(torch.nn.Module):
    """A network that counts what it is asked: a forward pass of a row is 1, one with a backward pass 3."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.cost = net, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.cost += len(inputs) * (3 if inputs.requires_grad else 1)
        output: Tensor = self.net(inputs)
        return output


def edged(sets: Tensor) -> Tensor:
    """Sets `(N, 1, H, W)` as masks with the edges that all are compared with."""
    return gaussian_blur(sets.float(), EDGE / TENTHS)


def grid(cells: int, side: int) -> Tensor:
    """For each of `side` × `side` places, which of `cells` × `cells` cells it is in."""
    along = (torch.arange(side) * cells) // side
    return along[:, None] * cells + along


def of_cells(sets: Sequence[Sequence[int]], cells: int, side: int) -> Tensor:
    """Sets of some of `cells` × `cells` cells as masks `(N, 1, side, side)`."""
    chosen = torch.zeros(len(sets), cells**2, dtype=torch.bool)
    for row, some in zip(chosen, sets, strict=True):
        row[list(some)] = True
    return edged(chosen[:, grid(cells, side)][:, None])


def as_sets(masks: Tensor, areas: tuple[float, ...]) -> Tensor:
    """The places of the largest values of masks `(V, 1, H, W)`, exactly as many as the areas `(V,)` say."""
    flat = masks.flatten(1)
    ranks = flat.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    counts = (torch.tensor(areas, dtype=torch.float64) * flat.shape[1]).round()[:, None].to(ranks)
    return edged((ranks < counts).view_as(masks))


def played(game: str, kept: Any, rest: Any) -> Any:
    """How well a set plays a game, of what it keeps and of what is kept without it, in shares or scores."""
    return {"preserve": kept, "delete": -rest, "dual": kept - rest}[game]


def lazily(scores: Callable[[list[list[int]]], list[float]], count: int, sizes: Iterable[int]) -> Iterator[list[int]]:
    """The items, of so many, that score best together: for each of the growing sizes, in the order of their choice.

    The item that adds most is chosen, again and again. Gains are assumed to fall, so that few are asked for again.
    """
    chosen: list[int] = []
    score = scores([[]])[0]
    heap = [(score - value, item, 0) for item, value in enumerate(scores([[item] for item in range(count)]))]
    heapq.heapify(heap)
    for size in sizes:
        while len(chosen) < size:
            loss, item, known = heapq.heappop(heap)
            if known == len(chosen):
                chosen.append(item)
                score -= loss
            else:
                heapq.heappush(heap, (score - scores([[*chosen, item]])[0], item, len(chosen)))
        yield list(chosen)


def greedy(net: torch.nn.Module, x: Tensor, target: int, areas: tuple[float, ...], seed: int, game: str) -> Found:
    """Cells chosen `lazily` by the game's value before a blur."""
    hide = BACKGROUNDS["blur"](x)
    side = x.shape[-1]

    def scores(sets: list[list[int]]) -> list[float]:
        values = []
        for cells in sets:
            mask = of_cells([cells], CELLS, side)
            masks = {"preserve": mask, "delete": 1 - mask, "dual": torch.cat([mask, 1 - mask])}[game]
            with torch.no_grad():
                scores = net(hide(masks, torch.zeros(len(masks), dtype=torch.long)))[:, target].tolist()
            values.append(played(game, scores[0], scores[-1]))
        return values

    masks = []
    for chosen in lazily(scores, CELLS**2, [round(area * CELLS**2) for area in areas]):
        order = torch.zeros(CELLS**2)
        order[chosen] = torch.arange(len(chosen), 0, -1).float()
        masks.append(order[grid(CELLS, side)][None])
    return torch.stack(masks), None


def at_random(net: torch.nn.Module, x: Tensor, target: int, areas: tuple[float, ...], seed: int, game: str) -> Found:
    """Sets of a smooth random field: what any search must do better than."""
    generator = torch.Generator().manual_seed(seed)
    return gaussian_blur(torch.rand(1, 1, *x.shape[2:], generator=generator), 8).expand(len(areas), -1, -1, -1), None


def by_method(make: Callable[..., Any], **settings: Any) -> Callable[..., Found]:
    def search(net: torch.nn.Module, x: Tensor, target: int, areas: tuple[float, ...], seed: int, game: str) -> Found:
        result = make(areas=areas, seed=seed, game=game, **settings)(net, x, target)
        return result.masks[0], None if result.agreement is None else result.agreement[0].tolist()

    return search


def by_map(method: Any) -> Callable[..., Found]:
    """The places where a method's map is highest, for every game."""

    def search(net: torch.nn.Module, x: Tensor, target: int, areas: tuple[float, ...], seed: int, game: str) -> Found:
        return method(net, x, target).map.expand(len(areas), 1, *x.shape[2:]), None

    return search


SEARCHES = {
    "level sets": by_method(Extremal),
    "level sets, 50 steps": by_method(Extremal, steps=50),
    "level sets, full precision": by_method(Extremal, precision="full"),
    "level sets, flat start": by_method(Extremal, ascent=sfumato.LevelSetAscent(windows=None)),
    "level sets, one path": by_method(Extremal, steps=60, ascent=sfumato.LevelSetAscent(restarts=1)),
    "smooth": by_method(Extremal.smooth_masks),
    "torchray": by_method(Extremal.torchray),
    "evolution": by_method(Extremal.smooth_masks, steps=150, ascent=sfumato.EvolutionAscent()),
    "evolution of sets": by_method(Extremal, mask=sfumato.LevelSet(), ascent=sfumato.EvolutionAscent()),
    "greedy": greedy,
    "Grad-CAM": by_map(sfumato.GradCAM()),
    "RISE": by_map(sfumato.RISE()),
    "random": at_random,
}
"""By name; settings that a line does not give are the defaults."""
ONCE = ("greedy", "torchray", "Grad-CAM", "RISE")
"""Searches that are run with one seed."""
ORDERS = ("greedy", "Grad-CAM", "RISE")
"""Those that give an order of places, no masks."""


@cache
def listed() -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = json.loads((PICTURES / "annotations.json").read_text())["images"]
    return images


def picture_of(index: int) -> tuple[Image.Image, int]:
    """A picture by number, and its class."""
    entry = listed()[index]
    with Image.open(PICTURES / "images" / entry["file"]) as picture:
        return picture.convert("RGB"), entry["label"]


def pictures(network: str, first: int, count: int) -> Iterator[tuple[int, torch.nn.Module, Tensor, int]]:
    """Pictures that the network gets right, by number: the network, the input `(1, 3, H, W)` and the class."""
    classifier = shared_models.of_zoo(network)
    for index in range(first, len(listed())):
        if count == 0:
            return
        picture, label = picture_of(index)
        x = classifier.prepare(picture)[None]
        with torch.no_grad():
            right = int(classifier.net(x).argmax()) == label
        if right:
            count -= 1
            yield index, classifier.net, x, label


def rows_of(
    net: torch.nn.Module, x: Tensor, target: int, name: str, areas: tuple[float, ...], seed: int, game: str
) -> Iterator[dict[str, Any]]:
    """What a search finds for each area."""
    counted = Counted(net)
    start = time.perf_counter()
    masks, agreement = SEARCHES[name](counted, x, target, areas, seed, game)
    seconds = (time.perf_counter() - start) / len(areas)
    sets = as_sets(masks.cpu(), areas)
    zero = torch.zeros(1, dtype=torch.long)
    for area, mask, own, agree in zip(areas, sets, masks.cpu(), agreement or [None] * len(areas), strict=True):
        bits = (mask[0] > 0.5).numpy()
        row: dict[str, Any] = {"area": area, "cost": counted.cost / len(areas), "seconds": seconds, "agreement": agree}
        inside = float(own.flatten().sort(descending=True).values[: int(bits.sum())].mean())
        row["crisp"] = inside if name not in ORDERS else math.nan
        row["parts"] = sum(not is_hole(line) for line in outlines(bits))
        row["set"] = base64.b85encode(zlib.compress(np.packbits(bits).tobytes(), 9)).decode()
        with torch.no_grad():
            row["whole"] = float(net(x)[0, target])
            for background, perturbation in BACKGROUNDS.items():
                hide = perturbation(x)
                shown = net(torch.cat([hide(part[None], zero) for part in (mask, torch.zeros_like(mask), 1 - mask)]))
                row[background], row["blank_" + background], row["rest_" + background] = shown[:, target].tolist()
                row["p_" + background] = float(shown[0].softmax(0)[target])
        yield row


def measure(path: Path, options: argparse.Namespace) -> None:
    """Do what the file does not have yet."""
    done = {key_of(row) for row in read(path)}
    with path.open("a", encoding="utf-8") as file:
        for network in options.networks:
            for index, net, x, target in pictures(network, options.first, options.pictures):
                for name in options.searches:
                    for seed in range(1 if name in ONCE else options.seeds):
                        if (options.game, network, index, name, options.areas[0], seed) in done:
                            continue
                        about = {
                            "game": options.game,
                            "network": network,
                            "picture": index,
                            "search": name,
                            "seed": seed,
                        }
                        for row in rows_of(net, x, target, name, tuple(options.areas), seed, options.game):
                            file.write(json.dumps(about | row) + "\n")
                        file.flush()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, if there is one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [{"game": "preserve", **json.loads(line)} for line in lines]


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["game"], row["network"], row["picture"], row["search"], row["area"], row["seed"]


def value(row: dict[str, Any], background: str) -> float:
    """How well the set plays its game, in shares of what the whole picture's score has more than that of the hidden one.

    To preserve: what the set keeps. To delete: what goes with it. Both: what it keeps more than the places outside.
    """

    def share(part: str) -> float:
        blank = row["blank_" + background]
        return float((row[part] - blank) / (row["whole"] - blank))

    rest = 0.0 if row["game"] == "preserve" else share("rest_" + background)
    return float(played(row["game"], share(background), rest)) + (row["game"] == "delete")


def bits_of(row: dict[str, Any]) -> np.ndarray:
    """A row's set, eight places a byte."""
    return np.frombuffer(zlib.decompress(base64.b85decode(row["set"])), np.uint8)


def set_of(row: dict[str, Any]) -> Tensor:
    """A row's set `(H, W)`, of as many places along each side; what fills up the last byte is no place."""
    bits = np.unpackbits(bits_of(row))
    side = math.isqrt(len(bits))
    return torch.from_numpy(bits[: side**2]).view(side, side).bool()


def overlap(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Intersection over union of two rows' sets."""
    a, b = map(bits_of, (one, other))
    return float(np.bitwise_count(a & b).sum() / np.bitwise_count(a | b).sum())


def map_of(rows: list[dict[str, Any]]) -> Tensor:
    """The map `(H · W,)` of one seed's sets of all areas, as a result has it."""
    return saliency(torch.stack([set_of(row).float() for row in rows])[None, :, None], SMOOTH).flatten()


def maps(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rank correlation of two seeds' maps, as means over pictures."""
    seeds: dict[tuple[str, str, str], dict[int, dict[int, list[dict[str, Any]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        seeds[row["game"], row["network"], row["search"]][row["picture"]][row["seed"]].append(row)
    yield "| game | network | search | n | rank correlation of two seeds' maps |"
    yield "| --- | --- | --- | ---: | ---: |"
    for (game, network, name), pictures in sorted(seeds.items()):
        pairs = [[map_of(group) for group in by_seed.values()][:2] for by_seed in pictures.values() if len(by_seed) > 1]
        if pairs:
            mean = np.mean([spearman(*pair) for pair in pairs])
            yield f"| {game} | {network} | {name} | {len(pairs)} | {mean:.2f} |"


RANGES = (0, 0.3, 0.45, 0.6, 0.75, 1)
"""Of the restarts' agreement."""


def foretold(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What the agreement of a result's restarts, which a user sees, says of another seed, which a user does not see.

    Over all networks, pictures and areas of the default search: how far the sets of two seeds agree, from the tenth to the
    ninetieth of a hundred, and how much their worth before a blur differs, up to that of the whole.
    """
    pairs: dict[tuple[str, str, int, float], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["search"] == "level sets" and row["agreement"] is not None:
            pairs[row["game"], row["network"], row["picture"], row["area"]].append(row)
    seen = []
    for one, other in (pair[:2] for pair in pairs.values() if len(pair) > 1):
        worth = [min(value(row, "blur"), 1) for row in (one, other)]
        seen.append(((one["agreement"] + other["agreement"]) / 2, overlap(one, other), abs(worth[0] - worth[1])))
    yield "| agreement of restarts | masks | two seeds share | 10 % to 90 % | their worth differs by |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for low, high in pairwise(RANGES):
        shares, differences = (
            np.array([found[column] for found in seen if low <= found[0] < high]) for column in (1, 2)
        )
        if len(shares):
            ends = " to ".join(f"{end:.2f}" for end in np.percentile(shares, [10, 90]))
            yield f"| {low:g} to {high:g} | {len(shares)} | {shares.mean():.2f} | {ends} | {differences.mean():.3f} |"


def with_interval(differences: np.ndarray, random: np.random.Generator) -> str:
    """The mean of pictures' differences, with its 95 % interval by bootstrap over pictures."""
    draws = differences[random.integers(0, len(differences), (2000, len(differences)))].mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{differences.mean():.2f} [{low:.2f}, {high:.2f}]"


OUTER = 8
"""The outer eighth along each side, which is .44 of a picture."""


def lies(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Where sets lie: which share of them in the outer eighth along each side; and how many have a part that is of no use.

    A part is of no use if the others are worth as much, but for .02, up to the whole's; the mean of a blur and the mean colour.
    """
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["search"] in ("level sets", "greedy"):
            groups[row["network"], row["search"], row["area"]].append(row)
    yield "| network | search | area | sets | in the outer eighth | with a part of no use |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for (network, name, area), group in sorted(groups.items()):
        shares, idle = [], 0
        for row in group:
            places = set_of(row)
            side, border = len(places), len(places) // OUTER
            inner = places[border : side - border, border : side - border]
            shares.append(1 - float(inner.sum() / places.sum()))
            idle += row["seed"] == 0 and name == "level sets" and has_idle_part(row, places)
        first = sum(row["seed"] == 0 for row in group)
        of_no_use = f"{idle} of {first}" if name == "level sets" else "–"
        yield f"| {network} | {name} | {area:g} | {len(group)} | {np.mean(shares):.2f} | {of_no_use} |"


def has_idle_part(row: dict[str, Any], places: Tensor) -> bool:
    """Whether one of the parts of a row's set `(H, W)` can be hidden alone for nothing."""
    labels = label_parts(places[None, None])[0, 0]
    if int(labels.max()) < 2:
        return False
    classifier = shared_models.of_zoo(row["network"])
    picture, target = picture_of(row["picture"])
    x = classifier.prepare(picture)[None]
    masks = edged(torch.stack([places & (labels != part) for part in range(int(labels.max()) + 1)])[:, None])
    query = torch.zeros(len(masks), dtype=torch.long)
    worths = []
    for background in ("blur", "grey"):
        with torch.no_grad():
            scores = classifier.net(BACKGROUNDS[background](x)(masks, query))[:, target]
        worths.append((scores - row["blank_" + background]) / (row["whole"] - row["blank_" + background]))
    whole, *without = torch.stack(worths).mean(0).clamp(max=1).tolist()
    return max(without) >= whole - 0.02


COLUMNS = (
    *("game", "network", "area", "search", "n", "blur", "less than the first", "grey", "noise", "p, blur"),
    *("crisp", "parts", "agree", "spread", "up to 1", "cost", "s"),
)


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Means over pictures; the interval is that of the difference to the first search, by bootstrap over pictures.

    The spread is half of what two seeds differ by before a blur: a standard deviation is 1.4 times as much. "up to 1" is the
    same where a set that keeps more than the whole counts 1.
    """
    places: dict[tuple[str, str, float], dict[str, dict[int, list[dict[str, Any]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        places[row["game"], row["network"], row["area"]][row["search"]][row["picture"]].append(row)
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "| --- | --- |" + " ---: |" * (len(COLUMNS) - 2)
    random = np.random.default_rng(0)
    for (game, network, area), searches in sorted(
        places.items(), key=lambda item: (GAMES.index(item[0][0]), *item[0][1:])
    ):
        first = next(name for name in SEARCHES if name in searches)
        for name in (name for name in SEARCHES if name in searches):
            by_picture = searches[name]

            def mean(number: Callable[[dict[str, Any]], float], by_picture: Any = by_picture) -> float:
                return float(np.mean([np.mean([number(row) for row in group]) for group in by_picture.values()]))

            pairs = [group[:2] for group in by_picture.values() if len(group) > 1]
            agree = f"{np.mean([overlap(*pair) for pair in pairs]):.2f}" if pairs else "–"
            worth = np.array([[value(row, "blur") for row in pair] for pair in pairs])
            spread, up_to_1 = (
                f"{np.ptp(values, 1).mean() / 2:.3f}" if pairs else "–" for values in (worth, worth.clip(max=1))
            )
            both = sorted(set(by_picture) & set(searches[first]))
            less = np.array(
                [
                    np.mean([value(r, "blur") for r in searches[first][p]])
                    - np.mean([value(r, "blur") for r in by_picture[p]])
                    for p in both
                ]
            )
            interval = with_interval(less, random)
            cells = [
                game, network, f"{area:g}", name, str(len(by_picture)), f"{mean(lambda r: value(r, 'blur')):.2f}",
                "–" if name == first else interval,
                *(f"{mean(lambda r, b=b: value(r, b)):.2f}" for b in ("grey", "noise")),  # type: ignore[misc]
                *(f"{mean(lambda r, c=c: r[c]):.{digits}f}" for c, digits in (("p_blur", 2), ("crisp", 2), ("parts", 1))),  # type: ignore[misc]
                agree, spread, up_to_1, f"{mean(lambda r: r['cost']):.0f}", f"{mean(lambda r: r['seconds']):.1f}",
            ]  # fmt: skip
            yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--table", action="store_true", help="sum the file up, and measure nothing")
    parser.add_argument("--places", action="store_true", help="say where the sets lie, and measure nothing")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--first", type=int, default=100, help="the number of the first picture (settings: below 100)")
    parser.add_argument("--pictures", type=int, default=60, help="how many that the network gets right")
    parser.add_argument("--areas", nargs="+", type=float, default=AREAS)
    parser.add_argument("--game", default="preserve", choices=GAMES)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    if options.places:
        print("\n".join(lies(read(options.rows))))
        return
    if not options.table:
        measure(options.rows, options)
    rows = read(options.rows)
    print("\n".join([*table(rows), "", *maps(rows), "", *foretold(rows)]))


if __name__ == "__main__":
    main()
