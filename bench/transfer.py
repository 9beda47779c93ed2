"""Are sets those of the object, or of one network? `python bench/transfer.py ROWS.jsonl JUDGED.jsonl`.

ROWS are those of `bench/search.py`: sets that searches found for one network. Each is shown to the other networks that
classify the picture correctly, before a blur. What one network alone can read is worth nothing there. A line of JUDGED for each
set and judge; what is in the file is not done again. `--table` sums the file up.
"""

import argparse
import base64
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import search
import shared_models
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

import sfumato
from sfumato.masks.level_set import TENTHS
from sfumato.space.smoothing import gaussian_blur


def set_of(row: dict[str, Any], side: int) -> Tensor:
    """A row's set of `side` × `side` places as a mask `(1, 1, side, side)` with the edges of all sets."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b85decode(row["set"])), np.uint8))[: side**2]
    return gaussian_blur(torch.from_numpy(bits.astype(np.float32)).view(1, 1, side, side), 1.5 / TENTHS)


def judged(rows: list[dict[str, Any]], done: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """What the sets of rows are worth for all networks but their own."""
    listed = json.loads((shared_models.SHARED / "imagenet-val-dev/annotations.json").read_text())["images"]
    networks = {name: shared_models.of_zoo(name) for name in search.NETWORKS}
    pictures: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        pictures[row["picture"]].append(row)
    for index, group in sorted(pictures.items()):
        with Image.open(shared_models.SHARED / "imagenet-val-dev/images" / listed[index]["file"]) as picture:
            inputs = {name: net.prepare(picture.convert("RGB"))[None] for name, net in networks.items()}
        target = listed[index]["label"]
        for judge, x in inputs.items():
            net, side = networks[judge].net, x.shape[-1]
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
                own = set_of(row, inputs[row["network"]].shape[-1])
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
            low, high = np.percentile(less[random.integers(0, len(less), (2000, len(less)))].mean(1), [2.5, 97.5])
            interval = "–" if name == names[0] else f"{less.mean():.2f} [{low:.2f}, {high:.2f}]"
            mean = np.mean(list(worth.values()))
            yield f"| {game} | {network} | {area:g} | {name} | {len(worth)} | {mean:.2f} | {interval} |"


def read(path: Path) -> list[dict[str, Any]]:
    return list(search.read(path)) if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("judged", type=Path)
    parser.add_argument("--table", action="store_true", help="sum the file up, and measure nothing")
    options = parser.parse_args()
    if not options.table:
        done = {(*search.key_of(row), row["judge"]) for row in read(options.judged)}
        with options.judged.open("a", encoding="utf-8") as file:
            for row in judged(read(options.rows), done):
                file.write(json.dumps(row) + "\n")
    print("\n".join(table(read(options.judged))))


if __name__ == "__main__":
    main()
