"""Models whose best masks are known."""

from dataclasses import replace

import pytest
import torch

from sfumato import Blur, Constant, ExtremalPerturbation, Fade, SmoothMask
from sfumato.search.projected import ProjectedAscent
from sfumato.search.projection import EXACTLY, project

SIZE = (36, 44)
BLOB = (slice(6, 18), slice(24, 38))
AREA = 12 * 14 / (36 * 44)
METHOD = ExtremalPerturbation(
    areas=(AREA,), steps=60, perturbation=Fade(), mask=SmoothMask(step=2, sigma=2), jitter=None
)


def on_blob(masks):
    """Which share of each mask's mass lies on the blob."""
    return masks[(..., *BLOB)].sum((-2, -1)) / masks.sum((-2, -1))


def linear(weights):
    return lambda inputs: (inputs * weights).flatten(1).sum(1, keepdim=True)


def blob_weights():
    weights = torch.full(SIZE, -0.2)
    weights[BLOB] = 1.0
    return weights


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
def test_the_blob_of_a_linear_model(game):
    result = replace(METHOD, game=game)(linear(blob_weights()), torch.ones(1, 1, *SIZE), 0)
    assert on_blob(result.masks).item() > 0.75
    assert result.achieved.item() == pytest.approx(AREA, abs=1e-3)
    assert result.scores.item() > 0.6 * 12 * 14  # of what the blob alone would give
    assert result.scores.item() + result.complements.item() == pytest.approx(result.whole.item(), abs=1e-2)


def test_a_smaller_mask_lies_in_the_blob_and_a_larger_one_covers_it():
    method = replace(METHOD, areas=(AREA / 3, AREA * 2.5))
    masks = method(linear(blob_weights()), torch.ones(1, 1, *SIZE), 0).masks[0]
    inside, outside = on_blob(masks)[:, 0]
    assert inside > 0.8
    assert masks[1][(..., *BLOB)].min() > 0.7
    assert outside < 0.5


@pytest.mark.parametrize("game", ["delete", "dual"])
def test_all_games_are_one_on_a_linear_model(game):
    """The gradients are proportional, so with normalised steps the ascents are the same."""
    x = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1))
    preserve = METHOD(linear(weights), x, 0)
    other = replace(METHOD, game=game)(linear(weights), x, 0)
    torch.testing.assert_close(other.scores, preserve.scores, rtol=0.01, atol=0)


def test_no_mask_beats_the_best_places():
    """The sum over the a |Ω| largest contributions bounds what a mask of area a can keep; a smooth one comes near."""
    weights = blob_weights()
    areas = (0.03, AREA, 0.4, 0.8)
    result = replace(METHOD, areas=areas)(linear(weights), torch.ones(1, 1, *SIZE), 0)
    ordered = weights.flatten().sort(descending=True).values.cumsum(0)
    for area, score in zip(areas, result.scores[0].tolist(), strict=True):
        bound = ordered[round(area * len(ordered)) - 1].item()
        assert score < bound + 1
        assert score > bound - 0.35 * 12 * 14


def test_constant_instead_of_black():
    """Weights that are negative on the blob, on an input that is 0: only what replaces it counts."""
    method = replace(METHOD, perturbation=Constant(1.0))
    result = method(linear(-blob_weights()), torch.zeros(1, 1, *SIZE), 0)
    assert on_blob(result.masks).item() > 0.75
    assert result.whole.item() == 0
    assert result.blank.item() == pytest.approx(-blob_weights().sum().item(), abs=1e-3)


def patch():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 12, 14, generator=generator).sign()


def detector(inputs):
    """Responds to one patch, wherever it stands."""
    response = torch.nn.functional.conv2d(inputs, patch()[None]) / patch().numel()
    return response.flatten(1).amax(1, keepdim=True)


def scene(places):
    """Noise with the patch at one place in each picture."""
    x = 0.3 * torch.randn(len(places), 3, *SIZE, generator=torch.Generator().manual_seed(4))
    for row, (top, left) in enumerate(places):
        x[row, :, top : top + 12, left : left + 14] += patch()
    return x


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
@pytest.mark.parametrize("perturbation", [Fade(), Blur(6, 5)], ids=["fade", "blur"])
def test_the_patch_of_a_detector(game, perturbation):
    places = [(6, 24), (20, 3)]
    method = replace(METHOD, game=game, perturbation=perturbation)
    result = method(detector, scene(places), 0)
    for row, (top, left) in enumerate(places):
        mask = result.masks[row, 0, 0]
        # Where half of a patch is blurred there is nothing left to detect, so that a deletion needs no more.
        enough = 0.4 if game == "delete" and isinstance(perturbation, Blur) else 0.7
        assert mask[top : top + 12, left : left + 14].sum() / mask.sum() > enough
        if game != "delete":
            assert result.scores[row, 0] > 0.4 * result.whole[row]
        assert result.complements[row, 0] < 0.3 * result.whole[row]


