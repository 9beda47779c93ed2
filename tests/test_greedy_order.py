"""The greedy order beside a literal version, on functions whose best order is known, and its regions."""

import itertools

import pytest
import torch
from networks import network

import sfumato
from sfumato import Cells, Fade, Game, GreedyOrder, Superpixels

WEIGHTS = torch.randperm(16, generator=torch.Generator().manual_seed(3)).float().view(4, 4)


def weighed(x):
    """Two outputs `(N, 2)` for pictures `(N, 3, 8, 8)`: cells of 2 × 2 places have different weights."""
    places = WEIGHTS.repeat_interleave(2, 0).repeat_interleave(2, 1)
    return torch.stack([(x * places).sum((1, 2, 3)), x.sum((1, 2, 3))], 1)


def literal(net, x, target, cells, game, both_ends, candidates):
    """The order of the regions of one picture `(1, C, H, W)`, mask by mask."""
    labels = Cells(cells)(x)[0]

    def value(regions):
        mask = sum((labels == region).float() for region in regions) if regions else torch.zeros(labels.shape)
        return game.keep * net(x * mask)[0].softmax(-1)[target] - game.drop * net(x * (1 - mask))[0].softmax(-1)[target]

    left, front, tail = list(range(int(labels.max()) + 1)), [], []
    everything = list(left)
    while left:
        values = {region: float(value([*front, region])) for region in left}
        best = max(left, key=values.get)
        front.append(best)
        left.remove(best)
        if both_ends and len(left) > 1:
            lowest = sorted(left, key=values.get)[:candidates]
            kept = {
                region: float(value([other for other in everything if other not in tail and other != region]))
                for region in lowest
            }
            worst = max(lowest, key=kept.get)
            tail.insert(0, worst)
            left.remove(worst)
    return front + tail, labels


@pytest.mark.parametrize(("both_ends", "candidates"), [(True, 3), (True, 1), (False, 8)])
def test_it_agrees_with_a_literal_version(both_ends, candidates):
    net, x = network(), torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    game = Game(keep=20, drop=1)
    method = GreedyOrder(Cells(3), game, both_ends=both_ends, candidates=candidates)
    with torch.no_grad():
        order, labels = literal(net, x, 1, 3, game, both_ends, candidates)
    saliency = method(net, x, 1).map[0, 0]
    for place, region in enumerate(order):
        assert saliency[labels == region].unique().item() == pytest.approx((9 - place) / 9)


@pytest.mark.parametrize("game", ["preserve", "delete", "dual", Game(20, 1)])
@pytest.mark.parametrize("both_ends", [True, False])
def test_independent_regions_come_in_the_order_of_their_weights(game, both_ends):
    """Without one another's help, what a region adds is its weight; the best order of a sum is that of its parts."""
    result = GreedyOrder(Cells(4), game, both_ends=both_ends, candidates=16, score="logit")(
        weighed, torch.ones(2, 3, 8, 8), 0
    )
    for saliency in result.map[:, 0]:
        ranks = saliency[::2, ::2]
        assert torch.equal(ranks.flatten().argsort(), WEIGHTS.flatten().argsort())
        assert (ranks.min().item(), ranks.max().item()) == (pytest.approx(1 / 16), 1)
    assert result.about["regions"] == [16, 16]


def test_a_region_that_helps_only_with_another_is_found_with_it():
    """A pair that is worth much together is worth nothing alone: it is found once its first half came by chance."""

    def pair(x):
        left, right = x[:, :, :, :4].mean((1, 2, 3)), x[:, :, :, 4:].mean((1, 2, 3))
        return torch.stack([left * right + 0.1 * left, x.mean((1, 2, 3))], 1)

    result = GreedyOrder(Cells((1, 2)), score="logit")(pair, torch.ones(1, 3, 8, 8), 0)
    assert result.map[0, 0, 0].tolist() == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]


def test_it_counts_as_many_masks_as_it_says():
    asked = []

    def counted(x):
        asked.append(len(x))
        return weighed(x)

    GreedyOrder(Cells(7), "preserve")(
        counted, torch.rand(1, 3, 14, 14).clamp(min=0.1)[..., :8, :8].repeat(1, 1, 2, 2)[..., :8, :8], 0
    )
    few = sum(asked)
    assert 0.9 * 820 < few < 1.1 * 820 + 10


