"""Estimates of numbers, and how undecided a network is, agree with what the formulas say."""

import math

import pytest
import torch

from sfumato import Entropy, Regression
from sfumato.settings import as_json, from_json

QUERY = torch.tensor([1, 0, 1])
OUTPUTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(8))


def test_an_estimate_is_the_output_itself():
    assert torch.equal(Regression([3, 1])(OUTPUTS, QUERY), OUTPUTS[[0, 1, 2], [1, 3, 1]])
    assert torch.equal(Regression()(OUTPUTS[:, 2], QUERY), OUTPUTS[:, 2])


def test_nearness_is_one_at_the_reference_and_a_half_at_the_scale():
    score = Regression(2, reference=[0.5, -1.0], scale=0.25)
    expected = [1 / (1 + ((y - r) / 0.25) ** 2) for y, r in zip(OUTPUTS[:, 2].tolist(), (-1.0, 0.5, -1.0), strict=True)]
    assert score(OUTPUTS, QUERY).tolist() == pytest.approx(expected, rel=1e-5)
    assert from_json(as_json(score)) == score
    one = Regression(reference=30.0, scale=5.0)
    assert one(torch.tensor([30.0, 35.0, 25.0]), QUERY).tolist() == pytest.approx([1, 0.5, 0.5])
    assert Regression(reference=torch.tensor([1.0, 2.0])).reference == (1.0, 2.0)


def test_entropy_is_that_of_the_softmax():
    expected = []
    for row in OUTPUTS.double().tolist():
        shares = [math.exp(value) / sum(map(math.exp, row)) for value in row]
        expected.append(-sum(share * math.log(share) for share in shares))
    assert Entropy()(OUTPUTS, QUERY).tolist() == pytest.approx(expected, rel=1e-5)
    assert Entropy()(torch.zeros(1, 7), QUERY[:1]).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("outputs", [OUTPUTS, OUTPUTS[:, :1]], ids=["several labels", "one output"])
def test_entropy_of_labels_is_the_sum_of_theirs(outputs):
    score = Entropy("sigmoid" if outputs.shape[1] > 1 else "auto")
    expected = []
    for row in outputs.double().tolist():
        shares = [1 / (1 + math.exp(-value)) for value in row]
        expected.append(-sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in shares))
    assert score(outputs, QUERY).tolist() == pytest.approx(expected, rel=1e-5)
    assert score.resolve(outputs) == from_json(as_json(Entropy("sigmoid")))


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_a_class_that_is_ruled_out_has_no_part_in_it(link):
    certain = torch.tensor([[60.0, -40.0, 3.0]], requires_grad=True)
    ruled_out = torch.tensor([[0.3, -torch.inf, 1.0]], requires_grad=True)
    for outputs in (certain, ruled_out) if link == "softmax" else (certain,):
        value = Entropy(link)(outputs, QUERY[:1])
        (gradient,) = torch.autograd.grad(value.sum(), outputs)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()
    smaller = Entropy("softmax")(ruled_out[:, [0, 2]], QUERY[:1])
    torch.testing.assert_close(Entropy("softmax")(ruled_out, QUERY[:1]), smaller)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_the_slope_of_entropy_is_true(link):
    assert torch.autograd.gradcheck(
        lambda outputs: Entropy(link)(outputs.float(), QUERY).double(),
        OUTPUTS.double().requires_grad_(),
        eps=1e-2,
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Regression(reference="thirty"), "reference is a number in the output's unit"),
        (lambda: Regression(reference=[1.0, math.nan]), "reference is a number in the output's unit"),
        (lambda: Regression(scale=0), "scale is a distance in the output's unit, more than 0"),
        (lambda: Regression(reference=[1.0, 2.0]).check(3), "got 2 references for 3 inputs"),
        (lambda: Regression(4)(OUTPUTS, QUERY), "target 4 is out of range"),
        (lambda: Entropy("relu"), "link must be one of"),
        (lambda: Entropy("softmax")(OUTPUTS[:, :1], QUERY), "over the only output"),
    ],
)
def test_what_is_no_question_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
