"""Certificates: claims about a set, on models whose scores are known sums over places."""

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from spots import METHOD, certificate, ones, rectangle, result_of, spots

import sfumato
from sfumato.evidence import (
    BetterThanChance,
    Claim,
    Finding,
    HoldsElsewhere,
    MostlyNeeded,
    OnlyOne,
    SameAnswer,
    Steady,
    Suffices,
)
from sfumato.masks.regions import Cells
from sfumato.perturbations import Constant


def test_a_set_suffices_where_it_holds_enough_of_the_sum() -> None:
    model = spots((8, 8))
    whole, three_quarters = rectangle(8, 8, 8, 8), rectangle(8, 8, 8, 6)
    found = certificate(model, whole)["Suffices"]
    assert found.holds
    assert found.numbers["worth"] == pytest.approx(1)
    found = certificate(model, three_quarters)["Suffices"]
    assert not found.holds
    assert found.numbers["worth"] == pytest.approx(0.75)
    expected = torch.tensor([0.75, -0.75]).softmax(0)[0]
    assert found.numbers["probability"] == pytest.approx(float(expected))
    assert "are worth 75 %" in found.sentence


def test_progress_is_told_of_each_claim_before_it_is_tested() -> None:
    model, seen = spots((8, 8)), []
    result = result_of(model, rectangle(8, 8, 8, 8))
    certify = sfumato.Certify(claims=(Suffices(), BetterThanChance(count=19)))
    certify(result, model, ones(), progress=lambda claim, index, count: seen.append((type(claim), index, count)))
    assert seen == [(Suffices, 0, 2), (BetterThanChance, 1, 2)]


def test_all_sets_are_shown_with_the_edges_of_the_search() -> None:
    """A soft edge shows less within the spot, and a little beside it, of every set alike."""
    model, places = spots((8, 8)), rectangle(8, 8, 8, 8)
    soft = replace(METHOD, mask=replace(METHOD.mask, edge=4.0))
    mask = sfumato.LevelSet(4, 3, edge=4.0)
    found = certificate(model, places, method=soft)["Suffices"]
    blurred = sfumato.evidence.worth.masks_of(places[0] > 0.5, mask.edge)
    assert found.numbers["worth"] == pytest.approx(float(blurred[0, 0, 8:16, 8:16].mean()), abs=1e-5)
    assert 0.6 < found.numbers["worth"] < 0.9
    line = blurred[0, 0, 12]
    assert 3 <= ((line > 0.1) & (line < 0.9)).sum() / 2 <= 5


def test_the_smallest_set_that_is_worth_enough_is_taken() -> None:
    masks = rectangle(8, 8, 8, 6), rectangle(8, 8, 8, 8), rectangle(4, 4, 16, 16)
    assert certificate(spots((8, 8)), *masks).variant == 1
    assert certificate(spots((8, 8)), *masks, keep=0.7).variant == 0
    assert certificate(spots((24, 24)), *masks).variant == 2  # none suffices: the largest
    found = certificate(spots((8, 8)), *masks)
    assert found.area == pytest.approx(64 / 32**2)
    assert torch.equal(found.places, masks[1][0, 0] > 0.5)


@pytest.mark.parametrize(("game", "worth"), [("preserve", 0.75), ("delete", 0.6), ("dual", (0.75 + 0.6) / 2)])
def test_each_game_has_its_worth(game: str, worth: float) -> None:
    """Hidden and shown differ: a score that is not a sum, $v + v^2$ of the share v that is shown."""
    base = spots((8, 8))

    def model(x: torch.Tensor) -> torch.Tensor:
        value = base(x)[:, :1]
        return torch.cat([value + value**2, -value], 1)

    set_ = rectangle(8, 8, 8, 6)
    shown = (0.75 + 0.75**2) / 2
    hidden = 1 - (0.25 + 0.25**2) / 2
    expected = {"preserve": shown, "delete": hidden, "dual": (shown + hidden) / 2}[game]
    found = certificate(model, set_, method=replace(METHOD, game=game)).findings[0]
    assert found.numbers["worth"] == pytest.approx(expected)
    assert found.claim == ("Decides" if game == "delete" else "Suffices")


