"""Masks that are sets with smooth outlines, and the search for them."""

from dataclasses import replace

import pytest
import torch

import sfumato
from sfumato.model.evaluate import Evaluation
from sfumato.perturbations import Perturbed
from sfumato.search import ProjectedAscent
from sfumato.search.loop import Step
from sfumato.search.schedules import AreaPath
from sfumato.search.search import Search
from sfumato.space.jitter import Move
from sfumato.space.smoothing import gaussian_blur

E = sfumato.ExtremalPerturbation


def window(inputs: torch.Tensor) -> torch.Tensor:
    """Two classes: the sum of what is in a window of 20 x 20 pixels in the upper left and the lower right of 64 x 64."""
    return torch.stack([inputs[:, :, 8:28, 8:28].sum((1, 2, 3)), inputs[:, :, 36:56, 40:60].sum((1, 2, 3))], 1)


@pytest.mark.parametrize("shape", [(1024,), (64, 64), (48, 80), (8, 24, 24)])
@pytest.mark.parametrize("area", [0.05, 0.3])
def test_a_set_has_the_area_and_no_half_transparent_places(shape: tuple[int, ...], area: float) -> None:
    sets = sfumato.LevelSet().on(shape)
    parameters = torch.rand(3, 1, *sets.size, generator=torch.Generator().manual_seed(1))
    areas = torch.full((3,), area)
    nodes = sets.nodes(sets.settled(parameters, areas))
    places = nodes[0].numel()
    torch.testing.assert_close(sets.areas(nodes), areas, atol=1.01 / places, rtol=0)
    masks = sets.masks(nodes)
    torch.testing.assert_close(masks.flatten(1).mean(1), areas, atol=2 / places, rtol=0)
    inside = masks.flatten(1).topk(round(area * places)).values.mean(1)
    assert (inside >= 0.95).all()


def test_an_edge_is_as_wide_as_it_says() -> None:
    sets = sfumato.LevelSet(step=8, sigma=8, edge=6).on((64, 64))
    columns = (torch.arange(sets.size[1]) < sets.size[1] / 2).float().expand(1, 1, *sets.size)
    line = sets(sets.settled(columns, torch.tensor([0.5])))[0, 0, 32]
    assert ((line > 0.1) & (line < 0.9)).sum() in (5, 6, 7)
    sharp = sfumato.LevelSet(step=8, sigma=8, edge=0).on((64, 64))
    assert set(sharp(sharp.settled(columns, torch.tensor([0.5]))).unique().tolist()) == {0, 1}


def test_detail_shortens_the_lengths_that_are_not_given() -> None:
    fine = sfumato.LevelSet(detail=2).for_shape((224, 448))
    assert (fine.step, fine.sigma) == ((4, 4), (4, 4))
    half_given = sfumato.LevelSet(sigma=8, detail=2).for_shape((224, 224))
    assert (half_given.step, half_given.sigma) == ((4, 4), (8, 8))
    assert sfumato.LevelSet(step=6).for_shape((224, 224)).sigma == (6, 6)  # in proportion to what is given


