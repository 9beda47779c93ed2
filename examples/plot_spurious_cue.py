"""
A racket named by its player
============================

A mask can show that a network is right for a wrong reason. The example of Fong & Vedaldi (ICCV 2017, arXiv 1704.03296) is
"chocolate sauce", for which the mask covered a spoon. Here EfficientNet-Lite0, trained on ImageNet, gets photographs of
tennis from another collection, COCO, with boxes around rackets and players. It predicts "racket". Is the racket the reason?

There are two tests. Where is an extremal mask (Fong, Patrick & Vedaldi, ICCV 2019) for the class? And how does the
probability of the class change if the racket, or the player, is blurred?
"""

import json

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from PIL import Image
from settings import SHARED, network, settings

import sfumato

options = settings(pictures=6, steps=50)
classifier = network("lite0")

# %%
# A thing and what goes with it
# -----------------------------
# Boxes are left, top, right and bottom as fractions of a picture. The example uses the pictures with a racket and a player
# for which the network predicts "racket". Without these photographs, it asks about the sample of an espresso: is the coffee
# the reason, or the cup?

folder = SHARED / "coco-val-free"
if folder.is_dir():
    thing, cue, target = "racket", "player", classifier.labels.index("racket, racquet")
    scenes = []
    for entry in json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["images"]:
        size = torch.tensor([entry["width"], entry["height"]] * 2)
        boxes = {
            part: [(torch.tensor(box["xyxy"]) / size).tolist() for box in entry["boxes"] if box["name"] == name]
            for part, name in {thing: "tennis racket", cue: "person"}.items()
        }
        if boxes[thing] and boxes[cue]:
            picture = Image.open(folder / "images" / entry["file"]).convert("RGB")
            scenes.append((picture, boxes, f"{entry['flickr_url']} ({entry['license']})"))
else:
    print("There are no photographs of tennis: the example compares coffee and cup in the sample of an espresso.")
    thing, cue, target = "coffee", "cup", 967
    boxes = {thing: [[0.34, 0.24, 0.62, 0.49]], cue: [[0.28, 0.04, 0.69, 0.62]]}
    scenes = [(Image.open(sfumato.samples.path("coffee")).convert("RGB"), boxes, "")]

inputs = torch.stack([classifier.prepare(picture) for picture, _, _ in scenes])
with torch.no_grad():
    named = classifier.net(inputs).argmax(1) == target
print(
    f"{int(named.sum())} of {len(scenes)} pictures with {thing} and {cue} are classified as {classifier.labels[target]!r}"
)
scenes = [scene for scene, kept in zip(scenes, named, strict=True) if kept]
inputs = inputs[named]
height, width = inputs.shape[2:]


def inside(part: str) -> torch.Tensor:
    """Regions `(B, 1, H, W)`: 1 within the boxes and three places around them, 0 elsewhere."""
    region = torch.zeros(len(scenes), 1, height, width)
    for query, (_, boxes, _) in enumerate(scenes):
        for left, top, right, bottom in boxes[part]:
            rows = slice(max(0, round(top * height) - 3), round(bottom * height) + 3)
            columns = slice(max(0, round(left * width) - 3), round(right * width) + 3)
            region[query, :, rows, columns] = 1
    return region


# %%
# Blurring one or the other
# -------------------------
# The racket stays visible where it overlaps the player. A player is larger than a racket, so the large blur alone may reduce
# the probability. For comparison, the boxes of the player are also shifted by half the picture, and blurred there.

things = inside(thing)
cues = inside(cue) * (1 - things)
elsewhere = cues.roll((height // 2, width // 2), (2, 3)) * (1 - things)
views = {
    "the whole picture": torch.ones_like(things),
    f"the {thing} blurred": 1 - things,
    f"the {cue} blurred": 1 - cues,
    "as much elsewhere": 1 - elsewhere,
    f"only the {thing}": things,
    f"only the {cue}": cues,
    "only both": things + cues,
    "neither": 1 - things - cues,
}
blurred = sfumato.Blur()(inputs)
with torch.no_grad():
    answers = {
        view: classifier.net(blurred(mask, torch.arange(len(inputs)))).softmax(1) for view, mask in views.items()
    }

# %%
# What a mask of a tenth shows
# ----------------------------
# The masks preserve the class. In a mask without information, the share of a region is its share of the picture.

some = slice(options.pictures)
result = sfumato.ExtremalPerturbation(areas=(0.1,), steps=options.steps)(classifier.net, inputs[some], target)
regions = {thing: things, cue: cues, "rest": 1 - things - cues}
shares = {
    part: (result.map * region[some]).sum((1, 2, 3)) / result.map.sum((1, 2, 3)) for part, region in regions.items()
}

# %%
# The figure
# ----------
# The thing is red, its companion is blue, and the mask is bright. The titles give the probability of the class.

shown = min(len(result), 4)
figure, rows = plt.subplots(shown, 4, figsize=(9, 2.4 * shown), squeeze=False, layout="constrained")
for query, row in enumerate(rows):
    seen = [blurred(views[view][query : query + 1], torch.tensor([query])) for view in list(views)[:3]]
    pictures = [classifier.restore(perturbed)[0].permute(1, 2, 0) for perturbed in seen]
    for axes, view, picture in zip(row[[0, 2, 3]], views, pictures, strict=False):
        axes.imshow(picture)
        axes.set_title(f"{view}: {answers[view][query, target]:.0%}", fontsize=9)
    for part, colour in ((thing, "tab:red"), (cue, "tab:blue")):
        for left, top, right, bottom in scenes[query][1][part]:
            place = (left * width, top * height), (right - left) * width, (bottom - top) * height
            row[0].add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=1.4))
    row[1].imshow(pictures[0].mean(2), cmap="gray", vmin=-0.3, vmax=1)
    row[1].imshow(result.map[query, 0], cmap="inferno", alpha=result.map[query, 0].clamp(max=0.8).numpy())
    row[1].set_title("the mask", fontsize=9)
for axes in rows.flat:
    axes.set_axis_off()


# %%
# All pictures together: each line is a picture.

figure_all, axes = plt.subplots(figsize=(7, 3), layout="constrained")
probabilities = torch.stack([answers[view][:, target] for view in list(views)[:4]])
axes.plot(probabilities, color="0.7", linewidth=1)
axes.plot(probabilities.quantile(0.5, dim=1), color="tab:red", linewidth=2.5, label="median")
axes.set(xticks=range(4), xticklabels=list(views)[:4], ylim=(0, 1), ylabel="probability of the class")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=9)

# %%
# In numbers
# ----------
# What a class needs and what suffices for it are two questions. The lines with "only" and "neither" are about the second.

print(f"{len(scenes)} picture(s), EfficientNet-Lite0")
for view, answer in answers.items():
    kept = int((answer.argmax(1) == target).sum())
    print(f"{view}: median probability {answer[:, target].quantile(0.5):.2f}, named so in {kept} of {len(scenes)}")
print(f"masks of {result.achieved.mean():.0%} for {len(result)} picture(s), {options.steps} steps")
for part, share in shares.items():
    error = f" ± {share.std() / len(share) ** 0.5:.0%}" if len(share) > 1 else ""
    print(f"in the {part}, {regions[part][some].mean():.0%} of the picture: {share.mean():.0%}{error} of the mask")
if links := [link for _, _, link in scenes[:shown] if link]:
    print("The photographs shown:", *links, sep="\n")
