r"""
Growing areas
=============

What is the most that a network can be shown of its class in a twentieth of a picture, in a tenth, in a fifth? For each
area :math:`a` there is one extremal perturbation: the smooth mask of mean :math:`a` under which the score :math:`\Phi` of
the class is largest,

.. math:: m_a = \arg\max_{m : \lVert m \rVert_1 = a |\Omega|} \Phi(m \otimes x).

This is figure 1 of *Understanding deep networks via extremal perturbations and smooth masks* (Fong, Patrick & Vedaldi,
ICCV 2019): the same picture with masks of growing area, and all that they hide in black.
"""

import matplotlib.pyplot as plt
from settings import network, photographs, prepared, settings

import sfumato
from sfumato.figures.plots import percent, shares

chosen = settings(pictures=3, steps=80)

# %%
# One call for all pictures and areas
# -----------------------------------
# Every picture is explained for its own class. Each of the masks is sought by its own ascent; all go through the network
# as one batch. Pictures that are filled by the object would say little, so those with boxes drawn around it are taken
# where these cover between a tenth and two fifths.

classifier = network("lite0")
pictures = photographs(chosen.pictures, lambda annotation: 0.1 < annotation["box_cover"] < 0.4)
inputs, targets = prepared(classifier, pictures)

method = sfumato.ExtremalPerturbation(areas=(0.05, 0.1, 0.2, 0.4, 0.6), steps=chosen.steps)
result = method(classifier.net, inputs, targets)
kept = shares(result)

# %%
# The figure
# ----------
# The network saw a blur where these pictures are black. Over each stands the share of the score that the mask keeps, on
# the way from the wholly blurred picture (0 %) to the whole one (100 %). More than 100 % means that what is hidden spoke
# against the class.

shown = pictures[:6]
figure, rows = plt.subplots(
    len(shown), 1 + len(method.areas), figsize=(10, 2.2 * len(shown)), squeeze=False, layout="constrained"
)
figure.get_layout_engine().set(h_pad=0.06)
for row, query, photograph in zip(rows, range(len(shown)), shown, strict=True):
    picture = classifier.restore(inputs[query])
    row[0].imshow(picture.permute(1, 2, 0))
    row[0].set_title(photograph.name, fontsize=9, weight="bold")
    for axes, mask, area, share in zip(row[1:], result.masks[query], method.areas, kept[query].tolist(), strict=True):
        axes.imshow((picture * mask).permute(1, 2, 0))
        axes.set_title(f"area {percent(area)}\nkeeps {percent(round(share, 2))}", fontsize=9)
for axes in rows.flat:
    axes.set_axis_off()

# %%
# In numbers
# ----------
# The areas achieved are the means of the masks over the picture. A mask contains a smaller one if the smaller one nowhere
# shows much more; nothing in the method asks for it.

print(f"{len(pictures)} pictures, EfficientNet-Lite0, {chosen.steps} steps")
for place, area in enumerate(method.areas):
    achieved, share = result.achieved[:, place], kept[:, place]
    spread = f", standard error {percent((share.std() / len(share) ** 0.5).item())}" if len(share) > 1 else ""
    print(
        f"area {percent(area)}: achieved {achieved.min():.4f} to {achieved.max():.4f}, "
        f"keeps {percent(share.mean().item())} of the score{spread}"
    )
for place in range(len(method.areas) - 1):
    smaller, larger = result.masks[:, place], result.masks[:, place + 1]
    inside = (smaller.minimum(larger).flatten(1).sum(1) / smaller.flatten(1).sum(1)).mean().item()
    names = [percent(area) for area in method.areas[place : place + 2]]
    print(f"{percent(round(inside, 2))} of the mask of area {names[0]} lies within that of area {names[1]}")
