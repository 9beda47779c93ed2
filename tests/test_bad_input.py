"""What a user can get wrong, and what the library answers."""

import pytest
import torch
from torch import nn

import sfumato
from sfumato import Blur, Constant, ExtremalPerturbation, Game, Jitter, Logit, Noise, Output, SmoothMask, load
from sfumato.search.penalised import PenalisedAscent
from sfumato.search.projected import ProjectedAscent

METHOD = ExtremalPerturbation(areas=(0.2,), steps=2, perturbation=Blur(3, 3), mask=SmoothMask(step=3, sigma=6))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def pictures(count=2, size=(16, 18)):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def test_the_good_case_is_good():
    assert METHOD(network(), pictures(), 1).masks.shape == (2, 1, 1, 16, 18)


@pytest.mark.parametrize(
    ("areas", "message"),
    [
        (20, r"Did you mean 0\.2 \(20 %\)"),
        ((0.1, 20), r"in \(0, 1\); got 20"),
        ((0.2, 0.1), r"areas must grow.*Did you mean \(0\.1, 0\.2\)"),
        ((0.1, 0.1), r"areas must grow, each named once"),
        ((), "areas are empty"),
        ((0,), r"in \(0, 1\); got 0"),
        (1, r"in \(0, 1\); got 1"),
        ((-0.1,), r"in \(0, 1\); got -0\.1"),
        ((float("nan"),), r"in \(0, 1\); got nan"),
        ((True,), "areas must be numbers"),
        ("0.1", r"areas must be numbers in \(0, 1\); got '0.1'"),
        (None, "areas must be numbers"),
    ],
)
def test_areas(areas, message):
    with pytest.raises(ValueError, match=message):
        ExtremalPerturbation(areas=areas)


def test_an_area_that_no_mask_reaches():
    narrow = ExtremalPerturbation(areas=(0.99,), mask=SmoothMask(step=8, sigma=30, temperature=0.5))
    with pytest.raises(ValueError, match=r"no mask of .* covers more than"):
        narrow(network(), pictures(), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "keep"}, "game must be one of preserve, delete, dual"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": True}, "steps must be a whole number"),
        ({"smooth": -0.1}, "smooth is a fraction"),
        ({"score": "chance"}, "score must be one of logit, probability, log-odds, sigmoid; got 'chance'"),
        ({"evenly": 1}, "evenly is True or False; got 1"),
        ({"memory": 0}, "memory is in GiB"),
        ({"memory": "2"}, "memory is in GiB, more than 0; got '2'"),
        ({"seed": 0.5}, "seed must be a whole number; got 0.5"),
        (
            {"perturbation": "blur"},
            r"perturbation must be a configuration such as Blur\(\), or several, \(Blur\(\), Fade\(\)\); got 'blur'",
        ),
        ({"perturbation": Blur}, "perturbation must be a configuration"),
        ({"mask": "smooth"}, "mask must be a configuration"),
        ({"jitter": True}, r"jitter must be a configuration such as Jitter\(\) or None; got True"),
        ({"ascent": "adam"}, "ascent must be a configuration"),
        (
            {"ascent": PenalisedAscent(), "mask": SmoothMask()},
            "PenalisedAscent cannot search masks of .*mask=CanvasMask()",
        ),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        ExtremalPerturbation(**options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Game(keep=-1, drop=2), "weights must be at least 0"),
        (lambda: Game(keep=1, drop=-2), "weights must be at least 0"),
        (lambda: Game(keep=0, drop=0), "not both 0"),
        (lambda: Blur(max_sigma=0), "max_sigma"),
        (lambda: Blur((0, 0)), r"one of the lengths of max_sigma must be more than 0; got \(0, 0\)"),
        (lambda: Blur((1, -2)), "max_sigma is a length in places for each axis of space.*got -2"),
        (lambda: Blur(levels=1), "levels must be a whole number, at least 2"),
        (lambda: Blur(border="mirror"), "border must be one of reflect, zeros; got 'mirror'"),
        (lambda: Noise(std=0), "std is a standard deviation, more than 0; got 0"),
        (lambda: SmoothMask(step=0), "step is a length"),
        (lambda: SmoothMask(sigma=(3, -1)), "sigma is a length"),
        (lambda: SmoothMask(temperature=0), "temperature is .* more than 0"),
        (lambda: SmoothMask(step="7"), "step is a length in places, or one for each axis, more than 0; got '7'"),
        (lambda: SmoothMask(sigma=(3, None)), "sigma is a length.*got None"),
        (lambda: SmoothMask(sigma=float("inf")), "sigma is a length.*got inf"),
        (lambda: Blur("20"), "max_sigma is a length.*got '20'"),
        (lambda: Constant("red"), "value is a number, or one for each channel; got 'red'"),
        (lambda: Constant((0.1, float("nan"))), "value is a number.*got nan"),
        (lambda: Noise(seed="0"), "seed must be a whole number; got '0'"),
        (lambda: Jitter(shift=-1), "shift is a whole number"),
        (lambda: ProjectedAscent(rate=0), "rate is .* more than 0"),
        (lambda: ProjectedAscent(momentum=1), "momentum is a factor, at least 0 and less than 1; got 1"),
        (lambda: ProjectedAscent(start=1), "start is an area"),
        (lambda: ProjectedAscent(approach=1), "approach is a share"),
        (lambda: ProjectedAscent(rounds=0), "rounds must be a whole number from 1 up; got 0"),
        (lambda: ProjectedAscent(regrowth=0.5), "regrowth is a multiple of the area, at least 1; got 0.5"),
    ],
)
def test_parts(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "target 5 is out of range: the model has 5 outputs"),
        ([0, 7], "target 7 is out of range"),
        (-1, "from 0 up; got -1"),
        ([1, -2], "from 0 up; got -2"),
        ([0, 1, 2], "got 3 targets for 2 inputs"),
        ([], "got 0 targets for 2 inputs"),
        (torch.tensor([0.0, 1.0]), "targets must be integers"),
        (torch.tensor([True, False]), "targets must be integers"),
        (torch.tensor([[0, 1]]), "targets must be integers"),
        (1.0, "a target is a class index"),
        ([1.0, 2.0], "integer class index; got 1.0"),
        (True, "got True"),
        ([True, False], "got True"),
        ("cat", "got 'cat'"),
        (["cat", "dog"], "got 'cat'"),
        (None, "got None"),
    ],
)
def test_targets(target, message):
    with pytest.raises(ValueError, match=message):
        METHOD(network(), pictures(), target)


