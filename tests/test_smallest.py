"""The smallest sufficient area, on models whose score is a known function of the mask's area alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spots import ones, spots

from sfumato import ExtremalPerturbation, Fade, SmoothMask, smallest

METHOD = ExtremalPerturbation(steps=4, perturbation=Fade(), mask=SmoothMask(step=3, sigma=6), jitter=None)
INPUTS = torch.ones(3, 1, 18, 20)


def powers_of_the_area(exponents):
    """Classes whose score is the mean of what is seen, to these powers: of a mask of area a on white, a**p."""

    def model(inputs):
        mean = inputs.flatten(1).mean(1, keepdim=True).clamp(min=1e-6)
        return mean ** torch.tensor(exponents)

    return model


anything = given(
    keep=st.floats(0.05, 0.9),
    tolerance=st.sampled_from([0.003, 0.01, 0.1]),
    exponents=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=3, max_size=3),
)


@anything
@settings(max_examples=4, deadline=None)
def test_the_area_is_found_to_the_tolerance(keep, tolerance, exponents):
    check_the_area(keep, tolerance, exponents)


@pytest.mark.slow
@anything
@settings(max_examples=25, deadline=None)
def test_many_areas_are_found_to_the_tolerance(keep, tolerance, exponents):
    check_the_area(keep, tolerance, exponents)


def check_the_area(keep, tolerance, exponents):
    found = smallest(METHOD, powers_of_the_area(exponents), INPUTS, [0, 1, 2], keep=keep, tolerance=tolerance)
    for row, exponent in enumerate(exponents):
        true = keep ** (1 / exponent)  # at least 0.0025, at most 0.95
        assert found.reached[row]
        assert true - 1e-3 <= found.area[row].item() <= true + tolerance + 1e-3
        assert found.attribution.achieved[row].item() == pytest.approx(found.area[row].item(), abs=1e-3)
        assert found.attribution.scores[row].item() >= found.wanted[row].item() - 1e-3
    torch.testing.assert_close(found.wanted, torch.full((3,), keep))


def test_the_curve_comes_with_it():
    found = smallest(METHOD, powers_of_the_area([1.0, 2.0]), INPUTS[:2], [0, 1], areas=(0.1, 0.5, 0.95))
    assert found.curve_areas.tolist() == pytest.approx([0.1, 0.5, 0.95])
    expected = torch.tensor([[0.1, 0.5, 0.95], [0.01, 0.25, 0.9025]])
    torch.testing.assert_close(found.curve_scores, expected, atol=1e-3, rtol=0)


def test_where_no_area_suffices():
    found = smallest(METHOD, powers_of_the_area([1.0, 0.5]), INPUTS[:2], [0, 1], keep=0.75, areas=(0.2, 0.6))
    assert found.reached.tolist() == [False, True]
    assert found.area[0].isnan()
    assert found.attribution.achieved[0].item() == pytest.approx(0.6, abs=1e-3)  # the one that came nearest
    assert found.area[1].item() == pytest.approx(0.75**2, abs=0.011)


@pytest.mark.parametrize("shape", [(3, 3), (7,), (2, 3, 3)])
def test_the_area_of_a_set_is_that_of_its_places(shape):
    """Also where they are few: it would not be an upper bound if the set were larger."""
    method = ExtremalPerturbation(steps=4, perturbation=Fade(), jitter=None)
    found = smallest(method, powers_of_the_area([1.0, 0.5, 2.0]), torch.ones(3, 1, *shape), [0, 1, 2], keep=0.4)
    torch.testing.assert_close(found.area, (found.attribution.masks > 0.5).flatten(1).float().mean(1))
    assert (found.attribution.scores[:, 0] >= found.wanted).all()


def test_halvings_start_from_the_mask_above():
    steps = []
    smallest(METHOD, powers_of_the_area([1.0]), INPUTS[:1], 0, keep=0.3, tolerance=0.05, progress=steps.append)
    # Two halvings of 0.2 to 0.4, each of a quarter of the steps, at its area from the first.
    assert [step.steps for step in steps] == [4, 4, 4, 4, 1, 1]
    assert steps[4].areas.item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 90}, r"Did you mean 0\.9"),
        ({"keep": 0}, r"must lie in \(0, 1\]"),
        ({"tolerance": 0}, "tolerance is a fraction"),
        ({"areas": (0.5, 0.2)}, "areas must grow"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        smallest(METHOD, powers_of_the_area([1.0]), INPUTS[:1], 0, **options)


def test_games_with_a_drop_and_scores_below_zero():
    with pytest.raises(ValueError, match='game="preserve"'):
        smallest(ExtremalPerturbation(game="dual"), powers_of_the_area([1.0]), INPUTS[:1], 0)
    with pytest.raises(ValueError, match="not positive"):
        smallest(METHOD, lambda inputs: -powers_of_the_area([1.0])(inputs), INPUTS[:1], 0)


def test_an_area_that_no_mask_of_the_family_reaches():
    soft = ExtremalPerturbation(steps=2, mask=SmoothMask(step=8, sigma=30, temperature=0.5))
    with pytest.raises(ValueError, match=r"no mask of .* covers more than"):
        smallest(soft, powers_of_the_area([1.0]), INPUTS[:1], 0, areas=(0.2, 0.99))


def test_restarts_say_how_settled_the_smallest_set_is():
    """They are those of the first area of the curve that suffices, cut at the smallest one."""
    method = ExtremalPerturbation(steps=50)
    found = smallest(method, spots((8, 8)), ones(2), 0, keep=0.8, areas=(1 / 32, 1 / 8, 1 / 2), tolerance=0.02)
    result, areas = found.attribution, found.area
    assert (areas < 1 / 8 - 0.01).all()
    assert result.agreement.shape == (2, 1)
    assert (result.agreement > 0.5).all()
    shares = result.alternatives.flatten(3).float().mean(3)
    torch.testing.assert_close(shares, areas[:, None, None].expand_as(shares), atol=2e-3, rtol=0)
    assert (result.alternative_scores > 0.5).all()
    assert smallest(replace(method, steps=20), spots((8, 8)), ones(1), 0, keep=0.8).attribution.agreement is None
