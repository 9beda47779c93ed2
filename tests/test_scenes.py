"""Drawn scenes: what removing an element changes, whose pixels are whose, and which evidence is planted."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import Planted, Scenes, truth
from sfumato.data.scenes import CUE, DISTRACTOR, PART, PARTS, Drawing, Element, Patch, background
from sfumato.data.truth import polygon_pixels
from sfumato.settings import as_json, from_json

SCENES = Scenes(cue=0.5, cue_elsewhere=0.5)


def painted(scene):
    """A painter's way: patch over patch, onto the background. Also which element painted each pixel last."""
    picture = background(scene.side, scene.seed).copy()
    last = np.full((scene.side, scene.side), "", object)
    for element in scene.elements:
        for patch in element.patches:
            pixels = polygon_pixels(
                [number for corner in patch.corners for number in corner], (scene.side,) * 2
            ).numpy()
            for row, column in zip(*pixels.nonzero(), strict=True):
                picture[row, column] = patch.colour
                last[row, column] = element.name
    return torch.from_numpy(picture.transpose(2, 0, 1)), last


@pytest.mark.parametrize("index", range(6))
def test_pictures_and_masks_are_those_of_a_painter(index):
    drawing = SCENES.drawing(index)
    picture, last = painted(drawing.scene)
    assert torch.equal(drawing.picture(), picture)
    visible = drawing.visible()
    assert set(visible) == set(drawing.scene.names)
    for name, pixels in visible.items():
        assert np.array_equal(pixels.numpy(), last == name)


@pytest.mark.parametrize("index", range(6))
def test_a_removed_element_changes_only_its_pixels_and_shows_what_it_covered(index):
    drawing = SCENES.drawing(index)
    whole, visible, scene = drawing.picture(), drawing.visible(), drawing.scene
    for name in scene.names:
        without = drawing.picture([name])
        assert not (without != whole).any(0)[~visible[name]].any()
        rest = replace(scene, elements=tuple(element for element in scene.elements if element.name != name))
        assert torch.equal(without, painted(rest)[0])
    assert torch.equal(
        drawing.picture(scene.names), torch.from_numpy(background(scene.side, scene.seed).transpose(2, 0, 1))
    )


def test_a_covered_part_has_fewer_visible_pixels_until_the_cover_is_removed():
    below = Element("below", PART, (Patch(((8, 8), (40, 8), (40, 40), (8, 40)), (9, 9, 9)),))
    above = Element("above", PART, (Patch(((20, 20), (30, 20), (30, 30), (20, 30)), (99, 99, 99)),))
    scene = replace(SCENES.scene(0), elements=(below, above))
    drawing = Drawing(scene)
    assert [int(pixels.sum()) for pixels in drawing.visible().values()] == [32**2 - 10**2, 10**2]
    assert [int(pixels.sum()) for pixels in drawing.visible(["above"]).values()] == [32**2, 0]
    assert drawing.picture(["above"])[:, 25, 25].tolist() == [9, 9, 9]


@pytest.mark.parametrize("side", [48, 64, 96])
def test_all_parts_are_visible_and_mostly_inside_the_picture(side):
    for index in range(24):
        drawing = Scenes(side=side).drawing(index)
        visible = drawing.visible()
        for name in PARTS:
            assert visible[name].sum() >= 6, (index, name)
            corners = [
                corner
                for element in drawing.scene.elements
                if element.name == name
                for patch in element.patches
                for corner in patch.corners
            ]
            inside = sum(0 <= x <= side and 0 <= y <= side for x, y in corners)
            assert inside > len(corners) / 2, (index, name)


def test_the_same_scene_for_the_same_index_and_seed():
    assert SCENES.scene(5) == replace(SCENES).scene(5)
    assert SCENES.scene(5) != SCENES.scene(13)
    assert SCENES.scene(5).elements != replace(SCENES, seed=1).scene(5).elements
    assert torch.equal(SCENES.drawing(5).picture(), SCENES.drawing(5).picture())