def test_a_ramp_sharpens_to_the_set() -> None:
    sets = sfumato.LevelSet(edge=0).on((64, 64))
    parameters = sets.settled(
        torch.rand(1, 1, *sets.size, generator=torch.Generator().manual_seed(2)), torch.tensor([0.2])
    )
    distances = [(sets.at(sharpness)(parameters) - sets(parameters)).abs().mean() for sharpness in (1, 4, 16, 64, 1e6)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3


def test_only_the_band_at_the_outline_has_a_gradient() -> None:
    sets = sfumato.LevelSet().on((64, 64)).at(16)
    parameters = torch.rand(1, 1, *sets.size, generator=torch.Generator().manual_seed(3)).requires_grad_()
    nodes = sets.nodes(parameters)
    nodes.retain_grad()
    masks = sets.masks(nodes)
    masks.sum().backward()
    band = (masks > 0) & (masks < 1)
    assert band.any()
    assert torch.equal(nodes.grad != 0, band)
    torch.testing.assert_close(nodes.grad[band], torch.full((int(band.sum()),), 16.0))


def test_borders_are_as_easy_to_show_as_the_middle() -> None:
    sets = sfumato.LevelSet().on((64, 64))
    field = sets.nodes(torch.ones(1, 1, *sets.size))
    torch.testing.assert_close(field, torch.ones_like(field), atol=2e-3, rtol=0)


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
def test_the_window_is_found(game: str) -> None:
    area = 400 / 4096
    method = E(areas=(area,), game=game, steps=60, perturbation=sfumato.Fade(), jitter=None)
    inputs = torch.ones(2, 3, 64, 64)
    result = method(window, inputs, torch.tensor([0, 1]))
    for mask, (top, left) in zip(result.masks[:, 0, 0], [(8, 8), (36, 40)], strict=True):
        wanted = torch.zeros(64, 64, dtype=torch.bool)
        wanted[top : top + 20, left : left + 20] = True
        shown = mask > 0.5
        assert (shown & wanted).sum() / (shown | wanted).sum() > 0.8
    torch.testing.assert_close(result.achieved, torch.full((2, 1), area), atol=0.005, rtol=0)


def test_the_map_of_sets_orders_the_places_outside_of_them() -> None:
    inputs = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    sets = E(areas=(0.1, 0.2), steps=4, jitter=None)(window, inputs, 0)
    torch.testing.assert_close(sets.map, gaussian_blur(sets.masks.mean(1), 0.05 * 64))
    plain = E(areas=(0.1, 0.2), steps=4, jitter=None, smooth=0)(window, inputs, 0)
    torch.testing.assert_close(plain.map, sets.masks.mean(1))
    soft = E.smooth_masks(areas=(0.1, 0.2), steps=4)(window, inputs, 0)
    torch.testing.assert_close(soft.map, soft.masks.mean(1))


def test_a_batch_is_its_parts() -> None:
    method = E(areas=(0.1, 0.2), steps=40, perturbation=sfumato.Fade())
    inputs = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    both = method(window, inputs, torch.tensor([0, 1]))
    for row in range(2):
        alone = method(window, inputs[row : row + 1], row)
        torch.testing.assert_close(alone.scores, both.scores[row : row + 1], rtol=0.02, atol=0)
        assert ((alone.masks > 0.5) == (both.masks[row : row + 1] > 0.5)).float().mean() > 0.99


def test_the_smallest_area_is_searched_with_sets() -> None:
    method = E(steps=40, perturbation=sfumato.Fade(), jitter=None)
    result = sfumato.smallest(method, window, torch.ones(1, 3, 64, 64), 0, keep=0.8)
    assert result.reached.all()
    # 0.8 of the 400 pixels of the window, of 4096, and what smooth outlines cost
    assert 0.078 <= result.area.item() <= 0.11
    assert result.attribution.masks.flatten().topk(300).values.mean() > 0.95


def test_of_several_perturbations_the_mean_counts() -> None:
    inputs = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    hides = (sfumato.Fade(), sfumato.Constant(0.5), sfumato.Blur(5))
    result = E(areas=(0.1,), steps=24, perturbation=hides)(window, inputs, 0)
    query = torch.zeros(1, dtype=torch.long)
    means = [
        torch.stack([window(hide(inputs)(mask, query))[:, 0] for hide in hides]).mean(0)
        for mask in (result.masks[:, 0], torch.zeros(1, 1, 64, 64))
    ]
    torch.testing.assert_close(result.scores[:, 0], means[0])
    torch.testing.assert_close(result.blank, means[1])
    assert result.perturbations() == hides


def test_each_perturbation_has_its_turn() -> None:
    seen = []

    def model(inputs: torch.Tensor) -> torch.Tensor:
        if inputs.requires_grad:
            seen.append(float(inputs.detach().max()))
        return window(inputs)

    method = E(areas=(0.1,), steps=12, jitter=None, perturbation=(sfumato.Constant(2.0), sfumato.Constant(4.0)))
    method(model, torch.zeros(1, 3, 64, 64), 0)
    # what hides the hidden places is the largest value; two steps each
    assert [round(value) for value in seen[-5:]] == [2, 2, 4, 4, 2]  # of the last run


def test_the_gradient_of_several_is_the_mean_of_theirs() -> None:
    one = _problem(E(areas=(0.1,), perturbation=sfumato.Fade())).evaluation
    other = _problem(E(areas=(0.1,), perturbation=sfumato.Constant(0.5))).evaluation
    both = _problem(E(areas=(0.1,), perturbation=(sfumato.Fade(), sfumato.Constant(0.5)))).evaluation
    masks = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(6))
    game = sfumato.DUAL
    means = [
        torch.stack(parts).mean(0)
        for parts in zip(*(e.gradients(masks, game, Move()) for e in (one, other)), strict=True)
    ]
    for turn, wanted in (
        (None, means),
        (0, one.gradients(masks, game, Move())),
        (3, other.gradients(masks, game, Move())),
    ):
        for value, right in zip(both.gradients(masks, game, Move(), turn=turn), wanted, strict=True):
            torch.testing.assert_close(value, right)


