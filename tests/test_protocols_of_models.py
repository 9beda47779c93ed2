"""Protocols that question the model: numbers found by hand, naive references, and what they leave untouched."""

import copy
import dataclasses
import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfumato import Blur, Constant, ExtremalPerturbation, Fade, Gradient, Logit, Noise, SmoothMask
from sfumato.attribution import Attribution
from sfumato.masks.regions import Superpixels
from sfumato.metrics.agreement import Agreement
from sfumato.metrics.artefacts import Artefacts
from sfumato.metrics.case import Case
from sfumato.metrics.insertion_deletion import InsertionDeletion, evenly
from sfumato.metrics.likeness import order, overlap, spearman, ssim, stretched
from sfumato.metrics.monotonicity import Monotonicity
from sfumato.metrics.randomisation import Randomisation, called
from sfumato.metrics.stability import Stability
from sfumato.metrics.sufficient_area import SufficientArea
from sfumato.metrics.transfer import Transfer
from sfumato.settings import as_json
from sfumato.space.smoothing import gaussian_blur

HAS_SCIPY = importlib.util.find_spec("scipy") is not None
HAS_SKIMAGE = importlib.util.find_spec("skimage") is not None


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def linear(*weights):
    """Logits $w_k \\cdot x$, one for each list of weights."""
    matrix = torch.tensor(weights, dtype=torch.float32)
    return lambda inputs: inputs.flatten(1) @ matrix.T


def of_map(values, model=None, inputs=None, **more):
    return Case(Attribution(torch.tensor(values, dtype=torch.float32)[None, None]), model, inputs, **more)


def four(weights=(4.0, 3.0, 2.0, 1.0), values=((4, 3), (2, 1)), **more):
    """A picture of 2 × 2 ones, and a model whose logit is a weighted sum of its places; class 1 is always 0."""
    return of_map(values, linear(weights, (0.0,) * 4), torch.ones(1, 1, 2, 2), target=0, **more)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 5),
        )


def real(seed=0, size=(15, 13), **more):
    """A small network and a noise picture, with the map of its gradient."""
    net, inputs = network(seed).eval(), random(1, 3, *size, seed=seed + 1)
    method = Gradient()
    return Case(method(net, inputs, 2), net, inputs, 2, method, seed=7, others={"other": network(seed + 9)}, **more)


ALL = [
    InsertionDeletion(steps=10),
    SufficientArea(steps=20),
    Monotonicity(),
    Transfer(),
    Artefacts(draws=2),
    Stability(draws=3),
    Randomisation(),
    Agreement(),
]
UNKNOWN = {"home", "kept at home", "lost", "worth", "alone", "worth over other contents"}
"""What may be NaN: a map has no home, and hiding all places may take no score away from noise."""


# Likeness.


def naive_ranks(values):
    return [
        1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def naive_spearman(a, b):
    x, y = naive_ranks(a), naive_ranks(b)
    n = len(x)
    mx, my = sum(x) / n, sum(y) / n
    top = sum((p - mx) * (q - my) for p, q in zip(x, y, strict=True))
    return top / math.sqrt(sum((p - mx) ** 2 for p in x) * sum((q - my) ** 2 for q in y))


def test_spearman_of_ties_by_hand():
    """Ranks 1, 2, 3, 4 and 1, 2.5, 2.5, 4: covariance 4.5, squares 5 and 4.5."""
    found = spearman(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 10.0, 10.0, 100.0]))
    assert found == pytest.approx(4.5 / math.sqrt(5 * 4.5), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_spearman_is_the_naive_one(pairs):
    a, b = (list(column) for column in zip(*pairs, strict=True))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(torch.tensor(a), torch.tensor(b)))
        return
    assert spearman(torch.tensor(a), torch.tensor(b)) == pytest.approx(naive_spearman(a, b), abs=1e-12)
    assert spearman(torch.tensor(a).double().exp(), -torch.tensor(b)) == pytest.approx(-naive_spearman(a, b), abs=1e-12)


@pytest.mark.skipif(not HAS_SCIPY, reason="scipy is not installed")
def test_spearman_is_scipys():
    from scipy.stats import spearmanr

    a, b = random(40, 30).round(decimals=1), random(40, 30, seed=1).round(decimals=1)
    assert spearman(a, a + b) == pytest.approx(spearmanr(a.flatten(), (a + b).flatten()).statistic, abs=1e-12)


