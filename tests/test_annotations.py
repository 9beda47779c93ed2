"""Masks as annotations: where they lie in pictures, and what readers of each format get back."""

import base64
import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from torch import nn

import sfumato
from sfumato import annotations
from sfumato.attribution import Attribution
from sfumato.data import COCO, Masked, truth
from sfumato.data.coco import decompress
from sfumato.data.truth import polygon_pixels
from sfumato.figures.annotations import Annotation, annotated, as_coco, as_cvat, as_labelme, as_png, write
from sfumato.figures.annotations.outlines import is_hole, outlines, polygons
from sfumato.figures.annotations.run_lengths import compress, lengths
from sfumato.model.fingerprint import fingerprint
from sfumato.models import Classifier, Preparation

few = settings(max_examples=60, deadline=None, derandomize=True)
LABELS = ("tench, Tinca tinca", "żółw & <co>", "cat")

RING = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 1]], dtype=bool)
PINCHED = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)
"""Its middle touches the outside at a corner."""
APART = np.array([[1, 0, 1, 1], [0, 1, 0, 1]], dtype=bool)
"""Three pieces, of which two touch at corners."""
NESTED = np.pad(np.pad(np.pad(np.ones((1, 2), bool), 1), 1, constant_values=True), 2)
"""A piece in the hole of another."""
WHOLE = np.ones((3, 2), dtype=bool)
MASKS = [RING, PINCHED, APART, NESTED, WHOLE]

masks_of_any_kind = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)).filter(np.any)


def classifier(**preparation):
    torch.manual_seed(0)
    preparation = Preparation(**{"size": 12, "resize": 14} | preparation)
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier("toy:conv", net.eval(), preparation, LABELS)


def result_of(masks, **more):
    masks = torch.as_tensor(masks).float()
    masks = masks.reshape(1, -1, 1, *masks.shape[-2:])
    return Attribution(map=masks.mean(1), masks=masks, **more)


def annotation_of(mask, picture="a.png", label=1, about=None):
    return Annotation(picture, label, LABELS[label], torch.as_tensor(mask), about or {"model": "m", "score_kept": 2.5})


def picture_of(size):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


# Where masks lie


def interpolated(mask, size, window):
    """A mask's values at the centres of a picture's pixels, by loops in float64: -1 where the network sees nothing, and NaN
    for pixels whose centre is where what it sees ends."""
    left, top, right, bottom = window
    height, width = mask.shape
    values = np.full(size[::-1], -1.0)
    for row in range(size[1]):
        for column in range(size[0]):
            x, y = (column + 0.5 - left) / (right - left), (row + 0.5 - top) / (bottom - top)
            if min(abs(x), abs(y), abs(x - 1), abs(y - 1)) < 1e-6:
                values[row, column] = np.nan
            elif 0 < x < 1 and 0 < y < 1:
                u, v = min(max(x * width - 0.5, 0), width - 1), min(max(y * height - 0.5, 0), height - 1)
                i, j = min(int(v), height - 2), min(int(u), width - 2)
                a, b = v - i, u - j
                above = mask[i, j] * (1 - b) + mask[i, j + 1] * b
                below = mask[i + 1, j] * (1 - b) + mask[i + 1, j + 1] * b
                values[row, column] = above * (1 - a) + below * a
    return values


@pytest.mark.parametrize("preparation", [{}, {"resize": None}, {"size": None}, {"size": 14}])
@pytest.mark.parametrize("size", [(41, 29), (15, 40), (11, 9)])
@pytest.mark.parametrize("level", [0.3, 0.5])
def test_masks_lie_in_the_picture_where_the_network_saw_them(preparation, size, level):
    model = classifier(**preparation)
    shape = model.prepare(picture_of(size)).shape[1:]
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (found,) = annotated(result_of(mask), model, picture_of(size), "a.png", 2, level)
    values = interpolated(mask.float().double().numpy(), size, model.preparation.window(size))
    sure = np.abs(values - level) > 1e-4
    assert sure.mean() > 0.95
    assert found.size == size
    np.testing.assert_array_equal(found.mask.numpy()[sure], (values >= level)[sure])


def test_a_mask_as_large_as_the_picture_stays_as_it_is():
    model = classifier(size=16, resize=None)
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(1)) > 0.6
    (found,) = annotated(result_of(mask), model, picture_of((16, 16)), "a.png", 0)
    assert torch.equal(found.mask, mask)


