r"""
The channels of a class
=======================

This is figure 10 of the 2019 paper: for each picture of a class, the smallest set of channels that keeps 90 % of its score,
and the mean of these sets over the class. If nearly every picture of the class needs a channel, the channel belongs to the
class more than to one picture. The parts of other pictures that excite it most show its meaning.
"""

from settings import network, pictures_of_a_class, settings

import sfumato

options = settings(pictures=60, steps=30)
classifier = network("lite0")
target, of_class, others = pictures_of_a_class(options.pictures)
name = classifier.labels[target].split(",")[0]

# %%
# With ``out="folder"``, the call would store the result of each picture, and continue from there after an interruption. It
# searches for the channels' examples in the pictures of ``among``, which may be of any class.

method = sfumato.ExtremalChannels(layer="head", steps=options.steps)
class_channels = sfumato.class_channels(method, classifier, of_class, target, keep=0.9, among=others)
figure = sfumato.sheets.of_class(class_channels, title=f"{name}: channels of the last layer")

# %%
# The number above each example is the channel's largest activation in it. The measurements:

needed = (class_channels.mean > 0.99).sum().item()
used = (class_channels.mean > 0).sum().item()
print(
    f"EfficientNet-Lite0, layer head, {len(class_channels.mean)} channels; {len(class_channels)} pictures of {name!r}"
)
print(f"each needs {class_channels.counts.min()} to {class_channels.counts.max()} channels to keep 90 % of its score")
print(f"{needed} channels are needed by all, {used} by any")
for path, reason in class_channels.left_out:
    print(f"left out: {path.name}: {reason}")
channels, _ = class_channels.top(5)
own = set(class_channels.pictures)
for channel in channels.tolist():
    crops = class_channels.crops(channel, 5)
    print(
        f"channel {channel}: {sum(crop.path in own for crop in crops)} of its {len(crops)} strongest pictures are of the class"
    )