def naive_ssim(a, b, data_range):
    """Wang et al. 2004, eq. 13, place by place."""
    weights = [[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)]
    total = sum(map(sum, weights))
    found = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            places = [(i, j, weights[i][j] / total) for i in range(11) for j in range(11)]
            one = [float(a[top + i, left + j]) for i, j, _ in places]
            two = [float(b[top + i, left + j]) for i, j, _ in places]
            w = [weight for *_, weight in places]
            ma, mb = (sum(p * q for p, q in zip(w, values, strict=True)) for values in (one, two))
            va, vb = (
                sum(p * (q - m) ** 2 for p, q in zip(w, values, strict=True)) for values, m in ((one, ma), (two, mb))
            )
            cov = sum(p * (q - ma) * (r - mb) for p, q, r in zip(w, one, two, strict=True))
            c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
            found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2)))
    return sum(found) / len(found)


def test_ssim_is_the_naive_one():
    a, b = random(14, 13).double(), random(14, 13, seed=1).double()
    assert ssim(a, a + b, 4.0) == pytest.approx(naive_ssim(a, a + b, 4.0), abs=1e-12)


@pytest.mark.skipif(not HAS_SKIMAGE, reason="scikit-image is not installed")
@pytest.mark.parametrize("shape", [(64,), (40, 31), (15, 17, 13)])
def test_ssim_is_that_of_scikit_image(shape):
    from skimage.metrics import structural_similarity

    a = stretched(random(*shape))
    b = stretched(a + 0.3 * random(*shape, seed=1))
    theirs = structural_similarity(
        a.numpy(), b.numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )
    assert ssim(a, b) == pytest.approx(theirs, abs=1e-10)


def test_ssim_of_constants_by_hand():
    """Without variance, only the means count: (2 · 0.5 · 1 + C) / (0.25 + 1 + C) with C = 0.0001."""
    found = ssim(torch.full((12, 12), 0.5), torch.ones(12, 12))
    assert found == pytest.approx(1.0001 / 1.2501, abs=1e-9)


def test_ssim_with_a_window_that_fits():
    """One place along the first axis and all five along the second: both means are 1/2, and only covariances differ."""
    a = torch.arange(5).double()[None] / 4
    kernel = torch.exp(-0.5 * (torch.arange(-2, 3).double() / 1.5).square())
    kernel /= kernel.sum()
    variance = float((kernel * (a[0] - 0.5).square()).sum())
    c = 0.03**2
    assert ssim(a, 1 - a) == pytest.approx((c - 2 * variance) / (c + 2 * variance), abs=1e-12)
    assert ssim(a, a) == pytest.approx(1)


