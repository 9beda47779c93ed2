"""
Where the wrong class of an adversarial picture is
==================================================

A change that nobody can see makes a network predict another class. Where does it see that class? Fong & Vedaldi (ICCV
2017, arXiv 1704.03296) explained the wrong class of such pictures, and blurred the places that the masks cover. In the
paper, about 40 % of the pictures were then classified correctly again. Here the masks have a given area (Fong, Patrick &
Vedaldi, ICCV 2019), so other regions of the same area can be blurred for comparison.
"""

import matplotlib.pyplot as plt
import torch
from settings import network, photographs, prepared, settings
from torch import Tensor
from torch.nn.functional import cross_entropy

import sfumato
from sfumato.space.smoothing import gaussian_blur

options = settings(pictures=8, steps=40)
AREA = 0.3

# %%
# The attack
# ----------
# The attack makes ten signed gradient steps of one grey level (of 255) towards the least likely class. It stays within four
# levels of the picture. The network is used as a function of RGB, so that a step is one level of a pixel.

classifier = network("lite0")
pictures = photographs(options.pictures)
inputs, targets = prepared(classifier, pictures)
mean, std = (torch.tensor(values).view(3, 1, 1) for values in (classifier.preparation.mean, classifier.preparation.std))


def model(rgb: Tensor) -> Tensor:
    """Logits of pictures with values in [0, 1]."""
    return classifier.net((rgb - mean) / std)


clean = classifier.restore(inputs)
with torch.no_grad():
    wrong = model(clean).argmin(1)
adversarial = clean
for _ in range(10):
    adversarial = adversarial.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(adversarial), wrong, reduction="sum"), adversarial)
    adversarial = adversarial - gradient.sign() / 255
    adversarial = adversarial.clamp(clean - 4 / 255, clean + 4 / 255).clamp(0, 1).detach()


def named(rgb: Tensor) -> Tensor:
    """The class that the network finds most likely, `(B,)`."""
    with torch.no_grad():
        return model(rgb).argmax(1)


print(f"EfficientNet-Lite0 names {int((named(adversarial) == wrong).sum())} of {len(pictures)} as the attack wants it")
fooled = (named(clean) == targets) & (named(adversarial) == wrong)
clean, adversarial, targets, wrong = clean[fooled], adversarial[fooled], targets[fooled], wrong[fooled]

# %%
# Two explanations and places without meaning
# -------------------------------------------
# In the deletion game, a mask covers what a class needs. There is one mask for the wrong class in the adversarial picture,
# and one for the true class in the clean picture. The baseline is the mask of the wrong class, mirrored and moved to random
# places. The blur is that of 2017: the picture is blended with a picture blurred by ten pixels.

blur = sfumato.Blur(max_sigma=10, levels=2)
method = sfumato.ExtremalPerturbation(areas=(AREA,), game="delete", perturbation=blur, steps=options.steps)
covers = {
    "the mask of the wrong class": method(model, adversarial, wrong).masks[:, 0],
    "the mask of the true class on the clean picture": method(model, clean, targets).masks[:, 0],
}
generator = torch.Generator().manual_seed(0)
shifts = torch.randint(clean.shape[-1], (10, 2), generator=generator).tolist()
moved = [covers["the mask of the wrong class"].flip(3).roll(shift, (2, 3)) for shift in shifts]

# %%
# Blurring them
# -------------
# Each mask is blurred in the adversarial picture, with the same blur as in the search.

perturbed = blur(adversarial)
query = torch.arange(len(clean))
blurred = {what: perturbed(1 - mask, query) for what, mask in covers.items()}
recovered = {what: (named(picture) == targets).float() for what, picture in blurred.items()}
recovered["the mask of the wrong class elsewhere (mean of ten places)"] = torch.stack(
    [(named(perturbed(1 - mask, query)) == targets).float() for mask in moved]
).mean(0)

# %%
# The figure
# ----------
# The title of a picture is the class that the network predicts, in green if it is correct. The title of a mask is the class
# that it deletes: the true class in the clean picture, the wrong class in the adversarial one. The difference is enlarged
# fifteen times, and grey means no difference.

shown = min(len(clean), 4)
repaired = blurred["the mask of the wrong class"]
figure, rows = plt.subplots(shown, 6, figsize=(12, 2.3 * shown), squeeze=False, layout="constrained")
for query, row in enumerate(rows):
    right, fake = (classifier.labels[int(classes[query])].split(",")[0] for classes in (targets, wrong))
    difference = 0.5 + 15 * (adversarial[query] - clean[query])
    columns = (clean[query], difference, adversarial[query], clean[query], adversarial[query], repaired[query])
    for axes, picture in zip(row, columns, strict=True):
        axes.imshow(picture.clamp(0, 1).permute(1, 2, 0))
        axes.set_axis_off()
    for axes, what, colour in zip(row[3:5], reversed(covers), ("tab:green", "tab:red"), strict=True):
        mask = covers[what][query, 0]
        axes.imshow(torch.zeros_like(mask), cmap="gray", alpha=0.6 * (1 - mask).numpy())
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)
    for axes, picture in zip(row[[0, 2, 5]], (clean, adversarial, repaired), strict=True):
        predicted = int(named(picture[query : query + 1]))
        colour = "tab:green" if predicted == targets[query] else "tab:red"
        axes.set_title(classifier.labels[predicted].split(",")[0][:24], fontsize=9, color=colour)
    for axes, head in zip(
        row[[1, 3, 4]], ("difference × 15", f"mask: {right}"[:28], f"mask: {fake}"[:28]), strict=True
    ):
        axes.set_title(head, fontsize=9)

# %%
# In numbers
# ----------
# A picture is recovered if the most likely class is the true one again. To see how fragile the attack is, the whole
# adversarial picture is also blurred by one pixel.

slightly = named(gaussian_blur(adversarial, 1)) == targets
print(
    f"{len(clean)} were named rightly before and wrongly after; {options.steps} steps, masks of {AREA:.0%} of the picture"
)
for what, hits in recovered.items():
    print(f"blurring {what} recovers {hits.sum():g} of {len(hits)} ({hits.mean():.0%})")
print(f"blurring all of it by one pixel recovers {int(slightly.sum())} of {len(clean)}")
wrongly, rightly = covers.values()
shared = torch.minimum(wrongly, rightly).mean() / AREA
moved_shared = torch.stack([torch.minimum(mask, rightly).mean() for mask in moved]).mean() / AREA
print(f"the two masks share {shared:.0%} of their area, after one has been moved {moved_shared:.0%}")
