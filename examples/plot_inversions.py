r"""
What a layer retains
====================

This is figure 9 of the 2019 paper. It searches for a picture whose activations at a layer are those of a photograph,

.. math:: \hat I = \arg\min_I \lVert m \otimes \Phi_l(x) - \Phi_l(I) \rVert^2 ,

with all channels (:math:`m = 1`), with those that the class needs, and with the others. The first picture shows what the
network retains of the photograph at that depth. The second shows the part on which the class depends.
"""

import matplotlib.pyplot as plt
import torch
from settings import network, photographs, prepared, settings

import sfumato

options = settings(pictures=2, steps=60)
classifier = network("lite0")
photos = photographs(options.pictures)
inputs, targets = prepared(classifier, photos)
preparation = classifier.preparation
colours = {"mean": preparation.mean, "std": preparation.std}

# %%
# Deeper and deeper
# -----------------
# The same photographs from layers of growing depth.

layers = ("blocks.2", "blocks.5", "blocks.10", "head")
depths = {}
for layer in layers:
    activations = sfumato.activations(classifier.net, layer, inputs)
    depths[layer] = sfumato.invert(classifier.net, layer, activations, steps=options.steps, **colours)


def rows(columns: dict[str, torch.Tensor]) -> plt.Figure:
    """A row for each photograph: the photograph, then its picture in each column."""
    shown, places = plt.subplots(
        len(photos),
        1 + len(columns),
        figsize=(2.2 * (1 + len(columns)), 2.3 * len(photos)),
        squeeze=False,
        layout="constrained",
    )
    for row, picture in enumerate(classifier.restore(inputs)):
        for place, (title, pictures) in zip(places[row], {photos[row].name: None, **columns}.items(), strict=True):
            place.imshow((picture if pictures is None else pictures[row]).permute(1, 2, 0))
            place.set_axis_off()
            if row == 0 or pictures is None:
                place.set_title(title, fontsize=9)
    return shown


figure_depths = rows({layer: inversion.pictures for layer, inversion in depths.items()})

# %%
# With the channels of the class, and without
# -------------------------------------------

layer, count = "blocks.10", 25
method = sfumato.ExtremalChannels(layer=layer, counts=(count,), steps=options.steps)
masks = method(classifier.net, inputs, targets).masks[:, 0]
activations = sfumato.activations(classifier.net, layer, inputs)
wanted = {
    "all": activations,
    f"{count} of {masks.shape[1]}": masks * activations,
    "the others": (1 - masks) * activations,
}
parts = {
    name: sfumato.invert(classifier.net, layer, part, steps=options.steps, **colours) for name, part in wanted.items()
}
figure_parts = rows({name: inversion.pictures for name, inversion in parts.items()})

# %%
# The measurements: the relative error of the activations, and what the network recognises in each inversion.

for name, inversion in (depths | parts).items():
    with torch.no_grad():
        probabilities = classifier.net(inversion.inputs).softmax(1)
    right = int((probabilities.argmax(1) == targets).sum())
    print(f"{name}: error {inversion.errors.mean():.3f}, the class comes first in {right} of {len(photos)}")
