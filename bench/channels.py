"""Whether `ExtremalChannels` finds the best channels: `python bench/channels.py`, beside a greedy search and random channels.

For each count of channels, the share of the score that they keep alone, above that of no channel at all; mean over ImageNet
pictures that the network gets right. The greedy search adds the channel that adds most, again and again, where gains are
assumed to fall ("lazy"); it asks the network some 600 times, `ExtremalChannels` 100 times with a backward pass.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch
from search import lazily, pictures
from torch import Tensor, nn

import sfumato

LAYERS = {
    "squeezenet1_1": "features.9",
    "resnet50": "layer3",
    "vit_tiny": "blocks.8",
    "efficientnet_lite0": "blocks.10",
}
COUNTS = (5, 10, 25, 50)

Score = Callable[[Tensor], Tensor]
"""From masks `(N, K)` to scores `(N,)`."""


def scoring(net: nn.Module, layer: str, x: Tensor, target: int) -> tuple[Score, int]:
    """The scores of one input with channels of a layer switched off, and how many channels there are."""
    module, outputs = net.get_submodule(layer), []
    with torch.no_grad(), module.register_forward_hook(lambda _, __, output: outputs.append(output)):
        net(x)
    activation = outputs[0]
    axis = 2 if activation.ndim == 3 else 1  # tokens have their channels last

    def score(masks: Tensor) -> Tensor:
        scores = []
        for part in masks.split(16):
            shape = [len(part), *[1] * (activation.ndim - 1)]
            shape[axis] = -1
            masked = activation * part.view(shape)
            with torch.no_grad(), module.register_forward_hook(lambda _, __, ___, masked=masked: masked):
                scores.append(net(x.expand(len(part), -1, -1, -1))[:, target])
        return torch.cat(scores)

    return score, activation.shape[axis]


def greedy(score: Score, channels: int) -> Iterator[Tensor]:
    """Masks `(K,)` of channels chosen `lazily`, for each count."""

    def scores(sets: list[list[int]]) -> list[float]:
        masks = torch.zeros(len(sets), channels)
        for mask, chosen in zip(masks, sets, strict=True):
            mask[chosen] = 1
        return score(masks).tolist()

    for chosen in lazily(scores, channels, COUNTS):
        yield torch.zeros(channels).index_fill(0, torch.tensor(chosen), 1)


def at_random(channels: int) -> Iterator[Tensor]:
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(0))
    for count in COUNTS:
        yield torch.zeros(channels).index_fill(0, order[:count], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=6)
    options = parser.parse_args()
    print("| network, layer | search |", " | ".join(f"{count} channels" for count in COUNTS), "|")
    print("| --- | --- |", " | ".join("---:" for _ in COUNTS), "|")
    for network in options.networks:
        layer, shares = LAYERS[network], {"ExtremalChannels": [], "greedy": [], "random": []}
        for _, net, x, target in pictures(network, options.first, options.pictures):
            score, channels = scoring(net, layer, x, target)
            none, whole = score(torch.stack([torch.zeros(channels), torch.ones(channels)])).tolist()
            method = sfumato.ExtremalChannels(layer=layer, counts=COUNTS)
            searches = {
                "ExtremalChannels": method(net, x, target).masks[0].flatten(1),
                "greedy": torch.stack(list(greedy(score, channels))),
                "random": torch.stack(list(at_random(channels))),
            }
            for name, masks in searches.items():
                shares[name].append(((score(masks) - none) / (whole - none)).tolist())
        for name, rows in shares.items():
            print(f"| {network}, {layer} | {name} |", " | ".join(f"{v:.2f}" for v in np.mean(rows, 0)), "|", flush=True)


if __name__ == "__main__":
    main()
