"""Protocols that judge a map by where the object is: counted by hand, by loops, and at their borders."""

import json
import math
import pickle
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from PIL import Image

from sfumato.attribution import Attribution
from sfumato.data.example import Example, Run, Thing
from sfumato.data.truth import Truth, box_pixels, pixels, polygon_pixels, truth
from sfumato.methods.centre import Centre, bump
from sfumato.metrics import Case, Window
from sfumato.metrics.area_under_roc import AreaUnderROC
from sfumato.metrics.deletion_game import DeletionGame
from sfumato.metrics.energy_pointing import EnergyPointing
from sfumato.metrics.pointing import PointingGame
from sfumato.metrics.weak_localisation import (
    WeakLocalisation,
    at_energies,
    boxes_above,
    overlaps,
    tunes,
)
from sfumato.perturbations import Blur, Constant, Fade
from sfumato.scores import Logit
from sfumato.settings import as_json, from_json
from sfumato.space.smoothing import gaussian_blur

few = settings(max_examples=40, deadline=None, derandomize=True)
LOCATING = [PointingGame(), EnergyPointing(), AreaUnderROC(), WeakLocalisation()]


def truth_of(places, boxes=None, others=0, label=3, **more):
    """A truth whose `places` are given, and whose box is around them if none is."""
    places = torch.as_tensor(places).bool()
    if boxes is None:
        boxes = boxes_above(places.float(), torch.tensor([1.0]))[0].flip(0).T.reshape(1, 4).tolist()
    return Truth(label=label, boxes=torch.tensor(boxes, dtype=torch.float32), places=places, others=others, **more)


def case_of(saliency, known=None, **more):
    return Case(attribution=Attribution(map=torch.as_tensor(saliency).float()[None, None]), truth=known, **more)


def picture_of(size, *spots):
    """A map `(height, width)` with a value at each spot (y, x, value)."""
    saliency = torch.zeros(size)
    for y, x, value in spots:
        saliency[y, x] = value
    return saliency


# Truth


def test_polygons_cover_the_pixels_whose_centres_they_enclose():
    assert torch.equal(polygon_pixels((1, 1, 4, 1, 4, 3, 1, 3), (6, 5)), box_pixels((1, 1, 4, 3), (6, 5)))
    triangle = polygon_pixels((0, 0, 4, 0, 0, 4), (5, 4)).int().tolist()
    # The centres of pixels of row + column = 3 lie on the slanted side.
    assert [sum(row) for row in triangle] in ([3, 2, 1, 0], [4, 3, 2, 1])
    assert polygon_pixels((0.6, 0.6, 0.9, 0.6, 0.9, 0.9), (3, 3)).int().tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    beyond = polygon_pixels((-9, -9, 99, -9, 99, 99, -9, 99), (3, 2))
    assert beyond.all()


def touches(corners, size, margin=0.0):
    """Whether a side meets the picture without a margin, border included: something of it remains within all four borders."""
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        low, high = 0.0, 1.0
        for start, step, length in ((x1, x2 - x1, size[0]), (y1, y2 - y1, size[1])):
            if step:
                ends = sorted(((margin - start) / step, (length - margin - start) / step))
                low, high = max(low, ends[0]), min(high, ends[1])
            elif not margin <= start <= length - margin:
                high = -1.0
        if low <= high:
            return True
    return False


def thin(left, top, width, height):
    return (left, top, left + width, top, left + width, top + height, left, top + height)


@pytest.mark.parametrize("left", [10.6, 10.85, 11, 63.8, 64 - 0.3])
@pytest.mark.parametrize("top", [5, 5.2, 5.7])
@pytest.mark.parametrize("width", [0.3, 0])
def test_a_pole_thinner_than_a_pixel_is_a_line_of_pixels(left, top, width):
    """Wherever it stands between centres: 40 pixels for a height of 40, in one column; likewise when it lies."""
    standing = polygon_pixels(thin(left, top, width, 40), (64, 64))
    assert standing.sum() == 40
    assert standing.any(0).sum() == 1
    assert standing.any(0).nonzero().item() in {math.floor(left), math.floor(left + width)}
    assert torch.equal(polygon_pixels(thin(top, left, 40, width), (64, 64)), standing.T)
    assert torch.equal(box_pixels((left, top, left + width, top + 40), (64, 64)), standing)


def test_thin_polygons_beside_the_picture_and_across_its_border():
    for polygon, count in (
        (thin(-0.2, 5, 0.3, 4), 4),  # a third of it within
        (thin(-0.4, 5, 0.3, 4), 0),
        (thin(8, 2, 0, 4), 4),  # on the right border
        (thin(8.1, 2, 0.1, 4), 0),
        (thin(3.6, -9, 0.3, 99), 10),
        ((1, 1, 7, 7), 6),  # a line, aslant
        ((3.5, 3.2), 1),  # a point
        ((8, 10), 1),
        ((8.5, 10), 0),
        ((3.6, 3.6, 3.8, 3.6, 3.8, 3.8), 1),
        ((-20, 5, 5, -20, -20, -20), 0),  # the box around it meets the picture, itself it does not
    ):
        mask = polygon_pixels(polygon, (8, 10))
        assert int(mask.sum()) == count, polygon
    assert polygon_pixels((1, 1, 7, 7), (8, 10)).nonzero().tolist() == [[at, at] for at in range(1, 7)]


