r"""
How many channels a class needs
===============================

This is figure 8 of the 2019 paper: the channels of a layer that a class needs, as an overlay
:math:`\sum_k m_k \Phi_k(x)` on the picture, and the score against the number of channels. In the paper, about 25 channels
can suffice. Here a mask is a set of channels: each channel is kept or hidden.
"""

import matplotlib.pyplot as plt
from settings import network, photographs, prepared, settings

import sfumato

options = settings(pictures=4, steps=60)
classifier = network("lite0")
photos = photographs(options.pictures)
inputs, targets = prepared(classifier, photos)

# %%
# One picture
# -----------
# The sheet shows the overlay of the largest set, the curve, and the channels that weigh most. The curve has the scores of
# 1, 2, 5, 10 channels and so on up to all. Then the search finds the smallest set that keeps 90 % of the score, between two
# of these numbers.

method = sfumato.ExtremalChannels(layer="head", steps=options.steps)
result = method(classifier.net, inputs[:1], targets[:1])
smallest = sfumato.smallest(method, classifier.net, inputs[:1], targets[:1], keep=0.9)
figure = sfumato.sheets.channels(result, classifier.restore(inputs[0]), found=smallest, title=photos[0].name)

# %%
# Several pictures, several layers
# --------------------------------
# The same for every picture, at layers of growing depth. A score is a share: 0 is the score with all channels hidden, 1 the
# score with all channels.

layers = {"blocks.10": 112, "blocks.14": 192, "head": 1280}
curves = {}
for layer in layers:
    method = sfumato.ExtremalChannels(layer=layer, steps=options.steps)
    curves[layer] = sfumato.smallest(method, classifier.net, inputs, targets, keep=0.9)

figure_curves, axes = plt.subplots(1, len(layers), figsize=(11, 3.4), sharey=True)
for place, (layer, curve) in zip(axes, curves.items(), strict=True):
    whole, none = curve.attribution.whole[:, None], curve.attribution.blank[:, None]
    shares = (curve.curve_scores - none) / (whole - none)
    counts = (curve.curve_areas * layers[layer]).round()
    place.plot(counts, shares.T, color="#b5402a", alpha=0.35, linewidth=1)
    place.plot(counts, shares.mean(0), color="#b5402a", linewidth=2.5)
    place.axhline(1, color="#8a8a8a", linewidth=1)
    place.set(xscale="log", title=f"{layer}, {layers[layer]} channels", xlabel="channels kept")
axes[0].set_ylabel("share of the score")
figure_curves.tight_layout()

# %%
# The measurements:


print(f"EfficientNet-Lite0, {len(photos)} pictures, sets of channels that keep 90 % of the score (logit):")
for layer, curve in curves.items():
    counts = curve.count[curve.reached]
    best = curve.curve_scores.max(1).values / curve.attribution.whole
    print(
        f"- {layer}: {counts.min()} to {counts.max()} of {layers[layer]} channels, median {counts.median()}; "
        f"the best set keeps {best.mean():.2f} times the whole score, better than all channels in "
        f"{int((best > 1).sum())} of {len(photos)}"
    )
