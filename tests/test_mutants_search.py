"""Small faults of the search that no other test would notice: each test here fails for one changed line.

The steps of both ascents are written once more from their definition, with gradients that are known in closed form.
"""

from dataclasses import dataclass, replace
from itertools import islice, pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sfumato import Blur, CanvasMask, ExtremalPerturbation, Fade, Jitter, Noise, SmoothMask, smallest
from sfumato.masks.penalties import area_penalty
from sfumato.model.backward.rules import BackwardRules
from sfumato.model.effects import saved_bytes
from sfumato.search.evolution import EvolutionAscent
from sfumato.search.penalised import PenalisedAscent
from sfumato.search.problem import Problem
from sfumato.search.projected import ProjectedAscent
from sfumato.search.projection import EXACTLY, project
from sfumato.search.schedules import Geometric
from sfumato.space.jitter import MirrorEvenSteps, Move

SIZE = (14, 17)
INPUTS = torch.ones(1, 1, *SIZE)
MASK = SmoothMask(step=3, sigma=5)
METHOD = ExtremalPerturbation(areas=(0.2,), steps=5, perturbation=Fade(), mask=MASK, jitter=None)

AT_REST = ProjectedAscent(rate=1e-6, start=0.2)
"""Steps that hardly move, at the wanted area from the first on."""

ROUNDING = 1e-4
"""Of parameters after a few steps in float32. What is left out or replaced moves them by a hundred times as much."""


def weights(seed=0):
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def linear(values):
    """The score is a weighted sum of the places, so that its gradient with respect to the mask is the weights."""
    return lambda inputs: (inputs * values).flatten(1).sum(1, keepdim=True)


def slope(lattice, parameters, values):
    """The gradient of the weighted sum of a mask with respect to its parameters."""
    leaf = parameters.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad((lattice(leaf) * values).sum(), leaf)
    return gradient


def test_each_step_moves_by_the_rate_times_the_velocity():
    """v = momentum · v + g / max |g|, and the parameters go by rate · v, then back to their area."""
    ascent, values, seen = ProjectedAscent(rate=0.05, momentum=0.8, rounds=1), weights(), []
    replace(METHOD, ascent=ascent)(linear(values), INPUTS, 0, progress=seen.append)
    lattice = MASK.on(SIZE)
    velocity = torch.zeros_like(seen[0].parameters)
    for before, after in pairwise(seen[:4]):
        gradient = slope(lattice, before.parameters, values)
        velocity = 0.8 * velocity + gradient / gradient.abs().max()
        expected = project(lattice, before.parameters + 0.05 * velocity, after.areas, min(1e-3, lattice.finest / 20))
        torch.testing.assert_close(after.parameters, expected, atol=ROUNDING, rtol=0)


def test_each_penalised_step_follows_its_own_weight_and_the_velocity():
    """Stochastic gradient ascent with dampened momentum, written out: v = 0.9 v + 0.1 g after the first step."""
    mask, values, seen = CanvasMask(step=3, sigma=5), weights(), []
    schedule = Geometric(start=2.0, ratio=3.0)
    method = ExtremalPerturbation(
        (0.3,),
        steps=4,
        perturbation=Fade(),
        mask=mask,
        jitter=None,
        ascent=PenalisedAscent(rate=0.002, weight=schedule),
    )
    method(linear(values), INPUTS, 0, progress=seen.append)
    lattice = mask.on(SIZE)
    parameters, velocity = torch.ones_like(seen[0].parameters), None
    for step in seen:
        torch.testing.assert_close(step.parameters, parameters, atol=ROUNDING, rtol=0)
        leaf = parameters.clone().requires_grad_()
        canvas = lattice.nodes(leaf)
        weight = 2.0 * 3.0**step.index
        value = (lattice.masks(canvas) * values).sum() - weight * area_penalty(canvas, torch.tensor([0.3])).sum()
        (gradient,) = torch.autograd.grad(value, leaf)
        velocity = gradient if velocity is None else 0.9 * velocity + 0.1 * gradient
        parameters = (parameters + 0.002 * velocity).clamp(0, 1)


