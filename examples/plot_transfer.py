r"""
Does a mask hold under another perturbation?
============================================

A search for a mask uses one perturbation: a blur, a grey, noise. If the mask shows what the network needs, and not just an
effect of this perturbation, then it should keep the score, or destroy it, with other perturbations, too. Fong & Vedaldi
(ICCV 2017, arXiv 1704.03296) demand this of an explanation: it should generalise to perturbations that it was not learnt
with.

Here masks are learnt with each of four perturbations, and judged with all four.
"""

import matplotlib.pyplot as plt
import torch
from PIL import Image
from settings import network, photographs, prepared, settings

import sfumato
from sfumato.figures.plots import percent

options = settings(pictures=2, steps=40, area=10)  # the area in percent

# %%
# Four ways to hide a place
# -------------------------
# Inputs are normalised. So zero is the mean colour, a grey, and noise of standard deviation 1 has about the contrast of a
# picture.

classifier = network("lite0")
pictures = photographs(options.pictures)
inputs, targets = prepared(classifier, pictures)
white = classifier.prepare(Image.new("RGB", (8, 8), "white"))[:, 0, 0]
perturbations = {
    "blur": sfumato.Blur(),
    "fade to grey": sfumato.Fade(),
    "white": sfumato.Constant(tuple(white.tolist())),
    "noise": sfumato.Noise(std=1.0),
}

# %%
# Masks of one area, learnt with each
# -----------------------------------
# In the preservation game, the mask shows what keeps the score. In the deletion game, it hides what the score needs. Both
# have the same area. The baseline is a disc in the middle, where photographers put things; it was learnt with none of them.

height, width = inputs.shape[2:]
across = torch.linspace(-0.5, 0.5, height)[:, None] ** 2 + torch.linspace(-0.5, 0.5, width) ** 2
disc = (across <= across.quantile(options.area / 100)).float().expand(len(inputs), 1, height, width)

learnt = {}
for game in ("preserve", "delete"):
    for name, perturbation in perturbations.items():
        method = sfumato.ExtremalPerturbation(
            areas=(options.area / 100,), game=game, perturbation=perturbation, steps=options.steps
        )
        learnt[game, name] = method(classifier.net, inputs, targets).masks[:, 0]
    learnt[game, "a disc"] = disc

# %%
# Judged with each
# ----------------
# A share of the score is 0 % for the picture that the judging perturbation hides completely, and 100 % for the whole one.
# It can be more if the hidden places speak against the class.


def score(perturbation: sfumato.perturbations.Perturbation, masks: torch.Tensor) -> torch.Tensor:
    """The logit `(B,)` of the pictures' classes in what masks `(B, 1, H, W)` show."""
    with torch.no_grad():
        seen = perturbation(inputs)(masks, torch.arange(len(inputs)))
        return classifier.net(seen).gather(1, targets[:, None])[:, 0]


rows = [*perturbations, "a disc"]
effect = {game: torch.zeros(len(rows), len(perturbations), len(inputs)) for game in ("preserve", "delete")}
for column, judge in enumerate(perturbations.values()):
    whole, blank = score(judge, torch.ones_like(disc)), score(judge, torch.zeros_like(disc))
    for row, name in enumerate(rows):
        kept, left = score(judge, learnt["preserve", name]), score(judge, 1 - learnt["delete", name])
        effect["preserve"][row, column] = (kept - blank) / (whole - blank)
        effect["delete"][row, column] = (whole - left) / (whole - blank)

figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
titles = {"preserve": "share of the score that the mask keeps", "delete": "share that goes with what it covers"}
for axes, (game, shares) in zip(panels, effect.items(), strict=True):
    mean = shares.mean(2)
    axes.imshow(mean, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for row in range(len(rows)):
        for column in range(len(perturbations)):
            style = {
                "weight": "bold" if row == column else "normal",
                "color": "white" if mean[row, column] > 0.7 else "black",
            }
            axes.text(column, row, percent(round(mean[row, column].item(), 2) + 0.0), ha="center", va="center", **style)
    axes.set_xticks(range(len(perturbations)), perturbations, rotation=20)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("judged with")
    axes.set_title(f"{game}: {titles[game]}", fontsize=10)
panels[0].set_ylabel("learnt with")

# %%
# In numbers
# ----------
# On the diagonal, a mask is judged with the perturbation that it was learnt with; elsewhere, with another one.

print(f"{len(inputs)} pictures, EfficientNet-Lite0, masks of {options.area} % of the picture, {options.steps} steps.")
same = torch.eye(len(perturbations), dtype=torch.bool)


def average(values: torch.Tensor) -> str:
    """The mean of the pictures' shares `(B,)` and its standard error, in percent."""
    error = f" ± {100 * values.std() / len(values) ** 0.5:.0f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.0f}{error} %"


for game, shares in effect.items():
    own, others, nobody = shares[:-1][same].mean(0), shares[:-1][~same].mean(0), shares[-1].mean(0)
    best = sum(mean[:-1].argmax() == column for column, mean in enumerate(shares.mean(2).T))
    print(
        f"{game}: {average(own)} under the perturbation that the mask was learnt with, {average(others)} under the others;"
    )
    print(f"  the disc, under all of them: {average(nobody)}.")
    print(f"  The mask learnt with the judge is the best of the four for {best} of {len(perturbations)} judges.")
