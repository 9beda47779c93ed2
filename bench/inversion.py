"""Feature inversion of EfficientNet-Lite0: how near both priors come, whether the class survives, and how long they take.

`python bench/inversion.py` prints a table, for foolbox's pictures; `python bench/inversion.py sheet OUT.png` draws what it
finds; `python bench/inversion.py colours` measures the colours of the photographs of coco-val-free and prints what
`sfumato.methods.natural.COLOURS` should be. SFUMATO_SHARED says where those and a second network are.
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from subjects import Subjects, imagenet_pictures
from torch import Tensor

import sfumato
from sfumato.layers.below import activations
from sfumato.methods.inversion import Inversion, invert, relative_errors
from sfumato.methods.natural import Fourier, Pixels
from sfumato.space.normalisation import Normalisation

SHARED = Path(os.environ.get("SFUMATO_SHARED", "../shared/data"))
LAYERS = ("blocks.5", "blocks.10", "head")
PRIORS = {"published": Pixels(), "smoother": Pixels(beta_weight=1e-4), "Fourier": Fourier()}
OTHER = "features.12"
"""The layer of SqueezeNet, the second network, whose activations are compared."""


def preparation() -> Normalisation:
    return sfumato.models.load("lite0").preparation.normalisation


def inverted(subjects: Subjects, layer: str, prior: Fourier | Pixels, steps: int) -> tuple[Inversion, float]:
    """The inversion of the layer's activations for all pictures, and the seconds that it took."""
    wanted, normalisation = activations(subjects.net, layer, subjects.inputs), preparation()
    start = time.perf_counter()
    shape = subjects.inputs.shape[1:]
    found = invert(
        subjects.net,
        layer,
        wanted,
        shape=shape,
        mean=normalisation.mean,
        std=normalisation.std,
        prior=prior,
        steps=steps,
    )
    return found, time.perf_counter() - start


class Second:
    """SqueezeNet: what another network makes of pictures for which it was not asked."""

    def __init__(self, pictures: Tensor) -> None:
        sys.path.insert(0, str(SHARED))
        self.net = importlib.import_module("zoo").squeezenet1_1()
        self.normalisation = Normalisation(*self.net.norm)
        self.wanted = self._activations(pictures)

    def _activations(self, pictures: Tensor) -> Tensor:
        return activations(self.net, OTHER, self.normalisation.seen(pictures))

    def errors(self, pictures: Tensor) -> Tensor:
        return relative_errors(self._activations(pictures), self.wanted)

    @torch.no_grad()
    def kept(self, pictures: Tensor, targets: Tensor) -> Tensor:
        return among_five(self.net(self.normalisation.seen(pictures)), targets)


def among_five(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether each target is among the five largest logits."""
    return (logits.topk(5).indices == targets[:, None]).any(1)


def table(count: int, steps: int, layers: Sequence[str]) -> None:
    subjects, normalisation = imagenet_pictures(count), preparation()
    originals = normalisation.pictures(subjects.inputs)
    second = Second(originals) if SHARED.is_dir() else None
    print(f"\n## Inverting {', '.join(layers)}: {count} pictures at once, {steps} steps, medians over pictures\n")
    print(
        "Likeness: correlation with the picture, over places and colours. Top 1, top 5: whether the picture's class is there."
    )
    print(f"SqueezeNet, which was not asked: relative error at {OTHER}, and its top 5.\n")
    print("| layer | prior | error | likeness | top 1 | top 5 | SqueezeNet's error | its top 5 | s a picture |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")

    def row(layer: str, prior: str, pictures: Tensor, error: str, seconds: str) -> None:
        with torch.no_grad():
            logits = subjects.net(normalisation.seen(pictures))
        pairs = zip(originals.flatten(1), pictures.flatten(1), strict=True)
        likeness = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).nan_to_num(0).median()
        first = int((logits.argmax(1) == subjects.targets).sum())
        fifth = int(among_five(logits, subjects.targets).sum())
        others = ["–", "–"]
        if second:
            there = int(second.kept(pictures, subjects.targets).sum())
            others = [f"{second.errors(pictures).median():.3f}", f"{there}/{count}"]
        cells = [layer, prior, error, f"{likeness:.2f}", f"{first}/{count}", f"{fifth}/{count}", *others, seconds]
        print("| " + " | ".join(cells) + " |", flush=True)

    row("–", "the pictures themselves", originals, "–", "–")
    row("–", "grey", torch.full_like(originals, 0.5), "–", "–")
    for layer in layers:
        for name, prior in PRIORS.items():
            found, seconds = inverted(subjects, layer, prior, steps)
            row(layer, name, found.pictures, f"{found.errors.median():.3f}", f"{seconds / count:.0f}")


def sheet(path: Path, count: int, steps: int, layers: Sequence[str]) -> None:
    """Each picture, and for each layer what both priors find."""
    subjects, normalisation = imagenet_pictures(count), preparation()
    columns = [normalisation.pictures(subjects.inputs)]
    for layer in layers:
        columns += [inverted(subjects, layer, PRIORS[name], steps)[0].pictures for name in ("published", "Fourier")]
    tiles = torch.stack(columns, 1).clamp(0, 1)  # (B, columns, 3, H, W)
    tiles = torch.nn.functional.pad(tiles, (2, 2, 2, 2), value=1.0)
    pixels = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray((255 * pixels).round().byte().numpy()).save(path)
    print(f"{path}: a row for each picture; the picture, then published and Fourier at {', '.join(layers)}")


def colours() -> None:
    """The principal axes of the log-odds of RGB values, each times its standard deviation; all pictures weigh the same."""
    values = []
    for path in sorted((SHARED / "coco-val-free" / "images").iterdir()):
        small = Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BOX)
        shares = (np.asarray(small, dtype=np.float64).reshape(-1, 3) + 0.5) / 256
        values.append(np.log(shares / (1 - shares)))
    variances, axes = np.linalg.eigh(np.cov(np.concatenate(values).T))
    rows = (axes * np.sqrt(variances)).T[::-1]
    for each in rows * np.sign(rows[:, :1]):
        print(", ".join(f"{value:.3f}" for value in each))
    print(f"from {len(values)} photographs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="table", choices=["table", "sheet", "colours"])
    parser.add_argument("out", nargs="?", type=Path, default=Path("inversions.png"), help="of the sheet")
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    given = parser.parse_args()
    if given.part == "colours":
        colours()
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, EfficientNet-Lite0 at 224²")
    if given.part == "sheet":
        sheet(given.out, given.pictures, given.steps, given.layers)
    else:
        table(given.pictures, given.steps, given.layers)


if __name__ == "__main__":
    main()
