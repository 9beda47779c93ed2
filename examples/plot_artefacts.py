r"""
Masks or artefacts?
===================

A search for the smallest change that destroys a score finds artefacts if the mask may be arbitrarily fine: scattered dots
that mean nothing to a person, and that disturb only this network at exactly these places. Fong & Vedaldi (ICCV 2017, arXiv
1704.03296, section 4.3) give two remedies: masks that are too smooth to follow artefacts, and jitter, small random moves of
the picture under its mask.

This example uses each remedy alone, then both, and measures their effect: how much of the destroyed score returns if a mask
is moved by two pixels, or made a little softer? A good explanation of the picture should not depend on this.
"""

import matplotlib.pyplot as plt
import torch
from settings import network, photographs, prepared, settings

import sfumato
from sfumato.figures.plots import percent
from sfumato.space.jitter import Move
from sfumato.space.smoothing import gaussian_blur

options = settings(pictures=2, steps=60, area=5)  # the area in percent

# %%
# Four masks of one area
# ----------------------
# In the deletion game, the mask marks what is blurred. The fine masks have a seed every two pixels, and a kernel hardly
# reaches the next seed. The smooth masks have the default lengths of ``SmoothMask``: seeds every 7 pixels, and kernels of 16.

classifier = network("lite0")
pictures = photographs(options.pictures)
inputs, targets = prepared(classifier, pictures)

blur = sfumato.Blur()
fine, smooth = sfumato.SmoothMask(step=2, sigma=2), sfumato.SmoothMask()
variants = {
    "neither": {"mask": fine, "jitter": None},
    "jitter": {"mask": fine, "jitter": sfumato.Jitter()},
    "smooth masks": {"mask": smooth, "jitter": None},
    "both": {"mask": smooth, "jitter": sfumato.Jitter()},
}
results = {}
for name, variant in variants.items():
    method = sfumato.ExtremalPerturbation(
        areas=(options.area / 100,), game="delete", perturbation=blur, steps=options.steps, **variant
    )
    results[name] = method(classifier.net, inputs, targets)

# %%
# The same masks, a little off
# ----------------------------
# A mask destroys :math:`\Phi(x) - \Phi((1 - m) \otimes x)`. The share of it that returns is averaged over shifts by two
# pixels in eight directions. The softer masks are smoothed by a Gaussian of two pixels, which does not change their area.

perturbed = blur(inputs)
whole = results["both"].whole


def left(masks: torch.Tensor) -> torch.Tensor:
    """The logit `(B,)` of the pictures' classes if the places of masks `(B, 1, H, W)` are blurred."""
    with torch.no_grad():
        seen = perturbed(1 - masks, torch.arange(len(inputs)))
        return classifier.net(seen).gather(1, targets[:, None])[:, 0]


directions = [(down, right) for down in (-2, 0, 2) for right in (-2, 0, 2) if down or right]
destroyed, shifted, softer = {}, {}, {}
for name, result in results.items():
    masks = result.masks[:, 0]
    gone = whole - left(masks)
    destroyed[name] = gone / (whole - result.blank)
    shifted[name] = (
        torch.stack([left(Move(direction)(masks)) for direction in directions]).mean(0).sub(left(masks)) / gone
    )
    softer[name] = (left(gaussian_blur(masks, 2)) - left(masks)) / gone

shown = min(3, len(inputs))
figure, panels = plt.subplots(shown, 5, figsize=(11, 2.6 * shown), squeeze=False, layout="constrained")
for query, row in enumerate(panels):
    row[0].imshow(classifier.restore(inputs[query]).permute(1, 2, 0))
    row[0].set_title(pictures[query].name, fontsize=9, weight="bold")
    for axes, (name, result) in zip(row[1:], results.items(), strict=True):
        axes.imshow(1 - result.masks[query, 0, 0], cmap="gray", vmin=0, vmax=1)
        axes.set_title(
            f"{name}\n{percent(round(destroyed[name][query].item(), 2))} destroyed,\n"
            f"{percent(round(shifted[name][query].item(), 2))} of it back 2 px off",
            fontsize=9,
        )
for axes in panels.flat:
    axes.set_xticks([])
    axes.set_yticks([])

# %%
# In numbers
# ----------
# The difference between the whole picture and the blurred one is 100 % of the score. A mask can destroy more than that.


def mean(values: torch.Tensor) -> str:
    """The mean of the pictures' shares `(B,)` and its standard error, in percent."""
    error = f" ± {100 * values.std() / len(values) ** 0.5:.0f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.0f}{error} %"


print(f"{len(inputs)} pictures, EfficientNet-Lite0, deletion masks of {options.area} %, {options.steps} steps; means.")
print("with             destroyed   comes back 2 px off   comes back when softer")
for name in variants:
    print(f"{name:12s}{mean(destroyed[name]):>14s}{mean(shifted[name]):>22s}{mean(softer[name]):>25s}")