def test_what_the_network_did_not_see_is_not_annotated():
    model = classifier()
    (found,) = annotated(result_of(torch.ones(12, 12)), model, picture_of((40, 20)), "a.png", 0)
    left, top, right, bottom = model.preparation.window((40, 20))
    assert top > 1
    assert left > 1
    box = (round(left), round(top), round(right), round(bottom))
    assert found.box == box == (11, 1, 29, 19)
    assert int(found.mask.count_nonzero()) == 18 * 18


def test_each_mask_says_where_it_is_from():
    model = classifier()
    picture = picture_of((30, 20))
    method = sfumato.ExtremalPerturbation(
        areas=(0.2, 0.5), steps=4, mask=sfumato.masks.smooth.SmoothMask(step=3, sigma=2)
    )
    result = method(model.net, torch.stack([model.prepare(picture)] * 2), torch.tensor([2, 1]))
    first, second = annotated(result[1], model, picture, "a.png", 1, level=0.05)
    assert first.about["model"] == "toy:conv"
    assert first.about["weights"] == fingerprint(model.net)
    assert first.about["method"]["steps"] == 4
    assert first.about["score"]["target"] == 1
    called = annotated(result[1], model, picture, "a.png", 0, level=0.05)[0]
    assert called.about["score"]["target"] == 1  # what was explained, whatever the annotation calls it
    assert (first.about["area_asked"], second.about["area_asked"]) == (0.2, 0.5)
    for variant, each in enumerate((first, second)):
        assert each.about["area_achieved"] == pytest.approx(float(result.achieved[1, variant]), rel=1e-6)
        assert each.about["score_kept"] == pytest.approx(float(result.scores[1, variant]), rel=1e-6)
        assert each.about["score_whole"] == pytest.approx(float(result.whole[1]), rel=1e-6)
        assert each.about["level"] == 0.05
        assert each.about["sfumato"] == result.about["versions"]["sfumato"]
    (only,) = annotated(result[1], model, picture, "a.png", 1, level=0.05, variants=[-1], weights="known")
    assert torch.equal(only.mask, second.mask)
    assert only.about == second.about | {"weights": "known"}
    json.dumps(first.about, allow_nan=False)


def test_numbers_that_are_none_are_null():
    result = result_of(torch.ones(1, 12, 12), scores=torch.tensor([[float("nan")]]))
    (found,) = annotated(result, classifier(), picture_of((12, 12)), "a.png", 0)
    assert [found.about[name] for name in ("score_kept", "score_whole", "area_asked", "method")] == [None] * 4


def test_masks_at_a_layer_may_be_smaller():
    method = {"class": "sfumato.methods.extremal:ExtremalPerturbation", "layer": "0"}
    mask = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    found = annotated(result_of(mask, about={"method": method}), classifier(resize=None), picture_of((20, 12)), "a", 0)
    assert found[0].box == (10, 0, 20, 12)


# Bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"masks": None}, "has no masks"),
        ({"masks": torch.ones(1, 2, 5, 1, 1), "activation": torch.ones(1, 5, 3, 3)}, "channels"),
        ({"masks": torch.ones(1, 2, 5, 12, 12)}, "only masks of pictures"),
        ({"masks": torch.ones(1, 2, 1, 12)}, "only masks of pictures"),
        ({"masks": torch.ones(2, 1, 1, 12, 12)}, r"of one query; got 2"),
        ({"masks": torch.ones(1, 1, 1, 10, 12)}, "12 × 10 pixels; a picture of 30 × 20"),
        ({"masks": torch.ones(1, 1, 1, 6, 6)}, "6 × 6 pixels"),
        ({"masks": torch.full((1, 1, 1, 12, 12), float("nan"))}, "finite"),
        ({"masks": torch.full((1, 1, 1, 12, 12), 0.4)}, "largest value is 0.4"),
        ({"level": 0}, "level is"),
        ({"level": 1.5}, "level is"),
        ({"level": float("nan")}, "level is"),
        ({"label": 3}, "one of the 3 classes"),
        ({"label": True}, "one of the 3 classes"),
        ({"label": "cat"}, "one of the 3 classes"),
        ({"variants": [1]}, "indices of the 1 masks"),
        ({"variants": ["0"]}, "indices of the 1 masks"),
        ({"file": ""}, "picture must be text"),
        ({"file": "a\x00.png"}, "control characters"),
        ({"file": "a\udc80.png"}, "control characters"),
    ],
)
def test_what_cannot_be_annotated_is_refused(change, words):
    settings = {"label": 0, "file": "a.png"} | {
        key: value for key, value in change.items() if key not in ("masks", "activation")
    }
    masks = change.get("masks", torch.ones(1, 1, 1, 12, 12))
    queries = 1 if masks is None else len(masks)
    result = Attribution(map=torch.ones(queries, 1, 12, 12), masks=masks, activation=change.get("activation"))
    with pytest.raises(ValueError, match=words):
        annotated(result, classifier(), picture_of((30, 20)), **settings)


