"""Meaningful perturbation: against naive float64 loops written from the paper, and on models whose masks are known."""

import itertools
import json
import math
import pickle
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import Network, network
from traces import assert_unchanged, state

from sfumato import Blur, Constant, Fade, Logit, Noise, Probability, load
from sfumato.games import DUAL
from sfumato.masks.grid import GridMask
from sfumato.masks.priors import l1, total_variation
from sfumato.methods.meaningful import MaskOptimisation, MeaningfulPerturbation
from sfumato.model.evaluate import Evaluation
from sfumato.settings import as_json, from_json

METHOD = MeaningfulPerturbation(
    steps=8, perturbation=Blur(3, 2), mask=GridMask(scale=3, sigma=1.5), jitter=2, smooth=0.1
)

GRIDS = [
    (GridMask(scale=4, sigma=2.5), (30,)),
    (GridMask(scale=8, sigma=0), (17,)),
    (GridMask(scale=3, sigma=2), (13, 16)),
    (GridMask(scale=(2, 5), sigma=(4, 0.5)), (9, 14)),
    (GridMask(scale=(2, 3, 4), sigma=1), (5, 7, 9)),
]


def pictures(*shape):
    return torch.randn(*(shape or (2, 3, 16, 13)), generator=torch.Generator().manual_seed(0))


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def each(value, axes):
    return value if isinstance(value, tuple) else (value,) * axes


def naive_line(values, length, sigma):
    """One axis: values at the centres of equal cells, linear between them, level beyond; then a reflected Gaussian."""
    width = length / len(values)
    centres = [width * (cell + 0.5) - 0.5 for cell in range(len(values))]
    line = [float(np.interp(place, centres, values)) for place in range(length)]
    if sigma == 0:
        return line
    radius = math.ceil(4 * sigma)
    smooth = []
    for place in range(length):
        above = below = 0.0
        for offset in range(-radius, radius + 1):
            source = (place + offset) % (2 * length)
            weight = math.exp(-(offset**2) / (2 * sigma**2))
            above += weight * line[source if source < length else 2 * length - 1 - source]
            below += weight
        smooth.append(above / below)
    return smooth


def naive_mask(grid, shape, sigmas):
    for axis, (length, sigma) in enumerate(zip(shape, sigmas, strict=True)):
        lines = np.moveaxis(grid, axis, -1)
        longer = np.zeros((*lines.shape[:-1], length))
        for index in np.ndindex(*lines.shape[:-1]):
            longer[index] = naive_line(lines[index], length, sigma)
        grid = np.moveaxis(longer, -1, axis)
    return grid


@pytest.mark.parametrize(("family", "shape"), GRIDS)
def test_masks_are_enlarged_and_smoothed(family, shape):
    grid = family.on(shape, dtype=torch.float64)
    assert grid.size == tuple(math.ceil(s / c) for s, c in zip(shape, each(family.scale, len(shape)), strict=True))
    parameters = uniform(2, 1, *grid.size).round(decimals=1)
    masks = grid(parameters)
    for row in range(2):
        expected = naive_mask(parameters[row, 0].numpy(), shape, each(family.sigma, len(shape)))
        np.testing.assert_allclose(masks[row, 0], expected, atol=1e-6)  # the blur's kernel is made in single precision
    torch.testing.assert_close(grid(1 - parameters), 1 - masks)
    assert masks.min() >= 0
    assert masks.max() <= 1


def test_the_published_grid():
    assert GridMask().on((224, 224)).size == (28, 28)


@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 4, 2)])
@pytest.mark.parametrize("beta", [1, 2, 3, 1.5])
def test_priors(shape, beta):
    masks = uniform(3, 1, *shape)
    for row in range(3):
        m = masks[row, 0].numpy()
        variation = 0.0
        for u in np.ndindex(*shape):
            for axis, length in enumerate(shape):
                if u[axis] + 1 < length:
                    neighbour = tuple(i + (a == axis) for a, i in enumerate(u))
                    variation += abs(m[neighbour] - m[u]) ** beta
        assert total_variation(masks, beta)[row].item() == pytest.approx(variation, rel=1e-12)
        assert l1(masks)[row].item() == pytest.approx(sum(m[u] for u in np.ndindex(*shape)), rel=1e-12)


