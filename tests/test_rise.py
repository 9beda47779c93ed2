"""RISE against naive loops, the truth, and black boxes."""

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sfumato import Blur, Constant, Fade, Logit, Output, Probability
from sfumato.cli.progress import progress_bar
from sfumato.methods.rise import RISE, Sums
from sfumato.methods.sampled import ROUND
from sfumato.settings import as_json, from_json

SHAPES = [((20,), 4), ((13, 18), 4), ((13, 18), (3, 5)), ((6, 8, 9), (2, 3, 4))]


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(shape, seed=1):
    """A model of one output, a weighted sum of the input's places."""
    weights = inputs(1, 1, *shape, seed=seed)
    return lambda x: (x * weights).flatten(1).sum(1, keepdim=True)


def run(method, model, x, targets=Logit(0)):
    """The map and the last round."""
    rounds = []
    result = method(model, x, targets, rounds.append)
    return result.map, rounds[-1]


def naive_masks(method, shape):
    """Section 3.2 of the paper, place by place, from the same random numbers."""
    counts = method.cells if isinstance(method.cells, tuple) else (method.cells,) * len(shape)
    masks = []
    for draws in method.masks(shape):
        for cells, crops in zip(draws.cells.double().numpy(), draws.crops.double().numpy(), strict=True):
            cell = [math.ceil(length / count) for length, count in zip(shape, counts, strict=True)]
            start = [math.floor(crop * (size + 1)) for crop, size in zip(crops, cell, strict=True)]
            mask = np.zeros(shape)
            for place in np.ndindex(*shape):
                corners = [(1.0, ())]
                for u, first, size, count in zip(place, start, cell, counts, strict=True):
                    at = (u + first + 0.5) * count / ((count + 1) * size) - 0.5
                    at = min(max(at, 0.0), count - 1.0)
                    low = min(math.floor(at), count - 2)
                    corners = [
                        (weight * share, (*corner, node))
                        for weight, corner in corners
                        for node, share in ((low, low + 1 - at), (low + 1, at - low))
                    ]
                mask[place] = sum(weight * cells[corner] for weight, corner in corners)
            masks.append(mask)
    return np.stack(masks)


@pytest.mark.parametrize(("shape", "cells"), SHAPES)
@pytest.mark.parametrize("draw", ["random", "sobol"])
def test_masks_as_published(shape, cells, draw):
    method = RISE(samples=5, cells=cells, draw=draw, keep=0.4)
    ours = torch.cat([draws[:] for draws in method.masks(shape)])
    assert ours.shape == (5, 1, *shape)
    np.testing.assert_allclose(ours[:, 0].numpy(), naive_masks(method, shape), atol=1e-6)


@pytest.mark.parametrize("draw", ["random", "sobol"])
def test_every_place_shows_as_often_as_kept(draw):
    method = RISE(samples=4096, cells=3, keep=0.3, draw=draw)
    crops, total = [], 0.0
    for draws in method.masks((11, 17)):
        masks = draws[:]
        assert masks.min() >= 0
        assert masks.max() <= 1 + 1e-6
        crops.append((draws.crops * torch.tensor([5, 7])).floor())
        total = total + masks.sum(0)
    torch.testing.assert_close(total / 4096, torch.full((1, 11, 17), 0.3), atol=0.03, rtol=0)
    # Crops begin with place 0, ..., ceil(H/h), each as often.
    for axis, count in enumerate((5, 7)):
        share = torch.cat(crops)[:, axis].long().bincount() / 4096
        torch.testing.assert_close(share, torch.full((count,), 1 / count), atol=0.03, rtol=0)