def test_a_set_that_one_perturbation_carries_does_not_hold_elsewhere() -> None:
    """A score of contrast: with black around it the set has an edge, with white none."""

    def model(x: torch.Tensor) -> torch.Tensor:
        value = (x[:, 0, :, 1:] - x[:, 0, :, :-1]).abs().mean((1, 2)) + x[:, 0, 8:16, 8:16].mean((1, 2))
        return torch.stack([value, -value], 1)

    claim = HoldsElsewhere((Constant(0.0), Constant(0.5)), keep=0.5)
    found = certificate(model, rectangle(8, 8, 8, 8), claims=(claim,))["Holds elsewhere"]
    assert found.holds
    assert set(found.numbers) == {"Constant", "Constant 2"}
    blind = certificate(model, rectangle(20, 20, 8, 8), claims=(claim,))["Holds elsewhere"]
    assert not blind.holds
    assert "does not hold under Constant and Constant 2" in blind.sentence


def test_chance_counts_the_random_sets_that_do_as_well() -> None:
    model = spots((8, 8))
    best = certificate(model, rectangle(8, 8, 8, 8), claims=(BetterThanChance(count=19, rivals=()),)).findings[0]
    assert best.holds
    assert best.numbers["p_value"] == pytest.approx(1 / 20)
    assert "none does as well" in best.sentence
    worst = certificate(model, rectangle(24, 24, 8, 8), claims=(BetterThanChance(count=19, rivals=()),)).findings[0]
    assert worst.numbers["p_value"] == 1
    assert not worst.holds
    assert 0 < best.numbers["random_mean"] < 0.2  # the set's area is 1/16
    assert (
        best.numbers
        == certificate(model, rectangle(8, 8, 8, 8), claims=(BetterThanChance(count=19, rivals=()),))
        .findings[0]
        .numbers
    )


def test_a_rival_that_does_as_well_is_named() -> None:
    model = spots((12, 12))  # in the middle
    claim = BetterThanChance(count=19, rivals=(sfumato.Gradient(),))
    found = certificate(model, rectangle(12, 12, 8, 7), claims=(claim,)).findings[0]
    assert found.numbers["p_value"] == pytest.approx(1 / 20)
    assert found.numbers["Gradient"] >= found.numbers["random_best"]
    assert not found.holds
    assert found.sets["Gradient"].sum() == 8 * 7


def test_cells_that_do_not_matter_are_given_up() -> None:
    model = spots((8, 8))
    claim = MostlyNeeded(regions=Cells(8))  # 4 by 4 places
    found = certificate(model, rectangle(8, 8, 8, 12), claims=(claim,)).findings[0]
    assert torch.equal(found.sets["needed"], rectangle(8, 8, 8, 8)[0, 0] > 0.5)
    assert found.numbers["cells"] == 6
    assert found.numbers["needed_cells"] == 4
    assert found.numbers["cheapest_cell"] == pytest.approx(0.25)
    assert found.holds  # two thirds of the area
    wide = certificate(model, rectangle(8, 8, 8, 20), claims=(claim,)).findings[0]
    assert not wide.holds  # two fifths