def spoilt(value):
    x = pictures()
    x[0, 1, 2, 3] = value
    return x


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (spoilt(torch.nan), "NaN or infinity"),
        (
            torch.cat([pictures(), spoilt(torch.nan)]),
            r"1 of \d+ values, in input 2; .*inputs = inputs\.nan_to_num\(0, 0, 0\)",
        ),
        (spoilt(torch.inf), "NaN or infinity"),
        (pictures()[0], r"add the batch axis: inputs\[None\]"),
        (
            pictures().to(torch.uint8),
            r"must be floating-point.*torch\.uint8\. Write inputs\.float\(\) / 255, and then normalise",
        ),
        (pictures().long(), r"got torch\.int64\. Write inputs\.float\(\), and .*classifier\.prepare\(picture\)"),
        ([pictures()[0]] * 2, r"got list\. Write torch\.stack\(inputs\)"),
        (pictures()[0, 0], r"must be a batch \(B, C, \*S\)"),
        (pictures()[:0], "inputs are empty"),
        (torch.zeros(1, 3, 2, 2, 2, 2), "1 to 3 axes of space"),
        (pictures().numpy(), "must be a torch tensor.*ndarray"),
        (pictures(size=(16, 5)), r"16 x 5 places is too small.*mask=SmoothMask\(step="),
    ],
)
def test_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        METHOD(network(), inputs, 1)


def test_a_remedy_of_the_message_is_one():
    """What the messages say to write gives a result."""
    loud = pictures().mul(50).clamp(0, 255).to(torch.uint8)
    assert METHOD(network(), loud.float() / 255, 1).map.shape == (len(loud), 1, *loud.shape[2:])
    assert METHOD(network(), spoilt(torch.nan).nan_to_num(0, 0, 0), 1).map.isfinite().all()
    named = ("tabby, tabby cat", "lynx, catamount", "a", "b", "c")
    target = sfumato.data.labels.find(named, "lynx")
    assert METHOD(network(), pictures(), target).about["score"]["target"] == 1


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("lynx", r"Write targets=sfumato\.data\.labels\.find\(classifier\.labels, 'lynx'\)"),
        (["lynx"], r"Write targets=sfumato\.data\.labels\.find\(classifier\.labels, 'lynx'\)"),
        (None, r"Write e\.g\. targets=281, or targets=model\(inputs\)\.argmax\(1\)"),
        (torch.tensor([1.0]), r"Write targets\.long\(\)"),
    ],
)
def test_a_target_that_is_no_index_gets_the_line_to_write(target, line):
    with pytest.raises(ValueError, match=line):
        METHOD(network(), pictures(), target)


