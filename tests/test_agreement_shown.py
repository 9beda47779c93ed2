"""Where results say how far the restarts of a search agree, and what figures say of several perturbations."""

from dataclasses import replace

import pytest
import torch

import sfumato
from sfumato.cli import summaries
from sfumato.figures import plots
from sfumato.figures.panels import positive
from sfumato.figures.report.numbers import mask_rows
from sfumato.masks.level_set import TENTHS
from sfumato.settings import percent
from sfumato.space.smoothing import gaussian_blur

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def result() -> sfumato.Attribution:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 5), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    method = sfumato.ExtremalPerturbation(areas=(0.1, 0.3), steps=50)
    return method(net, torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 1)


def test_headings_rows_and_summaries_say_it(result):
    assert result.agreement is not None
    first = float(result.agreement[0, 0])
    said = f"restarts agree by {round(100 * round(first, 2), 1):g} %"
    assert plots._headings(result, 0)[0].splitlines()[-1] == said
    row = mask_rows(result)[0]
    assert row.agreement == pytest.approx(first)
    assert row.sentence.endswith(said)
    summary = summaries.areas(result, torch.tensor([0.5, 0.6]))[0]
    assert summary["agreement"] == pytest.approx(first, abs=1e-5)


def test_without_restarts_captions_say_so(result):
    without = replace(result, agreement=None)
    assert plots._headings(without, 0)[0].splitlines()[2:] == ["one run: no restarts to compare"]
    assert mask_rows(without)[0].sentence.endswith("; one run: no restarts to compare")
    assert "one run" not in mask_rows(result)[0].sentence
    assert "agreement" not in summaries.areas(without, torch.tensor([0.5, 0.6]))[0]
    unscored = replace(without, scores=None, complements=None)
    assert "one run" not in plots._headings(unscored, 0)[0] + mask_rows(unscored)[0].sentence


def test_alternatives_are_the_sets_of_the_restarts_with_their_scores(result):
    sets = result.alternatives
    assert sets.dtype == torch.bool
    assert sets.shape == (1, 2, 2, 1, 32, 32)
    torch.testing.assert_close(sets.float().mean((2, 3, 4, 5)), result.areas[None], atol=1e-3, rtol=0)
    one, other = sets.unbind(2)
    union = (one | other).sum((2, 3, 4))
    torch.testing.assert_close(result.agreement, (one & other).sum((2, 3, 4)) / union)
    assert result.alternative_scores.shape == (1, 2, 2)


def test_scores_of_alternatives_are_those_of_their_masks(result):
    """The network is linear in what it sees, and the mean over two backgrounds counts."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 2)).eval()
    inputs = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    method = sfumato.ExtremalPerturbation(areas=(0.1, 0.3), steps=50, perturbation=sfumato.Constant(0.0))
    answer = method(net, inputs, torch.tensor([0, 1]))
    masks = gaussian_blur(answer.alternatives.flatten(0, 2).float(), method.mask.for_shape((32, 32)).edge / TENTHS)
    expected = net((masks.view(2, 2, 2, 1, 32, 32) * inputs[:, None, None]).flatten(0, 2)).view(2, 2, 2, 2)
    for query in range(2):
        torch.testing.assert_close(answer.alternative_scores[query], expected[query, ..., query], atol=1e-3, rtol=1e-3)
    assert sfumato.ExtremalPerturbation(steps=20)(net, inputs, 0).alternatives is None


def test_figures_draw_alternatives_and_say_what_they_keep(result):
    figure = sfumato.plots.figure(result, torch.rand(3, 32, 32), alternatives=True)
    titles = [axes.get_title() for axes in figure.axes]
    first = plots.worth(result, result.alternative_scores)[0, 0].tolist()
    line = f"thin lines: worth {', '.join(percent(round(worth, 2)) for worth in first)}"
    assert next(title.splitlines()[-1] for title in titles if title.startswith("area")) == line
    plain = sfumato.plots.figure(result, torch.rand(3, 32, 32))
    drawn, without = (sum(len(axes.collections) for axes in each.axes) for each in (figure, plain))
    assert drawn == without + 4  # two restarts for each of two masks
    with pytest.raises(ValueError, match="no alternatives: its search had no restarts"):
        sfumato.plots.figure(replace(result, alternatives=None), torch.rand(3, 32, 32), alternatives=True)


def test_it_is_saved_and_belongs_to_its_query(result, tmp_path):
    result.save(tmp_path / "r.safetensors")
    assert torch.equal(sfumato.load(tmp_path / "r.safetensors").agreement, result.agreement)
    assert result[0].agreement.shape == (1, 2)


def test_a_figure_says_that_one_of_several_perturbations_is_shown(result):
    figure = sfumato.plots.figure(result, torch.rand(3, 32, 32))
    texts = [axes.get_title(loc="left") for axes in figure.axes]
    assert "as the network saw it (Blur, first of 2 perturbations)" in " ".join(texts).replace("\n", " ")


def test_a_map_without_zeros_is_drawn_from_its_least_value():
    picture = torch.rand(3, 8, 8)
    values = 10 + torch.arange(64.0).view(1, 1, 8, 8)
    drawn = positive(values, picture)
    assert float(drawn.min()) == 0
    torch.testing.assert_close(drawn, positive(values - 10, picture))
    assert float(positive(values - 40, picture)[..., :3, :].max()) == 0
    assert float(positive(torch.full((1, 1, 8, 8), 3.0), picture).max()) == 0


def test_a_wrong_shape_is_named():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()
    for method in (sfumato.ExtremalPerturbation(steps=2), sfumato.Gradient(), sfumato.RISE(samples=8)):
        with pytest.raises(ValueError, match=r"the model fails on inputs of shape \(1, 3, 64, 64\): .*mat1"):
            method(net, torch.rand(1, 3, 64, 64), 0)
