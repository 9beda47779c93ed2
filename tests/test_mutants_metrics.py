"""Small faults of protocols and of reading pictures that no other test would notice: each fails for one changed line."""

import io
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.overrides import TorchFunctionMode

from sfumato import Blur, Constant, ExtremalPerturbation, Fade, Logit, SmoothMask, metrics
from sfumato.attribution import Attribution
from sfumato.data import pictures
from sfumato.metrics import Accuracy, DeletionGame, InsertionDeletion, Monotonicity, Randomisation
from sfumato.metrics.case import Case
from sfumato.metrics.estimate import Measure, mean
from sfumato.metrics.likeness import order, overlap, ranks, spearman, ssim, ssim_of_maps, stretched
from sfumato.metrics.transfer import Transfer


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def says(*logits):
    """A model that gives the same logits for every input."""
    values = torch.tensor(logits, dtype=torch.float32)
    return lambda inputs: values.expand(len(inputs), *values.shape) + 0 * inputs.sum().nan_to_num()


# Accuracy


@pytest.mark.parametrize(("target", "rank"), [(3, 1), (5, 2), (0, 3), (6, 4), (2, 5), (4, 6), (1, 7)])
def test_the_rank_of_each_class(target, rank):
    """Logits fall in the order of the classes 3, 5, 0, 6, 2, 4, 1; five of them are among the five largest."""
    case = Case(
        Attribution(torch.zeros(1, 1, 4, 4)), says(2.0, -9.0, 0.5, 7.0, 0.0, 3.0, 1.0), random(1, 1, 4, 4), target
    )
    row = Accuracy().measure(case)
    assert (row["rank"], row["first"], row["in_five"]) == (rank, rank == 1, rank <= 5)
    first, five = Accuracy().measures([row])
    assert (first.name, five.name) == ("top 1", "top 5")


def test_the_rank_counts_larger_logits_only():
    """Of equal logits none is larger than another."""
    for target in (0, 1):
        case = Case(Attribution(torch.zeros(1, 1, 4, 4)), says(4.0, 4.0, 1.0), random(1, 1, 4, 4), target)
        assert Accuracy().measure(case)["rank"] == 1


def test_a_rank_in_space_is_that_of_the_means():
    """Class 0 has the largest value, class 1 the largest mean."""
    logits = torch.tensor([[[9.0, -9.0]], [[2.0, 2.0]], [[0.0, 1.0]]])
    model = lambda inputs: logits[None] + 0 * inputs.sum()  # noqa: E731
    found = [
        Accuracy().measure(Case(Attribution(torch.zeros(1, 1, 4, 4)), model, random(1, 1, 4, 4), target))["rank"]
        for target in range(3)
    ]
    assert found == [3, 1, 2]


# Randomisation


@pytest.mark.parametrize("draw", ["reset", "normal", "permutation"])
def test_each_layer_is_drawn_anew(draw):
    """Layers of one shape, and with the same values before, have different ones after; so have other seeds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(8, 8) for _ in range(3)]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    net = nn.Sequential(*layers)
    after = {}
    for seed in (0, 0, 1):
        *_, (_, _, network) = Randomisation(draw).cascade(net, random(1, 8), seed)
        after.setdefault(seed, []).append([layer.weight.detach().clone() for layer in network])
    first, again = after[0]
    (other,) = after[1]
    for one, same in zip(first, again, strict=True):
        torch.testing.assert_close(one, same)
    drawn = [*first, *other]
    for index, one in enumerate(drawn):
        for another in drawn[:index]:
            assert (one - another).abs().max() > 1e-3


# Transfer


def learnt(**settings):
    """Masks of a small network, and what they keep under several perturbations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
        ).eval()
    inputs = random(1, 3, 16, 16) + 1
    target = int(net(inputs).argmax())
    method = ExtremalPerturbation((0.2, 0.5), steps=2, mask=SmoothMask(step=3, sigma=4), jitter=None, **settings)
    case = Case(method(net, inputs, target), net, inputs, target)
    return Transfer((Blur(5), Fade(), Blur(), Constant(2.0)), score="logit").measure(case)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "kept Blur 2"),  # what the method takes where nothing is said
        ({"perturbation": Fade()}, "kept Fade"),
        ({"perturbation": Blur(5)}, "kept Blur"),
        ({"perturbation": Constant(2.0)}, "kept Constant"),
    ],
)
def test_home_is_what_the_masks_were_learnt_with(settings, name):
    row = learnt(**settings)
    others = [value for key, value in row.items() if key.startswith("kept ") and key != name]
    assert row["home"] == pytest.approx(row[name], rel=1e-6)
    assert row["elsewhere"] == pytest.approx(sum(others) / 3, rel=1e-6)
    assert row["lost"] == pytest.approx(row[name] - sum(others) / 3, abs=1e-6)
    assert all(abs(value - row[name]) > 1e-4 for value in others), "no other could be told from it"


