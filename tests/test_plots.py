"""Figures: what they are drawn from, and what is said when they cannot be."""

import io
import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato import Blur, Constant, Fade, MeaningfulPerturbation, Noise, plots, sheets
from sfumato.attribution import Attribution
from sfumato.data.pictures import rgb
from sfumato.figures import panels
from sfumato.models import Classifier, Preparation
from sfumato.settings import as_json

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


def made_with(perturbation, queries=1, layer="", game=None):
    """A result that says what hid places."""
    method = {"class": "a:B", "layer": layer} | ({} if game is None else {"game": game})
    return replace(result(queries), about={"method": method, "perturbation": as_json(perturbation)})


def classifier(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)):
    return Classifier("toy", torch.nn.Identity(), Preparation(mean=mean, std=std), ("one",))


def shown(figure, row, variant=0):
    """The picture `(3, H, W)` in a row below the mask of one area: 0 the mask over it, 1 on black, 2 as the network saw it."""
    return drawn(figure.axes[1 + 3 * variant + row])


def drawn(axes):
    """The picture `(3, H, W)` in axes, if there is one."""
    return torch.as_tensor(axes.images[0].get_array()).permute(2, 0, 1).float() if axes.images else None


def said(figure):
    return [axes.get_title(loc="left") for axes in figure.axes] + words(figure)


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
    assert "area 10 %\nworth 0 % (score 1)\n" + panels.ONE_RUN in said
    assert "area 30 %\nworth 40 % (score 3)\n" + panels.ONE_RUN in said
    assert "area 55 % (asked: 50 %)\nworth 80 % (score 5)\n" + panels.ONE_RUN in said


def test_the_search_for_the_smallest_area_is_drawn():
    curve = (torch.tensor([0.1, 0.5]), torch.tensor([1.0, 5.0]))
    figure = plots.figure(result(areas=1), torch.rand(3, 24, 32), keep=0.9, curve=curve)
    legend = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert {"90 % of the whole's score", "areas tried", "whole input, worth 100 %", "all hidden, worth 0 %"} <= set(
        legend
    )


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


