"""Measure masks within the network beside the bare part above the layer: `.venv/bin/python bench/inside.py`.

All figures come from one run; times are medians, and the ratios are what to quote from a shared machine.
"""

import argparse
import statistics

import torch
from subjects import imagenet_pictures, seconds
from torch import Tensor, nn

import sfumato

COUNTS = (5, 10, 25, 50)
AREAS = (0.05, 0.1, 0.2, 0.4)


def part_above(net: nn.Sequential, layer: str) -> nn.Sequential:
    """What follows the layer, as a network of its own: EfficientNet-Lite0 is a chain."""
    name, _, block = layer.partition(".")
    children = dict(net.named_children())
    names = list(children)
    later = [children[each] for each in names[names.index(name) + 1 :]]
    return nn.Sequential(*([*children[name]][int(block) + 1 :] if block else []), *later)


def bare(above: nn.Module, activations: Tensor) -> None:
    """Forwards from the activations, and back to them."""
    leaf = activations.detach().requires_grad_()
    above(leaf)[:, 0].sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", nargs="+", default=["blocks.4", "blocks.10", "blocks.14", "head"])
    given = parser.parse_args()
    repeats = given.repeats
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, EfficientNet-Lite0 at 224²\n")
    print(
        "| layer | pictures | masks of | whole network, ms | part above, ms | an iteration, ms | ratio to the part above |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    subjects = imagenet_pictures(4)
    net = subjects.net
    assert isinstance(net, nn.Sequential)
    net.requires_grad_(False)
    for layer in given.layers:
        for pictures in (1, 4):
            methods = {
                "channels": (sfumato.ExtremalChannels(layer=layer, counts=COUNTS), COUNTS),
                "places": (sfumato.ExtremalPerturbation(areas=AREAS, layer=layer), AREAS),
            }
            for kind, (method, asked) in methods.items():
                inputs, targets = subjects.inputs[:pictures], subjects.targets[:pictures]
                with method.prepared(net, inputs, targets) as subject:
                    search = method.search(subject)
                    size = search.parametrisation.size[0] if kind == "channels" else 1
                    wanted = torch.tensor(asked).expand(pictures, -1) / size
                    above = part_above(net, layer)
                    rows = search.evaluation.subject.inputs.repeat_interleave(len(asked), 0)
                    rows = rows.contiguous(memory_format=search.evaluation.subject.format)
                    seen = inputs.repeat_interleave(len(asked), 0).contiguous(memory_format=torch.channels_last)
                    whole, theirs, ours = [], [], []
                    many = 12 if layer.startswith("blocks") else 60
                    bare(above, rows)
                    for _ in range(repeats):
                        whole.append(seconds(lambda: bare(net, seen)))
                        theirs.append(seconds(lambda: [bare(above, rows) for _ in range(many)]) / many)
                        short = seconds(lambda: search.ascend(wanted, steps=4))
                        ours.append((seconds(lambda: search.ascend(wanted, steps=4 + many)) - short) / many)
                ratio = statistics.median(b / a for a, b in zip(theirs, ours, strict=True))
                a, b, c = (f"{1e3 * statistics.median(each):.3g}" for each in (whole, theirs, ours))
                print(f"| {layer} | {pictures} | {kind} | {a} | {b} | {c} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
