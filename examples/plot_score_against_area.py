r"""
Score against area
==================

The larger the part of a picture that a mask shows, the higher the score of this part should be. The larger the part that it
hides, the lower the score of the rest should be. The first is the preservation game, the second the deletion game:

.. math::
    \max_m \Phi(m \otimes x) \quad \text{and} \quad \max_m -\Phi((1 - m) \otimes x)
    \quad \text{over masks with} \quad \lVert m \rVert_1 = a |\Omega|.

This is figure 3 of *Understanding deep networks via extremal perturbations and smooth masks* (Fong, Patrick & Vedaldi,
ICCV 2019), which plots both scores against the area :math:`a`. In the paper, the score grows with the area for almost every
picture. Nothing in the search forces this.
"""

import matplotlib.pyplot as plt
import torch
from settings import network, photographs, prepared, settings

import sfumato
from sfumato.figures.plots import percent

options = settings(pictures=4, steps=40)
AREAS = (0.05, 0.1, 0.2, 0.4, 0.7)
TOLERANCE = 0.01  # of the probability, or of the difference between the blurred picture and the whole one

# %%
# Two games
# ---------
# ``scores`` of a result are the scores of what each mask keeps, ``complements`` the scores of the rest.

classifier = network("lite0")
pictures = photographs(options.pictures)
inputs, targets = prepared(classifier, pictures)

blur = sfumato.Blur()
preserve = sfumato.ExtremalPerturbation(areas=AREAS, game="preserve", steps=options.steps, perturbation=blur)
delete = sfumato.ExtremalPerturbation(areas=AREAS, game="delete", steps=options.steps, perturbation=blur)
kept = preserve(classifier.net, inputs, targets)
deleted = delete(classifier.net, inputs, targets)

# %%
# Two measures
# ------------
# The search uses the logit, which has no natural zero. So the figure shows its share: 0 is the blurred picture, 1 the whole
# one. Beside it is the softmax probability of the same perturbed pictures, which the search did not use. The share exceeds 1
# if the hidden places speak against the class. It is below 0 if the remaining places do.

logits = {
    "kept": torch.cat([kept.blank[:, None], kept.scores, kept.whole[:, None]], 1),
    "left": torch.cat([deleted.whole[:, None], deleted.complements, deleted.blank[:, None]], 1),
}
span = (kept.whole - kept.blank)[:, None]
shares = {name: (values - kept.blank[:, None]) / span for name, values in logits.items()}

probability = sfumato.Probability(targets)
perturbed = blur(inputs)
ends = torch.zeros_like(kept.masks[:, :1])
masks = {"kept": torch.cat([ends, kept.masks, ends + 1], 1), "left": 1 - torch.cat([ends, deleted.masks, ends + 1], 1)}
probabilities = {name: torch.empty_like(values) for name, values in shares.items()}
for name, curves in probabilities.items():
    for picture in range(len(inputs)):
        query = torch.full((curves.shape[1],), picture)
        with torch.no_grad():
            curves[picture] = probability(classifier.net(perturbed(masks[name][picture], query)), query)

# %%
# The figure
# ----------

figure, columns = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
areas = [0, *(100 * area for area in AREAS), 100]
words = {"kept": "what the mask keeps", "left": "what is left without it"}
titles = ("share of the score", "softmax probability")
for axes, curves, title in zip(columns, (shares, probabilities), titles, strict=True):
    for name, colour in (("kept", "#b5402a"), ("left", "#33658a")):
        axes.plot(areas, curves[name].T, color=colour, linewidth=0.8, alpha=0.4)
        axes.plot(areas, curves[name].mean(0), color=colour, linewidth=2.5, marker="o", label=words[name])
    axes.axhline(1, color="0.8", linewidth=1, zorder=0)
    axes.axhline(0, color="0.8", linewidth=1, zorder=0)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("area of the mask (% of the picture)")
    axes.spines[["top", "right"]].set_visible(False)
columns[1].legend(frameon=False, fontsize=9)

# %%
# In numbers
# ----------
# A curve counts as monotone if no area between the ends is worse than the one before it by more than the tolerance.

number = len(pictures)
print(f"{number} pictures, EfficientNet-Lite0, {options.steps} steps a mask, means ± standard errors")
for place, area in enumerate(AREAS, start=1):
    texts = []
    for name, verb in (("kept", "keeps"), ("left", "leaves")):
        share, chance = shares[name][:, place], probabilities[name][:, place]
        error = f" ± {100 * share.std() / number**0.5:.1f}" if number > 1 else ""
        texts.append(f"{verb} {100 * share.mean():.1f}{error} % of the score, probability {chance.mean():.2f}")
    print(f"area {percent(area)}: {'; '.join(texts)}")
for name, sign, game in (("kept", 1, "preservation"), ("left", -1, "deletion")):
    for measure, curves in (("share of the score", shares), ("probability", probabilities)):
        worst = (sign * curves[name][:, 1:-1]).diff(dim=1).amin(1)
        monotone = int((worst >= -TOLERANCE).sum())
        setback = max(0.0, -worst.min().item())
        print(f"{game}: {measure} monotone within {TOLERANCE} in {monotone} of {number}, largest setback {setback:.3f}")
