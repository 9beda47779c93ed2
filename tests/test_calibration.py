"""What is measured on other pictures before a certificate: temperatures, and areas at which answers survive."""

import math
from dataclasses import replace

import pytest
import torch
from spots import METHOD, SIDE, certificate, ones, rectangle, result_of, spots

import sfumato
from sfumato.evidence import Calibrate, Calibration, SameAnswer, Suffices, Survival, Survives, survival
from sfumato.evidence.calibration import best_temperature, calibration_error
from sfumato.evidence.surviving import fewest
from sfumato.perturbations import Blur, Constant, Noise
from sfumato.scores import Logit, LogOdds


def drawn(temperature: float, count: int = 6000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(N, 5)`, and labels that are drawn by their probabilities at a temperature."""
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(count, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_that_drew_the_labels_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature)
    found = best_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.1)
    at_its_best = torch.nn.functional.cross_entropy(logits / found, labels)
    for other in (found / 1.1, found * 1.1):
        assert torch.nn.functional.cross_entropy(logits / other, labels) > at_its_best
    assert calibration_error((logits / found).softmax(1), labels) < 0.02
    if temperature == 4:
        assert calibration_error(logits.softmax(1), labels) > 0.2


def test_the_calibration_error_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])
    # The bin of .9: confidence .9, half right; the bin of .8: .8 and right.
    assert calibration_error(probabilities, labels) == pytest.approx((2 * 0.4 + 1 * 0.2) / 3)


def test_each_range_of_areas_has_its_temperature() -> None:
    """A network that is sure of class 0 whatever is shown, and right only where much is shown."""

    def model(x: torch.Tensor) -> torch.Tensor:
        answer = torch.where(x[:, 0].mean((1, 2)) > 0.5, 3.0, -3.0)
        return torch.stack([answer, -answer], 1)

    inputs = torch.ones(24, 1, SIDE, SIDE)
    calibrate = Calibrate(edges=(0, 0.4, 0.6, 1), perturbations=(Constant(),), count=2)
    found = calibrate(model, [(inputs[:12], torch.zeros(12, dtype=torch.long)), (inputs[12:], None)], "a network")
    ((low, middle, high),) = found.temperatures
    assert low > 10  # always wrong
    assert 0.1 < high < 0.9  # always right: surer, but not certain
    assert high < middle < low
    assert found.pictures == 24
    assert found.model == "a network"
    assert found.errors_before[0] == pytest.approx(1 / (1 + math.exp(-6)), abs=1e-3)
    assert found.errors_after[0] < found.errors_before[0]
    assert found.errors_after[2] < found.errors_before[2]
    assert found.temperature(0.3, Constant()) == low
    assert found.temperature(0.4, Constant()) == low
    assert found.temperature(0.41, Constant()) == middle
    with pytest.raises(ValueError, match="not Blur"):
        found.temperature(0.3, Blur())


def test_a_calibration_is_saved_and_loaded(tmp_path) -> None:
    calibration = Calibration(
        (0, 0.5, 1), (Blur(), Noise()), ((1.5, 1.0), (3.0, 2.0)), 200, (0.4, 0.1), (0.01, 0.02), "net"
    )
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration
    assert calibration.temperature(0.2, Noise(seed=5)) == 3  # the seed of a search
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"is no calibration.*; write one with sfumato calibrate$"):
        Calibration.load(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"is no calibration.*; write one with sfumato calibrate$"):
        Calibration.load(tmp_path / "broken.json")
    with pytest.raises(ValueError, match="holds no areas of survival"):
        Survival.load(tmp_path / "c.json")


def test_the_same_answer_and_its_calibrated_probability() -> None:
    first, second = spots((4, 4), worth=4.0), spots((20, 20), worth=3.0)

    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([first(x)[:, :1], second(x)[:, :1]], 1)

    calibration = Calibration((0, 0.5, 1), (Constant(),), ((2.0, 1.0),), 100)
    mine, other = rectangle(4, 4, 8, 8), rectangle(20, 20, 8, 8)
    plain = certificate(model, mine, claims=(SameAnswer(),)).findings[0]
    assert plain.holds
    assert plain.numbers["probability"] == pytest.approx(float(torch.tensor([4.0, 0.0]).softmax(0)[0]))
    calm = certificate(model, mine, claims=(SameAnswer(calibration),)).findings[0]
    assert calm.numbers["probability"] == pytest.approx(float(torch.tensor([2.0, 0.0]).softmax(0)[0]))
    assert "calibrated probability 88" in calm.sentence
    wrong = certificate(model, other, claims=(SameAnswer(),)).findings[0]
    assert not wrong.holds
    assert "answers class 1, for the whole picture class 0" in wrong.sentence


def test_in_the_game_that_destroys_the_answer_is_to_change() -> None:
    first, second = spots((4, 4), worth=4.0), spots((20, 20), worth=3.0)

    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([first(x)[:, :1], second(x)[:, :1]], 1)

    method = replace(METHOD, game="delete")
    gone = certificate(model, rectangle(4, 4, 8, 8), method=method, claims=(SameAnswer(), Suffices()))
    assert gone["Other answer"].holds
    assert "Without the set the network answers class 1, for the whole picture class 0" in gone["Other answer"].sentence
    assert gone["Decides"].numbers["probability"] == pytest.approx(float(torch.tensor([0.0, 3.0]).softmax(0)[0]))
    left = certificate(model, rectangle(20, 20, 8, 8), method=method, claims=(SameAnswer(),))["Other answer"]
    assert not left.holds


def test_a_network_without_classes_has_no_answer() -> None:
    def model(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"value": x.mean((1, 2, 3))}

    method = replace(METHOD, steps=2)
    target = sfumato.Output(lambda outputs: outputs["value"])
    result = method(model, ones(), target)
    assert not result.whole.requires_grad  # though the outputs did, where memory was measured
    (found,) = sfumato.Certify((SameAnswer(),))(result, model, ones(), target)
    assert found.findings[0].holds is None
    assert "names no class" in found.findings[0].sentence


def answering(x: torch.Tensor) -> torch.Tensor:
    """Class 0 where more than .6 of the spot is shown."""
    return torch.cat([spots((8, 8))(x)[:, :1] - 0.6, torch.zeros(len(x), 1)], 1)


AREAS = (1 / 32, 1 / 16, 1 / 4)


def test_the_area_from_which_an_answer_survives() -> None:
    method = replace(METHOD, areas=AREAS, steps=90)
    found = survival(method, answering, [ones(2), ones(1)])
    assert found.areas == (1 / 16,) * 3
    assert found.area(0.75) == 1 / 16
    assert found.area(0.9) == 1  # three pictures are too few
    claim = Survives(found, 0.75)
    result = method(answering, ones(), 0)
    (held,) = sfumato.Certify((claim,), keep=0.9)(result, answering, ones())
    assert held.findings[0].holds
    assert "With 75 % confidence the network's answer survives on sets of 6.25 %" in held.findings[0].sentence
    (small,) = sfumato.Certify((claim,), keep=0.01)(result, answering, ones())
    assert small.variant == 0
    assert not small.findings[0].holds
    other = replace(method, steps=91)(answering, ones(), 0)
    (unknown,) = sfumato.Certify((claim,))(other, answering, ones())
    assert unknown.findings[0].holds is None


def against(x: torch.Tensor) -> torch.Tensor:
    """One output, below 0 where more than .6 of the spot is shown: the answer for the whole picture is the complement."""
    return 0.6 - spots((8, 8))(x)[:, :1]


@pytest.mark.parametrize("target", [-Logit(0), LogOdds(1), LogOdds((1,))])
def test_the_answer_of_one_output_may_be_its_complement(target) -> None:
    method = replace(METHOD, areas=AREAS, steps=90)
    found = survival(method, against, [ones(2), ones(1)])
    assert found.areas == (1 / 16,) * 3
    result = method(against, ones(), target)
    (held,) = sfumato.Certify((Survives(found, 0.75),), keep=0.9)(result, against, ones(), target)
    assert held.findings[0].holds


def test_what_survives_is_the_answer_of_one_output_and_not_its_other_class() -> None:
    found = Survival((1 / 16,) * 3, replace(METHOD, steps=2), "")
    for net, target in ((against, 0), (answers_yes, -Logit(0)), (answers_yes, LogOdds(1))):
        result = found.method(net, ones(), target)
        (unknown,) = sfumato.Certify((Survives(found, 0.75),))(result, net, ones(), target)
        assert unknown.findings[0].holds is None
        assert "for the network's answer" in unknown.findings[0].sentence
    result = found.method(answers_yes, ones(), 0)
    (known,) = sfumato.Certify((Survives(found, 0.75),))(result, answers_yes, ones(), 0)
    assert known.findings[0].holds is not None


def answers_yes(x: torch.Tensor) -> torch.Tensor:
    return -against(x)


def test_no_area_survives_with_too_few_pictures(tmp_path) -> None:
    found = Survival((0.1, 0.05), METHOD)
    assert found.areas == (0.05, 0.1)
    assert found.area(0.6) == 0.1
    assert found.area(0.7) == 1
    found.save(tmp_path / "s.json")
    assert Survival.load(tmp_path / "s.json") == found
    sentence = certificate(spots((8, 8)), rectangle(8, 8, 8, 8), claims=(Survives(found),)).findings[0].sentence
    assert "there are 2 calibration pictures, and it takes 9 or more" in sentence


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_the_confidence_holds_on_new_pictures(confidence: float) -> None:
    """Split conformal: over many draws of 39 pictures and a new one, the new one is covered as often as promised, and not much
    more often."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(3000, 40, generator=generator, dtype=torch.float64)
    covered = [float(row[-1]) <= Survival(tuple(row[:-1].tolist()), METHOD).area(confidence) for row in draws]
    share = sum(covered) / len(covered)
    assert confidence - 0.02 < share < confidence + 1 / 40 + 0.02


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Calibrate(edges=(0, 0.5)), "edges must grow from 0 to 1"),
        (lambda: Calibrate(perturbations=()), "one or more"),
        (lambda: Calibrate(count=0), "count"),
        (lambda: Calibrate()(spots((8, 8)), []), "needs pictures, a few hundred; got none"),
        (lambda: Calibration((0, 1), (Blur(),), ((1.0, 2.0),), 3), "one number for each range"),
        (lambda: Calibration((0, 1), (Blur(),), ((0.0,),), 3), "what logits are divided by"),
        (lambda: survival(METHOD, spots((8, 8)), []), "needs pictures"),
        (lambda: Survives(Survival((0.1,), METHOD), 90), "confidence is a probability"),
    ],
)
def test_wrong_things_are_refused(wrong, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        wrong()


def test_nothing_is_said_of_survival_with_too_few_pictures() -> None:
    few, enough = (Survives(Survival((1.0,) * count, METHOD)) for count in (8, 9))
    found = certificate(spots((8, 8)), rectangle(8, 8, 8, 8), claims=(few, enough)).findings
    assert found[0].holds is None
    assert "there are 8 calibration pictures, and it takes 9 or more" in found[0].sentence
    assert found[1].holds is False
    assert "On none of the areas does the network's answer survive with 90 % confidence" in found[1].sentence


@pytest.mark.parametrize("confidence", [0.01, 0.5, 2 / 3, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_the_fewest_pictures_of_which_something_can_be_said(confidence: float) -> None:
    least = fewest(confidence)
    assert Survival((0.1,) * least, METHOD).area(confidence) == 0.1
    assert least == 1 or Survival((0.1,) * (least - 1), METHOD).area(confidence) == 1


def test_classes_that_a_network_never_answers_do_not_change_a_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    labels = logits.mul(0.7).softmax(1).multinomial(1, generator=generator)[:, 0]
    never = torch.cat([logits, torch.full((60, 1), -math.inf, dtype=torch.float64)], 1)
    assert best_temperature(never, labels) == pytest.approx(best_temperature(logits, labels))
    assert 0.5 < best_temperature(never, labels) < 5


def test_of_two_minima_the_lower_one_is_the_temperature() -> None:
    """Right answers by tiny logits: the prior holds the temperature near 1, and the answers want it near 0."""
    generator = torch.Generator().manual_seed(0)
    logits = 0.003 * torch.randn(60, 4, generator=generator, dtype=torch.float64)
    labels = logits.argmax(1)

    def loss(temperature: float) -> float:
        chosen = (logits / temperature).log_softmax(1).gather(1, labels[:, None])
        return float(-chosen.sum()) + math.log(temperature) ** 2 / 2

    literal = min((10 ** (number / 500) for number in range(-1000, 1001)), key=loss)
    assert best_temperature(logits, labels) == pytest.approx(literal, rel=0.01)


def test_a_set_at_the_bound_of_a_range_is_in_the_range_below() -> None:
    """A mean in float32 of one place in five is more than 0.2."""
    calibration = Calibration((0, 0.2, 1), (Constant(),), ((2.0, 4.0),), 1)
    inputs = torch.ones(1, 1, 10, 10)
    places = torch.zeros(1, 1, 10, 10)
    places[..., :2, :] = 1

    def model(x: torch.Tensor) -> torch.Tensor:
        value = 5 * x[:, 0, :2].mean((1, 2))
        return torch.stack([value, -value], 1)

    result = result_of(model, places, inputs=inputs)
    (found,) = sfumato.Certify((SameAnswer(calibration),))(result, model, inputs, 0)
    assert found.area == 0.2
    expected = torch.tensor([5.0, -5.0]).div(2).softmax(0)[0]
    assert found.findings[0].numbers["probability"] == pytest.approx(float(expected))


@pytest.mark.parametrize("area", [-0.1, 1.01, math.nan])
def test_there_is_no_temperature_of_what_is_no_area(area: float) -> None:
    with pytest.raises(ValueError, match="area is a share of the picture"):
        Calibration((0, 1), (Blur(),), ((1.0,),), 1).temperature(area, Blur())


def test_probabilities_are_no_labels() -> None:
    with pytest.raises(ValueError, match="labels are numbers of classes; got torch.float32"):
        Calibrate()(spots((8, 8)), [(ones(), torch.tensor([0.9]))])


def test_a_file_of_endless_brackets_is_refused(tmp_path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"is no calibration.*; write one with sfumato calibrate$"):
        Calibration.load(tmp_path / "deep.json")
