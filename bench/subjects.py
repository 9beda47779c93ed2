"""What is measured: a real classifier and real pictures, from packages."""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

import sfumato


class Subjects(NamedTuple):
    net: torch.nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor
    names: list[str]


def imagenet_pictures(count: int) -> Subjects:
    """EfficientNet-Lite0 and the first `count` of foolbox's ImageNet pictures that it classifies right."""
    foolbox = importlib.util.find_spec("foolbox")  # for its files alone: importing it needs more packages
    if foolbox is None or foolbox.origin is None:
        raise SystemExit("the pictures are those of foolbox's wheel; run this through `make bench`")
    data = Path(foolbox.origin).parent / "data"
    classifier = sfumato.models.load("lite0")
    classifier.net.requires_grad_(False)
    inputs, targets, names = [], [], []
    for path in sorted(data.glob("imagenet_*.jpg")):
        x = classifier.prepare(Image.open(path).convert("RGB"))[None]
        target = int(path.stem.split("_")[2])
        with torch.no_grad():
            right = classifier.net(x).argmax(1).item() == target
        if right and len(names) < count:
            inputs.append(x)
            targets.append(target)
            names.append(path.stem)
    return Subjects(classifier.net, torch.cat(inputs), torch.tensor(targets), names)


def seconds(action: Callable[[], object]) -> float:
    """How long it takes, by the clock."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
