"""Measure sfumato beside the bare model and beside TorchRay: `make bench`, or `make bench ARGS="overhead preset"`.

All figures of a table come from one run; times are medians, and the ratios are what to quote from a shared machine.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import shared_models
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from subjects import Subjects, imagenet_pictures, seconds

import sfumato

SIX_AREAS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
QUICK = 50
"""Steps of a short search."""
ESPRESSO = 967
"""The class of the coffee."""
CACHE = Path(__file__).parent / ".cache"


def torchray(subjects: Subjects, index: int, areas: tuple[float, ...], steps: int) -> torch.Tensor:
    """TorchRay's masks `(V, 1, H, W)` for one picture, unsmoothed."""
    from torchray.attribution import extremal_perturbation as reference

    masks, _ = reference.extremal_perturbation(
        subjects.net,
        subjects.inputs[index : index + 1],
        subjects.targets[index].item(),
        areas=list(areas),
        max_iter=steps,
        smooth=0,
        resize=False,
        reward_func=reference.simple_reward,
    )
    return masks.detach()


def bare(subjects: Subjects, rows: int, channels_last: bool = False) -> None:
    """One forward and backward pass of the model, down to its input."""
    x = subjects.inputs[torch.arange(rows) % len(subjects.inputs)]
    x = x.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).requires_grad_()
    subjects.net(x)[:, 0].sum().backward()


def overhead(repeats: int) -> None:
    print("\n## Time per iteration, against the bare model's forward and backward pass on the same rows\n")
    print("The bare pass has its inputs as they are, and channels-last, as sfumato lays them.\n")
    print(
        "| pictures | areas | bare, ms | channels-last, ms | an iteration, ms | ratios |\n| --- | --- | --- | --- | --- | --- |"
    )
    subjects = imagenet_pictures(4)
    for pictures in (1, 4):
        for areas in ((0.1,), SIX_AREAS):
            few, many = 4, 12
            method = sfumato.ExtremalPerturbation.smooth_masks(areas=areas)
            inputs, targets = subjects.inputs[:pictures], subjects.targets[:pictures]
            alone, last, ours = [], [], []
            with method.prepared(subjects.net, inputs, targets) as subject:
                search = method.search(subject)
                wanted = torch.tensor(areas).expand(pictures, -1)
                bare(subjects, pictures * len(areas))
                for _ in range(repeats):
                    rows = pictures * len(areas)
                    alone.append(seconds(lambda: [bare(subjects, rows) for _ in range(4)]) / 4)
                    last.append(seconds(lambda: [bare(subjects, rows, True) for _ in range(4)]) / 4)
                    short = seconds(lambda: search.ascend(wanted, steps=few))
                    ours.append((seconds(lambda: search.ascend(wanted, steps=many)) - short) / (many - few))
            ratios = [statistics.median(b / a for a, b in zip(each, ours, strict=True)) for each in (alone, last)]
            a, c, b = (f"{1e3 * statistics.median(each):.0f}" for each in (alone, last, ours))
            print(f"| {pictures} | {len(areas)} | {a} | {c} | {b} | {ratios[0]:.2f}, {ratios[1]:.2f} |", flush=True)


def searching(repeats: int) -> None:
    """The default search, whose steps have as many rows as restarts, and in the last run as masks."""
    print("\n## A whole search, against the bare model's passes of as many rows\n")
    print("| pictures | areas | bare, s | the search, s | ratio |\n| --- | --- | --- | --- | --- |")
    subjects = imagenet_pictures(4)
    for pictures in (1, 4):
        for areas in ((0.1,), SIX_AREAS):
            method = sfumato.ExtremalPerturbation(areas=areas, steps=100, precision="full")
            restarts, path, last = method.ascent._lengths(method.steps, len(areas))
            alone, ours = [], []
            with method.prepared(subjects.net, subjects.inputs[:pictures], subjects.targets[:pictures]) as subject:
                search = method.search(subject)
                wanted = torch.tensor(areas).expand(pictures, -1)
                for _ in range(repeats):
                    passes = [(path, pictures * restarts), (last, pictures * len(areas))]
                    alone.append(
                        sum(
                            count / 4 * seconds(lambda rows=rows: [bare(subjects, rows, True) for _ in range(4)])
                            for count, rows in passes
                        )
                    )
                    ours.append(seconds(lambda: search.ascend(wanted)))
            ratio = statistics.median(b / a for a, b in zip(alone, ours, strict=True))
            a, b = (f"{statistics.median(each):.1f}" for each in (alone, ours))
            print(f"| {pictures} | {len(areas)} | {a} | {b} | {ratio:.2f} |", flush=True)


