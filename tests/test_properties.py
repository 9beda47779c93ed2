"""What holds for all inputs: hypothesis looks for one for which it does not."""

import json
import pickle
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from sfumato import (
    DELETE,
    DUAL,
    PRESERVE,
    Blur,
    CanvasMask,
    Constant,
    Contrastive,
    ExtremalPerturbation,
    Fade,
    Game,
    Jitter,
    Logit,
    LogOdds,
    Noise,
    Probability,
    Scramble,
    SmoothMask,
    load,
)
from sfumato.search.penalised import PenalisedAscent
from sfumato.search.projected import ProjectedAscent
from sfumato.search.projection import EXACTLY, NEARLY, project
from sfumato.search.schedules import Geometric
from sfumato.settings import as_json, from_json
from sfumato.space.jitter import MirrorEvenSteps
from sfumato.space.smoothing import gaussian_blur

few = settings(max_examples=25, deadline=None, derandomize=True)
very_few = settings(max_examples=4, deadline=None, derandomize=True)

seeds = st.integers(0, 2**31)
shapes = st.one_of(
    st.tuples(st.integers(20, 60)),
    st.tuples(st.integers(12, 24), st.integers(12, 24)),
    st.tuples(st.integers(8, 12), st.integers(8, 12), st.integers(8, 12)),
)
families = st.builds(SmoothMask, step=st.floats(2, 4), sigma=st.floats(2, 14), temperature=st.sampled_from([5, 20, 60]))
widths = st.one_of(st.just(0.0), st.floats(0.2, 6))
borders = st.sampled_from(["reflect", "zeros"])
perturbations = st.one_of(
    st.builds(Blur, max_sigma=st.floats(0.5, 12), levels=st.integers(2, 9), border=borders),
    st.just(Fade()),
    st.builds(Constant, st.floats(-2, 2)),
    st.builds(Constant, st.tuples(*[st.floats(-2, 2)] * 3)),
    st.builds(Noise, std=st.floats(0.01, 2), seed=st.integers(0, 2**40)),
    st.builds(Scramble, seed=st.integers(0, 2**40)),
)
games = st.one_of(
    st.sampled_from(["preserve", "delete", "dual", PRESERVE, DELETE, DUAL]),
    st.builds(Game, keep=st.floats(0.1, 3), drop=st.floats(0, 3)),
)
area_lists = st.lists(st.floats(0.02, 0.9), min_size=1, max_size=4, unique=True).map(lambda areas: tuple(sorted(areas)))
per_axis = st.one_of(st.floats(0.5, 40), st.tuples(st.floats(0.5, 40), st.floats(0.5, 40)))
smooth_methods = st.builds(
    ExtremalPerturbation,
    areas=area_lists,
    game=games,
    steps=st.integers(1, 900),
    perturbation=perturbations,
    mask=st.builds(SmoothMask, step=per_axis, sigma=per_axis, temperature=st.floats(1, 100)),
    ascent=st.builds(
        ProjectedAscent,
        rate=st.floats(0.01, 1),
        momentum=st.floats(0, 0.99),
        start=st.floats(0.1, 0.95),
        approach=st.floats(0, 0.9),
    ),
    jitter=st.one_of(
        st.none(), st.builds(Jitter, shift=st.integers(0, 9), flip=st.booleans()), st.just(MirrorEvenSteps())
    ),
    smooth=st.floats(0, 0.2),
    seed=seeds,
    memory=st.floats(0.01, 8),
)
canvas_methods = st.builds(
    ExtremalPerturbation.torchray,
    areas=area_lists,
    mask=st.builds(CanvasMask, step=st.integers(1, 9), sigma=st.integers(1, 30)),
    ascent=st.builds(PenalisedAscent, weight=st.builds(Geometric, st.floats(1, 900), st.floats(1, 1.1))),
)
methods = st.one_of(smooth_methods, canvas_methods)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def clipped(lattice, count, seed):
    """Parameters of which many are exactly 0 or 1, as in the course of an ascent."""
    return (2 * uniform(count, 1, *lattice.size, seed=seed) - 0.5).clamp(0, 1)