@pytest.mark.parametrize("axes", [1, 3])
def test_a_blob_in_other_dimensions(axes):
    shape, blob = {1: ((120,), (slice(60, 85),)), 3: ((14, 16, 15), (slice(2, 9), slice(7, 14), slice(4, 11)))}[axes]
    weights = torch.full(shape, -0.2)
    weights[blob] = 1.0
    method = replace(METHOD, areas=((weights > 0).float().mean().item(),))
    mask = method(linear(weights), torch.ones(1, 1, *shape), 0).masks[0, 0, 0]
    assert mask[blob].sum() / mask.sum() > {1: 0.8, 3: 0.5}[axes]


AREAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9)


@pytest.mark.parametrize("mask", [SmoothMask(step=2, sigma=3), SmoothMask(step=4, sigma=12), SmoothMask(5, 8, 50)])
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_areas_are_what_was_asked(mask, steps):
    x = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1))
    result = replace(METHOD, areas=AREAS, mask=mask, steps=steps)(linear(weights), x, 0)
    torch.testing.assert_close(result.achieved, torch.tensor([AREAS, AREAS]), atol=0.005, rtol=0)


def test_more_area_keeps_more_of_a_monotone_model():
    weights = torch.rand(SIZE, generator=torch.Generator().manual_seed(2))
    result = replace(METHOD, areas=AREAS)(linear(weights), torch.ones(1, 1, *SIZE), 0)
    assert (result.scores.diff() > 0).all()
    assert (result.complements.diff() < 0).all()
    assert result.blank.item() == pytest.approx(0, abs=1e-4)
    at_least = result.areas * result.whole  # what a flat mask of the same area keeps
    assert (result.scores >= at_least).all()


def test_the_answer_is_the_best_step_at_its_area():
    """An ascent with a large rate wanders; its answer is not simply where it ends."""
    seen = []
    wandering = replace(METHOD, steps=40, ascent=ProjectedAscent(rate=0.5))
    result = wandering(linear(blob_weights()), torch.ones(1, 1, *SIZE), 0, progress=seen.append)
    at_area = [step for step in seen[:-1] if step.areas.item() == pytest.approx(AREA)]
    best = max(at_area, key=lambda step: step.values.item())
    assert len(at_area) == 19
    assert best is not at_area[-1]
    lattice = wandering.mask.on(SIZE)
    exactly = project(lattice, best.parameters, torch.tensor([AREA]), EXACTLY)
    torch.testing.assert_close(result.masks[0], lattice(exactly), atol=1e-4, rtol=0)


def test_the_area_falls_in_each_round():
    seen = []
    ascent = ProjectedAscent(start=0.8, approach=0.5, rounds=2, regrowth=3)
    replace(METHOD, steps=40, ascent=ascent)(linear(blob_weights()), torch.ones(1, 1, *SIZE), 0, progress=seen.append)
    assert [step.index for step in seen] == list(range(40))
    for start, largest in ((0, 0.8), (20, 3 * AREA)):
        falling = [largest ** (1 - place / 10) * AREA ** (place / 10) for place in range(10)]
        assert [step.areas.item() for step in seen[start : start + 20]] == pytest.approx(
            falling + [AREA] * 10, rel=1e-4
        )


def test_a_later_round_begins_with_the_best_mask():
    seen = []
    method = replace(METHOD, steps=40, jitter=None)
    method(linear(blob_weights()), torch.ones(1, 1, *SIZE), 0, progress=seen.append)
    best = max((step for step in seen[10:20]), key=lambda step: step.values.item())
    lattice = method.mask.on(SIZE)
    regrown = project(lattice, best.parameters, seen[20].areas, EXACTLY)
    torch.testing.assert_close(seen[20].parameters, regrown, atol=1e-4, rtol=0)


def test_an_ascent_with_much_momentum():
    method = replace(METHOD, ascent=ProjectedAscent(rate=0.2, momentum=0.9))
    result = method(detector, scene([(6, 24)]), 0)
    assert result.scores.item() > 0.7 * result.whole.item()


@pytest.mark.parametrize("model", [linear(blob_weights()), detector], ids=["linear", "detector"])
def test_every_step_holds_its_area(model):
    """As projection.NEARLY says."""
    seen = []
    method = replace(METHOD, steps=100)
    result = method(model, scene([(6, 24)]) if model is detector else torch.ones(1, 1, *SIZE), 0, progress=seen.append)
    lattice = method.mask.on(SIZE)
    for step in seen:
        assert lattice(step.parameters).mean().item() == pytest.approx(step.areas.item(), abs=1.1e-3)
    assert seen[-1].values.item() == pytest.approx(result.scores.item(), rel=0.02)