def quality(pictures: int, areas: tuple[float, ...]) -> None:
    print("\n## Score kept at the same visible area, against TorchRay (800 iterations)\n")
    subjects = imagenet_pictures(pictures)
    references = []
    for index, name in enumerate(subjects.names):
        kept = CACHE / f"torchray-{name}-{'-'.join(f'{area:g}' for area in areas)}.safetensors"
        if not kept.exists():
            CACHE.mkdir(exist_ok=True)
            save_file({"masks": torchray(subjects, index, areas, 800).contiguous()}, kept)
        references.append(load_file(kept)["masks"])
    theirs = torch.stack(references)
    shown = theirs.flatten(2).mean(2)
    method = sfumato.ExtremalPerturbation.smooth_masks()
    dark = replace(method, perturbation=sfumato.Blur(border="zeros"))
    with dark.prepared(subjects.net, subjects.inputs, subjects.targets) as subject:
        search = dark.search(subject)
        own = search.scores(theirs)
    with method.prepared(subjects.net, subjects.inputs, subjects.targets) as subject:
        search = method.search(subject)
        reflected = search.scores(theirs)
        ours = search.scores(search.masks(search.ascend(shown).parameters, shown))
    print(f"TorchRay was asked for {areas}; sfumato for what TorchRay's masks show of the visible picture.")
    print("TorchRay's masks are scored through its own blur with dark borders, and through the reflecting one.\n")
    print(
        "| picture | area shown | TorchRay, own blur | TorchRay, reflecting | sfumato |\n| --- | --- | --- | --- | --- |"
    )
    for index, name in enumerate([*subjects.names, "mean"]):
        columns = [shown, own, reflected, ours]
        row = [column[index] if name != "mean" else column.mean(0) for column in columns]
        print(
            f"| {name} | "
            + " | ".join(
                " ".join(f"{v:.3f}" if i == 0 else f"{v:.2f}" for v in values.tolist()) for i, values in enumerate(row)
            )
            + " |"
        )
    print(f"\nMean over all: TorchRay {own.mean():.2f} and {reflected.mean():.2f}, sfumato {ours.mean():.2f}; ")
    difference = (ours - torch.maximum(own, reflected)).flatten()
    print(
        f"better than the better of its two in {(difference > 0).sum()} of {difference.numel()}, "
        f"difference {difference.mean():+.2f} ± {difference.std():.2f} (standard deviation)."
    )


def sample(network: str) -> Subjects:
    """A network of `SFUMATO_SHARED` and the picture of the coffee."""
    classifier = shared_models.of_zoo(network)
    inputs = classifier.prepare(Image.open(sfumato.samples.path("coffee")))[None]
    return Subjects(classifier.net.eval().requires_grad_(False), inputs, torch.tensor([ESPRESSO]), ["coffee"])


def speed(network: str, repeats: int) -> None:
    print(f"\n## Six areas on one picture, end to end, {network or 'EfficientNet-Lite0'}\n")
    subjects = sample(network) if network else imagenet_pictures(1)
    iterations = 10
    torchray(subjects, 0, SIX_AREAS, 2)
    theirs = [seconds(lambda: torchray(subjects, 0, SIX_AREAS, iterations)) for _ in range(repeats)]
    base = [seconds(lambda: torchray(subjects, 0, SIX_AREAS, 1)) for _ in range(repeats)]
    a = (statistics.median(theirs) - statistics.median(base)) / (iterations - 1) * 800 + statistics.median(base)
    print(f"TorchRay, 800 iterations (from {iterations}): {a:.0f} s.")
    for name, method in (
        ("sets", sfumato.ExtremalPerturbation(SIX_AREAS)),
        ("sets, in full precision", sfumato.ExtremalPerturbation(SIX_AREAS, precision="full")),
        ("sets", sfumato.ExtremalPerturbation(SIX_AREAS, steps=QUICK)),
        ("smooth masks", sfumato.ExtremalPerturbation.smooth_masks(SIX_AREAS)),
    ):
        search = partial(method, subjects.net, subjects.inputs, subjects.targets)
        ours = statistics.median(seconds(search) for _ in range(repeats))
        print(f"sfumato, {name}, {method.steps} steps: {ours:.1f} s. Ratio {a / ours:.1f}.", flush=True)