@pytest.mark.parametrize(
    "perturbation", [Blur(5, 4), Blur(5, 4, border="zeros"), Fade(), Constant((0.5, -0.5, 1.0)), Noise(0.5, seed=2)]
)
def test_what_the_network_saw_is_shown(perturbation):
    """m ⊗ x in the network's units, and back."""
    given, net, picture = made_with(perturbation), classifier(), torch.rand(3, 24, 32)
    figure = plots.figure(given, picture, classifier=net)
    inputs = (picture - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    perturbed = perturbation(inputs[None])
    for variant in range(3):
        seen = net.restore(perturbed(given.masks[0, variant : variant + 1], torch.zeros(1, dtype=torch.long)))[0]
        torch.testing.assert_close(shown(figure, 2, variant), seen, atol=1e-5, rtol=0)
        torch.testing.assert_close(shown(figure, 1, variant), picture * given.masks[0, variant], atol=1e-6, rtol=0)
    assert f"as the network saw it ({type(perturbation).__name__})" in said(figure)


@pytest.mark.parametrize("perturbation", [Blur(5, 4), Blur(5, 4, border="zeros"), Fade(), Constant(0.5)])
def test_without_a_classifier_the_units_are_the_picture_s_own_and_that_is_said(perturbation):
    given, picture = made_with(perturbation), torch.rand(3, 24, 32)
    figure = plots.figure(given, picture)
    seen = perturbation(picture[None])(given.masks[0], torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(shown(figure, 2), seen[0].clamp(0, 1), atol=1e-6, rtol=0)
    units = any("not in the network's units" in each for each in said(figure))
    assert units == (perturbation != Blur(5, 4))  # which looks the same in all units


def test_a_grey_network_saw_a_grey_picture():
    given, net = made_with(Fade()), classifier((0.5,), (0.25,))
    picture = torch.rand(1, 24, 32)
    figure = plots.figure(given, picture, classifier=net)
    expected = (0.5 + (picture - 0.5) * given.masks[0, 0]).expand(3, -1, -1)
    torch.testing.assert_close(shown(figure, 2), expected, atol=1e-6, rtol=0)


def test_in_the_deletion_game_what_is_left_is_shown():
    """The mask marks what was removed."""
    given = made_with(Fade(), game={"keep": 0, "drop": 1})
    picture = torch.rand(3, 24, 32)
    figure = plots.figure(given, picture)
    left = (1 - given.masks[0, 0]) * picture
    torch.testing.assert_close(shown(figure, 1), left, atol=1e-6, rtol=0)
    torch.testing.assert_close(shown(figure, 2), left, atol=1e-6, rtol=0)
    assert any("the rest is worth 60 % (score 4)" in each for each in said(figure))  # (4 - 1) / (6 - 1)
    blurred = plots.figure(made_with(Blur(), game={"keep": 0, "drop": 1}), picture)
    assert "without the mask, as seen (Blur)" in said(blurred)


def test_of_several_perturbations_the_first_is_shown_and_that_is_said():
    two = (Fade(), Noise(0.5))
    given = replace(
        made_with(two), about={"method": as_json(MeaningfulPerturbation(perturbation=two, game="preserve"))}
    )
    figure = plots.figure(given, torch.ones(3, 24, 32), classifier=classifier((0.0,) * 3, (1.0,) * 3))
    torch.testing.assert_close(shown(figure, 2), given.masks[0, 0].expand(3, -1, -1), atol=1e-6, rtol=0)
    assert any("(Fade, first of 2 perturbations)" in each for each in said(figure))


@pytest.mark.parametrize("game", [{"keep": 1, "drop": 0}, {"keep": 0, "drop": 1}])
def test_an_animation_shows_what_the_network_saw(game):
    pytest.importorskip("starlette", reason="the page is not installed")
    from sfumato.models.questions import Asked
    from sfumato.scores import Logit
    from sfumato.web.asking import Wanted
    from sfumato.web.explaining import Answer, Question
    from sfumato.web.exports import animation
    from sfumato.web.tabs import TabPicture

    given, net, picture = made_with(Constant(1.5), game=game), classifier(), torch.rand(1, 3, 24, 32)
    inputs = net.preparation.normalised(picture)
    question, asked = Question(None, "", Wanted("logit", 0)), Asked(0, Logit(0), "")
    file = animation("PNG", "image/apng", Answer(question, asked, TabPicture("a", b"", inputs), given), net)
    masks = given.masks[0] if game["keep"] else 1 - given.masks[0]
    seen = net.restore(Constant(1.5)(inputs)(masks, torch.zeros(3, dtype=torch.long)))
    with Image.open(io.BytesIO(file.content)) as frames:
        for frame, expected in enumerate([*seen, picture[0]]):
            frames.seek(frame)
            values = torch.from_numpy(np.array(frames.convert("RGB"))).movedim(-1, 0) / 255
            torch.testing.assert_close(values, expected, atol=1.01 / 255, rtol=0)  # of 8 bits


class Mine:
    def __call__(self, x):
        return Constant(1.0)(x)


def test_what_cannot_be_built_again_is_said_and_not_replaced():
    given, picture = made_with(Mine()), torch.zeros(3, 24, 32)
    figure = plots.figure(given, picture)
    assert [shown(figure, 2, variant) for variant in range(3)] == [None] * 3
    note = " ".join(" ".join(said(figure)).split())
    assert ":Mine', which cannot be built again" in note
    assert "perturbation=…" in note
    shows = plots.figure(given, picture, perturbation=Mine())
    torch.testing.assert_close(shown(shows, 2), 1 - given.masks[0, 0].expand(3, -1, -1), atol=1e-6, rtol=0)


def test_masks_of_a_layer_hide_nothing_of_the_picture():
    figure = plots.figure(made_with(Fade(), layer="features.2"), torch.rand(3, 24, 32))
    assert shown(figure, 2) is None
    assert "values of the layer features.2" in " ".join(said(figure))


def test_a_blur_for_display_is_called_so():
    figure = plots.figure(result(), torch.rand(3, 24, 32))  # it does not say what hid places
    assert "blurred for display; the result does not say what hid places" in said(figure)
    assert len(figure.axes) == 2 + 3 * 3


ARRAY = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
RGB = torch.from_numpy(ARRAY).permute(2, 0, 1).float() / 255
GREY = torch.from_numpy(ARRAY[..., 0]).float()[None].expand(3, -1, -1) / 255
CLEAR = np.concatenate([ARRAY, np.full((24, 32, 1), 255, np.uint8)], 2)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (RGB, RGB),
        (RGB[None].double(), RGB),
        (RGB.permute(1, 2, 0), RGB),
        (RGB.clone().requires_grad_(), RGB),
        ((255 * RGB).round().byte(), RGB),
        (ARRAY, RGB),
        (ARRAY[None], RGB),
        (ARRAY.transpose(2, 0, 1), RGB),
        (ARRAY / 255, RGB),
        (ARRAY[:, ::-1], RGB.flip(2)),
        (Image.fromarray(ARRAY), RGB),
        (Image.fromarray(CLEAR), RGB),
        (CLEAR, RGB),
        (ARRAY[..., 0], GREY),
        (ARRAY[..., :1], GREY),
        (Image.fromarray(ARRAY[..., 0]), GREY),
        (GREY[:1], GREY),
        (GREY[0], GREY),
        (RGB * 1.005 - 0.002, RGB),
    ],
)
def test_a_picture_may_come_in_any_form(picture, expected):
    tolerance = (
        0.005 if isinstance(picture, torch.Tensor) and picture.max() > 1 and picture.is_floating_point() else 1e-6
    )
    values = rgb(picture, (24, 32))
    torch.testing.assert_close(values, expected, atol=tolerance, rtol=0)
    assert (values.dtype, values.device.type, values.requires_grad) == (torch.float32, "cpu", False)
    assert torch.equal(rgb(picture), values)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [(RGB[None], RGB), ((255 * RGB).round().byte(), RGB), (ARRAY[:, ::-1], RGB.flip(2)), (CLEAR, RGB), (GREY[0], GREY)],
)
def test_a_picture_of_any_form_is_drawn(picture, expected):
    figure = plots.figure(result(), picture)
    torch.testing.assert_close(drawn(figure.axes[0]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (255 * torch.rand(3, 24, 32), "Divide them by 255"),
        (torch.randn(3, 24, 32), r"classifier\.restore\(inputs\)"),
        (torch.full((3, 24, 32), torch.nan), "got nan to nan"),
        (torch.ones(3, 24, 32, dtype=torch.long), "got torch.int64. Convert it"),
        (ARRAY.astype(np.int32), "got int32. Convert it"),
        (torch.ones(4, 24, 32).permute(1, 2, 0), "with transparency"),
        (torch.tensor(0.5), r"got shape \(\)"),
        (torch.zeros(3, 0, 4), r"got shape \(3, 0, 4\)"),
        (torch.rand(2, 24, 32), r"got shape \(2, 24, 32\)"),
        (Image.fromarray(ARRAY[:20]), "24 × 32 pixels; got 20 × 32"),
        ("cat.png", r"got str. Read a file with sfumato\.data\.pictures\.read"),
        (RGB.tolist(), "got list"),
    ],
)
def test_what_is_no_picture_is_refused(picture, words):
    with pytest.raises(ValueError, match=words):
        plots.figure(result(), picture)