@few
@given(families, shapes, seeds)
def test_masks_lie_between_0_and_1(family, shape, seed):
    lattice = family.on(shape)
    masks = lattice(clipped(lattice, 3, seed))
    assert masks.shape == (3, 1, *shape)
    assert masks.min() >= -1e-5
    assert masks.max() <= 1 + 1e-5
    assert torch.equal(lattice(torch.zeros(1, 1, *lattice.size)), torch.zeros(1, 1, *shape))


@few
@given(families, shapes, seeds)
def test_areas_are_the_means_of_the_masks(family, shape, seed):
    lattice = family.on(shape)
    parameters = clipped(lattice, 3, seed)
    torch.testing.assert_close(
        lattice.areas(lattice.nodes(parameters)), lattice(parameters).flatten(1).mean(1), atol=1e-5, rtol=0
    )


@few
@given(families, shapes, seeds)
def test_masks_grow_with_the_largest_seed(family, shape, seed):
    """k(0) = 1 and the maximum does not damp: one seed of 1 alone gives a mask whose nodes reach 1 there."""
    lattice = family.on(shape)
    parameters = torch.zeros(1, lattice.nodes(torch.ones(1, 1, *lattice.size)).numel())
    place = seed % parameters.numel()
    parameters[0, place] = 1
    nodes = lattice.nodes(parameters.view(1, 1, *lattice.size)).flatten()
    assert nodes[place] == nodes.max()
    assert nodes[place].item() == pytest.approx(1, abs=1e-5)


@few
@given(families, shapes, seeds, st.lists(st.floats(0.02, 0.85), min_size=1, max_size=5))
def test_project_reaches_its_areas(family, shape, seed, areas):
    lattice = family.on(shape)
    areas = torch.tensor(areas)
    everything = lattice.areas(lattice.nodes(torch.ones(1, 1, *lattice.size)))
    areas = areas.minimum(everything)
    parameters = project(lattice, clipped(lattice, len(areas), seed), areas, EXACTLY)
    assert parameters.min() >= 0
    assert parameters.max() <= 1
    torch.testing.assert_close(lattice(parameters).flatten(1).mean(1), areas, atol=2e-4, rtol=0)


@few
@given(families, shapes, seeds, st.floats(0, 9), st.floats(0.05, 0.85))
def test_project_reaches_its_areas_from_outside_the_range(family, shape, seed, moved, area):
    lattice = family.on(shape)
    parameters = clipped(lattice, 2, seed) + moved * uniform(2, 1, *lattice.size, seed=seed + 1)
    everything = lattice.areas(lattice.nodes(torch.ones(1, 1, *lattice.size)))
    areas = torch.full((2,), area).minimum(everything)
    achieved = lattice(project(lattice, parameters, areas, EXACTLY)).flatten(1).mean(1)
    torch.testing.assert_close(achieved, areas, atol=1e-3, rtol=0)


@few
@given(families, shapes, seeds)
def test_project_leaves_alone_what_has_its_area(family, shape, seed):
    lattice = family.on(shape)
    parameters = clipped(lattice, 2, seed)
    areas = lattice.areas(lattice.nodes(parameters))
    for trials in (NEARLY, EXACTLY):
        torch.testing.assert_close(project(lattice, parameters, areas, trials), parameters, atol=1e-4, rtol=0)


@few
@given(perturbations, shapes, seeds)
def test_a_mask_of_1_shows_the_input(perturbation, shape, seed):
    x = random(2, 3, *shape, seed=seed)
    query = torch.tensor([1, 0, 1])
    shown = perturbation(x)(torch.ones(3, 1, *shape), query)
    if isinstance(perturbation, Fade):
        assert torch.equal(shown, x[query])
    torch.testing.assert_close(shown, x[query], atol=1e-6, rtol=1e-6)