def test_what_is_left_is_minimal() -> None:
    """Places of random worth: no cell that stays could go alone, and the whole loss is within what was allowed."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(8, 8, generator=generator) ** 4
    weights = (weights / weights.sum()).repeat_interleave(4, 0).repeat_interleave(4, 1) / 16

    def model(x: torch.Tensor) -> torch.Tensor:
        value = (x[:, 0] * weights.to(x)).sum((1, 2))
        return torch.stack([value, -value], 1)

    claim = MostlyNeeded(loss=0.1, regions=Cells(8))
    found = certificate(model, ones(), claims=(claim,)).findings[0]
    kept = float((weights * found.sets["needed"]).sum())
    assert 0.9 <= kept < 1
    assert found.numbers["worth_needed"] == pytest.approx(kept, abs=1e-5)
    smallest = min(
        float(weights[4 * y, 4 * x]) * 16 for y in range(8) for x in range(8) if found.sets["needed"][4 * y, 4 * x]
    )
    assert kept - smallest < 0.9
    assert found.numbers["cheapest_cell"] == pytest.approx(1 - kept + smallest, abs=1e-5)


def test_another_set_is_found_where_there_is_one() -> None:
    """Either of two spots is enough."""
    first, second = spots((4, 4)), spots((20, 20))

    def either(x: torch.Tensor) -> torch.Tensor:
        value = torch.maximum(first(x)[:, 0], second(x)[:, 0])
        return torch.stack([value, -value], 1)

    def both(x: torch.Tensor) -> torch.Tensor:
        value = (first(x)[:, 0] + second(x)[:, 0]) / 2
        return torch.stack([value, -value], 1)

    place = rectangle(4, 4, 8, 8)
    found = certificate(either, place, claims=(OnlyOne(keep=0.7),)).findings[0]
    assert not found.holds
    other = found.sets["other 1"]
    assert other[20:28, 20:28].float().mean() > 0.7
    assert not (other & (place[0, 0] > 0.5)).any()
    assert "It is not the only one" in found.sentence
    found = certificate(spots((4, 4)), place, claims=(OnlyOne(),)).findings[0]
    assert found.holds
    assert found.numbers["best_other"] < 0.1
    assert certificate(both, place, claims=(OnlyOne(keep=0.7),)).findings[0].holds  # half is no more than half


@pytest.mark.parametrize("areas", [(1 / 16,), (1 / 16, 1 / 8, 1 / 4)])
def test_another_set_is_sought_with_as_many_steps_as_the_set_itself(areas) -> None:
    """All masks come from one path, so that each has the steps of all."""
    followed = []

    def model(inputs):
        followed.append(len(inputs) if inputs.requires_grad else 0)
        return spots((8, 8))(inputs)

    method = replace(METHOD, areas=areas, steps=30)
    result = method(model, ones(), 0)
    itself = sum(followed)
    followed.clear()
    (found,) = sfumato.Certify((OnlyOne(),), keep=0.5)(result, model, ones(), 0)
    assert len(areas) * 30 <= sum(followed) < itself + 5
    assert "Another one may be there that it missed." in found.findings[0].sentence


def test_a_set_is_steady_where_it_may_move() -> None:
    model = spots((8, 8))
    claim = Steady(shift=2, keep=0.5)
    found = certificate(model, rectangle(8, 8, 8, 8), claims=(claim,)).findings[0]
    assert found.numbers["least_moved"] == pytest.approx(0.75)  # two of eight columns leave
    assert found.holds is None  # whether another search finds it again is not known
    assert math.isnan(found.numbers["agreement"])
    assert certificate(model, rectangle(8, 8, 8, 8), claims=(Steady(shift=6),)).findings[0].holds is False
    result = result_of(model, rectangle(8, 8, 8, 8), agreement=torch.tensor([[0.6]]))
    assert sfumato.Certify((claim,))(result, model, ones())[0].holds
    result = result_of(model, rectangle(8, 8, 8, 8), agreement=torch.tensor([[0.3]]))
    (found,) = sfumato.Certify((claim,))(result, model, ones())
    assert not found.holds
    assert "share 30 %" in found.findings[0].sentence


def test_other_networks_are_asked_too() -> None:
    others = {"the half": spots((8, 12))}
    found = certificate(spots((8, 8)), rectangle(8, 8, 8, 8), claims=(Steady(shift=1),), models=others).findings[0]
    assert found.numbers["the half"] == pytest.approx(0.5)
    assert "For the half it is worth 50 %." in found.sentence


def test_a_hidden_picture_with_the_whole_score_says_nothing() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return x.sum((1, 2, 3))[:, None] * torch.zeros(1, 2) + 1

    found = certificate(model, rectangle(8, 8, 8, 8), claims=(Suffices(), MostlyNeeded(), HoldsElsewhere(), Steady()))
    assert [finding.holds for finding in found.findings] == [None, None, None, None]
    assert not found.holds


def test_every_claim_on_a_real_search_and_its_text() -> None:
    model = spots((8, 8))
    inputs = torch.cat([ones(), ones() * 0.9])
    method = replace(METHOD, steps=90, jitter=sfumato.Jitter(1))
    result = method(model, inputs, 0)
    certificates = sfumato.Certify()(result, model, inputs)
    assert len(certificates) == 2
    for found in certificates:
        assert [finding.claim for finding in found.findings] == [
            "Suffices",
            "Same answer",
            "Holds elsewhere",
            "Better than chance",
            "Mostly needed",
            "The only one",
            "Steady",
        ]
        lines = str(found).splitlines()
        assert len(lines) == 7
        assert all(line.startswith(("yes ", "NO  ", "?   ")) for line in lines)
        assert json.loads(json.dumps(found.as_json()))["findings"][0]["numbers"]["worth"] > 0.7
        assert found["Better than chance"].holds
        assert 0 < found.passes < 2000
        assert found.about["certify"]["keep"] == 0.9


@dataclass(frozen=True)
class Wide(Claim):
    """The set is wider than high."""

    def test(self, tested: sfumato.evidence.Tested) -> Finding:
        high, wide = (int(tested.places.any(axis).sum()) for axis in (1, 0))
        return Finding("Wide", wide > high, f"It is {wide} wide and {high} high.", {"wide": wide, "high": high})


def test_a_claim_of_ones_own() -> None:
    found = certificate(spots((8, 8)), rectangle(8, 8, 8, 6), claims=(Wide(),))
    assert str(found) == "NO  Wide  It is 6 wide and 8 high."
    with pytest.raises(KeyError, match="no claim 'Suffices'; there are Wide"):
        found["Suffices"]


def test_the_model_is_left_as_it_was() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).train()
    result = METHOD(network, ones(), 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    claims = (Suffices(), BetterThanChance(count=19), MostlyNeeded(), Steady())
    sfumato.Certify(claims)(result, network, ones())
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda model, result: sfumato.Certify()(result, model, ones(2)), "the result is of 1 inputs; got 2"),
        (lambda model, _: sfumato.Certify()(ones(1), model, ones(1)), "tests the result of a method.*got a Tensor"),
        (lambda model, result: sfumato.Certify()(result, spots((8, 8), worth=2.0), ones(), 0), "and the result says"),
        (lambda model, result: sfumato.Certify()(result, model, ones(), 1), "and the result says"),
        (
            lambda model, result: sfumato.Certify()(sfumato.Gradient()(model, ones(), 0), model, ones(), 0),
            "sets made by ExtremalPerturbation or ExtremalOrder; the result was made by Gradient",
        ),
        (
            lambda model, result: sfumato.Certify()(replace(result, masks=None), model, ones(), 0),
            "a certificate is of sets of the input's places",
        ),
        (lambda model, result: sfumato.Certify()(replace(result, about={}), model, ones(), 0), "an unknown method"),
        (lambda model, result: sfumato.Certify(claims=(Suffices,)), "claims must be claims such as Suffices"),
        (lambda model, result: sfumato.Certify(claims=()), "one or more claims"),
        (lambda model, result: Suffices(keep=90), "keep is a share of the score, more than 0 and at most 1; got 90"),
        (lambda model, result: BetterThanChance(count=0), "count"),
        (lambda model, result: BetterThanChance(count=18), "count must be 19 sets or more, as fewer cannot"),
        (lambda model, result: sfumato.Certify()(result, model, ones(), [0, 0]), "got 2 targets for 1 inputs"),
        (
            lambda model, result: sfumato.Certify()(replace(result, whole=None), model, ones(), 0),
            "does not say the score",
        ),
        (lambda model, result: HoldsElsewhere(()), "one or more"),
        (lambda model, result: MostlyNeeded(idle=0), "idle"),
        (lambda model, result: OnlyOne(most=0), "most"),
        (lambda model, result: Steady(shift=-1), "shift"),
    ],
)
def test_wrong_things_are_refused(wrong, says: str) -> None:
    model = spots((8, 8))
    result = result_of(model, rectangle(8, 8, 8, 8))
    with pytest.raises(ValueError, match=says):
        wrong(model, result)


def test_a_figure_has_the_sets_and_a_line_for_each_claim() -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    from sfumato.figures.certificates import COLOURS
    from sfumato.figures.certificates import certificate as drawn

    other = Finding(
        "The only one", False, "It is not the only one.", {}, {"other 1": rectangle(20, 20, 8, 8)[0, 0] > 0.5}
    )
    found = certificate(spots((8, 8)), rectangle(8, 8, 8, 12), claims=(Suffices(), MostlyNeeded(regions=Cells(8))))
    found = replace(found, findings=(*found.findings, other))
    figure = drawn(found, torch.rand(3, 32, 32), "a picture")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["the input", "the set, 9.4 %", "needed, 6.2 %", "would do as well, 6.2 %"]
    words = {text.get_text(): text.get_color() for text in figure.texts}
    assert [words[claim] for claim in ("Suffices", "Mostly needed", "The only one")]
    assert COLOURS[True] in words.values()
    assert words["no"] == COLOURS[False]
    assert "It is not the only one." in words
    with pytest.raises(ValueError, match="with 32 × 32 pixels; got shape"):
        drawn(found, torch.rand(3, 16, 16))


def test_classes_are_named_where_their_names_are_known() -> None:
    model = spots((8, 8))
    result = result_of(model, rectangle(8, 8, 8, 8))
    (found,) = sfumato.Certify((SameAnswer(),))(result, model, ones(), labels=("cat", "dog"))
    assert "answers cat (0), as for the whole picture" in found.findings[0].sentence