def test_rings_of_one_polygon_are_holes_and_several_polygons_are_a_union():
    outer, inner = (0, 0, 8, 0, 8, 6, 0, 6), (2, 2, 2, 4, 5, 4, 5, 2)
    whole = box_pixels((0, 0, 8, 6), (9, 7))
    hole = box_pixels((2, 2, 5, 4), (9, 7))
    ring = (*outer, 0, 0, *inner, 2, 2)  # there and back along one line
    assert torch.equal(polygon_pixels(ring, (9, 7)), whole & ~hole)
    assert torch.equal(pixels(Thing(0, polygons=(outer, inner)), (9, 7)), whole)
    crossed = polygon_pixels((0, 0, 6, 6, 6, 0, 0, 6), (9, 7)).int().sum(0).tolist()  # a bow tie, wide at its sides
    assert min(crossed[0], crossed[5]) > crossed[2]


@pytest.mark.parametrize(
    "polygon", [(), (1,), (1, 2, 3), (1, 2, 3, 4, math.nan, 5), (1, 2, math.inf, 4), ((1, 2), (3, 4))]
)
def test_what_is_no_polygon(polygon):
    with pytest.raises(
        ValueError, match=r"a polygon must be finite numbers x, y, x, y, … of corners in pixels; got \("
    ):
        polygon_pixels(polygon, (8, 8))


def test_every_thing_in_the_picture_has_a_pixel(tmp_path):
    """Of each kind; and one that has none, as it lies elsewhere, is named."""
    Image.fromarray(np.zeros((10, 8), np.uint8)).save(tmp_path / "empty.png")
    Image.fromarray(np.arange(80, dtype=np.uint8).reshape(10, 8) // 79).save(tmp_path / "corner.png")
    size = (8, 10)
    for thing, count in (
        (Thing(1, box=(3.6, 2, 3.9, 7)), 5),
        (Thing(1, box=(3, 2, 3, 2)), 1),
        (Thing(1, box=(-5, -5, 0.3, 0.2)), 1),
        (Thing(1, box=(8, 0, 8, 10)), 10),
        (Thing(1, polygons=(thin(3.6, 2, 0.3, 5),)), 5),
        (Thing(1, polygons=(thin(99, 2, 3, 5), (3.5, 3.5))), 1),
        (Thing(1, run=Run(size, (79, 1))), 1),
        (Thing(1, mask=tmp_path / "corner.png"), 1),
    ):
        assert int(pixels(thing, size).sum()) == count, thing
        known = truth(Example("a", tmp_path, (thing,)), 1, size)
        point = PointingGame().measure(case_of(known.places.float(), known))
        assert point["hit"], thing
    for thing, said in (
        (Thing(1, box=(-5, 2, -1, 7)), r"the box \(-5, 2, -1, 7\)"),
        (Thing(1, box=(8.2, 2, 8.4, 7)), "the box"),
        (Thing(1, polygons=(thin(9, 2, 3, 5),)), r"the outline \(9, 2"),
        (Thing(1, run=Run(size, (80,))), "the mask in runs"),
        (Thing(1, mask=tmp_path / "empty.png"), "the mask '.*empty.png'"),
    ):
        with pytest.raises(ValueError, match=f"'a': {said}.* of class 1 has no pixel in the picture of 8 × 10 pixels"):
            truth(Example("a", tmp_path, (thing,)), 1, size)


@few
@example([(0.0, 0.0), (0.0, -1.0), (0.0, -1.0)])
@given(st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 12)), min_size=3, max_size=7))
def test_polygons_are_those_of_a_ray_from_each_centre(corners):
    mask = polygon_pixels([number for corner in corners for number in corner], (12, 9))
    expected = torch.zeros(9, 12, dtype=torch.bool)
    doubtful = torch.zeros(9, 12, dtype=torch.bool)  # a side passes through the centre, up to rounding
    for row in range(9):
        for column in range(12):
            x, y, odd = column + 0.5, row + 0.5, False
            for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
                if (y1 <= y) != (y2 <= y):
                    crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
                    odd ^= crossing <= x
                    doubtful[row, column] |= abs(crossing - x) < 1e-9
            expected[row, column] = odd
    if (expected & ~doubtful).any():
        assert torch.equal(mask & ~doubtful, expected & ~doubtful)
    elif not doubtful.any() and touches(corners, (12, 9), 1e-6):
        assert mask.any()
    elif not touches(corners, (12, 9)):  # one that only meets a border may have pixels or none
        assert not mask.any()


def test_the_truth_of_a_class_is_that_of_all_its_instances(tmp_path):
    Image.fromarray(np.eye(4, 6, dtype=np.uint8) * 7).save(tmp_path / "mask.png")
    things = (
        Thing(1, box=(0, 0, 2, 1)),
        Thing(1, box=(3, 1, 6, 4), polygons=((4, 2, 6, 2, 6, 4, 4, 4),)),
        Thing(2, mask=tmp_path / "mask.png"),
        Thing(3, run=Run((6, 4), (5, 2, 17))),
        Thing(4),
    )
    example = Example("a", tmp_path / "a.jpg", things)
    one = truth(example, 1, (6, 4))
    assert one.places.int().tolist() == [[1, 1, 0, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]]
    assert one.boxes.tolist() == [[0, 0, 2, 1], [3, 1, 6, 4]]
    assert one.others == 3
    assert not one.segmented
    assert one.difficult == (6 / 24 < 0.25)
    two = truth(example, 2, (6, 4))
    assert two.segmented
    assert two.boxes.tolist() == [[0, 0, 4, 4]]
    assert two.difficult
    assert not truth(example, 2, (6, 4), listed=False).difficult
    assert truth(example, 3, (6, 4)).places.nonzero().tolist() == [[1, 1], [2, 1]]
    with pytest.raises(ValueError, match="class 4"):
        truth(example, 4, (6, 4))
    with pytest.raises(ValueError, match="must have the picture's size"):
        truth(example, 2, (6, 5))