@few
@given(perturbations, shapes, seeds)
def test_perturbations_serve_each_mask_its_own_query(perturbation, shape, seed):
    x = random(3, 3, *shape, seed=seed)
    masks = uniform(4, 1, *shape, seed=seed)
    query = torch.tensor([2, 0, 2, 1])
    together = perturbation(x)(masks, query)
    for row, index in enumerate(query.tolist()):
        alone = perturbation(x[index : index + 1])(masks[row : row + 1], torch.zeros(1, dtype=torch.long))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


@few
@given(st.permutations(range(3)), st.tuples(*[st.integers(8, 14)] * 3), st.tuples(*[st.floats(2, 4)] * 3), seeds)
def test_masks_commute_with_transposing_space(order, shape, step, seed):
    sigma = (5.0, 3.0, 8.0)
    lattice = SmoothMask(step, sigma).on(shape)
    turned = SmoothMask(tuple(step[i] for i in order), tuple(sigma[i] for i in order)).on([shape[i] for i in order])
    axes = (0, 1, *(2 + i for i in order))
    parameters = clipped(lattice, 2, seed)
    torch.testing.assert_close(turned(parameters.permute(axes)), lattice(parameters).permute(axes), atol=1e-5, rtol=0)


@few
@given(st.permutations(range(3)), st.tuples(*[st.integers(3, 14)] * 3), st.tuples(*[widths] * 3), borders, seeds)
def test_blur_commutes_with_transposing_space(order, shape, sigma, border, seed):
    x = random(2, 2, *shape, seed=seed)
    axes = (0, 1, *(2 + i for i in order))
    turned = gaussian_blur(x.permute(axes), [sigma[i] for i in order], border)
    torch.testing.assert_close(turned, gaussian_blur(x, sigma, border).permute(axes), atol=1e-5, rtol=0)


