"""Naive float64 loops, written from the paper, against what the library computes."""

import itertools
import math

import numpy as np
import pytest
import torch

from sfumato import Blur, Constant, Contrastive, Fade, Game, Logit, Noise, Probability, SmoothMask
from sfumato.masks.penalties import area_penalty
from sfumato.model.evaluate import Evaluation
from sfumato.model.modes import Surroundings
from sfumato.model.subject import Habits, Subject
from sfumato.space.jitter import Move
from sfumato.space.smoothing import gaussian_blur

LATTICES = [
    (SmoothMask(step=3, sigma=8), (40,)),
    (SmoothMask(step=2.5, sigma=4, temperature=7), (21,)),
    (SmoothMask(step=4, sigma=9), (17, 26)),
    (SmoothMask(step=(3, 5), sigma=(6, 20), temperature=40), (19, 31)),
    (SmoothMask(step=7, sigma=3), (22, 15)),  # a kernel that hardly reaches its neighbours
    (SmoothMask(step=(4, 3, 5), sigma=(6, 7, 8)), (11, 8, 12)),
]


def each(value, axes):
    return value if isinstance(value, tuple) else (value,) * axes


def parameters_for(lattice, masks=2, seed=0):
    values = torch.rand(masks, 1, *lattice.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values * (values > 0.3)  # some seeds are exactly 0, as after clipping


def positions(length, count, step):
    """`count` places, `step` apart, centred on an axis whose first place is 0 and whose last is length - 1."""
    return [(length - 1) / 2 + (index - (count - 1) / 2) * step for index in range(count)]


def naive_max_convolution(seeds, axes, sigmas, temperature):
    """smax over v of k(u - v) seeds(v), for u and v on the same lattice; weights exp(T f) - 1."""
    result = np.zeros(seeds.shape)
    for u in np.ndindex(*seeds.shape):
        above = below = 0.0
        for v in np.ndindex(*seeds.shape):
            squares = [((p[i] - p[j]) / sigma) ** 2 for p, i, j, sigma in zip(axes, u, v, sigmas, strict=True)]
            kernel = math.exp(-2 * max(0.0, math.sqrt(sum(squares)) - 0.5) ** 2)
            if kernel < 1 / 255:
                continue
            value = kernel * seeds[v]
            weight = math.exp(temperature * value) - 1
            above += value * weight
            below += weight
        result[u] = above / below if below else 0.0
    return result


def cox_de_boor(knots, index, degree, t):
    """The B-spline basis function by its recursion."""
    if degree == 0:
        return float(knots[index] <= t < knots[index + 1])
    left = (t - knots[index]) / (knots[index + degree] - knots[index])
    right = (knots[index + degree + 1] - t) / (knots[index + degree + 1] - knots[index + 1])
    return left * cox_de_boor(knots, index, degree - 1, t) + right * cox_de_boor(knots, index + 1, degree - 1, t)


def naive_spline(control, axes, steps, shape):
    """The tensor-product cubic spline whose control points lie at the centres of their basis functions."""
    bases = []
    for places, step, length in zip(axes, steps, shape, strict=True):
        knots = [places[0] + (index - 2) * step for index in range(len(places) + 4)]
        bases.append([[cox_de_boor(knots, node, 3, u) for node in range(len(places))] for u in range(length)])
    result = np.zeros(shape)
    for u in np.ndindex(*shape):
        for node in np.ndindex(*control.shape):
            result[u] += control[node] * math.prod(bases[a][u[a]][node[a]] for a in range(len(shape)))
    return result


@pytest.mark.parametrize(("family", "shape"), LATTICES)
def test_smooth_max_convolution(family, shape):
    lattice = family.on(shape, dtype=torch.float64)
    steps, sigmas = each(family.step, len(shape)), each(family.sigma, len(shape))
    axes = [positions(*axis) for axis in zip(shape, lattice.size, steps, strict=True)]
    seeds = parameters_for(lattice)
    nodes = lattice.nodes(seeds)
    for row in range(len(seeds)):
        expected = naive_max_convolution(seeds[row, 0].numpy(), axes, sigmas, family.temperature)
        np.testing.assert_allclose(nodes[row, 0], expected, atol=1e-12)


@pytest.mark.parametrize(("family", "shape"), LATTICES)
def test_lattice_reaches_beyond_both_ends(family, shape):
    for length, count, step in zip(shape, family.on(shape).size, each(family.step, len(shape)), strict=True):
        places = positions(length, count, step)
        assert places[0] <= -step / 2
        assert places[1] <= 0  # so that a spline has full support at the first place ...
        assert places[-2] >= length - 1  # ... and at the last


@pytest.mark.parametrize(("family", "shape"), LATTICES)
def test_cubic_spline(family, shape):
    lattice = family.on(shape, dtype=torch.float64)
    steps = each(family.step, len(shape))
    axes = [positions(*axis) for axis in zip(shape, lattice.size, steps, strict=True)]
    control = parameters_for(lattice, masks=1, seed=1)
    expected = naive_spline(control[0, 0].numpy(), axes, steps, shape)
    np.testing.assert_allclose(lattice.masks(control)[0, 0], expected, atol=1e-12)
    np.testing.assert_allclose(lattice.areas(control), expected.mean(), atol=1e-12)


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        (SmoothMask(step=3, sigma=8), (12,)),
        (SmoothMask(step=4, sigma=7, temperature=7), (8, 11)),
        (SmoothMask(step=(4, 3, 5), sigma=(6, 7, 8)), (8, 6, 10)),
    ],
)
def test_gradient_of_smooth_max_convolution(family, shape):
    lattice = family.on(shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lattice.nodes, parameters_for(lattice, seed=2).requires_grad_())