@pytest.mark.filterwarnings("ignore:the score of input")  # one of them saturates
@pytest.mark.parametrize(("shape", "cells"), SHAPES)
def test_map_and_error_against_loops(shape, cells):
    method = RISE(samples=40, cells=cells, perturbation=Constant(0.5), batch=7)
    x = inputs(1, 2, *shape)
    weights = inputs(2, *shape, seed=5)

    def model(seen):
        return 100 + (seen * weights).flatten(1).sum(1, keepdim=True).tanh()

    masks = naive_masks(method, shape)
    pixels, w = x[0].double().numpy(), weights.double().numpy()
    f = [100 + math.tanh((w * (m * pixels + (1 - m) * 0.5)).sum()) for m in masks]
    expected, error = np.zeros(shape), np.zeros(shape)
    for place in np.ndindex(*shape):
        shown = sum(m[place] for m in masks)
        expected[place] = sum(m[place] * score for m, score in zip(masks, f, strict=True)) / shown
        spread = sum((m[place] * (score - expected[place])) ** 2 for m, score in zip(masks, f, strict=True))
        error[place] = math.sqrt(spread * 40 / 39) / shown
    found, last = run(method, model, x)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(last.error[0, 0].numpy(), error, atol=2e-5)
    assert last.samples.tolist() == [40]
    assert last.values.item() == pytest.approx(np.mean(f), abs=1e-4)
    assert last.areas.item() == pytest.approx(masks.mean(), abs=1e-5)
    rms = math.sqrt((error**2).mean())
    assert last.relative.item() == pytest.approx(rms / (expected.max() - expected.min()), rel=1e-3)


def test_masks_own_sum_varies_less_than_its_expectation():
    """The paper's divisor, N times keep, has the same limit and a larger spread."""
    x, model = inputs(1, 1, 12, 12), linear((12, 12))
    ours, published = [], []
    for seed in range(12):
        method = RISE(samples=128, cells=3, seed=seed)
        ours.append(run(method, lambda seen: 5 + model(seen) / 10, x)[0])
        masks = torch.cat([draws[:] for draws in method.masks((12, 12))])
        f = 5 + model(x * masks) / 10
        published.append((f[:, :, None, None] * masks).sum(0, keepdim=True) / (128 * 0.5))
    ours, published = torch.cat(ours), torch.cat(published)
    assert ours.std(0).mean() < published.std(0).mean() / 3
    torch.testing.assert_close(ours.mean(0), published.mean(0), atol=0.6, rtol=0)


@pytest.mark.parametrize("game", ["large", "small differences"])
def test_standard_error_matches_the_spread_over_seeds(game):
    x, base = inputs(1, 1, 12, 12), linear((12, 12))
    scale, offset = (1.0, 0.0) if game == "large" else (1e-3, 10.0)
    maps, errors = [], []
    for seed in range(60):
        found, last = run(RISE(samples=100, cells=3, seed=seed), lambda seen: offset + scale * base(seen), x)
        maps.append(found)
        errors.append(last.error)
    spread = torch.cat(maps).var(0).mean().sqrt()
    assert spread.item() == pytest.approx(torch.cat(errors).square().mean().sqrt().item(), rel=0.12)


def test_sobol_errs_less_on_a_smooth_toy():
    x, base = inputs(1, 1, 16, 16), linear((16, 16))

    def model(seen):
        return torch.tanh(base(seen) / 10)

    truth, _ = run(RISE(samples=16384, cells=4, seed=1000, draw="sobol"), model, x)
    errors, claimed = {}, {}
    for draw in ("random", "sobol"):
        runs = [run(RISE(samples=512, cells=4, seed=seed, draw=draw), model, x) for seed in range(6)]
        errors[draw] = torch.stack([(found - truth).square().mean() for found, _ in runs]).mean().sqrt().item()
        claimed[draw] = torch.stack([last.error.square().mean() for _, last in runs]).mean().sqrt().item()
    assert errors["sobol"] < errors["random"]
    assert errors["sobol"] < claimed["sobol"]  # an upper bound there