def test_without_an_approach_every_step_is_at_the_wanted_area():
    """Also the first, whose mask would else be larger than all others, score more, and be the answer."""
    seen = []
    ascent = ProjectedAscent(approach=0.0, rounds=1)
    result = replace(METHOD, steps=8, ascent=ascent)(linear(weights().abs() ** 2), INPUTS, 0, progress=seen.append)
    lattice = MASK.on(SIZE)
    for step in seen:
        assert lattice(step.parameters).mean().item() == pytest.approx(0.2, abs=2e-3)
    assert seen[-1].values.item() == pytest.approx(result.scores.item(), rel=0.02)
    assert result.scores.item() > 1.05 * seen[0].values.item()


def test_one_step_of_evolution_tries_masks_of_the_wanted_area():
    seen = []
    result = replace(METHOD, steps=1, ascent=EvolutionAscent())(
        linear(weights().abs()), INPUTS, 0, progress=seen.append
    )
    assert seen[-1].values.item() == pytest.approx(result.scores.item(), rel=0.02)


@dataclass(frozen=True)
class EverySecondMoved:
    """Moves that would be seen in the score: every second step the input is shifted."""

    def moves(self, axes, generator):
        while True:
            yield Move()
            yield Move(shift=(3, 0))


def test_only_steps_of_the_unmoved_input_can_be_the_answer():
    """A moved input scores far higher here, by what is bright below the mask."""

    def model(inputs):
        return inputs[:, :, 9:].flatten(1).sum(1, keepdim=True) + 0.01 * inputs.flatten(1).sum(1, keepdim=True)

    inputs = torch.zeros_like(INPUTS)
    inputs[:, :, 6:9] = 1  # above the rows that count, unless it is moved down by three
    seen = []
    result = replace(METHOD, steps=9, jitter=EverySecondMoved())(model, inputs, 0, progress=seen.append)
    moved = [step.values.item() for step in seen[1:8:2]]
    assert min(moved) > 5 * result.whole.item()
    assert seen[-1].values.item() == pytest.approx(result.scores.item(), abs=0.01)
    assert result.scores.item() <= result.whole.item()


@pytest.mark.parametrize("shift", [0, 3])
def test_jitter_flips_half_of_its_moves_and_reaches_both_ends(shift):
    moves = Jitter(shift=shift).moves(2, torch.Generator().manual_seed(0))
    drawn = [next(moves) for _ in range(800)]
    assert all(move.still for move in drawn[::2])
    flips = [move.flips for move in drawn[1::2]]
    assert set(flips) == {(), (-1,)}
    assert 150 < flips.count((-1,)) < 250  # of 400: five deviations
    for axis in range(2):
        assert {move.shift[axis] for move in drawn[1::2]} == set(range(-shift, shift + 1))
    never = Jitter(shift=shift, flip=False).moves(2, torch.Generator().manual_seed(0))
    assert not any(next(never).flips for _ in range(100))


def test_a_flip_alone_is_a_move():
    assert Move().still
    assert Move((0, 0)).still
    assert not Move((0, 0), (-1,)).still
    assert not Move((0, 1)).still


def test_a_search_is_made_with_its_jitter():
    """The step at which the input is moved sees another value than those before and after."""
    seen = []
    method = replace(METHOD, steps=4, jitter=Jitter(shift=4, flip=True), ascent=AT_REST)
    method(linear(weights()), INPUTS * weights(1), 0, progress=seen.append)
    still, moved, again, _ = (step.values.item() for step in seen)
    assert abs(moved - still) > 0.5
    assert again == pytest.approx(still, abs=0.05)


def layered():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 12 * 15, 2)).eval()


def test_nothing_is_moved_at_a_layer():
    seen = {}
    for name, jitter in (("none", None), ("much", Jitter(shift=5))):
        steps = seen.setdefault(name, [])
        method = replace(METHOD, layer="1", steps=4, jitter=jitter, ascent=AT_REST)
        method(layered(), INPUTS * weights(1), 1, progress=steps.append)
    for one, other in zip(seen["none"], seen["much"], strict=True):
        torch.testing.assert_close(one.values, other.values, atol=1e-5, rtol=1e-5)


def test_noise_is_drawn_from_its_seed():
    hidden, query = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long)
    drawn = [Noise(std=0.5, seed=seed)(torch.zeros(1, 3, 8, 8))(hidden, query) for seed in (0, 1, 1)]
    torch.testing.assert_close(drawn[1], drawn[2])
    assert (drawn[0] - drawn[1]).abs().max() > 0.1


