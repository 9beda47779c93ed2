"""What the examples share: their size, their pictures, and their networks.

Every example is small by default. It can be larger: `python examples/plot_growing_areas.py --pictures 100 --steps 250`, or
`make gallery SCALE=10` for ten times the pictures in all examples. If `SFUMATO_SHARED` is a folder of real pictures and
models, the examples use them; otherwise they use the three samples of the package.
"""

import argparse
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image

import sfumato
from sfumato.models import Classifier, Preparation

SHARED = Path(os.environ.get("SFUMATO_SHARED", Path(__file__).parents[1] / "../shared/data"))
SCALE = float(os.environ.get("SFUMATO_SCALE", "1"))


def settings(**defaults: int) -> argparse.Namespace:
    """Whole numbers by name, from the command line or the defaults; the default of `pictures` grows with SFUMATO_SCALE."""
    parser = argparse.ArgumentParser()
    for name, value in defaults.items():
        scaled = max(1, round(SCALE * value)) if name == "pictures" else value
        parser.add_argument(f"--{name}", type=int, default=scaled)
    return parser.parse_args()


@dataclass(frozen=True, eq=False)
class Photograph:
    """A picture, the class to explain, and where things of that class are.

    `boxes` `(n, 4)` are left, top, right, bottom as fractions of the picture's width and height; none for the samples.
    """

    name: str
    picture: Image.Image
    target: int
    boxes: torch.Tensor


SAMPLES = {"chelsea": 285, "coffee": 967, "camera": 732}  # Egyptian cat, espresso, Polaroid camera


def photographs(count: int, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> list[Photograph]:
    """ImageNet validation pictures that EfficientNet-Lite0 classifies correctly and `wanted` accepts; else the samples.

    `wanted` gets a picture's annotation: label, name, box_cover, and so on. The pictures are spread evenly over the list.
    """
    folder = SHARED / "imagenet-val-dev"
    if not folder.is_dir():
        return [
            Photograph(name, Image.open(sfumato.samples.path(name)).convert("RGB"), target, torch.zeros(0, 4))
            for name, target in list(SAMPLES.items())[:count]
        ]
    entries = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["images"]
    entries = [entry for entry in entries if entry["lite0_top1"] == entry["label"] and wanted(entry)]
    chosen = [entries[place * len(entries) // count] for place in range(count)] if count < len(entries) else entries
    return [
        Photograph(
            name=entry["name"],
            picture=Image.open(folder / "images" / entry["file"]).convert("RGB"),
            target=entry["label"],
            boxes=torch.tensor(entry["boxes_227"]) / 227,
        )
        for entry in chosen
    ]


def network(name: str = "lite0") -> Classifier:
    """EfficientNet-Lite0, or a network of the shared zoo by the name of its loader, for example `squeezenet1_1`."""
    if name == "lite0":
        return sfumato.models.load("lite0")
    net = getattr(_zoo(), name)()
    sizes = {"squeezenet1_1": 227, "cifar_resnet": 32}
    mean, std = net.norm
    count = 80 if name.endswith("_coco") else 1000
    labels = sfumato.models.load("lite0").labels if count == 1000 else tuple(f"class {index}" for index in range(count))
    return Classifier(name, net, Preparation(sizes.get(name, 224), resize=None, mean=mean, std=std), labels)


def prepared(classifier: Classifier, photos: list[Photograph]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs `(B, 3, H, W)` and targets `(B,)`."""
    inputs = torch.stack([classifier.prepare(photograph.picture) for photograph in photos])
    return inputs, torch.tensor([photograph.target for photograph in photos])


def _zoo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo", SHARED / "zoo.py")
    assert spec is not None
    assert spec.loader is not None
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    return zoo


def pictures_of_a_class(count: int) -> tuple[int, list[Path], list[Path]]:
    """The class with most pictures, its pictures, and `count` pictures of any class; without shared data, only a cat's."""
    folder = SHARED / "imagenet-val-dev"
    if not folder.is_dir():
        return SAMPLES["chelsea"], [sfumato.samples.path("chelsea")], sfumato.samples.paths()
    entries = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["images"]
    labels = [entry["label"] for entry in entries if entry["lite0_top1"] == entry["label"]]
    most = max(labels, key=labels.count)
    of_class = [folder / "images" / entry["file"] for entry in entries if entry["label"] == most]
    return most, of_class, [folder / "images" / entry["file"] for entry in entries[:count]]