# The pointing game


def test_a_pixel_exactly_as_far_away_as_the_tolerance_is_a_miss():
    places = picture_of((60, 60), (30, 30, 1))
    for y, x, hit in [
        (30, 30, True),
        (30, 44, True),
        (30, 45, False),
        (39, 42, False),
        (38, 42, True),
        (18, 21, False),
    ]:
        row = PointingGame().measure(case_of(picture_of((60, 60), (y, x, 2.0)), truth_of(places)))
        assert (row["hit"], row["x"], row["y"]) == (hit, x, y)
        assert row["distance"] == pytest.approx(math.dist((y, x), (30, 30)))
    near = case_of(picture_of((60, 60), (30, 31, 1)), truth_of(places))
    assert not PointingGame(tolerance=1).measure(near)["hit"]
    assert PointingGame(tolerance=1.001).measure(near)["hit"]


def test_of_equal_places_the_first_counts():
    places = truth_of(picture_of((40, 50), (39, 49, 1)))
    row = PointingGame().measure(case_of(picture_of((40, 50), (20, 9, 1), (7, 30, 1), (7, 31, 1)), places))
    assert (row["x"], row["y"]) == (30, 7)
    constant = PointingGame().measure(case_of(torch.full((40, 50), 0.3), places))
    assert (constant["x"], constant["y"], constant["hit"]) == (0, 0, False)
    corner = PointingGame().measure(case_of(picture_of((40, 50), (39, 49, 1)), places))
    assert corner["hit"]
    assert corner["distance"] == 0


@few
@given(st.integers(0, 2**31), st.integers(5, 40), st.integers(5, 40), st.sampled_from([1, 2.5, 15]))
def test_hits_are_those_of_a_loop_over_all_pixels(seed, height, width, tolerance):
    draw = np.random.default_rng(seed)
    saliency, places = draw.normal(size=(height, width)), draw.random((height, width)) < 2 / height / width
    places[draw.integers(height), draw.integers(width)] = True
    best, at = -math.inf, (0, 0)
    for y in range(height):
        for x in range(width):
            if saliency[y, x] > best:
                best, at = saliency[y, x], (y, x)
    hit = any(
        places[y, x] and (y - at[0]) ** 2 + (x - at[1]) ** 2 < tolerance**2 for y in range(height) for x in range(width)
    )
    assert PointingGame(tolerance).measure(case_of(saliency, truth_of(places)))["hit"] == hit


def test_the_ground_is_boxes_or_segmentations():
    places = picture_of((40, 40), (0, 0, 1))
    known = truth_of(places, boxes=[[0, 0, 40, 3], [38, 38, 40, 40]], segmented=True)
    case = case_of(picture_of((40, 40), (1, 39, 1)), known)
    assert not PointingGame(1).measure(case)["hit"]
    assert not PointingGame(1, "segmentation").measure(case)["hit"]
    assert PointingGame(1, "boxes").measure(case)["hit"]
    assert PointingGame(1, "boxes").measure(case_of(picture_of((40, 40), (39, 38, 1)), known))["hit"]
    with pytest.raises(ValueError, match="segmentation of every instance"):
        PointingGame(1, "segmentation").measure(case_of(places, truth_of(places)))


def test_the_point_is_carried_to_the_picture_by_the_window():
    """A crop of the middle, enlarged twice in the picture; beyond it nothing is seen."""
    known = truth_of(picture_of((30, 50), (14, 30, 1)))
    case = case_of(picture_of((10, 10), (4, 7, 1.0)), known, window=Window((50, 30), 15, 5, 35, 25))
    row = PointingGame(tolerance=3).measure(case)
    assert row["hit"]  # place (4, 7) covers the pixels 13 to 14 down and 29 to 30 across
    assert (row["y"], row["x"]) in {(13, 29), (13, 30), (14, 29), (14, 30)}


def test_summaries_are_means_over_classes_that_have_cases():
    def row(picture, label, hit, difficult):
        return {"picture": picture, "label": label, "hit": hit, "difficult": difficult}

    rows = [
        row("a", 0, True, True),
        row("a", 5, False, True),
        row("b", 0, True, False),
        row("c", 0, False, False),
        row("d", 7, True, False),
    ]
    found = PointingGame().summarise(rows)
    assert found["all"].value == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found["difficult"].value == pytest.approx(1 / 2)  # class 7 has no difficult case
    assert found["all, by case"].value == pytest.approx(3 / 5)
    assert found["difficult, by case"].value == pytest.approx(1 / 2)
    assert [found[name].count for name in found] == [5, 2, 5, 2]
    easy = PointingGame().summarise([rows[2], rows[4]])
    assert easy["all"].value == 1
    assert math.isnan(easy["difficult"].value)
    assert easy["difficult"].count == 0
    assert PointingGame().summarise(rows) == found
    worse = [{**row, "hit": False} for row in rows]
    assert PointingGame().compared(rows, worse)["all, by case"].value == pytest.approx(3 / 5)


# The energy-based pointing game