def test_the_cue_has_its_shares_and_changes_nothing_else():
    planted = Scenes(cue=0.75, cue_elsewhere=0.25)
    has_cue = np.array([CUE in planted.scene(index).names for index in range(480)])
    of_class_0 = np.arange(480) % planted.creatures == 0
    assert abs(has_cue[of_class_0].mean() - 0.75) < 0.17  # 60 scenes: three standard deviations
    assert abs(has_cue[~of_class_0].mean() - 0.25) < 0.065
    for index in range(16):
        always, never = Scenes(cue=1, cue_elsewhere=1).scene(index), Scenes().scene(index)
        assert [name for name in always.names if name not in never.names] == ["cue"]
        assert tuple(element for element in always.elements if element.name != "cue") == never.elements


def test_distractors_come_in_the_number_asked_for():
    for count in range(4):
        scene = Scenes(distractors=count).scene(3)
        assert sum(element.kind == DISTRACTOR for element in scene.elements) == count
        assert scene.elements[count:] == SCENES.scene(3).elements[-len(PARTS) :]


def test_a_class_fixes_some_parts_and_leaves_others_free():
    table = SCENES.table
    assert len(table) == SCENES.creatures
    for entry in table:
        assert len(entry) == len(PARTS)
        assert sum(variant is not None for variant in entry) == SCENES.fixed
    for number, entry in enumerate(table):
        for other in table[:number]:
            assert sum(None not in pair and pair[0] != pair[1] for pair in zip(entry, other, strict=True)) >= 2
    seen = [set() for _ in PARTS]
    for index in range(2, 2 + 40 * SCENES.creatures, SCENES.creatures):
        scene = SCENES.scene(index)
        assert scene.label == 2
        for part, variant in enumerate(scene.variants):
            seen[part].add(variant)
    assert seen == [{0, 1, 2} if variant is None else {variant} for variant in table[2]]


def test_variants_look_different():
    for name, draw in PARTS.items():
        assert len({tuple(draw(variant, (1, 2, 3))) for variant in range(3)}) == 3, name


def test_files_and_tensors_of_the_data_set_are_the_same(tmp_path):
    data = Planted(tmp_path, SCENES, pictures=3, first=7)
    assert (len(data), data.classes[:2], [example.name for example in data]) == (
        3,
        ("creature 0", "creature 1"),
        ["7", "8", "9"],
    )
    pictures, labels = data.tensors()
    assert labels.tolist() == [7, 0, 1]
    for index, example in enumerate(data):
        with Image.open(example.path) as file:
            assert np.array_equal(np.array(file), (pictures[index] * 255).round().byte().permute(1, 2, 0).numpy())
        visible = data.drawing(index).visible()
        places = truth(example, int(labels[index]), (64, 64)).places
        assert torch.equal(places, torch.stack([visible[name] for name in PARTS]).any(0))
        assert example.targets == (int(labels[index]),)


def test_files_are_written_once(tmp_path):
    data = Planted(tmp_path, SCENES, pictures=1)
    path = data[0].path
    path.write_bytes(b"not a picture")
    assert data[0].path.read_bytes() == b"not a picture"
    assert not list(tmp_path.rglob("*.partial"))


def test_settings_survive_json_and_pickle(tmp_path):
    data = Planted(tmp_path, Scenes(cue=0.9), 3)
    assert from_json(as_json(data)) == pickle.loads(pickle.dumps(data)) == data  # noqa: S301
    assert from_json(as_json(SCENES)) == SCENES


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scenes(side=20), "side must be a whole number from 48 up; got 20"),
        (lambda: Scenes(cue=90), "cue is a share of scenes, at least 0 and at most 1; got 90"),
        (lambda: Scenes(distractors=4), "distractors must be at most 3; got 4"),
        (lambda: Scenes(fixed=7), "fixed must be at most 6"),
        (lambda: Scenes(seed=-1), "seed must be a whole number from 0 up; got -1"),
        (lambda: Scenes(creatures=40, fixed=1), "found no 40 creatures of 1 fixed parts .* write fewer creatures"),
        (lambda: Planted("x", scenes="birds"), r"scenes must be a configuration such as Scenes\(cue=0.9\)"),
        (lambda: Planted("x", pictures=0), "pictures must be a whole number from 1 up"),
        (lambda: SCENES.drawing(1).picture(["nose"]), "the scene has no element 'nose'; it has distractor 1, "),
    ],
)
def test_what_cannot_be_drawn(build, message):
    with pytest.raises(ValueError, match=message):
        build()
