"""I-GOS and iGOS++: against loops in double precision written from the papers, and on models whose masks are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import network

from sfumato import IGOS, Blur, Constant, Fade, IGOSPlus, Logit, Noise, citation
from sfumato.masks.grid import GridMask
from sfumato.masks.priors import evenness, total_variation
from sfumato.search import Backtracking, Momentum
from sfumato.settings import as_json, from_json

QUICK = {
    "steps": 4,
    "points": 3,
    "l1": 0.0,
    "tv": 0.02,
    "mask": GridMask(scale=3, sigma=0),
    "perturbation": Constant(1.5),
    "rule": Backtracking(60.0),
}
METHODS = [IGOS(**QUICK), IGOSPlus(**QUICK)]
both = pytest.mark.parametrize("method", METHODS, ids=["IGOS", "IGOSPlus"])


def pictures(*shape):
    return torch.randn(*(shape or (2, 3, 16, 13)), generator=torch.Generator().manual_seed(0))


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The papers' formulas for one picture of 6 x 8 places, a mask of 3 x 4 cells, and the probability of one of two classes.

SHAPE, CELLS, POINTS, RATE, SHRINK, ENOUGH, TRIES = (6, 8), (3, 4), 4, 30.0, 0.3, 1e-4, 5
TV, NOISE, EDGE, HIDDEN = 0.4, 0.25, 0.4, 0.3
X = uniform(3, *SHAPE, seed=1).numpy()
WEIGHTS = 0.5 * uniform(3, *SHAPE, seed=2).numpy() - 0.21


def probability(picture):
    return 1 / (1 + math.exp(-(picture * WEIGHTS).sum()))


def model(inputs):
    evidence = (inputs * torch.from_numpy(WEIGHTS).float()).flatten(1).sum(1)
    return torch.stack([evidence, torch.zeros_like(evidence)], 1)


def enlarged(mask):
    """Linear interpolation between the centres of cells of 2 x 2 places."""
    rows, columns = (np.clip((np.arange(length) + 0.5) / 2 - 0.5, 0, length // 2 - 1) for length in SHAPE)
    columns_first = np.array([np.interp(columns, np.arange(CELLS[1]), line) for line in mask])
    return np.array([np.interp(rows, np.arange(CELLS[0]), line) for line in columns_first.T]).T


def seen(mask):
    return mask * X + (1 - mask) * HIDDEN


def deletion(m, noise):
    """The mean score along the path from nothing shown to what the mask shows."""
    total = 0.0
    for point in range(1, POINTS + 1):
        total += probability(seen(point / POINTS * enlarged(m)) + noise[point - 1])
    return total / POINTS


def insertion(m, noise):
    """The mean score along the path from everything shown to what the mask hides."""
    total = 0.0
    for point in range(1, POINTS + 1):
        total += probability(seen(1 - point / POINTS * enlarged(m)) + noise[point - 1])
    return total / POINTS


def penalties(m, l1, bilateral):
    marked, uneven = 0.0, 0.0
    cells = X.reshape(3, CELLS[0], 2, CELLS[1], 2).mean((2, 4))
    for row in range(CELLS[0]):
        for column in range(CELLS[1]):
            marked += 1 - m[row, column]
            for other in ((row + 1, column), (row, column + 1)):
                if other[0] < CELLS[0] and other[1] < CELLS[1]:
                    change = ((cells[:, other[0], other[1]] - cells[:, row, column]) ** 2).mean()
                    weight = math.exp(-change / EDGE**2) if bilateral else 1
                    uneven += weight * (m[other] - m[row, column]) ** 2
    return (l1 * marked + TV * uneven) / m.size


def one_mask(masks, noise, l1=0.05):
    return deletion(masks[0], noise) + penalties(masks[0], l1, bilateral=False)


def two_masks(masks, noise, l1=0.3):
    deletes, inserts = masks
    product = deletes * inserts
    scores = deletion(deletes, noise) - insertion(inserts, noise) + deletion(product, noise) - insertion(product, noise)
    return scores + penalties(product, l1, bilateral=True)


def descent(objective, count, steps):
    """The masks after each step, the objective before it, and how many lengths it tried."""
    masks, generator = np.ones((count, *CELLS)), torch.Generator().manual_seed(7)
    for _ in range(steps):
        noise = NOISE * torch.randn(POINTS, 3, *SHAPE, generator=generator).double().numpy()
        here, gradient = objective(masks, noise), np.zeros_like(masks)
        for place in np.ndindex(*masks.shape):
            nudge = np.zeros_like(masks)
            nudge[place] = 1e-5
            gradient[place] = (objective(masks + nudge, noise) - objective(masks - nudge, noise)) / 2e-5
        rate = RATE
        for tries in range(1, TRIES + 1):
            after = np.clip(masks - rate * gradient, 0, 1)
            if tries == TRIES or objective(after, noise) <= here - ENOUGH * (gradient * (masks - after)).sum():
                break
            rate *= SHRINK
        yield after, here, tries
        masks = after


@pytest.mark.parametrize(
    ("kind", "objective", "l1", "count"), [(IGOS, one_mask, 0.05, 1), (IGOSPlus, two_masks, 0.3, 2)]
)
def test_the_descent_of_the_papers(kind, objective, l1, count):
    method = kind(
        steps=5, points=POINTS, l1=l1, tv=TV, noise=NOISE, seed=7, mask=GridMask(scale=2, sigma=0),
        perturbation=Constant(HIDDEN), rule=Backtracking(RATE, SHRINK, ENOUGH, TRIES),
    )  # fmt: skip
    method = replace(method, edge=EDGE) if kind is IGOSPlus else method
    steps = []
    result = method(model, torch.from_numpy(X).float()[None], 0, progress=steps.append)
    tried = []
    for step, (masks, before, tries) in zip(steps, descent(objective, count, 5), strict=True):
        # Single precision, and a gradient by differences.
        np.testing.assert_allclose(step.parameters[0], masks, atol=2e-3)
        assert -step.values.item() == pytest.approx(before, abs=1e-3)
        tried.append(tries)
    assert len(set(tried)) > 1
    np.testing.assert_allclose(result.masks[0, 0, 0], 1 - enlarged(masks.prod(0)), atol=2e-3)
    assert result.achieved.item() == pytest.approx((1 - enlarged(masks.prod(0))).mean(), abs=2e-3)
    assert result.complements.item() == pytest.approx(probability(seen(enlarged(masks.prod(0)))), abs=2e-3)
    assert 0.02 < result.achieved.item() < 0.95


@pytest.mark.parametrize("kind", [IGOS, IGOSPlus])
@pytest.mark.parametrize("shape", [(12,), (4, 5), (2, 3, 4)])
def test_of_a_sum_it_marks_the_terms_that_outweigh_their_cost(kind, shape):
    """The mean over a path from 0 halves a term, (T + 1) / 2T of it; a place costs the share of l1 that it has."""
    x = pictures(2, 1, *shape)
    places, points, slopes = math.prod(shape), 5, 3 if kind is IGOSPlus else 1
    weight = 0.4 * slopes * 6 / 10 * places
    result = kind(
        steps=3, points=points, l1=weight, tv=0, noise=0, perturbation=Fade(), mask=GridMask(1, 0), rule=Backtracking(100.0)
    )(lambda x: x.flatten(1).sum(1, keepdim=True), x, Logit(0))  # fmt: skip
    assert (x - 0.4).abs().min() > 1e-3
    torch.testing.assert_close(result.masks[:, 0], (x > 0.4).float(), atol=1e-5, rtol=0)
    assert 0 < result.achieved.min() <= result.achieved.max() < 1


def test_integrated_gradients_leave_a_plateau():
    """Half of the evidence suffices, so the plain gradient is 0 where all of it is shown."""
    x = torch.zeros(1, 1, 8, 8)
    x[..., 2:6, 2:6] = 1

    def saturated(inputs):
        return (inputs.flatten(1).sum(1, keepdim=True) / 8).clamp(max=1)

    method = IGOS(steps=8, l1=0.1, tv=0, noise=0, perturbation=Fade(), mask=GridMask(1, 0))
    with pytest.warns(UserWarning, match="marks nothing in input 0, as no step of the search improves"):
        assert replace(method, points=1)(saturated, x, Logit(0)).achieved.item() == 0
    result = method(saturated, x, Logit(0))
    assert result.masks[0, 0][x[0] == 1].mean() > 0.9
    assert result.masks[0, 0][x[0] == 0].max() == 0
    assert result.complements.item() < 0.1


PATCH = (slice(4, 16), slice(22, 36))


def patch():
    return torch.randn(3, 12, 14, generator=torch.Generator().manual_seed(3)).sign()


def detector(inputs):
    """Two classes: a patch is there, wherever it stands, or it is not."""
    response = torch.nn.functional.conv2d(inputs, patch()[None]).flatten(1).amax(1) / patch().numel()
    return torch.stack([12 * response, torch.full_like(response, 5)], 1)


@pytest.mark.parametrize("method", [IGOS(tv=2.0, perturbation=Fade()), IGOSPlus(tv=2.0, perturbation=Fade())])
def test_the_patch_of_a_detector(method):
    x = 0.3 * torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(4))
    x[(0, slice(None), *PATCH)] += patch()
    result = replace(method, mask=GridMask(4, 0))(detector, x, 0)
    mask = result.masks[0, 0, 0]
    inside = torch.zeros(32, 40, dtype=torch.bool)
    inside[PATCH] = True
    assert result.whole.item() > 0.99
    assert result.complements.item() < 0.5
    assert mask[inside].mean() > 4 * mask[~inside].mean() + 0.1
    assert inside.flatten()[mask.argmax()]


@both
@pytest.mark.parametrize("shape", [(2, 1, 40), (1, 3, 33), (2, 3, 16, 13), (1, 2, 12, 9, 11)])
def test_what_a_result_holds(method, shape):
    model, inputs = network(len(shape) - 2, shape[1]), pictures(*shape)
    result = method(model, inputs, 2)
    assert result.masks.shape == (shape[0], 1, 1, *shape[2:])
    assert result.map.shape == (shape[0], 1, *shape[2:])
    assert result.areas is None
    assert 0 <= result.masks.min() <= result.masks.max() <= 1
    torch.testing.assert_close(result.achieved, result.masks.flatten(2).mean(2))
    torch.testing.assert_close(result.whole, model(inputs).softmax(1)[:, 2])
    mask, shown, query = result.masks[:, 0], method.perturbation(inputs), torch.arange(shape[0])
    for m, scores in ((mask, result.scores[:, 0]), (1 - mask, result.complements[:, 0]), (0 * mask, result.blank)):
        torch.testing.assert_close(scores, model(shown(m, query)).softmax(1)[:, 2], atol=1e-5, rtol=1e-5)


@both
def test_a_query_does_not_depend_on_its_batch(method):
    model, inputs = network(), pictures(4, 3, 16, 13)
    together = method(model, inputs, [0, 4, 2, 2])
    assert together.achieved.min() > 0
    for row, target in enumerate([0, 4, 2, 2]):
        alone = method(model, inputs[row : row + 1], target)
        torch.testing.assert_close(alone.masks[0], together.masks[row], atol=1e-4, rtol=0)
    chunked = replace(method, memory=1e-6)(model, inputs, [0, 4, 2, 2])
    torch.testing.assert_close(chunked.masks, together.masks, atol=1e-4, rtol=0)


@both
def test_noise_is_of_the_seed(method):
    model, inputs = network(), pictures()
    first = method(model, inputs, 1).masks
    assert torch.equal(method(model, inputs, 1).masks, first)
    for other in (replace(method, seed=1), replace(method, noise=0)):
        assert (other(model, inputs, 1).masks - first).abs().max() > 1e-4
    still = [replace(method, noise=0, seed=seed)(model, inputs, 1).masks for seed in (0, 1)]
    assert torch.equal(*still)


@both
def test_several_perturbations_count_by_their_mean(method):
    model, inputs = network(), pictures()
    several = (Blur(3, 2), Constant(0.5), Noise(0.3))
    result = replace(method, perturbation=list(several))(model, inputs, 1)
    kept = [model(hides(inputs)(result.masks[:, 0], torch.arange(2))).softmax(1)[:, 1] for hides in several]
    torch.testing.assert_close(result.scores[:, 0], torch.stack(kept).mean(0))


@both
def test_a_rule_of_the_step_in_place_of_the_line_search(method):
    passes = []

    def counted(inputs):
        passes.append((len(inputs), inputs.requires_grad))
        return network()(inputs)

    result = replace(method, rule=Momentum(0.1, 0.5))(counted, pictures(1, 3, 16, 13), 1)
    terms = 4 if isinstance(method, IGOSPlus) else 1
    wanting = [rows for rows, gradients in passes if gradients]
    assert sum(wanting) == 1 + terms * method.steps * method.points  # the first measures the memory
    assert result.achieved.item() > 0


@pytest.mark.parametrize("mean", ["probability", "logit", "log-odds"])
def test_scores(mean):
    result = IGOS(**QUICK, score=mean)(network(), pictures(), 1)
    assert torch.isfinite(result.masks).all()
    assert result.about["score"] != IGOS(**QUICK, score="sigmoid")(network(), pictures(), 1).about["score"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 up; got 0"),
        ({"points": 2.5}, "points must be a whole number from 1 up; got 2.5"),
        ({"l1": -1}, "l1 is the weight of a penalty, at least 0; got -1"),
        ({"tv": math.nan}, "tv is the weight of a penalty"),
        ({"beta": 0.5}, "beta is the exponent of the total variation, at least 1"),
        ({"noise": -0.1}, "noise is a standard deviation, at least 0"),
        ({"rule": Backtracking}, "rule must be a line search or a rule of the step, e.g. Backtracking"),
        ({"rule": "fast"}, "rule must be a line search or a rule of the step"),
        ({"mask": 8}, "mask must be a GridMask"),
        ({"perturbation": ()}, "perturbation must be one or several"),
        ({"perturbation": Blur}, "perturbation must be a configuration"),
        ({"memory": 0}, "memory is in GiB"),
    ],
)
def test_settings_that_cannot_be_used(settings, words):
    for kind in (IGOS, IGOSPlus):
        with pytest.raises(ValueError, match=words):
            kind(**settings)


def test_the_width_of_an_edge_is_above_0():
    with pytest.raises(ValueError, match="edge is a difference between neighbours .* more than 0; got 0"):
        IGOSPlus(edge=0)


def test_settings_are_the_published_ones_and_values():
    assert (IGOS().steps, IGOS().points, IGOS().l1, IGOS().tv, IGOS().noise) == (20, 15, 1, 20, 0.2)
    assert (IGOSPlus().steps, IGOSPlus().points) == (15, 20)
    assert IGOS().mask.on((224, 224)).size == (28, 28)
    for method in (replace(method, rule=Backtracking(4.0)) for method in METHODS):
        assert from_json(as_json(method)) == method
        assert hash(method) == hash(replace(method))


def test_each_names_its_paper():
    assert "1905.00954" in citation(IGOS())
    assert "2012.15783" in citation(IGOSPlus())
    assert "2012.15783" not in citation(IGOS())


def test_a_model_without_gradients_is_refused_in_words():
    with pytest.raises(ValueError, match="the score has no gradient with respect to the input"):
        IGOS(**QUICK)(lambda inputs: network()(inputs.detach()), pictures(), 1)


@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 4, 2)])
def test_bilateral_variation(shape):
    masks, inputs, width = uniform(2, 1, *shape), uniform(2, 3, *shape, seed=1), 0.5
    found = total_variation(masks, 2, evenness(inputs, width))
    for row in range(2):
        variation = 0.0
        for u in np.ndindex(*shape):
            for axis, length in enumerate(shape):
                if u[axis] + 1 < length:
                    v = tuple(i + (a == axis) for a, i in enumerate(u))
                    change = sum((inputs[(row, c, *v)] - inputs[(row, c, *u)]).item() ** 2 for c in range(3)) / 3
                    weight = math.exp(-change / width**2)
                    variation += weight * (masks[(row, 0, *v)] - masks[(row, 0, *u)]).item() ** 2
        assert found[row].item() == pytest.approx(variation, rel=1e-12)
