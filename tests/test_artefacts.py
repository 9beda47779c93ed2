"""Whether a mask scores by what it shows, or by its own pattern; and pictures with other phases."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sfumato import Attribution, Blur, Fade, Noise, Scramble
from sfumato.metrics import Artefacts, Case
from sfumato.metrics.artefacts import hallucinated

SIDE = 32


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


# Scramble


@pytest.mark.parametrize("shape", [(2, 3, 8, 7), (1, 2, 9), (2, 1, 4, 5, 6)])
def test_phases_change_and_nothing_else(shape):
    x = random(*shape) + 0.5
    found = Scramble(seed=3).scrambled(x)
    axes = tuple(range(2, len(shape)))
    before, after = np.fft.fftn(x.double().numpy(), axes=axes), np.fft.fftn(found.double().numpy(), axes=axes)
    np.testing.assert_allclose(abs(after), abs(before), atol=1e-4)
    np.testing.assert_allclose(found.mean(axes), x.mean(axes), atol=1e-5)
    np.testing.assert_allclose(after * after[:, :1].conj(), before * before[:, :1].conj(), atol=1e-3)  # of two channels
    assert (found - x).abs().mean() > 0.3


def test_each_input_is_scrambled_by_itself_and_equally():
    x = random(3, 2, 6, 6)
    torch.testing.assert_close(Scramble().scrambled(x)[1:2], Scramble().scrambled(x[1:2]))
    assert torch.equal(Scramble().scrambled(x), Scramble(0).scrambled(x))
    assert (Scramble(1).scrambled(x) - Scramble(0).scrambled(x)).abs().mean() > 0.1


def test_a_mask_blends_with_the_scrambled_input():
    x, masks = random(2, 3, 6, 5), torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(1))
    query = torch.tensor([1, 0])
    found = Scramble(4)(x)(masks, query)
    torch.testing.assert_close(found, masks * x[query] + (1 - masks) * Scramble(4).scrambled(x)[query])


# Worth, alone


def shown(case_score, mask, x, **settings):
    """The row of one mask of a picture for a score that is a function of the inputs."""
    found = Attribution(mask[None, None], masks=mask[None, None, None])
    case = Case(found, lambda inputs: inputs, x, case_score)
    return Artefacts(**{"perturbation": Fade(), **settings}).measure(case)


def box(left, top, right, bottom):
    mask = torch.zeros(SIDE, SIDE)
    mask[top:bottom, left:right] = 1
    return mask


def content(inputs):
    return inputs[:, :, 10:16, 10:16].mean((1, 2, 3))


def outline(inputs):
    return (inputs[:, :, 8:24, 8] - inputs[:, :, 8:24, 7]).abs().mean((1, 2))


def test_a_mask_that_shows_the_object_is_worth_little_over_other_contents():
    x = 0.1 * random(1, 3, SIDE, SIDE)
    x[:, :, 10:16, 10:16] += 3
    row = shown(content, box(8, 8, 18, 18), x)
    assert row["worth"] == pytest.approx(1, abs=1e-5)
    assert abs(row["alone"]) < 0.3
    assert row["masks"] is True


def test_a_mask_whose_outline_is_what_is_scored_is_worth_as_much_over_other_contents():
    x = 2 + 0.3 * random(1, 3, SIDE, SIDE)
    row = shown(outline, box(8, 8, 24, 24), x)
    assert row["worth"] > 3
    assert row["alone"] == pytest.approx(row["worth"], rel=0.2)


def test_worth_and_alone_by_hand():
    x, mask, seed = random(1, 3, SIDE, SIDE) + 1, box(9, 9, 20, 20), 5
    case = Case(Attribution(mask[None, None], masks=mask[None, None, None]), lambda i: i, x, content, seed=seed)
    row = Artefacts(perturbation=Blur(3), draws=2).measure(case)
    ones, query = torch.ones_like(mask)[None, None], torch.zeros(1, dtype=torch.long)

    def score(inputs, part):
        return content(Blur(3)(inputs)(part, query)).item()

    hidden, whole = score(x, 0 * ones), score(x, ones)
    assert row["worth"] == pytest.approx((score(x, mask[None, None]) - hidden) / (whole - hidden), rel=1e-4)
    gains = [
        score(Scramble(number).scrambled(x), mask[None, None]) - score(Scramble(number).scrambled(x), 0 * ones)
        for number in (seed, seed + 1)
    ]
    assert row["alone"] == pytest.approx(sum(gains) / 2 / (whole - hidden), rel=1e-3)


def test_no_worth_where_hiding_takes_no_score_away():
    row = shown(lambda inputs: 1 + 0 * inputs.mean((1, 2, 3)), box(8, 8, 16, 16), random(1, 3, SIDE, SIDE))
    assert math.isnan(row["worth"])
    assert math.isnan(row["alone"])


def test_a_map_is_judged_by_its_highest_places():
    x = torch.zeros(1, 3, SIDE, SIDE)
    x[:, :, 10:16, 10:16] = 3
    case = Case(Attribution(x.mean(1, keepdim=True)), lambda i: i, x, content)
    row = Artefacts(area=36 / SIDE**2).measure(case)
    assert row["worth"] == pytest.approx(1, abs=1e-5)
    assert row["masks"] is False
    assert Artefacts(area=18 / SIDE**2).measure(case)["worth"] == pytest.approx(0.5, abs=1e-5)


# Edges


def step_at(*columns):
    picture = torch.zeros(1, SIDE, SIDE)
    for column in columns:
        picture[:, :, column:] += 1
    return picture


def test_edges_that_the_picture_has_not():
    picture = step_at(16)
    again, moved, other = step_at(16), step_at(22), step_at(8)
    assert hallucinated(picture, again[None], 2, 1) == 0
    assert hallucinated(picture, moved[None], 7, 1) == 0
    assert hallucinated(picture, moved[None], 2, 1) == pytest.approx(1, abs=0.05)
    assert hallucinated(picture, other[None], 2, 1) == pytest.approx(1, abs=0.05)
    assert hallucinated(picture, torch.stack([again, other]), 2, 1) == pytest.approx(0.5, abs=0.05)
    assert math.isnan(hallucinated(torch.ones(3, SIDE, SIDE), other[None].expand(1, 3, -1, -1), 2, 1))


def test_the_outline_of_a_set_is_an_edge_before_a_colour_and_none_where_nothing_is_hidden():
    x = (1 + step_at(16))[None].expand(1, 3, -1, -1).contiguous()
    assert shown(content, box(0, 0, 8, SIDE), x)["hallucinated"] == pytest.approx(1, abs=0.1)
    assert shown(content, torch.ones(SIDE, SIDE), x)["hallucinated"] == 0


def test_places_are_hidden_as_the_masks_learnt_it():
    x = (1 + step_at(16))[None].expand(1, 3, -1, -1).contiguous()
    mask = box(0, 0, 8, SIDE)
    about = {"perturbation": {"class": "sfumato.perturbations:Constant", "value": 1.0}}
    found = Attribution(mask[None, None], masks=mask[None, None, None], about=about)
    case = Case(found, lambda i: i, x, content)
    assert Artefacts().measure(case)["hallucinated"] == 0  # the colour of the places to the left
    assert Artefacts(perturbation=Fade()).measure(case)["hallucinated"] > 0.9
    assert Artefacts().measure(replace(case, attribution=replace(found, about={})))["hallucinated"] > 0.9


# What it refuses


def test_what_it_refuses(monkeypatch):
    x = random(1, 3, SIDE)
    with pytest.raises(ValueError, match="finds edges of pictures"):
        Artefacts().measure(Case(Attribution(random(1, 1, SIDE)), lambda i: i, x, lambda o: o.mean((1, 2))))
    for settings, message in (
        ({"perturbation": Noise}, "must be a perturbation"),
        ({"draws": 0}, "draws must be a whole number from 1 up"),
        ({"near": -1}, "near is a distance"),
        ({"width": -1}, "width is a length"),
        ({"area": 2}, "area is the share"),
        ({"score": "softmax"}, "score must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            Artefacts(**settings)
    with pytest.raises(ValueError, match="seed must be a whole number"):
        Scramble(seed="0")
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(ImportError, match=r"sfumato\[regions\]"):
        shown(content, box(8, 8, 16, 16), random(1, 3, SIDE, SIDE))