def test_overlap_by_hand():
    a = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    b = torch.tensor([5.0, 0.0, 4.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert overlap(a, b, 0.3) == 2 / 4  # {0, 1, 2} and {0, 2, 3}
    assert overlap(a, b, 0.1) == 1
    assert overlap(torch.zeros(30), torch.zeros(30), 0.1) == 1  # of equal places, the same go first


def test_the_earlier_of_equal_places_goes_first():
    assert order(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).tolist() == [[2, 0], [1, 3]]


def test_maps_that_cannot_be_compared():
    with pytest.raises(ValueError, match="same size"):
        spearman(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="NaN"):
        spearman(torch.zeros(2), torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match="one shape"):
        ssim(torch.zeros(2, 3), torch.zeros(3, 2))


# Insertion and deletion.


def test_areas_under_both_curves_by_hand():
    """Deleted: 10, 6, 3, 1, 0. Inserted: 0, 4, 7, 9, 10."""
    protocol = InsertionDeletion(insertion=Constant(), score="logit", curves=True)
    row = protocol.measure(four())
    assert row["insertion_curve"] == [0, 4, 7, 9, 10]
    assert row["deletion_curve"] == [10, 6, 3, 1, 0]
    assert row["insertion"] == (0 / 2 + 4 + 7 + 9 + 10 / 2) / 4
    assert row["deletion"] == (10 / 2 + 6 + 3 + 1 + 0 / 2) / 4
    assert row["difference"] == 6.25 - 3.75
    assert row["whole"] == 10


@pytest.mark.parametrize(
    ("labels", "shares", "inserted"),
    [
        ([[0, 1], [0, 1]], [0, 0.5, 1], [0, 6, 10]),  # columns, of which the left comes first
        ([[5, 2], [2, 2]], [0, 0.25, 1], [0, 4, 10]),  # regions of different sizes; numbers may be any
        ([[1, 1], [0, 1]], [0, 0.75, 1], [0, 8, 10]),  # at the mean rank 4/3, before that of rank 2
    ],
)
def test_regions_come_as_a_whole_in_the_order_of_their_mean_rank(labels, shares, inserted):
    protocol = InsertionDeletion(
        insertion=Constant(), score="logit", curves=True, regions=lambda inputs: torch.tensor(labels).expand(1, 2, 2)
    )
    row = protocol.measure(four())
    assert row["insertion_curve"] == inserted
    assert row["deletion_curve"] == [10 - value for value in inserted]
    assert row["insertion"] == np.trapezoid(inserted, shares)


def test_the_probability_and_the_order_of_ties_by_hand():
    """A flat map goes row by row: the logit over that of class 1 is 0, 4, 7, 9, 10."""
    protocol = InsertionDeletion(insertion=Constant(), curves=True)
    row = protocol.measure(four(values=((1, 1), (1, 1))))
    wanted = [1 / (1 + math.exp(-logit)) for logit in (0, 4, 7, 9, 10)]
    assert row["insertion_curve"] == pytest.approx(wanted, abs=1e-6)


def test_another_score_stays_as_it_is():
    protocol = InsertionDeletion(insertion=Constant())
    found = protocol.measure(four(weights=(1.0, 2.0, 3.0, 4.0)))
    assert found["insertion"] < 1
    target = Logit(0) - 2 * Logit(1)
    case = Case(four().attribution, four().model, four().inputs, target)
    assert protocol.measure(case)["insertion"] == 6.25


def test_steps_that_do_not_divide_the_places_against_a_naive_loop():
    case = real()
    places = case.map.numel()
    row = InsertionDeletion(
        steps=7, insertion=Blur(max_sigma=5, levels=2), deletion=Constant(0.5), curves=True
    ).measure(case)
    sequence = sorted(range(places), key=lambda place: -float(case.map.flatten()[place]))
    blurred = gaussian_blur(case.inputs, 5)
    shares, scores = [], {"insertion": [], "deletion": []}
    for count in evenly(7, places).tolist():
        for name, below, above in (
            ("insertion", case.inputs, blurred),
            ("deletion", torch.full_like(case.inputs, 0.5), case.inputs),
        ):
            x = above.clone()
            for place in sequence[:count]:
                x.flatten(2)[..., place] = below.flatten(2)[..., place]
            scores[name].append(float(case.model(x).detach().softmax(1)[0, 2]))
        shares.append(count / places)
    for name, values in scores.items():
        area = sum((shares[k + 1] - shares[k]) * (values[k + 1] + values[k]) / 2 for k in range(len(shares) - 1))
        assert row[f"{name}_curve"] == pytest.approx(values, abs=1e-5)
        assert row[name] == pytest.approx(area, abs=1e-5)


def test_a_good_map_beats_a_bad_one_on_both():
    protocol = InsertionDeletion(insertion=Constant(), score="logit")
    good, bad = protocol.measure(four()), protocol.measure(four(values=((1, 2), (3, 4))))
    assert good["insertion"] > bad["insertion"]
    assert good["deletion"] < bad["deletion"]


def test_sounds_and_volumes_have_curves_too():
    for shape in ((12,), (3, 4, 2)):
        weights = torch.arange(1.0, 1 + math.prod(shape))
        case = Case(
            Attribution(weights.view(1, 1, *shape)),
            lambda x, weights=weights: x.flatten(1) @ weights[:, None],
            torch.ones(1, 1, *shape),
            0,
        )
        row = InsertionDeletion(insertion=Fade(), score="logit").measure(case)
        assert row["insertion"] + row["deletion"] == pytest.approx(row["whole"])


# The smallest sufficient area.


@pytest.mark.parametrize(("keep", "area"), [(0.3, 0.25), (0.4, 0.25), (0.5, 0.5), (0.9, 0.75), (0.95, 1.0)])
def test_the_smallest_sufficient_part_by_hand(keep, area):
    row = SufficientArea(keep=keep, perturbation=Fade(), score="logit").measure(four())
    assert row["area"] == area
    assert row["reached"] == (area < 1)
    assert row["whole"] == 10


def test_the_bracket_before_the_first_crossing_is_halved():
    """Of 64 × 64 equal places, 0.3333 of the score needs 1366 of them, found to 1 / 160 of 4096, 25.6."""
    model = linear([1.0] * 4096)
    case = of_map(torch.zeros(64, 64).tolist(), model, torch.ones(1, 1, 64, 64), target=0)
    row = SufficientArea(keep=0.3333, steps=10, perturbation=Fade(), score="logit").measure(case)
    assert 1366 / 4096 <= row["area"] <= (1366 + 25.6) / 4096


def test_a_blank_picture_that_suffices_needs_nothing():
    model = lambda x: x.flatten(1).sum(1, keepdim=True) * 0 + 5  # noqa: E731
    row = SufficientArea(score="logit").measure(of_map(((1, 2), (3, 4)), model, torch.ones(1, 1, 2, 2), target=0))
    assert row["area"] == 0


def with_masks(scores=None, about=None):
    """Masks that show the places 4, 4 + 3 and 4 + 3 + 2 of `four`."""
    masks = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]).float().view(1, 3, 1, 2, 2)
    found = Attribution(
        masks.mean(1),
        masks,
        areas=torch.tensor([0.25, 0.5, 0.75]),
        achieved=torch.tensor([[0.25, 0.5, 0.75]]),
        scores=scores,
        about=about or {},
    )
    case = four()
    return Case(found, case.model, case.inputs, case.target)