def naive_blur_axis(x, axis, sigma, border):
    """A Gaussian mean along one axis, normalised over four standard deviations."""
    length = x.shape[axis]
    radius = math.ceil(4 * sigma)
    total = sum(math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1))
    result = np.zeros(x.shape)
    for u in range(length):
        for offset in range(-radius, radius + 1):
            v = u + offset
            while border == "reflect" and not 0 <= v < length:
                v = -1 - v if v < 0 else 2 * length - 1 - v
            if 0 <= v < length:
                weight = math.exp(-0.5 * (offset / sigma) ** 2) / total
                result[(slice(None),) * axis + (u,)] += weight * x[(slice(None),) * axis + (v,)]
    return result


def naive_blur(x, sigmas, border):
    for axis, sigma in enumerate(sigmas, start=2):
        x = naive_blur_axis(x, axis, sigma, border) if sigma else x
    return x


SHAPES = [(2, 1, 23), (2, 3, 9, 14), (1, 2, 5, 7, 6)]


@pytest.mark.parametrize("border", ["reflect", "zeros"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_blur(shape, border):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sigma in (0.7, 2.5, 6.0):  # the last one's reach is longer than the axes: several reflections
        expected = naive_blur(x.numpy(), [sigma] * (len(shape) - 2), border)
        np.testing.assert_allclose(gaussian_blur(x, sigma, border), expected, atol=1e-6)
    each_its_own = [1.5, 0, 3.0][: len(shape) - 2]
    np.testing.assert_allclose(
        gaussian_blur(x, each_its_own, border), naive_blur(x.numpy(), each_its_own, border), atol=1e-6
    )


@pytest.mark.parametrize("border", ["reflect", "zeros"])
@pytest.mark.parametrize("shape", SHAPES)
def test_blur_interpolates_between_levels(shape, border):
    """At u the input blurred by sigma_max (1 - m(u)), linearly between evenly spaced precomputed widths."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    query = torch.arange(shape[0]).repeat_interleave(2).flip(0)
    masks = torch.rand(len(query), 1, *shape[2:], generator=generator)
    masks[0] = 1
    masks[1] = 0
    max_sigma, levels = 4.0, 5
    blurs = [
        naive_blur(x.numpy().astype(np.float64), [max_sigma * level / (levels - 1)] * (len(shape) - 2), border)
        for level in range(levels)
    ]
    expected = np.zeros((len(query), *shape[1:]))
    for n, c, *u in np.ndindex(*expected.shape):
        width = max_sigma * (1 - masks[(n, 0, *u)].item())
        place = width / max_sigma * (levels - 1)
        below = min(math.floor(place), levels - 2)
        at = (query[n].item(), c, *u)
        expected[(n, c, *u)] = (below + 1 - place) * blurs[below][at] + (place - below) * blurs[below + 1][at]
    np.testing.assert_allclose(Blur(max_sigma, levels, border)(x)(masks, query), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_blends(shape):
    """m x + (1 - m) background, where the backgrounds are zero, a colour, and one noise for all queries."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(shape, generator=generator)
    query = torch.arange(shape[0]).repeat_interleave(2).flip(0)
    masks = torch.rand(len(query), 1, *shape[2:], generator=generator)
    colour = tuple(0.5 * channel - 1 for channel in range(shape[1]))
    everything_hidden = torch.zeros_like(masks)
    noise = Noise(0.3, seed=5)(x)(everything_hidden, query)
    assert torch.equal(noise, noise[:1].expand_as(noise))
    assert noise.std().item() == pytest.approx(0.3, rel=0.3)
    for perturbation, background in [
        (Fade(), lambda n, c, u: 0.0),
        (Constant(0.25), lambda n, c, u: 0.25),
        (Constant(colour), lambda n, c, u: colour[c]),
        (Noise(0.3, seed=5), lambda n, c, u: noise[(n, c, *u)].item()),
    ]:
        expected = np.zeros((len(query), *shape[1:]))
        for n, c, *u in np.ndindex(*expected.shape):
            m = masks[(n, 0, *u)].item()
            expected[(n, c, *u)] = m * x[(query[n], c, *u)].item() + (1 - m) * background(n, c, u)
        np.testing.assert_allclose(perturbation(x)(masks, query), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(10,), (5, 8), (4, 3, 5)])
def test_area_penalty(shape):
    """|| vecsort(m) - r_a ||² / |Ω|, with (1 - a) |Ω| zeros, then ones."""
    count = math.prod(shape)
    wanted = [index for index in range(1, count) if index in (1, 2, 3, 7) or index % 5 == 0]
    masks = torch.rand(len(wanted), 1, *shape, generator=torch.Generator().manual_seed(3))
    penalty = area_penalty(masks, torch.tensor([ones / count for ones in wanted]))
    for row, ones in enumerate(wanted):
        total = 0.0
        for rank, value in enumerate(sorted(masks[row].flatten().tolist())):
            total += (value - (1.0 if rank >= count - ones else 0.0)) ** 2
        assert penalty[row].item() == pytest.approx(total / count, abs=1e-6), f"{ones} of {count}"


def evaluation(model, score, x, query, rows):
    subject = Subject(model, x, score, Surroundings.now(x.device), Habits([torch.contiguous_format]))
    return Evaluation(subject, (Fade()(x),), query, rows)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("game", [Game(1, 0), Game(0, 1), Game(1, 1), Game(0.5, 2)])
def test_games_on_a_linear_model(shape, game):
    """keep Φ(m x) - drop Φ((1 - m) x), whose gradient is (keep + drop) w x."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(shape, generator=generator)
    weights = torch.randn(2, *shape[1:], generator=generator)
    query = torch.arange(shape[0]).repeat_interleave(3)
    masks = torch.rand(len(query), 1, *shape[2:], generator=generator)

    def model(inputs):
        return inputs.flatten(1) @ weights.flatten(1).T

    values, gradient = evaluation(model, Logit(1), x, query, rows=2).gradients(masks, game, Move())
    for n in range(len(query)):
        kept = dropped = 0.0
        slope = np.zeros(shape[2:])
        for c, *u in np.ndindex(*shape[1:]):
            product = weights[(1, c, *u)].item() * x[(query[n], c, *u)].item()
            m = masks[(n, 0, *u)].item()
            kept += product * m
            dropped += product * (1 - m)
            slope[tuple(u)] += (game.keep + game.drop) * product
        assert values[n].item() == pytest.approx(game.keep * kept - game.drop * dropped, abs=1e-3)
        np.testing.assert_allclose(gradient[n, 0], slope, atol=1e-4)


def test_move():
    """A flip of the last axis, then a shift by whole places, with reflecting borders."""
    x = torch.arange(2 * 1 * 4 * 5.0).view(2, 1, 4, 5)
    moved = Move(shift=(1, -2), flips=(-1,))(x)
    mirrored = x.numpy()[..., ::-1]
    for i, j in itertools.product(range(4), range(5)):
        row = i - 1 if i else 0
        column = j + 2 if j + 2 < 5 else 9 - (j + 2)
        np.testing.assert_array_equal(moved[..., i, j], mirrored[..., row, column])


def naive_scores(outputs, targets, against=None):
    """Logit, probability and contrastive score, each the mean over the places of the output."""
    found = []
    for logits, target in zip(outputs, targets, strict=True):
        places = logits.reshape(len(logits), -1)
        logit, probability, contrast = [], [], []
        for column in places.T.tolist():
            logit.append(column[target])
            probability.append(math.exp(column[target]) / sum(math.exp(value) for value in column))
            rivals = [value for k, value in enumerate(column) if (k != target if against is None else k == against)]
            contrast.append(column[target] - max(rivals))
        found.append([sum(values) / len(values) for values in (logit, probability, contrast)])
    return np.array(found).T


@pytest.mark.parametrize("places", [(), (4,), (2, 3)])
@pytest.mark.parametrize("target", [2, (4, 0, 2)])
def test_scores(places, target):
    outputs = torch.randn(6, 5, *places, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    outputs[1, 3] = 9  # a rival above the target everywhere
    query = torch.tensor([0, 1, 1, 2, 2, 0])
    targets = [target[q] if isinstance(target, tuple) else target for q in query.tolist()]
    logit, probability, contrast = naive_scores(outputs.numpy(), targets)
    np.testing.assert_allclose(Logit(target)(outputs, query), logit, atol=1e-6)
    np.testing.assert_allclose(Probability(target)(outputs, query), probability, atol=1e-6)
    np.testing.assert_allclose(Contrastive(target)(outputs, query), contrast, atol=1e-6)
    against = naive_scores(outputs.numpy(), targets, against=1)[2]
    np.testing.assert_allclose(Contrastive(target, against=1)(outputs, query), against, atol=1e-6)
    combined = Logit(target) - 0.5 * Logit(1) + -Probability(target)
    expected = logit - 0.5 * naive_scores(outputs.numpy(), [1] * 6)[0] - probability
    np.testing.assert_allclose(combined(outputs, query), expected, atol=1e-6)
