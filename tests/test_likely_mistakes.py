"""Inputs and models that are nearly right: each is answered in one sentence that says what to write."""

import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import sfumato
from sfumato.model.inputs import warn_of_training

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


def maps(*more):
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), *more).eval()


@pytest.mark.parametrize(
    ("net", "targets"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)),
            sfumato.Probability(0),
        ),
        (network(nn.Softmax(1)), sfumato.Entropy()),
        (network(nn.Softmax(1)), sfumato.Probability(0) - sfumato.Probability(1)),
        (maps(nn.Softmax(1)), sfumato.Region(sfumato.Probability(1), torch.ones(16, 16, dtype=torch.bool))),
    ],
    ids=["two classes", "entropy", "sum", "maps"],
)
def test_a_softmax_is_noticed_for_two_classes_maps_and_all_scores(net, targets):
    with pytest.warns(UserWarning, match="the score takes a softmax of them again"):
        sfumato.RISE(samples=4)(net, INPUTS, targets)


def test_a_softmax_over_places_is_no_softmax_of_classes():
    sfumato.Gradient()(maps(nn.Softmax(2)), INPUTS, sfumato.Probability(1))


class Ranks(nn.Module):
    """The numbers of classes, from the largest down."""

    def __init__(self, ranked):
        super().__init__()
        self.net, self.ranked = nn.Sequential(nn.Conv2d(3, 9, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), ranked

    def forward(self, inputs):
        return self.ranked(self.net(inputs))


RANKED = {
    "sort": lambda values: values.sort(1, descending=True).values,
    "topk": lambda values: values.topk(3).values,
    "black box": lambda values: torch.from_numpy(-np.sort(-values.detach().numpy(), 1)),
}


@pytest.mark.parametrize("name", RANKED)
def test_outputs_that_are_sorted_name_no_classes(name):
    net = Ranks(RANKED[name])
    with pytest.warns(UserWarning, match="sorted by their size, so that an index names no class but a rank"):
        sfumato.RISE(samples=4)(sfumato.BlackBox(net.eval()) if name == "black box" else net, INPUTS, 1)
    sfumato.RISE(samples=4)(
        net, INPUTS, lambda outputs: outputs[:, 0]
    )  # the largest, whichever it is, may be asked for


def test_a_function_of_a_network_in_training_mode_is_noticed():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def called(inputs):
        return net(inputs)

    for function in (called, partial(torch.func.functional_call, net, {}), net.forward):
        with pytest.warns(UserWarning, match="calls a Sequential in training mode, whose batch normalisation mixes"):
            warn_of_training(function)
    with pytest.warns(UserWarning, match=r"write net\.eval\(\) first"):
        sfumato.Gradient()(called, INPUTS, 0)
    with pytest.warns(UserWarning, match=r"write net\.eval\(\) first"):
        sfumato.BlackBox(called)
    sfumato.Gradient()(net, INPUTS, 0)  # itself it is explained in evaluation mode
    net.eval()
    sfumato.Gradient()(called, INPUTS, 0)


crowd = nn.Sequential(nn.BatchNorm2d(3))
holder = SimpleNamespace(crowd=torch.neg)


def test_an_attribute_is_not_taken_for_a_network_of_the_same_name():
    warn_of_training(lambda inputs: 2 * holder.crowd(inputs))
    with pytest.warns(UserWarning, match="calls a Sequential in training mode"):
        warn_of_training(lambda inputs: 2 * crowd(inputs))


def test_a_model_that_counts_its_calls_is_noticed():
    class Counter(nn.Module):
        calls = 0

        def forward(self, inputs):
            self.calls += 1
            return inputs.mean((2, 3)) + self.calls

    with pytest.warns(UserWarning, match="other outputs for the same input and the same random numbers"):
        sfumato.RISE(samples=4)(Counter(), INPUTS, 0)
    dropout = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    sfumato.RISE(samples=4)(lambda inputs: nn.functional.dropout(dropout(inputs)), INPUTS, 0)


def test_a_spectrogram_with_the_time_first_is_noticed():
    """As `ASTFeatureExtractor` gives it; a mask would be one over its frequencies."""

    def net(spectrograms):
        return spectrograms.flatten(1)[:, :3]

    with pytest.warns(
        UserWarning, match=r"64 channels and 32 places, and a mask hides all channels .* write inputs\.mT"
    ):
        sfumato.Gradient()(net, torch.rand(1, 64, 32), 0)
    for usual in (torch.rand(1, 2, 400), torch.rand(1, 12, 8), torch.rand(1, 32, 64), torch.rand(1, 1, 32, 64)):
        sfumato.Gradient()(net, usual, 0)
