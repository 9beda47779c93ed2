"""Figures of clips and volumes: which frames they show, and where the outlines are."""

import pytest
import torch

import sfumato
from sfumato import Attribution, plots
from sfumato.figures.slices import chosen, frames

pytest.importorskip("matplotlib", reason="figures need matplotlib")


def result(space=(12, 16, 20), **more):
    """A result with two masks: a block in frames 3 to 8, and a larger one."""
    masks = torch.zeros(1, 2, 1, *space)
    masks[0, 0, 0, 3:9, 4:8, 5:15] = 1
    masks[0, 1, 0, 2:10, 2:12, 3:17] = 1
    return Attribution(masks.mean(1), masks=masks, achieved=masks.flatten(2).mean(2), **more)


def pictures_of(figure):
    """The first picture and the outlines of each axes, row by row."""
    return [(axes.images[0].get_array(), [line.get_linewidth() for line in axes.collections]) for axes in figure.axes]


def test_frames_are_spread_evenly():
    assert chosen(16, 8) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert chosen(100, 4) == [12, 37, 62, 87]
    assert chosen(5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("form", ["DHW", "CDHW", "DHWC", "batch"])
def test_all_forms_of_a_volume_show_the_same(form):
    volume = torch.rand(12, 16, 20)
    given = {"DHW": volume, "CDHW": volume[None], "DHWC": volume[..., None], "batch": volume[None, None]}[form]
    torch.testing.assert_close(frames(given, (12, 16, 20)), volume[:, None].expand(-1, 3, -1, -1))


def test_values_of_a_scan_get_the_range_of_a_picture():
    scan = torch.linspace(-1000, 3000, 8).view(2, 2, 2)
    torch.testing.assert_close(frames(scan, (2, 2, 2))[:, 0], torch.linspace(0, 1, 8).view(2, 2, 2))


def test_a_row_for_the_input_and_one_for_each_mask(tmp_path):
    clip = torch.rand(3, 12, 16, 20)
    figure = plots.figure(result(), clip, title="a clip")
    axes = figure.axes
    indices = chosen(12)
    assert len(axes) == 3 * len(indices)
    assert [one.get_title() for one in axes[: len(indices)]] == [f"index {index}" for index in indices]
    for one, index in zip(axes, indices, strict=False):
        torch.testing.assert_close(torch.tensor(one.images[0].get_array()), clip[:, index].movedim(0, -1))
    outlined = [bool(one.collections) for one in axes[len(indices) : 2 * len(indices)]]
    assert outlined == [3 <= index < 9 for index in indices]  # and nowhere else
    words = [text.get_text() for text in figure.texts]
    assert words[:2] == ["a clip", "the input"]
    assert words[2].startswith("area 6.2 %")
    plots.save(figure, tmp_path / "clip.png")
    assert (tmp_path / "clip.png").stat().st_size > 10_000


def test_maps_of_several_methods():
    maps = [result(), Attribution(torch.randn(1, 1, 6, 8, 10))]
    figure = plots.comparison(maps, torch.rand(12, 16, 20), ["one", "other"])
    assert len(figure.axes) == 3 * 8
    words = [text.get_text() for text in figure.texts]
    assert words[1].startswith("one · colours from 0 to")
    assert words[2].startswith("other · colours from −")


def test_a_method_explains_a_clip_and_draws_it():
    method = sfumato.ExtremalPerturbation(areas=(0.2,), steps=2)
    clip = torch.rand(1, 1, 6, 12, 12)
    found = method(lambda clips: clips.flatten(2).mean(2) @ torch.ones(1, 2), clip, 0)
    figure = plots.figure(found, clip[0])
    assert "worth" in figure.texts[1].get_text()


@pytest.mark.parametrize(
    ("shape", "says"),
    [((3, 5, 16, 20), "the picture of a result with three axes of space is that input"), ((16, 20), "got shape")],
)
def test_another_shape_is_refused(shape, says):
    with pytest.raises(ValueError, match=says):
        plots.figure(result(), torch.rand(shape))


def test_an_overview_is_of_pictures():
    with pytest.raises(ValueError, match="an overview is of pictures; draw a clip or a volume with plots.figure"):
        plots.overview([result()], [torch.rand(12, 16, 20)], ["a clip"])
