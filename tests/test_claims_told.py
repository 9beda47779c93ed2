"""What a certificate may not say: claims about sets that have no worth, that only tie, or that belong to something else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from spots import METHOD, certificate, ones, rectangle, result_of, spots

import sfumato
from sfumato.evidence import BetterThanChance, HoldsElsewhere, MostlyNeeded, OnlyOne, SameAnswer, Steady, Suffices
from sfumato.masks.regions import Cells
from sfumato.perturbations import Constant, Fade

SPOT = rectangle(8, 8, 8, 8)
OF_WORTH = (Suffices(), HoldsElsewhere(), BetterThanChance(count=19), MostlyNeeded(), OnlyOne(), Steady())


def two_logits(value: torch.Tensor) -> torch.Tensor:
    return torch.stack([value, -value], 1)


def constant(x: torch.Tensor) -> torch.Tensor:
    return two_logits(0 * x.sum((1, 2, 3)) + 1)


def less_for_the_whole(x: torch.Tensor) -> torch.Tensor:
    return -spots((8, 8))(x)


def nearly_nothing(x: torch.Tensor) -> torch.Tensor:
    return two_logits(100 + spots((8, 8))(x)[:, 0] / 2)


@pytest.mark.parametrize("model", [constant, less_for_the_whole, nearly_nothing])
@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_nothing_is_claimed_where_hiding_everything_takes_no_score_away(model, game: str) -> None:
    found = certificate(model, SPOT, claims=OF_WORTH, method=replace(METHOD, game=game))
    assert [finding.holds for finding in found.findings] == [None] * len(OF_WORTH)
    assert "nan" not in str(found)


def test_sets_that_tie_with_the_set_do_as_well() -> None:
    """A score that any set of this size reaches: random sets differ from it by rounding alone."""

    def saturated(x: torch.Tensor) -> torch.Tensor:
        value = 1 - 1e-7 * x[:, 0, 12:20, 12:20].mean((1, 2))
        return two_logits(torch.where(x.mean((1, 2, 3)) > 0.01, value, 0.0))

    found = certificate(saturated, SPOT, claims=(BetterThanChance(count=19, rivals=()), OnlyOne()))
    assert found["Better than chance"].numbers["p_value"] == 1
    assert not found["The only one"].holds


def test_rivals_of_one_class_have_a_line_each() -> None:
    rivals = (sfumato.Gradient(), sfumato.methods.Centre(), sfumato.Gradient(score="probability"))
    found = certificate(spots((8, 8)), SPOT, claims=(BetterThanChance(count=19, rivals=rivals),)).findings[0]
    assert list(found.sets) == ["Gradient", "Centre", "Gradient 2"]
    assert found.holds is False
    assert "Gradient and Gradient 2 do as well as the set." in found.sentence


def test_a_perturbation_that_takes_nothing_away_says_nothing() -> None:
    model = spots((8, 8))
    claim = HoldsElsewhere((Constant(0.0), Constant(1.0)))  # the input is 1 everywhere
    found = certificate(model, SPOT, claims=(claim,)).findings[0]
    assert found.holds is None  # what is left is the search's own
    assert "Constant 2 takes no score away" in found.sentence
    assert "Whatever" not in found.sentence
    elsewhere = HoldsElsewhere((Fade(), Constant(1.0)))
    assert certificate(model, SPOT, claims=(elsewhere,)).findings[0].holds
    assert certificate(model, rectangle(20, 20, 8, 8), claims=(elsewhere,)).findings[0].holds is False


def test_of_a_worthless_set_no_cell_is_needed() -> None:
    found = certificate(spots((8, 8)), rectangle(20, 20, 8, 8), claims=(MostlyNeeded(), OnlyOne()))
    assert found["Mostly needed"].holds is False
    assert "none of its cells is needed" in found["Mostly needed"].sentence
    assert found["The only one"].holds is None


def test_a_connected_part_is_given_up_though_each_of_its_cells_is_needed() -> None:
    """The second part lowers the score unless it is whole or gone: no cell of it can go alone."""
    first, second = spots((0, 0)), spots((16, 16))

    def model(x: torch.Tensor) -> torch.Tensor:
        share = second(x)[:, 0]
        return two_logits(first(x)[:, 0] - torch.where((share > 0.01) & (share < 0.99), 0.5, 0.0))

    both = rectangle(0, 0, 8, 8) + rectangle(16, 16, 8, 8)
    found = certificate(model, both, claims=(MostlyNeeded(regions=Cells(8), idle=0.6),)).findings[0]
    assert torch.equal(found.sets["needed"], rectangle(0, 0, 8, 8)[0, 0] > 0.5)
    assert found.holds  # half


def test_another_set_is_as_good_where_it_is_worth_as_much_as_the_set() -> None:
    """The set is worth .5, another .6: neither suffices, and the set is not the only one of its worth."""
    first, second = spots((4, 4)), spots((20, 20))

    def model(x: torch.Tensor) -> torch.Tensor:
        a, b = first(x)[:, 0], second(x)[:, 0]
        return two_logits(torch.maximum(0.5 * a, 0.6 * b) + 0.4 * a * b)

    found = certificate(model, rectangle(4, 4, 8, 8), claims=(OnlyOne(),)).findings[0]
    assert found.holds is False
    assert found.numbers["best_other"] == pytest.approx(0.56, abs=0.05)


def test_another_set_that_destroys_the_score_is_found() -> None:
    """Both spots are needed: hiding either takes everything away, and the first stays shown in the second search."""
    first, second = spots((4, 4)), spots((20, 20))

    def model(x: torch.Tensor) -> torch.Tensor:
        return two_logits(torch.minimum(first(x)[:, 0], second(x)[:, 0]))

    method = replace(METHOD, game="delete")
    claims = (Suffices(), OnlyOne(keep=0.8))
    found = certificate(model, rectangle(4, 4, 8, 8), method=method, claims=claims)
    assert found["Decides"].holds
    assert found["The only one"].holds is False
    assert found["The only one"].sets["other 1"][20:28, 20:28].float().mean() > 0.7


@pytest.mark.parametrize(
    "method", [METHOD, sfumato.ExtremalPerturbation.smooth_masks((1 / 16,), steps=40, jitter=None)]
)
def test_the_second_search_may_use_its_whole_area(method) -> None:
    """The set lies where a search begins; another spot is found, by a set that is as large, and touches it nowhere."""
    centre, other = spots((12, 12)), spots((22, 2))

    def model(x: torch.Tensor) -> torch.Tensor:
        return two_logits(torch.maximum(centre(x)[:, 0], other(x)[:, 0]))

    place = rectangle(12, 12, 8, 8)
    method = replace(method, perturbation=Constant())
    found = certificate(model, place, claims=(OnlyOne(keep=0.5),), method=method).findings[0]
    another = found.sets["other 1"]
    assert not (another & (place[0, 0] > 0.5)).any()
    if method.mask == METHOD.mask:
        assert another.sum() == 64


def test_a_set_without_room_for_another_is_not_called_the_only_one() -> None:
    found = certificate(spots((8, 8)), rectangle(0, 0, 32, 20), claims=(OnlyOne(),)).findings[0]
    assert found.holds is None
    assert "no room" in found.sentence


def test_classes_that_tie_are_no_answer() -> None:
    def tied(x: torch.Tensor) -> torch.Tensor:
        value = spots((8, 8))(x)[:, 0]
        return torch.stack([value, 0 * value], 1)

    found = certificate(tied, rectangle(20, 20, 8, 8), claims=(SameAnswer(),)).findings[0]
    assert found.holds is False
    assert "undecided between class 0 and class 1" in found.sentence
    gone = certificate(tied, SPOT, claims=(SameAnswer(),), method=replace(METHOD, game="delete")).findings[0]
    assert gone.holds is None
    whole = certificate(lambda x: 0 * tied(x), SPOT, claims=(SameAnswer(),)).findings[0]
    assert whole.holds is None


def test_an_answer_that_is_nan_is_none() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        value = spots((8, 8))(x)[:, 0]
        return torch.stack([value, torch.where(x.mean((1, 2, 3)) < 0.1, torch.nan, -value)], 1)

    found = certificate(model, SPOT, claims=(SameAnswer(),)).findings[0]
    assert found.holds is None
    assert "not finite" in found.sentence


def test_labels_with_a_yes_or_no_each_have_their_own_probability() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        value = spots((8, 8))(x)[:, 0]
        return torch.stack([6 * value - 3, 0 * value + 50, 0 * value + 45], 1)

    method = replace(METHOD, score="sigmoid")
    found = certificate(model, SPOT, claims=(Suffices(), SameAnswer()), method=method)
    expected = float(torch.tensor(3.0).sigmoid())
    assert found["Suffices"].numbers["probability"] == pytest.approx(expected)
    assert found["Same answer"].holds  # both are sure; the second more so
    assert found["Same answer"].numbers["probability"] == pytest.approx(1)


def test_a_mask_without_a_set_is_said() -> None:
    found = certificate(spots((8, 8)), 0.4 * SPOT, claims=OF_WORTH)
    assert [finding.holds for finding in found.findings] == [False]
    assert "there is no set" in str(found)


def two(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([spots((4, 4))(x)[:, 0], spots((20, 20))(x)[:, 0]], 1)


@pytest.mark.parametrize(
    "targets", [None, [0, 1], torch.tensor([0, 1]), np.array([0, 1]), range(2), sfumato.Logit((0, 1))], ids=repr
)
def test_each_query_of_a_batch_has_its_target(targets) -> None:
    result = replace(METHOD, steps=40)(two, ones(2), (0, 1))
    first, second = sfumato.Certify((Suffices(keep=0.5),))(result, two, ones(2), targets)
    assert first.places[4:12, 4:12].float().mean() > 0.7
    assert second.places[20:28, 20:28].float().mean() > 0.7
    assert first.holds
    assert second.holds


def test_each_query_of_a_batch_has_its_arguments() -> None:
    def weighted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return spots((8, 8))(x) * weight[:, None]

    model = sfumato.WithArguments(weighted, torch.tensor([1.0, 3.0]))
    result = replace(METHOD, steps=40)(model, ones(2), 0)
    found = sfumato.Certify((Suffices(keep=0.5),))(result, model, ones(2))
    assert all(certificate.holds for certificate in found)


def test_another_target_of_nearly_the_same_score_is_refused() -> None:
    """Both have a probability of less than a thousandth; one is a tenth more."""

    def model(x: torch.Tensor) -> torch.Tensor:
        value = spots((8, 8))(x)[:, 0]
        return torch.stack([8 * value, value, 0.9 * value, 0 * value], 1)

    result = result_of(model, SPOT, method=replace(METHOD, score="probability"), target=1)
    with pytest.raises(ValueError, match="and the result says"):
        sfumato.Certify((Suffices(),))(result, model, ones(), 2)


def test_another_set_is_as_large_as_the_set_itself() -> None:
    """Where masks are smooth, fewer or more places than their area are above one half."""

    def either(x: torch.Tensor) -> torch.Tensor:
        return two_logits(torch.maximum(spots((8, 8))(x)[:, 0], spots((20, 20))(x)[:, 0]))

    smooth = sfumato.ExtremalPerturbation.smooth_masks((1 / 16,), steps=60, perturbation=Constant(), jitter=None)
    found = certificate(either, SPOT, claims=(OnlyOne(keep=0.5),), method=smooth).findings[0]
    assert found.holds is False
    other = found.sets["other 1"]
    assert other.sum() == SPOT.sum()
    assert not (other & (SPOT[0, 0] > 0.5)).any()


@pytest.mark.parametrize(("game", "done"), [("preserve", "hidden"), ("delete", "shown"), ("dual", "given up")])
def test_what_is_done_with_cells_that_are_not_needed(game: str, done: str) -> None:
    """In the game that destroys, the set is hidden, and a cell of it is given up where it is shown."""
    claim = MostlyNeeded(regions=Cells(4))
    found = certificate(
        spots((8, 8)), rectangle(8, 8, 8, 16), claims=(claim,), method=replace(METHOD, game=game)
    ).findings[0]
    assert f"all others can be {done} for at most 2 % of the score" in found.sentence
    assert found.numbers["needed_cells"] == 1
