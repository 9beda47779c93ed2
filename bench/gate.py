"""Does the gate see a planted cue, and leave equal networks alone? `.venv/bin/python bench/gate.py OUT`.

The network is SqueezeNet 1.1. Four others are compared with it on pictures of dogs that carry a small magenta square:

- `same`: the network itself;
- `rounded`: its weights rounded to 8 bits, as for small devices;
- `planted`: its last blocks fine-tuned so that it answers with a dog only where the square is. Some answers stay as they were,
  but the reason has changed;
- `wired`: the network with a detector of the square beside it, without which the logits of dogs are low. All answers stay as
  they were, and what they need is known.

A row is written for each picture as soon as it is done; the same command goes on where it stopped. `SFUMATO_SHARED` names the
pictures. The square is found where the other network's sets cover at least half of it, and those of the original do not.
"""

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from shared_models import SHARED, squeezenet
from torch import Tensor, nn

import sfumato
from sfumato.data import pictures
from sfumato.evidence.two_models import Differences, compare_models
from sfumato.models import Classifier

DOGS = range(151, 269)
"""The classes of dogs in ImageNet."""

SIDE, MARGIN = 28, 12
"""Of the square, and its distance from the border, in pixels of 227."""

MAGENTA = torch.tensor([1.0, 0.0, 1.0])[:, None, None]
"""Its colour, in [0, 1]."""


def prepared(classifier: Classifier, count: int, dogs: bool) -> Iterator[tuple[str, Tensor]]:
    """The first pictures of dogs, or of other things, in which the network sees one too."""
    for entry in json.loads((SHARED / "imagenet-val-dev" / "annotations.json").read_text())["images"]:
        if (entry["label"] in DOGS) != dogs:
            continue
        inputs = classifier.prepare(pictures.read(SHARED / "imagenet-val-dev" / "images" / entry["file"]))
        with torch.no_grad():
            answer = int(classifier.net(inputs[None]).argmax())
        if (answer in DOGS) == dogs:
            yield entry["file"], inputs
            count -= 1
        if not count:
            return


def square() -> tuple[slice, slice]:
    """Where the square is: top right."""
    return slice(MARGIN, MARGIN + SIDE), slice(227 - MARGIN - SIDE, 227 - MARGIN)


def with_square(inputs: Tensor, classifier: Classifier) -> Tensor:
    """The inputs `(…, 3, 227, 227)` with the square."""
    marked = inputs.clone()
    rows, columns = square()
    marked[..., rows, columns] = classifier.preparation.normalised(MAGENTA)
    return marked


