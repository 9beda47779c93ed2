"""The loop of all searches, what varies around it, and what others may put in its place."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sfumato import Constant, ExtremalPerturbation, Fade, SmoothMask
from sfumato.search import ProjectedAscent
from sfumato.search.best import Best, best_of
from sfumato.search.loop import Look, Step, climb
from sfumato.search.problem import Problem
from sfumato.search.rules import Backtracking, Momentum, TorchOptimiser, by_largest, by_size, half_cosine
from sfumato.search.schedules import ShrinkingAreas

TARGET = torch.tensor([[0.2, 0.9, 0.4], [0.7, 0.1, 0.3]])


def near_target(parameters: Tensor, index: int) -> Look:
    """The squared distance from `TARGET`, negative."""
    off = TARGET - parameters
    return Look(-off.square().sum(1), 2 * off, torch.ones(len(parameters)))


def free(parameters: Tensor, index: int) -> Tensor:
    return parameters


def test_a_step_is_gradient_then_rule_then_projection():
    said: list[tuple[str, int]] = []

    def look(parameters: Tensor, index: int) -> Look:
        said.append(("look", index))
        return near_target(parameters, index)

    def rule(parameters, gradient, state, progress):
        said.append(("rule", round(progress * 3)))
        assert state == (None if not progress else "remembered")
        return parameters + gradient / 4, "remembered"

    def project(parameters: Tensor, index: int) -> Tensor:
        said.append(("project", index))
        return parameters.clamp(0, 0.5)

    steps = list(climb(look, torch.zeros(2, 3), 3, rule, project))
    assert said == [("look", 0), ("rule", 0), ("project", 1), ("look", 1), ("rule", 1), ("project", 2), ("look", 2),
                    ("rule", 2), ("project", 3)]  # fmt: skip
    assert [(step.index, step.steps) for step in steps] == [(0, 3), (1, 3), (2, 3)]
    for before, after in pairwise(steps):
        torch.testing.assert_close(
            after.parameters, (before.parameters + (TARGET - before.parameters) / 2).clamp(0, 0.5)
        )
        torch.testing.assert_close(before.following, after.parameters)
        torch.testing.assert_close(before.values, -(TARGET - before.parameters).square().sum(1))


STEEPNESS = torch.tensor([1.0, 30.0])


def valley(parameters: Tensor, index: int, asked: list[list[int]] | None = None) -> Look:
    """The squared distance from `TARGET`, negative, 30 times as steep for the second row."""

    def again(others: Tensor, rows: Tensor) -> Tensor:
        if asked is not None:
            asked.append(rows.tolist())
        return -STEEPNESS[rows] * (TARGET[rows] - others).square().sum(1)

    rows = torch.arange(len(parameters))
    off = TARGET - parameters
    return Look(again(parameters, rows), 2 * STEEPNESS[:, None] * off, torch.ones(len(parameters)), again=again)


def test_a_line_search_takes_the_first_length_that_gains_enough():
    """Row by row, number by number, within bounds."""
    rule, upper = Backtracking(4.0, 0.3, 0.1, 5), 0.8
    steps = list(climb(valley, torch.zeros(2, 3), 4, rule, lambda moved, _: moved.clamp(0, upper)))
    lengths = set()
    for row, (target, steep) in enumerate(zip(TARGET.double().tolist(), STEEPNESS.tolist(), strict=True)):

        def value(place, target=target, steep=steep):
            return -steep * sum((t - p) ** 2 for t, p in zip(target, place, strict=True))

        place = [0.0] * 3
        for step in steps:
            assert step.parameters[row].tolist() == pytest.approx(place, rel=1e-4, abs=1e-5)
            gradient = [2 * steep * (t - p) for t, p in zip(target, place, strict=True)]
            for tries in range(5):
                after = [min(max(p + 4 * 0.3**tries * g, 0), upper) for p, g in zip(place, gradient, strict=True)]
                slope = sum(g * (a - p) for g, a, p in zip(gradient, after, place, strict=True))
                if value(after) - value(place) >= 0.1 * slope:
                    break
            lengths.add(tries)
            place = after
        assert steps[-1].following[row].tolist() == pytest.approx(place, rel=1e-4, abs=1e-5)
    assert len(lengths) > 1


def test_a_line_search_asks_again_only_for_the_rows_that_need_it():
    asked: list[list[int]] = []
    list(climb(lambda p, i: valley(p, i, asked), torch.zeros(2, 3), 1, Backtracking(0.4, 0.01), free))
    assert asked == [[0, 1], [0, 1], [1]]  # the look itself, the length .4, and .004 for the steep row
    asked.clear()
    list(climb(lambda p, i: valley(p, i, asked), TARGET.clone(), 1, Backtracking(), free))
    assert asked == [[0, 1], [0, 1]]  # at the top there is no slope to shorten a step for


def test_the_shortest_step_of_a_line_search_is_taken_unasked():
    asked: list[list[int]] = []
    (step,) = climb(lambda p, i: valley(p, i, asked), torch.zeros(2, 3), 1, Backtracking(100.0, 0.5, tries=2), free)
    assert asked == [[0, 1], [0, 1]]
    torch.testing.assert_close(step.following, 50 * step.look.gradient)


def test_a_line_search_needs_the_objective():
    with pytest.raises(
        ValueError, match=r"a line search needs the objective .* Take a rule .* rule=Momentum\(0.1, 0.5\)"
    ):
        list(climb(near_target, torch.zeros(2, 3), 1, Backtracking(), free))


@pytest.mark.parametrize("settings", [{"rate": 0}, {"shrink": 1}, {"shrink": 0}, {"enough": -1}, {"tries": 0}])
def test_lengths_that_cannot_be_used(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        Backtracking(**settings)


RULES = {
    "largest": (Momentum(0.05, 0.5), lambda g: [v / max(map(abs, g)) for v in g], 1.0, lambda share: 1.0),
    "size": (
        Momentum(0.05, 0.9, by_size, 0.1, half_cosine),
        lambda g: [v / math.sqrt(sum(w * w for w in g) / len(g)) for v in g],
        0.1,
        lambda share: (1 + math.cos(math.pi * share)) / 2,
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_momentum_is_what_its_words_say(name):
    """Number by number, in double precision."""
    rule, normalise, share, falls = RULES[name]
    steps = list(climb(near_target, torch.zeros(2, 3), 8, rule, free))
    for row, target in enumerate(TARGET.double().tolist()):
        place, velocity = [0.0] * 3, [0.0] * 3
        for step in steps:
            assert step.parameters[row].tolist() == pytest.approx(place, rel=1e-4, abs=1e-6)
            gradient = normalise([2 * (t - p) for t, p in zip(target, place, strict=True)])
            velocity = [rule.momentum * v + share * g for v, g in zip(velocity, gradient, strict=True)]
            place = [p + rule.rate * falls(step.index / 8) * v for p, v in zip(place, velocity, strict=True)]


def test_normalised_gradients_of_nothing_are_nothing():
    for normalise in (by_largest, by_size):
        assert normalise(torch.zeros(2, 1, 4)).tolist() == torch.zeros(2, 1, 4).tolist()
        torch.testing.assert_close(normalise(torch.full((1, 2), 1e-25)), torch.ones(1, 2))


def test_a_torch_optimiser_climbs_as_torch_descends():
    leaf = torch.zeros(2, 3, requires_grad=True)
    optimiser = torch.optim.Adam([leaf], lr=0.1)
    rule = TorchOptimiser(lambda leaves: torch.optim.Adam(leaves, lr=0.1))
    for step in climb(near_target, torch.zeros(2, 3), 5, rule, free):
        torch.testing.assert_close(step.parameters, leaf.detach())
        optimiser.zero_grad()
        (TARGET - leaf).square().sum().backward()
        optimiser.step()


def test_areas_shrink_geometrically_and_stay():
    areas = ShrinkingAreas.over(9, 0.5, torch.tensor([0.8]), torch.tensor([0.1]))
    assert [areas(step).item() for step in range(9)] == pytest.approx(
        [0.8 * (1 / 8) ** (min(step, 4) / 4) for step in range(9)]
    )
    assert [areas.arrived(step) for step in range(6)] == [False] * 4 + [True] * 2
    at_once = ShrinkingAreas.over(1, 1.0, torch.tensor([0.8]), torch.tensor([0.1]))
    assert at_once.arrived(0)
    assert at_once(0).tolist() == torch.tensor([0.1]).tolist()


def seen(values, counts=True, tried=None, tried_values=None, at=0.0):
    parameters = torch.full((len(values), 1), float(at))
    values = torch.tensor(values)
    return Step(
        0, 1, parameters, values, values, parameters, Look(values, parameters, values, counts, tried, tried_values)
    )


def test_the_best_is_kept_of_what_counts():
    best = Best(torch.full((2, 1), -1.0))
    best.see(seen([9.0, 9.0], counts=False, at=1))
    best.see(seen([1.0, 2.0], at=2))
    best.see(seen([1.0005, 3.0], at=3))  # the first is better by less than rounding may be
    tried, tried_values = torch.tensor([[[5.0], [6.0]], [[7.0], [8.0]]]), torch.tensor([[2.0, 4.0], [1.0, 0.0]])
    best.see(seen([0.0, 0.0], at=4, tried=tried, tried_values=tried_values))
    assert best.parameters.tolist() == [[6.0], [3.0]]
    assert best.values.tolist() == [4.0, 3.0]
    answer = best.answer(seen([0.0, 0.0], at=9), lambda parameters: parameters / 2)
    assert answer.parameters.tolist() == [[3.0], [1.5]]
    assert answer.values.tolist() == [4.0, 3.0]


def test_rows_of_which_nothing_counts_keep_the_last_step():
    answer = Best(torch.zeros(1, 1)).answer(seen([5.0], counts=False, at=9), lambda parameters: parameters)
    assert (answer.parameters.item(), answer.values.item()) == (9, 5)


def test_rounds_begin_from_the_best_and_are_numbered_through():
    began: list[tuple[list[float], int, int]] = []

    def climb_from(best: Tensor, number: int, length: int) -> Iterator[Step]:
        began.append((best.flatten().tolist(), number, length))
        for place in range(length):
            step = seen([10.0 * number - place], at=10 * number + place)
            yield replace(step, index=place, steps=length)

    steps = list(best_of(torch.full((1, 1), 0.5), [2, 3], climb_from, lambda parameters: parameters + 0.25))
    assert began == [([0.5], 0, 2), ([0.0], 1, 3)]
    assert [(step.index, step.steps) for step in steps] == [(place, 5) for place in range(5)]
    assert [step.parameters.item() for step in steps] == [0, 1, 10, 11, 10.25]
    assert steps[-1].values.item() == 10


# What others may add


@dataclass(frozen=True)
class SignAscent:
    """A rule of the step and an ascent of one's own: by the signs of the gradient, as adversaries step."""

    rate: float = 0.05

    def __call__(self, problem: Problem, steps: int, warm: Tensor | None = None) -> Iterator[Step]:
        wanted = problem.areas.flatten()

        def by_sign(parameters, gradient, state, progress):
            return parameters + self.rate * (1 - progress) * gradient.sign(), state

        def climb_from(best: Tensor, number: int, length: int) -> Iterator[Step]:
            return climb(
                lambda parameters, _: problem.look(parameters, wanted),
                problem.exactly(best, wanted),
                length,
                by_sign,
                lambda parameters, _: problem.projected(parameters, wanted),
            )

        start = problem.flat(0.5) if warm is None else warm
        return best_of(start, [steps], climb_from, lambda parameters: problem.exactly(parameters, wanted))


