"""One field for all areas: sets within sets, and the order of the places."""

from dataclasses import replace

import pytest
import torch

import sfumato
from sfumato.attribution import ranks
from sfumato.metrics import InsertionDeletion, Monotonicity, SufficientArea, Transfer
from sfumato.metrics.case import Case
from sfumato.perturbations import Constant
from sfumato.search import nested
from sfumato.search.nested import LEAST
from sfumato.space.jitter import MirrorEvenSteps

E = sfumato.ExtremalPerturbation
Order = sfumato.ExtremalOrder
WORTHS = (3.0, 2.0, 1.0, 0.0, -1.0)


def stripes(inputs: torch.Tensor) -> torch.Tensor:
    """Of inputs `(N, 1, 60, 60)` the mean of five stripes, worth what `WORTHS` says, and its negative."""
    worth = torch.tensor(WORTHS, dtype=inputs.dtype, device=inputs.device).repeat_interleave(12)
    values = (inputs * worth).mean((1, 2, 3))
    return torch.stack([values, -values], 1)


def ones(batch: int = 1) -> torch.Tensor:
    return torch.ones(batch, 1, 60, 60)


def still(**changes) -> sfumato.ExtremalOrder:
    """Nested sets of a score that is a sum over places, whose best order is that of their worths."""
    settings = {"score": "logit", "perturbation": Constant(), "jitter": None, "mask": sfumato.LevelSet(4, 4, edge=0)}
    return Order(**{**settings, **changes})


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
def test_places_come_in_the_order_of_what_they_are_worth(game: str) -> None:
    order = still(game=game)(stripes, ones(), 0).order
    middles = order[0, 0, :, 6::12].mean(0)  # of each stripe
    assert middles.tolist() == sorted(middles.tolist(), reverse=True)
    # The first fifth of the places is the first stripe, but for its border, which is as sharp as a Gaussian of 4 places.
    first = order[0, 0] > 0.8
    assert first[:, :12].float().mean() > 0.9


def test_the_sets_are_those_of_the_order_and_lie_within_each_other() -> None:
    areas = (0.1, 0.3, 0.6)
    result = still(areas=areas, steps=20)(stripes, ones(), 0)
    sets = result.masks[0, :, 0] > 0.5
    assert (sets[0] <= sets[1]).all()
    assert (sets[1] <= sets[2]).all()
    for area, places in zip(areas, sets, strict=True):
        assert places.float().mean() == pytest.approx(area, abs=2 / 3600)
        assert ((result.order[0, 0] > 1 - area) != places).sum() <= 2  # a set is exact to a place


def test_level_places_lie_in_the_same_sets_as_in_the_order() -> None:
    """A score that asks for a quarter alone: whatever else is level, the sets are those of the one order."""

    def model(x: torch.Tensor) -> torch.Tensor:
        value = x[:, 0, :8, :8].mean((1, 2))
        return torch.stack([value, -value], 1)

    areas = (0.1, 0.2, 0.4, 0.7)
    result = still(areas=areas, mask=sfumato.LevelSet(2, 2, edge=0), steps=30)(model, torch.ones(1, 1, 16, 16), 0)
    for area, places in zip(areas, result.masks[0, :, 0] > 0.5, strict=True):
        assert ((result.order[0, 0] > 1 - area) != places).sum() <= 1


def test_an_order_is_a_permutation_of_ranks() -> None:
    order = still(steps=5)(stripes, ones(2), 0).order
    places = 3600
    expected = torch.arange(1, places + 1).float() / places
    torch.testing.assert_close(order.flatten(1).sort(1).values, expected.expand(2, -1))


