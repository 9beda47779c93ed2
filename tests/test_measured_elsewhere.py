"""Temperatures and areas of survival are used for what they were measured with, and for nothing else."""

from dataclasses import replace

import pytest
import torch
from spots import METHOD, SIDE, certificate, ones, rectangle, result_of, spots
from torch import nn

import sfumato
from sfumato.evidence import Calibrate, Calibration, SameAnswer, Survival, Survives, survival
from sfumato.evidence.measured import weights_of
from sfumato.perturbations import Constant

SPOT = rectangle(8, 8, 8, 8)


class Spot(nn.Module):
    """The mean of a spot, against a threshold."""

    def __init__(self, worth: float = 4.0) -> None:
        super().__init__()
        self.worth = nn.Parameter(torch.tensor(worth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.worth * spots((8, 8))(x)[:, :1]
        return torch.cat([value, torch.ones_like(value)], 1)


def function(x: torch.Tensor) -> torch.Tensor:
    """The same, as a callable that is no module."""
    return Spot().forward(x)


def test_a_calibration_of_another_network_is_not_used() -> None:
    inputs = torch.ones(2, 1, SIDE, SIDE)
    calibration = Calibrate(edges=(0, 1), perturbations=(Constant(),))(Spot(), [(inputs, None)], "first")
    assert calibration.weights == weights_of(Spot())
    claim = SameAnswer(calibration)
    assert certificate(Spot(), SPOT, claims=(claim,)).findings[0].holds
    other = certificate(Spot(5.0), SPOT, claims=(claim,)).findings[0]
    assert other.holds is None
    assert other.sentence == "The calibration is of another network, first."
    unnamed = Calibration((0, 1), (Constant(),), ((2.0,),), 9)  # an earlier file, and a network that is no module
    assert certificate(Spot(5.0), SPOT, claims=(SameAnswer(unnamed),)).findings[0].holds
    assert certificate(function, SPOT, claims=(claim,)).findings[0].holds


def test_a_calibration_is_not_for_labels_with_a_yes_or_no_each() -> None:
    calibration = Calibration((0, 1), (Constant(),), ((2.0,),), 9)
    method = replace(METHOD, score="sigmoid")
    found = certificate(Spot(), SPOT, claims=(SameAnswer(calibration),), method=method).findings[0]
    assert found.holds is None
    assert "yes or no" in found.sentence


def test_areas_of_survival_are_of_one_network_and_its_answer() -> None:
    known = Survival((1 / 16,) * 20, METHOD, weights_of(Spot()))
    claim = Survives(known)
    assert certificate(Spot(), SPOT, claims=(claim,)).findings[0].holds
    other = certificate(Spot(5.0), SPOT, claims=(claim,)).findings[0]
    assert other.holds is None
    assert "another network" in other.sentence
    result = result_of(Spot(), SPOT, target=1)  # the network answers 0
    (unasked,) = sfumato.Certify((claim,))(result, Spot(), ones(), 1)
    assert unasked.findings[0].holds is None
    assert "sets for the network's answer, here class 0" in unasked.findings[0].sentence
    score = sfumato.LogOdds(0)  # the answer, but searched by another score
    (scored,) = sfumato.Certify((claim,))(
        replace(result_of(Spot(), SPOT), whole=torch.tensor([3.0])), Spot(), ones(), score
    )
    assert scored.findings[0].holds is None


def test_the_area_that_was_asked_for_counts() -> None:
    """The set of an area has a place more or fewer, and another area where it was a smooth mask."""
    claim = Survives(Survival((0.3,) * 20, METHOD))
    result = result_of(Spot(), rectangle(8, 8, 17, 18), areas=torch.tensor([0.3]))
    (found,) = sfumato.Certify((claim,))(result, Spot(), ones())
    assert found.area < 0.3 - 1e-3
    assert found.findings[0].holds
    (smaller,) = sfumato.Certify((claim,))(replace(result, areas=torch.tensor([0.2])), Spot(), ones())
    assert smaller.findings[0].holds is False


def test_a_survival_knows_its_network() -> None:
    found = survival(replace(METHOD, steps=2), Spot(), [ones()])
    assert found.weights == weights_of(Spot())
    assert survival(replace(METHOD, steps=2), function, [ones()]).weights == ""


def test_a_confidence_is_not_rounded_up() -> None:
    claim = Survives(Survival((0.125,) * 200, METHOD), 0.995)
    assert "With 99.5 % confidence" in certificate(Spot(), SPOT, claims=(claim,)).findings[0].sentence
    assert "on sets of 12.5 %" in certificate(Spot(), SPOT, claims=(claim,)).findings[0].sentence


def test_a_model_that_takes_one_input_at_a_time_can_be_calibrated() -> None:
    def single(x: torch.Tensor) -> torch.Tensor:
        return Spot()(x.view(1, 1, SIDE, SIDE))

    calibrate = Calibrate(edges=(0, 0.5, 1), perturbations=(Constant(),))
    inputs = torch.ones(3, 1, SIDE, SIDE)
    assert calibrate(single, [(inputs, None)]).temperatures == calibrate(function, [(inputs, None)]).temperatures
    assert certificate(single, SPOT, claims=(SameAnswer(),)).findings[0].holds


def nan_when_dark(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.mean((1, 2, 3))[:, None] < 0.3, torch.nan, Spot()(x))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Calibrate()(nan_when_dark, [(ones(), None)]), "is not finite"),
        (lambda: survival(replace(METHOD, steps=2), lambda x: Spot()(x) * torch.nan, [ones()]), "not finite"),
        (lambda: Calibrate()(Spot(), [(ones(), torch.tensor([2]))]), "classes of the network, 0 to 1; got 2 to 2"),
        (lambda: Calibrate()(Spot(), [(ones(2), torch.tensor([1]))]), "one for each of the 2 inputs"),
        (lambda: Calibration((0, 1), ("blur",), ((1.0,),), 3), "perturbation must be a configuration"),
        (lambda: Survival((float("nan"),), METHOD), "areas is shares of the picture"),
        (lambda: Survival((2.0,), METHOD), "areas is shares of the picture"),
        (lambda: Survival((0.1,), sfumato.RISE()), "the ExtremalPerturbation that made the sets"),
    ],
)
def test_wrong_things_are_refused(wrong, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        wrong()