def test_the_analytic_map_of_a_linear_model():
    """Of a sum of weighted places, with cells that never overlap: S = mean of all + what the cell itself adds."""
    x = torch.ones(1, 1, 2)

    def model(seen):
        return seen @ torch.tensor([3.0, 1.0])

    # Two cells along one axis of two places; each crop shows some of each. E[f M] / E[M] from all 4 masks and 2 crops.
    method = RISE(samples=1 << 14, cells=2, draw="sobol")
    cases = []
    for cells in np.ndindex(2, 2):
        for first in (0, 1):
            at = [min(max((u + first + 0.5) * 2 / 3 - 0.5, 0), 1) for u in (0, 1)]
            cases.append([(1 - t) * cells[0] + t * cells[1] for t in at])
    f = [3 * m[0] + m[1] for m in cases]
    expected = [sum(m[u] * v for m, v in zip(cases, f, strict=True)) / sum(m[u] for m in cases) for u in (0, 1)]
    found, _ = run(method, model, x)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=0.02)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_patch_that_a_detector_sees_is_found(axes):
    side = (40, 24, 14)[axes - 1]
    patch = (..., *[slice(side // 2, side // 2 + side // 4)] * axes)
    x = torch.ones(1, 1, *[side] * axes)

    def detector(seen):
        return seen[patch].flatten(1).mean(1, keepdim=True)

    found, _ = run(RISE(samples=600, cells=5 if axes < 3 else 4), detector, x)
    peak = np.unravel_index(found[0, 0].argmax().item(), found.shape[2:])
    assert all(side // 2 - 2 <= place < side // 2 + side // 4 + 2 for place in peak)
    outside = torch.ones_like(found, dtype=torch.bool)
    outside[patch] = False
    assert found[patch].mean() > found[outside].quantile(0.9)


def small_network(axes=2):
    torch.manual_seed(3)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    return nn.Sequential(convolution(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))


def test_a_query_does_not_depend_on_its_batch_nor_on_chunks():
    net, x = small_network(), inputs(3, 2, 14, 11)
    net(x)
    method = RISE(samples=1500, cells=3, tolerance=0.05)
    targets = torch.tensor([1, 4, 0])
    together = method(net, x, targets)
    assert len(set(together.about["samples"])) > 1  # each stops by itself
    for query in range(3):
        alone = replace(method, batch=5)(net, x[query : query + 1], targets[query])
        torch.testing.assert_close(alone.map, together[query].map, atol=1e-6, rtol=0)
        assert alone.about["samples"] == together.about["samples"][query : query + 1]
        assert alone.about["standard_error"][0] == pytest.approx(together.about["standard_error"][query], rel=1e-3)
        assert alone.whole == pytest.approx(together.whole[query].item(), abs=1e-6)
    reverse = replace(method, memory=1e-9)(net, x.flip(0), targets.flip(0))
    torch.testing.assert_close(reverse.map.flip(0), together.map, atol=1e-6, rtol=0)


@pytest.mark.parametrize("draw", ["random", "sobol"])
def test_a_seed_decides_everything_and_nothing_else_changes(draw):
    net, x = small_network(), inputs(1, 2, 14, 11)
    net(x)
    method = RISE(samples=130, cells=3, draw=draw)
    before = torch.get_rng_state()
    first = method(net, x, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(first.map, method(net, x, 2).map)
    assert not torch.equal(first.map, replace(method, seed=1)(net, x, 2).map)
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert not first.map.requires_grad
    assert first.map.dtype == torch.float32
    with torch.inference_mode():
        assert torch.equal(first.map, method(net, x, 2).map)


@pytest.mark.filterwarnings("ignore:the score of input")  # one of them is flat
def test_an_early_stop_is_the_same_run_cut_short():
    x, base = inputs(1, 1, 12, 12), linear((12, 12))
    found, last = run(RISE(samples=5000, cells=3, tolerance=0.05), base, x)
    used = last.samples.item()
    assert used % ROUND == 0
    assert ROUND < used < 5000
    assert last.relative <= 0.05
    torch.testing.assert_close(found, run(RISE(samples=used, cells=3), base, x)[0], atol=1e-6, rtol=0)
    flat, last = run(RISE(samples=5000, cells=3, tolerance=0.01), lambda seen: seen.new_ones(len(seen), 1), x)
    assert last.samples.item() == ROUND
    torch.testing.assert_close(flat, torch.ones_like(flat))


def test_never_more_evaluations_than_asked_and_never_all_masks_at_once():
    sizes = []

    def model(seen):
        sizes.append(len(seen))
        return linear((30, 30))(seen)

    RISE(samples=200, cells=3, batch=6)(model, inputs(2, 1, 30, 30), Logit(0))
    assert max(sizes) <= 6
    assert sum(sizes) <= 2 * 200 + 2 + 3  # the masks, the whole inputs, and looks at layout and memory


class Session:
    """A stand-in for a runtime that takes and gives arrays, refuses gradients, and owns its buffer."""

    def __init__(self, net):
        self.net, self.buffer = net, None

    def run(self, array):
        assert isinstance(array, np.ndarray)
        with torch.no_grad():
            self.buffer = self.net(torch.from_numpy(np.ascontiguousarray(array))).double().numpy()
        self.buffer.flags.writeable = False
        return [self.buffer]


def test_black_boxes_that_speak_arrays():
    net, x = small_network(), inputs(2, 2, 14, 11)
    net(x)
    method, session = RISE(samples=140, cells=3), Session(net)
    expected = method(net, x, [1, 2]).map
    first = method(lambda seen: session.run(seen.numpy())[0], x, [1, 2]).map
    torch.testing.assert_close(first, expected, atol=1e-6, rtol=0)
    whole = method(lambda seen: session.run(seen.numpy()), x, Output(lambda outputs: outputs[0][:, 1])).map
    named = method(lambda seen: {"logits": session.run(seen.numpy())[0]}, x, lambda outputs: outputs["logits"][:, 1])
    assert torch.equal(whole, named.map)
    torch.testing.assert_close(whole, method(net, x, Logit(1)).map, atol=1e-6, rtol=0)

    class Fields(dict):
        """A dict with attributes, as some libraries return; without arrays it stays what it is."""

        logits = property(lambda self: self["logits"])

    fields = method(lambda seen: Fields(logits=net(seen)), x, lambda outputs: outputs.logits[:, 1])
    torch.testing.assert_close(fields.map, whole, atol=1e-6, rtol=0)

    class Wrapped(nn.Module):
        def forward(self, seen):
            return session.run(seen.numpy())[0]

    torch.testing.assert_close(method(Wrapped(), x, [1, 2]).map, expected, atol=1e-6, rtol=0)


def test_no_gradient_is_computed():
    def model(seen):
        grads.append(torch.is_grad_enabled() and seen.requires_grad)
        return linear((12, 12))(seen)

    grads = []
    RISE(samples=10, cells=3)(model, inputs(1, 1, 12, 12).requires_grad_(), Logit(0))
    assert sum(grads) <= 1  # the look at the memory that a backward pass would take


def test_a_class_means_its_probability():
    net, x = small_network(), inputs(1, 2, 14, 11)
    net(x)
    method = RISE(samples=60, cells=3)
    ours = method(net, x, 2)
    assert ours.about["score"]["class"].endswith("Probability")
    assert torch.equal(ours.map, method(net, x, Probability(2)).map)
    soft = method(lambda seen: net(seen).softmax(1), x, Logit(2))
    torch.testing.assert_close(ours.map, soft.map, atol=1e-6, rtol=0)
    assert ours.whole.item() == pytest.approx(net(x).softmax(1)[0, 2].item(), abs=1e-6)


def test_precision_where_scores_hardly_differ():
    """In float32, sums of squares of scores around 1000 would lose differences of 0.01."""
    x, base = inputs(1, 1, 12, 12), linear((12, 12))
    method = RISE(samples=256, cells=3)
    plain, last = run(method, lambda seen: base(seen).double(), x)
    sums = Sums.empty(x)
    for draws in method.masks((12, 12)):
        sums.add(draws[:], 1000 + 1e-3 * base(x * draws[:]).double(), torch.tensor([0]))
    torch.testing.assert_close(sums.round(0, 1).error, 1e-3 * last.error, rtol=1e-4, atol=0)
    torch.testing.assert_close(sums.round(0, 1).relative, last.relative, rtol=1e-3, atol=0)
    assert plain.shape == (1, 1, 12, 12)


def test_progress_is_told_every_round():
    x = inputs(2, 1, 12, 12)
    rounds = []
    result = RISE(samples=300, cells=3)(linear((12, 12)), x, Logit(0), rounds.append)
    assert [(round_.index, round_.steps) for round_ in rounds] == [(0, 3), (1, 3), (2, 3)]
    assert [round_.samples.tolist() for round_ in rounds] == [[128] * 2, [256] * 2, [300] * 2]
    assert torch.equal(result.map, rounds[-1].map)
    assert result.about["samples"] == [300, 300]
    assert json.loads(json.dumps(result.about))
    with progress_bar("rise") as show:  # what it reads is there
        RISE(samples=300, cells=3)(linear((12, 12)), x, Logit(0), show)


def test_smooth_blurs_the_map():
    x = inputs(1, 1, 20, 20)
    rough = RISE(samples=100, cells=5)(linear((20, 20)), x, Logit(0)).map
    smooth = RISE(samples=100, cells=5, smooth=0.1)(linear((20, 20)), x, Logit(0)).map
    assert smooth.var() < rough.var()
    assert smooth.mean().item() == pytest.approx(rough.mean().item(), rel=1e-3)


def test_configuration_round_trips():
    for method in (RISE(), RISE(cells=[3, 4], draw="sobol", perturbation=Blur(3), tolerance=0.1)):
        assert pickle.loads(pickle.dumps(method)) == method  # noqa: S301
        assert from_json(json.loads(json.dumps(as_json(method)))) == method
        assert hash(method) == hash(replace(method))
    assert RISE().perturbation == Fade()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"samples": 1}, "samples must be a whole number from 2 up; got 1"),
        ({"samples": 1e3}, "whole number"),
        ({"cells": 1}, "cells are whole numbers from 2 up"),
        ({"cells": (3, 0)}, "got 0"),
        ({"keep": 50}, "the probability that a cell is shown, more than 0 and less than 1; got 50"),
        ({"keep": 0}, "keep is the probability"),
        ({"draw": "halton"}, "random, sobol; got 'halton'"),
        ({"batch": 0}, "batch must be"),
        ({"tolerance": 1}, "tolerance is a fraction"),
        ({"smooth": -1}, "smooth"),
        ({"memory": 0}, "GiB"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_wrong_settings_are_explained(wrong, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        RISE(**wrong)


def test_wrong_inputs_are_explained():
    x = inputs(1, 1, 12, 12)
    with pytest.raises(ValueError, match="too small for cells=20"):
        RISE(cells=20)(linear((12, 12)), x, Logit(0))
    with pytest.raises(ValueError, match="2 values"):
        RISE(cells=(3, 3))(lambda seen: seen.flatten(1), inputs(1, 1, 30), Logit(0))
    with pytest.raises(ValueError, match='take draw="random"'):
        RISE(cells=150, draw="sobol")(lambda seen: seen.flatten(1), inputs(1, 1, 160, 160), Logit(0))
    with pytest.raises(ValueError, match="out of range"):
        RISE()(linear((12, 12)), x, 3)
    with pytest.raises(ValueError, match="must be a torch tensor"):
        RISE()(linear((12, 12)), None, 0)
    with pytest.raises(ValueError, match="masked input is not finite"):
        RISE(samples=20)(lambda seen: torch.where(seen == 0, torch.nan, seen).flatten(1), x.abs() + 1, Logit(0))
    with pytest.raises(RuntimeError, match="out of order"):
        RISE()(_broken, x, Logit(0))


def _broken(seen):
    raise RuntimeError("out of order")
