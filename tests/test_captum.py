"""The doors to Captum and Quantus: real runs of theirs on ours and of ours on theirs, with tiny models."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import BY_AXES, Counted
from torch import nn
from traces import assert_unchanged, state

from sfumato import Blur, Contrastive, ExtremalPerturbation, Gradient, Logit, Probability, SmoothMask, load
from sfumato.methods.captum import Captum
from sfumato.methods.compat.captum import attribution
from sfumato.methods.compat.quantus import explain_func
from sfumato.settings import as_json, from_json

METHOD = ExtremalPerturbation(areas=(0.2,), steps=3, perturbation=Blur(3, 3), mask=SmoothMask(step=3, sigma=6))


def pictures(*shape):
    return torch.randn(*(shape or (2, 3, 14, 12)), generator=torch.Generator().manual_seed(0))


def network(axes=2):
    torch.manual_seed(axes)
    convolution, pool = BY_AXES[axes]
    layers = convolution(3, 4, 3), nn.ReLU(), convolution(4, 6, 3), nn.ReLU(), pool(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(6 * 2**axes, 5)).eval()


# Methods with Captum's face.


@pytest.mark.parametrize("shape", [(2, 3, 30), (2, 3, 14, 12), (1, 3, 9, 8, 10)])
@pytest.mark.parametrize("target", [1, [1, 3], torch.tensor([1, 3]), torch.tensor(1), torch.tensor([1]), (1,)])
def test_a_map_for_every_channel(shape, target):
    model, inputs = network(len(shape) - 2), pictures(*shape)
    if len(inputs) == 1 and isinstance(target, list | torch.Tensor):
        target = target[:1] if isinstance(target, list) else target.flatten()[:1]
    plain = {list: lambda t: t, torch.Tensor: lambda t: t if t.numel() > 1 else int(t)}
    ours = plain.get(type(target), lambda t: t[0] if isinstance(t, tuple) else t)(target)
    expected = METHOD(model, inputs, ours).map
    found = attribution(METHOD, model).attribute(inputs, target=target)
    assert found.shape == inputs.shape
    assert found.is_contiguous()
    assert all(torch.equal(found[:, c : c + 1], expected) for c in range(3))
    (single,) = attribution(METHOD, model).attribute((inputs,), target)
    assert torch.equal(single, found)


def test_no_target_and_scores():
    model, inputs = network(), pictures()
    expected = METHOD(model, inputs, 3).map
    for output in (lambda x: model(x)[:, 3], lambda x: model(x)[:, 3:4]):
        found = attribution(METHOD, output).attribute(inputs)
        torch.testing.assert_close(found[:, :1], expected, atol=1e-5, rtol=0)
    assert torch.equal(attribution(METHOD, model).attribute(inputs, Logit(3))[:, :1], expected)
    with pytest.raises(ValueError, match=r"target=None is for models that give one number .* shape \(\d, 5\)"):
        attribution(METHOD, model).attribute(inputs)


def test_targets_in_outputs_with_several_axes():
    model, inputs = network(), pictures()

    def wide(x):
        return torch.stack([model(x), 2 * model(x)], 2)

    expected = METHOD(model, inputs, [1, 4]).map
    found = attribution(METHOD, wide).attribute(inputs, target=[(1, 0), (4, 0)])
    torch.testing.assert_close(found[:, :1], expected, atol=1e-5, rtol=0)
    found = attribution(METHOD, wide).attribute(inputs, target=(4, 0))
    torch.testing.assert_close(found[1:, :1], expected[1:], atol=1e-5, rtol=0)
    for target, message in (
        ((1, 2), "out of range"),
        ((1,) * 3, "index into all axes"),
        ([(1, 0)] * 3, "3 targets for 2 inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            attribution(METHOD, wide).attribute(inputs, target=target)


class Extended(nn.Module):
    """Wants more than its input."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x, scale, name="times"):
        if isinstance(scale, torch.Tensor):
            assert scale.ndim == 0 or len(scale) == len(x)
        scale = scale if not isinstance(scale, torch.Tensor) or scale.ndim == 0 else scale.view(-1, 1, 1, 1)
        return self.network(x * scale if name == "times" else x)