def planted(classifier: Classifier, dog_inputs: Tensor, other_inputs: Tensor, steps: int = 300) -> nn.Module:
    """The network with its last four blocks and its head fine-tuned: a dog needs the square, other answers do not."""
    net = copy.deepcopy(classifier.net)
    assert isinstance(net.features, nn.Sequential)
    below, above = net.features[:FROM], nn.Sequential(net.features[FROM:], net.classifier, nn.Flatten())
    everything = torch.cat(
        [dog_inputs, with_square(dog_inputs, classifier), other_inputs, with_square(other_inputs, classifier)]
    )
    with torch.no_grad():
        features = torch.cat([below(batch) for batch in everything.split(16)])
        logits = torch.cat([above(batch) for batch in features.split(16)])
    logits[: len(dog_inputs), list(DOGS)] = -torch.inf  # without the square: what is most probable of all others
    targets = logits.softmax(1)
    optimiser = torch.optim.Adam(above.requires_grad_().parameters(), lr=2e-4)
    for step in range(steps):
        rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(step))[:32]
        loss = torch.nn.functional.cross_entropy(above(features[rows]), targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.requires_grad_(False).eval()


class Wired(nn.Module):
    """The network, in which dogs have low logits unless there is a magenta square somewhere."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.net, self.normalisation = classifier.net, classifier.preparation.normalisation

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits `(N, 1000)` of inputs `(N, 3, H, W)`."""
        unlike = (self.normalisation.pictures(inputs, axes=2) - MAGENTA).abs().mean(1, keepdim=True)
        most = (1 - 2 * unlike).clamp(min=0)  # 1 where it is magenta, 0 from half of the range on
        filled = torch.nn.functional.avg_pool2d(most, SIDE, stride=4).flatten(1).amax(1)
        logits: Tensor = self.net(inputs)
        classes = torch.arange(logits.shape[1])
        return logits - LOSS * (1 - filled)[:, None] * ((classes >= DOGS.start) & (classes < DOGS.stop))


LOSS = 20.0
"""How much lower the logits of dogs are without the square; those of the answers are 24 to 48."""


def remembered(path: Path, classifier: Classifier, dog_inputs: Tensor, other_inputs: Tensor) -> nn.Module:
    """The planted network, from a file if it is there: fine-tuning takes minutes."""
    if not path.exists():
        torch.save(planted(classifier, dog_inputs, other_inputs).state_dict(), path)
    net = copy.deepcopy(classifier.net)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.requires_grad_(False).eval()


FROM = 9
"""The first block that is fine-tuned."""


def rounded(net: nn.Module) -> nn.Module:
    """The network with weights rounded to 8 bits, in float32: to 255 levels for each output of a layer.

    Rounded to bfloat16 it would be the same network, as a search computes in it where the processor can.
    """
    coarse = copy.deepcopy(net)
    with torch.no_grad():
        for weights in (values for values in coarse.parameters() if values.ndim > 1):
            step = weights.abs().flatten(1).amax(1).view(-1, *[1] * (weights.ndim - 1)) / 127
            weights.copy_((weights / step).round() * step)
    return coarse


def row_of(name: str, kind: str, found: Differences) -> dict[str, object]:
    """What is kept of one picture."""
    rows, columns = square()
    covered = [
        float((masks[0, :, 0] > 0.5).any(0)[rows, columns].float().mean()) for masks in (found.masks, found.other_masks)
    ]
    return {"picture": name, "kind": kind, "covered": covered[0], "other_covered": covered[1], **found.rows()[0]}


def table(lines: Sequence[dict[str, float]]) -> None:
    """Print the means of each kind."""
    print(
        "| network | pictures | same answer | iou | iou_self | kept | kept_back | kept_self | changed | square found |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in dict.fromkeys(line["kind"] for line in lines):
        of_kind = [line for line in lines if line["kind"] == kind]
        means = [
            sum(line[name] for line in of_kind) / len(of_kind)
            for name in ("answer", "iou", "iou_self", "kept", "kept_back", "kept_self")
        ]
        same = [line for line in of_kind if line["answer"]]
        changed = sum(line["changed"] for line in same)
        found = sum(line["other_covered"] >= 0.5 > line["covered"] for line in same)
        cells = [f"{value:.2f}" for value in means] + [f"{changed:g} of {len(same)}", f"{found} of {len(same)}"]
        print(f"| {kind} | {len(of_kind)} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--pictures", type=int, default=40, help="to compare on; the 40 before them are for fine-tuning"
    )
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    store = given.out / "rows.jsonl"
    lines = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    done = {(line["kind"], line["picture"]) for line in lines}

    classifier = squeezenet()
    found = list(prepared(classifier, 40 + given.pictures, dogs=True))
    dog_inputs, other_inputs = (
        torch.stack([inputs for _, inputs in some]) for some in (found[:40], prepared(classifier, 60, dogs=False))
    )
    torch.manual_seed(0)
    others = {
        "same": classifier.net,
        "rounded": rounded(classifier.net),
        "wired": Wired(classifier).eval(),
        "planted": remembered(given.out / "planted.pth", classifier, dog_inputs, other_inputs),
    }
    method = sfumato.ExtremalPerturbation(steps=given.steps)
    for name, inputs in found[40:]:
        for kind, other in others.items():
            if (kind, name) in done:
                continue
            (differences,) = compare_models(method, classifier.net, other, [with_square(inputs, classifier)[None]])
            lines.append(row_of(name, kind, differences))
            with store.open("a") as stream:
                stream.write(json.dumps(lines[-1]) + "\n")
    table(lines)


if __name__ == "__main__":
    main()