def test_halvings_start_from_the_best_mask_so_far():
    """A step at a new area begins with the parameters of the mask above, put to that area."""
    values = weights().abs() ** 3
    seen = []
    smallest(METHOD, linear(values), INPUTS, 0, keep=0.5, tolerance=0.02, areas=(0.1, 0.3, 0.5), progress=seen.append)
    sampled, halvings = seen[:5], seen[5:]
    assert len(halvings) >= 3
    lattice = MASK.on(SIZE)
    above = sampled[-1].parameters
    starts = [
        project(lattice, row[None], halvings[0].areas, EXACTLY)
        for row, area in zip(above, (0.1, 0.3, 0.5), strict=True)
        if area > halvings[0].areas.item()
    ]
    assert (starts[0] - starts[0].mean()).abs().max() > 0.1, "a flat start would tell nothing"
    torch.testing.assert_close(halvings[0].parameters, starts[0], atol=0.005, rtol=0)


def test_memory_is_the_sum_of_what_is_saved_each_once():
    x = torch.rand(50, 40, dtype=torch.float32, requires_grad=True)
    one = x.numel() * 4
    assert saved_bytes(x.exp) == one  # its result
    assert saved_bytes(lambda: x.exp().exp().exp()) == 3 * one
    assert saved_bytes(lambda: x.exp().view(-1).view(40, 50).sin()) == one  # the exponential, for both
    assert saved_bytes(lambda: None) == 0


def test_a_network_s_memory_is_that_of_all_its_layers():
    """Ten layers that each keep their output hold ten times what one of them does."""
    x = torch.rand(1, 4, 8, 8, dtype=torch.float32, requires_grad=True)
    one, ten = (saved_bytes(lambda net=net: net(x)) for net in (nn.Sigmoid(), nn.Sequential(*[nn.Sigmoid()] * 10)))
    assert ten == 10 * one == 10 * x.numel() * 4


