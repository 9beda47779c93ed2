r"""
Against the masks of 2017
=========================

The masks of *Interpretable explanations of black boxes by meaningful perturbation* (Fong & Vedaldi, ICCV 2017) balance
three terms: the score, the area, and how rugged the mask is. How large they come out is left to the weights of the terms.
*Understanding deep networks via extremal perturbations and smooth masks* (Fong, Patrick & Vedaldi, ICCV 2019) takes the
area as given, and sets its masks beside the older ones in figure 6.

To compare two masks of different size, one thing has to be the same. Here it is the score: what area does an extremal
perturbation need to keep the class as probable as the older mask does, under the same blur?
"""

import math

import matplotlib.pyplot as plt
import torch
from settings import network, photographs, prepared, settings

import sfumato
from sfumato.figures.plots import percent

chosen = settings(pictures=2, steps=100)

# %%
# What the masks of 2017 keep
# ---------------------------
# The preservation game, with the weights that were published for localisation, which make the tighter masks. They begin by
# showing everything.

classifier = network("lite0")
pictures = photographs(chosen.pictures)
inputs, targets = prepared(classifier, pictures)

blur = sfumato.Blur()
older = sfumato.MeaningfulPerturbation.localisation(
    game="preserve", perturbation=blur, start="ones", steps=chosen.steps
)(classifier.net, inputs, targets)
areas, wanted = older.achieved[:, 0], older.scores[:, 0]

# %%
# Extremal perturbations that keep as much
# ----------------------------------------
# A probability has no slope to climb where all is blurred, but its logarithm has, and both order masks alike.
#
# Masks are sought at three shares of the older mask's area, and the area of the same probability is interpolated between
# the first that keeps as much and the one before. The older masks are drawn in cells of 8 pixels, smoothed by a Gaussian of
# 5: kernels of width 8 make masks about as fine. Those of the default width, 16, are smoother. One of them is sought at the
# older mask's area, to see what the smoothness costs.

fine, smooth = sfumato.SmoothMask(sigma=8), sfumato.SmoothMask()
shares = torch.tensor([0.6, 0.8, 1.0])
matched, finer, smoother = [], [], []
for query, target in enumerate(targets.tolist()):
    logarithm = sfumato.Output(lambda outputs: outputs.log_softmax(1)[:, target])
    one = inputs[query : query + 1]
    tried = (shares * areas[query]).tolist()
    extremal = {
        mask: sfumato.ExtremalPerturbation(areas=tuple(sought), perturbation=blur, mask=mask, steps=chosen.steps)
        for mask, sought in ((fine, tried), (smooth, tried[-1:]))
    }
    finer.append(extremal[fine](classifier.net, one, logarithm))
    smoother.append(extremal[smooth](classifier.net, one, logarithm))

    lead = (finer[query].scores[0] - wanted[query].log()).tolist()
    first = next((place for place, each in enumerate(lead) if each >= 0), None)
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
# Where the pictures are black, the network saw a blur. Over each stand the mask's area and the probability that it keeps.
# The fine mask is the smallest tried that keeps as much as the older one, or the largest tried if none does.

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
kept = torch.stack([found.scores[0, 0].exp() for found in smoother])
print(f"{count} pictures, EfficientNet-Lite0, {chosen.steps} steps of either method, blur of up to 20 pixels.")
print(f"The masks of 2017: mean area {percent(areas.mean().item())}, mean probability {percent(wanted.mean().item())}.")
print(f"Extremal masks as fine keep as much within that area in {reached.sum()} of {count} pictures.")
if reached.any():
    means = percent(area[reached].mean().item()), percent(areas[reached].mean().item())
    error = f" ± {ratio.std() / len(ratio) ** 0.5:.2f}" if len(ratio) > 1 else ""
    print(f"  There the mean area is {means[0]}, where those of 2017 take {means[1]};")
    print(f"  the mean ratio is {ratio.mean():.2f}{error}.")
    if (bounds := (ratio < shares[0] + 1e-4).sum()) > 0:
        print(
            f"  In {bounds} of these the least ratio that was tried, {shares[0]:.1f}, is enough, and counts as the ratio."
        )
print(f"Smoother ones of the area of those of 2017 keep a mean probability of {percent(kept.mean().item())},")
print(f"  and as much as those in {(kept >= wanted).sum()} of {count} pictures.")