@pytest.mark.parametrize("method", [ExtremalPerturbation, sfumato.GradCAM, sfumato.ExtremalChannels])
def test_no_layer_is_an_empty_name(method):
    with pytest.raises(ValueError, match=r'got None\. Write layer="" or leave it out for the input, or a name of'):
        method(layer=None)


class Returning(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.network, self.kind = network(), kind

    def forward(self, inputs):
        return self.kind(self.network(inputs))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda outputs: (outputs, outputs), r"returns a tuple, not a tensor.*outputs\[0\]\[:, 281\]"),
        (lambda outputs: {"out": outputs}, r"returns a dict with keys 'out'.*outputs\['out'\]"),
        (lambda outputs: {}, "returns a dict"),
        (lambda outputs: None, "returns a NoneType"),
        (lambda outputs: outputs[:, 0], r"shape \(1,\), not \(N, classes\)"),
        (lambda outputs: outputs.detach(), "no gradient with respect to the input"),
        (torch.zeros_like, "no gradient with respect to the input"),
        (lambda outputs: outputs * torch.nan, "score of the whole inputs is not finite"),
    ],
)
def test_models(kind, message):
    with pytest.raises(ValueError, match=message):
        METHOD(Returning(kind), pictures(), 1)


def test_a_model_that_does_not_look_at_its_input():
    parameter = nn.Parameter(torch.ones(1, 5))
    with pytest.raises(ValueError, match="no gradient with respect to the input"):
        METHOD(lambda inputs: parameter.expand(len(inputs), -1) * 2, pictures(), 1)


def test_a_model_under_no_grad():
    model = network()
    with pytest.raises(ValueError, match="no gradient with respect to the input"):
        METHOD(torch.no_grad()(model.forward), pictures(), 1)


def test_a_gradient_that_is_not_finite():
    with pytest.raises(ValueError, match="gradient is not finite"):
        METHOD(lambda inputs: (inputs * 0).abs().sqrt().flatten(1), pictures(), 1)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda outputs: outputs, r"of shape \(1,\); got shape \(1, 5\)"),
        (lambda outputs: outputs.sum(), r"of shape \(1,\); got shape \(\)"),
        (lambda outputs: outputs[:1, 0], r"of shape \(2,\); got shape \(1,\)"),  # right for one input alone
        (lambda outputs: 1.0, r"of shape \(1,\); got float"),
    ],
)
def test_score_functions(function, found):
    for score in (function, Output(function), Output(function) + Logit(0)):
        with pytest.raises(ValueError, match="a tensor " + found):
            METHOD(network(), pictures(), score)


def test_constant_with_a_wrong_number_of_channels():
    method = ExtremalPerturbation(areas=(0.2,), steps=2, perturbation=Constant((0.1, 0.2)), mask=METHOD.mask)
    with pytest.raises(ValueError, match="2 values .* input with 3 channels"):
        method(network(), pictures(), 1)


@pytest.mark.parametrize("mask", [SmoothMask(step=(3, 3, 3)), SmoothMask(step=3, sigma=(6,))])
def test_mask_with_a_wrong_number_of_axes(mask):
    with pytest.raises(ValueError, match="input with 2 axes of space"):
        ExtremalPerturbation(areas=(0.2,), mask=mask)(network(), pictures(), 1)


def test_two_devices():
    with pytest.raises(ValueError, match="parameters on the meta device"):
        METHOD(network().to("meta"), pictures(), 1)


def test_files(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("not tensors at all")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(tmp_path / "text")


def test_models_that_cannot_be_differentiated_or_called():
    with torch.inference_mode():
        made_inside = network()
    with pytest.raises(ValueError, match="made under torch.inference_mode"):
        METHOD(made_inside, pictures(), 1)
    with pytest.raises(ValueError, match="must be an nn.Module or a function of inputs; got 'resnet50'"):
        METHOD("resnet50", pictures(), 1)
    with pytest.raises(ValueError, match="the meta device, which holds no numbers"):
        METHOD(network().to("meta"), pictures().to("meta"), 1)


def test_a_list_of_colours_is_taken():
    assert hash(Constant([0.1, 0.2, 0.3])) == hash(Constant((0.1, 0.2, 0.3)))