def test_batch_and_singles_agree_also_with_regions_of_different_numbers():
    def halves(inputs):
        """As many columns of regions as the first value says."""
        columns = torch.arange(inputs.shape[-1])
        return torch.stack([(columns * int(x[0, 0, 0]) // len(columns)).expand(inputs.shape[2:]) for x in inputs])

    inputs = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs[:, 0, 0, 0] = torch.tensor([1.0, 4.0, 8.0])
    method = GreedyOrder(regions=halves, score="logit")
    together = method(weighed, inputs, 0)
    for index in range(3):
        torch.testing.assert_close(together.map[index], method(weighed, inputs[index : index + 1], 0).map[0])
    assert together.about["regions"] == [1, 4, 8]
    assert together.map[0].unique().tolist() == [1]


def test_choices_are_reported():
    choices = []
    GreedyOrder(Cells(4), score="logit")(weighed, torch.ones(2, 3, 8, 8), 0, progress=choices.append)
    assert [choice.index for choice in choices] == list(range(15))
    assert {choice.steps for choice in choices} == {15}
    areas = torch.stack([choice.areas for choice in choices])
    assert (areas.diff(dim=0) >= 0).all()
    assert areas[-1].tolist() == pytest.approx([9 / 16] * 2)  # and the last one, which nothing is left beside


def test_a_network_that_sees_nothing_is_said_to():
    with pytest.warns(UserWarning, match="does not change with the input"):
        GreedyOrder(Cells(2))(lambda x: torch.zeros(len(x), 2), torch.ones(1, 3, 8, 8), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regions": Cells}, r"regions must be a configuration such as Cells\(7\)"),
        ({"regions": lambda x: x}, "regions must give whole numbers of the shape"),
        ({"regions": Cells(9)}, "an input of 8 x 8 places has no 9 x 9 cells"),
        ({"candidates": 0}, "candidates must be a whole number from 1 up"),
        ({"both_ends": 1}, "both_ends"),
        ({"game": "keep"}, "game must be one of"),
        ({"perturbation": (Fade(), Fade())}, "GreedyOrder hides places with one perturbation"),
        ({"smooth": -1}, "smooth"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GreedyOrder(**settings)(weighed, torch.ones(1, 3, 8, 8), 0)


@pytest.mark.parametrize("shape", [(10,), (7, 9), (4, 6, 5)])
def test_cells_divide_every_shape_evenly(shape):
    labels = Cells(3)(torch.zeros(2, 1, *shape))
    assert labels.shape == (2, *shape)
    counts = labels[0].flatten().bincount()
    assert len(counts) == 3 ** len(shape)
    sides = [{length // 3, -(-length // 3)} for length in shape]
    assert set(counts.tolist()) <= {int(torch.tensor(each).prod()) for each in itertools.product(*sides)}


@pytest.mark.parametrize("counts", [0, -1, (2, 2.5), "7", True])
def test_wrong_counts_of_cells_are_refused(counts):
    with pytest.raises(ValueError, match="counts are whole numbers of cells"):
        Cells(counts)


def test_superpixels_follow_colours():
    pytest.importorskip("skimage", reason="superpixels need scikit-image")
    picture = torch.zeros(3, 60, 60)
    picture[0, :, :20], picture[1, :, 20:], picture[2, 30:] = 1, 1, 1
    labels = Superpixels(count=16)(torch.stack([picture, picture.flip(2)]))
    assert labels.shape == (2, 60, 60)
    assert torch.equal(labels[0].unique(), torch.arange(labels[0].max() + 1))
    colours = (picture * torch.tensor([1.0, 2, 4]).view(3, 1, 1)).sum(0)
    mixed = sum(
        len(colours[4:-4, 4:-4][labels[0][4:-4, 4:-4] == region].unique()) > 1 for region in labels[0].unique().tolist()
    )
    assert mixed == 0
    with pytest.raises(ValueError, match="two or three axes"):
        Superpixels()(torch.rand(1, 3, 20))


def test_superpixels_of_a_volume_and_of_one_channel():
    pytest.importorskip("skimage", reason="superpixels need scikit-image")
    assert Superpixels(8)(torch.rand(1, 2, 8, 8, 8)).shape == (1, 8, 8, 8)
    assert Superpixels(8)(torch.rand(1, 1, 16, 16)).shape == (1, 16, 16)


@pytest.mark.parametrize("settings", [{"count": 0}, {"count": 2.5}, {"compactness": 0}])
def test_wrong_superpixels_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Superpixels(**settings)


def test_what_it_comes_from_is_cited():
    text = sfumato.citation(GreedyOrder(Superpixels()))
    assert "2402.09164" in text
    assert "SLIC superpixels" in text
