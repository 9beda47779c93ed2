"""Connected parts of sets, and giving up those that do not matter."""

from dataclasses import replace
from itertools import product

import pytest
import torch

import sfumato
from sfumato.masks.parts import label_parts
from sfumato.search.problem import Problem
from sfumato.search.pruning import Pruning
from sfumato.search.windows import Windows
from sfumato.space.smoothing import gaussian_blur

E = sfumato.ExtremalPerturbation


def flooded(places: torch.Tensor) -> list[set[tuple[int, ...]]]:
    """The parts of one set `(*S)`, found place by place."""
    left = set(map(tuple, places.nonzero().tolist()))
    parts = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            place = edge.pop()
            part.add(place)
            for move in product((-1, 0, 1), repeat=places.ndim):
                beside = tuple(a + b for a, b in zip(place, move, strict=True))
                if beside in left:
                    left.remove(beside)
                    edge.append(beside)
        parts.append(part)
    return parts


@pytest.mark.parametrize("shape", [(90,), (40, 52), (9, 14, 16)])
def test_parts_are_those_of_a_flood(shape: tuple[int, ...]) -> None:
    noise = gaussian_blur(torch.rand(3, 1, *shape, generator=torch.Generator().manual_seed(4)), 1.0)
    sets = noise > noise.flatten(1).quantile(0.7)
    labels = label_parts(sets)
    assert torch.equal(labels > 0, sets)
    for row, places in zip(labels[:, 0], sets[:, 0], strict=True):
        expected = flooded(places)
        assert len(expected) > 1
        found = [set(map(tuple, (row == number).nonzero().tolist())) for number in range(1, int(row.max()) + 1)]
        assert sorted(found, key=sorted) == sorted(expected, key=sorted)
        assert list(map(len, found)) == sorted(map(len, found), reverse=True)


def test_a_long_snake_is_one_part_and_corners_connect() -> None:
    snake = torch.zeros(1, 1, 65, 65, dtype=torch.bool)
    snake[..., ::4, :] = True
    snake[..., 1::8, -1] = snake[..., 2::8, -1] = snake[..., 3::8, -1] = True
    snake[..., 5::8, 0] = snake[..., 6::8, 0] = snake[..., 7::8, 0] = True
    assert int(label_parts(snake).max()) == 1
    corners = torch.eye(6, dtype=torch.bool)[None, None]
    assert int(label_parts(corners).max()) == 1


def test_nothing_has_no_parts_and_too_many_places_are_refused() -> None:
    assert int(label_parts(torch.zeros(2, 1, 8, 8, dtype=torch.bool)).max()) == 0
    with pytest.raises(ValueError, match="at most 16777215 places"):
        label_parts(torch.zeros(1, 1, 2**24, dtype=torch.bool))


def spots(*middles: tuple[int, int], size: int = 20) -> torch.Tensor:
    """A field with a bump around each middle."""
    field = torch.zeros(1, 1, 224, 224)
    for row, column in middles:
        field[..., row - size : row + size, column - size : column + size] = 1
    return gaussian_blur(field, 8.0)


LEFT, RIGHT, LOW = (slice(40, 80), slice(40, 80)), (slice(40, 80), slice(150, 190)), (slice(150, 190), slice(40, 80))


def model(inputs: torch.Tensor) -> torch.Tensor:
    """What the left window shows, counted fully; and of the right one, three tenths."""
    left, right = (inputs[:, :, rows, columns].mean((1, 2, 3)) for rows, columns in (LEFT, RIGHT))
    return torch.stack([left, left + 0.3 * right], 1)


def pruned(target: int, field: torch.Tensor, pruning: Pruning, area: float = 0.09, game: str = "preserve"):
    """The set of a field that is given by its places, and what pruning makes of it."""
    method = E(areas=(area,), perturbation=sfumato.Fade(), game=game)
    with method.prepared(model, torch.ones(1, 3, 224, 224), target) as subject:
        search = method.search(subject)
        sets, areas = search.parametrisation, torch.tensor([[area]])
        problem = Problem(search._evaluation(areas), sets, areas, search.game, iter([]))
        parameters = torch.nn.functional.adaptive_avg_pool2d(field, sets.size)
        parameters = sets.settled(parameters, areas.flatten())
        return sets(parameters)[0, 0], sets(pruning(problem, parameters))[0, 0]


THREE = ((60, 60), (60, 170), (170, 60))