def test_the_search_accepts_layers() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, 2, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(6 * 256, 3)
    ).eval()
    result = E(areas=(0.1, 0.3), steps=20, layer="1")(net, torch.rand(1, 3, 32, 32), 1)
    assert result.masks.shape == (1, 2, 1, 16, 16)
    torch.testing.assert_close(result.achieved, torch.tensor([[0.1, 0.3]]), atol=0.005, rtol=0)


def test_steps_are_numbered_over_all_runs() -> None:
    """Three masks of 100 steps each are 3 * 60 passes, shared by three restarts, and a last run of 40 steps."""
    numbers = []
    method = E(areas=(0.05, 0.1, 0.2), steps=100, perturbation=sfumato.Fade())
    method(window, torch.ones(1, 3, 64, 64), 0, progress=lambda step: numbers.append((step.index, step.steps)))
    assert numbers == [(index, 100) for index in range(100)]


def test_a_few_steps_make_fewer_restarts() -> None:
    ascent = sfumato.LevelSetAscent()
    assert ascent._lengths(150, 1) == (3, 30, 60)
    assert ascent._lengths(150, 6) == (3, 180, 60)
    assert ascent._lengths(75, 1) == (3, 15, 30)
    assert ascent._lengths(50, 1) == (2, 15, 20)
    assert ascent._lengths(30, 2) == (1, 36, 12)
    assert ascent._lengths(1, 2) == (1, 2, 0)
    assert replace(ascent, restarts=1)._lengths(150, 1) == (1, 90, 60)
    assert replace(ascent, refinement=0.0)._lengths(150, 2) == (1, 300, 0)


@pytest.mark.parametrize("areas", [(0.1,), (0.05, 0.1, 0.2), (0.3, 0.6)])
def test_a_path_falls_evenly_and_rests_at_each_area(areas: tuple[float, ...]) -> None:
    wanted = torch.tensor([areas])
    path = AreaPath.over(100, 0.7, 0.9, wanted)
    assert path.steps == 100
    places = [path.at(step) for step in range(100)]
    values = [float(place.areas) for place in places]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(0.9 if max(areas) < 0.9 else (1 + max(areas)) / 2)
    for column, area in enumerate(areas):
        rests = [place for place in places if place.column == column]
        assert len(rests) == round(30 / len(areas))
        assert all(float(place.areas) == pytest.approx(area) and place.progress == 1 for place in rests)
    falls = [place for place in places if place.column is None]
    slopes = torch.tensor([float(place.areas) for place in falls]).log().diff()
    assert float(slopes.std()) < 0.25 * abs(float(slopes.mean()))  # of whole steps, and the step of a rest is one less
    torch.testing.assert_close(
        torch.tensor([place.progress for place in falls]), torch.arange(len(falls)) / len(falls), atol=0.02, rtol=0
    )
    assert path.at(100).column == path.at(1000).column == 0
    torch.testing.assert_close(path.at(1000).areas, wanted[:, 0])