@pytest.mark.parametrize("module", [True, False])
def test_additional_arguments(module):
    model, inputs = Extended(), pictures()
    face = attribution(METHOD, model if module else model.forward)
    alone = [METHOD(lambda x, s=scale: model(x, s), inputs, [1, 2]).map for scale in (1.0, 0.5)]
    for more in (0.5, (0.5,), (0.5, "times"), torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([0.5, 0.5])):
        found = face.attribute(inputs, target=[1, 2], additional_forward_args=more)
        torch.testing.assert_close(found[:, :1], alone[1], atol=1e-5, rtol=0)
    for target in ([1, 2], torch.tensor([1, 2])):
        found = face.attribute(inputs, target=target, additional_forward_args=(torch.tensor([1.0, 0.5]), "times"))
        torch.testing.assert_close(found[:, :1], torch.stack([alone[0][0], alone[1][1]]), atol=1e-5, rtol=0)
    found = face.attribute(inputs, target=2, additional_forward_args=torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(found[1:, :1], alone[1][1:], atol=1e-5, rtol=0)
    assert not model._forward_pre_hooks


def test_bad_inputs():
    face = attribution(METHOD, network())
    with pytest.raises(ValueError, match="one input tensor .* a tuple of 2"):
        face.attribute((pictures(), pictures()), target=1)
    with pytest.raises(ValueError, match="one input tensor .* got str"):
        face.attribute("cat.jpg", target=1)
    with pytest.raises(ValueError, match="out of range"):
        face.attribute(pictures(), target=9)


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("target", [1, [1, 3], torch.tensor([1, 3])])
def test_noise_tunnel(nt_type, target):
    captum = pytest.importorskip("captum.attr")
    model, inputs = network(), pictures()
    tunnel = captum.NoiseTunnel(attribution(METHOD, model))
    torch.manual_seed(0)
    found = tunnel.attribute(inputs, nt_type=nt_type, nt_samples=3, stdevs=0.1, target=target)
    torch.manual_seed(0)
    noisy = inputs.repeat_interleave(3, 0) + torch.normal(0, torch.full((6, 3, 14, 12), 0.1))
    repeated = target if isinstance(target, int) else torch.as_tensor(target).repeat_interleave(3)
    maps = METHOD(model, noisy, repeated).map.unflatten(0, (2, 3))
    combined = {
        "smoothgrad": maps.mean(1),
        "smoothgrad_sq": maps.square().mean(1),
        "vargrad": maps.square().mean(1) - maps.mean(1).square(),
    }
    torch.testing.assert_close(found, combined[nt_type].expand(inputs.shape), atol=1e-5, rtol=0)


def test_noise_tunnel_in_parts_with_additional_arguments():
    captum = pytest.importorskip("captum.attr")
    model, inputs = Extended(), pictures()
    found = captum.NoiseTunnel(attribution(METHOD, model)).attribute(
        inputs, nt_samples=3, nt_samples_batch_size=2, stdevs=1e-6, target=1, additional_forward_args=torch.ones(2)
    )
    expected = METHOD(model.network, inputs, 1).map
    torch.testing.assert_close(found[:, :1], expected, atol=1e-3, rtol=0)


def test_infidelity():
    metrics = pytest.importorskip("captum.metrics")
    model, inputs = network(), pictures()
    maps = attribution(METHOD, model).attribute(inputs, target=1)
    torch.manual_seed(0)
    step = 0.1 * torch.randn(2, 3, 14, 12)

    def perturb(x):
        noise = step.repeat_interleave(len(x) // 2, 0)
        return noise, x - noise

    found = metrics.infidelity(model, perturb, inputs, maps, target=1, n_perturb_samples=4)
    with torch.no_grad():
        change = model(inputs)[:, 1] - model(inputs - step)[:, 1]
    expected = ((maps * step).flatten(1).sum(1) - change).square()
    torch.testing.assert_close(found, expected)


def test_sensitivity_max():
    metrics = pytest.importorskip("captum.metrics")
    model, inputs = network(), pictures()
    face = attribution(METHOD, model)
    near = metrics.sensitivity_max(face.attribute, inputs, target=[1, 2], n_perturb_samples=2, perturb_radius=1e-6)
    far = metrics.sensitivity_max(face.attribute, inputs, target=[1, 2], n_perturb_samples=2, perturb_radius=2.0)
    assert near.shape == far.shape == (2,)
    assert (near < 0.01).all()
    assert (far > 10 * near).all()


# Captum's methods, called as ours.


def gradient(model, inputs, targets):
    x = inputs.clone().requires_grad_()
    scores = model(x)[torch.arange(len(x)), torch.as_tensor(targets).expand(len(x))]
    return torch.autograd.grad(scores.sum(), x)[0]


@pytest.mark.parametrize("shape", [(2, 3, 30), (2, 3, 14, 12), (1, 3, 9, 8, 10)])
@pytest.mark.parametrize("name", ["Saliency", "captum:Saliency", "captum.attr:Saliency", "captum:captum.attr:Saliency"])
def test_saliency_is_the_gradient(shape, name):
    pytest.importorskip("captum")
    model, inputs = network(len(shape) - 2), pictures(*shape)
    targets = [1, 4][: shape[0]]
    slope = gradient(model, inputs, targets)
    result = Captum(name)(model, inputs, targets)
    torch.testing.assert_close(result.map, slope.abs().sum(1, keepdim=True))
    torch.testing.assert_close(result.whole, model(inputs)[torch.arange(len(inputs)), targets])
    assert result.masks is None
    assert not result.map.requires_grad
    signed = Captum(name, arguments={"abs": False})
    torch.testing.assert_close(signed(model, inputs, targets).map, slope.sum(1, keepdim=True))
    reduced = {
        ("absolute", "sum_abs"): slope.abs().sum(1),
        ("largest", "max_abs"): slope.abs().amax(1),
        ("norm",): slope.square().sum(1).sqrt(),
    }
    for names, expected in reduced.items():
        for channels in names:
            torch.testing.assert_close(replace(signed, channels=channels)(model, inputs, targets).map[:, 0], expected)


@pytest.mark.parametrize("reduction", ["mean", "", None, ["sum"]])
def test_both_settings_name_one_table_of_reductions(reduction):
    message = r"{} must be one of max_abs, sum_abs, norm, sum; got "
    with pytest.raises(ValueError, match=message.format("reduction")):
        Gradient(reduction=reduction)
    with pytest.raises(ValueError, match=message.format("channels")):
        Captum(channels=reduction)


def test_scores_are_explained():
    pytest.importorskip("captum")
    model, inputs = network(), pictures()
    method = Captum("Saliency", arguments={"abs": False})
    logits = method(model, inputs, Logit(1) - Logit([2, 3])).map
    torch.testing.assert_close(logits, method(model, inputs, 1).map - method(model, inputs, [2, 3]).map)
    contrastive = method(model.forward, inputs, Contrastive(1, [2, 3])).map
    torch.testing.assert_close(contrastive, logits, atol=1e-6, rtol=1e-4)
    x = inputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).softmax(1)[:, 1].sum(), x)
    torch.testing.assert_close(method(model, inputs, Probability(1)).map, slope.sum(1, keepdim=True))