@dataclass(frozen=True)
class Columns:
    """A mask family of one's own: each column of a picture is shown or not."""

    def on(self, shape, device=None):
        return ColumnsOver(shape, device)


class ColumnsOver:
    def __init__(self, shape, device):
        self.family, self.shape = Columns(), tuple(shape)
        self.size = (shape[1],)
        self.finest = 1 / shape[1]
        self.everything = torch.ones(1, device=device)

    def check(self, areas):
        assert max(areas) <= 1

    def nodes(self, parameters):
        return parameters

    def areas(self, nodes):
        return nodes.flatten(1).mean(1)

    def masks(self, nodes):
        return nodes[:, :, None].expand(-1, -1, *self.shape).contiguous()

    def __call__(self, parameters):
        return self.masks(self.nodes(parameters))


def bright(x: Tensor) -> Tensor:
    """The sum over the columns from 10 to 16, less a little of all."""
    return (x[..., 10:16].flatten(1).sum(1) - 0.1 * x.flatten(1).sum(1))[:, None]


MASK = SmoothMask(step=2, sigma=2)
METHOD = ExtremalPerturbation(areas=(6 / 24,), steps=60, perturbation=Fade(), mask=MASK, jitter=None)


@pytest.mark.parametrize(
    "changes", [{"ascent": SignAscent()}, {"mask": Columns()}, {"ascent": SignAscent(), "mask": Columns()}]
)
def test_an_ascent_and_a_mask_family_of_ones_own(changes):
    result = replace(METHOD, **changes)(bright, torch.ones(1, 1, 20, 24), 0)
    inside = result.masks[..., 10:16].sum() / result.masks.sum()
    assert inside > (0.95 if "mask" in changes else 0.5)  # a quarter by chance
    assert result.achieved.item() == pytest.approx(0.25, abs=1e-3)
    assert result.about["method"][next(iter(changes))]["class"].startswith(__name__)


def test_what_is_no_family_and_no_ascent_is_refused():
    with pytest.raises(ValueError, match="mask must be a configuration such as LevelSet"):
        replace(METHOD, mask=Constant(0))
    with pytest.raises(ValueError, match="ascent must be a configuration such as LevelSetAscent"):
        replace(METHOD, ascent=ProjectedAscent)
