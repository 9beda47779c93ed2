"""Small networks that solve drawn scenes, and their training: `python bench/planted_nets.py CACHE [--networks …]`.

A network takes pictures that `normalised` made. Half of the pictures of its training lack a random part of their elements, so
that a picture without a part is nothing new to it. The weights are kept in the folder CACHE, and made again only if they are
missing.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato.data import Planted, Scenes

WORLDS = {
    "plain": Scenes(cue=0.5, cue_elsewhere=0.5),
    "planted": Scenes(cue=0.95, cue_elsewhere=0.02),
}
"""Where the cue says nothing, and where it goes with class 0."""
TRAINING, HELD_OUT = 5000, 800
FIRST = 1_000_000
"""The index of the first held-out scene."""
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""Of the networks' inputs, so that zeros are grey."""
REMOVED = 0.3
"""The share of the elements that half of the pictures lack."""


def normalised(pictures: Tensor) -> Tensor:
    """The inputs of the networks, of RGB in [0, 1]."""
    return (pictures - MEAN[0]) / STD[0]


class Block(nn.Module):
    """A residual block."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.short(x) + self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))


def resnet(classes: int) -> nn.Module:
    """Three residual blocks; the last maps are 8 × 8."""
    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = nn.Sequential(Block(16, 24, 2), Block(24, 48, 2), Block(48, 64, 1))
    return nn.Sequential(*stem, blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def vgg(classes: int) -> nn.Module:
    """Four convolutions with batch normalisation and pooling, and two linear layers, as in VGG."""
    layers: list[nn.Module] = []
    for before, after in ((3, 12), (12, 24), (24, 48)):
        layers += [nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(48, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64 * 16, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, classes))


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"resnet": resnet, "vgg": vgg}
EPOCHS = 6
LAYERS = {"resnet": "3", "vgg": "14"}
"""The last layer with places, for Grad-CAM."""


def pictures(cache: Path, world: str) -> tuple[Tensor, Tensor]:
    """The pictures of a training `(n, 2, 3, H, W)`, uint8, each with all its elements and without some; and labels."""
    path = cache / f"{world}-{TRAINING}.safetensors"
    if not path.exists():
        random = np.random.default_rng(0)
        drawn, labels = [], []
        for index in range(TRAINING):
            drawing = WORLDS[world].drawing(index)
            names = drawing.scene.names
            without = [name for name in names if random.random() < REMOVED]
            drawn.append(torch.stack([drawing.picture(), drawing.picture(without)]))
            labels.append(drawing.scene.label)
        save_file({"pictures": torch.stack(drawn), "labels": torch.tensor(labels)}, path)
    content = load_file(path)
    return content["pictures"], content["labels"]


def train(name: str, world: str, cache: Path, seed: int = 0) -> nn.Module:
    """A network that was trained until the end of its schedule."""
    drawn, labels = pictures(cache, world)
    torch.manual_seed(seed)
    net = NETWORKS[name](WORLDS[world].creatures).to(memory_format=torch.channels_last)
    batch, epochs = 64, EPOCHS
    steps = epochs * (len(labels) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        total, start = 0.0, time.perf_counter()
        for chosen in torch.randperm(len(labels), generator=generator).split(batch):
            if len(chosen) < batch:
                continue
            which = torch.randint(2, (batch,), generator=generator)
            shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
            x = torch.roll(drawn[chosen, which].float() / 255, shift, (2, 3))
            x = normalised(x).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(net(x), labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"{name}, {world}, epoch {epoch + 1}: loss {total * batch / len(labels):.3f}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return net.eval()


def accuracy(net: nn.Module, scenes: Scenes, count: int = HELD_OUT) -> float:
    """The share of held-out pictures that the network gets right."""
    x, labels = Planted("", scenes, count, FIRST).tensors()
    with torch.no_grad():
        answers = torch.cat([net(part).argmax(1) for part in normalised(x).split(100)])
    return float((answers == labels).float().mean())


def network(name: str, world: str, cache: Path) -> nn.Module:
    """A trained network, from the folder if it is there."""
    path = cache / f"{name}-{world}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        net = train(name, world, cache)
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
        print(f"{name}, {world}: {accuracy(net, WORLDS[world]):.1%} of {HELD_OUT} held-out pictures right", flush=True)
    net = NETWORKS[name](WORLDS[world].creatures)
    net.load_state_dict(load_file(path))
    return net.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    options = parser.parse_args()
    for world in options.worlds:
        for name in options.networks:
            network(name, world, options.cache)


if __name__ == "__main__":
    main()