def test_masks_of_a_layer_and_maps_have_no_home():
    assert math.isnan(learnt(layer="1")["home"])
    with_a_map = Case(Attribution(random(1, 1, 4, 4)), lambda x: x.flatten(1).abs(), random(1, 1, 4, 4).abs() + 1, 0)
    assert math.isnan(Transfer(score="logit").measure(with_a_map)["home"])


# Likeness


def test_ranks_of_ties_are_means():
    assert ranks(torch.tensor([5.0, 1.0, 5.0, 5.0, 2.0, 2.0])).tolist() == [5, 1, 5, 5, 2.5, 2.5]
    assert ranks(torch.tensor([7.0])).tolist() == [1]


def test_spearman_of_opposite_equal_and_constant_maps():
    values = random(5, 7)
    assert spearman(values, 3 * values.exp() + 1) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    for constant in (torch.zeros(5, 7), torch.full((5, 7), 3.5)):
        assert math.isnan(spearman(values, constant))
        assert math.isnan(spearman(constant, values))
    with pytest.raises(ValueError, match="not be empty"):
        spearman(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="NaN"):
        spearman(torch.tensor([math.nan, 1.0]), torch.zeros(2))


@pytest.mark.parametrize(("share", "count"), [(0.1, 3), (0.11, 4), (1.0, 30), (1 / 30, 1), (0.001, 1), (0.3, 9)])
def test_the_share_of_an_overlap_is_rounded_up(share, count):
    """Two falling maps, one shifted by a place: of `count` places each they share one less."""
    one = torch.arange(30.0, 0, -1)
    assert overlap(one, one.roll(1), share) == pytest.approx((count - 1) / (count + 1) if count < 30 else 1)
    assert int((order(one) < count).sum()) == count


def test_a_rounding_error_is_no_place_more():
    """0.07 · 100 is 7.000000000000001 in floats, and means seven places."""
    one = torch.arange(100.0, 0, -1)
    assert overlap(one, one.roll(1), 0.07) == 6 / 8


def test_the_earlier_of_many_equals_goes_first():
    values = torch.arange(5000) % 2
    expected = torch.where(values == 1, torch.arange(5000) // 2, 2500 + torch.arange(5000) // 2)
    assert order(values.float()).tolist() == expected.tolist()


def test_an_overlap_of_nothing_in_common():
    assert overlap(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 1.0]), 0.25) == 0


def test_the_constants_of_ssim_grow_with_the_range():
    """Two constant maps: only their means and the first constant count, which is (0.01 L)²."""
    a, b = torch.full((12, 12), 1.0), torch.full((12, 12), 3.0)
    for data_range in (0.5, 1.0, 200.0):
        c1 = (0.01 * data_range) ** 2
        assert ssim(a, b, data_range) == pytest.approx((6 + c1) / (10 + c1), abs=1e-9)
    for data_range in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="data_range"):
            ssim(a, b, data_range)


def test_windows_of_ssim():
    """Maps that are 11 places wide have one window; a difference of one place counts by its weight there."""
    one, other = torch.zeros(11), torch.zeros(11)
    one[5], other[5] = 1.0, 0.5
    weights = torch.exp(-0.5 * (torch.arange(-5, 6).double() / 1.5).square())
    weight = float(weights[5] / weights.sum())
    (ma, mb), (va, vb) = (weight, weight / 2), (weight * (1 - weight), weight * (1 - weight) / 4)
    cov, c1, c2 = weight * (1 - weight) / 2, 0.01**2, 0.03**2
    expected = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert ssim(one, other) == pytest.approx(expected, abs=1e-9)
    for length in (10, 9):  # of ten places, the window is the nine that fit: it lies at two places
        values = random(length, seed=3)
        assert ssim(values, values) == pytest.approx(1)
    assert ssim(torch.zeros(10), torch.eye(10)[0]) > ssim(torch.zeros(9), torch.eye(9)[4])
    with pytest.raises(ValueError, match="one to three axes"):
        ssim(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))


