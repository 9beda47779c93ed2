r"""
Side by side with other methods
===============================

Ten methods show what the same network sees of a class: gradients and their variants, methods that read a layer, and methods
that perturb the picture. This is figure 2 of *Understanding deep networks via extremal perturbations and smooth masks*
(Fong, Patrick & Vedaldi, ICCV 2019), with ten methods of this library. All have the same call.

The paper judges maps by eye and by the pointing game. Here people have drawn boxes around the objects, so the example
measures how much of a map lies inside them. A map outside the boxes can still be right about the network, because the
surroundings of an object can speak for its class.
"""

import matplotlib.pyplot as plt
import torch
from PIL import Image, ImageDraw
from settings import SHARED, network, photographs, prepared, settings

import sfumato
from sfumato.figures.plots import percent

options = settings(pictures=3, steps=80, samples=500)

# %%
# Network and pictures
# --------------------
# SqueezeNet has plain rectifiers, for which all these methods are defined as published. The pictures show animals, the first
# 398 classes of ImageNet, which do not fill the picture.

if SHARED.is_dir():
    classifier, last, middle = network("squeezenet1_1"), "features.12", "features.7"
else:
    print("SqueezeNet is not available; EfficientNet-Lite0 is used instead")
    classifier, last, middle = network("lite0"), "head", "blocks.10"
pictures = photographs(options.pictures, lambda entry: entry["label"] < 398 and 0.05 < entry["box_cover"] < 0.3)
inputs, targets = prepared(classifier, pictures)

# %%
# One call for all
# ----------------
# Methods that read a layer use the last one, as Grad-CAM does, or one in the middle. The perturbation of 2017 searches for
# one mask and the extremal one for three, so the former gets three times the steps. It and RISE explain the probability of
# the class, as published; the others explain its logit. With the setting ``score``, all would explain the same.

methods = {
    "gradient": sfumato.Gradient(),
    "deconvnet": sfumato.Deconvnet(),
    "guided backprop": sfumato.GuidedBackprop(),
    "Grad-CAM": sfumato.GradCAM(layer=last),
    "linear approximation": sfumato.LinearApproximation(layer=middle),
    "excitation backprop": sfumato.ExcitationBackprop(layer=middle),
    "contrastive excitation": sfumato.ContrastiveExcitationBackprop(layer=middle),
    "RISE": sfumato.RISE(samples=options.samples),
    "perturbation of 2017": sfumato.MeaningfulPerturbation(steps=3 * options.steps),
    "extremal": sfumato.ExtremalPerturbation(areas=(0.05, 0.1, 0.2), steps=options.steps),
}
maps = {name: method(classifier.net, inputs, targets).map for name, method in methods.items()}

# %%
# Values below 0 speak against the class and are left out. If a map is above 0 everywhere, as that of RISE is, its smallest
# value is subtracted. A blob in the middle, which depends on neither picture nor network, is the baseline.

across = torch.linspace(-1, 1, inputs.shape[-1])
blob = torch.exp(-(across[:, None].square() + across.square()) / (2 * 0.5**2))
maps["the middle"] = blob.expand(len(inputs), 1, -1, -1)
maps = {name: values - values.amin((2, 3), keepdim=True).clamp(min=0) for name, values in maps.items()}
maps = {name: values.clamp(min=0) for name, values in maps.items()}

# %%
# The figure
# ----------

shown = pictures[:3]
figure, cells = plt.subplots(2 * len(shown), 6, figsize=(10, 3.7 * len(shown)), layout="constrained")
for query, photograph in enumerate(shown):
    picture = classifier.restore(inputs[query])
    first, *others = cells[2 * query : 2 * query + 2].flat
    first.imshow(picture.permute(1, 2, 0))
    first.set_title(photograph.name, fontsize=9, weight="bold")
    for axes, (name, values) in zip(others, maps.items(), strict=True):
        heat = values[query, 0] / values[query].quantile(0.995).clamp(min=1e-12)
        axes.imshow(picture.mean(0), cmap="gray", vmin=-0.5, vmax=1)
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=heat.clamp(0, 1).sqrt())
        axes.set_title(name, fontsize=9)
for axes in cells.flat:
    axes.set_axis_off()

# %%
# In numbers
# ----------
# The boxes are painted, and prepared like the pictures, to see which places are inside.


def inside(photograph):
    """1 inside the boxes, 0 outside, as large as the inputs."""
    painted = Image.new("RGB", photograph.picture.size)
    width, height = painted.size
    for left, top, right, bottom in photograph.boxes.tolist():
        ImageDraw.Draw(painted).rectangle((left * width, top * height, right * width, bottom * height), fill="white")
    return classifier.restore(classifier.prepare(painted)).mean(0).round()


answers = classifier.net(inputs).argmax(1)
print(
    f"{len(pictures)} pictures, {classifier.name}, which classifies {int((answers == targets).sum())} of them correctly"
)
boxed = [query for query, photograph in enumerate(pictures) if len(photograph.boxes)]
if boxed:
    places = torch.stack([inside(pictures[query]) for query in boxed])
    print(f"{len(boxed)} with boxes, which cover {percent(places.mean().item())} of the picture on average")
    print("the share of each map inside the boxes, mean ± standard error, and whether its largest value is inside:")
    for name, values in maps.items():
        mass = values[boxed, 0]
        share = ((mass * places).sum((1, 2)) / mass.sum((1, 2))).nan_to_num()
        peak = places.flatten(1).gather(1, mass.flatten(1).argmax(1, keepdim=True))
        error = f" ± {100 * share.std() / len(boxed) ** 0.5:4.1f}" if len(boxed) > 1 else ""
        print(f"{name:23}{100 * share.mean():5.1f}{error} % inside, the peak in {int(peak.sum())} of {len(boxed)}")
else:
    print("no picture has boxes, so the shares of the maps inside them are not measured")
