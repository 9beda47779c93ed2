r"""
The channels of a class
=======================

Figure 10 of the 2019 paper: for each picture of a class the smallest set of channels that keeps 90 % of its score, and
the mean of these sets over the class. A channel that nearly every picture of the class needs says more about the class
than about one picture; what it stands for is seen in the parts of other pictures that excite it most.
"""

from settings import network, pictures_of_a_class, settings

import sfumato

asked = settings(pictures=60, steps=30)
classifier = network("lite0")
target, of_class, others = pictures_of_a_class(asked.pictures)
name = classifier.labels[target].split(",")[0]

# %%
# With `out="folder"` the call would keep what it finds out about each picture, and go on there if it was broken off.
# `among` are pictures of any class in which the channels' examples are looked for.

method = sfumato.ExtremalChannels(layer="head", steps=asked.steps)
found = sfumato.class_channels(method, classifier, of_class, target, keep=0.9, among=others)
figure = sfumato.sheets.of_class(found, title=f"{name}: channels of the last layer")

# %%
# Above each example stands the channel's largest activation in it. What was measured:

needed = (found.mean > 0.99).sum().item()
used = (found.mean > 0).sum().item()
print(f"EfficientNet-Lite0, layer head, {len(found.mean)} channels; {len(found)} pictures of {name!r}")
print(f"each needs {found.counts.min()} to {found.counts.max()} channels to keep 90 % of its score")
print(f"{needed} channels are needed by all, {used} by any")
for path, reason in found.left_out:
    print(f"left out: {path.name}: {reason}")
channels, _ = found.top(5)
own = set(found.pictures)
for channel in channels.tolist():
    crops = found.crops(channel, 5)
    print(
        f"channel {channel}: {sum(crop.path in own for crop in crops)} of its {len(crops)} strongest pictures are of the class"
    )
