r"""
Why a maximum and not a convolution
===================================

A mask has a value at every place, but only a few parameters: seeds on a coarse lattice. A smooth kernel :math:`k` with
:math:`k(0) = 1` spreads each seed over its surroundings. *Understanding deep networks via extremal perturbations and smooth
masks* (Fong, Patrick & Vedaldi, ICCV 2019, section 3.2 and figure 4) combines the spread seeds by a maximum,

.. math:: m(u) = \max_v k(u - v)\, \bar m(v),

and replaces it by a smooth maximum of temperature :math:`T`, which is differentiable. This figure shows, along a line, what
a convolution would do instead. Its curves are computed by :class:`sfumato.SmoothMask`, which works along one axis, too.
"""

import matplotlib.pyplot as plt
import torch
from settings import settings

import sfumato
from sfumato.masks.smooth import kernel

options = settings(places=224, step=7, sigma=16)
TEMPERATURES = (1, 5, 20)  # the last one is the library's default

# %%
# Seeds
# -----
# There is one seed alone at full height, then two equal seeds near each other, a high seed with a low one on its slope, and
# one seed alone at half height. They lie at nodes of the mask's lattice. The lattice is centred on the input, and has one
# node beyond each end.

family = sfumato.SmoothMask(step=options.step, sigma=options.sigma)
(count,) = family.on((options.places,)).size
nodes = (torch.arange(count) - (count - 1) / 2) * options.step + (options.places - 1) / 2

seeds = torch.zeros(count)
for share, height in ((0.14, 1.0), (0.38, 0.7), (0.44, 0.7), (0.63, 0.9), (0.69, 0.4), (0.88, 0.5)):
    seeds[round(share * (count - 1))] = height
planted = seeds > 0

# %%
# Three ways to join them
# -----------------------
# The value that a seed gives to a place is the kernel at their distance, in units of :math:`\sigma`, times the height of
# the seed. A convolution sums these values. Its kernel must be divided by its sum, so that a lattice of ones gives a mask of
# ones; otherwise the mask would exceed one. The maximum needs no such choice.

places = torch.arange(options.places)
distances = (places[:, None] - nodes).abs() / options.sigma
spread = kernel(distances) * seeds  # (places, nodes)

undivided = spread.sum(1)
convolution = (spread / kernel(distances).sum(1, keepdim=True)).sum(1)
maximum = spread.amax(1)
smooth = {
    temperature: sfumato.SmoothMask(options.step, options.sigma, temperature).on((options.places,))(
        seeds.view(1, 1, -1)
    )
    for temperature in TEMPERATURES
}

# %%
# The figure
# ----------

figure, rows = plt.subplots(4, 1, figsize=(8, 8), sharex=True, sharey=True, layout="constrained")
titles = ("seeds, and what each spreads", "convolution", "maximum", "smooth maximum: the library's masks")
for axes, title in zip(rows, titles, strict=True):
    axes.vlines(nodes[planted], 0, seeds[planted], color="0.6", linewidth=1)
    axes.plot(nodes[planted], seeds[planted], "o", color="0.4", markersize=4)
    axes.axhline(1, color="0.85", linewidth=1, zorder=0)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
rows[0].plot(places, spread[:, planted], color="0.6", linewidth=1)
rows[1].plot(places, undivided, color="#33658a", linestyle=":", label="kernel as it is")
rows[1].plot(places, convolution, color="#33658a", label="kernel divided by its sum")
rows[2].plot(places, maximum, color="#b5402a")
for (temperature, mask), colour in zip(smooth.items(), ("#f0b49a", "#b5402a", "#5a1a10"), strict=True):
    rows[3].plot(places, mask.flatten(), color=colour, label=f"T = {temperature}")
for axes in (rows[1], rows[3]):
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98))
rows[3].set_xlabel("place")
rows[3].set_xlim(0, options.places - 1)

# %%
# In numbers
# ----------
# The table gives the height of every curve at the seeds. A maximum keeps the height of each seed, unless the kernel of a
# higher one covers it, and never exceeds the highest seed. The library's mask is a spline: the smooth maximum at the nodes
# gives its control points. So it has no kinks between seeds.

curves = {"convolution, divided": convolution, "convolution, undivided": undivided, "maximum": maximum}
curves |= {f"smooth maximum, T = {temperature}": mask.flatten() for temperature, mask in smooth.items()}
at = nodes[planted].round().long()
print(f"{'':24}  at the seeds{'':25}  highest")
print(f"{'seeds':24}", *(f"{height:6.2f}" for height in seeds[planted]), f"{seeds.max():8.2f}")
for name, curve in curves.items():
    print(f"{name:24}", *(f"{height:6.2f}" for height in curve[at]), f"{curve.max():8.2f}")
