"""Where a search begins and what it is drawn to: windows of the input, each shown alone."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import sfumato
from sfumato.games import DELETE, DUAL, PRESERVE, Game
from sfumato.model.evaluate import Evaluation
from sfumato.search import windows as module
from sfumato.search.loop import Stage, Step
from sfumato.search.problem import Problem
from sfumato.search.schedules import AreaPath
from sfumato.search.windows import PULL, Windows, along_axes, centres_along, window
from sfumato.space.smoothing import gaussian_blur

E = sfumato.ExtremalPerturbation
LATTICE = sfumato.LevelSet(step=4, sigma=4)


def corner(inputs: torch.Tensor) -> torch.Tensor:
    """Two outputs: the mean of the first quarter of all axes, and the mean of the last."""
    axes = tuple(range(1, inputs.ndim))
    length = inputs.shape[-1] // 4
    first, last = (
        (slice(None), slice(None), *[part] * (inputs.ndim - 2)) for part in (slice(length), slice(-length, None))
    )
    return torch.stack([inputs[first].mean(axes), inputs[last].mean(axes)], 1)


def found(
    inputs: torch.Tensor,
    targets: list[int],
    areas: list[tuple[float, ...]],
    game: Game = PRESERVE,
    rule: Windows = Windows(),
    model: Callable[[torch.Tensor], torch.Tensor] = corner,
    rows: int = 16,
) -> torch.Tensor:
    """The field to begin with."""
    perturbation = sfumato.Fade()
    with E(perturbation=perturbation).prepared(model, inputs, targets) as subject:
        query = torch.arange(len(inputs)).repeat_interleave(len(areas[0]))
        evaluation = Evaluation(subject, (perturbation(subject.inputs),), query, rows)
        sets = LATTICE.on(tuple(inputs.shape[2:]))
        return returned(rule(Problem(evaluation, sets, torch.tensor(areas), game, iter(()))))[0]


def returned(looking: Generator[Stage, None, tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """What is found in the end."""
    while True:
        try:
            next(looking)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("game", [PRESERVE, DELETE, DUAL])
def test_the_field_is_high_where_a_window_does_well(axes: int, game: Game) -> None:
    inputs = torch.ones(2, 1, *[32] * axes)
    field = found(inputs, [0, 1], [(0.1,), (0.1,)], game)
    assert field.shape == (2, 1, *[8] * axes)
    highest, lowest = field.flatten(1).argmax(1).tolist(), field.flatten(1).argmin(1).tolist()
    places = torch.cartesian_prod(*[torch.arange(8)] * axes).view(-1, axes)
    assert places[highest[0]].max() <= 1
    assert places[highest[1]].min() >= 6
    assert places[lowest[0]].max() > 3
    assert places[lowest[1]].min() < 4


def test_it_rises_by_its_weight_about_one_half() -> None:
    fields = [found(torch.ones(1, 1, 32, 32), [0], [(0.1,)], rule=Windows(weight=weight)) for weight in (0.25, 0.5)]
    flat = LATTICE.on((32, 32)).start()
    torch.testing.assert_close(fields[1] - flat, 2 * (fields[0] - flat), atol=1e-6, rtol=1e-5)
    assert float((fields[1] - flat).amax() - (fields[1] - flat).amin()) == pytest.approx(0.5, abs=0.05)
    assert float((fields[1] - flat).mean()) == pytest.approx(0, abs=1e-6)


def test_where_all_windows_do_equally_well_it_knows_nothing() -> None:
    field = found(torch.ones(1, 1, 32, 32), [0], [(0.1,)], model=lambda x: 3 + 0 * corner(x))
    assert torch.equal(field, LATTICE.on((32, 32)).start())


def test_windows_may_also_say_what_the_whole_loses_without_them() -> None:
    """No window of a tenth suffices alone, but the whole needs all of its left half."""

    def needing(inputs: torch.Tensor) -> torch.Tensor:
        left = inputs[..., :16].mean((1, 2, 3))
        return torch.stack([(left - 0.5).clamp(min=0), left], 1)

    inputs = torch.ones(1, 1, 32, 32)
    alone, both = (found(inputs, [0], [(0.1,)], rule=Windows(game=game), model=needing) for game in (None, "dual"))
    assert torch.equal(alone, LATTICE.on((32, 32)).start())
    assert both[..., :3].min() > both[..., -3:].max() + 0.2
    assert Windows(game="dual") == Windows(game=DUAL)


@pytest.mark.parametrize(("difference", "height"), [(1e-4, (0, 0.05)), (1.0, (0.45, 0.55))])
def test_rounding_makes_no_window_better(difference: float, height: tuple[float, float]) -> None:
    """In float32, 100 and 100 and a ten thousandth of a small mean differ by rounding."""
    field = found(torch.ones(1, 1, 32, 32), [0], [(0.1,)], model=lambda inputs: 100 + difference * corner(inputs))
    above = field - LATTICE.on((32, 32)).start()
    assert height[0] <= float(above.amax() - above.amin()) <= height[1]


def test_a_window_has_the_area_also_at_the_border() -> None:
    sets = replace(LATTICE, edge=0).on((32, 48))
    areas = torch.tensor([0.02, 0.1, 0.5])
    for centre in ((0.0, 0.0), (3.5, 5.5), (7.0, 2.0)):
        masks = window(sets, centre, areas)
        assert masks.shape == (3, 1, 32, 48)
        assert set(masks.unique().tolist()) == {0.0, 1.0}
        # Places of equal distance stay out together.
        torch.testing.assert_close(masks.mean((1, 2, 3)), areas, atol=0.01, rtol=0)
        assert (masks[0] <= masks[1]).all()
        assert (masks[1] <= masks[2]).all()
    middle = window(sets, (3.5, 5.5), areas)[1, 0]
    assert torch.equal(middle, middle.flip(0))
    assert torch.equal(middle, middle.flip(1))
    rows, columns = (middle.amax(axis).sum() for axis in (1, 0))
    assert rows == columns  # a disc


def test_windows_lie_evenly() -> None:
    assert along_axes(49, (28, 28)) == (7, 7)
    assert along_axes(1, (28, 28)) == (1, 1)
    assert along_axes(10**6, (5, 3)) == (5, 3)
    assert centres_along(7, 28) == [1.5, 5.5, 9.5, 13.5, 17.5, 21.5, 25.5]
    assert centres_along(1, 5) == [2.0]


def test_windows_have_the_geometric_mean_of_the_areas() -> None:
    inputs = torch.ones(1, 1, 32, 32)
    one, several = (found(inputs, [0], [areas]) for areas in ((0.1,), (0.05, 0.1, 0.2)))
    torch.testing.assert_close(one, several)
    assert not one.allclose(found(inputs, [0], [(0.2,)]), atol=1e-3)


def test_each_window_is_looked_at_once_for_all_areas_of_a_query() -> None:
    rows = []

    def counted(inputs: torch.Tensor) -> torch.Tensor:
        assert not inputs.requires_grad
        rows.append(len(inputs))
        return corner(inputs)

    def passes(**settings: Any) -> int:
        rows.clear()
        found(torch.ones(2, 1, 32, 32), [0, 1], [(0.1, 0.2)] * 2, model=counted, **settings)
        return sum(rows)

    assert passes(rule=Windows(16)) - passes(rule=Windows(4)) == 2 * 12
    assert passes(rule=Windows(16), game=DUAL) - passes(rule=Windows(4), game=DUAL) == 2 * 2 * 12


@pytest.mark.parametrize("together", [1, 7 * 32 * 32, 10**6])
def test_a_query_does_not_depend_on_others_or_on_how_many_go_together(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    areas = [(0.05, 0.1), (0.2, 0.4), (0.1, 0.1)]
    all_at_once = found(inputs, [0, 1, 1], areas)
    monkeypatch.setattr(module, "TOGETHER", together)
    for row, target in enumerate([0, 1, 1]):
        alone = found(inputs[row : row + 1], [target], [areas[row]], rows=5)
        torch.testing.assert_close(alone, all_at_once[row : row + 1], atol=1e-5, rtol=0)


WAVES = gaussian_blur(torch.randn(1, 8, 64, 64, generator=torch.Generator().manual_seed(0)), 4)[0]


def noisy(inputs: torch.Tensor) -> torch.Tensor:
    """A patch that suffices, and small waves whose gradients are larger than its own."""
    patch = inputs[:, :, 8:24, 8:24].mean((1, 2, 3))
    waves = torch.sin(torch.einsum("bchw,khw->bk", inputs, WAVES / WAVES.std())).mean(1)
    return torch.stack([patch + 0.1 * waves, 0 * patch], 1)


def test_noise_of_the_gradient_does_not_decide_where_a_search_goes() -> None:
    method = E(areas=(0.07,), steps=60, perturbation=sfumato.Fade())

    def kept(rule: Windows | None) -> list[float]:
        ascent = sfumato.LevelSetAscent(windows=rule)
        results = [replace(method, seed=seed, ascent=ascent)(noisy, torch.ones(1, 1, 64, 64), 0) for seed in range(3)]
        return [float(result.masks[0, 0, :, 8:24, 8:24].mean()) for result in results]

    assert min(kept(Windows())) > 0.5
    assert min(kept(None)) < 0.3


def test_the_pull_fades_on_the_way_and_is_gone_at_the_rest() -> None:
    """With a gradient that is zero, nothing but the pull moves the parameters."""

    def still(inputs: torch.Tensor) -> torch.Tensor:
        return corner(inputs).detach() + 0 * inputs.sum((1, 2, 3))[:, None]

    def moved(pull: float, steps: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
        seen: list[torch.Tensor] = []
        ascent = sfumato.LevelSetAscent(refinement=0, pruning=None, windows=Windows(pull=pull, weight=0.1))
        method = E((0.3,), mask=LATTICE, steps=steps, ascent=ascent, perturbation=sfumato.Fade())
        method(still, torch.ones(1, 1, 32, 32), 0, lambda step: seen.append(step.parameters[0, 0]))
        (fallen,) = AreaPath.over(steps, ascent.approach, ascent.start, torch.tensor([[0.3]])).falls
        return torch.stack(seen[: fallen + 1]).diff(dim=0), torch.stack(seen[fallen:-1]).diff(dim=0)

    heights = (
        found(torch.ones(1, 1, 32, 32), [0], [(0.3,)], rule=Windows(weight=0.1))[0, 0]
        - LATTICE.on((32, 32)).start()[0, 0]
    )
    falling, resting = moved(0.2)
    for index, change in enumerate(falling, start=1):
        without_shift = change - change.mean()
        torch.testing.assert_close(without_shift, 0.2 * (1 - index / len(falling)) * heights, atol=1e-5, rtol=0)
    assert len(resting) > 3
    assert float(resting.abs().max()) < 1e-6
    assert (moved(0)[0].std((1, 2)) < 1e-6).all()


def test_a_path_that_does_not_fall_has_no_pull() -> None:
    inputs = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"mask": LATTICE, "steps": 20, "perturbation": sfumato.Fade()}

    def first(pull: float) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        ascent = sfumato.LevelSetAscent(approach=0, windows=Windows(pull=pull))
        E((0.3,), ascent=ascent, **settings)(corner, inputs, 0, lambda step: seen.append(step.parameters))
        return seen[0]

    assert torch.equal(first(0.5), first(0))


@pytest.mark.parametrize(("game", "pulls"), [(PRESERVE, True), (DELETE, False), (DUAL, False), (Game(2, 0), True)])
def test_games_that_hide_the_set_have_no_pull_unless_told(game: Game, pulls: bool) -> None:
    def masks(**settings: Any) -> torch.Tensor:
        ascent = sfumato.LevelSetAscent(windows=Windows(**settings))
        return E((0.1,), game, mask=LATTICE, steps=20, ascent=ascent)(corner, inputs, 0).masks

    inputs = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(masks(), masks(pull=PULL if pulls else 0))
    assert not torch.equal(masks(pull=0), masks(pull=1))


SQUARES = slice(8, 24), slice(40, 56)


def unhelpful(noise: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Two outputs that see a square each, with a gradient that is nothing but noise."""

    def model(inputs: torch.Tensor) -> torch.Tensor:
        seen = torch.stack([inputs[:, 0, part, part].mean((1, 2)) for part in SQUARES], 1)
        misleading = (inputs * torch.randn(inputs.shape[1:], generator=noise)).sum((1, 2, 3))
        return seen.detach() + (misleading - misleading.detach())[:, None]

    return model


