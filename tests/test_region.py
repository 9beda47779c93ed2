"""The mean over a region of maps agrees with loops over its places, for masks and boxes of any number of axes."""

import pytest
import torch

from sfumato import Contrastive, Entropy, ExtremalPerturbation, Jitter, Logit, Probability, Region, Regression
from sfumato.scores.region import Places, as_boxes
from sfumato.settings import as_json, from_json

QUERY = torch.tensor([1, 0, 1])
LENGTHS = {1: (12,), 2: (8, 12), 3: (4, 6, 8)}


def random_masks(shape, count=2):
    masks = torch.rand(count, *shape, generator=torch.Generator().manual_seed(5)) < 0.3
    masks.flatten(1)[:, 7] = True
    return list(masks)


def maps(shape, classes=4):
    return torch.randn(3, classes, *shape, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("coarser", [1, 2])
def test_it_is_the_mean_over_the_places_of_the_mask(axes, coarser):
    """Each place of the outputs is repeated over the places of the input that it covers; their mean by a loop in float64."""
    masks = random_masks(LENGTHS[axes])
    outputs = maps([length // coarser for length in LENGTHS[axes]])
    found = Region([2, 3], masks)(outputs, QUERY)
    for row, query in enumerate(QUERY.tolist()):
        values = [
            outputs[row, [2, 3][query]][tuple(place // coarser for place in places)].double().item()
            for places in masks[query].nonzero().tolist()
        ]
        assert found[row].item() == pytest.approx(sum(values) / len(values), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("score", "value"),
    [
        (Logit(2), lambda logits: logits[2]),
        (Probability(2), lambda logits: logits.softmax(0)[2]),
        (Probability(2, link="sigmoid"), lambda logits: logits.sigmoid()[2]),
        (Contrastive(2, against=3), lambda logits: logits[2] - logits[3]),
        (Regression(2, reference=0.5, scale=2.0), lambda logits: 1 / (1 + ((logits[2] - 0.5) / 2) ** 2)),
        (Entropy(), lambda logits: torch.distributions.Categorical(logits=logits).entropy()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_it_is_of_any_score_that_a_place_has(score, value):
    outputs, mask = maps((8, 12)), random_masks((8, 12))[0]
    expected = [
        torch.stack([value(row.double()[:, y, x]) for y, x in mask.nonzero().tolist()]).mean() for row in outputs
    ]
    torch.testing.assert_close(
        Region(score, mask)(outputs, QUERY).double(), torch.stack(expected), rtol=1e-5, atol=1e-6
    )


def test_a_box_is_the_pixels_whose_centres_it_holds():
    outputs = maps((8, 12))
    found = Region.in_box(1, [(2.4, 1, 5.6, 4), (0, 0, 12, 8)], (8, 12))(outputs, QUERY)
    expected = torch.stack([outputs[0, 1].mean(), outputs[1, 1, 1:4, 2:6].mean(), outputs[2, 1].mean()])
    torch.testing.assert_close(found, expected)
    one = Region.in_box(1, torch.tensor([2, 1, 6, 4]), (8, 12))
    assert isinstance(one.mask, Places)
    torch.testing.assert_close(one(outputs, QUERY), outputs[:, 1, 1:4, 2:6].mean((1, 2)))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_places_hold_any_mask(axes):
    for mask in [*random_masks(LENGTHS[axes], 4), torch.ones(LENGTHS[axes])]:
        places = Places.of(mask)
        assert torch.equal(places.mask, mask.bool())
        assert from_json(as_json(places)) == places
        assert Places.of(mask.numpy()) == places


def test_a_result_s_file_holds_the_regions(tmp_path):
    from sfumato import RISE, load

    region = Region([1, 0], random_masks((8, 8)))
    inputs = torch.rand(2, 2, 8, 8)
    result = RISE(samples=8, cells=2)(lambda x: x, inputs, region)
    result.save(tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors")
    assert from_json(loaded.about["score"]) == region
    assert from_json(loaded[1].about["score"]) == Region([0], random_masks((8, 8))[1:])
    assert "mean_over_places" not in loaded.about


def test_a_search_does_not_mirror_what_has_a_place():
    """The network answers at the places of its input: a mirrored region would be that of the other half."""
    mask = torch.zeros(16, 16)
    mask[4:12, 1:7] = 1
    inputs = torch.full((1, 1, 16, 16), 0.2)
    inputs[..., 4:12, :] = 1
    for jitter, used in ((Jitter(), [1, 1]), (None, None)):
        method = ExtremalPerturbation.smooth_masks((0.2,), steps=30, jitter=jitter)
        result = method(lambda x: x, inputs, Region(0, mask))
        assert (result.about["jitter"] or {"flip": False})["flip"] is False
        assert (result.about["jitter"] or {}).get("shift") == used
        assert result.masks[..., :8].sum() > 0.8 * result.masks.sum()
    mirrored = ExtremalPerturbation.smooth_masks((0.2,), steps=2)
    assert mirrored(lambda x: x, inputs, 0).about["jitter"]["flip"]
    assert not mirrored(lambda x: x, inputs, Logit(0) - 0.1 * Region(0, mask)).about["jitter"]["flip"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Region(1, torch.zeros(4, 4)), "mask is empty"),
        (lambda: Region(1, torch.rand(4, 4)), "write e.g. mask > 0.5"),
        (lambda: Region(1, torch.ones(2, 1, 4, 4)), r"Give a list of masks for one per input"),
        (lambda: Region(1, []), "have one shape"),
        (lambda: Region(1, [torch.ones(3, 3), torch.ones(4, 4)]), "have one shape"),
        (lambda: Region(Logit(1) + Logit(2), torch.ones(4, 4)), r"e.g. Region\(Logit\(3\), mask\)"),
        (lambda: Region.in_box(1, (0, 0, 0.2, 0.2), (4, 4)), "has no pixel of a picture of 4 × 4"),
        (lambda: Region.in_box(1, (3, 0, 1, 2), (4, 4)), "left < right"),
        (lambda: as_boxes("box"), "a box is left, top, right and bottom"),
        (lambda: Places((2, 2), (1, 2)), "have the sum 4; got 3"),
        (lambda: Region(1, torch.ones(4, 4))(torch.rand(3, 2), QUERY), "outputs that are maps"),
        (lambda: Region(1, [torch.ones(4, 4)] * 3).check(2), "got 3 masks of a region for 2 inputs"),
        (lambda: Region([1, 2, 3], torch.ones(4, 4)).check(2), "got 3 targets for 2 inputs"),
        (lambda: Region(9, torch.ones(4, 4))(maps((4, 4)), QUERY), "target 9 is out of range"),
    ],
)
def test_what_is_no_region_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("shape", "places"), [((13,), (5,)), ((7, 10), (3, 4)), ((4, 6), (5, 9)), ((5, 4, 6), (2, 3, 4))]
)
def test_outputs_whose_places_do_not_divide_the_input_evenly(shape, places):
    """Both grids drawn on one that both divide, where the mean over the region is one over equal places, in float64."""
    mask, outputs = random_masks(shape)[0], maps(places)
    fine_mask, fine = mask.double(), outputs.double()
    for axis, (length, count) in enumerate(zip(shape, places, strict=True)):
        fine_mask = fine_mask.repeat_interleave(count, axis)
        fine = fine.repeat_interleave(length, axis + 2)
    expected = (fine[:, 2] * fine_mask).flatten(1).sum(1) / fine_mask.sum()
    found = Region(2, mask)(outputs, QUERY)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