def test_the_methods_own_masks_where_the_setting_says_so():
    protocol = SufficientArea(keep=0.6, perturbation=Fade(), score="logit", masks=True)
    assert protocol.measure(with_masks()) == {"area": 0.5, "reached": True, "masks": True, "whole": 10}
    none = SufficientArea(keep=0.95, perturbation=Fade(), score="logit", masks=True).measure(with_masks())
    assert (none["area"], none["reached"]) == (1, False)
    assert protocol.measure(four())["masks"] is False


def test_a_score_that_is_not_positive_has_no_shares():
    for protocol in (SufficientArea(score="logit"), Transfer(score="logit")):
        with pytest.raises(ValueError, match="must be positive.* got -10"):
            protocol.measure(four(weights=(-4.0, -3.0, -2.0, -1.0)))


# Monotonicity.


@pytest.mark.parametrize(
    ("scores", "correlation", "strict", "growing"),
    [
        ([1.0, 2.0, 3.0], 1, True, 1),
        ([1.0, 3.0, 2.0], 0.5, False, 0.5),
        ([3.0, 2.0, 1.0], -1, False, 0),
        ([1.0, 1.0, 2.0], 1.5 / math.sqrt(3), False, 0.5),
    ],
)
def test_the_scores_of_masks_by_hand(scores, correlation, strict, growing):
    row = Monotonicity().measure(with_masks(torch.tensor([scores])))
    assert row["rank_correlation"] == pytest.approx(correlation)
    assert (row["strict"], row["growing"], row["masks"]) == (strict, growing, True)


def test_masks_without_scores_and_maps_are_asked_for():
    asked = Monotonicity(perturbation=Fade(), score="logit").measure(with_masks())
    assert (asked["rank_correlation"], asked["strict"], asked["masks"]) == (1, True, True)
    falling = four(weights=(1.0, -1.0, -1.0, 5.0))  # 1, 0, -1 and 4
    protocol = Monotonicity(areas=(0.25, 0.5, 0.75), perturbation=Fade(), score="logit")
    row = protocol.measure(falling)
    assert (row["rank_correlation"], row["growing"], row["masks"]) == (-1, 0, False)