def test_energy_counts_by_hand():
    saliency = torch.tensor([[1.0, -5.0, 2.0], [3.0, 0.0, 4.0]])
    known = truth_of([[1, 1, 0], [0, 1, 0]], boxes=[[0, 0, 2, 2]], others=1)
    case = case_of(saliency, known)
    row = EnergyPointing("finest").measure(case)
    assert row["energy"] == pytest.approx(1 / 10)
    assert row["area"] == pytest.approx(1 / 2)
    assert row["above"] == pytest.approx(-0.4)
    assert EnergyPointing().measure(case)["energy"] == pytest.approx(4 / 10)
    assert EnergyPointing("finest", "least").measure(case)["energy"] == pytest.approx((6 + 0 + 5) / 35)
    assert not row["empty"]


@pytest.mark.parametrize("saliency", [torch.zeros(4, 5), -torch.rand(4, 5)], ids=["zero", "negative"])
def test_a_map_without_energy_gets_what_a_constant_one_does(saliency):
    known = truth_of(picture_of((4, 5), (1, 1, 1), (1, 2, 1), (3, 4, 1)))
    row = EnergyPointing("finest").measure(case_of(saliency, known))
    assert row["empty"]
    assert row["energy"] == row["area"] == 3 / 20
    assert EnergyPointing("finest").measure(case_of(torch.ones(4, 5), known))["energy"] == pytest.approx(3 / 20)
    level = EnergyPointing("finest", "least").measure(case_of(torch.ones(4, 5), known))
    assert level["empty"]
    assert level["energy"] == 3 / 20


def test_what_was_not_seen_has_no_energy_and_no_area():
    """The left half of the picture is shown; an all-positive map has a least value that fills the rest."""
    known = truth_of(picture_of((4, 8), (0, 0, 1), (0, 7, 1)))
    case = case_of(torch.full((4, 4), 2.0), known, window=Window((8, 4), 0, 0, 4, 4))
    row = EnergyPointing("finest").measure(case)
    assert row["energy"] == row["area"] == 1 / 16
    nothing = case_of(torch.ones(4, 4), truth_of(picture_of((4, 8), (0, 7, 1))), window=Window((8, 4), 0, 0, 4, 4))
    assert EnergyPointing("finest").measure(nothing)["energy"] == 0


def test_energy_is_averaged_over_cases():
    rows = [
        {"energy": 0.5, "above": 0.25, "difficult": False},
        {"energy": 1.0, "above": 0.5, "difficult": True},
    ]
    found = EnergyPointing().summarise(rows)
    assert [found[name].value for name in found] == pytest.approx([0.75, 1.0, 0.375])


# The area under the ROC curve


def test_the_area_under_the_curve_counts_pairs():
    """By hand: the pairs of a pixel inside and one outside, each of which is won, lost or level."""
    saliency = torch.randint(0, 6, (9, 11), generator=torch.Generator().manual_seed(3)).float()
    known = truth_of(picture_of((9, 11), (4, 4, 1)))
    ground = torch.zeros(9, 11, dtype=torch.bool)
    ground[4, 4] = True
    row = AreaUnderROC("finest").measure(case_of(saliency, known))
    others = saliency[~ground]
    expected = ((saliency[4, 4] > others).double() + (saliency[4, 4] == others).double() / 2).mean()
    assert row["auc"] == pytest.approx(float(expected))
    assert row["area"] == pytest.approx(1 / 99)


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x**3, torch.exp], ids=["itself", "cube", "exponential"])
def test_only_the_order_of_a_map_counts(change):
    saliency = torch.rand(6, 8, generator=torch.Generator().manual_seed(4))
    known = truth_of(picture_of((6, 8), (1, 1, 1), (1, 2, 1), (3, 4, 1)))
    expected = AreaUnderROC("finest").measure(case_of(saliency, known))["auc"]
    assert AreaUnderROC("finest").measure(case_of(change(saliency), known))["auc"] == pytest.approx(expected)
    assert AreaUnderROC("finest").measure(case_of(-saliency, known))["auc"] == pytest.approx(1 - expected)


def test_a_constant_map_tells_nothing_apart():
    known = truth_of(picture_of((4, 5), (1, 1, 1)))
    assert AreaUnderROC("finest").measure(case_of(torch.ones(4, 5), known))["auc"] == 0.5


def test_pixels_that_were_not_seen_do_not_count():
    known = truth_of(picture_of((4, 8), (0, 0, 1), (0, 7, 1)))
    saliency = torch.rand(4, 4, generator=torch.Generator().manual_seed(5))
    row = AreaUnderROC("finest").measure(case_of(saliency, known, window=Window((8, 4), 0, 0, 4, 4)))
    assert row["auc"] == pytest.approx(float((saliency[0, 0] > saliency.flatten()[1:]).double().mean()))
    nothing = case_of(torch.ones(4, 4), truth_of(picture_of((4, 8), (0, 7, 1))), window=Window((8, 4), 0, 0, 4, 4))
    assert math.isnan(AreaUnderROC("finest").measure(nothing)["auc"])


@pytest.mark.parametrize("protocol", [EnergyPointing(), AreaUnderROC()])
def test_a_window_that_shows_no_pixel_is_an_error(protocol) -> None:
    with pytest.raises(ValueError, match="no pixel of the picture lies in the part that the network was shown"):
        protocol.measure(
            case_of(torch.ones(4, 4), truth_of(picture_of((4, 8), (0, 0, 1))), window=Window((8, 4), 9, 0, 13, 4))
        )


# Weak localisation