def test_maps_are_stretched_before_they_are_compared():
    values = random(12, 13)
    assert ssim_of_maps(values, 5 * values - 3) == pytest.approx(1)
    assert stretched(torch.tensor([-2.0, 0.0, 2.0])).tolist() == [0, 0.5, 1]
    assert stretched(torch.full((3,), 7.0)).tolist() == [0, 0, 0]


class WithoutDoubles(TorchFunctionMode):
    """Tensors say that they are on MPS, and refuse float64 as tensors there do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return torch.device("mps")
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return result


def test_maps_are_compared_on_a_device_without_float64():
    a, b = random(12, 13), random(12, 13, seed=1)
    compared = (spearman, ssim, ssim_of_maps, lambda a, b: overlap(a, b, 0.3), lambda a, b: float(stretched(a).sum()))
    expected = [compare(a, b) for compare in compared]
    with WithoutDoubles():
        with pytest.raises(TypeError, match="float64"):
            a.double()
        values = [compare(a, b) for compare in compared]
    assert values == pytest.approx(expected, abs=1e-4)  # in float32, whose sums over 156 places err by less


# The deletion game


def corner(inputs):
    """The logit is the sum of the inputs, against 0."""
    total = inputs.flatten(1).sum(1)
    return torch.stack([total, torch.zeros_like(total)], 1)


def game(saliency, inputs, **settings):
    case = Case(Attribution(torch.tensor(saliency)[None, None]), corner, torch.tensor(inputs)[None, None], target=0)
    return DeletionGame(**{"perturbation": Fade(), "heights": (0.0, 0.5, 0.75), **settings}).measure(case)


def test_a_place_at_the_height_itself_belongs_to_its_box():
    """Heights 0.5 and 0.75 of a map from 0 to 4 are 2 and 3: the first box has both places, the second one."""
    row = game([4.0, 2.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0], suppressions=(0.01, 0.99))
    assert (row["pixels 1"], row["pixels 99"]) == (1, 2)
    assert (row["share 1"], row["share 99"]) == (0.25, 0.5)


def test_the_box_that_leaves_just_as_much_as_is_allowed_suffices():
    """Scores themselves, so that the quotient is exact: half of the sum is left where half is to go."""
    case = Case(
        Attribution(torch.tensor([[[4.0, 1.0, 0.0]]])), corner, torch.tensor([[[2.0, 2.0, 0.0]]]), target=Logit(0)
    )
    row = DeletionGame(perturbation=Fade(), heights=(0.25, 0.9), suppressions=(0.5, 0.75)).measure(case)
    assert (row["pixels 50"], row["pixels 75"]) == (1, 2)
    assert (row["whole"], row["blank"]) == (4, 0)


def test_a_score_that_is_that_of_the_blank_input_cannot_be_suppressed():
    row = game([4.0, 2.0, 0.0], [0.0, 0.0, 0.0])
    assert row["whole"] == row["blank"]
    assert math.isnan(row["pixels 80"])
    assert math.isnan(row["share 80"])


def test_maps_below_zero_have_the_same_boxes():
    shifted = [game([4.0 + by, 2.0 + by, by, by], [3.0, 3.0, 0.0, 0.0]) for by in (0.0, -9.0, 5.0)]
    assert shifted[0] == shifted[1] == shifted[2]


def test_boxes_are_each_tried_once_and_the_whole_input_first():
    protocol = DeletionGame(heights=(0.0, 0.1, 0.2, 0.6))
    found = protocol.boxes(torch.tensor([[0.0, 0.0, 0.0], [0.0, 5.0, 2.0]]))
    assert found.tolist() == [[[0, 2], [0, 3]], [[1, 2], [1, 2]], [[1, 2], [1, 3]]]
    assert protocol.boxes(torch.ones(2, 3)).tolist() == [[[0, 2], [0, 3]]]


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_how_many_boxes_go_through_at_once_changes_nothing(batch):
    values = random(6, 7).tolist()
    row, expected = (
        game(values, random(6, 7, seed=1).abs().tolist(), batch=batch),
        game(values, random(6, 7, seed=1).abs().tolist(), batch=5),
    )
    assert row == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "settings", [{"suppressions": ()}, {"heights": ()}, {"suppressions": (0.5, 1.0)}, {"batch": True}]
)
def test_settings_of_the_deletion_game(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DeletionGame(**settings)


# Pictures


def png(values, **options):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format=options.pop("format", "PNG"), **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "largest", "expected"),
    [
        (np.int32, 255, 255),
        (np.int32, 256, 1),  # of 65535
        (np.int32, 65535, 255),
        (np.int32, 65536, 0),  # of 2³¹ - 1
        (np.int32, 2**31 - 1, 255),
        (np.int32, 0, 0),
        (np.float32, 1.0, 255),
        (np.float32, 2.0, 2),  # of 255
        (np.float32, 255.0, 255),
        (np.float32, 300.0, 1),  # of 65535
        (np.float32, 65535.0, 255),
        (np.float32, 1e6, 255),  # of itself
        (np.uint16, 255, 1),
        (np.uint16, 65535, 255),
    ],
)
def test_the_least_full_scale_that_holds_the_largest_value(kind, largest, expected):
    values = np.zeros((2, 3), kind)
    values[0, 1] = largest
    picture = pictures.decode(png(values, format="TIFF"), "a.tif")
    assert picture.size == (3, 2)
    assert picture.getpixel((1, 0)) == (expected,) * 3
    assert picture.getpixel((0, 0)) == (0, 0, 0)


def test_the_most_pixels_are_still_allowed():
    content = png(np.zeros((4, 5, 3), np.uint8))
    assert pictures.decode(content, "a.png", most=20).size == (5, 4)
    with pytest.raises(ValueError, match="claims to be huge; expected at most 19 pixels"):
        pictures.decode(content, "a.png", most=19)


def test_only_the_kinds_that_are_asked_for():
    content = png(np.zeros((4, 5, 3), np.uint8), format="BMP")
    assert pictures.decode(content, "a.bmp").mode == "RGB"
    with pytest.raises(ValueError, match="not a picture of a known kind"):
        pictures.decode(content, "a.bmp", formats=("PNG", "JPEG"))


def test_a_photograph_with_a_second_view_is_one_picture_and_an_animation_is_not():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    mpo, gif = io.BytesIO(), io.BytesIO()
    frames[0].save(mpo, format="MPO", save_all=True, append_images=frames[1:])
    frames[0].save(gif, format="GIF", save_all=True, append_images=frames[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pictures.decode(mpo.getvalue(), "a.jpg").getpixel((4, 4))[0] > 200
    with pytest.warns(UserWarning, match="holds 2 pictures"):
        pictures.decode(gif.getvalue(), "a.gif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(orientation):
    """The corner that is bright above on the left is found there, whichever way the camera was held."""
    upright = np.zeros((6, 9), np.uint8)
    upright[:3, :3] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = pictures.decode(png(np.ascontiguousarray(stored), exif=exif), "a.png")
    assert np.array_equal(np.asarray(picture)[..., 0], upright)


def test_hidden_folders_above_do_not_hide_what_lies_below(tmp_path):
    folder = tmp_path / ".cache" / "pictures"
    (folder / ".hidden").mkdir(parents=True)
    for name in ("b.JPG", "a.png", ".c.png", ".hidden/d.png", "e.gifs"):
        (folder / name).touch()
    assert [path.name for path in pictures.find(folder)] == ["a.png", "b.JPG"]
    assert [path.name for path in pictures.find([folder, folder / "b.JPG", folder])] == ["a.png", "b.JPG"]
    assert [path.name for path in pictures.find(folder / ".hidden", recursive=True)] == ["d.png"]


def test_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        pictures.read(tmp_path / "none.png")
    with pytest.raises(ValueError, match="not a regular file"):
        pictures.read("/dev/null")


# What protocols come down to

UP, DOWN = True, False  # the better side

MEASURES = {
    "Accuracy": [
        ("top 1", UP, True),
        ("top 5", UP, True),
    ],
    "Agreement": [
        ("rank correlation with x", UP, False),
        ("SSIM with x", UP, False),
        ("overlap with x", UP, True),
    ],
    "AreaUnderROC": [("AUC", UP, False), ("AUC, difficult", UP, False)],
    "Artefacts": [
        ("worth over other contents", DOWN, True),
        ("worth", UP, True),
        ("hallucinated edges", DOWN, True),
    ],
    "DeletionGame": [
        ("pixels 80", DOWN, False),
        ("pixels 90", DOWN, False),
        ("pixels 95", DOWN, False),
        ("pixels 99", DOWN, False),
        ("share 80", DOWN, True),
        ("share 90", DOWN, True),
        ("share 95", DOWN, True),
        ("share 99", DOWN, True),
    ],
    "EnergyPointing": [
        ("energy", UP, True),
        ("energy, difficult", UP, True),
        ("energy above chance", UP, True),
    ],
    "InsertionDeletion": [
        ("insertion", UP, False),
        ("deletion", DOWN, False),
        ("insertion - deletion", UP, False),
    ],
    "Monotonicity": [
        ("rank correlation", UP, False),
        ("strictly growing", UP, True),
        ("growing steps", UP, True),
    ],
    "PartImportance": [
        ("rank correlation", UP, False),
        ("rank correlation of sums", UP, False),
        ("most important part", UP, True),
        ("cue found", UP, True),
        ("cue accused", DOWN, True),
        ("on distractors", DOWN, True),
        ("on distractors, above chance", DOWN, True),
    ],
    "PointingGame": [
        ("all", UP, True),
        ("difficult", UP, True),
        ("all, by case", UP, True),
        ("difficult, by case", UP, True),
    ],
    "Randomisation": [
        ("rank correlation", DOWN, False),
        ("SSIM", DOWN, False),
        ("rank correlation all", DOWN, False),
        ("SSIM all", DOWN, False),
        ("rank correlation a", DOWN, False),
        ("SSIM a", DOWN, False),
    ],
    "Stability": [
        ("rank correlation", UP, False),
        ("worst rank correlation", UP, False),
        ("change", DOWN, False),
        ("largest change", DOWN, False),
    ],
    "SufficientArea": [
        ("smallest area", DOWN, True),
        ("less than the whole suffices", UP, True),
    ],
    "Transfer": [
        ("kept elsewhere", UP, True),
        ("kept at home", UP, True),
        ("lost", DOWN, True),
        ("kept under Blur", UP, True),
        ("kept under Fade", UP, True),
        ("kept under Noise", UP, True),
    ],
    "WeakLocalisation": [
        ("error by value", DOWN, True),
        ("error by energy", DOWN, True),
        ("error by mean", DOWN, True),
    ],
}
"""Of each protocol its measures: name, better side, and whether it is a share."""


@pytest.mark.parametrize("name", MEASURES)
def test_what_a_protocol_comes_down_to(name):
    rows = [{"overlap x": 1.0, "ssim a": 0.0, "ssim all": 0.0}]
    measures = getattr(metrics, name)().measures(rows)
    assert [(each.name, each.higher_is_better, each.percent) for each in measures] == MEASURES[name]


def test_every_protocol_is_among_these():
    protocols = {name for name in metrics.__all__ if hasattr(getattr(metrics, name), "measure")}
    assert protocols - {"Protocol"} == MEASURES.keys()


def test_measures_are_equal_whatever_computes_them():
    assert Measure("a", mean("x")) == Measure("a", mean("y")) != Measure("b", mean("x"))


def test_the_perturbations_that_are_not_said():
    assert DeletionGame().perturbation == Blur(max_sigma=10, levels=2)
    assert InsertionDeletion().insertion == Blur(max_sigma=5, levels=2)


def test_a_list_of_perturbations_is_a_tuple_of_them():
    assert Transfer(perturbations=[Blur(), Fade()]) == Transfer(perturbations=(Blur(), Fade()))


def test_parts_of_which_two_are_one_have_no_order():
    """Of a map of four places a quarter and .3 are both one place, whatever comes before."""
    case = Case(Attribution(torch.arange(4.0).view(1, 1, 2, 2)), says(1.0, 2.0), random(1, 1, 2, 2), 1)
    with pytest.raises(ValueError, match="further apart"):
        Monotonicity(areas=(0.25, 0.5, 0.55), masks=False).measure(case)


def test_a_mask_with_a_score_that_is_no_number_is_refused():
    found = Attribution(
        torch.zeros(1, 1, 2, 2),
        masks=random(1, 2, 1, 2, 2).sigmoid(),
        scores=torch.tensor([[1.0, math.nan]]),
        achieved=torch.tensor([[0.1, 0.5]]),
    )
    with pytest.raises(ValueError, match="a mask"):
        Monotonicity().measure(Case(found, says(1.0, 2.0), random(1, 1, 2, 2), 1))
