"""`repr(result)` is three lines that say what it holds, not all of its numbers."""

import io

import pytest
import torch
from PIL import Image

import sfumato
from sfumato.attribution import Attribution
from sfumato.model.subject import Subject


def masks(queries=1):
    return Attribution(
        map=torch.zeros(queries, 1, 8, 8),
        masks=torch.zeros(queries, 2, 1, 8, 8),
        areas=torch.tensor([0.1, 0.25]),
        scores=torch.tensor([[3.0, 6.5]]).expand(queries, -1),
        whole=torch.full((queries,), 8.0),
        about={"method": {"class": "sfumato:ExtremalPerturbation"}},
    )


def test_the_error_about_a_classifier_in_place_of_a_model_is_one_sentence():
    net = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(100)])
    classifier = sfumato.models.Classifier("mine", net, sfumato.models.Preparation(), ("one",))
    subject = Subject.prepared(classifier, torch.rand(1, 3, 8, 8), 0)
    with pytest.raises(ValueError, match=r"got .*\. Write its \.net for the model") as error, subject:
        pass
    assert len(str(error.value)) < 300


def test_of_masks():
    assert repr(masks()).splitlines() == [
        "Attribution of 1 query by ExtremalPerturbation",
        "masks (1, 2, 1, 8, 8) of areas 0.1, 0.25, which keep 3, 6.5 of 8",
        "on cpu: map, masks, areas, scores, whole, about",
    ]
    assert "Attribution of 4 queries" in repr(masks(4))
    assert "which keep 3, 6.5 of 8 (mean scores)" in repr(masks(4))


def test_of_a_map():
    said = repr(Attribution(map=torch.linspace(-1, 2, 64).view(1, 1, 8, 8))).splitlines()
    assert said == ["Attribution of 1 query", "map (1, 1, 8, 8) from -1 to 2", "on cpu: map, about"]


@pytest.mark.parametrize("method", [sfumato.Gradient(), sfumato.ExtremalPerturbation(areas=(0.2,), steps=2)])
def test_of_what_methods_find(method):
    found = method(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), torch.rand(1, 3, 16, 16), 1)
    lines = repr(found).splitlines()
    assert len(lines) == 3
    assert all(len(line) < 200 for line in lines)


def test_a_figure_is_shown_by_a_notebook_without_pyplot():
    pytest.importorskip("matplotlib")
    result = sfumato.Gradient()(lambda x: x.mean((2, 3)), torch.rand(1, 3, 8, 8), 0)
    figure = sfumato.plots.comparison([result], torch.rand(3, 8, 8), ["gradient"])
    with Image.open(io.BytesIO(figure._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert shown.size == tuple(figure.get_size_inches() * figure.dpi // 1)


def test_the_smallest_area_is_told_in_three_lines():
    inputs = torch.ones(2, 1, 16, 16)
    method = sfumato.ExtremalPerturbation(steps=2, jitter=None, perturbation=sfumato.Fade())
    found = sfumato.smallest(method, lambda x: x.mean((2, 3)), inputs, 0, keep=0.5, areas=(0.3, 0.6), tolerance=0.4)
    lines = repr(found).splitlines()
    assert lines[0] == "SmallestArea of 2 queries: at most 0.602, 0.602"  # 154 of 256 places
    assert lines[1] == "to keep a score of 0.5, 0.5; 2 areas tried"
    assert "attribution" in lines[2]
    assert repr(found.part(slice(0, 1))).startswith("SmallestArea of 1 query: at most 0.602")
