"""Inputs and models that are nearly right: each is answered in one sentence that says what to write."""

import warnings

import pytest
import torch
from torch import nn

import sfumato

INPUTS = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
METHODS = (sfumato.Gradient(), sfumato.ExtremalPerturbation(areas=(0.3,), steps=2), sfumato.RISE(samples=4))


def network(*end):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), *end).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("inputs", "remedy"),
    [
        (INPUTS.half(), r"fails on inputs of torch\.float16; write inputs\.float\(\)"),
        (INPUTS.double(), r"fails on inputs of torch\.float64; write inputs\.float\(\)"),
        (INPUTS.permute(0, 2, 3, 1), r"shape \(1, 16, 16, 3\); .* write inputs\.permute\(0, 3, 1, 2\)"),
        (INPUTS[:, :2], r"fails on inputs of shape \(1, 2, 16, 16\): "),
    ],
    ids=["half", "double", "channels last", "two channels"],
)
def test_inputs_of_another_type_or_order(method, inputs, remedy):
    with pytest.raises(ValueError, match=remedy) as error:
        method(network(), inputs, 0)
    assert len(str(error.value)) < 400


def test_values_as_in_a_file_are_noticed():
    with pytest.warns(UserWarning, match=r"inputs have values from .* as pictures of 8 bits; .* inputs / 255"):
        sfumato.Gradient()(network(), 255 * INPUTS, 0)
    for usual in (INPUTS, 255 * INPUTS - 128, 3000 * INPUTS):
        sfumato.Gradient()(network(), usual, 0)  # a warning is an error here


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (sfumato.Gradient(), "the score is one of them, not a logit: leave the softmax out"),
        (sfumato.Gradient(score="probability"), "the score takes a softmax of them again"),
        (sfumato.RISE(samples=4), "the score takes a softmax of them again"),
        (sfumato.Gradient(score="log-odds"), "the score takes a softmax of them again"),
    ],
)
def test_a_softmax_in_the_model_is_noticed(method, words):
    with pytest.warns(UserWarning, match=f"outputs are probabilities already, as each row sums to 1, and {words}"):
        method(network(nn.Softmax(1)), INPUTS, 0)
    method(network(), INPUTS, 0)


def test_a_function_of_probabilities_may_mean_them():
    net = network(nn.Softmax(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sfumato.RISE(samples=4, score="logit")(sfumato.BlackBox(net), INPUTS, 0)
        sfumato.Gradient()(net, INPUTS, sfumato.Sigmoid(0))