def test_parts_that_do_not_matter_are_given_up_and_their_area_goes_to_the_others() -> None:
    before, after = pruned(0, spots(*THREE), Pruning())
    for rows, columns in (LEFT, RIGHT, LOW):
        assert before[rows, columns].mean() > 0.5
    assert after[RIGHT].mean() == after[LOW].mean() == 0
    assert after[LEFT].mean() > before[LEFT].mean()
    assert int(label_parts((after > 0.5)[None, None]).max()) == 1
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=1e-3)


def test_a_part_that_matters_stays() -> None:
    _, after = pruned(1, spots(*THREE), Pruning(loss=0.02))
    assert after[RIGHT].mean() > 0.5  # for it has a fourth of the score
    assert after[LOW].mean() == 0
    _, after = pruned(1, spots(*THREE), Pruning(loss=0.2))
    assert after[RIGHT].mean() == 0


def test_of_many_parts_the_smallest_are_tried() -> None:
    field = spots((60, 60)) + spots((60, 170), size=14) + spots((170, 60), size=17)
    before, after = pruned(0, field, Pruning(most=1), area=0.07)
    assert before[RIGHT].mean() > 0.1
    assert after[RIGHT].mean() == 0
    assert after[LOW].mean() > 0.5


def test_parts_that_only_excluded_places_connect_are_two() -> None:
    field = spots(*THREE[:2])
    field[..., 55:65, 70:160] = 1
    excluded = torch.zeros(224, 224, dtype=torch.bool)
    excluded[30:90, 85:145] = True
    method = E(areas=(0.09,), perturbation=sfumato.Fade())
    with method.prepared(model, torch.ones(1, 3, 224, 224), 0) as subject:
        search = method.search(subject)
        sets, areas = search.parametrisation.excluding(excluded), torch.tensor([[0.09]])
        problem = Problem(search._evaluation(areas), sets, areas, search.game, iter([]))
        parameters = sets.settled(torch.nn.functional.adaptive_avg_pool2d(field, sets.size), areas.flatten())
        before, after = sets(parameters)[0, 0], sets(Pruning()(problem, parameters))[0, 0]
    assert before[RIGHT].mean() > 0.5
    assert after[RIGHT].mean() == 0
    assert after[LEFT].mean() > 0.5


def test_a_single_part_and_equal_scores_stay_as_they_are() -> None:
    before, after = pruned(0, spots((60, 60)), Pruning(), area=0.03)
    assert torch.equal(before, after)


def test_what_is_deleted_is_pruned_too() -> None:
    before, after = pruned(0, spots(*THREE), Pruning(), game="delete")
    assert before[LOW].mean() > 0.5
    assert after[LOW].mean() == 0
    assert after[LEFT].mean() > 0.5


def test_a_score_above_the_whole_s_keeps_no_part_alone() -> None:
    """A model that likes the right window to be shown, beyond what the whole input scores."""

    def overdone(inputs: torch.Tensor) -> torch.Tensor:
        left, right, low = (inputs[:, :, rows, columns].mean((1, 2, 3)) for rows, columns in (LEFT, RIGHT, LOW))
        return (left + right - 1.2 * low)[:, None]

    method = E(areas=(0.09,), perturbation=sfumato.Fade())
    with method.prepared(overdone, torch.ones(1, 3, 224, 224), 0) as subject:
        search = method.search(subject)
        sets, areas = search.parametrisation, torch.tensor([[0.09]])
        problem = Problem(search._evaluation(areas), sets, areas, search.game, iter([]))
        parameters = torch.nn.functional.adaptive_avg_pool2d(spots((60, 60), (60, 170)), sets.size)
        after = sets(Pruning()(problem, sets.settled(parameters, areas.flatten())))[0, 0]
    assert int(label_parts((after > 0.5)[None, None]).max()) == 1


NO_PULL = sfumato.LevelSetAscent(windows=Windows(pull=0))
"""A search that finds parts, and places around which all speaks against the class."""


def test_the_search_prunes_unless_told_not_to() -> None:
    method = E(areas=(0.1,), steps=30, perturbation=sfumato.Fade())
    inputs = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    counts = [
        int(label_parts(replace(method, ascent=replace(NO_PULL, pruning=rule))(model, inputs, 0).masks[0] > 0.5).max())
        for rule in (Pruning(loss=1.0), None)
    ]
    assert counts[0] == 1
    assert counts[1] > 1


@pytest.mark.parametrize("area", [0.5, 0.3])
def test_what_is_pruned_has_its_area_and_no_more_parts(area: float) -> None:
    """Two stripes at opposite sides: each alone would have to grow into places that are all equal, far beyond its outline."""
    field = torch.zeros(1, 1, 224, 224)
    field[..., :56] = field[..., -56:] = 1
    before, after = pruned(0, field, Pruning(loss=1.0), area=area)
    for mask in (before, after):
        assert float((mask > 0.5).float().mean()) == pytest.approx(area, abs=0.002)
        assert int(label_parts((mask > 0.5)[None, None]).max()) <= 2