def test_a_picture_of_another_size_is_refused_where_inputs_are_as_long_as_pictures():
    model = classifier(size=None)
    mask = torch.ones(model.prepare(picture_of((40, 20))).shape[1:])
    annotated(result_of(mask), model, picture_of((40, 20)), "a.png", 0)
    with pytest.raises(ValueError, match="28 × 14 pixels; a picture of 20 × 40 makes an input of 14 × 28"):
        annotated(result_of(mask), model, picture_of((20, 40)), "a.png", 0)


@pytest.mark.parametrize("writer", [as_coco, as_cvat, as_labelme])
def test_annotations_that_do_not_go_together_are_refused(writer):
    with pytest.raises(ValueError, match="no annotation"):
        writer([])
    with pytest.raises(ValueError, match=r"\(2, 3\) pixels large in one annotation and \(5, 4\) in another"):
        writer([annotation_of(WHOLE), annotation_of(RING)])
    with pytest.raises(ValueError, match="form must be"):
        writer([annotation_of(WHOLE)], form="box")


def test_what_a_format_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"of one picture; got 'a\.png', 'b\.png'"):
        as_labelme([annotation_of(WHOLE), annotation_of(WHOLE, "b.png")])
    with pytest.raises(ValueError, match="class 1 is"):
        as_coco([annotation_of(WHOLE)], labels=["one", "two"])
    with pytest.raises(ValueError, match="class 1 is"):
        as_coco([annotation_of(WHOLE), Annotation("a.png", 1, "other", torch.tensor(WHOLE), {})])
    for mask in (WHOLE.astype(float), WHOLE[0], ~WHOLE):
        with pytest.raises(ValueError, match="mask"):
            annotation_of(mask)


# Outlines and runs


@few
@given(masks_of_any_kind)
@example(RING)
@example(PINCHED)
@example(APART)
@example(NESTED)
@example(np.pad(PINCHED, 1)[:, ::-1])
def test_polygons_enclose_exactly_the_masks_pixels(mask):
    size = mask.shape[::-1]
    found = polygons(mask)
    counts = sum(polygon_pixels([number for point in each for number in point], size).int() for each in found)
    np.testing.assert_array_equal(counts.numpy(), mask)  # and no pixel twice
    for polygon in found:
        assert len(set(polygon)) == len(polygon)
        sides = zip(polygon, polygon[1:] + polygon[:1], strict=True)
        assert len({(x == a, y == b) for (x, y), (a, b) in sides}) == 2  # level and upright ones, none of no length
        assert not is_hole(polygon)


@few
@given(masks_of_any_kind)
@example(NESTED)
@example(PINCHED)
def test_outlines_are_one_for_each_piece_and_each_hole(mask):
    found = outlines(mask)
    holes = sum(map(is_hole, found))
    assert len(found) - holes == pieces(mask)
    assert holes == pieces(~np.pad(mask, 1)) - 1  # less what is around


def pieces(mask):
    """How many groups of pixels there are that touch along their sides, by flooding."""
    left = set(zip(*np.nonzero(mask), strict=True))
    count = 0
    while left:
        count += 1
        todo = [left.pop()]
        while todo:
            row, column = todo.pop()
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if near in left:
                    left.remove(near)
                    todo.append(near)
    return count


@few
@given(st.lists(st.integers(0, 2**31), max_size=12))
def test_the_text_of_runs_says_the_runs(counts):
    assert decompress(compress(counts)) == tuple(counts)


@few
@given(masks_of_any_kind)
@example(WHOLE)
def test_the_text_of_runs_is_that_of_pycocotools(mask):
    coco_mask = pytest.importorskip("pycocotools.mask")
    expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert compress(lengths(mask.flatten(order="F"))) == expected