def shared(sets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Intersection over union of sets `(B, V, 1, H, W)`, of all of them."""
    stacked = torch.stack(list(sets)) > 0.5
    both, any_of_them = stacked.all(0), stacked.any(0)
    return both.flatten(2).sum(2) / any_of_them.flatten(2).sum(2)


def test_where_the_gradient_is_noise_windows_draw_all_seeds_and_restarts_to_the_same_places() -> None:
    method = E((0.05, 0.1, 0.2), steps=60, perturbation=sfumato.Fade())

    def result(pull: float, refinement: float, seed: int = 0) -> sfumato.Attribution:
        ascent = sfumato.LevelSetAscent(refinement=refinement, pruning=None, windows=Windows(pull=pull))
        model = unhelpful(torch.Generator().manual_seed(seed))
        return replace(method, seed=seed, ascent=ascent)(model, torch.ones(2, 1, 64, 64), [0, 1])

    drawn, left_alone = ([result(pull, 0, seed) for seed in range(2)] for pull in (1, 0))
    for found in drawn:
        for query, part in enumerate(SQUARES):
            assert (found.masks[query, :, 0, part, part].mean((1, 2)) > 0.6).all()
    agree, by_chance = (shared([found.masks for found in results]) for results in (drawn, left_alone))
    assert (agree > 0.5).all()
    assert (by_chance < 0.3).all()

    agree, by_chance = (result(pull, 0.4).agreement for pull in (1, 0))
    assert (agree > 0.5).all()
    assert by_chance.mean() < 0.3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Windows(pull=-0.1), "pull is a share of the height of the first field"),
        (lambda: Windows(0), "count must be a whole number from 1 up"),
        (lambda: Windows(weight=0), "weight is the height of the first field"),
        (lambda: Windows(weight=1.5), "at most 1"),
        (lambda: sfumato.LevelSetAscent(windows=49), r"windows must be Windows\(\)"),  # type: ignore[arg-type]
        (lambda: sfumato.LevelSetAscent(windows=Windows), r"windows must be Windows\(\)"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


class Watched:
    """A progress callback that notes what it is told."""

    def __init__(self) -> None:
        self.seen: list[Stage | Step] = []

    def __call__(self, step: Step) -> None:
        self.seen.append(step)

    def stage(self, stage: Stage) -> None:
        self.seen.append(stage)


def test_a_callback_that_asks_for_it_is_told_how_many_windows_are_seen() -> None:
    passes = 0
    at_stages = []

    def model(inputs: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += len(inputs)
        return corner(inputs)

    class Noting(Watched):
        def stage(self, stage: Stage) -> None:
            super().stage(stage)
            at_stages.append(passes)

    progress, inputs = Noting(), torch.ones(1, 1, 32, 32)
    settings: dict[str, Any] = {
        "mask": LATTICE,
        "steps": 4,
        "perturbation": sfumato.Fade(),
        "memory": 1e-9,
    }  # row by row
    method = E((0.1,), ascent=sfumato.LevelSetAscent(windows=Windows(16)), **settings)
    told = method(model, inputs, 0, progress)
    stages = [seen for seen in progress.seen if isinstance(seen, Stage)]
    assert [stage.done for stage in stages] == list(range(16))
    assert {(stage.what, stage.count) for stage in stages} == {("looking at windows", 16)}
    assert progress.seen[: len(stages)] == stages, "windows come before all steps"
    assert at_stages == list(range(at_stages[0], at_stages[0] + 16)), "each report follows a pass of the model"

    steps: list[Step] = []
    plain = method(corner, inputs, 0, steps.append)
    assert [step.index for step in steps] == list(range(steps[0].steps)), "other callbacks see steps alone"
    assert torch.equal(told.masks, plain.masks)