def test_integrated_gradients_are_complete():
    pytest.importorskip("captum")
    model, inputs = network(), pictures()
    result = Captum(arguments={"n_steps": 60, "internal_batch_size": 8, "baselines": 0.3})(model, inputs, [1, 2])
    base = model(torch.full_like(inputs, 0.3))
    difference = result.whole - torch.stack([base[0, 1], base[1, 2]])
    torch.testing.assert_close(result.map.flatten(1).sum(1), difference, atol=1e-2, rtol=1e-2)


def test_grad_cam_at_a_layer():
    pytest.importorskip("captum")
    model, inputs = network(), pictures()
    result = Captum("LayerGradCam", layer="2")(model, inputs, [1, 4])
    activations = model[:3](inputs).detach().requires_grad_()
    outputs = model[3:](activations)
    (slope,) = torch.autograd.grad(outputs[0, 1] + outputs[1, 4], activations)
    cam = (slope.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True)
    expected = nn.functional.interpolate(cam, (14, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(result.map, expected)


KINDS = {
    "IntegratedGradients": {},
    "InputXGradient": {},
    "DeepLift": {},
    "DeepLiftShap": {},
    "GradientShap": {},
    "GuidedBackprop": {},
    "Deconvolution": {},
    "FeatureAblation": {"perturbations_per_eval": 20, "feature_mask": None},
    "Occlusion": {"sliding_window_shapes": (3, 5, 5), "strides": (3, 3, 3)},
    "ShapleyValueSampling": {"n_samples": 1, "perturbations_per_eval": 64},
    "LayerGradCam": "2",
    "LayerActivation": "2",
    "LayerConductance": "0",
    "LayerGradientXActivation": "2",
    "GuidedGradCam": "2",
}


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks and attributes on non-linear")
@pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime")
@pytest.mark.parametrize("name", KINDS)
def test_many_of_captum_s(name):
    pytest.importorskip("captum")
    more = KINDS[name]
    method = Captum(name, layer=more) if isinstance(more, str) else Captum(name, arguments=more)
    model, inputs = network(), pictures(2, 3, 10, 8)
    before = state(model)
    result = method(model, inputs, [1, 2])
    assert result.map.shape == (2, 1, 10, 8)
    assert torch.isfinite(result.map).all()
    assert result.map.std() > 0
    with torch.inference_mode():
        again = method(model, inputs, torch.tensor([1, 2])).map
    torch.testing.assert_close(again, result.map, atol=1e-5, rtol=1e-4)
    assert_unchanged(before, state(model))
    if name not in ("GradientShap", "DeepLiftShap", "ShapleyValueSampling"):
        torch.testing.assert_close(method(model, inputs[1:], 2).map[0], result.map[1], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Setting")
@pytest.mark.parametrize("name", ["Saliency", "DeepLift", "GuidedBackprop", "LRP", "LayerGradCam", "FeatureAblation"])
@pytest.mark.parametrize("after", [None, 1, 2, 3, 4])
def test_the_model_is_left_as_it_was(name, after):
    pytest.importorskip("captum")
    model, inputs = network(), pictures(2, 3, 8, 7)
    part = Counted(nn.Identity(), KeyboardInterrupt(), after) if after else nn.Identity()
    model = nn.Sequential(*model[:3], part, *model[3:]).train()
    model[0].weight.requires_grad_(False)
    model[0].bias.grad = torch.ones(4)
    model[1].register_forward_hook(lambda *_: None)
    before = state(model)
    method = Captum(name, layer="2" if name.startswith("Layer") else "")
    failed = None
    try:
        method(model, inputs, 1)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        failed = error
    assert_unchanged(before, state(model))
    if after == 1:
        assert isinstance(failed, KeyboardInterrupt)


def test_relevance_and_the_user_s_rules():
    captum = pytest.importorskip("captum.attr")
    rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1)).eval()
    inputs, rule = pictures(), rules.GammaRule()
    model[2].rule = rule
    places = [parameter.data_ptr() for parameter in model.parameters()]
    found = Captum("LRP")(model, inputs, [1, 3]).map
    assert model[2].rule is rule
    assert not hasattr(model[2], "activations")
    assert places == [parameter.data_ptr() for parameter in model.parameters()]
    x = inputs.clone().requires_grad_()
    expected = captum.LRP(model).attribute(x, target=[(1, 0, 0), (3, 0, 0)])
    expected = expected.sum(1, keepdim=True)
    # Relevance is divided by sums of terms of both signs, which magnify the rounding of convolutions.
    torch.testing.assert_close(found, expected, atol=1e-3 * expected.abs().max().item(), rtol=1e-3)


def test_the_seed_decides_what_is_drawn():
    pytest.importorskip("captum")
    model, inputs = network(), pictures(2, 3, 8, 7)
    one = Captum("GradientShap")(model, inputs, 1).map
    np.random.seed(9)  # noqa: NPY002
    torch.manual_seed(9)
    assert torch.equal(Captum("GradientShap")(model, inputs, 1).map, one)
    assert not torch.equal(Captum("GradientShap", seed=1)(model, inputs, 1).map, one)


def test_there_and_back():
    """Captum's Saliency as a method here, with Captum's face, is what it was, summed over channels."""
    captum = pytest.importorskip("captum.attr")
    model, inputs = network(), pictures()
    found = attribution(Captum("Saliency"), model).attribute(inputs, target=[1, 2])
    expected = captum.Saliency(model).attribute(inputs.clone().requires_grad_(), target=[1, 2]).sum(1, keepdim=True)
    torch.testing.assert_close(found, expected.expand(inputs.shape))


@pytest.mark.parametrize(
    "method",
    [
        Captum(),
        Captum("LayerGradCam", layer="layer4"),
        Captum("Occlusion", arguments={"sliding_window_shapes": [3, 5, 5], "strides": (1, 2, 2)}, channels="largest"),
    ],
)
def test_a_method_is_a_value(method, tmp_path):
    assert pickle.loads(pickle.dumps(method)) == method  # noqa: S301
    assert hash(from_json(json.loads(json.dumps(as_json(method))))) == hash(method)
    assert from_json(as_json(method)) == method


def test_a_result_s_file(tmp_path):
    pytest.importorskip("captum")
    result = Captum("Saliency")(network(), pictures(), 1)
    result.save(tmp_path / "saliency.safetensors")
    again = load(tmp_path / "saliency.safetensors")
    assert torch.equal(again.map, result.map)
    assert from_json(again.about["method"]) == Captum("Saliency")


def test_bad_settings():
    for settings, message in (
        ({"name": ""}, "name is that of a class"),
        ({"channels": "mean"}, "channels must be one of max_abs, sum_abs, norm, sum; got 'mean'"),
        ({"arguments": {"baselines": torch.zeros(1)}}, "numbers, strings and tuples of them; got baselines"),
        ({"seed": 1.5}, "seed must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            Captum(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "Integrated"}, "no attribution method 'Integrated' in captum.attr"),
        ({"name": "visualization"}, "no attribution method"),
        ({"name": "LayerGradCam", "layer": "layer4"}, "no layer 'layer4'. Did you mean"),
        ({"name": "LayerGradCam", "layer": "5"}, "choose a layer whose output"),
        ({"name": "LayerActivation", "layer": "6"}, "choose a layer whose output"),
        ({"layer": "2"}, "IntegratedGradients looks into no layer; leave out layer='2'"),
        ({"arguments": {"steps": 4}}, "takes no 'steps'; expected one of .*n_steps"),
        ({"arguments": {"target": 4}}, "'target' is not for arguments"),
        ({"arguments": {"return_convergence_delta": True}}, "gives a tuple of 2, not one map"),
    ],
)
def test_bad_calls(settings, message):
    pytest.importorskip("captum")
    with pytest.raises(ValueError, match=message):
        Captum(**settings)(network(), pictures(), 1)


def test_a_layer_needs_a_module():
    pytest.importorskip("captum")
    with pytest.raises(ValueError, match="names a part of an nn.Module; the model is a method"):
        Captum("LayerGradCam", layer="2")(network().forward, pictures(), 1)


def test_what_is_missing_is_said():
    with pytest.raises(ModuleNotFoundError, match="needs no_such_captum, which is not installed; run: pip install"):
        Captum("no_such_captum.attr:Saliency")(network(), pictures(), 1)


# Quantus.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_explain_func(dtype):
    model, inputs = network(), pictures()
    explain = explain_func(METHOD)
    found = explain(model, inputs.numpy().astype(dtype), np.array([1, 3]))
    assert found.shape == (2, 1, 14, 12)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, METHOD(model, inputs, [1, 3]).map.numpy(), atol=1e-6)
    np.testing.assert_array_equal(
        explain(model=model, inputs=inputs, targets=torch.tensor([1, 3]), device="cpu"), found
    )
    np.testing.assert_allclose(explain(lambda x: model(x.float()), inputs.numpy(), [1, 3]), found, atol=1e-5)
    with pytest.raises(ValueError, match="settings belong to the method, not to explain_func_kwargs; got steps"):
        explain(model, inputs, [1, 3], steps=5)


@pytest.mark.filterwarnings("ignore")
def test_a_metric_of_quantus():
    try:
        import quantus
    except ImportError:
        pytest.skip("quantus is not installed")
    model, inputs = network(), pictures(2, 3, 12, 12).numpy()
    metric = quantus.MaxSensitivity(nr_samples=2, lower_bound=0.1, disable_warnings=True)
    scores = metric(
        model=model, x_batch=inputs, y_batch=np.array([1, 3]), a_batch=None, explain_func=explain_func(METHOD)
    )
    assert len(scores) == 2
    assert np.isfinite(scores).all()
    maps = explain_func(METHOD)(model, inputs, np.array([1, 3]))
    scores = quantus.Sparseness(disable_warnings=True)(
        model=model, x_batch=inputs, y_batch=np.array([1, 3]), a_batch=maps
    )
    assert np.isfinite(scores).all()


def test_a_model_without_gradients_is_told_what_works():
    def model(inputs):
        return inputs.detach().flatten(2).mean(2)

    with pytest.raises(ValueError, match=r"IntegratedGradients needs gradients.*RISE\(\) or Captum\(.Occlusion"):
        Captum("IntegratedGradients")(model, torch.rand(1, 3, 8, 8), 1)
