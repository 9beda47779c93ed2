"""Figures: what they are drawn from, and what is said when they cannot be."""

import sys
from dataclasses import replace

import pytest
import torch

from sfumato import plots
from sfumato.attribution import Attribution

pytest.importorskip("matplotlib", reason="figures need matplotlib")


def result(queries=2, areas=3, size=(24, 32)):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(queries, areas, 1, *size, generator=generator)
    return Attribution(
        map=masks.mean(1),
        masks=masks,
        areas=torch.linspace(0.1, 0.5, areas),
        achieved=masks.flatten(2).mean(2),
        scores=torch.linspace(1, 5, areas).expand(queries, -1),
        complements=torch.linspace(4, 2, areas).expand(queries, -1),
        whole=torch.full((queries,), 6.0),
        blank=torch.full((queries,), 1.0),
    )


def words(figure):
    return [text.get_text() for axes in figure.axes for text in [axes.title, *axes.texts]]


@pytest.mark.parametrize(("areas", "size"), [(1, (20, 40)), (3, (24, 24)), (6, (40, 20))])
def test_a_figure_has_three_rows_an_area(areas, size, tmp_path):
    figure = plots.figure(result(areas=areas, size=size), torch.rand(3, *size), query=1, title="mine")
    assert len(figure.axes) == 2 + 3 * areas  # the input and the curve besides
    plots.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_it_says_the_areas_and_what_they_keep():
    given = replace(result(), achieved=torch.tensor([[0.1, 0.3, 0.55]] * 2))
    said = words(plots.figure(given, torch.rand(1, 3, 24, 32)))
    assert "area 10 %\nkeeps 0 % of the score" in said
    assert "area 30 %\nkeeps 40 % of the score" in said
    assert "area 55 % (asked: 50 %)\nkeeps 80 % of the score" in said


def test_the_search_for_the_smallest_area_is_drawn():
    curve = (torch.tensor([0.1, 0.5]), torch.tensor([1.0, 5.0]))
    figure = plots.figure(result(areas=1), torch.rand(3, 24, 32), keep=0.9, curve=curve)
    legend = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert {"90 % of whole", "areas tried"} <= set(legend)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_masks_draw_without_a_warning(level, tmp_path):
    given = result()
    figure = plots.figure(replace(given, masks=torch.full_like(given.masks, level)), torch.rand(3, 24, 32))
    plots.save(figure, tmp_path / "figure.png")


def test_a_result_without_scores_draws(tmp_path):
    given = replace(result(), scores=None, complements=None, whole=None, blank=None, areas=None, achieved=None)
    plots.save(plots.figure(given, torch.rand(3, 24, 32)), tmp_path / "figure.png")


def test_a_result_that_tells_no_settings_of_its_method_draws():
    plots.figure(replace(result(), about={"method": "RISE"}), torch.rand(3, 24, 32))


def test_an_overview_has_a_row_a_result():
    figure = plots.overview([result()[0], result()[1]], [torch.rand(3, 24, 32)] * 2, ["one", "two"])
    assert len(figure.axes) == 8
    assert {"one", "two"} <= set(words(figure))


def test_shares_lie_between_blank_and_whole():
    given = replace(result(), scores=torch.tensor([[1.0, 3.5, 6.0]] * 2), blank=torch.tensor([1.0, 6.0]))
    assert plots.shares(given)[0].tolist() == [0, 0.5, 1]
    assert plots.shares(given)[1].isnan().all()


def test_a_picture_is_left_as_it_was():
    picture = torch.rand(3, 24, 32)
    before = picture.clone()
    plots.figure(result(), picture)
    assert torch.equal(picture, before)


@pytest.mark.parametrize(
    ("given", "picture", "query", "said"),
    [
        (replace(result(), masks=None), torch.rand(3, 24, 32), 0, "no masks"),
        (replace(result(), masks=torch.rand(2, 3, 1, 9)), torch.rand(3, 24, 32), 0, r"\(2, 3, 1, 9\)"),
        (result(), torch.rand(3, 24, 32), 2, r"query 2 is out of range; the result has 2 \(0 to 1\)"),
        (result(), torch.rand(3, 24, 32), -1, "out of range"),
        (result(), torch.rand(3, 24, 31), 0, r"24 × 32 pixels; got shape \(3, 24, 31\)"),
        (result(), torch.rand(2, 3, 24, 32), 0, r"got shape \(2, 3, 24, 32\)"),
    ],
)
def test_what_cannot_be_drawn_is_said(given, picture, query, said):
    with pytest.raises(ValueError, match=said):
        plots.figure(given, picture, query)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "sfumato\[plots\]"'):
        plots.figure(result(), torch.rand(3, 24, 32))


def test_methods_stand_side_by_side(tmp_path):
    one, coarse = result(queries=1), replace(result(queries=1), map=torch.linspace(-1, 2, 35).view(1, 1, 5, 7))
    figure = plots.comparison([one, coarse], torch.rand(3, 24, 32), ["first", "second\n2 s"], "title")
    assert words(figure) == ["the input", "first", "second\n2 s"]
    assert figure.get_suptitle() == "title"
    drawn = figure.axes[2].images[1].get_array()
    assert drawn.shape == (24, 32)
    assert drawn.min() == 0
    assert drawn.max() == pytest.approx(1)
    plots.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_maps_that_cannot_stand_side_by_side():
    with pytest.raises(ValueError, match=r"a map of one picture is \(1, 1, H, W\)"):
        plots.comparison([result(queries=2)], torch.rand(3, 24, 32), ["both"])