@contextmanager
def prepared(method, model, inputs, targets):
    with method.prepared(model, inputs, targets) as subject:
        yield MaskOptimisation.of(method, subject)


def naive_probability(model, x, target):
    logits = model(x[None].float())[0].double()
    return float(torch.exp(logits[target]) / torch.exp(logits).sum())


@pytest.mark.parametrize("shape", [(31,), (16, 13), (12, 11, 10)])
def test_the_circle_it_starts_from(shape):
    axes = len(shape)
    weights = uniform(3, *shape, seed=3).float()
    middle = tuple(slice(length // 3, length - length // 3) for length in shape)
    weights[(slice(None), *middle)] += 4

    def model(x):
        evidence = (x * weights).flatten(1).sum(1) / weights.sum() * 40 - 8
        return torch.stack([evidence, torch.zeros_like(evidence)], 1)

    inputs = 0.8 + 0.4 * uniform(2, 3, *shape).float()
    inputs[1] *= 0.3  # of which less is to be hidden
    method = replace(METHOD, perturbation=Fade(), mask=GridMask(scale=2, sigma=0.7))
    with prepared(method, model, inputs, 0) as descent:
        marks = descent.circle()
    cells = marks.shape[2:]
    width = [length / count for length, count in zip(shape, cells, strict=True)]
    distances = np.zeros(cells)
    for u in np.ndindex(*cells):
        distances[u] = math.sqrt(sum(((i + 0.5 - n / 2) * w) ** 2 for i, n, w in zip(u, cells, width, strict=True)))
    sizes = []
    for row in range(2):
        whole = naive_probability(model, inputs[row], 0)
        blank = naive_probability(model, torch.zeros_like(inputs[row]), 0)
        for step in itertools.count(1):
            disc = (distances <= step * min(width)).astype(float)
            kept = torch.from_numpy(1 - naive_mask(disc, shape, [0.7] * axes))
            left = naive_probability(model, inputs[row] * kept, 0)
            if left - blank <= 0.01 * (whole - blank):
                break
        np.testing.assert_array_equal(marks[row, 0], disc)
        sizes.append(disc.mean())
    assert 0 < sizes[1] <= sizes[0] <= 1
    assert sizes[1] < sizes[0] or axes == 3


@pytest.mark.parametrize(("game", "marked"), [("delete", 0.0), ("preserve", 1.0)])
def test_ones_show_all(game, marked):
    with prepared(replace(METHOD, game=game, start="ones"), network(), pictures(), 1) as descent:
        assert torch.equal(descent.ones(), torch.full((2, 1, 6, 5), marked))


@pytest.mark.parametrize("game", ["delete", "preserve"])
def test_steps_of_adam(game):
    """Three of them, on the paper's objective, its gradient by finite differences."""
    shape, cells, sigma = (6, 8), (3, 4), 0.8
    x = uniform(3, *shape, seed=1).numpy()
    weights = 0.3 * uniform(3, *shape, seed=2).numpy() - 0.13
    value = 0.3
    method = MeaningfulPerturbation(
        game, steps=3, l1=0.002, tv=0.3, perturbation=Constant(value), mask=GridMask(2, sigma), jitter=0, start="ones"
    )

    def model(inputs):
        evidence = (inputs * torch.from_numpy(weights).float()).flatten(1).sum(1)
        return torch.stack([evidence, torch.zeros_like(evidence)], 1)

    def objective(m):
        """Of the paper's mask: 1 shows."""
        mask = naive_mask(m, shape, [sigma] * 2)
        seen = mask * x + (1 - mask) * value
        probability = 1 / (1 + math.exp(-(seen * weights).sum()))
        variation = (np.abs(np.diff(m, axis=0)) ** 3).sum() + (np.abs(np.diff(m, axis=1)) ** 3).sum()
        marked = (1 - m).sum() if game == "delete" else m.sum()
        return 0.002 * marked + 0.3 * variation + (probability if game == "delete" else -probability)

    m = np.ones(cells)
    first, second = np.zeros(cells), np.zeros(cells)
    seen = []
    method(model, torch.from_numpy(x).float()[None], 0, progress=seen.append)
    for step in range(1, 4):
        gradient = np.zeros(cells)
        for u in np.ndindex(*cells):
            nudge = np.zeros(cells)
            nudge[u] = 1e-5
            gradient[u] = (objective(m + nudge) - objective(m - nudge)) / 2e-5
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        move = 0.1 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        m = np.clip(m - move, 0, 1)
        marks = 1 - m if game == "delete" else m
        np.testing.assert_allclose(seen[step - 1].parameters[0, 0], marks, atol=2e-3)
    assert 0 < m.mean() < 1


def test_the_input_moves_beneath_the_mask():
    """The objective is that of x(u - shift) under a mask that stays, away from the borders."""
    x = uniform(1, 3, 16, 14).float()
    weights = torch.zeros(3, 16, 14)
    weights[:, 4:12, 4:10] = uniform(3, 8, 6, seed=1).float()
    shift = (2, -3)
    method = replace(METHOD, perturbation=Fade(), game="preserve", l1=0, tv=0)
    with prepared(method, lambda x: (x * weights).flatten(1).sum(1, keepdim=True), x, Logit(0)) as descent:
        marks = uniform(1, 1, *descent.grid.size, seed=2).float()
        look = descent.look(marks, shift)
        mask = descent.grid(marks)
    expected = (weights * mask[0] * x[0].roll(shift, (1, 2))).sum()
    assert look.values.item() == pytest.approx(expected.item(), rel=1e-5)
    assert look.areas.item() == pytest.approx(mask.mean().item(), rel=1e-5)


def test_every_step_moves_the_input():
    seen = []

    def watched(x):
        if x.requires_grad:
            seen.append(x.detach().argmax().item())
        return torch.stack([x.flatten(1).sum(1), 0 * x.flatten(1).sum(1)], 1)

    x = torch.zeros(1, 1, 15, 15)
    x[..., 7, 7] = 1
    replace(METHOD, perturbation=Fade(), game="preserve", start="ones", steps=40)(watched, x, 0)
    rows, columns = zip(*[divmod(place, 15) for place in seen[1:]], strict=True)  # the first measures the memory
    assert len(rows) == 40
    assert set(rows) == set(columns) == {5, 6, 7, 8, 9}
    still = seen[:]
    seen.clear()
    replace(METHOD, perturbation=Fade(), game="preserve", start="ones", jitter=0)(watched, x, 0)
    assert set(seen) == {still[0]}


SIZE = (32, 40)
PATCH = (slice(4, 16), slice(22, 36))


def patch():
    return torch.randn(3, 12, 14, generator=torch.Generator().manual_seed(3)).sign()


def detector(inputs):
    """Two classes: a patch is there, wherever it stands, or it is not."""
    response = torch.nn.functional.conv2d(inputs, patch()[None]).flatten(1).amax(1) / patch().numel()
    return torch.stack([12 * response, torch.full_like(response, 5)], 1)


@pytest.mark.parametrize("game", ["delete", "preserve"])
def test_the_patch_of_a_detector(game):
    x = 0.3 * torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(4))
    x[(0, slice(None), *PATCH)] += patch()
    method = MeaningfulPerturbation(game, steps=80, mask=GridMask(4, 2), jitter=1, l1=0.01, perturbation=Blur(6, 2))
    result = method(detector, x, 0)
    mask = result.masks[0, 0, 0]
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[PATCH] = True
    assert result.whole.item() > 0.99
    assert result.blank.item() < 0.05
    assert mask[inside].mean() > 0.7
    assert mask[~inside].mean() < 0.2
    assert result.complements.item() < (0.1 if game == "delete" else 0.3)
    assert result.scores.item() > 0.95


def test_heavier_weights_mark_less():
    x = 0.3 * torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(4))
    x[(0, slice(None), *PATCH)] += patch()
    method = MeaningfulPerturbation(steps=60, mask=GridMask(4, 2), jitter=0, perturbation=Fade(), start="ones")
    light, heavy = (replace(method, l1=weight)(detector, x, 0) for weight in (1e-4, 0.02))
    assert heavy.achieved.item() < light.achieved.item()
    assert heavy.complements.item() > light.complements.item()


