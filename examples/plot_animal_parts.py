"""
Faces or feet?
==============

From which part of an animal does a network recognise it? Fong & Vedaldi (ICCV 2017, arXiv 1704.03296) compared their masks
with annotated parts. In 76 of 76 classes, faces were more important than feet. Here EfficientNet-Lite0 gets a few pictures
in which both are visible, and its masks have given areas (Fong, Patrick & Vedaldi, ICCV 2019). Single pictures are counted,
and they vary more than classes. A second experiment needs no mask: how does the probability of the class change if the
face, or the feet, are blurred?
"""

import json
from inspect import getfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from settings import SHARED, network, photographs, prepared, settings

import sfumato

options = settings(pictures=6, steps=30)

# %%
# Where the parts are
# -------------------
# The boxes were drawn by eye. They are in ``animal_parts.json``, beside this script. A face is one box, feet are several.

parts = json.loads(Path(getfile(photographs)).with_name("animal_parts.json").read_text(encoding="utf-8"))["pictures"]
real = (SHARED / "imagenet-val-dev").is_dir()
names = [name for name in parts if name.endswith(".JPEG") == real][: options.pictures]
pictures = [photographs(1, lambda entry: entry["file"] == name)[0] for name in names]
faces = [parts[name]["face"] for name in names]
feet = [parts[name].get("feet") or parts[name]["fur"] for name in names]
other = "feet" if real else "fur"
if not real:
    print("There are no pictures of whole animals. The sample Chelsea shows no feet: forehead and cheek replace them.")

classifier = network("lite0")
inputs, targets = prepared(classifier, pictures)
height, width = inputs.shape[2:]


def inside(boxes: list[list[float]]) -> torch.Tensor:
    """A region `(1, H, W)`: 1 within the boxes, 0 elsewhere."""
    region = torch.zeros(1, height, width)
    for left, top, right, bottom in boxes:
        region[:, round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1
    return region


regions = {
    "face": torch.stack([inside(boxes) for boxes in faces]),
    other: torch.stack([inside(boxes) for boxes in feet]),
}

# %%
# What the masks say
# ------------------
# A map is the mean of the masks of two areas. Its mean within a region, divided by its mean in the whole picture, is 1 for
# a map without information. Places are hidden by the blur of 2017: the picture is blended with a picture blurred by ten
# pixels.

blur = sfumato.Blur(max_sigma=10, levels=2)
maps, value = {}, {}
for game in ("preserve", "delete"):
    method = sfumato.ExtremalPerturbation(areas=(0.05, 0.15), game=game, perturbation=blur, steps=options.steps)
    maps[game] = method(classifier.net, inputs, targets).map
    for part, region in regions.items():
        within = (maps[game] * region).sum((1, 2, 3)) / region.sum((1, 2, 3))
        value[game, part] = within / maps[game].mean((1, 2, 3))

# %%
# What the network says
# ---------------------
# Now the same blur hides only the boxes.

blurred, query, left = blur(inputs), torch.arange(len(inputs)), {}
with torch.no_grad():
    for part, region in {"nothing": torch.zeros(len(inputs), 1, height, width), **regions}.items():
        left[part] = classifier.net(blurred(1 - region, query)).softmax(1)[query, targets]

# %%
# The figure
# ----------
# The masks of the deletion game are bright. Red boxes are faces, blue boxes are feet. On the right, each line is a picture.

shown = min(len(pictures), 6)
columns = min(shown, 3)
figure = plt.figure(figsize=(2.3 * columns + 4.4, 2.6 * -(-shown // columns)), layout="constrained")
sheet, dots = figure.subfigures(1, 2, width_ratios=(2.3 * columns, 4.4))
cells = sheet.subplots(-(-shown // columns), columns, squeeze=False).flat
for axes in cells:
    axes.set_axis_off()
for query, axes in enumerate(sheet.axes[:shown]):
    axes.imshow(classifier.restore(inputs[query]).mean(0), cmap="gray", vmin=-0.3, vmax=1)
    axes.imshow(maps["delete"][query, 0], cmap="inferno", alpha=maps["delete"][query, 0].clamp(max=0.8).numpy())
    axes.set_title(pictures[query].name, fontsize=9)
    for boxes, colour in ((faces[query], "tab:red"), (feet[query], "tab:blue")):
        for x0, y0, x1, y1 in boxes:
            place = (x0 * width, y0 * height), (x1 - x0) * width, (y1 - y0) * height
            axes.add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=1.6))
pairs = {f"map, {game}": [value[game, part] for part in regions] for game in maps}
pairs["probability,\nblurred"] = [left[part] for part in regions]
for axes, (title, pair) in zip(dots.subplots(1, 3), pairs.items(), strict=True):
    axes.plot([0, 1], torch.stack(pair), color="0.6", linewidth=1)
    for place, (values, colour) in enumerate(zip(pair, ("tab:red", "tab:blue"), strict=True)):
        axes.scatter([place] * len(values), values, color=colour, zorder=3, s=22)
    axes.set(xlim=(-0.4, 1.4), ylim=(0, None), xticks=(0, 1), xticklabels=("face", other))
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)

# %%
# In numbers
# ----------
# Faces are higher in pictures than feet. So the same numbers are computed for the mean map of all the *other* pictures. They
# show the effect of where photographers put animals. The difference to a picture's own map is the effect of the network.

print(f"{len(pictures)} picture(s), EfficientNet-Lite0, {options.steps} steps")
for game, game_maps in maps.items():
    print(f"the game {game!r}; the mean of a map over the picture is 1")
    for part in regions:
        values = value[game, part]
        error = f" ± {values.std() / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
        print(f"  in the {part} it is {values.mean():.2f}{error}")
    print(
        f"  the face has more than the {other} in {int((value[game, 'face'] > value[game, other]).sum())} of {len(game_maps)}"
    )
    if len(game_maps) > 1:
        others = (game_maps.sum(0) - game_maps) / (len(game_maps) - 1)
        face, rest = ((others * region).sum((1, 2, 3)) / region.sum((1, 2, 3)) for region in regions.values())
        face, rest = face / others.mean((1, 2, 3)), rest / others.mean((1, 2, 3))
        print(f"  the mean map of the other pictures: {face.mean():.2f} in the face, {rest.mean():.2f} in the {other},")
        print(f"  more in the face in {int((face > rest).sum())} of {len(game_maps)}")
print(f"the probability of the class is {left['nothing'].mean():.2f} on average")
for part, region in regions.items():
    print(f"  with the {part} blurred, {region.mean():.1%} of the picture, {left[part].mean():.2f}")
print(f"  blurring the face costs more in {int((left['face'] < left[other]).sum())} of {len(pictures)}")
