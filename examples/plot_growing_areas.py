r"""
Growing areas
=============

How much of a class can a network see in a twentieth of a picture, in a tenth, in a fifth? For each area :math:`a` there is
one extremal perturbation: of all masks of area :math:`a` with smooth outlines, the one with the largest score :math:`\Phi`
of the class,

.. math:: m_a = \arg\max_{m : \lVert m \rVert_1 = a |\Omega|} \Phi(m \otimes x).

This is figure 1 of *Understanding deep networks via extremal perturbations and smooth masks* (Fong, Patrick & Vedaldi,
ICCV 2019): the same picture with masks of growing area, and the hidden places in black. The masks of the paper are half
transparent in part; here they are sets, the default of the library.
"""

import matplotlib.pyplot as plt
from settings import network, photographs, prepared, settings

import sfumato
from sfumato.figures.plots import percent, worth

options = settings(pictures=3, steps=80)

# %%
# One call for all pictures and areas
# -----------------------------------
# Every picture is explained for its own class. One search finds the masks of all areas, from the largest to the smallest.
# All pictures go through the network in one batch. A picture that its object fills would show little, so only pictures are
# used whose boxes cover between a tenth and two fifths of them.

classifier = network("lite0")
pictures = photographs(options.pictures, lambda annotation: 0.1 < annotation["box_cover"] < 0.4)
inputs, targets = prepared(classifier, pictures)

method = sfumato.ExtremalPerturbation(areas=(0.05, 0.1, 0.2, 0.4, 0.6), steps=options.steps)
result = method(classifier.net, inputs, targets)
values = worth(result)

# %%
# The figure
# ----------
# Where these pictures are black, the network saw a blur, and in a second pass the mean colour. The title of each says
# what the mask is worth: 0 % is the score of the hidden picture, 100 % that of the whole picture. More than
# 100 % means that the hidden places speak against the class.

shown = pictures[:6]
figure, rows = plt.subplots(
    len(shown), 1 + len(method.areas), figsize=(10, 2.2 * len(shown)), squeeze=False, layout="constrained"
)
figure.get_layout_engine().set(h_pad=0.06)
for row, query, photograph in zip(rows, range(len(shown)), shown, strict=True):
    picture = classifier.restore(inputs[query])
    row[0].imshow(picture.permute(1, 2, 0))
    row[0].set_title(photograph.name, fontsize=9, weight="bold")
    for axes, mask, area, value in zip(row[1:], result.masks[query], method.areas, values[query].tolist(), strict=True):
        axes.imshow((picture * mask).permute(1, 2, 0))
        axes.set_title(f"area {percent(area)}\nworth {percent(round(value, 2))}", fontsize=9)
for axes in rows.flat:
    axes.set_axis_off()

# %%
# In numbers
# ----------
# The achieved areas are the means of the masks over the picture. The last lines say how much of a mask lies within the next
# larger one. The method does not force a larger mask to contain a smaller one.

print(f"{len(pictures)} pictures, EfficientNet-Lite0, {options.steps} steps")
for place, area in enumerate(method.areas):
    achieved, value = result.achieved[:, place], values[:, place]
    spread = f", standard error {percent((value.std() / len(value) ** 0.5).item())}" if len(value) > 1 else ""
    print(
        f"area {percent(area)}: achieved {achieved.min():.4f} to {achieved.max():.4f}, "
        f"worth {percent(value.mean().item())}{spread}"
    )
for place in range(len(method.areas) - 1):
    smaller, larger = result.masks[:, place], result.masks[:, place + 1]
    inside = (smaller.minimum(larger).flatten(1).sum(1) / smaller.flatten(1).sum(1)).mean().item()
    names = [percent(area) for area in method.areas[place : place + 2]]
    print(f"{percent(round(inside, 2))} of the mask of area {names[0]} lies within that of area {names[1]}")