def test_scores_that_are_all_equal_have_no_rank_correlation():
    row = Monotonicity().measure(with_masks(torch.ones(1, 3)))
    assert math.isnan(row["rank_correlation"])
    assert not row["strict"]


def test_areas_too_fine_for_the_map():
    with pytest.raises(ValueError, match="4 places"):
        Monotonicity().measure(four())


# Transfer.


def test_what_masks_keep_elsewhere_by_hand():
    """Faded, the masks keep 4, 7 and 9 of 10; with ones in place of what they hide, the picture of ones is whole."""
    home = {"method": {"class": "sfumato.perturbations:Constant", "value": 0.0}}
    about = {"method": {"perturbation": home["method"]}}
    protocol = Transfer((Constant(0.0), Constant(1.0), Constant(-1.0)), score="logit")
    row = protocol.measure(with_masks(about=about))
    assert row["kept Constant"] == pytest.approx((4 + 7 + 9) / 30)
    assert row["kept Constant 2"] == pytest.approx(1)
    assert row["kept Constant 3"] == pytest.approx((-2 + 4 + 8) / 30)
    assert row["home"] == row["kept Constant"]
    assert row["elsewhere"] == pytest.approx((1 + 1 / 3) / 2)
    assert row["lost"] == pytest.approx(2 / 3 - 2 / 3)
    assert row["masks"]


def test_a_home_that_is_not_among_those_tried():
    row = Transfer((Constant(1.0),), home=Fade(), score="logit").measure(with_masks())
    assert (row["home"], row["elsewhere"]) == (pytest.approx(2 / 3), 1)


def test_a_map_has_no_home_and_its_highest_part_is_the_mask():
    row = Transfer((Fade(), Constant(1.0)), area=0.5, score="logit").measure(four())
    assert row["kept Fade"] == pytest.approx(0.7)
    assert math.isnan(row["home"])
    assert row["elsewhere"] == pytest.approx(0.85)
    assert not row["masks"]


def test_home_is_what_a_real_result_says_of_itself():
    """And what is kept there is what the method says its masks keep, a logit."""
    net, inputs = network().eval(), random(1, 3, 24, 24)
    target = int(net(inputs).argmax())
    method = ExtremalPerturbation(
        areas=(0.2, 0.5), steps=3, mask=SmoothMask(step=3, sigma=4), perturbation=Noise(std=0.5)
    )
    found = method(net, inputs, target)
    row = Transfer((Fade(), Noise(std=0.5)), score="logit").measure(Case(found, net, inputs, target))
    assert row["home"] == row["kept Noise"] == pytest.approx(float(found.scores.mean() / found.whole), rel=1e-5)
    assert row["elsewhere"] == row["kept Fade"]


def test_several_perturbations_are_at_home_together():
    """Kept under the first (4 + 7 + 9) / 30, under the second all."""
    two = (Constant(0.0), Constant(1.0))
    protocol = Transfer((*two, Constant(-1.0)), score="logit")
    row = protocol.measure(with_masks(about={"perturbation": as_json(two)}))
    assert row["home"] == pytest.approx((2 / 3 + 1) / 2)
    assert row["elsewhere"] == row["kept Constant 3"]


def test_what_was_used_is_home_also_where_the_settings_leave_it_open():
    net, inputs = network().eval(), random(1, 3, 24, 24)
    target = int(net(inputs).argmax())
    method = ExtremalPerturbation(areas=(0.2, 0.5), steps=3, mask=SmoothMask(step=3, sigma=4))
    found = method(net, inputs, target)
    row = Transfer((Fade(), Blur()), score="logit").measure(Case(found, net, inputs, target))
    assert row["home"] == row["kept Blur"] == pytest.approx(float(found.scores.mean() / found.whole), rel=1e-5)
    layered = dataclasses.replace(
        method, layer=next(name for name, part in net.named_modules() if isinstance(part, nn.Conv2d))
    )
    assert math.isnan(Transfer().measure(Case(layered(net, inputs, target), net, inputs, target))["home"])


def test_a_home_that_cannot_be_built_again_is_to_be_given():
    case = with_masks(about={"perturbation": "mine:Hide"})
    with pytest.raises(ValueError, match=r"'mine:Hide', which cannot .* as Transfer\(home=…\)"):
        Transfer((Fade(),)).measure(case)
    assert Transfer((Fade(),), home=Fade(), score="logit").measure(case)["home"] == pytest.approx(2 / 3)


