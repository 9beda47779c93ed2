"""Are sets those of the object, or of one network? `python bench/transfer.py ROWS.jsonl JUDGED.jsonl`.

ROWS are those of `bench/search.py`: sets that searches found for one network. Each is shown to the other networks that
classify the picture correctly, before a blur. What one network alone can read is worth nothing there. A line of JUDGED for each
set and judge; what is in the file is not done again. `--table` sums the file up.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import search
import shared_models
import torch
from torch import Tensor
from torch.nn.functional import interpolate

import sfumato


def judged(rows: list[dict[str, Any]], done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """What the sets of rows are worth for all networks but their own."""
    networks = {name: shared_models.of_zoo(name) for name in search.NETWORKS}
    pictures: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        pictures[row["picture"]].append(row)
    for index, group in sorted(pictures.items()):
        picture, target = search.picture_of(index)
        for judge, network in networks.items():
            net, x = network.net, network.prepare(picture)[None]
            side = x.shape[-1]
            hide = sfumato.Blur()(x)

            def scores(masks: Tensor, net: Any = net, hide: Any = hide) -> Tensor:
                with torch.no_grad():
                    output: Tensor = net(hide(masks, torch.zeros(len(masks), dtype=torch.long)))
                return output

            extremes = scores(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, side, side))
            if int(extremes[1].argmax()) != target:
                continue
            for row in group:
                if row["network"] == judge or (*search.key_of(row), judge) in done:
                    continue
                own = search.edged(search.set_of(row)[None, None])
                mask = interpolate(own, size=(side, side), mode="bilinear", antialias=True)
                kept, rest = scores(torch.cat([mask, 1 - mask]))
                about = {name: row[name] for name in ("game", "network", "picture", "search", "seed", "area")}
                yield about | {
                    "judge": judge,
                    "whole": float(extremes[1, target]),
                    "blank_blur": float(extremes[0, target]),
                    "blur": float(kept[target]),
                    "rest_blur": float(rest[target]),
                    "right": int(kept.argmax()) == target,
                }


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Means over pictures and judges, and the differences to the first search, with intervals by bootstrap over pictures."""
    places: dict[tuple[str, str, float], dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        places[row["game"], row["network"], row["area"]][row["search"]][row["picture"]].append(
            search.value(row, "blur")
        )
    yield "| game | found for | area | search | pictures | worth for the others | less than the first |"
    yield "| --- | --- | ---: | --- | ---: | ---: | ---: |"
    random = np.random.default_rng(0)
    for (game, network, area), searches in sorted(places.items()):
        names = [name for name in search.SEARCHES if name in searches]
        first = {picture: float(np.mean(values)) for picture, values in searches[names[0]].items()}
        for name in names:
            worth = {picture: float(np.mean(values)) for picture, values in searches[name].items()}
            less = np.array([first[picture] - worth[picture] for picture in sorted(set(worth) & set(first))])
            interval, mean = search.with_interval(less, random), np.mean(list(worth.values()))
            lead = "–" if name == names[0] else interval
            yield f"| {game} | {network} | {area:g} | {name} | {len(worth)} | {mean:.2f} | {lead} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("judged", type=Path)
    parser.add_argument("--table", action="store_true", help="sum the file up, and measure nothing")
    options = parser.parse_args()
    if not options.table:
        done = {(*search.key_of(row), row["judge"]) for row in search.read(options.judged)}
        with options.judged.open("a", encoding="utf-8") as file:
            for row in judged(search.read(options.rows), done):
                file.write(json.dumps(row) + "\n")
    print("\n".join(table(search.read(options.judged))))


if __name__ == "__main__":
    main()
