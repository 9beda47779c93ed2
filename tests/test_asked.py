"""The place that a question was about: where figures and pages draw its line."""

import pytest
import torch
from test_questions_command import Image, maps, squares

import sfumato
from sfumato import report
from sfumato.attribution import Attribution
from sfumato.figures.asked import ASKED, asked_places
from sfumato.figures.plots import comparison, figure, overview
from sfumato.settings import as_json

pytest.importorskip("matplotlib", reason="figures need matplotlib")

SIZE = (32, 32)
METHOD = sfumato.ExtremalPerturbation(areas=(0.2,), steps=2)


def about(score):
    return Attribution(map=torch.zeros(1, 1, *SIZE), about={"score": as_json(score)})


def lines(axes):
    """The boxes around the lines in the colour of what was asked, in pixels of the picture."""
    found = [part for part in axes.collections if part.get_edgecolor()[0].tolist() == rgba(ASKED)]
    return [
        [round(float(side), 1) for side in part.get_paths()[0].get_extents().extents]
        for part in found
        if part.get_paths()
    ]


def rgba(colour):
    from matplotlib.colors import to_rgba

    return list(to_rgba(colour))


def test_the_places_of_a_box_and_of_a_region():
    box = about(sfumato.scores.Box((4.0, 8, 12, 24), 1))
    assert asked_places(box, SIZE).nonzero().aminmax(dim=0).min.tolist() == [8, 4]
    assert asked_places(box, SIZE).nonzero().aminmax(dim=0).max.tolist() == [23, 11]
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[3:5, 6:20] = mask[9, 9] = True
    assert torch.equal(asked_places(about(sfumato.scores.Region(1, mask)), SIZE).bool(), mask)


def test_each_query_has_its_own_place():
    score = sfumato.scores.Box([(0.0, 0, 4, 4), (8.0, 8, 16, 16)], [1, 2])
    assert [int(asked_places(about(score), SIZE, query).sum()) for query in (0, 1)] == [16, 64]


@pytest.mark.parametrize(
    "score",
    [
        None,
        {"class": "sfumato:Logit", "target": 3},
        {"class": "sfumato:Box"},
        {"class": "sfumato:Box", "box": [[1, 2, 3]]},
        {"class": "sfumato:Box", "box": "1234567"},
        {"class": "sfumato:Box", "box": [[9, 9, 9, 9]]},
        {"class": "sfumato:Region", "mask": {"shape": [2, 2], "runs": [1, 3]}},
        {"class": "sfumato:Region", "mask": {"shape": [10**9, 10**9], "runs": [10**18]}},
        {"class": "sfumato:Region", "mask": []},
    ],
)
def test_what_says_no_place_has_none(score):
    assert asked_places(Attribution(map=torch.zeros(1, 1, *SIZE), about={"score": score}), SIZE) is None


def test_figures_draw_a_line_around_the_box_in_the_picture_s_own_pixels():
    detector = squares()
    picture = Image.new("RGB", (96, 64), (60, 60, 60))  # twice as large as the input, which is cut from its middle
    picture.paste((250, 0, 0), (24, 16, 40, 48))
    result = METHOD(detector, picture, 1)
    drawn = figure(result, picture, classifier=detector)
    at = [23.5, 15.5, 39.5, 47.5]
    assert lines(drawn.axes[0]) == [at]
    assert lines(drawn.axes[1]) == [at]
    assert drawn.axes[0].get_xlim() == (-0.5, 95.5)
    assert "blue: what was asked about" in drawn.axes[0].get_title()
    assert [lines(axes) for axes in overview([result], [picture], ["one"], detector).axes] == [[at], [at]]
    assert [lines(axes) for axes in comparison([result], picture, ["one"], classifier=detector).axes] == [[at], [at]]


def test_a_page_has_the_place_as_a_picture_and_says_what_the_line_is():
    classifier = maps()
    inputs = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    region = sfumato.scores.Region.in_box(1, (4, 8, 12, 24), SIZE)
    page = report.html(METHOD(classifier, inputs, region), inputs, classifier)
    assert page.count('data-role="asked"') == 1
    assert "The blue line is around the place that was asked about." in page
    plain = report.html(METHOD(classifier, inputs, 1), inputs, classifier)
    assert 'data-role="asked"' not in plain
    assert "blue line" not in plain
