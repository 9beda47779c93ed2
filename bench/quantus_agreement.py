"""Numbers of the protocols beside those that Quantus finds for the same maps, network and pictures.

`python bench/quantus_agreement.py`, in an environment with quantus, scikit-image and sfumato[demo]; no data but the samples
of this package is read. Quantus is run, as its documentation says, and asked for nothing that its own settings do not offer.

Where a definition differs, the line says how one number becomes the other. Quantus orders equal values of a map in another
way: their share is printed too, as a curve depends on the order of those.

Not compared: insertion, sufficient area, transfer and agreement of networks, which Quantus does not have; its Monotonicity,
which in version 0.6.0 showed the network its baseline alone at every step, and none of the picture (so a look at what reaches
the network said); and SSIM by layer, for which its MPRT raised an AttributeError.
"""

import argparse
import importlib
import time
import zlib

import numpy as np
import torch
from PIL import Image

import sfumato
from sfumato.methods.compat.quantus import explain_func
from sfumato.metrics.case import Case
from sfumato.metrics.insertion_deletion import InsertionDeletion
from sfumato.metrics.likeness import spearman, ssim_of_maps, stretched
from sfumato.metrics.randomisation import Randomisation
from sfumato.metrics.stability import Stability
from sfumato.perturbations import Constant

if not hasattr(np, "trapz"):  # Quantus calls it by a name that NumPy has given up
    setattr(np, "trapz", np.trapezoid)  # noqa: B010
quantus = importlib.import_module("quantus")
STEPS = 28
QUIET = {"disable_warnings": True, "abs": False, "normalise": False}


def ask(metric, case, softmax=True, method=None):
    """What a metric of Quantus finds for a case."""
    function = explain_func(method or case.method)
    return metric(
        case.model,
        case.inputs.numpy(),
        np.array([case.target]),
        a_batch=case.map.numpy()[None, None],
        explain_func=function,
        softmax=softmax,
        channel_first=True,
        device="cpu",
    )


class Grey(torch.nn.Module):
    """A network that sees one channel as three: Quantus counts the channels of a place one by one, and we places."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, inputs):
        return self.net(inputs.expand(-1, 3, -1, -1))


def cases():
    """The samples in grey, each explained by a gradient and by Grad-CAM."""
    classifier = sfumato.models.load("lite0")
    net = Grey(classifier.net).eval()
    methods = {
        "gradient": sfumato.Gradient(),
        "Grad-CAM": sfumato.GradCAM(layer=f"net.{classifier.layers['GradCAM']}"),
    }
    for path in sfumato.samples.paths():
        with Image.open(path) as picture:
            inputs = classifier.prepare(picture.convert("L").convert("RGB"))[None].mean(1, keepdim=True)
        with torch.no_grad():
            target = int(net(inputs).argmax())
        for label, method in methods.items():
            found = method(net, inputs, target)
            yield f"{path.stem}, {label}", Case(found, net, inputs, target, method, seed=3)


def pixel_flipping(case):
    """Its curve is that of deletion but for the first point; its area has steps of 1 where ours are shares."""
    row = InsertionDeletion(steps=STEPS, deletion=Constant(), curves=True).measure(case)
    step = case.inputs.numel() // STEPS
    metric = quantus.PixelFlipping(features_in_step=step, perturb_baseline=0.0, **QUIET)
    theirs = np.array(ask(metric, case)).flatten()
    area = quantus.PixelFlipping(features_in_step=step, perturb_baseline=0.0, return_auc_per_sample=True, **QUIET)
    (area,) = ask(area, case)
    first = (row["deletion_curve"][0] + row["deletion_curve"][1]) / 2
    tied = 1 - len(case.map.unique()) / case.map.numel()
    apart = np.abs(theirs - np.array(row["deletion_curve"][1:])).max()
    print(
        f"  deletion {row['deletion']:.6f}, from Quantus' area {(first + area) / STEPS:.6f}; "
        f"curves apart by at most {apart:.1e}; {tied:.1%} of the places repeat a value"
    )


def stability(case):
    """Its LocalLipschitzEstimate and MaxSensitivity, given the same draws of noise."""
    protocol = Stability(draws=5)
    row = protocol.measure(case)

    def metric(kind):
        generator = torch.Generator().manual_seed(case.seed)
        deviation = protocol.noise * float(case.inputs.max() - case.inputs.min())

        def noisy(arr, **_):
            noise = deviation * torch.randn(case.inputs.shape, generator=generator)
            return arr + noise.numpy().reshape(arr.shape)

        return kind(nr_samples=protocol.draws, perturb_func=noisy, **QUIET)

    (quotient,) = ask(metric(quantus.LocalLipschitzEstimate), case, softmax=False)
    (change,) = ask(metric(quantus.MaxSensitivity), case, softmax=False)
    (average,) = ask(metric(quantus.AvgSensitivity), case, softmax=False)
    print(
        f"  quotient {row['quotient']:.6g} and Quantus {quotient:.6g}; largest change {row['change_worst']:.6g} and "
        f"{change:.6g}; mean change {row['change']:.6g} and {average:.6g}"
    )


def forget_alike(network):
    """Let every layer's `reset_parameters` give the same numbers whenever it is called, so that both draw alike."""
    for name, module in network.named_modules():
        if not hasattr(module, "reset_parameters"):
            continue

        def reset(self, seed=zlib.crc32(name.encode())):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                super(type(self), self).reset_parameters()

        module.__class__ = type(f"Alike{type(module).__name__}", (type(module),), {"reset_parameters": reset})