# Stability.


def test_a_map_that_is_the_picture_changes_as_it_does():
    """S(x) = x: the quotient is 1, and the change that of the picture."""
    inputs = random(1, 1, 6, 5)
    method = lambda model, x, target: Attribution(x)  # noqa: E731
    case = Case(method(None, inputs, 0), network(), inputs, 0, method, seed=3)
    row = Stability(draws=4, noise=0.1).measure(case)
    generator = torch.Generator().manual_seed(3)
    deviation = 0.1 * float(inputs.max() - inputs.min())
    noises = [deviation * torch.randn(inputs.shape, generator=generator) for _ in range(4)]
    changes = [float(noise.norm() / inputs.norm()) for noise in noises]
    correlations = [naive_spearman(inputs.flatten().tolist(), (inputs + noise).flatten().tolist()) for noise in noises]
    assert row["quotient"] == pytest.approx(1)
    assert row["change"] == pytest.approx(sum(changes) / 4, rel=1e-5)
    assert row["change_worst"] == pytest.approx(max(changes), rel=1e-5)
    assert row["rank_correlation"] == pytest.approx(sum(correlations) / 4, abs=1e-9)
    assert row["rank_correlation_worst"] == pytest.approx(min(correlations), abs=1e-9)


def test_the_gradient_of_a_linear_model_is_stable():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    inputs, method = random(1, 1, 3, 4), Gradient()
    row = Stability().measure(Case(method(net, inputs, 0), net, inputs, 0, method))
    assert (row["change_worst"], row["quotient"]) == (0, 0)
    assert row["rank_correlation_worst"] == pytest.approx(1)


# Randomisation.


class Known(nn.Linear):
    """A layer without bias whose fresh weights are known."""

    def __init__(self, weights, fresh):
        self.fresh = None
        super().__init__(len(weights[0]), len(weights), bias=False)
        self.fresh = torch.tensor(fresh)
        self.weight.data = torch.tensor(weights)

    def reset_parameters(self):
        if self.fresh is not None:
            self.weight.data = self.fresh.clone()


def weights_of(model, inputs, target):
    """The map of a composition of linear layers: the row of their product."""
    product = torch.eye(4)
    for layer in model:
        product = layer.weight.detach() @ product
    return Attribution(product[target].view(1, 1, *inputs.shape[2:]))


def test_the_cascade_by_hand():
    """Product 1 2 3 4; with the last layer forgotten (a sign), 4 3 2 1 less 5; with both, 1 3 2 4."""
    net = nn.Sequential(Known([[1.0, 2.0, 3.0, 4.0]], [[-1.0, -3.0, -2.0, -4.0]]), Known([[1.0]], [[-1.0]]))
    inputs = torch.ones(1, 1, 4)
    row = Randomisation().measure(Case(weights_of(net, inputs, 0), net, inputs, 0, weights_of))
    assert row["rank_correlation 1"] == pytest.approx(-1)
    assert row["rank_correlation 0"] == pytest.approx(0.8)
    assert row["rank_correlation all"] == row["rank_correlation 0"]
    assert row["rank_correlation"] == pytest.approx(-0.1)
    assert row["layers"] == 2
    ramp, swapped = torch.tensor([0, 1, 2, 3]).double() / 3, torch.tensor([0, 2, 1, 3]).double() / 3
    assert row["ssim 1"] == pytest.approx(ssim(ramp, 1 - ramp))
    assert row["ssim 0"] == pytest.approx(ssim(ramp, swapped))