def test_where_both_ends_could_be_the_channels_the_size_decides():
    tensor = torch.rand(3, 5, 3)
    assert torch.equal(rgb(tensor), tensor)
    assert torch.equal(rgb(tensor.numpy()), tensor.movedim(-1, 0))
    assert torch.equal(rgb(tensor, (3, 5)), tensor.movedim(-1, 0))
    assert torch.equal(rgb(tensor.numpy(), (5, 3)), tensor)


def test_every_figure_takes_pictures_of_any_form():
    one = result()[0]
    for picture in (RGB, ARRAY, Image.fromarray(ARRAY)):
        for figure in (plots.overview([one], [picture], ["a"]), plots.comparison([one], picture, ["a"])):
            torch.testing.assert_close(drawn(figure.axes[0]), RGB, atol=1e-6, rtol=0)
    channels = Attribution(
        map=torch.rand(1, 1, 24, 32), masks=torch.rand(1, 2, 4, 1, 1), scores=torch.rand(1, 2), whole=torch.ones(1),
        complements=torch.rand(1, 2), blank=torch.zeros(1), activation=torch.rand(1, 4, 6, 8),
    )  # fmt: skip
    figure = sheets.channels(channels, ARRAY, count=2, inversions={"again": Image.fromarray(ARRAY)})
    for place in (0, 2):
        torch.testing.assert_close(drawn(figure.axes[place]), RGB, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (
            lambda: plots.overview([result()[0]], [RGB, RGB], ["a"]),
            "pictures must be one for each of the 1 results; got 2",
        ),
        (lambda: plots.overview([result()[0]], [RGB], []), "titles must be one for each of the 1 results; got 0"),
        (lambda: plots.overview([result()], [RGB], ["a"]), r"results of \[2\] queries"),
        (lambda: plots.overview([], [], []), "results are empty"),
        (lambda: plots.overview([result()[0], result(areas=2)[0]], [RGB] * 2, ["a", "b"]), "first, 3; got one with 2"),
        (
            lambda: plots.comparison([result()[0]], RGB, ["a", "b"]),
            "titles must be one for each of the 1 results; got 2",
        ),
        (lambda: plots.comparison([], RGB, []), "results are empty"),
    ],
)
def test_counts_that_do_not_fit_are_said(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_an_overview_has_a_row_a_result():
    figure = plots.overview([result()[0], result()[1]], [torch.rand(3, 24, 32)] * 2, ["one", "two"])
    assert len(figure.axes) == 8
    assert {"one", "two"} <= set(words(figure))


def test_the_picture_has_the_numbers_of_the_whole():
    """So that those of the masks can be compared with them."""
    one, picture = result()[0], torch.rand(3, 24, 32)
    figure = plots.figure(one, picture, probabilities=[0.1, 0.2, 0.3], whole_probability=0.4)
    assert "probability 40 %" in figure.axes[0].get_title()
    assert "worth 100 %" in figure.axes[0].get_title()
    figure = plots.overview([one], [picture], ["one"], probabilities=[[0.1, 0.2, 0.3]], whole_probabilities=[0.4])
    assert "probability 40 %" in figure.axes[0].get_title()
    level = replace(one, blank=one.whole.clone())  # nothing has a worth
    assert "worth" not in plots.figure(level, picture, whole_probability=0.4).axes[0].get_title()


def test_worth_lies_between_blank_and_whole():
    given = replace(result(), scores=torch.tensor([[1.0, 3.5, 6.0]] * 2), blank=torch.tensor([1.0, 6.0]))
    assert plots.worth(given)[0].tolist() == [0, 0.5, 1]
    assert plots.worth(given)[1].isnan().all()


@pytest.mark.parametrize("whole", [1.0, 1.005, 0.2])
def test_nothing_has_a_worth_where_hiding_everything_takes_no_score_away(whole):
    told = replace(result(), whole=torch.tensor([whole] * 2), blank=torch.ones(2))
    assert plots.worth(told).isnan().all()
    figure = plots.figure(told, RGB)
    assert any("worth not defined" in text for text in words(figure))
    names = {
        text.get_text()
        for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
        if legend
        for text in legend.get_texts()
    }
    assert {"whole input", "all hidden"} <= names


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
        (result(), torch.rand(3, 24, 32), 2, "query is a number from 0 to 1, one for each input; 2 is"),
        (result(), torch.rand(3, 24, 32), classifier(), r"query is a number .*; Classifier\(.*\) is out of range"),
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
    one, coarse = result(queries=1), replace(result(queries=1), map=torch.linspace(2, 5, 35).view(1, 1, 5, 7))
    figure = plots.comparison([one, coarse], torch.rand(3, 24, 32), ["first", "second\n2 s"], "title")
    low, high = (float(one.map.flatten().quantile(level)) for level in (0.005, 0.995))
    assert words(figure)[:2] == ["the input", f"first\ncolours from {low:.2g} to {high:.2g}"]
    assert words(figure)[2].startswith("second\n2 s\ncolours from 2 to 5")
    assert figure.get_suptitle() == "title"
    drawn = figure.axes[2].images[1].get_array()
    assert drawn.shape == (24, 32)
    assert drawn.min() == 0
    assert drawn.max() == pytest.approx(1)
    plots.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_map_that_is_positive_everywhere_uses_all_its_colours():
    """Maps of RISE lie in a narrow range far from 0."""
    narrow = replace(result(queries=1), map=torch.linspace(0.5, 0.52, 24 * 32).view(1, 1, 24, 32))
    values = plots.comparison([narrow], torch.rand(3, 24, 32), ["rise"]).axes[1].images[1].get_array()
    assert (values < 0.1).mean() == pytest.approx(0.1, abs=0.02)
    assert (values > 0.9).mean() == pytest.approx(0.1, abs=0.02)


def test_a_signed_map_has_no_colour_at_nought():
    signed = replace(result(queries=1), map=torch.linspace(-1, 3, 24 * 32).view(1, 1, 24, 32))
    figure = plots.comparison([signed], torch.rand(3, 24, 32), ["signed"])
    drawn = figure.axes[1].images[1]
    assert words(figure)[1] == "signed\ncolours from −3 to 3"
    assert (drawn.norm.vmin, drawn.norm.vmax) == (-1, 1)
    assert float(drawn.get_array().min()) == pytest.approx(-1 / 3, abs=0.01)
    at_nought = np.abs(drawn.get_array()).argmin()
    assert drawn.get_alpha().flat[at_nought] < 0.05


@pytest.mark.parametrize("value", [0.0, 0.7, -2.0])
def test_a_map_without_differences_is_said_to_be_so(value):
    even = replace(result(queries=1), map=torch.full((1, 1, 24, 32), value))
    assert "everywhere" in words(plots.comparison([even], torch.rand(3, 24, 32), ["even"]))[1]


@pytest.mark.parametrize(("name", "beginning"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")])
def test_the_ending_of_the_file_decides_its_format(tmp_path, name, beginning):
    plots.save(plots.overview([result()[0]], [RGB], ["a"]), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(beginning)


@pytest.mark.parametrize("name", ["a.jpg", "a.safetensors", "a", "a.png.txt"])
def test_an_ending_of_no_figure_is_refused(tmp_path, name):
    with pytest.raises(
        ValueError, match=r"a figure is written as \.png, \.pdf or \.svg; got 'a.*'. Write e\.g\. save\(figure"
    ):
        plots.save(plots.overview([result()[0]], [RGB], ["a"]), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_heading_says_what_is_kept_of_what_and_how_probable_the_class_is():
    given = replace(result(), about={"score": as_json(sfumato.Logit(1))}, achieved=torch.tensor([[0.1, 0.3, 0.5]] * 2))
    said = words(plots.figure(given, RGB, probabilities=[0.014, 0.2, 0.9]))
    assert "area 10 %\nworth 0 % (logit 1)\nprobability 1.4 %\none run: no restarts to compare" in said
    upper = words(plots.figure(given, RGB, at_most=True))
    assert "area at most 10 %\nworth 0 % (logit 1)\n" + panels.ONE_RUN in upper
    with pytest.raises(ValueError, match="probabilities must be one for each of the 3 masks; got 1"):
        plots.figure(given, RGB, probabilities=[0.1])


@pytest.mark.parametrize("size", [(24, 32), (40, 20)])
def test_headings_of_neighbours_do_not_overlap(size):
    given = replace(result(areas=3, size=size), about={"score": as_json(sfumato.Probability(1, link="softmax"))})
    given = replace(given, scores=given.scores / 7)
    figures = [
        plots.figure(given, torch.rand(3, *size)),
        plots.overview([given[0]], [torch.rand(3, *size)], ["a"]),
        plots.comparison(
            [given[0]] * 2, torch.rand(3, *size), ["a method with a long name", "another one of this kind"]
        ),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.title.get_text()]
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)


def test_maps_that_cannot_stand_side_by_side():
    with pytest.raises(ValueError, match=r"a map of one picture has the shape \(1, 1, H, W\)"):
        plots.comparison([result(queries=2)], torch.rand(3, 24, 32), ["both"])


@pytest.mark.parametrize("title", ["cat.jpg: tabby", "mine.jpg: how undecided the network is (entropy)" * 2, "猫" * 40])
def test_a_title_fits_into_its_figure(title):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = panels.blank((5.2, 2.0))
    panels.add_title(canvas, title)
    assert (canvas._suptitle.get_fontsize() < panels.TITLE) == (len(title) > 20)
    if title.isascii():
        end = canvas._suptitle.get_window_extent(FigureCanvasAgg(canvas).get_renderer()).x1
        assert end <= canvas.bbox.width


@pytest.mark.parametrize(
    ("score", "told"),
    [("Probability", "worth 40 %\nprobability 20 %"), ("Logit", "worth 40 % (logit 3)\nprobability 20 %")],
)
def test_a_heading_says_the_probability_once(score, told):
    one = replace(result(1), about={"score": as_json(getattr(sfumato, score)(3))})
    figure = plots.figure(one, torch.rand(3, 24, 32), probabilities=[0.1, 0.2, 0.3])
    assert any(told in axes.get_title() for axes in figure.axes)
    without = plots.figure(one, torch.rand(3, 24, 32))
    assert any(f"({score.lower()} 3)" in axes.get_title() for axes in without.axes)
