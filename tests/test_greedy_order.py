"""The greedy order beside a literal version, on functions whose best order is known, and its regions."""

import itertools

import pytest
import torch
from networks import network

import sfumato
from sfumato import Cells, Fade, Game, GreedyOrder, PhaseWindows, Superpixels

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


def in_windows(value, count, size=16, keep=0.8, drop=0.3, accept=0.9, jump=0.02):
    """The order of regions by the published rules, with the regions scored at each look."""
    front, aside, looks = [], [], []

    def gains(regions):
        looks.append(list(regions))
        return {region: value([*front, region]) - value(front) for region in regions}

    def best_first(scored):
        return sorted(scored, key=scored.get, reverse=True)

    left = list(range(count))
    while len(left) > 1:
        scored = gains(left)
        top = best_first(scored)[0]
        if scored[top] <= 0:
            break
        front.append(top)
        left.remove(top)
        history = [scored[top]]
        scored = gains(left)
        largest = max(scored.values())
        if largest <= 0:
            break
        aside += [region for region in left if scored[region] < drop * largest]
        left = [region for region in best_first(scored) if region not in aside]
        queue = [region for region in left if scored[region] >= keep * largest]
        while queue:
            scored = gains(queue[:size])
            cut = max(keep * largest, accept * max(scored.values()))
            taken = [region for region in best_first(scored) if scored[region] >= cut]
            stop = not taken
            for region in taken:
                gain = scored[region]
                falls = len(history) > 1 and history[-1] / gain - history[-2] / history[-1] > jump
                if not falls or gain >= 0.95 * history[-1]:
                    front.append(region)
                    left.remove(region)
                    queue.remove(region)
                    history.append(gain)
                if falls:
                    stop = True
                    break
            if stop:
                break
    for rest in (left, aside):
        front += best_first(gains(rest)) if len(rest) > 1 else rest
    return front, looks


def order_of(saliency, labels):
    """The regions in the order of a map."""
    return sorted(labels.unique().tolist(), key=lambda region: -float(saliency[labels == region][0]))


@pytest.mark.parametrize("settings", [{}, {"size": 3}, {"keep": 0.4, "accept": 0.5}, {"drop": 0.05, "jump": 5.0}])
@pytest.mark.parametrize("seed", [0, 1])
def test_windows_agree_with_a_literal_version(settings, seed):
    net, x = network(), torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    labels = Cells(5)(x)[0]
    asked = []

    def counted(inputs):
        asked.append(len(inputs))
        return net(inputs)

    def value(regions):
        mask = torch.isin(labels, torch.tensor(regions, dtype=torch.long)).float()
        with torch.no_grad():
            return 20 * float(net(x * mask)[0, 1]) - float(net(x * (1 - mask))[0, 1])

    method = GreedyOrder(Cells(5), Game(20, 1), score="logit", windows=PhaseWindows(**settings))
    found = order_of(method(counted, x, 1).map[0, 0], labels)
    right, looks = in_windows(value, 25, **settings)
    assert found == right
    assert sum(asked) == pytest.approx(
        2 * sum(len(look) + 1 for look in looks), abs=3
    )  # and the whole, and the hidden input


def test_windows_order_independent_regions_by_their_weights_with_fewer_masks():
    labels = Cells(4)(torch.ones(1, 3, 8, 8))[0]
    counts = {}
    for windows in (None, PhaseWindows()):
        asked = []

        def counted(x, asked=asked):
            asked.append(len(x))
            return weighed(x)

        method = GreedyOrder(Cells(4), "preserve", score="logit", both_ends=False, windows=windows)
        found = order_of(method(counted, torch.ones(1, 3, 8, 8), 0).map[0, 0], labels)
        assert found == WEIGHTS.flatten().argsort(descending=True).tolist()
        counts[windows] = sum(asked)
    assert counts[PhaseWindows()] < 0.8 * counts[None]


@pytest.mark.parametrize(
    ("weights", "looks"),
    [
        ([100, 99, 98, 97, 96], [5, 4, 4]),  # all at one look
        ([100, 99, 98, 90, 89], [5, 4, 4, 2, 1, 1]),  # 90 falls faster, and is the best of the next phase
        (
            [100, 99, 98, 95, 94],
            [5, 4, 4],
        ),  # 95 falls faster too, but is near enough to be accepted, and 94 is the last
        ([100, 50, 49, 1, 1], [5, 4, 2, 2]),  # the last two are put aside
        ([-1, -2, -3, -4, -5], [5, 5]),  # nothing gains
    ],
)
def test_a_phase_ends_where_gains_fall(weights, looks):
    seen = []

    def net(x):
        seen.append(len(x))
        return (x.mean((1, 2)) * torch.tensor(weights, dtype=torch.float32)).sum(1)[:, None]

    method = GreedyOrder(Cells((1, 5)), "preserve", score="logit", windows=PhaseWindows())
    found = method(net, torch.ones(1, 1, 1, 5), 0).map[0, 0, 0]
    assert found.tolist() == sorted(found.tolist(), reverse=True)
    assert [count - 1 for count in seen[-len(looks) :]] == looks


def test_progress_in_windows_ends_at_the_last_step():
    choices = []
    method = GreedyOrder(Cells(4), score="logit", windows=PhaseWindows())
    method(weighed, torch.ones(2, 3, 8, 8), 0, progress=choices.append)
    indices = [choice.index for choice in choices]
    assert indices == sorted(indices)
    assert indices[-1] == 14
    assert {choice.steps for choice in choices} == {15}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 0}, "size"),
        ({"keep": 0}, "keep"),
        ({"drop": 1.5}, "drop"),
        ({"keep": 0.2}, "drop must be at most keep"),
        ({"jump": 0}, "jump"),
    ],
)
def test_wrong_windows_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        PhaseWindows(**settings)


def test_windows_must_be_windows():
    with pytest.raises(ValueError, match=r"windows must be PhaseWindows\(\)"):
        GreedyOrder(windows=True)


def test_a_tie_that_rounding_decides_goes_to_the_first_region():
    """All cells but one count alike. Their scores differ by a little that depends on the other rows of a batch."""

    def scores(outputs):
        noise = 1e-7 * torch.linspace(-1, 1, len(outputs)) if len(outputs) > 1 else 0.0
        return outputs.mean((1, 2, 3)) * (1 + noise)

    inputs = torch.ones(1, 1, 21, 21)
    inputs[..., 14:, 14:] = 2
    order = GreedyOrder(regions=Cells(3), game="preserve", both_ends=False)
    forward = order(lambda rows: rows, inputs, scores).map
    backward = order(lambda rows: rows, inputs, lambda outputs: scores(outputs.flip(0)).flip(0)).map
    assert torch.equal(forward, backward)
    assert (forward[0, 0, 20, 20], forward[0, 0, 0, 0]) == (1, pytest.approx(8 / 9))