@pytest.mark.parametrize("shape", [(2, 1, 40), (1, 3, 33), (2, 3, 16, 13), (1, 2, 12, 9, 11)])
@pytest.mark.parametrize("game", ["delete", "preserve", DUAL])
def test_what_a_result_holds(shape, game):
    model, inputs = network(len(shape) - 2, shape[1]), pictures(*shape)
    method = replace(METHOD, game=game)
    result = method(model, inputs, 2)
    assert result.masks.shape == (shape[0], 1, 1, *shape[2:])
    assert result.map.shape == (shape[0], 1, *shape[2:])
    assert result.areas is None
    assert result.achieved.shape == result.scores.shape == result.complements.shape == (shape[0], 1)
    assert 0 <= result.masks.min() <= result.masks.max() <= 1
    torch.testing.assert_close(result.achieved, result.masks.flatten(2).mean(2))
    torch.testing.assert_close(result.whole, model(inputs).softmax(1)[:, 2])
    mask = result.masks[:, 0]
    seen, query = method.perturbation(inputs), torch.arange(shape[0])
    for m, scores in ((mask, result.scores[:, 0]), (1 - mask, result.complements[:, 0]), (0 * mask, result.blank)):
        torch.testing.assert_close(scores, model(seen(m, query)).softmax(1)[:, 2], atol=1e-5, rtol=1e-5)


