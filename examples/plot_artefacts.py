r"""
Masks or artefacts?
===================

Ask for the smallest change that destroys a score, let the mask be as fine as it likes, and what is found are artefacts: a
sprinkle of dots that no eye would pick, which upset this very network at this very place. Fong & Vedaldi (ICCV 2017,
arXiv 1704.03296, section 4.3) give two remedies: masks that are too smooth to trace artefacts, and jitter, small random
moves of the picture beneath its mask.

Here each remedy is taken alone, then both, and what they are worth is measured: how much of the destroyed score comes back
if a mask lies two pixels off, or is drawn a little softer? What explains the picture should not depend on that.
"""

import matplotlib.pyplot as plt
import torch
from settings import network, photographs, prepared, settings

import sfumato
from sfumato.figures.plots import percent
from sfumato.space.jitter import Move
from sfumato.space.smoothing import gaussian_blur

chosen = settings(pictures=2, steps=60, area=5)  # the area in percent

# %%
# Four masks of one area
# ----------------------
# In the deletion game the mask marks what is blurred away. The fine masks have a seed every two pixels, each with a kernel
# that hardly reaches the next; the smooth ones are the default.

classifier = network("lite0")
pictures = photographs(chosen.pictures)
inputs, targets = prepared(classifier, pictures)

blur = sfumato.Blur()
fine, smooth = sfumato.SmoothMask(step=2, sigma=2), sfumato.SmoothMask()
variants = {
    "neither": {"mask": fine, "jitter": None},
    "jitter": {"mask": fine, "jitter": sfumato.Jitter()},
    "smooth masks": {"mask": smooth, "jitter": None},
    "both": {"mask": smooth, "jitter": sfumato.Jitter()},
}
found = {}
for name, variant in variants.items():
    method = sfumato.ExtremalPerturbation(
        areas=(chosen.area / 100,), game="delete", perturbation=blur, steps=chosen.steps, **variant
    )
    found[name] = method(classifier.net, inputs, targets)

# %%
# The same masks, a little off
# ----------------------------
# A mask destroys :math:`\Phi(x) - \Phi((1 - m) \otimes x)`. The share of it that comes back is averaged over shifts by two
# pixels in eight directions; softer masks went through a Gaussian of two pixels, which leaves their area as it is.

perturbed = blur(inputs)
whole = found["both"].whole


def left(masks: torch.Tensor) -> torch.Tensor:
    """The logit `(B,)` of the pictures' classes once what masks `(B, 1, H, W)` mark is blurred."""
    with torch.no_grad():
        seen = perturbed(1 - masks, torch.arange(len(inputs)))
        return classifier.net(seen).gather(1, targets[:, None])[:, 0]


directions = [(down, right) for down in (-2, 0, 2) for right in (-2, 0, 2) if down or right]
destroyed, shifted, softer = {}, {}, {}
for name, result in found.items():
    masks = result.masks[:, 0]
    gone = whole - left(masks)
    destroyed[name] = gone / (whole - result.blank)
    shifted[name] = torch.stack([left(Move(each)(masks)) for each in directions]).mean(0).sub(left(masks)) / gone
    softer[name] = (left(gaussian_blur(masks, 2)) - left(masks)) / gone

shown = min(3, len(inputs))
figure, panels = plt.subplots(shown, 5, figsize=(11, 2.6 * shown), squeeze=False, layout="constrained")
for query, row in enumerate(panels):
    row[0].imshow(classifier.restore(inputs[query]).permute(1, 2, 0))
    row[0].set_title(pictures[query].name, fontsize=9, weight="bold")
    for axes, (name, result) in zip(row[1:], found.items(), strict=True):
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
# Of the score, 100 % is the way from the whole picture to the wholly blurred one: a mask can destroy more than that.


def mean(values: torch.Tensor) -> str:
    """The mean of the pictures' shares `(B,)` and its standard error, in percent."""
    error = f" ± {100 * values.std() / len(values) ** 0.5:.0f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.0f}{error} %"


print(f"{len(inputs)} pictures, EfficientNet-Lite0, deletion masks of {chosen.area} %, {chosen.steps} steps; means.")
print("with             destroyed   comes back 2 px off   comes back when softer")
for name in variants:
    print(f"{name:12s}{mean(destroyed[name]):>14s}{mean(shifted[name]):>22s}{mean(softer[name]):>25s}")