def test_thresholds_count_by_hand():
    """Heights 8, 4, 2 and 2 in nested frames: 16 in all, 25 places of the mean 0.64."""
    saliency = picture_of((5, 5), (2, 2, 8), (2, 3, 4), (1, 2, 2), (4, 0, 2))
    known = truth_of(picture_of((5, 5), (2, 2, 1), (2, 3, 1)))  # the box 2, 2, 4, 3 of two pixels
    protocol = WeakLocalisation(value=(0, 0.25, 0.5, 0.9), energy=(0, 0.5, 0.51, 0.75, 0.8), mean=(0, 3, 6, 12, 20))
    row = protocol.measure(case_of(saliency, known))
    # Everything 25; from 2: columns 0 to 3, rows 1 to 4, 16 pixels; from 4: the box; from 8: one of two pixels.
    assert row["value"] == pytest.approx([2 / 25, 2 / 16, 1, 1 / 2])
    assert row["energy"] == pytest.approx([1 / 2, 1 / 2, 1, 1, 2 / 16])
    assert row["mean"] == pytest.approx([2 / 25, 2 / 16, 1, 1 / 2, 0])  # 0, 1.92, 3.84, 7.68 and 12.8


def test_the_negative_part_is_no_energy():
    saliency = picture_of((5, 5), (2, 2, 8), (2, 3, 4)) - picture_of((5, 5), (0, 0, 7))
    known = truth_of(picture_of((5, 5), (2, 2, 1), (2, 3, 1)))
    row = WeakLocalisation(value=(0, 0.8), energy=(0.5, 0.9), mean=(0, 1)).measure(case_of(saliency, known))
    assert row["energy"] == pytest.approx([1 / 2, 1])
    assert row["mean"] == pytest.approx([2 / 25, 1])
    assert row["value"] == pytest.approx([2 / 25, 1 / 2])  # from -7 to 8: 0.8 of the range is 5


@pytest.mark.parametrize("height", [0.0, 2.0, -2.0])
def test_a_constant_map_marks_everything(height):
    known = truth_of(picture_of((4, 5), (0, 0, 1), (3, 3, 1)))  # a box of 16 of 20 pixels
    row = WeakLocalisation(mean=(0, 0.5)).measure(case_of(torch.full((4, 5), height), known))
    for kind in WeakLocalisation.kinds:
        assert row[kind] == pytest.approx([0.8] * len(row[kind]))


def naive_overlap(saliency, kind, alpha, boxes):
    """Written from the paper, with a list of the places that stay."""
    places = {(y, x): float(value) for (y, x), value in np.ndenumerate(saliency.numpy().astype(float))}
    if kind == "value":
        low, high = min(places.values()), max(places.values())
        kept = [place for place, value in places.items() if not value - low < alpha * (high - low)]
    elif kind == "mean":
        average = sum(max(value, 0) for value in places.values()) / len(places)
        kept = [place for place, value in places.items() if not max(value, 0) < alpha * average]
    else:
        total, held, kept = sum(max(value, 0) for value in places.values()), 0.0, []
        for place in sorted(places, key=places.get, reverse=True):
            if kept and held >= alpha * total:
                break
            kept.append(place)
            held += max(places[place], 0)
    if not kept:
        return 0.0
    top, left = (min(place[axis] for place in kept) for axis in (0, 1))
    bottom, right = (max(place[axis] for place in kept) + 1 for axis in (0, 1))
    best = 0.0
    for left2, top2, right2, bottom2 in boxes:
        wide = max(0, min(right, right2) - max(left, left2))
        high = max(0, min(bottom, bottom2) - max(top, top2))
        both = wide * high
        best = max(best, both / ((right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2) - both))
    return best


@few
@given(st.integers(0, 2**31), st.integers(3, 20), st.integers(3, 20))
def test_overlaps_are_those_of_loops(seed, height, width):
    draw = np.random.default_rng(seed)
    saliency = torch.from_numpy(draw.normal(size=(height, width)) ** 3).float()
    boxes = []
    for _ in range(draw.integers(1, 4)):
        left, right = sorted(draw.choice(width + 1, 2, replace=False).tolist())
        top, bottom = sorted(draw.choice(height + 1, 2, replace=False).tolist())
        boxes.append([left, top, right, bottom])
    known = truth_of(torch.ones(height, width), boxes=boxes)
    protocol = WeakLocalisation(value=(0.13, 0.52, 0.9), energy=(0.0, 0.21, 0.77), mean=(0.3, 1.7, 4.0, 9.0))
    row = protocol.measure(case_of(saliency, known))
    for kind in protocol.kinds:
        expected = [naive_overlap(saliency, kind, alpha, boxes) for alpha in getattr(protocol, kind)]
        assert row[kind] == pytest.approx(expected)


def test_equal_heights_stay_together():
    energy = torch.tensor([3.0, 3.0, 1.0, 1.0])
    assert at_energies(energy, [0, 0.3, 0.5, 0.75, 0.8, 0.99]).tolist() == [3, 3, 3, 3, 1, 1]


def test_the_box_is_carried_to_the_picture_by_the_window():
    saliency = picture_of((4, 8), (1, 2, 1), (2, 5, 1))  # the box 2, 1, 6, 3, of the input
    known = truth_of(torch.ones(100, 200), boxes=[[10 + 2 * 20, 5 + 1 * 10, 10 + 6 * 20, 5 + 3 * 10]])
    case = case_of(saliency, known, window=Window((200, 100), 10, 5, 170, 45))
    assert WeakLocalisation(value=(0.5,)).measure(case)["value"] == pytest.approx([1])


def test_touching_and_empty_boxes_do_not_overlap():
    boxes = torch.tensor([[0.0, 0, 2, 2], [2, 0, 4, 2], [1, 1, 1, 1], [0, 0, 4, 1]])
    found = overlaps(boxes, boxes)
    assert found.diagonal().tolist() == [1, 1, 0, 1]
    assert found[0].tolist() == pytest.approx([1, 0, 0, 2 / 6])
    assert torch.equal(found, found.T)