def test_several_perturbations_count_by_their_mean():
    model, inputs = network(), pictures()
    several = (Blur(3, 2), Constant(0.5), Noise(0.3))
    result = replace(METHOD, perturbation=list(several))(model, inputs, 1)
    mask, query = result.masks[:, 0], torch.arange(2)
    kept = [model(each(inputs)(mask, query)).softmax(1)[:, 1] for each in several]
    torch.testing.assert_close(result.scores[:, 0], torch.stack(kept).mean(0))
    one, twice = (replace(METHOD, perturbation=p)(model, inputs, 1) for p in (Fade(), (Fade(), Fade())))
    torch.testing.assert_close(twice.masks, one.masks, atol=1e-5, rtol=0)


def test_a_query_does_not_depend_on_its_batch():
    model, inputs = network(), pictures(4, 3, 16, 13)
    expected = METHOD(model, inputs, [0, 4, 2, 2])
    for row, target in enumerate([0, 4, 2, 2]):
        alone = METHOD(model, inputs[row : row + 1], target)
        torch.testing.assert_close(alone.masks[0], expected.masks[row], atol=1e-4, rtol=0)
    chunked = replace(METHOD, memory=1e-6)(model, inputs, torch.tensor([0, 4, 2, 2]))
    torch.testing.assert_close(chunked.masks, expected.masks, atol=1e-4, rtol=0)


def test_seeds():
    model, inputs = network(), pictures()
    one = METHOD(model, inputs, 1)
    torch.manual_seed(5)
    assert torch.equal(METHOD(model, inputs, 1).masks, one.masks)
    assert not torch.equal(replace(METHOD, seed=1)(model, inputs, 1).masks, one.masks)
    assert torch.equal(*(replace(METHOD, seed=s, jitter=0)(model, inputs, 1).masks for s in (0, 1)))


def test_targets():
    model, inputs = network(), pictures()
    expected = METHOD(model, inputs, 3)
    for target in (Probability(3), lambda outputs: outputs.softmax(1)[:, 3], torch.tensor([3, 3]), np.array(3)):
        torch.testing.assert_close(METHOD(model, inputs, target).masks, expected.masks, atol=1e-6, rtol=0)
    torch.testing.assert_close(METHOD(model, inputs, Logit(3)).whole, model(inputs)[:, 3])


def test_progress_sees_every_step():
    seen = []
    result = METHOD(network(), pictures(), 1, progress=seen.append)
    assert [(step.index, step.steps) for step in seen] == [(index, 8) for index in range(8)]
    assert all(step.values.shape == step.areas.shape == (2,) for step in seen)
    assert torch.equal(METHOD.mask.on((16, 13))(seen[-1].parameters).clamp(0, 1), result.masks[:, 0])


@pytest.mark.parametrize("after", [None, 1, 5, 9])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_is_left_as_it_was(after, mode):
    model, inputs = Network(after and KeyboardInterrupt(), (after or 1) - 1).train(), pictures()
    with mode():
        before = state(model, inputs)
        if after is None:
            result = METHOD(model, inputs, 1)
            assert not any(getattr(result, name).requires_grad for name in ("masks", "map", "scores", "blank"))
        else:
            with pytest.raises(KeyboardInterrupt):
                METHOD(model, inputs, 1)
        assert_unchanged(before, state(model, inputs))