def test_a_path_of_few_steps_rests_at_each_area() -> None:
    path = AreaPath.over(3, 0.7, 0.9, torch.tensor([[0.05, 0.1, 0.2]]))
    assert [path.at(step).column for step in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 12])
def test_each_group_of_rows_moves_in_its_own_way(rows: int) -> None:
    """However the rows are split into batches."""
    moves = [Move(), Move((3, -2)), Move(flips=(-1,))]
    inputs = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with E(perturbation=sfumato.Fade(), score="probability").prepared(squares, inputs, [0, 1]) as subject:
        query = torch.tensor([0, 1, 1, 0] * 3)
        evaluation = Evaluation(subject, (sfumato.Fade()(inputs),), query, rows)
        masks = torch.rand(12, 1, 64, 64, generator=torch.Generator().manual_seed(2))
        together = evaluation.gradients(masks, sfumato.Game(1, 0.5), *moves)
        shown = evaluation.scores(masks, *moves)
        for group, move in enumerate(moves):
            some = slice(4 * group, 4 * group + 4)
            alone = replace(evaluation, query=query[some]).gradients(masks[some], sfumato.Game(1, 0.5), move)
            for part, one in zip(together, alone, strict=True):
                torch.testing.assert_close(part[some], one)
            torch.testing.assert_close(shown[some], replace(evaluation, query=query[some]).scores(masks[some], move))


@pytest.mark.parametrize("restarts", [2, 3, 4])
def test_every_second_step_of_each_restart_is_still(restarts: int) -> None:
    """However many there are: an even number would otherwise give one restart all the moves, and another none."""
    seen: list[list[bool]] = []

    def model(inputs: torch.Tensor) -> torch.Tensor:
        if inputs.requires_grad and len(inputs) == restarts:
            # Of a picture that is not its own mirror image, and hidden places that are like shown ones.
            seen.append([torch.equal(row, picture[0]) for row in inputs.detach()])
        return inputs.flatten(1).mean(1, keepdim=True)

    class Nothing:
        def __call__(self, x: torch.Tensor) -> Perturbed:
            return lambda masks, query: x[query] + 0 * masks

    picture = torch.arange(32.0 * 32).view(1, 1, 32, 32).expand(1, 3, 32, 32).contiguous()
    ascent = sfumato.LevelSetAscent(restarts=restarts)
    with pytest.warns(UserWarning, match="effect|change"):
        E(areas=(0.2,), steps=120, ascent=ascent, perturbation=Nothing())(model, picture, 0)
    still = torch.tensor(seen[-20:]).float().mean(0)
    assert ((still >= 0.45) & (still <= 0.7)).all()


def squares(inputs: torch.Tensor) -> torch.Tensor:
    """The same of what is squared, so that gradients depend on the input."""
    return window(inputs.square()) / 1000


def test_the_last_run_begins_from_the_mean_of_what_the_restarts_found() -> None:
    steps: list[Step] = []
    flat = sfumato.LevelSetAscent(windows=None)
    method = E(areas=(0.1, 0.2), steps=100, perturbation=sfumato.Fade(), ascent=flat)
    method(window, torch.rand(1, 3, 64, 64), 0, progress=steps.append)
    restarts, path = steps[-1].alternatives, 60 * 2 // 3
    assert restarts.shape == (2, 3, 1, 28, 28)
    sets = sfumato.LevelSet().on((64, 64))
    wanted = torch.tensor([0.1, 0.2])
    first = sets.settled(restarts.mean(1), wanted)
    torch.testing.assert_close(sets.settled(steps[path].parameters, wanted), first, atol=5e-3, rtol=0)
    assert all(torch.equal(step.areas, wanted) for step in steps[path:])