def test_about_half_of_the_pictures_tune_and_always_the_same():
    names = [f"ILSVRC2012_val_{number:08d}" for number in range(2000)]
    assert 0.46 < sum(map(tunes, names)) / 2000 < 0.54
    assert "".join(str(int(tunes(name))) for name in names[:12]) == "011110111111"  # in every run, of every version


def localised(count=200, seed=0):
    """Rows of overlaps for three α, of which the second is best on either part; names as they come."""
    draw = np.random.default_rng(seed)
    shares = np.array([0.3, 0.7, 0.5])
    return [
        {
            "picture": f"picture {number}",
            "label": 0,
            **{kind: (0.2 + 0.5 * (draw.random(3) < shares)).tolist() for kind in WeakLocalisation.kinds},
        }
        for number in range(count)
    ]


THREE = WeakLocalisation(value=(0.1, 0.2, 0.3), energy=(0.4, 0.5, 0.6), mean=(1, 2, 3))


def test_alpha_is_chosen_on_one_part_and_the_error_counted_on_the_other():
    rows = localised()
    tuning = [row for row in rows if tunes(row["picture"])]
    rest = [row for row in rows if not tunes(row["picture"])]
    found = THREE.summarise(rows)
    for kind in THREE.kinds:
        right = [sum(row[kind][at] > 0.5 for row in tuning) for at in range(3)]
        at = right.index(max(right))
        assert THREE.tuned(rows)[kind] == getattr(THREE, kind)[at]
        estimate = found[f"error by {kind}"]
        assert estimate.value == pytest.approx(sum(row[kind][at] <= 0.5 for row in rest) / len(rest))
        assert estimate.count == len(rest)
        assert estimate.low < estimate.value < estimate.high
    assert THREE.summarise(rows) == found
    assert all(not measure.higher_is_better and measure.percent for measure in THREE.measures(rows))


def test_the_part_that_is_counted_has_no_say_in_alpha():
    rows = localised()
    for row in rows:
        if not tunes(row["picture"]):  # a great success with the first α, on the wrong side
            row["value"] = [0.9, 0.1, 0.1]
    assert THREE.tuned(rows)["value"] == 0.2
    assert THREE.summarise(rows)["error by value"].value == 1


def test_every_resampling_chooses_its_own_alpha():
    rows = localised(60)
    (measure, *_) = THREE.measures(rows)
    draw = np.random.default_rng(0)
    weights = draw.integers(0, 3, (50, 60)).astype(float)
    columns = {
        "picture": np.array([row["picture"] for row in rows]),
        "value": np.array([row["value"] for row in rows]),
    }
    expected, chosen = [], set()
    for line in weights:
        part = [(row, times) for row, times in zip(rows, line, strict=True) if tunes(row["picture"])]
        rest = [(row, times) for row, times in zip(rows, line, strict=True) if not tunes(row["picture"])]
        right = [sum(times * (row["value"][at] > 0.5) for row, times in part) for at in range(3)]
        at = right.index(max(right))
        chosen.add(at)
        wrong = sum(times * (row["value"][at] <= 0.5) for row, times in rest)
        expected.append(wrong / sum(times for _, times in rest))
    np.testing.assert_allclose(measure.statistic(columns, weights), expected)
    assert len(chosen) > 1


def test_equal_alphas_give_the_least_and_a_single_one_needs_no_tuning():
    rows = localised()
    for row in rows:
        row["value"] = [0.1, 0.9, 0.9]
    assert THREE.tuned(rows)["value"] == 0.2
    single = [{**row, **{kind: row[kind][:1] for kind in THREE.kinds}} for row in localised()]
    found = WeakLocalisation(value=(0.5,), energy=(0.5,), mean=(2,)).summarise(single)["error by energy"]
    assert found.count == 200
    assert found.value == pytest.approx(sum(row["energy"][0] <= 0.5 for row in single) / 200)


def test_a_part_without_pictures_leaves_the_error_open():
    rows = [row for row in localised() if tunes(row["picture"])]
    assert math.isnan(THREE.summarise(rows)["error by value"].value)
    others = [row for row in localised() if not tunes(row["picture"])]
    assert math.isnan(THREE.summarise(others)["error by value"].value)
    assert math.isnan(THREE.tuned(others)["value"])


def test_an_overlap_of_exactly_one_half_is_an_error():
    rows = [{**row, "value": [0.5, 0.5, 0.5]} for row in localised(40)]
    assert THREE.summarise(rows)["error by value"].value == 1


# The deletion game


def brightness(inputs):
    """Two logits: the sum of an input's upper left corner, which Fade takes away, and 0."""
    total = inputs[:, 0, :2, :2].sum((1, 2))
    return torch.stack([total, torch.zeros_like(total)], 1)