METHODS = [
    METHOD,
    MeaningfulPerturbation(),
    MeaningfulPerturbation.localisation(steps=7),
    replace(METHOD, perturbation=(Blur(10, 2), Constant((0.1, 0.2, 0.3))), mask=GridMask((4, 5), (2, 3)), start="ones"),
]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_a_value(method, tmp_path):
    assert hash(pickle.loads(pickle.dumps(method))) == hash(method)  # noqa: S301
    assert pickle.loads(pickle.dumps(method)) == method  # noqa: S301
    assert from_json(json.loads(json.dumps(as_json(method)))) == method


def test_a_result_s_file(tmp_path):
    result = METHOD(network(), pictures(), 1)
    result.save(tmp_path / "result.safetensors")
    again = load(tmp_path / "result.safetensors")
    assert torch.equal(again.masks, result.masks)
    assert again.areas is None
    assert from_json(again.about["method"]) == METHOD


def test_figures_of_it():
    plots = pytest.importorskip("sfumato.figures.plots")
    pytest.importorskip("matplotlib")
    result = METHOD(network(), pictures(), 1)
    assert len(plots.figure(result, pictures()[0].clamp(0, 1)).axes) == 5


def test_localisation():
    assert (MeaningfulPerturbation.localisation().l1, MeaningfulPerturbation.localisation().beta) == (1e-3, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"game": "destroy"}, "game must be one of"),
        ({"steps": 0}, "steps must be a whole number from 1 up; got 0"),
        ({"steps": 3.0}, "steps must be a whole number"),
        ({"rate": 0}, "rate is Adam.s, more than 0; got 0"),
        ({"l1": -1}, "l1 is the weight of a penalty, at least 0; got -1"),
        ({"tv": float("nan")}, "tv is the weight"),
        ({"beta": 0.5}, "beta is the exponent of the total variation, at least 1; got 0.5"),
        ({"perturbation": ()}, "one or several"),
        ({"perturbation": "blur"}, "one or several"),
        ({"jitter": -1}, "jitter must be a whole number from 0 up; got -1"),
        ({"jitter": True}, "jitter must be a whole number"),
        ({"start": "square"}, "start must be one of circle, ones; got 'square'"),
        ({"smooth": -0.1}, "smooth is a fraction"),
        ({"memory": 0}, "memory is in GiB"),
        ({"seed": 0.5}, "seed must be a whole number"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        MeaningfulPerturbation(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.5}, "scale is the length of a cell in places, or one for each axis, at least 1; got 0.5"),
        ({"scale": "8"}, "scale is the length of a cell.*got '8'"),
        ({"sigma": -1}, "sigma is the Gaussian's width in places, or one for each axis, at least 0; got -1"),
        ({"sigma": (1, -1)}, "sigma is the Gaussian's width"),
    ],
)
def test_bad_masks(settings, message):
    with pytest.raises(ValueError, match=message):
        GridMask(**settings)


def test_bad_calls():
    for size in ((15,), (224, 10)):
        with pytest.raises(ValueError, match=r"too small for a mask with scale=8; .* mask=GridMask\(scale=\("):
            GridMask(scale=8, sigma=5).on(size)
    with pytest.raises(ValueError, match="one per axis"):
        GridMask(scale=(2, 3)).on((10, 10, 10))
    model, inputs = network(), pictures()
    for target in (7, [0, 1, 2], "cat", 1.5, None):
        with pytest.raises(ValueError, match="target"):
            METHOD(model, inputs, target)
    with pytest.raises(ValueError, match="batch"):
        METHOD(model, inputs[0, 0], 1)


def test_an_evaluation_of_many_is_that_of_each():
    """What the circle's search relies on: scores in chunks are scores at once."""
    with prepared(METHOD, network(), pictures(5, 3, 16, 13), 1) as descent:
        evaluation = descent.evaluation
        masks = uniform(5, 1, 16, 13).float()
        chunks = Evaluation(evaluation.subject, evaluation.perturbed, evaluation.query, batch_rows=2)
        torch.testing.assert_close(chunks.scores(masks), evaluation.scores(masks))