# What readers get back

FORMS = ["mask", "polygons", "either"]


def written(folder, form="either"):
    """Annotations of two pictures in a COCO file, with the pictures."""
    generator = np.random.default_rng(7)
    blot = np.zeros((30, 43), dtype=bool)
    blot[4:20, 5:30] = generator.random((16, 25)) > 0.3
    frame = np.ones((30, 43), dtype=bool)
    frame[10:12, 3:40] = False
    spot = np.zeros((9, 5), dtype=bool)
    spot[3:6, 1:4] = True
    given = [
        annotation_of(blot, "ż a.png", 2, {"model": "m", "area_asked": 0.1}),
        annotation_of(frame, "ż a.png", 1, {"model": "m", "area_asked": 0.9}),
        annotation_of(spot, "b.png", 2, {"model": "m", "area_asked": None}),
    ]
    for each in given:
        picture_of(each.size).save(folder / each.picture)
    write(as_coco(given, form, LABELS), folder / "masks.json")
    return given


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools beside NumPy 2
@pytest.mark.parametrize("form", FORMS)
def test_pycocotools_reads_every_pixel(tmp_path, form):
    coco_api = pytest.importorskip("pycocotools.coco")
    given = written(tmp_path, form)
    found = coco_api.COCO(str(tmp_path / "masks.json"))
    names = {each["id"]: each["file_name"] for each in found.loadImgs(found.getImgIds())}
    entries = found.loadAnns(found.getAnnIds())
    assert len(entries) == len(given)
    for entry, expected in zip(entries, given, strict=True):
        np.testing.assert_array_equal(found.annToMask(entry).astype(bool), expected.mask.numpy())
        assert names[entry["image_id"]] == expected.picture
        assert found.loadCats(entry["category_id"])[0]["name"] == expected.name
        assert entry["area"] == pytest.importorskip("pycocotools.mask").area(found.annToRLE(entry))
        assert entry["bbox"] == pytest.importorskip("pycocotools.mask").toBbox(found.annToRLE(entry)).tolist()
        assert entry["attributes"] == expected.about
    kinds = {list: "polygons", dict: "mask"}
    assert [kinds[type(each["segmentation"])] for each in entries] == {
        "mask": ["mask"] * 3,
        "polygons": ["polygons"] * 3,
        "either": ["mask", "mask", "polygons"],
    }[form]
    assert found.dataset["info"]["model"] == "m"
    assert "area_asked" not in found.dataset["info"]  # they differ


@pytest.mark.parametrize("form", FORMS)
def test_our_own_adapter_reads_every_pixel(tmp_path, form):
    given = written(tmp_path, form)
    data = COCO(str(tmp_path), annotations="masks.json", pictures=".")
    assert data.classes == LABELS
    assert [each.name for each in data] == ["ż a.png", "b.png"]
    for each in given:
        (found,) = [found for found in data if found.name == each.picture]
        assert found.path.is_file()
        assert found.size == each.size
        assert each.label in found.targets
        assert torch.equal(truth(found, each.label, each.size).places, each.mask)


def test_only_classes_that_occur_are_listed_unless_all_are_given():
    categories = as_coco([annotation_of(WHOLE, label=2), annotation_of(WHOLE, label=0)])["categories"]
    assert [(each["id"], each["name"]) for each in categories] == [(1, LABELS[0]), (3, LABELS[2])]


@pytest.mark.parametrize("mask", MASKS)
def test_png_masks_come_back_with_their_story(tmp_path, mask):
    annotation = annotation_of(mask)
    for kind in ("images", "masks"):
        (tmp_path / kind / "cat").mkdir(parents=True)
    picture_of(annotation.size).save(tmp_path / "images" / "cat" / "a.jpg")
    write(as_png(annotation), tmp_path / "masks" / "cat" / "a.png")
    (found,) = Masked(str(tmp_path))
    assert torch.equal(truth(found, 0, annotation.size).places, annotation.mask)
    with Image.open(tmp_path / "masks" / "cat" / "a.png") as opened:
        assert opened.mode == "L"
        assert set(np.unique(opened)) <= {0, 255}
        assert json.loads(opened.text["sfumato"]) == annotation.about
        assert (opened.text["Title"], opened.text["Source"]) == (LABELS[1], "a.png")