def test_the_smallest_box_counts_by_hand():
    """The corner of four ones gives the logit 4; boxes of three heights hide one, two, or four of them and more."""
    inputs = torch.zeros(1, 1, 6, 5)
    inputs[..., :2, :2] = 1
    saliency = picture_of((6, 5), (0, 0, 10), (0, 1, 8), (1, 0, 6), (3, 3, 3))
    case = case_of(saliency, model=brightness, inputs=inputs, target=0)
    # Softmax of 4, 3, 2 and 0 against 0; the last is that of everything hidden.
    left = {shown: (1 / (1 + math.exp(-shown)) - 0.5) / (1 / (1 + math.exp(-4)) - 0.5) for shown in (4, 3, 2, 0)}
    areas = {3: 1, 2: 2, 0: 4}
    protocol = DeletionGame(suppressions=(0.05, 0.2, 0.3, 0.99), heights=(0, 0.2, 0.5, 0.7, 0.9), perturbation=Fade())
    row = protocol.measure(case)
    for suppression in protocol.suppressions:
        expected = min(area for shown, area in areas.items() if left[shown] <= 1 - suppression)
        assert row[f"pixels {100 * suppression:g}"] == expected
        assert row[f"share {100 * suppression:g}"] == pytest.approx(expected / 30)
    assert [row[f"pixels {level}"] for level in (5, 20, 30, 99)] == [1, 2, 4, 4]
    assert row["whole"] == pytest.approx(1 / (1 + math.exp(-4)))
    assert row["blank"] == pytest.approx(0.5)


def test_where_no_box_of_the_map_suffices_all_of_the_input_does():
    inputs = torch.zeros(1, 1, 6, 5)
    inputs[..., :2, :2] = 1
    wrong = case_of(picture_of((6, 5), (5, 4, 1)), model=brightness, inputs=inputs, target=0)
    row = DeletionGame(heights=(0.5,), perturbation=Fade()).measure(wrong)
    assert [row[f"share {level}"] for level in (80, 90, 95, 99)] == [1] * 4
    constant = case_of(torch.ones(6, 5), model=brightness, inputs=inputs, target=0)
    assert DeletionGame(perturbation=Fade()).measure(constant)["pixels 80"] == 30


def test_where_nothing_can_be_suppressed_the_case_does_not_count():
    dark = case_of(torch.rand(6, 5), model=brightness, inputs=torch.zeros(1, 1, 6, 5), target=0)
    row = DeletionGame(perturbation=Fade()).measure(dark)
    assert math.isnan(row["pixels 80"])
    assert math.isnan(row["share 99"])
    worse = case_of(torch.rand(6, 5), model=brightness, inputs=-torch.ones(1, 1, 6, 5), target=0)
    lower = DeletionGame(perturbation=Fade()).measure(worse)
    assert lower["whole"] < lower["blank"]
    assert math.isnan(lower["pixels 80"])
    found = DeletionGame().summarise([{**row, "pixels 80": math.nan}, {**row, "pixels 80": 12.0}])
    assert found["pixels 80"].value == 12
    assert found["pixels 80"].count == 1


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(6 * 12 * 16, 4)
    )


@pytest.mark.parametrize("target", [0, Logit(1)])
def test_boxes_are_those_of_a_loop_over_blurred_pictures(target):
    generator = torch.Generator().manual_seed(1)
    model = network().train()
    inputs = 3 * torch.randn(1, 3, 16, 20, generator=generator)
    saliency = gaussian_blur(torch.randn(1, 1, 16, 20, generator=generator), 2)[0, 0]
    protocol = DeletionGame(suppressions=(0.3, 0.6, 0.9), heights=(0.1, 0.5, 0.6, 0.7, 0.8, 0.9), batch=2)
    row = protocol.measure(case_of(saliency, model=model, inputs=inputs, target=target))
    blurred = gaussian_blur(inputs, 10)

    def score(seen):
        with torch.no_grad():
            outputs = model(seen)
        return outputs[0, 1].item() if isinstance(target, Logit) else outputs.softmax(1)[0, target].item()

    found = []
    for height in (0, *protocol.heights):
        places = (saliency - saliency.min() >= height * (saliency.max() - saliency.min())).nonzero()
        (top, left), (bottom, right) = places.amin(0).tolist(), places.amax(0).tolist()
        seen = inputs.clone()
        seen[..., top : bottom + 1, left : right + 1] = blurred[..., top : bottom + 1, left : right + 1]
        found.append(((bottom + 1 - top) * (right + 1 - left), score(seen)))
    whole, blank = score(inputs), score(blurred)
    assert whole > blank
    assert (row["whole"], row["blank"]) == pytest.approx((whole, blank), rel=1e-5)
    for suppression in protocol.suppressions:
        expected = min(area for area, left in found if (left - blank) / (whole - blank) <= 1 - suppression + 1e-9)
        assert row[f"pixels {100 * suppression:g}"] == expected
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    levels = [row[f"pixels {100 * suppression:g}"] for suppression in protocol.suppressions]
    assert levels == sorted(levels)


def test_inputs_of_one_axis_have_intervals_for_boxes():
    inputs = torch.zeros(1, 1, 9)
    inputs[..., 4] = 3

    def model(seen):
        return torch.stack([seen.sum((1, 2)), torch.zeros(len(seen))], 1)

    saliency = torch.tensor([0, 0, 0, 1, 2, 0, 0, 0, 0.0])
    row = DeletionGame(perturbation=Constant(0), heights=(0.4, 0.9)).measure(
        case_of(saliency, model=model, inputs=inputs, target=0)
    )
    assert row["pixels 99"] == 1


# The centre