@pytest.mark.parametrize("draw", ["reset", "normal", "permutation"])
def test_layers_are_forgotten_from_the_last_one_down_in_a_copy(draw):
    net, inputs = network(), random(1, 3, 9, 9)
    before = copy.deepcopy(net.state_dict())
    names, changed = [], []
    for count, name, other in Randomisation(draw).cascade(net, inputs, 0):
        assert count == len(names) + 1
        names.append(name)
        same = {key for key, value in other.state_dict().items() if torch.equal(value, before[key])}
        changed.append({key.split(".")[0] for key in before if key not in same})
    assert names == ["6", "2", "0"]
    assert changed == [{"6"}, {"6", "2"}, {"6", "2", "0"}]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_normal_numbers_keep_the_mean_and_the_deviation_and_a_permutation_all_values():
    net = nn.Sequential(nn.Flatten(), nn.Linear(400, 50))
    net[1].weight.data = 3 + 0.5 * random(50, 400)
    inputs = random(1, 1, 20, 20)
    ((_, _, normal),) = Randomisation("normal").cascade(net, inputs, 0)
    ((_, _, permuted),) = Randomisation("permutation").cascade(net, inputs, 0)
    assert float(normal[1].weight.detach().mean()) == pytest.approx(3, abs=0.02)
    assert float(normal[1].weight.detach().std()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(
        permuted[1].weight.detach().flatten().sort().values, net[1].weight.detach().flatten().sort().values
    )
    assert not torch.equal(permuted[1].weight, net[1].weight)


def test_fewer_looks_see_the_same_cascade():
    case = real()
    every, two, one = (Randomisation(looks=looks).measure(case) for looks in (None, 2, 1))
    assert [key for key in two if key.startswith("ssim ")] == ["ssim 6", "ssim 0", "ssim all"]
    assert all(
        two[f"{name} {layer}"] == every[f"{name} {layer}"] for name in ("ssim", "rank_correlation") for layer in (6, 0)
    )
    assert one["ssim"] == one["ssim all"] == every["ssim all"]


def test_a_method_that_ignores_the_network_is_found_out():
    case = real()
    method = lambda model, x, target: Attribution(x.abs().mean(1, keepdim=True))  # noqa: E731
    row = Randomisation().measure(Case(method(None, case.inputs, 2), case.model, case.inputs, 2, method))
    assert row["rank_correlation"] == pytest.approx(1)
    assert row["ssim"] == pytest.approx(1)


def test_maps_without_any_signal_are_counted_and_have_no_correlation():
    """Once the last layer is all zeros, nothing of the picture reaches the score."""
    net = nn.Sequential(Known([[1.0, 2.0, 3.0, 4.0]], [[-1.0, -3.0, -2.0, -4.0]]), Known([[1.0]], [[0.0]]))
    inputs = torch.ones(1, 1, 4)
    row = Randomisation().measure(Case(weights_of(net, inputs, 0), net, inputs, 0, weights_of))
    assert row["constant"] == 2
    assert math.isnan(row["rank_correlation 1"])
    assert math.isnan(row["rank_correlation"])
    assert row["ssim 0"] < 1


def test_layers_go_in_the_order_of_their_calls_with_those_that_are_never_called():
    class Odd(nn.Module):
        """Declared last, called first; with a parameter of its own, attention, and a layer that nothing uses."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.head = nn.Linear(4, 2)
            self.attention = nn.MultiheadAttention(4, 2)
            self.stem = nn.Linear(4, 4)

        def forward(self, x):
            x = self.stem(x.flatten(2).transpose(1, 2) * self.scale)
            return self.head(self.attention(x, x, x)[0].mean(1))

    names = [name for name, _ in called(Odd(), random(1, 4, 3))]
    assert names == ["", "stem", "attention", "attention.out_proj", "head"]


def test_what_has_no_layers():
    for model, why in ((linear([1.0] * 4), "needs a torch.nn.Module"), (nn.Flatten(), "no layer")):
        case = four(method=Gradient())
        with pytest.raises(ValueError, match=why):
            Randomisation().measure(Case(case.attribution, model, case.inputs, 0, Gradient()))


# Agreement.


def test_the_agreement_of_two_networks_by_hand():
    inputs = torch.ones(1, 1, 4)
    mine = nn.Sequential(Known([[4.0, 3.0, 2.0, 1.0]], [[0.0] * 4]))
    others = {"same": copy.deepcopy(mine), "turned": nn.Sequential(Known([[1.0, 2.0, 3.0, 4.0]], [[0.0] * 4]))}
    case = Case(weights_of(mine, inputs, 0), mine, inputs, 0, weights_of, others=others)
    row = Agreement(share=0.75).measure(case)
    assert [row[f"{name} same"] for name in ("rank_correlation", "ssim", "overlap")] == pytest.approx([1, 1, 1])
    assert row["rank_correlation turned"] == pytest.approx(-1)
    assert row["overlap turned"] == 0.5  # {0, 1, 2} and {3, 2, 1}
    ramp = torch.arange(4).double() / 3
    assert row["ssim turned"] == pytest.approx(ssim(ramp, 1 - ramp))
    assert [measure.name for measure in Agreement().measures([row])][:2] == [
        "rank correlation with same",
        "SSIM with same",
    ]


# What all of them owe.


@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: type(protocol).__name__)
def test_rows_are_the_same_to_the_bit_and_plain(protocol):
    row, again = protocol.measure(real()), protocol.measure(real())
    assert json.dumps(row) == json.dumps(again)
    assert list(json.loads(json.dumps(row))) == list(row)
    assert {type(value) for value in row.values()} <= {float, bool, int}
    assert all(math.isfinite(value) for key, value in row.items() if key not in UNKNOWN)


@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: type(protocol).__name__)
def test_the_callers_world_stays_as_it_was(protocol):
    case = real()
    case.model.train()
    case.model[0].weight.requires_grad_(False)
    state = copy.deepcopy(case.model.state_dict())
    inputs, numbers = case.inputs.clone(), torch.get_rng_state()
    with torch.no_grad():
        protocol.measure(case)
        assert not torch.is_grad_enabled()
    assert case.model.training
    assert [parameter.requires_grad for parameter in case.model.parameters()] == [False] + [True] * 5
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in case.model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.model.modules())
    assert torch.equal(inputs, case.inputs)
    assert torch.equal(numbers, torch.get_rng_state())


@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: type(protocol).__name__)
def test_rows_come_down_to_estimates(protocol):
    rows = [protocol.measure(real(seed)) | {"picture": str(seed), "label": 2} for seed in (0, 1, 2)]
    table = protocol.summarise(rows)
    assert len(table) == len(protocol.measures(rows))
    # A large table's rows are not all held: the first one says which measures there are.
    assert [measure.name for measure in protocol.measures(rows[:1])] == list(table)
    known = {name: estimate for name, estimate in table.items() if name not in UNKNOWN}
    assert all(
        estimate.low <= estimate.value + 1e-12 and estimate.value <= estimate.high + 1e-12
        for estimate in known.values()
    )
    assert all(
        abs(estimate.value) < 1e-12
        for estimate in protocol.compared(rows, rows).values()
        if not math.isnan(estimate.value)
    )


@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: type(protocol).__name__)
def test_what_a_protocol_needs(protocol):
    with pytest.raises(ValueError, match=f"{type(protocol).__name__} needs"):
        protocol.measure(of_map(((1.0, 2.0), (3.0, 4.0))))


@pytest.mark.parametrize(
    "protocol", [InsertionDeletion(), SufficientArea(), Monotonicity(areas=(0.25, 0.5)), Transfer(), Artefacts()]
)
def test_maps_and_masks_that_mean_nothing(protocol):
    with pytest.raises(ValueError, match="not finite"):
        protocol.measure(four(values=((1, math.nan), (2, 3))))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: InsertionDeletion(regions=Superpixels), "regions must be a configuration"),
        (lambda: InsertionDeletion(steps=0), "steps must be a whole number from 1 up; got 0"),
        (lambda: InsertionDeletion(insertion=Blur), "insertion must be a perturbation such as Blur"),
        (
            lambda: InsertionDeletion(score="softmax"),
            "score must be one of logit, probability, log-odds, sigmoid; got 'softmax'",
        ),
        (lambda: SufficientArea(keep=90), "must lie in"),
        (lambda: Monotonicity(areas=(0.1,)), "two or more"),
        (lambda: Transfer(perturbations=()), "one or more"),
        (lambda: Transfer(area=10), "area is the share"),
        (lambda: Stability(noise=0), "noise is a fraction of the input's range"),
        (lambda: Randomisation("shuffle"), "draw must be one of reset, normal, permutation"),
        (lambda: Agreement(share=10), "share is a fraction"),
    ],
)
def test_settings_that_cannot_be_used(build, message):
    with pytest.raises(ValueError, match=message):
        build()
