"""Figures show the picture in its own shape: masks and maps are laid over the part that the network saw."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import plots
from sfumato.attribution import Attribution
from sfumato.figures.scene import LARGEST, scene
from sfumato.models import Classifier, Preparation

pytest.importorskip("matplotlib", reason="figures need matplotlib")


def classifier(**settings):
    return Classifier("toy", torch.nn.Identity(), Preparation(mean=(0.5,) * 3, std=(0.5,) * 3, **settings), ("one",))


def picture(width, height):
    """Red grows from left to right, green from top to bottom."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


CROPS = {"size": 32, "resize": 40}
SQUASHES = {"size": 32, "resize": None}
KEEPS = {"size": None, "resize": 32}


@pytest.mark.parametrize("settings", [CROPS, SQUASHES, KEEPS], ids=["crops", "squashes", "keeps"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (50, 50), (20, 12), (300, 40)])
def test_what_the_network_saw_lies_where_it_was_in_the_picture(settings, size):
    """The input itself, laid over the picture, agrees with the picture."""
    net, image = classifier(**settings), picture(*size)
    seen = net.restore(net.prepare(image))
    view = scene(image, seen.shape[1:], net)
    laid = view.lay(seen[None], outside=-1)[0]
    inside = laid[0] >= 0
    difference = (laid - view.picture).abs().amax(0)[inside]
    assert float(difference.quantile(0.9)) < 0.05, "but for the border, where neighbours are missing"
    assert inside.all() == (not view.is_cropped)


def test_a_picture_keeps_its_shape_and_its_pixels():
    net, image = classifier(**SQUASHES), picture(90, 60)
    view = scene(image, (32, 32), net)
    assert view.picture.shape == (3, 60, 90)
    assert torch.equal((255 * view.picture).round().byte(), torch.from_numpy(np.array(image)).movedim(-1, 0))


def test_a_large_picture_is_reduced_and_a_small_one_is_as_large_as_the_input():
    net = classifier(**SQUASHES)
    assert scene(picture(3 * LARGEST, 2 * LARGEST), (32, 32), net).picture.shape == (3, 2 * LARGEST // 3, LARGEST)
    assert scene(picture(8, 16), (32, 32), net).picture.shape == (3, 64, 32)


def test_only_what_the_network_saw_has_a_mask():
    view = scene(picture(80, 40), (32, 32), classifier(**CROPS))
    laid = view.lay(torch.ones(1, 1, 32, 32))[0, 0]
    left, top, right, bottom = view.window
    assert float(laid.mean()) == pytest.approx((right - left) * (bottom - top) / (80 * 40), rel=0.05)
    assert laid[:, 0].sum() == laid[0].sum() == 0


def result(size=(32, 32)):
    masks = torch.zeros(1, 1, 1, *size)
    masks[..., 8:24, 8:24] = 1
    return Attribution(
        map=masks[:, 0], masks=masks, scores=torch.ones(1, 1), whole=torch.ones(1) * 2, blank=torch.zeros(1)
    )


def test_a_figure_has_the_picture_s_shape():
    net, image = classifier(**CROPS), picture(90, 60)
    for figure in (
        plots.figure(result(), image, classifier=net),
        plots.overview([result()], [image], ["a"], net),
        plots.comparison([result()], image, ["a"], classifier=net),
    ):
        shapes = {drawn.get_array().shape[:2] for axes in figure.axes for drawn in axes.images}
        assert shapes == {(60, 90)}
        first = figure.axes[0]
        assert first.get_title() in (
            "the picture;\ndashed: what the network sees",
            "the picture;\ndashed: what the network sees\nworth 100 % (score 2)",
            "worth 100 % (score 2)",
        )
        assert first.lines, "the dashed line"
    figure = plots.figure(result(), image, classifier=net)
    on_black = torch.as_tensor(figure.axes[2].images[0].get_array())
    assert (on_black[0] == 0).all()
    assert (on_black[30, 45] > 0).any(), "the middle of the picture is in the mask"


def test_the_input_itself_needs_no_frame():
    figure = plots.figure(result(), torch.rand(3, 32, 32), classifier=classifier(**CROPS))
    assert figure.axes[0].get_title() == "the input\nworth 100 % (score 2)"
    assert not figure.axes[0].lines


def test_a_picture_of_another_size_needs_the_classifier():
    with pytest.raises(ValueError, match=r"32 × 32 pixels; got 60 × 90.*give classifier=…, which prepared it"):
        plots.figure(result(), picture(90, 60))


def test_the_perturbed_picture_is_what_the_network_saw():
    """In the window; beyond it there is nothing."""
    about = {"method": {"class": "a:B"}, "perturbation": {"class": "sfumato:Fade"}}
    net, image = classifier(**CROPS), picture(80, 40)
    figure = plots.figure(replace(result(), about=about), image, classifier=net)
    seen = torch.as_tensor(figure.axes[3].images[0].get_array())
    assert (seen[:, 0] == 1).all()
    torch.testing.assert_close(
        seen[20, 26], torch.full((3,), 0.5), atol=0.02, rtol=0
    )  # hidden: the mean of the network


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_of_a_picture_that_is_a_strip_only_the_input_is_shown(size):
    net = classifier(**CROPS)
    view = scene(Image.new("RGB", size, "red"), (32, 32), net)
    assert (view.picture.shape, view.is_input, view.is_cropped) == ((3, 32, 32), True, False)
    torch.testing.assert_close(view.picture, torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 32, 32))
