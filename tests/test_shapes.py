"""Long, short and uneven inputs: what the lengths are that are not said, and what they cost."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sfumato
from sfumato import (
    RISE,
    Blur,
    EvolutionAscent,
    ExtremalChannels,
    ExtremalPerturbation,
    Fade,
    GridMask,
    Jitter,
    LevelSet,
    MeaningfulPerturbation,
    Noise,
    SmoothMask,
)
from sfumato.masks.smooth import SmoothMaxConvolution, _floor, _Slices, _weighed, _Windows, _within_reach, kernel
from sfumato.search import ProjectedAscent
from sfumato.settings import as_json, from_json
from sfumato.space.smoothing import Interpolation, cubic_spline, gaussian_blur, scales


def smooth_max(values, temperature, dim):
    """The smooth maximum of values that all count, as the lattice computes it in each of its windows."""
    weights, _ = _weighed(values, temperature, dim)
    return (values * weights).sum(dim) / weights.sum(dim).clamp(min=_floor(temperature))


SHAPES = [
    (24,),
    (16, 13),
    (28, 28),
    (8, 112, 112),
    (16, 112, 112),
    (48, 48, 48),
    (480_000,),
    (5,),
    (1, 3000),
    (80, 3000),
]
LARGEST = 64
"""MiB of the largest tensor: half a million places, several masks and channels."""


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(shape, channels=1):
    """A model that weighs all places, and its inputs."""
    weights = random(channels, *shape, seed=1)

    def model(seen):
        score = (seen * weights).flatten(1).sum(1) / math.prod(shape) ** 0.5
        return torch.stack([score, -score], 1)

    return model, random(1, channels, *shape)


class Largest(TorchDispatchMode):
    """How large the largest tensor is that any operation makes, in MiB."""

    def __init__(self):
        super().__init__()
        self.size = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.size = max(self.size, value.untyped_storage().nbytes() / 2**20)
        return result


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "method",
    [ExtremalPerturbation(areas=(0.2,), steps=1), MeaningfulPerturbation(steps=2, start="ones"), RISE(samples=8)],
    ids=lambda method: type(method).__name__,
)
def test_every_shape_is_served(method, shape):
    model, inputs = linear(shape)
    with Largest() as largest:
        result = method(model, inputs, 0)
    assert largest.size <= LARGEST
    assert result.map.shape == (1, 1, *shape)
    assert torch.isfinite(result.map).all()
    if isinstance(method, ExtremalPerturbation):
        assert result.achieved.item() == pytest.approx(0.2, abs=4e-3 + 0.5 / math.prod(shape))  # of whole places


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        (ExtremalPerturbation(areas=(0.2,), steps=1, mask=SmoothMask(step=7, sigma=16)), (480_000,)),
        (ExtremalPerturbation(areas=(0.2,), steps=1, mask=SmoothMask(step=2, sigma=3)), (8, 112, 112)),
        (MeaningfulPerturbation(steps=1, mask=GridMask(scale=8, sigma=5), start="ones"), (120_000,)),
    ],
    ids=["sound", "clip", "grid"],
)
def test_fine_masks_of_long_inputs(method, shape):
    """Their matrices, places times nodes, would be 130 GB for the sound."""
    model, inputs = linear(shape)
    with Largest() as largest:
        method(model, inputs, 0)
    assert largest.size <= LARGEST


@pytest.mark.slow
def test_two_gigabytes_are_enough():
    """All the memory that a process ever had, with torch's own, about 0.3 GB."""
    program = """
import resource, torch
from sfumato import ExtremalPerturbation
for shape in ((480_000,), (96, 96, 96)):
    model = lambda seen: seen.flatten(1)[:, ::1000]
    ExtremalPerturbation(areas=(0.1, 0.2), steps=1)(model, torch.rand(1, 1, *shape), 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 2


@pytest.mark.parametrize(
    ("shape", "step"),
    [
        ((224, 224), (7, 7)),
        ((224, 300), (7, 7)),
        ((448, 224), (7, 7)),
        ((227, 227), (7, 7)),
        ((320, 320), (7, 7)),
        ((896, 896), (14, 14)),
        ((28, 28), (0.875, 0.875)),
        ((16, 13), (0.5, 0.5)),
        ((80, 3000), (2.5, 46.875)),
        ((16, 112, 112), (1, 7, 7)),
        ((8, 112, 112), (0.5, 7, 7)),
        ((96, 96, 96), (6, 6, 6)),
        ((480_000,), (937.5,)),
        ((1, 256), (0.5, 1)),
        ((24,), (0.5,)),
    ],
    ids=str,
)
def test_lengths_from_the_shape(shape, step):
    mask = SmoothMask().for_shape(shape)
    assert mask.step == pytest.approx(step)
    assert mask.sigma == pytest.approx([16 / 7 * length for length in step])
    assert mask.for_shape((3, 3, 3)) == mask  # said once, they stay


def test_at_224_nothing_is_new():
    shape = (224, 224)
    assert SmoothMask().for_shape(shape) == SmoothMask(step=(7, 7), sigma=(16, 16))
    assert GridMask().for_shape(shape) == GridMask(scale=(8, 8), sigma=(5, 5))
    assert Jitter().for_shape(shape) == Jitter(shift=(4, 4))
    assert RISE().counts(shape) == (7, 7)
    lattice, said = SmoothMask().on(shape), SmoothMask(step=7, sigma=16).on(shape)
    parameters = uniform(2, 1, *lattice.size)
    torch.testing.assert_close(lattice(parameters), said(parameters))
    moves, before = Jitter().for_shape(shape).moves(2, seeded(3)), Jitter(shift=4).moves(2, seeded(3))
    assert [next(moves) for _ in range(20)] == [next(before) for _ in range(20)]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_what_is_left_out_follows_what_is_said():
    assert SmoothMask(step=14).for_shape((100, 100)).sigma == (32, 32)
    assert SmoothMask(sigma=8).for_shape((224, 224)) == SmoothMask(step=(7, 7), sigma=(8, 8))
    assert GridMask(scale=16).for_shape((100,)).sigma == (10,)
    assert Jitter(shift=(1, 2)).for_shape((100, 100)) == Jitter(shift=(1, 2))
    with pytest.raises(ValueError, match="not set; write SmoothMask"):
        SmoothMask().divided((2, 2))


@pytest.mark.parametrize("shape", [(512,), (224, 224), (96, 96, 96)], ids=str)
def test_one_seed_covers_as_much_for_any_number_of_axes(shape):
    lattice = SmoothMask().on(shape)
    seed = torch.zeros(1, 1, *lattice.size)
    seed[(..., *[length // 2 for length in lattice.size])] = 1
    assert 0.013 < lattice(seed).mean().item() < 0.03  # about `Lattice.finest`


def test_scales_commute_with_transposing():
    shape = (16, 112, 200)
    assert scales((200, 16, 112)) == tuple(scales(shape)[axis] for axis in (2, 0, 1))


def test_jitter_moves_a_share_of_each_axis():
    moves = Jitter(flip=False).for_shape((8, 112, 112)).moves(3, seeded(0))
    shifts = [next(moves).shift for _ in range(400)][1::2]
    for axis, limit in enumerate((1, 4, 4)):
        assert {shift[axis] for shift in shifts} == set(range(-limit, limit + 1))


@pytest.mark.parametrize("shape", [(16, 5), (8, 112, 112), (10,)], ids=str)
@pytest.mark.parametrize("family", [SmoothMask(step=7, sigma=16), GridMask(scale=6, sigma=5)])
def test_the_advice_of_the_error_is_one_that_works(family, shape):
    with pytest.raises(ValueError, match="too small for a mask") as raised:
        family.on(shape)
    advice = re.search(r"mask=((SmoothMask|GridMask)\(.*\))$", str(raised.value))
    mask = eval(advice[1], {"SmoothMask": SmoothMask, "GridMask": GridMask})  # noqa: S307
    assert len(mask.sigma) == len(shape)
    assert mask.on(shape)(torch.ones(1, 1, *mask.on(shape).size)).shape == (1, 1, *shape)


def test_a_result_says_which_lengths_it_was_made_with():
    model, inputs = linear((16, 32, 32))
    about = ExtremalPerturbation(areas=(0.2,), steps=1)(model, inputs, 0).about
    assert json.loads(json.dumps(about["method"]["mask"]))["step"] is None  # the method as it was given
    assert from_json(about["mask"]) == LevelSet().for_shape((16, 32, 32))
    assert from_json(about["jitter"]) == Jitter(shift=(1, 1, 1))
    about = MeaningfulPerturbation(steps=1)(model, inputs, 0).about
    assert from_json(about["mask"]) == GridMask().for_shape((16, 32, 32))
    assert RISE(samples=4)(model, inputs, 0).about["cells"] == [4, 4, 4]


def test_settings_that_were_saved_before_are_read():
    saved = {"class": "sfumato.masks.smooth:SmoothMask", "step": 7, "sigma": 16, "temperature": 20}
    assert from_json(saved) == SmoothMask(step=7, sigma=16)
    for value in (SmoothMask(), GridMask(), Jitter(), Jitter((1, 2)), EvolutionAscent(), Noise(), Noise(seed=4)):
        assert from_json(json.loads(json.dumps(as_json(value)))) == value


@pytest.mark.parametrize(("length", "step"), [(5000, 3), (4097, 6.3), (900, 0.5), (50, 3)])
def test_a_band_is_the_whole_matrix(length, step):
    count = math.ceil((length - 1) / step) + 3
    start = (count - 1) / 2 - (length - 1) / (2 * step)
    band = Interpolation(length, count, start, 1 / step, 2, cubic_spline, dtype=torch.float64)
    position = start + torch.arange(length, dtype=torch.float64) / step
    matrix = cubic_spline(position[:, None] - torch.arange(count))
    values = uniform(2, 3, count, dtype=torch.float64).requires_grad_()
    places = band(values, 2)
    torch.testing.assert_close(places, values @ matrix.T)
    torch.testing.assert_close(band.share, matrix.mean(0))
    (gradient,) = torch.autograd.grad((places * torch.linspace(0, 1, length, dtype=torch.float64)).sum(), values)
    expected = matrix.T @ torch.linspace(0, 1, length, dtype=torch.float64)
    torch.testing.assert_close(gradient, expected.expand_as(gradient))


@pytest.mark.parametrize(("length", "scale", "sigma"), [(3000, 8, 5), (2500, 7.3, 0), (40, 8, 30), (3, 1, 5)])
def test_grids_interpolate_then_blur(length, scale, sigma):
    grid = GridMask(scale=scale, sigma=sigma).on((length,), dtype=torch.float64)
    values = uniform(2, 1, *grid.size, dtype=torch.float64)
    linear_ = torch.nn.functional.interpolate(values, length, mode="linear", align_corners=False)
    torch.testing.assert_close(grid(values), gaussian_blur(linear_, sigma), atol=1e-9, rtol=0)


LIMIT = 1e-6
"""Below this temperature the smooth maximum is its limit, which differs by as much."""

TEMPERATURES = [1e-12, 1e-3, 1, 20, 59, 61, 88, 89, 1e3, 1e4]


def literal(values, temperature):
    """sum f w / sum w with w = exp(T f) - 1, all divided by exp(T max f); and its derivative by f."""
    top = values.max()
    weights = np.exp(temperature * (values - top)) * -np.expm1(-temperature * values)
    result = (values * weights).sum() / weights.sum()
    slope = weights + temperature * (values - result) * np.exp(temperature * (values - top))
    return result, slope / weights.sum()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_any_temperature(temperature):
    values = uniform(9, 40, dtype=torch.float64)
    values[:, 30:] = 0
    values[8] *= 1e-3
    expected = [literal(row.numpy(), temperature)[0] for row in values]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        leaf = values.to(dtype).requires_grad_()
        result = smooth_max(leaf, temperature, 1)
        np.testing.assert_allclose(result.detach(), expected, rtol=max(tolerance, LIMIT))
        (gradient,) = torch.autograd.grad(result.sum(), leaf)
        assert torch.isfinite(gradient).all()
    assert smooth_max(torch.zeros(3, 4), temperature, 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", [(31,), (11, 14), (7, 6, 9)])
def test_windows_and_slices_are_the_formula(temperature, shape):
    """At every node the literal formula over the seeds in reach, and its derivative, in float64."""
    size = shape
    offsets, kernels = _within_reach([3] * len(size), [0.9, 0.7, 0.8][: len(size)])
    parameters = uniform(2, math.prod(size), seed=3, dtype=torch.float64)
    parameters *= parameters > 0.3
    nodes = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, len(size))
    weights = uniform(2, math.prod(size), seed=4, dtype=torch.float64)
    expected, slopes = np.zeros((2, len(nodes))), np.zeros((2, len(nodes)))
    for u, place in enumerate(nodes):
        away = (((nodes - place) * [0.9, 0.7, 0.8][: len(size)]) ** 2).sum(1) ** 0.5
        strength = kernel(torch.from_numpy(away)).numpy()
        strength[(away > 0.5 + math.sqrt(math.log(255) / 2)) | (np.abs(nodes - place).max(1) > 3)] = 0
        for row in range(2):
            seen = strength * parameters[row].numpy()
            if seen.any():
                expected[row, u], slope = literal(seen, temperature)
                slopes[row] += weights[row, u].item() * slope * strength
    for windows in (_Windows, _Slices):
        leaf = parameters.clone().requires_grad_()
        result = SmoothMaxConvolution.apply(leaf, windows(size, [3] * len(size), offsets, kernels), temperature)
        np.testing.assert_allclose(result.detach(), expected, rtol=LIMIT)
        (gradient,) = torch.autograd.grad((result * weights).sum(), leaf)
        np.testing.assert_allclose(gradient, slopes, atol=1e-6 * max(1, np.abs(slopes).max()))


def test_large_lattices_are_summed_by_slices():
    lattice = SmoothMask(step=2, sigma=5).on((40, 40, 40))
    assert isinstance(lattice._windows, _Slices)
    assert isinstance(SmoothMask().on((224, 224))._windows, _Windows)
    with Largest() as largest:
        leaf = uniform(3, 1, *lattice.size).requires_grad_()
        torch.autograd.grad(lattice(leaf).sum(), leaf)
    assert largest.size < 4  # tables of its 8 million pairs would be 63 MiB each


@pytest.mark.parametrize("temperature", [1e-9, 89, 1e4])
def test_methods_at_any_temperature(temperature):
    model, inputs = linear((32, 32), 3)
    method = ExtremalPerturbation(areas=(0.2,), steps=4, mask=SmoothMask(4, 8, temperature), perturbation=Fade())
    result = method(model, inputs, 0)
    assert torch.isfinite(result.masks).all()
    if temperature > 1:  # below, no mask is steep enough for one fifth
        assert result.achieved.item() == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("sigma", [1e-320, 1e-6, 1e300])
def test_kernels_of_any_width(sigma):
    """Of no reach, each node is its own seed; of endless reach, all nodes see all seeds alike."""
    lattice = SmoothMask(step=4, sigma=sigma).on((20, 24))
    parameters = uniform(1, 1, *lattice.size)
    nodes = lattice.nodes(parameters)
    if sigma < 1:
        torch.testing.assert_close(nodes, parameters)
    else:
        torch.testing.assert_close(nodes, smooth_max(parameters.flatten(2), 20, 2)[..., None, None].expand_as(nodes))


MODEL, INPUTS = linear((20, 16), 3)
EVOLUTION = ExtremalPerturbation(
    areas=(0.2,), steps=4, mask=SmoothMask(3, 6), perturbation=Fade(), ascent=EvolutionAscent(pairs=2), jitter=None
)


@pytest.mark.parametrize(
    "method",
    [
        EVOLUTION,
        replace(EVOLUTION, ascent=ProjectedAscent(), perturbation=Noise(0.5)),
        MeaningfulPerturbation(steps=3, perturbation=(Blur(3, 2), Noise(0.5)), jitter=0, start="ones"),
        RISE(samples=32, cells=4),
        ExtremalChannels("input", counts=(1, 2), steps=2, perturbation=Noise(0.5), ascent=EvolutionAscent(pairs=2)),
    ],
    ids=["evolution", "noise", "meaningful", "rise", "channels"],
)
def test_one_seed_of_all_that_is_random(method):
    """Two seeds differ, one does not, in any batch, whatever the global state is."""
    inputs = random(3, 3, 20, 16, seed=5)
    torch.manual_seed(0)
    one = method(MODEL, inputs, 0)
    torch.manual_seed(1)
    again, other = method(MODEL, inputs, 0), replace(method, seed=123)(MODEL, inputs, 0)
    fields = [name for name in ("map", "masks", "blank") if getattr(one, name) is not None]
    for name in fields:
        assert torch.equal(getattr(one, name), getattr(again, name))
    assert any(not torch.allclose(getattr(one, name), getattr(other, name), atol=1e-3) for name in fields)
    alone = method(MODEL, inputs[1:2], 0)
    for name in fields:
        # Values of float32; four steps apart, and no more than a few rounding errors.
        torch.testing.assert_close(getattr(alone, name), getattr(one, name)[1:2], atol=1e-3, rtol=1e-3)


def test_a_seed_that_is_named_stays():
    hidden = {}
    for noise in (0, 7, None):
        for seed in (0, 7):
            method = replace(EVOLUTION, perturbation=Noise(0.5, seed=noise), seed=seed, ascent=EvolutionAscent(seed=1))
            hidden[noise, seed] = method(MODEL, INPUTS, 0)
    for name in ("masks", "blank"):
        values = {key: getattr(result, name) for key, result in hidden.items()}
        assert torch.equal(values[0, 0], values[0, 7])  # as saved settings have it, where a seed is a number
        assert torch.equal(values[None, 0], values[0, 0])
        assert torch.equal(values[None, 7], values[7, 0])
    assert not torch.equal(hidden[0, 0].blank, hidden[7, 0].blank)


def test_noise_outside_a_method():
    x, hidden, query = random(1, 3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long)
    assert torch.equal(Noise()(x)(hidden, query), Noise(seed=0)(x)(hidden, query))


def test_metrics_draw_from_the_case_s_seed():
    transfer = sfumato.metrics.Transfer(perturbations=(Noise(1.0),), home=Fade())
    result = EVOLUTION(MODEL, INPUTS, 0)
    rows = [
        transfer.measure(sfumato.metrics.Case(result, model=lambda x: MODEL(x) + 9, inputs=INPUTS, target=0, seed=seed))
        for seed in (0, 0, 1)
    ]
    assert rows[0]["elsewhere"] == rows[1]["elsewhere"]
    assert rows[0]["elsewhere"] != pytest.approx(rows[2]["elsewhere"], rel=1e-6)


@pytest.mark.parametrize("shape", [(5,), (2, 40), (1, 9, 9), (4, 4, 4)], ids=str)
def test_rise_has_no_more_cells_than_places(shape):
    masks = torch.cat([draws[:] for draws in RISE(samples=256).masks(shape)])
    assert masks.shape == (256, 1, *shape)
    assert masks.mean().item() == pytest.approx(0.5, abs=0.06)
    with pytest.raises(ValueError, match="give fewer, or one count per axis, or none"):
        next(RISE(cells=50).masks(shape))


def test_rise_interpolates_between_cells():
    (draws,) = RISE(samples=20, cells=(3, 5)).masks((17, 23))
    masks = draws[:]
    for row in range(20):
        enlarged = draws.cells[row][None, None]
        for axis, (length, count) in enumerate(zip((17, 23), (3, 5), strict=True)):
            cell = math.ceil(length / count)
            size = [*enlarged.shape[2:]]
            size[axis] = (count + 1) * cell
            enlarged = torch.nn.functional.interpolate(enlarged, size, mode="bilinear", align_corners=False)
            enlarged = enlarged.narrow(2 + axis, int(draws.crops[row, axis] * (cell + 1)), length)
        torch.testing.assert_close(masks[row], enlarged[0], atol=1e-5, rtol=0)


def test_a_blur_has_a_width_for_each_axis():
    """None along time leaves the frames apart; equal ones are one number. Settings are kept as they are written."""
    clips, nothing, query = random(1, 1, 6, 10, 10), torch.zeros(1, 1, 6, 10, 10), torch.tensor([0])
    blurred = Blur((0, 2, 2))(clips)(nothing, query)
    frames = torch.stack([Blur(2)(clips[:, :, frame])(nothing[:, :, 0], query) for frame in range(6)], 2)
    torch.testing.assert_close(blurred, frames)
    assert torch.equal(Blur((2, 2, 2))(clips)(nothing, query), Blur(2)(clips)(nothing, query))
    assert from_json(json.loads(json.dumps(as_json(Blur((0, 2, 2)))))) == Blur([0, 2, 2])
    with pytest.raises(ValueError, match="got 2 values .* for an input with 3 axes of space"):
        Blur((2, 2))(clips)
