"""Sobol and HSIC against naive loops, known answers, and black boxes."""

import itertools
import math

import numpy as np
import pytest
import torch
from networks import network
from torch import nn

from sfumato import HSIC, RISE, Constant, Fade, Logit, Sobol
from sfumato.methods.hsic import dependence, median_distance
from sfumato.methods.sampled import CellMasks

SHAPES = [((9,), 4), ((7, 8), (3, 2)), ((4, 6, 5), (2, 3, 2))]


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_mask(cells, shape):
    """Place by place, the value of the cell that it lies in."""
    mask = np.zeros(shape)
    for place in np.ndindex(*shape):
        mask[place] = cells[
            tuple(u * count // length for u, count, length in zip(place, cells.shape, shape, strict=True))
        ]
    return mask


def naive_score(model, x, cells):
    """The score of class 1 of what one mask shows."""
    mask = torch.from_numpy(naive_mask(cells, x.shape[1:])).float()
    return model((x * mask)[None])[0, 1].item()


def grid_of(counts, axes):
    return counts if isinstance(counts, tuple) else (counts,) * axes


def at_centres(result, grid):
    """The values of the map at the centres of its cells, for cells of an odd number of places."""
    shape = result.map.shape[2:]
    places = [[(2 * i + 1) * length // (2 * n) for i in range(n)] for n, length in zip(grid, shape, strict=True)]
    return torch.stack([result.map[(..., *place)] for place in itertools.product(*places)], -1)[:, 0]


@pytest.mark.parametrize(("shape", "cells"), SHAPES)
@pytest.mark.parametrize("order", ["total", "first"])
def test_sobol_agrees_with_jansen_s_estimator_in_loops(shape, cells, order):
    model, x = network(len(shape)), inputs(2, 3, *shape)
    grid = grid_of(cells, len(shape))
    d, n = math.prod(grid), 4
    result = Sobol(designs=n, cells=cells, order=order, seed=3)(model, x, 1)
    numbers = torch.quasirandom.SobolEngine(2 * d, scramble=True, seed=3).draw(n).double().numpy()
    for row in range(2):
        first, second = numbers[:, :d], numbers[:, d:]

        def phi(values, row=row):
            return naive_score(model, x[row], values.reshape(grid))

        scores = [phi(first[j]) for j in range(n)]
        mean = sum(scores) / n
        variance = sum((score - mean) ** 2 for score in scores) / (n - 1)
        indices = np.zeros(d)
        for i in range(d):
            total = 0.0
            for j in range(n):
                exchanged = first[j].copy()
                exchanged[i] = second[j, i]
                other = scores[j] if order == "total" else phi(second[j])
                total += (other - phi(exchanged)) ** 2
            share = total / (2 * n) / variance
            indices[i] = share if order == "total" else 1 - share
        expected = torch.from_numpy(indices).view(1, 1, *grid).float()
        mode = ("linear", "bilinear", "trilinear")[len(shape) - 1]
        expected = nn.functional.interpolate(expected, shape, mode=mode, align_corners=False)
        # Squares of differences of float32 scores, divided by a variance: a share of a few 1e-6 of the largest index.
        torch.testing.assert_close(
            result.map[row : row + 1], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )


@pytest.mark.parametrize(("shape", "cells"), SHAPES)
def test_hsic_agrees_with_the_trace_in_loops(shape, cells):
    model, x = network(len(shape)), inputs(2, 3, *shape)
    grid = grid_of(cells, len(shape))
    d, p = math.prod(grid), 150  # two rounds
    result = HSIC(samples=p, cells=cells, seed=3)(model, x, 1)
    cells = (torch.quasirandom.SobolEngine(d, scramble=True, seed=3).draw(p) < 0.5).double().numpy()
    for row in range(2):
        scores = [naive_score(model, x[row], values.reshape(grid)) for values in cells]
        distances = sorted(abs(a - b) for a, b in itertools.combinations(scores, 2))
        width = distances[(len(distances) - 1) // 2]
        assert result.about["widths"][row] == pytest.approx(width, rel=1e-4)
        kernel = np.array([[math.exp(-((a - b) ** 2) / (2 * width**2)) for b in scores] for a in scores])
        centring = np.eye(p) - 1 / p
        values = []
        for i in range(d):
            same = np.array([[float(a == b) for b in cells[:, i]] for a in cells[:, i]])
            values.append(np.trace(same @ centring @ kernel @ centring) / (p - 1) ** 2)
        expected = torch.tensor(values).view(1, 1, *grid).float()
        mode = ("linear", "bilinear", "trilinear")[len(shape) - 1]
        expected = nn.functional.interpolate(expected, shape, mode=mode, align_corners=False)
        torch.testing.assert_close(result.map[row : row + 1], expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("shape", [(7,), (5, 8), (3, 4, 6)])
def test_masks_of_cells_are_boxes(shape):
    cells = inputs(3, *[2 + axis for axis in range(len(shape))])
    masks = CellMasks(cells, shape)
    assert len(masks) == 3
    expected = torch.stack([torch.from_numpy(naive_mask(values.numpy(), shape)) for values in cells]).float()
    assert torch.equal(masks[0:3], expected[:, None])
    assert torch.equal(masks[1:2], expected[1:2, None])
    torch.testing.assert_close(masks.areas, expected.flatten(1).mean(1))


def cell_values(x):
    """The mean of each of four cells of pictures of 6 x 6 ones, which is the cell's value in the mask: `(N, 4)`."""
    return x.unfold(2, 3, 3).unfold(3, 3, 3).mean((1, 4, 5)).flatten(1)


ONES = torch.ones(1, 1, 6, 6)


@pytest.mark.parametrize("draw", ["sobol", "random"])
def test_the_indices_of_a_sum_are_the_shares_of_its_variance(draw):
    weights = torch.tensor([3.0, -2.0, 1.0, 0.0])

    def model(x):
        return (cell_values(x) * weights).sum(1, keepdim=True)

    shares = weights.square() / weights.square().sum()
    for order in ("total", "first"):
        result = Sobol(designs=512, cells=2, order=order, draw=draw, batch=128)(model, ONES, Logit(0))
        torch.testing.assert_close(at_centres(result, (2, 2))[0], shares, rtol=0, atol=0.12)
    total = Sobol(designs=64, cells=2, draw=draw, batch=128)(model, ONES, Logit(0))
    # A cell without influence is exchanged without effect; what remains is rounding.
    assert at_centres(total, (2, 2))[0, 3] < 1e-6


def test_the_indices_of_a_product_know_what_acts_together():
    r"""$\Phi = m_0 m_1$ has the variance 7/144; cell 0 alone explains 1/48 of it, and is involved in 1/36."""

    def model(x):
        return cell_values(x)[:, :2].prod(1, keepdim=True)

    total = Sobol(designs=1024, cells=2, batch=128)(model, ONES, Logit(0))
    first = Sobol(designs=1024, cells=2, batch=128, order="first")(model, ONES, Logit(0))
    torch.testing.assert_close(at_centres(total, (2, 2))[0], torch.tensor([4 / 7, 4 / 7, 0, 0]), rtol=0, atol=0.04)
    torch.testing.assert_close(at_centres(first, (2, 2))[0], torch.tensor([3 / 7, 3 / 7, 0, 0]), rtol=0, atol=0.06)


def test_hsic_of_a_score_that_is_one_cell():
    r"""With $y = m_0$ the kernel on scores is 1 or $c = \exp(-1 / 2 \sigma^2)$, and the criterion $(1 - c) / 4$."""

    def model(x):
        return cell_values(x)[:, :1]

    result = HSIC(samples=512, cells=2, batch=128, width=0.5)(model, ONES, Logit(0))
    expected = torch.tensor([(1 - math.exp(-2)) / 4, 0, 0, 0])
    torch.testing.assert_close(at_centres(result, (2, 2))[0], expected, rtol=0, atol=0.01)
    assert result.about["widths"] == [0.5]


def test_hsic_sees_dependence_that_no_mean_shows():
    """The score's spread depends on cell 0, its mean does not: RISE's map is flat there, and HSIC's is not."""

    def model(x):
        values = cell_values(x)
        return values[:, :1] * (2 * values[:, 1:2] - 1)

    hsic = at_centres(HSIC(samples=512, cells=2, batch=128)(model, ONES, Logit(0)), (2, 2))[0]
    assert hsic[0] > 10 * hsic[2]
    assert hsic[0] > 10 * hsic[3]


@pytest.mark.parametrize("method", [HSIC(samples=64, cells=3), Sobol(designs=8, cells=3)], ids=["hsic", "sobol"])
def test_maps_do_not_depend_on_the_zero_and_the_unit_of_scores(method):
    model, x = network(2), inputs(1, 3, 12, 12)
    plain = method(model, x, lambda outputs: outputs[:, 1]).map
    moved = method(model, x, lambda outputs: 8 * outputs[:, 1] + 4).map
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-4 * float(plain.max()))


@pytest.mark.parametrize("method", [HSIC(samples=16, cells=3), Sobol(designs=4, cells=3)], ids=["hsic", "sobol"])
def test_a_score_that_never_changes_is_said(method):
    with pytest.warns(UserWarning, match="does not change with the input"):
        result = method(lambda x: torch.ones(len(x), 2), inputs(1, 1, 6, 6), 0)
    assert torch.equal(result.map, torch.zeros(1, 1, 6, 6))


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (Sobol(designs=4, cells=3), 4 * 10),
        (Sobol(designs=4, cells=3, order="first"), 4 * 11),
        (HSIC(samples=50, cells=3), 50),
    ],
)
def test_the_cost_is_what_the_documentation_says(method, count):
    rows, batches = [], []

    def model(x):
        rows.append(len(x))
        batches.append(x)
        return torch.from_numpy(x.numpy().reshape(len(x), -1)[:, :4] * 2)  # no gradients: numpy refuses them

    result = method(model, inputs(2, 1, 6, 6), Logit(1))
    probe = 10  # a row alone, the same in a pair, repeated, and the inputs
    assert 2 * count <= sum(rows) <= 2 * count + probe
    assert result.map.shape == (2, 1, 6, 6)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_change_nothing(batch):
    model, x = network(2), inputs(2, 3, 12, 12)
    for method in (Sobol, HSIC):
        size = {"designs": 4} if method is Sobol else {"samples": 40}
        expected = method(cells=3, **size)(model, x, 1).map
        found = method(cells=3, batch=batch, **size)(model, x, 1).map
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def test_progress_has_the_estimate_so_far():
    model, x = network(2), inputs(2, 3, 12, 12)
    for method, rounds, last in ((Sobol(designs=32, cells=3), 3, 320), (HSIC(samples=200, cells=3), 2, 200)):
        steps = []
        result = method(model, x, 1, steps.append)
        assert [(step.index, step.steps) for step in steps] == [(index, rounds) for index in range(rounds)]
        assert torch.equal(steps[-1].map, result.map)
        assert steps[-1].samples.tolist() == [last, last]
        assert all(step.values.shape == step.areas.shape == (2,) for step in steps)
        assert all(0.3 < area < 0.7 for step in steps for area in step.areas.tolist())


def test_the_perturbation_is_a_setting():
    x = inputs(1, 1, 6, 6).abs() + 1

    def model(x):
        return x.flatten(1).sum(1, keepdim=True)

    for method in (Sobol(designs=8, cells=2), HSIC(samples=64, cells=2)):
        cls, size = type(method), {"designs": 8} if isinstance(method, Sobol) else {"samples": 64}
        assert cls(cells=2, perturbation=Fade(), **size) == method
        with pytest.warns(UserWarning, match="does not change"):  # nothing is hidden by what is there already
            cls(cells=2, perturbation=Constant(1.5), **size)(model, torch.full_like(x, 1.5), Logit(0))


def test_default_cells_fit_the_shape():
    assert Sobol().counts((224, 224)) == (8, 8)
    assert Sobol().counts((500,)) == (64,)
    assert Sobol().counts((5, 224, 224)) == (4, 4, 4)
    assert Sobol().counts((5, 30)) == (5, 8)
    assert HSIC().counts((224, 224)) == RISE().counts((224, 224)) == (7, 7)


def test_scores_that_are_mostly_equal_still_have_a_width():
    assert median_distance(torch.tensor([0.0, 0, 0, 0, 2])) == pytest.approx(8 / 10)
    assert median_distance(torch.ones(4)) == 1.0
    assert median_distance(torch.tensor([0.0, 1, 3])) == 2.0
    cells = torch.tensor([[0.0, 1], [1, 1], [0, 0], [1, 0]])
    assert torch.equal(dependence(cells, torch.ones(4), 1.0), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (Sobol, {"designs": 1}, "designs must be a whole number from 2 up; got 1"),
        (Sobol, {"order": "second"}, "order must be one of total, first; got 'second'"),
        (HSIC, {"samples": 1.5}, "samples must be a whole number from 2 up; got 1.5"),
        (HSIC, {"width": 0.0}, "width is in the score's units, more than 0; got 0.0"),
        (Sobol, {"cells": 1}, "cells are whole numbers from 2 up"),
        (HSIC, {"draw": "halton"}, "draw must be one of random, sobol; got 'halton'"),
        (Sobol, {"batch": 0}, "batch must be a whole number from 1 up; got 0"),
        (HSIC, {"perturbation": (Fade(), Fade())}, "HSIC hides places with one perturbation"),
        (Sobol, {"perturbation": 3}, "perturbation must be a configuration"),
        (HSIC, {"seed": -(2**70)}, "seed must be"),
        (Sobol, {"smooth": -1}, "smooth is a fraction of the input's shortest side"),
        (HSIC, {"score": "odds"}, "score"),
    ],
)
def test_settings_that_cannot_be(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**settings)


def test_shapes_that_cannot_be():
    model = network(2)
    with pytest.raises(ValueError, match="an input of 12 x 12 places is too small for cells=13"):
        Sobol(cells=13)(model, inputs(1, 3, 12, 12), 1)
    with pytest.raises(ValueError, match='"sobol" has at most 21201 dimensions; cells=110 need 24200'):
        Sobol(cells=110)(model, inputs(1, 3, 112, 112), 1)
    with pytest.raises(ValueError, match=r"got 3 values \(2, 2, 2\) for an input with 2 axes"):
        HSIC(cells=(2, 2, 2))(model, inputs(1, 3, 12, 12), 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_sobol_sequence_does_not_depend_on_the_default_dtype(dtype):
    """torch computes its first point in the default dtype, so that bfloat16 would leave it three digits."""
    method = Sobol(cells=2, seed=5)
    expected = torch.cat([method.uniform(8)(4), method.uniform(8)(4)])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        draw = method.uniform(8)
        points = torch.cat([draw(1), draw(3), method.uniform(8)(4)])
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(points, expected)
    torch.testing.assert_close(expected[:4], torch.quasirandom.SobolEngine(8, scramble=True, seed=5).draw(4))