def test_the_last_run_begins_at_the_first_field_where_its_set_is_better() -> None:
    """A patch that suffices alone, and costs as much as it is worth as long as the rest is seen: no path keeps it."""

    def alone(inputs: torch.Tensor) -> torch.Tensor:
        patch = inputs[:, 0, 8:24, 8:24].mean((1, 2))
        rest = (inputs[:, 0].sum((1, 2)) - 256 * patch) / (64 * 64 - 256)
        return torch.stack([patch * (1 - 4 * rest) + 2 * rest, 0 * patch], 1)

    def kept(**settings: object) -> list[float]:
        """How much of the patch is in the set from which the last run begins, and in the answer."""
        steps: list[Step] = []
        ascent = sfumato.LevelSetAscent(**settings)
        method = E(areas=(0.0625,), steps=100, perturbation=sfumato.Fade(), ascent=ascent)
        result = method(alone, torch.ones(1, 3, 64, 64), 0, progress=steps.append)
        sets = sfumato.LevelSet().on((64, 64))
        begun = sets(sets.settled(steps[60 // 3].parameters, torch.tensor([0.0625])))
        return [float(masks[0, 0, 8:24, 8:24].mean()) for masks in (begun, result.masks[0])]

    assert min(kept()) > 0.5
    assert max(kept(windows=None)) < 0.1


def test_an_answer_is_the_set_of_the_mean_of_the_steps_at_its_area() -> None:
    """Without restarts or a last run, where every step of the path can be seen."""
    steps: list[Step] = []
    every_part = sfumato.LevelSetAscent(pruning=None, refinement=0)
    method = E(areas=(0.1,), steps=30, perturbation=sfumato.Fade(), ascent=every_part)
    result = method(window, torch.rand(1, 3, 64, 64), 0, progress=steps.append)
    assert len(steps) == 30
    sets, wanted = sfumato.LevelSet().on((64, 64)), torch.tensor([0.1])
    at_area = [step for step in steps if step.areas.allclose(wanted)]
    assert len(at_area) == 9
    torch.testing.assert_close(sets(steps[-1].parameters), result.masks[0])
    # the step before the last holds the mean so far
    before = sets.settled(steps[-2].parameters, wanted)
    assert 0 < float((before - steps[-1].parameters).abs().max()) < 0.1


def test_what_was_found_for_a_larger_area_stays_while_smaller_ones_are_sought() -> None:
    steps: list[Step] = []
    method = E(areas=(0.05, 0.2), steps=40, ascent=sfumato.LevelSetAscent(refinement=0), perturbation=sfumato.Fade())
    method(window, torch.rand(1, 3, 64, 64), 0, progress=steps.append)
    assert len(steps) == 80
    areas = torch.stack([step.areas for step in steps])
    done = int((areas[:, 1] <= 0.2 + 1e-6).float().argmax()) + 12  # the length of a rest
    assert (areas[done:, 1] == areas[done, 1]).all()
    assert (areas[:, 0] <= areas[:, 1] + 1e-6).all()
    for step in steps[done + 1 : -1]:
        torch.testing.assert_close(step.parameters[1], steps[done].parameters[1])
    assert not steps[-2].parameters[0].allclose(steps[done].parameters[0])


def test_a_result_says_how_far_the_restarts_agree() -> None:
    last = []
    method = E(areas=(0.1, 0.2), steps=100)
    result = method(window, torch.rand(2, 3, 64, 64), [0, 1], progress=last.append)
    restarts = last[-1].alternatives
    sets = sfumato.LevelSet(edge=0).on((64, 64))
    found = [sets(restarts[:, run]).bool().unflatten(0, (2, 2)).flatten(2) for run in range(3)]
    torch.testing.assert_close(found[0].float().mean(2), torch.tensor([[0.1, 0.2]] * 2), atol=1e-3, rtol=0)
    pairs = [(found[0], found[1]), (found[0], found[2]), (found[1], found[2])]
    expected = sum((one & other).sum(2) / (one | other).sum(2) for one, other in pairs) / 3
    assert 0.3 < float(expected.min()) < 1
    torch.testing.assert_close(result.agreement, expected)
    torch.testing.assert_close(result[1].agreement, expected[1:])


def test_without_restarts_nothing_can_agree() -> None:
    for method in (E(areas=(0.1,), steps=30), E.smooth_masks(areas=(0.1,), steps=4)):
        assert method(window, torch.ones(1, 3, 64, 64), 0).agreement is None


@pytest.mark.parametrize("settings", [{"jitter": None}, {"jitter": sfumato.Jitter(0, flip=False)}, {"layer": "0"}])
def test_restarts_that_would_be_equal_are_one(settings: dict) -> None:
    """Or their agreement would always be 1, whatever the model."""
    net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    steps: list[Step] = []
    method = E(areas=(0.1, 0.2), steps=100, perturbation=sfumato.Fade(), **settings)
    result = method(net, torch.rand(1, 3, 32, 32), 0, progress=steps.append)
    assert result.agreement is None
    assert len(steps) == 2 * 60 + 40


def test_no_two_places_are_equal_at_the_start() -> None:
    """So that a set of any area is exact, even where a model tells no place from another."""
    for shape in ((24,), (32, 32), (8, 24, 24)):
        sets = sfumato.LevelSet().on(shape)
        count = round(0.2 * torch.Size(shape).numel())
        nodes = sets.nodes(sets.settled(sets.start(), torch.tensor([0.2])))
        assert abs(int((nodes > 0.5).sum()) - count) <= 1  # rounding


@pytest.mark.parametrize("shape", [(512,), (32, 32), (64, 224), (8, 24, 24)])
def test_a_field_of_equal_places_has_a_set_of_each_area(shape: tuple[int, ...]) -> None:
    sets = sfumato.LevelSet().on(shape)
    areas = torch.tensor([0.01, 0.3, 0.7, 0.999])
    half = torch.zeros(4, 1, *sets.size)
    half[:, :, : sets.size[0] // 2] = 1
    narrow = replace(sets.family, sigma=tuple(0.6 * step for step in sets.family.step)).on(shape)
    for family, parameters in (
        (sets, torch.zeros_like(half)),
        (sets, torch.ones_like(half)),
        (sets, half),
        (narrow, half),
    ):
        achieved = family.areas(family.nodes(family.settled(parameters, areas)))
        torch.testing.assert_close(achieved, areas, atol=0.005, rtol=0)


def test_an_area_close_to_one_is_exact() -> None:
    result = E(areas=(0.999,), steps=50)(squares, torch.rand(1, 3, 32, 32), 0)
    assert float((result.masks > 0.5).float().mean()) == pytest.approx(0.999, abs=0.001)


def test_parts_of_too_many_places_are_refused_before_the_search(monkeypatch) -> None:
    monkeypatch.setattr("sfumato.masks.parts.MOST", 1000)
    steps: list[Step] = []
    method = E(areas=(0.1,), steps=2, perturbation=sfumato.Fade())
    with pytest.raises(ValueError, match="at most 1000 places; got 1024. Write .*pruning=None"):
        method(squares, torch.rand(1, 3, 32, 32), 0, progress=steps.append)
    assert not steps
    every_part = replace(method, ascent=sfumato.LevelSetAscent(pruning=None))
    assert every_part(squares, torch.rand(1, 3, 32, 32), 0).masks.shape == (1, 1, 1, 32, 32)


def test_an_input_of_one_place_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two places"):
        E(areas=(0.5,))(lambda inputs: inputs.flatten(1), torch.ones(1, 3, 1, 1), 0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: E(mask=sfumato.LevelSet(), ascent=ProjectedAscent()), "cannot search masks of"),
        (lambda: E(perturbation=()), "one or several"),
        (lambda: E(perturbation=(sfumato.Blur(), 3)), "Blur\\(\\), or several"),
        (lambda: E(mask=sfumato.SmoothMask(), ascent=sfumato.LevelSetAscent()), "cannot search masks of"),
        (lambda: sfumato.LevelSet(step=0), "step"),
        (lambda: sfumato.LevelSet(detail=0), "how many times shorter"),
        (lambda: sfumato.LevelSet(step=8, detail=2), "give one of the two"),
        (lambda: sfumato.LevelSet(detail=0.05).on((224, 224)), "too small for a mask with detail=0.05"),
        (lambda: sfumato.LevelSet(edge=-1), "edge"),
        (lambda: sfumato.LevelSet(step=8, sigma=4).on((64, 64)), "at least 0.6 steps"),
        (lambda: sfumato.LevelSet(step=40).on((64, 64)), "too small"),
        (lambda: sfumato.LevelSet().divided((2, 2)), "for_shape"),
        (lambda: sfumato.LevelSetAscent(rate=0), "rate"),
        (lambda: sfumato.LevelSetAscent(restarts=0), "restarts"),
        (lambda: sfumato.LevelSetAscent(sharpness=0.5), "sharpness"),
        (lambda: E(areas=(1e-6,))(window, torch.ones(1, 3, 64, 64), 0), "no set of the area"),
    ],
)
def test_wrong_settings_are_refused(wrong, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        wrong()


def test_sets_are_found_without_gradients() -> None:
    method = E(
        areas=(0.1,),
        steps=40,
        mask=sfumato.LevelSet(step=6, sigma=5),
        ascent=sfumato.EvolutionAscent(),
        perturbation=sfumato.Fade(),
    )
    with torch.no_grad():
        result = method(lambda x: window(x).detach(), torch.ones(1, 3, 64, 64), 0)
    inside = result.masks.flatten().sort().values[-round(0.1 * 64 * 64) :]
    assert float(inside.mean()) > 0.9
    assert float(result.achieved) == pytest.approx(0.1, abs=2e-3)
    assert float(result.masks[0, 0, 0, 8:28, 8:28].sum() / result.masks.sum()) > 0.8


def test_a_family_and_an_ascent_go_together() -> None:
    """Where one is given, the other is what goes with it."""
    sets, smooth = E(mask=sfumato.LevelSet(edge=0)), E(mask=sfumato.SmoothMask())
    assert E() == E(mask=sfumato.LevelSet()) == E(ascent=sets.ascent)
    assert (sets.ascent, E(ascent=sfumato.LevelSetAscent(rate=0.1)).mask) == (
        sfumato.LevelSetAscent(),
        sfumato.LevelSet(),
    )
    assert smooth == E(ascent=smooth.ascent)
    assert E.smooth_masks(steps=150) == smooth
    assert E.torchray(mask=sfumato.SmoothMask()).ascent == smooth.ascent
    assert E(ascent=sfumato.EvolutionAscent()).mask == sfumato.SmoothMask()


def test_what_is_derived_from_a_family_or_an_ascent_goes_with_the_same() -> None:
    class Sharper(sfumato.LevelSet):
        pass

    class Faster(sfumato.LevelSetAscent):
        pass

    assert E(mask=Sharper()).ascent == sfumato.LevelSetAscent()
    assert E(ascent=Faster()).mask == sfumato.LevelSet()


@pytest.mark.parametrize("side", [2, 4, 5, 7])
def test_the_smallest_area_of_few_places_is_one_of_them(side: int) -> None:
    def middle(inputs: torch.Tensor) -> torch.Tensor:
        return inputs[:, :1, side // 2, side // 2]

    method = E(steps=40, perturbation=sfumato.Fade(), jitter=None)
    result = sfumato.smallest(method, middle, torch.ones(1, 3, side, side), 0)
    assert result.area.item() == pytest.approx(1 / side**2)
    assert int((result.attribution.masks > 0.5).sum()) == 1


def test_an_ascent_of_one_s_own_may_search_sets() -> None:
    class Stays:
        def __call__(self, problem, steps, warm=None):
            parameters = problem.exactly(problem.start(), problem.areas.flatten())
            yield Step(0, 1, parameters, problem.areas.flatten(), problem.areas.flatten())

    result = E(areas=(0.1,), mask=sfumato.LevelSet(), ascent=Stays())(window, torch.ones(1, 3, 64, 64), 0)
    assert float(result.achieved) == pytest.approx(0.1, abs=2e-3)


def test_a_path_to_nearly_everything_begins_above_it() -> None:
    path = AreaPath.over(40, 0.7, 0.9, torch.tensor([[0.2, 0.95]]))
    assert float(path.at(0).areas) == pytest.approx(0.975)
    assert path.at(0).progress == 0


def test_an_ascent_refuses_another_family() -> None:
    problem = replace(_problem(E(areas=(0.1,))), parametrisation=sfumato.SmoothMask().on((64, 64)))
    with pytest.raises(TypeError, match="LevelSetAscent goes with"):
        next(iter(sfumato.LevelSetAscent()(problem, 10)))


def _problem(method: sfumato.ExtremalPerturbation):
    from sfumato.search.problem import Problem

    with method.prepared(window, torch.ones(1, 3, 64, 64), 0) as subject:
        search: Search = method.search(subject)
        return Problem(search.evaluation, search.parametrisation, torch.tensor([[0.1]]), search.game, iter([]))


def test_a_network_that_knows_nothing_gets_one_set_in_the_middle() -> None:
    with pytest.warns(UserWarning, match="effect|change"):
        result = E(areas=(0.1,), steps=20)(lambda x: x.sum((1, 2, 3))[:, None] * 0 + 1, torch.rand(1, 3, 64, 64), 0)
    mask = result.masks[0, 0, 0]
    assert mask[28:36, 28:36].min() > 0.9
    assert abs(float(mask.mean()) - 0.1) < 0.005


def test_no_restart_is_much_better_than_the_answer():
    """With a margin of 0 it is never better; without the comparison it is, for some of six random pictures."""
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 8, 7, stride=3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 5), torch.nn.ReLU())
    net = torch.nn.Sequential(*layers, torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3)).eval()
    inputs = torch.randn(6, 3, 48, 48)

    def lead(margin: float) -> torch.Tensor:
        """How much better the best restart is than the answer, as a share of the difference between whole and hidden."""
        ascent = sfumato.LevelSetAscent(margin=margin, pruning=None, refinement=0.1)
        result = E(areas=(0.05, 0.2), steps=50, ascent=ascent)(net, inputs, 0)
        span = (result.whole - result.blank).abs()[:, None]
        return (result.alternative_scores.amax(2) - result.scores) / span

    assert float(lead(0).max()) < 1e-3
    without = lead(100.0)
    assert float(without.max()) > 0.1
    compared = lead(0.1)
    assert float(compared.max()) < 0.1 + 1e-3
    small = without < 0.09
    torch.testing.assert_close(compared[small], without[small], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "mask"),
    [
        ({}, sfumato.LevelSet()),
        ({"game": "delete"}, sfumato.LevelSet(detail=1.5)),
        ({"game": "dual"}, sfumato.LevelSet(detail=1.5)),
        ({"game": sfumato.Game(keep=1, drop=0.1)}, sfumato.LevelSet(detail=1.5)),
        ({"game": "delete", "ascent": sfumato.LevelSetAscent(restarts=1)}, sfumato.LevelSet(detail=1.5)),
        ({"game": "delete", "mask": sfumato.LevelSet()}, sfumato.LevelSet()),
        ({"game": "delete", "ascent": sfumato.EvolutionAscent()}, sfumato.SmoothMask()),
    ],
)
def test_sets_are_finer_in_games_that_hide_them(settings, mask) -> None:
    assert E(**settings).mask == mask


def test_finer_sets_take_away_more_where_the_answer_rests_on_several_small_places() -> None:
    weights = torch.zeros(1, 1, 224, 224)
    for top in range(12, 224, 40):
        for left in range(12, 224, 40):
            weights[:, :, top : top + 6, left : left + 6] = 1
    method = E(areas=(0.05,), game="delete", steps=30, perturbation=sfumato.Fade())
    rest = [
        float(
            search(lambda x: (x * weights).flatten(1).sum(1, keepdim=True), weights + 0.1, 0).complements
            / weights.sum()
        )
        for search in (method, replace(method, mask=sfumato.LevelSet()))
    ]
    assert rest[0] < 0.9 * rest[1]
