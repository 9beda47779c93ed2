r"""
Randomising the weights
=======================

If a network changes, its explanation should change, too. Adebayo et al. (*Sanity checks for saliency maps*, NeurIPS 2018,
arXiv 1810.03292) replace the weights by random ones, from the last layer down, and compare the maps with those of the
trained network. Fong, Patrick & Vedaldi (ICCV 2019, figure 7) apply this test to extremal perturbations.

Here the test is applied to extremal perturbations, Grad-CAM and guided backpropagation. Maps are compared by the rank
correlation of their values: 1 for the same order of all places, 0 for unrelated orders.
"""

from copy import deepcopy
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from settings import SHARED, network, photographs, prepared, settings
from torch import Tensor, nn

import sfumato

options = settings(pictures=2, steps=40)

# %%
# A network, more and more of it random
# -------------------------------------
# Each stage is a copy of the network in which more of the last layers are random. The new weights are drawn from a normal
# distribution with the mean and the standard deviation of the layer's own weights, so signals keep about their size.

if (SHARED / "zoo.py").is_file():
    classifier, layer = network("squeezenet1_1"), "features.12"
else:
    print("SqueezeNet 1.1 is not available; EfficientNet-Lite0 is used instead.")
    classifier = network("lite0")
    layer = classifier.layers["GradCAM"]
pictures = photographs(options.pictures)
inputs, _ = prepared(classifier, pictures)
with torch.no_grad():
    targets = classifier.net(inputs).argmax(1)  # the class to explain, also for the changed networks

layers = [name for name, module in classifier.net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def randomised(count: int) -> nn.Module:
    """A copy of the network whose last `count` layers are random."""
    net = deepcopy(classifier.net)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in reversed(layers[len(layers) - count :]):
            for weight in net.get_submodule(name).parameters():
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(weight.mean() + weight.std(correction=0) * noise)
    return net


depths = {"no layer": 0, "the last": 1, "a quarter": len(layers) // 4, "half": len(layers) // 2, "all": len(layers)}

# %%
# The maps at every stage
# -----------------------
# The search for extremal perturbations uses random jitter, so even the trained network has another map for another seed.
# The rank correlation of these two maps is the largest value to expect.

extremal = sfumato.ExtremalPerturbation(areas=(0.05, 0.2), steps=options.steps)
cam, guided = sfumato.GradCAM(layer=layer), sfumato.GuidedBackprop()
methods = {"extremal": extremal, "Grad-CAM": cam, "guided backprop": guided}
maps = {}
for stage, count in depths.items():
    net = randomised(count)
    for name, method in methods.items():
        maps[name, stage] = method(net, inputs, targets).map
again = replace(extremal, seed=1)(classifier.net, inputs, targets).map


def ranks(values: Tensor) -> Tensor:
    """The ranks of `(n,)` values, in growing order; equal values have the mean of their ranks."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - count / 2).double()[place]


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """The rank correlation `(B,)` of maps `(B, 1, H, W)`; 0 for a map without contrast."""
    pairs = zip(first.flatten(1), second.flatten(1), strict=True)
    return torch.stack([torch.stack([ranks(one), ranks(other)]).corrcoef()[0, 1] for one, other in pairs]).nan_to_num()


correlation = {(name, stage): spearman(values, maps[name, "no layer"]) for (name, stage), values in maps.items()}
ceiling = spearman(again, maps["extremal", "no layer"])

# %%
# The figure
# ----------
# Maps of the first picture. The colours of each map go from 0 to its 99.5 % quantile. Below is the mean correlation with the
# map of the trained network.

figure = plt.figure(figsize=(10, 8.5), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(3, 1.5))
for row, name in zip(above.subplots(len(methods), 1 + len(depths)), methods, strict=True):
    row[0].imshow(classifier.restore(inputs[0]).permute(1, 2, 0))
    row[0].set_ylabel(name)
    for axes, stage in zip(row[1:], depths, strict=True):
        shown = maps[name, stage][0, 0]
        axes.imshow(shown, cmap="inferno", vmin=0, vmax=shown.quantile(0.995).item())
        axes.set_title(f"{stage} random\n{correlation[name, stage][0]:.2f}", fontsize=9)
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])
curves = below.subplots()
for name in methods:
    curves.plot([correlation[name, stage].mean().item() for stage in depths], marker="o", label=name)
curves.axhline(ceiling.mean().item(), color="grey", linestyle=":", label="extremal, another seed")
curves.set_xticks(range(len(depths)), [f"{stage}\n({count} of {len(layers)})" for stage, count in depths.items()])
curves.set_xlabel("layers that are random, from the last down")
curves.set_ylabel("rank correlation")
curves.legend(fontsize=9, frameon=False)
curves.spines[["top", "right"]].set_visible(False)

# %%
# In numbers
# ----------


def mean(values: Tensor) -> str:
    """The mean of the pictures' correlations `(B,)`, and its standard error."""
    return f"{values.mean():.2f}" + (f" ± {values.std() / len(values) ** 0.5:.2f}" if len(values) > 1 else "")


print(
    f"{len(inputs)} pictures, {classifier.name}, {options.steps} steps; rank correlation with the trained network's map"
)
print("random layers   " + "".join(f"{stage:>15s}" for stage in depths))
for name in methods:
    print(f"{name:16s}" + "".join(f"{mean(correlation[name, stage]):>15s}" for stage in depths))
print(f"Extremal maps of the trained network with another seed: {mean(ceiling)}.")