def test_a_part_stays_where_the_others_would_fall_apart_instead() -> None:
    """Of two stripes at opposite sides of a small picture, whatever the score."""
    method = E(areas=(0.3,), perturbation=sfumato.Fade())
    with method.prepared(lambda x: x.mean((1, 2, 3))[:, None], torch.ones(1, 3, 64, 64), 0) as subject:
        search = method.search(subject)
        sets, areas = search.parametrisation, torch.tensor([[0.3]])
        problem = Problem(search._evaluation(areas), sets, areas, search.game, iter([]))
        field = torch.zeros(1, 1, *sets.size)
        field[..., :7] = field[..., -7:] = 1
        after = sets(Pruning(loss=1.0)(problem, sets.settled(field, areas.flatten()))) > 0.5
    assert int(label_parts(after).max()) <= 2
    assert float(after.float().mean()) == pytest.approx(0.3, abs=0.001)


def test_what_a_set_has_above_the_whole_is_kept_where_the_hidden_input_has_more() -> None:
    """Of a model that dislikes whatever it sees, except for two windows."""

    def averse(inputs: torch.Tensor) -> torch.Tensor:
        left, right = (inputs[:, :, rows, columns].mean((1, 2, 3)) for rows, columns in (LEFT, RIGHT))
        return (left + right - 25 * inputs.mean((1, 2, 3)))[:, None]

    method = E(areas=(0.09,), perturbation=sfumato.Fade())
    with method.prepared(averse, torch.ones(1, 3, 224, 224), 0) as subject:
        search = method.search(subject)
        sets, areas = search.parametrisation, torch.tensor([[0.09]])
        problem = Problem(search._evaluation(areas), sets, areas, search.game, iter([]))
        parameters = sets.settled(
            torch.nn.functional.adaptive_avg_pool2d(spots(*THREE[:2]), sets.size), areas.flatten()
        )
        before, after = (
            float(problem.evaluation.scores(sets(some))) for some in (parameters, Pruning()(problem, parameters))
        )
    assert -23 < before < 0  # of the whole input, and of the hidden one
    assert after >= before - 0.02 * 23


@pytest.mark.parametrize("game", ["preserve", "dual", "delete"])
def test_the_only_evidence_is_no_part_to_give_up_where_the_whole_scores_less_than_the_hidden_input(game: str) -> None:
    """A small patch speaks for the class and all around it against it, so that the rest of the area lies elsewhere."""
    patch = torch.zeros(32, 32)
    patch[6:11, 7:12] = 1
    around = torch.zeros(32, 32)
    around[2:15, 3:16] = 1
    weights = patch / 25 - 3 * (around - patch) / (around - patch).sum()
    method = E((0.1,), game, steps=50, perturbation=sfumato.Fade(), jitter=sfumato.Jitter(flip=False), ascent=NO_PULL)
    result = method(lambda x: (x[:, 0] * weights).sum((1, 2))[:, None], torch.ones(1, 1, 32, 32), 0)
    assert float(result.whole) == pytest.approx(-2, abs=1e-4)
    assert float(result.blank) == 0
    assert float(result.scores) > 0.8  # of 1, which the patch has alone


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Pruning(loss=-1), "loss is a share"),
        (lambda: Pruning(loss=float("nan")), "loss is a share"),
        (lambda: Pruning(most=0), "most must be a whole number"),
        (lambda: sfumato.LevelSetAscent(pruning=0), "pruning must be Pruning"),
        (lambda: sfumato.LevelSetAscent(pruning=Pruning), "pruning must be Pruning"),
    ],
)
def test_wrong_settings_are_refused(wrong, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        wrong()


@pytest.mark.parametrize("shape", [(1, 3000), (24,), (40, 41), (7, 9, 11)])
def test_a_pruned_set_has_its_area_on_any_shape(shape: tuple[int, ...]) -> None:
    """Also where a part of one place is all that is left, and grows to the whole area."""
    weights = torch.zeros(1, 1, *shape)
    weights.flatten()[shape[-1] // 2] = 1
    method = E(areas=(0.2,), steps=1, perturbation=sfumato.Fade(), ascent=sfumato.LevelSetAscent(pruning=Pruning(1.0)))
    result = method(lambda x: (x * weights).flatten(1).sum(1, keepdim=True), torch.ones(1, 1, *shape), 0)
    places = torch.Size(shape).numel()
    assert abs(float((result.masks > 0.5).float().mean()) - 0.2) <= max(0.005, 0.51 / places)