def of_labelme(content):
    """Each group's pixels, by the rules of LabelMe's files."""
    found = {}
    for shape in content["shapes"]:
        mask = np.zeros((content["imageHeight"], content["imageWidth"]), dtype=bool)
        if shape["shape_type"] == "mask":
            (left, top), (right, bottom) = shape["points"]
            with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as patch:
                mask[top : bottom + 1, left : right + 1] = np.array(patch).astype(bool)
        else:
            assert shape["shape_type"] == "polygon"
            mask |= polygon_pixels([number for point in shape["points"] for number in point], mask.shape[::-1]).numpy()
        found[shape["group_id"]] = found.get(shape["group_id"], False) | mask
    return list(found.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", MASKS)
def test_labelme_files_say_every_pixel(tmp_path, form, mask):
    given = [annotation_of(mask), annotation_of(mask[::-1].copy(), label=2)]
    write(as_labelme(given, form), tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    for found, expected in zip(of_labelme(content), given, strict=True):
        np.testing.assert_array_equal(found, expected.mask.numpy())
    assert (content["imagePath"], content["imageData"]) == ("a.png", None)
    assert {shape["label"] for shape in content["shapes"]} == {LABELS[1], LABELS[2]}
    for shape in content["shapes"]:
        assert json.loads(shape["description"]) == given[0].about
        assert shape["flags"] == {}


def of_cvat(root, image):
    """Each group's pixels, by the rules of CVAT's files."""
    found = {}
    size = int(image.get("width")), int(image.get("height"))
    for shape in image:
        mask = np.zeros(size[::-1], dtype=bool)
        if shape.tag == "mask":
            left, top, width, height = (int(shape.get(name)) for name in ("left", "top", "width", "height"))
            counts = [int(count) for count in shape.get("rle").split(",")]
            values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
            mask[top : top + height, left : left + width] = values.reshape(height, width)
        else:
            assert shape.tag == "polygon"
            points = [float(each) for point in shape.get("points").split(";") for each in point.split(",")]
            mask |= polygon_pixels(points, size).numpy()
        found[shape.get("group_id")] = found.get(shape.get("group_id"), False) | mask
    return list(found.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", MASKS)
def test_cvat_files_say_every_pixel(tmp_path, form, mask):
    about = {"model": "m", "method": {"steps": 4}, "area_asked": None, "score_kept": 1.5}
    given = [annotation_of(mask, about=about), annotation_of(mask[::-1].copy(), label=2, about=about)]
    other = annotation_of(WHOLE, '"b" & <c>.png', about=about)
    write(as_cvat([*given, other], form), tmp_path / "annotations.xml")
    root = ET.parse(tmp_path / "annotations.xml").getroot()  # noqa: S314
    first, second = root.findall("image")
    for found, expected in zip(of_cvat(root, first) + of_cvat(root, second), [*given, other], strict=True):
        np.testing.assert_array_equal(found, expected.mask.numpy())
    assert (root.findtext("version"), root.findtext("meta/task/size")) == ("1.1", "2")
    assert (first.get("name"), second.get("name")) == ("a.png", '"b" & <c>.png')
    listed = {label.findtext("name"): label for label in root.iter("label")}
    assert set(listed) == {LABELS[1], LABELS[2]}
    for shape in [*first, *second]:
        attributes = {each.get("name"): each.text or "" for each in shape}
        assert attributes == {"model": "m", "method": '{"steps": 4}', "area_asked": "", "score_kept": "1.5"}
        assert [each.findtext("name") for each in listed[shape.get("label")].iter("attribute")] == list(attributes)


# Files


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write({"a": 1}, path)
    with pytest.raises(ValueError, match="Out of range float|not JSON compliant"):
        write({"a": float("nan")}, path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(ValueError, match=r"cannot write .*No space left"):
            write({"a": 2}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="expected a folder to write to"):
        write("text", tmp_path / "missing" / "a.xml")
    with pytest.raises(ValueError, match="expected a folder to write to"):
        write(b"bytes", path / "a.png")


def test_the_same_annotations_make_the_same_files():
    given = [annotation_of(RING), annotation_of(RING[:, ::-1].copy(), label=2)]
    for writer in (as_coco, as_cvat, as_labelme):
        assert writer(given) == writer(iter(given))
    assert as_png(given[0]) == as_png(given[0])
    assert set(annotations.__all__) >= {"Annotation", "annotated", "write"}
