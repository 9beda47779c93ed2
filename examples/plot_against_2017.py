r"""
Against the masks of 2017
=========================

The masks of *Interpretable explanations of black boxes by meaningful perturbation* (Fong & Vedaldi, ICCV 2017) balance
three terms: the score, the area, and how rugged the mask is. Their area depends on the weights of these terms. In
*Understanding deep networks via extremal perturbations and smooth masks* (Fong, Patrick & Vedaldi, ICCV 2019) the area is a
setting, and figure 6 compares its masks with the older ones.

To compare two masks of different area, something else must be equal. Here it is the score: which area does an extremal
perturbation need to keep the same probability of the class as the older mask, with the same blur?
"""

import math

import matplotlib.pyplot as plt
import torch
from settings import network, photographs, prepared, settings

import sfumato
from sfumato.figures.plots import percent

options = settings(pictures=2, steps=100)

# %%
# What the masks of 2017 keep
# ---------------------------
# This is the preservation game, with the weights that were published for localisation, because they give smaller masks. The
# search starts from a mask that shows everything.

classifier = network("lite0")
pictures = photographs(options.pictures)
inputs, targets = prepared(classifier, pictures)

blur = sfumato.Blur()
older = sfumato.MeaningfulPerturbation.localisation(
    game="preserve", perturbation=blur, start="ones", steps=options.steps
)(classifier.net, inputs, targets)
areas, wanted = older.achieved[:, 0], older.scores[:, 0]

# %%
# Extremal perturbations that keep as much
# ----------------------------------------
# The score is the logarithm of the probability. It orders masks in the same way, but it has a useful gradient also where
# everything is blurred.
#
# The search uses three shares of the older mask's area. The area of equal probability is interpolated between the first
# area that keeps as much and the one before it. The older masks have cells of 8 pixels, smoothed by a Gaussian of 5 pixels.
# Kernels of width 8 make masks that are about as fine. Masks with the default width of ``SmoothMask``, 16, are smoother. One of
# them is searched at the older mask's area, to see what the smoothness costs.

fine, smooth = sfumato.SmoothMask(sigma=8), sfumato.SmoothMask()
shares = torch.tensor([0.6, 0.8, 1.0])
matched, finer, smoother = [], [], []
for query, target in enumerate(targets.tolist()):
    logarithm = sfumato.Output(lambda outputs: outputs.log_softmax(1)[:, target])
    one = inputs[query : query + 1]
    tried = (shares * areas[query]).tolist()
    extremal = {
        mask: sfumato.ExtremalPerturbation(areas=tuple(sought), perturbation=blur, mask=mask, steps=options.steps)
        for mask, sought in ((fine, tried), (smooth, tried[-1:]))
    }
    finer.append(extremal[fine](classifier.net, one, logarithm))
    smoother.append(extremal[smooth](classifier.net, one, logarithm))

    lead = (finer[query].scores[0] - wanted[query].log()).tolist()
    first = next((place for place, difference in enumerate(lead) if difference >= 0), None)
    if first is None:
        matched.append(math.nan)
    elif first == 0:
        matched.append(tried[0])
    else:
        below, above = tried[first - 1], tried[first]
        matched.append(above - (above - below) * lead[first] / (lead[first] - lead[first - 1]))

# %%
# The figure
# ----------
# Where the pictures are black, the network saw a blur. The titles give the mask's area and the probability that it keeps.
# The fine mask is the smallest one that keeps as much as the older mask, or the largest one if none does.

shown = min(4, len(inputs))
figure, rows = plt.subplots(shown, 4, figsize=(9, 2.5 * shown), squeeze=False, layout="constrained")
for query, row in enumerate(rows):
    picture = classifier.restore(inputs[query])
    enough = (finer[query].scores[0] >= wanted[query].log()).tolist()
    place = enough.index(True) if any(enough) else -1
    masks = {
        "2017": (older.masks[query, 0], wanted[query]),
        "extremal, as fine": (finer[query].masks[0, place], finer[query].scores[0, place].exp()),
        "extremal, smoother": (smoother[query].masks[0, 0], smoother[query].scores[0, 0].exp()),
    }
    row[0].imshow(picture.permute(1, 2, 0))
    row[0].set_title(f"{pictures[query].name}\n{percent(older.whole[query].item())} probable", fontsize=9)
    for axes, (name, (mask, probability)) in zip(row[1:], masks.items(), strict=True):
        axes.imshow((picture * mask).permute(1, 2, 0))
        axes.set_title(
            f"{name}\narea {percent(mask.mean().item())}, {percent(probability.item())} probable", fontsize=9
        )
for axes in rows.flat:
    axes.set_axis_off()

# %%
# In numbers
# ----------

count = len(inputs)
area = torch.tensor(matched)
reached = area.isfinite()
ratio = (area / areas)[reached]
kept = torch.stack([result.scores[0, 0].exp() for result in smoother])
print(f"{count} pictures, EfficientNet-Lite0, {options.steps} steps for each method, blur of up to 20 pixels.")
print(f"The masks of 2017: mean area {percent(areas.mean().item())}, mean probability {percent(wanted.mean().item())}.")
print(f"Extremal masks of the same fineness need at most that area in {reached.sum()} of {count} pictures.")
if reached.any():
    means = percent(area[reached].mean().item()), percent(areas[reached].mean().item())
    error = f" ± {ratio.std() / len(ratio) ** 0.5:.2f}" if len(ratio) > 1 else ""
    print(f"  There their mean area is {means[0]}, and that of the masks of 2017 is {means[1]};")
    print(f"  the mean ratio is {ratio.mean():.2f}{error}.")
    if (bounds := (ratio < shares[0] + 1e-4).sum()) > 0:
        print(
            f"  In {bounds} of these, the smallest ratio of the search, {shares[0]:.1f}, suffices and counts as the ratio."
        )
print(f"Smoother masks with the area of those of 2017 keep a mean probability of {percent(kept.mean().item())},")
print(f"  and at least as much as those in {(kept >= wanted).sum()} of {count} pictures.")