@few
@given(shapes, st.floats(0.3, 20), seeds)
def test_blur_with_reflecting_borders_keeps_the_mean(shape, sigma, seed):
    x = random(2, 2, *shape, seed=seed)
    means = gaussian_blur(x, sigma).flatten(2).mean(2)
    torch.testing.assert_close(means, x.flatten(2).mean(2), atol=1e-5, rtol=0)
    flat = torch.full_like(x, 0.7)
    torch.testing.assert_close(gaussian_blur(flat, sigma), flat, atol=1e-5, rtol=0)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten(1),
        nn.LazyLinear(5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    network_ = network()
    with torch.no_grad():
        network_(random(1, 3, 20, 16))
    return network_


QUICK = ExtremalPerturbation(
    areas=(0.05, 0.2, 0.5), steps=30, perturbation=Blur(4, 4), mask=SmoothMask(step=3, sigma=6), jitter=Jitter(2)
)
BATCH = random(4, 3, 20, 16, seed=7)
TARGETS = [1, 4, 0, 1]


def assert_same(one, other, tolerance=1e-4):
    for name in ("masks", "map", "achieved", "scores", "complements", "whole", "blank"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def together(model):
    return QUICK(model, BATCH, TARGETS)


def test_the_searched_masks_move_from_where_they_began(together):
    """Without which the comparisons below would compare constants."""
    assert together.masks.std(dim=(3, 4)).min() > 0.01
    assert (together.masks[0] - together.masks[3]).abs().max() > 0.2
    assert (together.scores > together.complements.flip(1)).float().mean() > 0.7


@pytest.mark.parametrize("query", range(4))
def test_a_query_alone_and_in_a_batch(model, together, query):
    alone = QUICK(model, BATCH[query : query + 1], TARGETS[query])
    assert_same(alone, together[query])


@pytest.mark.parametrize("game", ["delete", "dual"])
@pytest.mark.parametrize("score", [Logit, Probability, Contrastive])
def test_a_query_alone_and_in_a_batch_for_games_and_scores(model, game, score):
    method = replace(QUICK, game=game, steps=12, areas=(0.1, 0.3))
    both = method(model, BATCH[:2], score(TARGETS[:2]))
    assert_same(method(model, BATCH[1:2], score(TARGETS[1])), both[1])


@very_few
@given(st.permutations(range(4)))
def test_permuting_the_batch_commutes_with_the_method(model, together, order):
    permuted = QUICK(model, BATCH[list(order)], [TARGETS[i] for i in order])
    for row, query in enumerate(order):
        assert_same(permuted[row], together[query])


def test_the_same_seed_gives_the_same_result(model, together):
    torch.rand(3)  # the global random state plays no part
    assert_same(QUICK(model, BATCH, TARGETS), together, tolerance=0)
    other = replace(QUICK, seed=1)(model, BATCH, TARGETS)
    assert (other.masks - together.masks).abs().max() > 1e-3


def test_memory_does_not_change_the_result(model, together):
    rows = []

    def watched(inputs):
        rows.append(len(inputs))
        return model(inputs)

    for memory, least, most in ((1e-9, 1, 1), (1e-4, 2, 11), (2, 12, 12)):
        rows.clear()
        assert_same(replace(QUICK, memory=memory)(watched, BATCH, TARGETS), together)
        assert rows[:2] == [1, 2], "one input alone, then a pair"
        assert least <= max(rows[2:]) <= most


def test_torchray_masks_do_not_depend_on_their_batch(model):
    method = ExtremalPerturbation.torchray((0.1, 0.3), steps=15, mask=CanvasMask(step=3, sigma=6))
    both = method(model, BATCH[:2], TARGETS[:2])
    assert both.masks.min() >= 0
    assert both.masks.max() <= 1
    assert_same(method(model, BATCH[1:2], TARGETS[1]), both[1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(methods)
def test_configurations_travel(method):
    text = json.dumps(as_json(method), allow_nan=False)
    again = from_json(json.loads(text))
    assert again == method
    assert hash(again) == hash(method)
    assert pickle.loads(pickle.dumps(method)) == method  # noqa: S301
    assert len({method, again}) == 1


@few
@given(methods, methods)
def test_different_configurations_differ(one, other):
    assert (one == other) == (as_json(one) == as_json(other))


@pytest.mark.parametrize(
    "score",
    [
        Logit(3),
        Logit((3, 1)),
        Probability(2),
        LogOdds(2),
        Contrastive(2),
        Contrastive((2, 0), against=(1, 1)),
        Logit(3) - 0.5 * Probability(2),
    ],
)
def test_scores_travel(score):
    assert from_json(json.loads(json.dumps(as_json(score)))) == score
    assert pickle.loads(pickle.dumps(score)) == score  # noqa: S301
    assert hash(score) == hash(pickle.loads(pickle.dumps(score)))  # noqa: S301


def test_results_travel(together, tmp_path):
    path = tmp_path / "result.safetensors"
    together.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    again = load(path)
    assert again.about == together.about
    assert from_json(again.about["method"]) == QUICK
    for result in (again, pickle.loads(pickle.dumps(together))):  # noqa: S301
        assert torch.equal(result.areas, torch.tensor(QUICK.areas))
        assert_same(result, together, tolerance=0)


def test_one_query_of_a_result(together):
    assert len(together) == 4
    last = together[-1]
    assert len(last) == 1
    assert_same(last, together[3], tolerance=0)
    assert torch.equal(last.masks, together.masks[3:])
    assert torch.equal(last.areas, together.areas)
    for outside in (4, -5):
        with pytest.raises(IndexError, match="there are 4"):
            together[outside]


def test_a_result_of_part_of_a_batch_can_be_saved(together, tmp_path):
    together[2].save(tmp_path / "one")
    assert_same(load(tmp_path / "one"), together[2], tolerance=0)