@pytest.mark.parametrize("shape", [(7,), (9, 5), (3, 7, 5)])
def test_the_bump_is_symmetric_and_highest_in_the_middle(shape):
    saliency = bump(shape, 0.25)
    middle = tuple(length // 2 for length in shape)
    assert saliency[middle] == 1
    assert (saliency == 1).sum() == 1
    for axis in range(len(shape)):
        torch.testing.assert_close(saliency, saliency.flip(axis))
        line = saliency.movedim(axis, 0).reshape(shape[axis], -1)
        assert (line[: shape[axis] // 2 + 1].diff(dim=0) > 0).all()


def test_the_centre_is_the_same_for_every_picture_and_tells_the_score():
    model, inputs = network(), torch.rand(3, 3, 16, 20)
    result = Centre()(model, inputs, [0, 1, 2])
    assert result.map.shape == (3, 1, 16, 20)
    assert torch.equal(result.map[0], result.map[2])
    torch.testing.assert_close(result.whole, model(inputs)[[0, 1, 2], [0, 1, 2]])
    assert result.masks is None
    assert result.scores is None
    assert from_json(result.about["method"]) == Centre()
    torch.testing.assert_close(
        result.map[0, 0, 8, 19], torch.exp(torch.tensor(-((9.5 / 5) ** 2) / 2 - 0.5 * (0.5 / 4) ** 2))
    )
    with pytest.raises(ValueError, match="sigma"):
        Centre(sigma=0)
    with pytest.raises(ValueError, match="target"):
        Centre()(model, inputs, 9)


def test_the_centre_points_at_the_middle_of_what_is_seen():
    model, inputs = network(), torch.rand(1, 3, 16, 20)
    known = truth_of(picture_of((80, 100), (39, 49, 1)))
    result = Centre()(model, inputs, 0)
    row = PointingGame(tolerance=5).measure(
        Case(attribution=result, inputs=inputs, truth=known, window=Window((100, 80), 0, 0, 100, 80))
    )
    assert row["hit"]


# What all of them promise


ALL = [*LOCATING, DeletionGame(heights=(0.3, 0.7), batch=3)]


def whole_case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    saliency = torch.randn(1, 1, 16, 20, generator=generator)
    known = truth_of(picture_of((16, 20), (3, 4, 1), (9, 12, 1)), others=2)
    inputs = torch.randn(1, 3, 16, 20, generator=generator)
    return Case(attribution=Attribution(map=saliency), model=network(), inputs=inputs, target=0, truth=known)


@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: type(protocol).__name__)
def test_rows_are_plain_and_the_same_each_time(protocol):
    state = torch.get_rng_state()
    case = whole_case()
    torch.set_rng_state(state)
    row = protocol.measure(case)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(value != value for value in row.values())  # noqa: PLR0124  # NaN would make the next line fail
    assert json.loads(json.dumps(row)) == row
    torch.manual_seed(99)
    assert protocol.measure(whole_case()) == row
    for value in row.values():
        for each in value if isinstance(value, list) else [value]:
            assert type(each) in {bool, int, float}
    summary = protocol.summarise([{**protocol.measure(whole_case(seed)), "picture": f"{seed}"} for seed in range(20)])
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in summary.values())


@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: type(protocol).__name__)
def test_settings_are_values(protocol):
    assert hash(protocol) == hash(pickle.loads(pickle.dumps(protocol)))  # noqa: S301
    assert from_json(json.loads(json.dumps(as_json(protocol)))) == protocol


@pytest.mark.parametrize("protocol", LOCATING, ids=lambda protocol: type(protocol).__name__)
def test_what_is_missing_or_does_not_fit_is_said(protocol):
    assert protocol.needs == {"truth"}
    with pytest.raises(ValueError, match="needs truth"):
        protocol.measure(case_of(torch.rand(4, 5)))
    known = truth_of(torch.ones(4, 5))
    with pytest.raises(ValueError, match="4 × 6 places and the truth 4 × 5"):
        protocol.measure(case_of(torch.rand(4, 6), known))
    with pytest.raises(ValueError, match="not finite"):
        protocol.measure(case_of(torch.full((4, 5), math.nan), known))


def test_a_truth_without_pixels_cannot_be_hit():
    with pytest.raises(ValueError, match="no pixel"):
        PointingGame().measure(case_of(torch.rand(4, 5), truth_of(torch.zeros(4, 5), boxes=[[0, 0, 0, 0]])))


@pytest.mark.parametrize("name", ["model", "inputs", "target"])
def test_the_deletion_game_says_what_it_misses(name):
    with pytest.raises(ValueError, match=f"needs {name}"):
        DeletionGame().measure(replace(whole_case(), **{name: None}))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PointingGame(tolerance=0), "tolerance"),
        (lambda: PointingGame(ground="box"), "ground must be one of finest"),
        (lambda: EnergyPointing(ground="box"), "ground"),
        (lambda: EnergyPointing(floor="mean"), "floor"),
        (lambda: AreaUnderROC(ground="box"), "ground"),
        (lambda: WeakLocalisation(value=()), "value must list"),
        (lambda: WeakLocalisation(energy=(0.5, 1.0)), "energy"),
        (lambda: WeakLocalisation(mean=(-1,)), "mean"),
        (lambda: WeakLocalisation(overlap=1), "overlap"),
        (lambda: DeletionGame(suppressions=(0.0,)), "suppressions"),
        (lambda: DeletionGame(suppressions=(80,)), "suppressions"),
        (lambda: DeletionGame(heights=(1.0,)), "heights"),
        (lambda: DeletionGame(batch=0), "batch"),
        (lambda: DeletionGame(memory=0), "memory"),
    ],
)
def test_settings_without_meaning_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_lists_of_settings_become_values():
    assert WeakLocalisation(value=[0.1, 0.2]) == WeakLocalisation(value=(0.1, 0.2))
    assert DeletionGame(heights=[0.5]).heights == (0.5,)
    assert hash(DeletionGame(perturbation=Blur(5, 2), heights=[0.5])) == hash(
        DeletionGame(perturbation=Blur(5, 2), heights=(0.5,))
    )