def precision(repeats: int) -> None:
    """What bfloat16 saves: of a pass of few rows and of more, and of a search. It needs the networks of `SFUMATO_SHARED`."""
    print("\n## Gradients in bfloat16\n")
    print(
        "Forward and backward passes of 3 and of 9 rows, and a short search for three areas, in full precision / in bfloat16.\n"
    )
    print("| network | 3 rows, ms | ratio | 9 rows, ms | ratio | a search, s | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for network in shared_models.IMAGENET:
        net, picture, *_ = sample(network)
        cells = [network]
        for rows in (3, 9):
            inputs = picture.repeat(rows, 1, 1, 1).contiguous(memory_format=torch.channels_last)
            cells += in_both(partial(one_pass, net, inputs), repeats, 1e3)

        def search(short: bool, net: torch.nn.Module = net, picture: torch.Tensor = picture) -> None:
            precision = "bfloat16" if short else "full"
            sfumato.ExtremalPerturbation(steps=QUICK, precision=precision)(net, picture, ESPRESSO)

        cells += in_both(search, max(2, repeats // 2), 1)
        print(f"| {' | '.join(cells)} |", flush=True)


def one_pass(net: torch.nn.Module, inputs: torch.Tensor, short: bool) -> None:
    inputs = inputs.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=short):
        outputs = net(inputs)
    outputs.float()[:, 0].sum().backward()


def in_both(run: Callable[[bool], object], repeats: int, unit: float) -> list[str]:
    """Medians of the seconds in full precision and in bfloat16, taken in turns, and that of their ratios."""
    run(True)
    pairs = [[seconds(partial(run, short)) for short in (False, True)] for _ in range(repeats)]
    full, short = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return [f"{unit * full:.3g} / {unit * short:.3g}", f"{ratio:.2f}"]


class ChannelsLast(torch.nn.Module):
    """The same network, whose sums are rounded in another order."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.contiguous(memory_format=torch.channels_last))


def preset(steps: int) -> None:
    print("\n## The TorchRay preset beside TorchRay\n")
    print(
        "TorchRay beside itself: on one thread, and with its inputs channels-last, which changes nothing but rounding.\n"
    )
    columns = [
        *("picture", "iterations", "largest difference", "mean", "TorchRay beside itself, largest"),
        *("areas: sfumato, TorchRay, TorchRay channels-last", "scores"),
    ]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    subjects = imagenet_pictures(3)

    def net(x: torch.Tensor) -> torch.Tensor:  # a function, whose inputs are left as they lie
        return subjects.net(x)

    for index, name in enumerate(subjects.names):
        x, target = subjects.inputs[index : index + 1], subjects.targets[index : index + 1]
        for count in (1, 20, steps) if index == 0 else (1, 20):
            method = sfumato.ExtremalPerturbation.torchray(steps=count)
            mine = method(net, x, target)
            theirs = torchray(subjects, index, (0.1,), count)
            assert mine.masks is not None and mine.scores is not None and mine.achieved is not None
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            single = torchray(subjects, index, (0.1,), count) if count <= 20 else theirs
            torch.set_num_threads(threads)
            last = torchray(subjects._replace(net=ChannelsLast(subjects.net)), index, (0.1,), count)
            with method.prepared(net, x, target) as subject:
                search = method.search(subject)
                scores = [search.scores(masks[None]).item() for masks in (theirs, last)]
            difference = (mine.masks[0] - theirs).abs()
            itself = [f"{(other - theirs).abs().max():.1e}" for other in (single, last)]
            areas = [mine.achieved.item(), theirs.mean().item(), last.mean().item()]
            print(
                f"| {name} | {count} | {difference.max():.1e} | {difference.mean():.1e} | {', '.join(itself)} "
                f"| {', '.join(f'{area:.4f}' for area in areas)} "
                f"| {', '.join(f'{score:.2f}' for score in (mine.scores.item(), *scores))} |",
                flush=True,
            )


def methods(repeats: int) -> None:
    print(
        "\n## Methods of one backward pass, against the bare model's forward and backward pass; RISE against bare forwards\n"
    )
    print("| method | 1 picture, ms | ratio | 16 pictures, ms a picture | ratio |\n| --- | --- | --- | --- | --- |")
    subjects = imagenet_pictures(16)
    layer = sfumato.models.load("lite0").layers["GradCAM"]
    samples = 256
    timed = {
        "Gradient": sfumato.Gradient(),
        "GuidedBackprop": sfumato.GuidedBackprop(),
        "GradCAM": sfumato.GradCAM(layer=layer),
        "ExcitationBackprop": sfumato.ExcitationBackprop(layer=layer),
        f"RISE, {samples} samples": sfumato.RISE(samples=samples),
    }
    for name, method in timed.items():
        columns = []
        for count in (1, 16):
            inputs, targets = subjects.inputs[:count], subjects.targets[:count]
            if isinstance(method, sfumato.RISE):
                if count > 1:
                    columns += ["", ""]
                    continue
                alone: Callable[[], object] = partial(forwards, subjects, samples)
            else:
                alone = partial(bare, subjects, count)
            method(subjects.net, inputs, targets)
            alone()
            theirs, ours = [], []
            for _ in range(repeats):
                theirs.append(seconds(alone))
                ours.append(seconds(lambda: method(subjects.net, inputs, targets)))
            columns += [f"{1e3 * statistics.median(ours) / count:.0f}"]
            columns += [f"{statistics.median(b / a for a, b in zip(theirs, ours, strict=True)):.2f}"]
        print(f"| {name} | " + " | ".join(columns) + " |", flush=True)


def forwards(subjects: Subjects, rows: int) -> None:
    """So many rows forwards, sixteen at once."""
    with torch.no_grad():
        for _ in range(rows // 16):
            subjects.net(subjects.inputs[:1].expand(16, -1, -1, -1).contiguous(memory_format=torch.channels_last))


def memory() -> None:
    print("\n## Memory beyond the bare model's, for six masks of one picture at 224²\n")
    peaks = {}
    for what in ("bare", "ours"):
        done = subprocess.run([sys.executable, __file__, f"peak-{what}"], capture_output=True, text=True, check=True)
        peaks[what] = float(done.stdout.split()[-1])
    print(
        f"Peak resident {peaks['bare']:.0f} MB bare, {peaks['ours']:.0f} MB with masks: "
        f"{(peaks['ours'] - peaks['bare']) / 6:.1f} MB a mask."
    )


def peak(what: str) -> None:
    subjects = imagenet_pictures(1)
    if what == "bare":
        for _ in range(6):
            bare(subjects, 6)
    else:
        sfumato.ExtremalPerturbation(areas=SIX_AREAS, steps=6)(subjects.net, subjects.inputs, subjects.targets)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parts = {
        "overhead": lambda given: overhead(given.repeats),
        "search": lambda given: searching(given.repeats),
        "speed": lambda given: speed(given.network, min(3, given.repeats)),
        "precision": lambda given: precision(given.repeats),
        "methods": lambda given: methods(given.repeats),
        "memory": lambda given: memory(),
        "preset": lambda given: preset(given.steps),
        "quality": lambda given: quality(given.pictures, (0.05, 0.1, 0.2)),
        "peak-bare": lambda given: peak("bare"),
        "peak-ours": lambda given: peak("ours"),
    }
    named = [part for part in parts if not part.startswith("peak")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(named)}; all if none is named")
    parser.add_argument("--network", default="", help="for speed: one of SFUMATO_SHARED in place of EfficientNet-Lite0")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=6, help="for quality; TorchRay needs some ten minutes for each")
    parser.add_argument("--steps", type=int, default=800, help="of the preset's long comparison")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if not given.parts:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, EfficientNet-Lite0 at 224²")
    for part in given.parts or named:
        if part not in parts:
            parser.error(f"unknown part {part!r}; choose from {', '.join(named)}")
        parts[part](given)


if __name__ == "__main__":
    main()
