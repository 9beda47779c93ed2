"""Hits of the pointing game as sfumato and as TorchRay count them, for random pictures' boxes in VOC's form, and random maps.

`python bench/torchray_pointing.py`, in an environment with torchray 1.0.0.2 (installed without its dependencies) and
torchvision; no data is needed. Both read the same annotation files, TorchRay through torchvision, and make of them what is to
be hit. Maps point anywhere, on the object, or at a pixel whose distance from it is the tolerance to the bit, the next below,
or the next above. It prints how many hits and misses agree, and the means over classes that occur (TorchRay's own mean counts
the others as 0); its status is 1 where any differ.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import torch

from sfumato.attribution import Attribution
from sfumato.data import VOC, truth
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Row, as_columns
from sfumato.metrics.pointing import PointingGame

TOLERANCES = (15, 1, 5, 13, 25)
"""But for 1, hypotenuses of whole numbers: some pixels are exactly that far from a corner."""
KINDS = ("anywhere", "on the object", "at the tolerance", "just below it", "just above it")


def annotate(folder: Path, count: int, random: np.random.Generator) -> VOC:
    """Random pictures' annotations; small boxes and large ones, some of a class overlapping, some at the picture's edges."""
    for name in ("Annotations", "ImageSets/Main"):
        (folder / "VOC2007" / name).mkdir(parents=True)
    names = [f"{index:06}" for index in range(count)]
    (folder / "VOC2007/ImageSets/Main/test.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    classes = VOC.names
    for name in names:
        width, height = (int(each) for each in random.integers(60, 200, 2))
        root = ET.Element("annotation")
        size = ET.SubElement(root, "size")
        for tag, value in (("width", width), ("height", height), ("depth", 3)):
            ET.SubElement(size, tag).text = str(value)
        for label in random.integers(len(classes), size=2).repeat(random.integers(1, 3)):
            found = ET.SubElement(root, "object")
            ET.SubElement(found, "name").text = classes[label]
            ET.SubElement(found, "difficult").text = "0"
            box = ET.SubElement(found, "bndbox")
            across, along = (np.sort(random.integers(1, side + 1, 2)) for side in (width, height))
            for tag, value in zip(("xmin", "xmax", "ymin", "ymax"), (*across, *along), strict=True):
                ET.SubElement(box, tag).text = str(value)
        ET.ElementTree(root).write(folder / "VOC2007/Annotations" / f"{name}.xml")
    return VOC(str(folder))


def maps(ground: np.ndarray, tolerance: int, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """A map for each kind of which there is a pixel."""
    rows, columns = (np.arange(side) for side in ground.shape)
    around = np.pad(ground, 1)
    inner = ground & around[2:, 1:-1] & around[:-2, 1:-1] & around[1:-1, 2:] & around[1:-1, :-2]
    squares = np.where(ground, 0, np.inf)  # of distances to the object, by looking at all pixels of its border
    for row, column in np.argwhere(ground & ~inner):
        squares = np.minimum(squares, (rows[:, None] - row) ** 2 + (columns - column) ** 2)
    below, above = squares[squares < tolerance**2], squares[squares > tolerance**2]
    wanted = (None, 0, tolerance**2, below.max(initial=0), above.min(initial=np.inf))
    for kind, square in zip(KINDS, wanted, strict=True):
        saliency = random.random(ground.shape)
        if square is not None:
            places = np.argwhere(squares == square)
            if not len(places):
                continue
            saliency[tuple(random.choice(places))] = 2
        yield kind, saliency


def play(data: VOC, tolerance: int, random: np.random.Generator) -> Iterator[tuple[str, int, Row]]:
    """The kind of each case, TorchRay's +1 or -1, and our row."""
    from torchray.benchmark.datasets import voc_as_mask
    from torchray.benchmark.pointing_game import PointingGame as TheirGame
    from torchvision.datasets import VOCDetection

    ours, theirs = PointingGame(tolerance, ground="boxes"), TheirGame(len(data.classes), tolerance)
    for example in data:
        root = ET.parse(Path(data.path) / "VOC2007/Annotations" / f"{example.name}.xml").getroot()  # noqa: S314
        annotation = VOCDetection.parse_voc_xml(root)
        for label in example.targets:
            mask = voc_as_mask(annotation, label)
            known = truth(example, label, example.size)
            for kind, values in maps(mask.numpy(), tolerance, random):
                y, x = np.unravel_index(values.argmax(), values.shape)
                saliency = torch.tensor(values, dtype=torch.float32)
                row = ours.measure(Case(Attribution(saliency[None, None]), truth=known))
                yield kind, theirs.evaluate(mask, (int(x), int(y))), row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    apart = 0
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(arguments.seed)
        data = annotate(Path(folder), arguments.pictures, random)
        for tolerance in TOLERANCES:
            played = list(play(data, tolerance, random))
            apart += report(tolerance, played, len(data.classes))
    print(f"\n{apart} differ" if apart else "\nall agree")
    sys.exit(bool(apart))


def report(tolerance: int, played: list[tuple[str, int, Row]], classes: int) -> int:
    """Print what was found; how much of it differs."""
    from torchray.benchmark.pointing_game import PointingGame as TheirGame

    print(f"\ntolerance {tolerance}")
    for kind in KINDS:
        pairs = [(answer == 1, row["hit"]) for each, answer, row in played if each == kind]
        same = sum(theirs == ours for theirs, ours in pairs)
        print(f"  {kind:<17} {same} of {len(pairs)} agree, {sum(ours for _, ours in pairs)} hits")
    game = TheirGame(classes, tolerance)
    for _, answer, row in played:
        game.aggregate(answer, row["label"])
    columns = as_columns([row for _, _, row in played])
    ours = PointingGame(tolerance).measures(())[0].statistic(columns, np.ones((1, len(played))))[0]
    theirs = float(game.class_accuracies[sorted(set(columns["label"]))].mean())
    print(f"  mean over classes {100 * ours:.4f} %, TorchRay {100 * theirs:.4f} %")
    return sum((answer == 1) != row["hit"] for _, answer, row in played) + int(abs(ours - theirs) > 1e-6)


if __name__ == "__main__":
    main()