@pytest.mark.parametrize("restarts", [1, 2])
def test_the_steps_are_those_of_plain_loops(restarts: int, monkeypatch) -> None:
    """Three steps each, with areas by the golden ratio, and every gradient from autograd."""
    monkeypatch.setattr(nested, "SHORTEST", 3)
    inputs = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = torch.rand(24, 24, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    weights = weights + weights.flip(1)  # so that mirrored pictures are worth as much

    def model(x: torch.Tensor) -> torch.Tensor:
        value = (x[:, 0] * weights).mean((1, 2))
        return torch.stack([value + 3 * value**2, -value], 1)

    steps = 3
    ascent = sfumato.NestedAscent(
        rate=2.0, sharpness=9, approach=0.5, settling=0.4, restarts=restarts
    )  # a rate at which values leave [0, 1]
    family = sfumato.LevelSet(3, 3, edge=0)
    settings = {"mask": family, "game": "dual", "score": "probability", "seed": 11, "areas": (0.7,)}
    jitter = MirrorEvenSteps()
    result = still(steps=restarts * steps, ascent=ascent, jitter=jitter, **settings)(model, inputs, 0)

    sets = family.on((24, 24))
    begin = float(torch.rand((), generator=torch.Generator().manual_seed(11), dtype=torch.float64))

    def shifted(parameters: torch.Tensor, area: float, slope: float) -> torch.Tensor:
        low, high = -9.0, 9.0
        for _ in range(60):
            middle = (low + high) / 2
            moved = parameters + middle
            grows = (0.5 + slope * (sets.nodes(moved) - 0.5)).clamp(0, 1).mean() > area
            low, high = (low, middle) if grows else (middle, high)
        return parameters + low

    def run(begin: float) -> torch.Tensor:
        field, velocity, fields = shifted(sets.start(), 0.5, 1.0), torch.zeros_like(sets.start()), []
        for index in range(steps):
            fields.append(field)
            slope = 9 ** min(1.0, index / (0.5 * steps))
            cut = shifted(field, (begin + index * 0.6180339887498949) % 1, slope).requires_grad_()
            mask = (0.5 + slope * (sets.nodes(cut) - 0.5)).clamp(0, 1).double()
            shown, hidden = model(mask * inputs).softmax(1)[0, 0], model((1 - mask) * inputs).softmax(1)[0, 0]
            (gradient,) = torch.autograd.grad(shown - hidden, cut)
            velocity = 0.5 * velocity + gradient / gradient.abs().max()
            following = min(1.0, (index + 1) / (0.5 * steps))
            field = shifted(field + 2 * velocity, 0.5, 9**following)
        return torch.stack(fields[2:]).mean(0)  # the last 0.4 of three steps: one

    runs = [run(begin + index / restarts) for index in range(restarts)]
    mean = torch.stack(runs).mean(0)
    assert max(float(each.max()) for each in runs) > 1.1  # no bounds
    assert min(float(each.min()) for each in runs) < -0.1

    # Shifts are exact to a thousandth of the area during the ascent, so fields differ by about as much.
    torch.testing.assert_close(result.order, ranks(sets.nodes(mean)), atol=0.02, rtol=0)
    if restarts == 1:
        assert result.agreement is None
        assert result.alternatives is None
        return
    tops = [ranks(sets.nodes(each))[0, 0] > 0.3 for each in runs]
    assert (result.alternatives[0, 0, :, 0] != torch.stack(tops)).float().mean() < 0.02
    share = float((tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum())
    assert 0.2 < share < 0.95
    assert float(result.agreement) == pytest.approx(share, abs=0.04)


def test_few_steps_make_one_run() -> None:
    """Restarts would have fewer steps each than they need."""
    two = sfumato.NestedAscent(restarts=2)
    given = {"jitter": sfumato.Jitter(), "areas": (0.2,), "mask": sfumato.LevelSet(8, 8, edge=0), "ascent": two}
    assert still(steps=2 * nested.SHORTEST - 1, **given)(stripes, ones(), 0).agreement is None
    assert still(steps=2 * nested.SHORTEST, **given)(stripes, ones(), 0).agreement.shape == (1, 1)
    assert still(steps=2 * nested.SHORTEST, **{**given, "jitter": None})(stripes, ones(), 0).agreement is None
    assert two.fewest == 2 * nested.SHORTEST
    assert sfumato.NestedAscent().fewest is None  # one run, unless it is told otherwise


def test_each_restart_of_a_batch_is_that_of_its_query(monkeypatch) -> None:
    monkeypatch.setattr(nested, "SHORTEST", 3)
    inputs = torch.rand(2, 1, 60, 60, generator=torch.Generator().manual_seed(1))
    method = still(steps=6, areas=(0.1, 0.4), jitter=sfumato.Jitter(), ascent=sfumato.NestedAscent(restarts=2))
    together = method(stripes, inputs, [0, 1])
    assert together.alternatives.shape == (2, 2, 2, 1, 60, 60)
    for number, target in enumerate((0, 1)):
        alone = method(stripes, inputs[number : number + 1], target)
        torch.testing.assert_close(together[number].agreement, alone.agreement, atol=0.02, rtol=0)
        differs = together[number].alternatives != alone.alternatives
        assert differs.float().mean() < 0.02
        torch.testing.assert_close(together[number].order, alone.order, atol=0.02, rtol=0)


def test_the_areas_lie_evenly_from_the_first_step_on() -> None:
    seen = []

    def model(x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            seen.extend(x.detach().mean((1, 2, 3)).tolist())
        return stripes(x)

    still(steps=21, game="preserve")(model, ones(), 0)
    areas = [area for area in seen if area < 1]  # but for the first look at the whole input
    assert len(areas) == 21
    for count in (5, 8, 13, 21):
        gaps = torch.tensor([0.0, *sorted(areas[:count]), 1.0]).diff()
        assert gaps.max() < 2 / count
    assert min(areas) >= LEAST - 0.002


def test_a_batch_is_its_parts() -> None:
    inputs = torch.rand(3, 1, 60, 60, generator=torch.Generator().manual_seed(1))
    method = still(steps=6, areas=(0.1, 0.4), jitter=sfumato.Jitter())
    together = method(stripes, inputs, [0, 1, 0])
    for number, target in enumerate((0, 1, 0)):
        alone = method(stripes, inputs[number : number + 1], target)
        torch.testing.assert_close(together[number].order, alone.order, atol=0.01, rtol=0)


def test_it_can_begin_from_masks() -> None:
    method = still(steps=1, areas=(0.2, 0.4))
    with method.prepared(stripes, ones(), 0) as subject:
        search = method.search(subject)
        areas = torch.tensor([[0.2, 0.4]])
        nodes = torch.linspace(0, 1, search.parametrisation.size[1]).expand(search.parametrisation.size)
        warm = torch.stack([nodes, nodes])[:, None]
        last = search.ascend(areas, warm=warm)
        assert last.order[0, 0, :, -1].mean() > last.order[0, 0, :, 0].mean() + 0.5


def test_steps_show_sets_of_the_wanted_areas() -> None:
    steps = []
    method = still(steps=6, areas=(0.1, 0.5))
    method(stripes, ones(2), 0, progress=steps.append)
    assert [step.index for step in steps] == list(range(6))
    sets = method.mask.on((60, 60))
    for step in steps:
        assert step.parameters.shape[0] == len(step.values) == len(step.areas) == 4
        torch.testing.assert_close(
            sets.areas(sets.nodes(step.parameters)), torch.tensor([0.1, 0.5]).repeat(2), atol=0.01, rtol=0
        )


def test_the_places_of_a_layer_are_ordered_over_the_input() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.AvgPool2d(4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(1, 2)
    )
    result = Order(layer="0", steps=3)(network, torch.rand(2, 1, 64, 64), 0)
    assert result.order.shape == (2, 1, 64, 64)
    assert result.masks.shape == (2, 3, 1, 16, 16)


@pytest.mark.parametrize(
    ("protocol", "measure"),
    [
        (InsertionDeletion(steps=20), "difference"),
        (Monotonicity(masks=False, perturbation=Constant()), "rank_correlation"),
        (SufficientArea(perturbation=Constant()), "area"),
        (Transfer((Constant(),)), "kept Constant"),
    ],
)
def test_metrics_that_show_places_one_after_the_other_follow_the_order(protocol, measure: str) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        left, right = x[:, 0, :, :30].mean((1, 2)), x[:, 0, :, 30:].mean((1, 2))
        return torch.stack([4 * left - 2 * right, right], 1)

    rising = torch.linspace(0, 1, 60).expand(1, 1, 60, 60)
    both = sfumato.Attribution(map=rising, order=1 - rising)
    values = [
        protocol.measure(Case(attribution, model=model, inputs=ones(), target=0))[measure]
        for attribution in (both, sfumato.Attribution(map=1 - rising), sfumato.Attribution(map=rising))
    ]
    assert values[0] == values[1]
    assert abs(values[0] - values[2]) > 0.05


def test_an_order_is_saved_moved_and_taken_apart(tmp_path) -> None:
    result = still(steps=2)(stripes, ones(2), 0)
    result.save(tmp_path / "nested.safetensors")
    loaded = sfumato.load(tmp_path / "nested.safetensors")
    assert torch.equal(loaded.order, result.order)
    assert torch.equal(result[1].order, result.order[1:])


def test_half_precision_keeps_all_ranks_apart() -> None:
    result = still(steps=2)(stripes, ones(), 0).to(torch.float16)
    assert result.map.dtype == torch.float16
    assert len(result.order.unique()) == 3600


def test_other_searches_have_no_order() -> None:
    assert E(steps=1, areas=(0.2,))(stripes, ones(), 0).order is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sharpness": 0.5}, "the slope of an edge"),
        ({"approach": 1.0}, "a share of the steps"),
        ({"settling": -0.1}, "a share of the steps"),
        ({"rate": 0}, "how far a parameter moves"),
        ({"rule": 3}, "rule must be a rule"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sfumato.NestedAscent(**settings)


def test_it_goes_with_level_sets_only() -> None:
    assert E(ascent=sfumato.NestedAscent()).mask == sfumato.LevelSet()
    with pytest.raises(ValueError, match="cannot search masks of SmoothMask"):
        E(mask=sfumato.SmoothMask(), ascent=sfumato.NestedAscent())
    with pytest.raises(TypeError, match="goes with masks of the family LevelSet"):
        sfumato.ExtremalChannels(layer="0", counts=(2,), ascent=sfumato.NestedAscent(), steps=1)(
            torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), ones(), 0
        )


def test_without_settling_the_last_field_is_the_answer() -> None:
    steps = []
    method = still(steps=4, ascent=sfumato.NestedAscent(settling=0), areas=(0.3,))
    method(stripes, ones(), 0, progress=steps.append)
    mean = replace(method, ascent=sfumato.NestedAscent(settling=0.9))
    other = []
    mean(stripes, ones(), 0, progress=other.append)
    assert not torch.allclose(steps[-1].order, other[-1].order, atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Order(ascent=sfumato.EvolutionAscent()),
        lambda: Order(ascent=sfumato.LevelSetAscent()),
        lambda: Order(ascent=None),
        lambda: Order(mask=sfumato.SmoothMask()),
        Order.smooth_masks,
        Order.torchray,
    ],
)
def test_what_gives_no_order_is_refused(make) -> None:
    with pytest.raises(
        ValueError, match="ExtremalOrder takes masks of the family LevelSet and the ascent NestedAscent"
    ):
        make()
