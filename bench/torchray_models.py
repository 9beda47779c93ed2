"""TorchRay's networks as sfumato and as TorchRay load them: the largest differences in what pictures become and in answers.

`python bench/torchray_models.py` prints a table. It needs torchray 1.0.0.2 (installed without its dependencies) and
torchvision. The published weights are not needed: a file of the same names and shapes, with random numbers, is written to
a temporary folder and read by both. A difference is a fraction of TorchRay's largest value. VGG16 takes 2.5 GB of memory.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sfumato import models
from sfumato.models import torchray as ours
from sfumato.models.caffe import VGG16, ResNet50

SIZES = [(500, 375), (375, 500), (224, 224), (640, 427), (333, 100), (100, 120)]  # width, height


def published(kind: str, classes: int) -> dict[str, Tensor]:
    """Random weights under the names and in the shapes of the published files."""
    torch.manual_seed(0)
    net = VGG16(classes) if kind == "vgg16" else ResNet50(classes)
    weights = {}
    for name, value in net.state_dict().items():
        last = name.rpartition(".")[2]
        if last == "num_batches_tracked":
            continue
        layer = net.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, nn.BatchNorm2d):
            part = "0" if last.startswith("running") else "1"
            weights[f"{name.removesuffix(last)}{part}.{last}"] = torch.rand_like(value) + 0.5
        elif name.removesuffix(f".{last}") in ours.ARCHITECTURES[kind].linear and value.ndim == 4:
            weights[name] = torch.randn(value.shape).flatten(1) * (2 / value[0].numel()) ** 0.5
        elif value.ndim == 4:
            weights[name] = torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5
        else:
            weights[name] = torch.rand_like(value) - 0.5
    return weights


def theirs(name: str, weights: Mapping[str, Tensor], convert: bool) -> tuple[nn.Module, str]:
    """TorchRay's network, and the address that it asks for."""
    from torchray.benchmark.models import get_model

    asked = []

    def answer(address: str, *_args: object, **_settings: object) -> dict[str, Tensor]:
        asked.append(address)
        return dict(weights)

    arch, _, dataset = name.partition("_")
    with mock.patch.object(torch.hub, "load_state_dict_from_url", answer):
        net = get_model(arch=arch, dataset=dataset, convert_to_fully_convolutional=convert)
    return net, asked[0]


def apart(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("nan")
    return ((found - expected).abs().max() / expected.abs().max()).item()


def compare(name: str, folder: Path) -> bool:
    """Prints the network's rows; whether its file is asked for under the address that we ask for."""
    from torchray.benchmark.models import get_transform

    dataset = name.partition("_")[2]
    weights = published(name.partition("_")[0], len(ours.LABELS[dataset]))
    path = folder / ours.FILES[name]
    torch.save(weights, path)
    classifier = models.load(f"torchray:{name}", checkpoint=path)
    path.unlink()
    net, address = theirs(name, weights, convert=True)
    prepare = get_transform(dataset=dataset, size=224)
    for size in SIZES:
        values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        picture = Image.fromarray(values)
        inputs, expected = classifier.prepare(picture)[None], prepare(picture)[None]
        with torch.no_grad():
            answer, known = classifier.net(expected), net(expected.clone())
        row = (f"{size[0]} x {size[1]}", f"{tuple(expected.shape[2:])}", f"{tuple(known.shape)}")
        print(
            f"{name:<15}{row[0]:<12}{row[1]:<12}{row[2]:<18}{apart(inputs, expected):<10.1e}{apart(answer, known):.1e}"
        )
    return address == ours.ADDRESS + ours.FILES[name]


def known_labels() -> dict[str, tuple[str, ...]]:
    """TorchRay's names of classes. Those of COCO are spelt in VOC's way where VOC has the class."""
    from torchray.benchmark import datasets

    return {"voc": tuple(datasets.VOC_CLASSES), "coco": tuple(datasets.COCO_CLASSES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ours.FILES), help=f"of {', '.join(ours.FILES)}")
    names = parser.parse_args().names
    warnings.simplefilter("ignore")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # a CUDA build of torchvision beside a CPU build of torch lacks two operators, unused here
        for name in [module for module in sys.modules if module.startswith("torchvision")]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    for dataset, known in known_labels().items():
        other = [f"{a} / {b}" for a, b in zip(ours.LABELS[dataset], known, strict=True) if a != b]
        print(f"{dataset}: {len(known)} classes in the same order, {len(other)} spelt otherwise {', '.join(other)}")
    print(f"\n{'model':<15}{'picture':<12}{'input':<12}{'answer':<18}{'input':<10}answer")
    same: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            same.append(compare(name, Path(folder)))  # noqa: PERF401  # rows are printed as they come
    print(f"\naddresses that are TorchRay's: {sum(same)} of {len(same)}")


if __name__ == "__main__":
    main()
