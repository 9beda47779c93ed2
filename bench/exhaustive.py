"""All sets of so many cells of a coarse grid, beside the search's: `python bench/exhaustive.py ROWS.jsonl`.

Is it the search that finds no better set, or is there none? Every choice of `--cells` cells of `--side` × `--side` is shown
before a blur and scored, networks × pictures, a line of the file each; what is in the file is not done again. Beside the
best of them are two seeds' level sets of the same area, scored alike, as `bench/search.py` does. `--table` sums up:

- *best*: what the best set of cells is worth, and what the level sets are (0: the hidden picture, 1: the whole);
- *as good*: how many of all sets are worth as much as the best but for `NEAR`, and how much of their cells they share with it.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import search
import torch
from torch import Tensor

import sfumato

NEAR = (0.02, 0.05)
"""Of the difference between whole and hidden picture."""
ROWS = 32
"""Sets that are scored at once."""


@torch.no_grad()
def scores(net: torch.nn.Module, x: Tensor, target: int, masks: Tensor) -> list[float]:
    """Before a blur."""
    hidden = sfumato.Blur()(x)(masks, torch.zeros(len(masks), dtype=torch.long))
    values: list[float] = net(hidden)[:, target].tolist()
    return values


def row_of(net: torch.nn.Module, x: Tensor, target: int, side: int, count: int) -> dict[str, Any]:
    """What one picture's sets are worth, all of them and the level sets of the same area, in shares."""
    length = x.shape[-1]
    whole, blank = scores(net, x, target, torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, length, length))

    def worth(masks: Tensor) -> list[float]:
        return [(value - blank) / (whole - blank) for value in scores(net, x, target, masks)]

    every = list(combinations(range(side**2), count))
    parts = (every[first : first + ROWS] for first in range(0, len(every), ROWS))
    worths = np.array([value for part in parts for value in worth(search.of_cells(part, side, length))])
    best = int(worths.argmax())
    area = (count / side**2,)
    sets = [
        search.as_sets(search.SEARCHES["level sets"](net, x, target, area, seed, "preserve")[0], area)
        for seed in (0, 1)
    ]
    row = {
        "whole": whole,
        "blank": blank,
        "best": float(worths[best]),
        "cells": every[best],
        "sets": worth(torch.cat(sets)),
    }
    for near in NEAR:
        alike = [every[i] for i in np.flatnonzero(worths >= worths[best] - near) if i != best]
        common = [len(set(one) & set(every[best])) for one in alike]
        row[f"near {near:g}"] = len(alike)
        row[f"overlap {near:g}"] = float(np.mean([n / (2 * count - n) for n in common])) if common else None
    return row


def measure(path: Path, options: argparse.Namespace) -> None:
    done = {key_of(row) for row in search.read(path)}
    with path.open("a", encoding="utf-8") as file:
        for network in options.networks:
            for index, net, x, target in search.pictures(network, options.first, options.pictures):
                about = {"network": network, "picture": index, "side": options.side, "count": options.cells}
                if key_of(about) not in done:
                    file.write(json.dumps(about | row_of(net, x, target, options.side, options.cells)) + "\n")
                    file.flush()


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["network"], row["picture"], row["side"], row["count"]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Means over pictures; "ahead" counts the pictures in which the mean of two seeds' level sets is worth more."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["network"], row["side"], row["count"]].append(row)
    near = [f"{word} {share:g}" for share in NEAR for word in ("as good but for", "they share")]
    columns = ("network", "sets", "area", "n", "best", "level sets", "ahead", *near)
    yield "| " + " | ".join(columns) + " |"
    yield "| --- | --- |" + " ---: |" * (len(columns) - 2)
    for (network, side, count), group in sorted(groups.items()):
        sets = [float(np.mean(row["sets"])) for row in group]
        best = [row["best"] for row in group]
        cells = [
            network, f"{count} of {side} × {side}", f"{count / side**2:g}", str(len(group)), f"{np.mean(best):.2f}",
            f"{np.mean(sets):.2f}", str(sum(one > other for one, other in zip(sets, best, strict=True))),
        ]  # fmt: skip
        for share in NEAR:
            shared = [row[f"overlap {share:g}"] for row in group if row[f"overlap {share:g}"] is not None]
            cells += [
                f"{np.median([row[f'near {share:g}'] for row in group]):.0f}",
                f"{np.mean(shared):.2f}" if shared else "–",
            ]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--table", action="store_true", help="sum the file up, and measure nothing")
    parser.add_argument("--networks", nargs="+", default=search.NETWORKS, choices=search.NETWORKS)
    parser.add_argument("--first", type=int, default=100, help="the number of the first picture")
    parser.add_argument("--pictures", type=int, default=10, help="how many that the network gets right")
    parser.add_argument("--side", type=int, default=5, help="of the grid, in cells")
    parser.add_argument("--cells", type=int, default=3, help="of a set")
    options = parser.parse_args()
    if not options.table:
        measure(options.rows, options)
    print("\n".join(table(search.read(options.rows))))


if __name__ == "__main__":
    main()
