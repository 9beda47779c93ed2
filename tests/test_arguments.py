"""Models that need more than the input: what else they take comes along with each copy of its input."""

import warnings

import pytest
import torch
from torch import nn

import sfumato
from sfumato import (
    RISE,
    Blur,
    Captum,
    ExtremalChannels,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    GridMask,
    GuidedBackprop,
    MeaningfulPerturbation,
    Shared,
    SmoothMask,
    WithArguments,
    activations,
    invert,
    smallest,
)

MASK = SmoothMask(step=3, sigma=6)
METHODS = {
    "extremal": ExtremalPerturbation(areas=(0.2, 0.5), steps=3, perturbation=Blur(3, 3), mask=MASK),
    "at a layer": ExtremalPerturbation(areas=(0.2, 0.5), steps=3, layer="first", mask=MASK),
    "above": ExtremalPerturbation(areas=(0.2, 0.5), steps=3, layer="second", mask=MASK),
    "channels": ExtremalChannels(layer="first", counts=(1, 2), steps=3),
    "meaningful": MeaningfulPerturbation(steps=3, mask=GridMask(scale=3)),
    "rise": RISE(samples=40, cells=4),
    "gradient": Gradient(),
    "grad-cam": GradCAM(layer="first"),
}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


class Patient(nn.Module):
    """A picture, an age, a table of sexes by name, and a matrix that is the same for all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, picture, age, mixing, more=None):
        values = torch.tanh(self.first(picture)) * age.view(-1, 1, 1, 1)
        values = torch.relu(self.second(values)).mean((2, 3)) @ mixing
        return self.head(values * more["sex"][:, None])


AGES, SEXES, MIXING = torch.tensor([0.5, 2.0, -1.0]), torch.tensor([1.0, -1.0, 2.0]), torch.eye(4).flip(0) + 0.5


def pictures():
    return torch.randn(3, 1, 14, 12, generator=torch.Generator().manual_seed(0))


def together(rows=slice(None)):
    return WithArguments(Patient().eval(), AGES[rows], Shared(MIXING), more={"sex": SEXES[rows]})


@every
def test_each_query_has_its_own_arguments(method):
    """As if each were explained alone, by a model that knows its arguments."""
    result = method(together(), pictures(), [1, 2, 3])
    for row in range(3):
        alone = method(together(slice(row, row + 1)), pictures()[row : row + 1], row + 1)
        torch.testing.assert_close(result.map[row : row + 1], alone.map, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(result.whole[row : row + 1], alone.whole)
        if result.scores is not None:
            torch.testing.assert_close(result.scores[row : row + 1], alone.scores, atol=1e-4, rtol=1e-3)


def test_a_model_is_told_which_input_a_row_was_made_from():
    seen = []

    def model(inputs, query):
        seen.append((inputs, query))
        return torch.stack([inputs.flatten(1).mean(1), query.float()], 1)

    x = torch.zeros(3, 1, 14, 12) + torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    RISE(samples=40, cells=4)(WithArguments(model, torch.arange(3)), x, 0)
    assert len(seen) > 3
    for inputs, query in seen[2:]:
        # A copy shows its input's value, or nothing.
        assert torch.equal(inputs.flatten(1).amax(1).round(), (query + 1.0) * (inputs.flatten(1).amax(1) > 0))


def test_smallest_areas_activations_and_captum():
    x = pictures()
    found = smallest(METHODS["extremal"], together(), x, lambda outputs: outputs.square().sum(1), keep=0.5)
    alone = smallest(
        METHODS["extremal"], together(slice(1, 2)), x[1:2], lambda outputs: outputs.square().sum(1), keep=0.5
    )
    torch.testing.assert_close(found.area[1:2], alone.area)
    net = Patient().eval()
    torch.testing.assert_close(
        activations(together(), "second", x), net.second(torch.tanh(net.first(x)) * AGES.view(-1, 1, 1, 1)).detach()
    )
    pytest.importorskip("captum")
    result = Captum("InputXGradient")(together(), x, 1)
    alone = Captum("InputXGradient")(together(slice(2, 3)), x[2:], 1)
    torch.testing.assert_close(result.map[2:], alone.map)


def test_an_inversion_gives_the_arguments_of_its_one_example_to_every_picture():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Conv2d(2, 4, 3)

        def forward(self, picture, age):
            return self.first(torch.cat([picture, age.view(-1, 1, 1, 1).expand(-1, 1, *picture.shape[2:])], 1))

    targets = activations(WithArguments(Joined().eval(), AGES[:1].expand(2)), "first", pictures()[:2])
    settings = {"shape": (1, 14, 12), "mean": None, "std": None, "steps": 3}
    model = WithArguments(Joined().eval(), AGES[:1])
    both = invert(model, "first", targets, **settings)
    alone = invert(model, "first", targets[1:], **settings)
    # Convolutions of other numbers of rows may round otherwise.
    torch.testing.assert_close(both.pictures[1:], alone.pictures, atol=1e-4, rtol=1e-4)


def test_captum_s_additional_arguments_go_with_their_inputs():
    x = pictures()

    class Positional(Patient):
        def forward(self, picture, age, mixing, sex):
            return super().forward(picture, age, mixing, {"sex": sex})

    face = sfumato.captum.attribution(Gradient(), Positional().eval())
    found = face.attribute(x, target=1, additional_forward_args=(AGES, MIXING, SEXES[:1]))
    more = WithArguments(Patient().eval(), AGES, Shared(MIXING), more={"sex": SEXES[:1].expand(3)})
    torch.testing.assert_close(found, Gradient()(more, x, 1).map.expand_as(x))


def test_arguments_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"one row for each of the 3 inputs; got a tensor of shape \(4, 4\): give Shared"
    ):
        Gradient()(WithArguments(Patient(), AGES, MIXING, more={"sex": SEXES}), pictures(), 1)
    with pytest.raises(ValueError, match=r"one row for each of the 3 inputs; got a tensor of shape \(2,\)"):
        activations(WithArguments(Patient(), AGES[:2], Shared(MIXING), more={"sex": SEXES}), "first", pictures())
    with pytest.raises(ValueError, match=r"one row for each of the 3 inputs; got a tensor of shape \(\)"):
        Gradient()(WithArguments(Patient(), torch.tensor(1.0), Shared(MIXING)), pictures(), 1)


def test_arguments_of_other_kinds():
    """Arrays are rows, numbers in a list are asked about, and nothing is given twice."""
    x = pictures()
    arrays = WithArguments(Patient().eval(), AGES.numpy(), Shared(MIXING), more={"sex": SEXES.numpy()})
    torch.testing.assert_close(Gradient()(arrays, x, 1).map, Gradient()(together(), x, 1).map)
    with pytest.raises(ValueError, match=r"got \[0.5, 2.0, -1.0\]: give torch.tensor"):
        Gradient()(WithArguments(Patient(), AGES.tolist(), Shared(MIXING), more={"sex": SEXES}), x, 1)
    with pytest.raises(ValueError, match="give all of them at once"):
        WithArguments(together(), AGES)


def test_rules_look_at_the_model_that_has_arguments():
    class Scripted(nn.Module):
        def forward(self, picture, age):
            return torch.relu(picture).flatten(1) * age[:, None]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit as a whole
        net = torch.jit.script(Scripted())
    with pytest.raises(ValueError, match="compiled by torch.jit"):
        GuidedBackprop()(WithArguments(net, AGES), pictures(), 1)


def test_the_model_with_its_arguments_is_left_as_it_was():
    model = together()
    model.model.train()
    METHODS["at a layer"](model, pictures(), 1)
    assert all(module.training for module in model.model.modules())
    assert all(parameter.requires_grad for parameter in model.model.parameters())
    assert torch.equal(model.arguments[0], AGES)