def randomisation(case):
    """Its MPRT, by layer; the network's own layers give both the same random numbers."""
    row = Randomisation().measure(case)
    metric = quantus.MPRT(similarity_func=quantus.similarity_func.correlation_spearman, **QUIET)
    try:
        found = ask(metric, case, softmax=False)
    except AssertionError as error:
        print(f"  {row['constant']} of {row['layers']} maps are constant, and Quantus stops: {error}")
        return
    theirs = {name: float(np.ravel(values)[0]) for name, values in found.items()}
    ours = {key.partition(" ")[2]: value for key, value in row.items() if key.startswith("rank_correlation ")}
    layers = [name for name in theirs if name in ours]
    apart = max(abs(ours[name] - theirs[name]) for name in layers)
    unlike = sorted((set(ours) - {"all"}) ^ (set(theirs) - {"original"}))
    print(
        f"  {len(layers)} layers, mean rank correlation {np.mean([ours[name] for name in layers]):.6f} and Quantus "
        f"{np.mean([theirs[name] for name in layers]):.6f}; apart by at most {apart:.1e}; layers of one alone: {unlike}"
    )


def likeness(case):
    """The two measures of likeness alone, of the map and a noisy one."""
    from skimage.metrics import structural_similarity

    noise = torch.randn(case.map.shape, generator=torch.Generator().manual_seed(0))
    other = case.map + case.map.std() * noise
    theirs = quantus.similarity_func.correlation_spearman(case.map.numpy().flatten(), other.numpy().flatten())
    a, b = stretched(case.map).numpy(), stretched(other).numpy()
    similar = structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    print(
        f"  rank correlation {spearman(case.map, other):.12f} and Quantus {float(theirs):.12f}; "
        f"SSIM {ssim_of_maps(case.map, other):.12f} and scikit-image {similar:.12f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=6, help="how many of the maps are judged")
    count = parser.parse_args().cases
    chosen = list(cases())[:count]
    for compare in (likeness, pixel_flipping, stability):
        print(f"{compare.__name__}: {compare.__doc__}")
        for name, case in chosen:
            start = time.perf_counter()
            print(f" {name}")
            compare(case)
            print(f"  {time.perf_counter() - start:.1f} s")
    print(f"randomisation: {randomisation.__doc__}")
    for index, (name, case) in enumerate(chosen[:3]):
        if not index:
            forget_alike(case.model)  # which all cases share
        print(f" {name}")
        randomisation(case)


if __name__ == "__main__":
    main()
