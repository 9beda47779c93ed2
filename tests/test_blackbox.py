"""The ascent without gradients: what it finds, what it does not depend on, and that it needs nothing but scores."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from sfumato import DELETE, DUAL, PRESERVE, ExtremalPerturbation, Fade, Game, Logit, SmoothMask
from sfumato.model.evaluate import Evaluation
from sfumato.model.subject import Subject
from sfumato.search.evolution import EvolutionAscent
from sfumato.search.problem import Problem
from sfumato.search.projected import ProjectedAscent
from sfumato.search.projection import NEARLY, project
from sfumato.settings import as_json, from_json
from sfumato.space.jitter import Move

MASK = SmoothMask(step=3, sigma=6)
ASCENT = EvolutionAscent(pairs=4, width=1.5, rate=0.1, approach=0.5)
SIDES = (60, 24, 12)


def moves(still):
    while True:
        assert still, "no move is to be made"
        yield Move()


def climb(ascent, model, inputs, areas, game=PRESERVE, steps=30, targets=Logit(0), rows=16, warm=None, still=False):
    """The last step, all steps, and the masks `(B, V, 1, *S)`."""
    areas = torch.as_tensor(areas).expand(len(inputs), -1)
    with Subject.prepared(model, inputs, targets) as subject:
        query = subject.query.repeat_interleave(areas.shape[1])
        evaluation = Evaluation(subject, (Fade()(subject.inputs),), query, rows)
        problem = Problem(evaluation, MASK.on(inputs.shape[2:]), areas.clone(), game, moves(still))
        steps = list(ascent(problem, steps, warm))
    masks = problem.parametrisation(steps[-1].parameters).view(*areas.shape, 1, *inputs.shape[2:])
    return steps[-1], steps, masks


def detector(axes, low=0.55, high=0.8):
    """The mean of a patch, its place `(1, 1, *S)`, and an input of ones."""
    side = SIDES[axes - 1]
    place = torch.zeros(1, 1, *[side] * axes)
    place[(..., *[slice(int(low * side), int(high * side))] * axes)] = 1

    def model(seen):
        return (seen * place).flatten(1).sum(1, keepdim=True) / place.sum()

    return model, place, torch.ones(1, 1, *[side] * axes)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_patch_that_a_detector_sees_is_found(axes):
    model, place, x = detector(axes)
    area = 2 * place.mean().item()
    last, _, masks = climb(ASCENT, model, x, [area], steps=(60, 40, 16)[axes - 1])
    assert masks.mean().item() == pytest.approx(area, abs=1e-3)
    # Smooth masks cannot show the patch alone: as much of it as the ascent by gradients shows, and more than its share.
    slope, _, _ = climb(ProjectedAscent(), model, x, [area], steps=60, still=True)
    assert last.values >= 0.95 * slope.values
    assert last.values > 1.9 * area


def test_every_step_is_at_its_area():
    model, _, x = detector(2)
    last, steps, _ = climb(ASCENT, model, x, [0.1, 0.4], steps=12)
    lattice = MASK.on(x.shape[2:])
    for step in steps:
        torch.testing.assert_close(lattice.areas(lattice.nodes(step.parameters)), step.areas, atol=0.01, rtol=0)
        assert step.parameters.min() >= 0
        assert step.parameters.max() <= 1
    assert [step.index for step in steps] == list(range(12))
    torch.testing.assert_close(
        lattice.areas(lattice.nodes(last.parameters)), torch.tensor([0.1, 0.4]), atol=2e-4, rtol=0
    )
    areas = [step.areas[0].item() for step in steps]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] == pytest.approx(0.9)
    assert areas[6:] == pytest.approx([0.1] * 6)


def test_the_answer_is_the_best_tried_at_the_wanted_area():
    model, _, x = detector(2)
    last, steps, masks = climb(ASCENT, model, x, [0.1])
    assert last.values.item() >= 0.999 * max(step.values.item() for step in steps[15:])
    assert last.values.item() == pytest.approx(model(x * masks[0]).item(), rel=2e-2)


@pytest.mark.parametrize("game", [PRESERVE, DELETE, DUAL, Game(0.5, 2)])
def test_the_first_slope_is_that_of_the_formula(game):
    """One step by hand in float64, from the same fields."""
    torch.manual_seed(0)
    x, weights = torch.randn(2, 1, 24, 24), torch.randn(1, 24, 24)

    def model(seen):
        return (seen * weights).flatten(1).sum(1, keepdim=True).tanh()

    ascent = replace(ASCENT, momentum=0.0, start=0.5)
    lattice = MASK.on((24, 24))
    _, steps, _ = climb(ascent, model, x, [0.5], game, steps=3)  # the last is the best tried, so look at the second
    fields = ascent.fields(lattice.size, torch.Generator().manual_seed(0))
    areas = torch.tensor([0.5])
    for query in range(2):
        start = steps[0].parameters[query : query + 1]

        def value(parameters, pixels=x[query].double().numpy()):
            parameters = project(lattice, parameters, areas, NEARLY)
            mask = lattice(parameters)[0].double().numpy()
            kept = np.tanh((weights.double().numpy() * mask * pixels).sum())
            dropped = np.tanh((weights.double().numpy() * (1 - mask) * pixels).sum())
            return game.keep * kept - game.drop * dropped

        slope = sum((value(start + 0.2 * field) - value(start - 0.2 * field)) * field[0].numpy() for field in fields)
        moved = start + 0.1 * torch.as_tensor(slope / np.abs(slope).max()).float()
        expected = project(lattice, moved, areas, NEARLY)
        torch.testing.assert_close(steps[1].parameters[query : query + 1], expected, atol=1e-3, rtol=0)


def test_a_row_does_not_depend_on_its_batch_nor_on_chunks():
    torch.manual_seed(1)
    x = torch.randn(3, 2, 24, 21)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    net(x)
    targets = [1, 3, 0]
    together, _, masks = climb(ASCENT, net, x, [0.2, 0.5], targets=targets, steps=8)
    for query in range(3):
        for variant, area in enumerate((0.2, 0.5)):
            alone, _, mask = climb(ASCENT, net, x[query : query + 1], [area], targets=targets[query], steps=8, rows=5)
            torch.testing.assert_close(mask[0, 0], masks[query, variant], atol=1e-3, rtol=0)
            torch.testing.assert_close(alone.values[0], together.values[2 * query + variant], atol=1e-4, rtol=1e-4)


def test_a_seed_decides_everything():
    model, _, x = detector(2)
    before = torch.get_rng_state()
    first, _, _ = climb(ASCENT, model, x, [0.1], steps=6)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, _, _ = climb(ASCENT, model, x, [0.1], steps=6)
    other, _, _ = climb(replace(ASCENT, seed=1), model, x, [0.1], steps=6)
    assert torch.equal(first.parameters, again.parameters)
    assert not torch.equal(first.parameters, other.parameters)


def test_a_constant_score_moves_nothing():
    """What is left of equal scores is rounding, and must not be followed."""
    x = torch.ones(1, 1, 24, 24)
    generator = torch.Generator().manual_seed(0)

    def model(seen):
        return 3 + 1e-6 * torch.rand(len(seen), 1, generator=generator)

    last, _, _ = climb(replace(ASCENT, start=0.3), model, x, [0.3], steps=6)
    still, _, _ = climb(replace(ASCENT, start=0.3), lambda seen: seen.new_full((len(seen), 1), 3), x, [0.3], steps=6)
    torch.testing.assert_close(last.parameters, still.parameters)


def test_a_warm_start_stays_at_the_wanted_area():
    model, _, x = detector(2)
    found, _, _ = climb(ASCENT, model, x, [0.2])
    again, steps, _ = climb(ASCENT, model, x, [0.15], steps=5, warm=found.parameters)
    assert [step.areas.item() for step in steps] == pytest.approx([0.15] * 5)
    cold, _, _ = climb(ASCENT, model, x, [0.15], steps=5)
    assert again.values > cold.values


def test_only_scores_are_asked_for_and_as_many_as_said():
    model, _, x = detector(2)
    seen = []

    def session(inputs):
        assert not inputs.requires_grad
        seen.append(len(inputs))
        return torch.from_numpy(model(inputs).numpy())  # numpy() refuses what needs gradients

    for game, times in ((PRESERVE, 1), (DUAL, 2)):
        seen.clear()
        climb(ASCENT, session, x, [0.1, 0.3], game, steps=3, rows=4)
        assert sum(seen) == times * 3 * ASCENT.evaluations * 2
        assert max(seen) <= 4


def test_fields_have_unit_variance_and_are_smooth():
    fields = EvolutionAscent(pairs=400, width=2).fields((13, 9), torch.Generator().manual_seed(0))
    assert fields.shape == (400, 1, 13, 9)
    torch.testing.assert_close(fields.var(0), torch.ones(1, 13, 9), atol=0.35, rtol=0)
    assert fields.var().item() == pytest.approx(1, abs=0.05)
    neighbours = (fields[..., 1:] * fields[..., :-1]).mean().item()
    assert neighbours == pytest.approx(np.exp(-1 / 16), abs=0.06)  # a Gaussian of width w correlates as one of w√2
    white = EvolutionAscent(pairs=400, width=0).fields((13,), torch.Generator().manual_seed(0))
    assert white.var().item() == pytest.approx(1, abs=0.1)


def test_configuration_round_trips():
    ascent = EvolutionAscent(pairs=3, seed=4)
    assert pickle.loads(pickle.dumps(ascent)) == ascent  # noqa: S301
    assert from_json(json.loads(json.dumps(as_json(ascent)))) == ascent
    assert hash(ascent) == hash(replace(ascent))
    assert ascent.evaluations == 7


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"pairs": 0}, "pairs must be a whole number from 1 up; got 0"),
        ({"pairs": 2.0}, "whole number"),
        ({"width": -1}, "width is a length in nodes"),
        ({"deviation": 0}, "deviation is how far .* more than 0; got 0"),
        ({"rate": -1}, "rate is how far"),
        ({"momentum": 1}, "momentum is a factor"),
        ({"start": 1}, "start is an area"),
        ({"approach": 1}, "approach is a share"),
        ({"seed": "7"}, "seed"),
    ],
)
def test_wrong_settings_are_explained(wrong, says):
    with pytest.raises(ValueError, match=says):
        EvolutionAscent(**wrong)


def test_a_score_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="not finite"):
        climb(ASCENT, lambda seen: seen.flatten(1)[:, :1] * torch.nan, torch.ones(1, 1, 24, 24), [0.3], steps=2)


def test_a_session_of_arrays_is_explained():
    """As an ONNX session would be: numpy in, numpy out, one row at a time if it likes."""
    model, _, x = detector(2)

    def session(inputs):
        return model(torch.from_numpy(np.ascontiguousarray(inputs.numpy()))).numpy()

    method = ExtremalPerturbation(areas=(0.2,), steps=6, mask=MASK, perturbation=Fade(), ascent=ASCENT)
    result = method(session, x, 0)
    assert result.masks.shape == (len(x), 1, 1, *x.shape[2:])
    torch.testing.assert_close(result.whole, model(x)[:, 0])
    torch.testing.assert_close(result.achieved, torch.full((len(x), 1), 0.2), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="EvolutionAscent"):
        replace(method, ascent=ProjectedAscent())(session, x, 0)