def test_signals_of_outputs_that_are_excited_too_little_to_divide_by_are_dropped():
    """Inputs and weights whose product is below the smallest normal number: the quotient would overflow."""
    layer = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1e-20, 2e-20, 1e-20], [1.0, 2.0, 3.0]]))
    inputs = torch.full((1, 3), 1e-20, dtype=torch.float32, requires_grad=True)
    with BackwardRules("excitation"):
        outputs = layer(inputs)
    (signal,) = torch.autograd.grad(outputs, inputs, torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(signal, torch.tensor([[1.0, 2.0, 3.0]]) / 12, atol=1e-6, rtol=0)


def test_a_blur_of_no_mask_is_the_strongest_and_of_all_of_it_none():
    inputs = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    query = torch.zeros(1, dtype=torch.long)
    blur = Blur(max_sigma=4, levels=3)
    pyramid = blur.pyramid(inputs)
    for level, mask in ((0, 0.0), (1, 0.5), (2, 1.0)):
        seen = blur(inputs)(torch.full_like(inputs, mask), query)
        torch.testing.assert_close(seen, pyramid[level], atol=1e-6, rtol=0)
    torch.testing.assert_close(pyramid[2], inputs, atol=1e-6, rtol=0)
    spread = [level.std().item() for level in pyramid]
    assert spread[0] < spread[1] < spread[2]


# What was found by changing the code line by line.


def test_areas_may_be_off_by_a_twentieth_of_the_finest_one_or_a_thousandth():
    for finest, near in ((0.004, 0.0002), (0.1, 0.001)):
        problem = Problem(None, SimpleNamespace(finest=finest), torch.tensor([[0.1]]), None, iter(()))
        assert problem.near == pytest.approx(near)


def test_the_settings_of_an_ascent_that_are_not_said():
    assert ProjectedAscent() == ProjectedAscent(rate=0.1, momentum=0.5, start=0.9, approach=0.5, rounds=2, regrowth=4.0)
    assert PenalisedAscent() == PenalisedAscent(rate=0.01, momentum=0.9, dampening=0.9, weight=Geometric(300, 1.0035))


@pytest.mark.parametrize("rounds", [0, -1, True, 1.5, "2", None])
def test_rounds_that_are_no_count_are_refused(rounds):
    with pytest.raises(ValueError, match="rounds must be a whole number from 1 up"):
        ProjectedAscent(rounds=rounds)


def test_a_round_has_ten_steps_at_least():
    assert ProjectedAscent(rounds=3)._lengths(30) == [10, 10, 10]
    assert ProjectedAscent(rounds=3)._lengths(29) == [14, 15]
    assert ProjectedAscent(rounds=3)._lengths(19) == [19]


@pytest.mark.parametrize("shift", [-1, True, 1.5, "2", (1, -1), (1, True)])
def test_shifts_that_are_no_counts_are_refused(shift):
    with pytest.raises(ValueError, match="shift is a whole number of places, at least 0"):
        Jitter(shift)


def test_a_list_of_shifts_is_a_tuple_of_them():
    assert Jitter([1, 2]) == Jitter((1, 2))
    assert hash(Jitter([1, 2])) == hash(Jitter((1, 2)))


def test_moves_hang_on_their_generator_alone():
    """Whatever the global state of random numbers, and whatever the default device."""
    drawn = []
    for state, device in ((1, "cpu"), (2, "cpu"), (1, "meta")):
        torch.manual_seed(state)
        generator = torch.Generator("cpu").manual_seed(5)
        with torch.device(device):
            drawn.append(list(islice(Jitter(3).moves(2, generator), 40)))
        assert torch.initial_seed() == state
    assert drawn[0] == drawn[1] == drawn[2]
    assert {move.flips for move in drawn[0]} == {(), (-1,)}


def test_every_second_step_is_mirrored():
    moves = list(islice(MirrorEvenSteps().moves(2, torch.Generator("cpu")), 6))
    assert moves == [Move(flips=(-1,)), Move()] * 3


def test_a_family_over_a_layer_is_finer_by_its_strides():
    """Never coarser, and a step no shorter than half a place, with sigma in proportion."""
    assert SmoothMask(8, 16).divided((4, 2)) == SmoothMask((2.0, 4.0), (4.0, 8.0))
    assert SmoothMask(8, 16).divided((32, 0.5)) == SmoothMask((0.5, 8.0), (1.0, 16.0))


def test_what_is_subtracted_from_a_constant_is_a_signal_of_its_own():
    """Under excitation backprop too the value is the constant less it, and what comes back is handed on as it is."""
    leaf, signal = torch.rand(2, 3).requires_grad_(), torch.rand(2, 3)
    constant = torch.full((2, 3), 5.0)
    with BackwardRules("excitation"):
        y = torch.sub(constant, leaf * 1, alpha=2)
    torch.testing.assert_close(y, constant - 2 * leaf)
    torch.testing.assert_close(*torch.autograd.grad(y, leaf, signal), signal)


def test_the_first_area_of_the_curve_bounds_what_suffices():
    """Of .2, .6 and .9 the second is the first that suffices, and .21 would. Halving what lies between .2 and .6 leaves .3,
    which are 173 of 576 places; from 0 on it would be .225."""

    def bright(inputs):
        return inputs.mean((1, 2, 3)).clamp(max=0.212)[:, None]

    method = ExtremalPerturbation(steps=20, perturbation=Fade())
    found = smallest(method, bright, torch.ones(1, 3, 24, 24), 0, keep=0.99, areas=(0.2, 0.6, 0.9), tolerance=0.11)
    assert float(found.area) == pytest.approx(173 / 576, abs=1e-6)


def test_a_blank_input_that_has_just_the_wanted_score_suffices():
    def constant(inputs):
        return 0 * inputs.mean((1, 2, 3))[:, None] + 2

    with pytest.warns(UserWarning, match="does not change with the input"):
        found = smallest(ExtremalPerturbation(steps=2), constant, torch.rand(1, 3, 24, 24), 0, keep=1.0)
    assert found.blank_suffices.all()


def test_a_hundred_is_said_to_be_one():
    with pytest.raises(ValueError, match=r"got 100\. Did you mean 1\?"):
        smallest(ExtremalPerturbation(), lambda inputs: inputs, torch.rand(1, 3, 24, 24), 0, keep=100)
