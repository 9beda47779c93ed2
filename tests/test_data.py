"""Data sets, from small files of their true layouts; masks and outlines beside slow ones, and beside pycocotools."""

import itertools
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.data import json_elements, labels
from sfumato.data.annotated import Annotated
from sfumato.data.coco import COCO, decompress
from sfumato.data.difficult import Listed
from sfumato.data.example import Example, Run, Thing
from sfumato.data.folder import Folder
from sfumato.data.imagenet import ImageNet
from sfumato.data.masked import Masked
from sfumato.data.subset import Subset
from sfumato.data.table import Table
from sfumato.data.truth import box_pixels, pixels, polygon_pixels, run_pixels, truth
from sfumato.data.voc import VOC
from sfumato.runs.stores.content import stamp
from sfumato.settings import as_json, from_json

SHARED = Path(os.environ.get("SFUMATO_SHARED", Path(__file__).parents[1] / "../shared/data"))


@pytest.fixture
def shared():
    if not (SHARED / "coco-val-free").is_dir():
        pytest.skip(f"no pictures at {SHARED}; set SFUMATO_SHARED")
    return SHARED


def write(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def picture(path, size=(8, 6), mode="RGB", colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def xml(*things, size=(500, 375), extra=""):
    objects = "".join(
        f"<object><name>{name}</name><pose>Left</pose>{'' if difficult is None else f'<difficult>{difficult}</difficult>'}"
        f"<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for name, box, difficult in things
    )
    width, height = size
    return (
        f"<annotation>{extra}<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{objects}</annotation>"
    )


# VOC


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    write(folder / "ImageSets/Main/test.txt", "000001\n000002\n000004\n")
    write(folder / "ImageSets/Main/dog_test.txt", "000001  1\n000002 -1\n000004  0\n")
    write(folder / "ImageSets/Segmentation/val.txt", "000002\n")
    write(folder / "Annotations/000001.xml", xml(("dog", (48, 240, 195, 371), 0), ("person", (8, 12, 352, 498), 1)))
    write(folder / "Annotations/000002.xml", xml(("train", ("139.5", 200, 207, 301), None)))
    write(folder / "Annotations/000004.xml", xml(("dog", (1, 1, 500, 375), 1), ("dog", (2, 2, 9, 9), 0)))
    return tmp_path


def test_boxes_and_difficult_things_of_voc(voc):
    data = VOC(str(voc))
    assert (len(data), data.classes) == (3, labels.VOC)
    first, second, third = data
    dog, person = labels.VOC.index("dog"), labels.VOC.index("person")
    # whole pixels from 1, the last inside: 148 columns wide
    assert first.things == (Thing(dog, (47, 239, 195, 371)), Thing(person, (7, 11, 352, 498), difficult=True))
    assert (first.name, first.targets, first.size) == ("000001", (dog,), (500, 375))
    assert first.path == voc / "VOCdevkit/VOC2007/JPEGImages/000001.jpg"  # which there is not: nobody has looked
    assert second.things[0].box == (138.5, 199, 207, 301)
    assert third.targets == (dog,)  # one of two is difficult


def test_the_lists_and_folders_of_voc(voc):
    for path in (voc, voc / "VOCdevkit", voc / "VOCdevkit/VOC2007"):
        assert [example.name for example in VOC(path, split="dog_test")] == ["000001", "000004"]
        assert [example.name for example in VOC(path, split="Segmentation/val")] == ["000002"]
    with pytest.raises(ValueError, match=r"no list 'vall' in .*; expected '.*Main/vall\.txt'"):
        len(VOC(str(voc), split="vall"))
    with pytest.raises(ValueError, match=r"no lists of VOC2012|no folder of lists of VOC2012"):
        len(VOC(str(voc / "nowhere"), year=2012))


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><annotation>&c;</annotation>'
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<annotation>\n<object>\n", r"000002\.xml', line 3: no element found"),
        ("", r"000002\.xml', line 1"),
        (xml(("zebra", (1, 1, 2, 2), 0)), r"000002\.xml', object 1: the data set has no class 'zebra'"),
        (xml(("dogs", (1, 1, 2, 2), 0)), r"did you mean dog\?"),
        (xml(("dog", ("one", 1, 2, 2), 0)), r"object 1: xmin must be a number; got 'one'"),
        (xml(("dog", ("nan", 1, 2, 2), 0)), r"a box must be four numbers"),
        (xml(("dog", (9, 1, 2, 2), 0)), r"right and bottom must not be less than its left and top"),
        ("<annotation><object><name>dog</name></object></annotation>", r"xmin must be a number; got None"),
        (BOMB, r"000002\.xml': it declares a document type, which is not allowed"),
        (OUTSIDE, r"it declares a document type, which is not allowed"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', r"000002\.xml'"),
        (None, r"there is no annotation '.*000002\.xml'; expected an XML file for each picture"),
    ],
)
def test_a_damaged_annotation_is_told_of_its_picture_alone(voc, content, reason):
    path = voc / "VOCdevkit/VOC2007/Annotations/000002.xml"
    path.unlink() if content is None else path.write_text(content)
    data = VOC(str(voc))
    assert len(data) == 3
    assert data[0].name, data[2].name == ("000001", "000004")
    with pytest.raises(ValueError, match=reason):
        data[1]


def test_data_sets_are_plain_settings(voc):
    data = VOC(voc, year=2007)  # of a path object
    len(data)
    assert data == VOC(str(voc))
    assert hash(data) == hash(VOC(str(voc)))
    assert from_json(json.loads(json.dumps(as_json(data)))) == data
    whole = Subset(data, sample=2, without=["person"])
    assert from_json(json.loads(json.dumps(as_json(whole)))) == whole
    for each in (data, whole):
        copy = pickle.loads(pickle.dumps(each))  # noqa: S301
        assert copy == each
        assert not {"_listed", "_kept"} & vars(copy).keys()  # read anew, not carried
        assert list(copy) == list(each)
    assert data[-1] == data[2]
    assert data[1:] == [data[1], data[2]]
    with pytest.raises(IndexError, match="no example 3"):
        data[3]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: VOC("x", year="2007"), "year must be a number"),
        (lambda: VOC("x", split=""), "split must name a list"),
        (lambda: VOC("x", names=("a", "a")), "names must be different"),
        (lambda: VOC(5), "path must be the path of a file or folder; got 5"),
        (lambda: COCO("x", year=20.17), "year must be a number"),
        (lambda: Table("x.xlsx"), r"path must be a \.csv or \.parquet file; got 'x\.xlsx'"),
        (lambda: Subset(Folder("x"), sample=0), "sample must be a number of pictures, from 1; got 0"),
        (lambda: Subset(Folder("x"), sample=1, first=1), "Give one of them"),
        (lambda: Subset(Folder("x"), skip=-1), "skip"),
        (lambda: Subset(Folder("x"), smaller=1.5), r"in \(0, 1\]; got 1\.5"),
        (lambda: Subset(Folder("x"), only="cat"), "only must be a list of names of classes; got 'cat'"),
    ],
)
def test_settings_are_looked_at_when_made(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


# COCO


def compressed(lengths):
    """As COCO's format says, a bit at a time: two's complement in groups of five, until the rest is all sign."""
    text = ""
    for index, length in enumerate(lengths):
        value = length - (lengths[index - 2] if index > 2 else 0)
        while True:
            group, value = value % 32, value // 32
            last = value == (-1 if group >= 16 else 0)
            text += chr(48 + group + (0 if last else 32))
            if last:
                break
    return text


@given(st.lists(st.integers(0, 5000), max_size=30))
def test_compressed_counts(lengths):
    assert decompress(compressed(lengths)) == tuple(lengths)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 1000))
def test_compressed_masks_of_pycocotools(height, width, share, seed):
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    wanted = np.random.default_rng(seed).random((height, width)) < share
    counts = mask.encode(np.asfortranarray(wanted.astype(np.uint8)))["counts"].decode()
    run = Run((width, height), decompress(counts))
    assert np.array_equal(run_pixels(run).numpy(), wanted)


SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]
INSTANCES = {
    "info": {"description": "[{ not a list"},
    "licenses": [],
    "images": [
        {"id": 7, "file_name": "000000000007.jpg", "width": 40, "height": 30},
        {"id": 3, "file_name": "000000000003.jpg", "width": 4, "height": 3},
        {"id": 9, "file_name": "naïve.jpg", "width": 40, "height": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 10, 10, 10], "iscrowd": 0, "segmentation": [SQUARE]},
        {"id": 2, "image_id": 3, "category_id": 1, "bbox": [1, 0, 2, 3], "iscrowd": 1,
         "segmentation": {"size": [3, 4], "counts": [3, 6, 3]}},
        {"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 15.5], "iscrowd": 0, "segmentation": []},
        {"id": 4, "image_id": 12345, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0, "segmentation": []},
        {"id": 5, "image_id": 3, "category_id": 18, "bbox": [0, 0, 9, 9], "iscrowd": 0,
         "segmentation": {"size": [3, 4], "counts": compressed([0, 12])}},
    ],
    "categories": [
        {"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "chien à poil"}
    ],
}  # fmt: skip


def coco(folder, content=INSTANCES, indent=None, **settings):
    text = content if isinstance(content, str) else json.dumps(content, indent=indent, ensure_ascii=False)
    write(folder / "annotations/instances_val2017.json", text)
    (folder / "val2017").mkdir(exist_ok=True)
    return COCO(str(folder), **settings)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_instances_of_coco(tmp_path, monkeypatch, indent, chunk):
    monkeypatch.setattr(json_elements, "CHUNK", chunk)
    monkeypatch.setattr(json_elements._Pieces.more, "__defaults__", (chunk,))
    data = coco(tmp_path, indent=indent)
    assert data.classes == ("person", "chien à poil", "toothbrush")  # ids 1, 18, 90
    assert [example.name for example in data] == ["000000000007.jpg", "000000000003.jpg", "naïve.jpg"]
    first, second, third = data
    assert first.things == (Thing(2, (10, 10, 20, 20), (tuple(map(float, SQUARE)),)), Thing(0, (0, 0, 40, 15.5)))
    assert (first.targets, first.size, first.path) == ((0, 2), (40, 30), tmp_path / "val2017/000000000007.jpg")
    assert second.things[0].run == Run((4, 3), (3, 6, 3))
    assert run_pixels(second.things[0].run).int().tolist() == [[0, 1, 1, 0]] * 3
    assert run_pixels(second.things[1].run).all()
    assert third.things == ()
    assert coco(tmp_path, crowds=False)[1].targets == (1,)
    assert truth(first, 2, (40, 30)).places.nonzero().amin(0).tolist() == [10, 10]
    assert truth(first, 2, (40, 30)).places.sum() == 100


def altered(index, **values):
    entries = [dict(entry) for entry in INSTANCES["annotations"]]
    entries[index] |= values
    return {**INSTANCES, "annotations": entries}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (altered(0, category_id=2), r"'000000000007\.jpg': category_id must be one of the file's 3 categories; got 2"),
        (altered(0, category_id=[]), r"category_id must be one of .* got \[\]"),
        (altered(0, bbox=[1, 2, 3]), r"bbox must be left, top, width and height; got \[1, 2, 3\]"),
        (altered(0, bbox=[1, 2, -3, 4]), r"right and bottom must not be less"),
        (altered(0, bbox=["a", 2, 3, 4]), r"bbox must be four numbers"),
        (altered(0, segmentation=[[1, 2, 3, 4]]), r"a polygon must be x, y of three or more points"),
        (altered(0, segmentation=[[1, 2, 3, 4, 5, None]]), r"a polygon must hold finite numbers"),
        (altered(0, segmentation={"size": [30, 40], "counts": "@"}), r"counts must add up to its 40 × 30 pixels"),
        (altered(0, segmentation={"size": [30, 40], "counts": "o"}), r"a mask needs a size"),
        (altered(0, segmentation={"size": [30, 40], "counts": [1201, -1]}), r"counts must add up"),
        (altered(0, segmentation={"size": [30, 40]}), r"a mask needs a size"),
        ({**INSTANCES, "images": [{"id": 7}, *INSTANCES["images"][1:]]}, r"picture 0 has no file_name"),
    ],
)
def test_a_damaged_entry_of_coco_is_told_of_its_picture_alone(tmp_path, content, reason):
    data = coco(tmp_path, content)
    assert len(data) == 3
    assert data[1].targets == (0, 1)
    with pytest.raises(ValueError, match=reason):
        data[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{\n"images": [{"id": 1},\n{"id": }]}', r"instances_val2017\.json', line 3, byte \d+: Expecting value"),
        ('{"images": [{"id": 1}', r"the file ends"),
        ('{"images": [{"id": 1', r"line 1, byte 20"),
        ('{"images": [1,]}', r"got '\]' after a comma"),
        ("[]", r"got '\[' instead of '\{'"),
        ("", r"the file ends"),
        ("{}", r"has no images; expected a file such as"),
        ('{"images": [{"id": 1}]}', r"has no categories"),
        ('{"images": [{"id": 1}], "categories": [{"id": 1}]}', r"a category needs an id and a name"),
        ('{"images": ' + "[" * 100_000, r"nested too deeply|line 1"),
    ],
)
def test_a_damaged_file_of_coco(tmp_path, content, reason):
    with pytest.raises(ValueError, match=reason):
        len(coco(tmp_path, content))


def test_missing_files_of_coco(tmp_path):
    with pytest.raises(ValueError, match=r"no instances file in .*; expected '.*instances_train2014\.json'"):
        len(COCO(str(tmp_path), year=2014, split="train"))
    data = coco(tmp_path, pictures="elsewhere")
    with pytest.raises(ValueError, match=r"no folder of pictures in .*; expected '.*elsewhere'"):
        data[0]


# ImageNet


@pytest.fixture
def imagenet(tmp_path):
    root = tmp_path / "ILSVRC"
    write(tmp_path / "LOC_synset_mapping.txt", "n02 cat, house cat\nn01 fish\nn03 dog\n")
    for name in ("ILSVRC2012_val_00000002", "ILSVRC2012_val_00000001", "ILSVRC2012_val_00000003"):
        write(root / f"Data/CLS-LOC/val/{name}.JPEG")
    for path in ("n01/n01_1.JPEG", "n03/n03_5.JPEG"):
        write(root / f"Data/CLS-LOC/train/{path}")
    boxed = xml(("n02", (0, 10, 499, 374), None), ("n02", (5, 5, 5, 5), 0))
    write(root / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml", boxed)
    write(root / "Annotations/CLS-LOC/train/n03/n03_5.xml", xml(("n03", (1, 2, 3, 4), 0)))
    write(
        tmp_path / "LOC_val_solution.csv",
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n02 0 10 499 374 \n"
        "ILSVRC2012_val_00000002,n03 85 1 499 272 n03 0 0 9 9 \nILSVRC2012_val_00000003,n03 85 1 \n",
    )
    return tmp_path


def test_localisation_of_imagenet(imagenet):
    data = ImageNet(str(imagenet))
    assert data.classes == ("fish", "cat, house cat", "dog")
    assert len(data) == 3
    assert data[0].name == "ILSVRC2012_val_00000001"
    # whole pixels from 0, the last inside
    assert data[0].things == (Thing(1, (0, 10, 500, 375)), Thing(1, (5, 5, 6, 6)))
    assert data[0].size == (500, 375)
    assert data[1].things == (Thing(2, (85, 1, 500, 273)), Thing(2, (0, 0, 10, 10)))  # of the table alone
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000003\.JPEG': .*expected a WordNet id and four numbers"):
        data[2]


def test_the_training_part_of_imagenet(imagenet):
    data = ImageNet(str(imagenet), split="train")
    assert [example.name for example in data] == ["n01/n01_1", "n03/n03_5"]
    assert data[0].things == (Thing(0),)
    assert data[1].things == (Thing(2, (1, 2, 4, 5)),)


def test_the_ground_truth_of_imagenet(imagenet):
    (imagenet / "LOC_val_solution.csv").unlink()
    data = ImageNet(str(imagenet))
    assert data[0].targets == (1,)  # of its boxes
    with pytest.raises(ValueError, match=r"'ILSVRC2012_val_00000002\.JPEG' has no class"):
        data[1]
    write(imagenet / "truth.txt", "n02\nn01\nn03\n")
    assert [each.targets for each in ImageNet(str(imagenet), labels="truth.txt")] == [(1,), (0,), (2,)]
    write(imagenet / "kit.txt", "300\n1\n20\n")
    with pytest.raises(
        ValueError,
        match=r"kit\.txt' has the development kit's numbers of classes; give the kit's map_clsloc\.txt as synsets",
    ):
        ImageNet(str(imagenet), labels="kit.txt")[1]
    write(imagenet / "map_clsloc.txt", "n02 300 house_cat\nn01 1 fish\nn03 20 dog\n")
    kit = ImageNet(str(imagenet), labels="kit.txt", synsets="map_clsloc.txt")
    assert [each.targets for each in kit] == [(1,), (0,), (2,)]
    assert kit.classes == ("fish", "house cat", "dog")
    write(imagenet / "short.txt", "n02\n")
    with pytest.raises(ValueError, match=r"has 1 answers for 3 pictures"):
        ImageNet(str(imagenet), labels="short.txt")[0]


def touched(path):
    """The file gets the time of an edit, however coarse the clock of the disk is."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


@pytest.mark.parametrize(
    "changed",
    [
        "LOC_synset_mapping.txt",
        "LOC_val_solution.csv",
        "ILSVRC/Data/CLS-LOC/val",
        "ILSVRC/Annotations/CLS-LOC/val",
        "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml",
    ],
)
def test_what_the_examples_of_imagenet_come_from(imagenet, changed):
    before = stamp(ImageNet(str(imagenet)).sources)
    assert stamp(ImageNet(str(imagenet)).sources) == before
    touched(imagenet / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG")  # its content counts, and is looked into
    assert stamp(ImageNet(str(imagenet)).sources) == before
    touched(imagenet / changed)
    assert stamp(ImageNet(str(imagenet)).sources) != before


def test_the_training_part_of_imagenet_comes_from_a_folder_for_each_class(imagenet):
    """Also where such a folder is a link."""
    (imagenet / "ILSVRC/Data/CLS-LOC/train/n01").rename(imagenet / "elsewhere")
    (imagenet / "ILSVRC/Data/CLS-LOC/train/n01").symlink_to(imagenet / "elsewhere")
    before = ImageNet(str(imagenet), split="train")
    names = {path.relative_to(imagenet).as_posix() for path in before.sources}
    assert {"ILSVRC/Data/CLS-LOC/train", "ILSVRC/Annotations/CLS-LOC/train/n03/n03_5.xml"} <= names
    seen, count = stamp(before.sources), len(before)
    write(imagenet / "elsewhere/n01_2.JPEG")
    touched(imagenet / "elsewhere")
    after = ImageNet(str(imagenet), split="train")
    assert len(after) == count + 1
    assert stamp(after.sources) != seen
    write(imagenet / "truth.txt", "n02\nn01\nn03\n")
    assert imagenet / "truth.txt" in ImageNet(str(imagenet), labels="truth.txt").sources


def test_missing_files_of_imagenet(imagenet):
    with pytest.raises(ValueError, match=r"no folder of pictures in .*; expected .*Data/CLS-LOC/test"):
        len(ImageNet(str(imagenet), split="test"))
    (imagenet / "LOC_synset_mapping.txt").unlink()
    with pytest.raises(ValueError, match=r"no list of classes in .*LOC_synset_mapping\.txt"):
        ImageNet(str(imagenet))[0]


# Folders and tables


def test_folders(tmp_path):
    for name in ("cat/1.png", "cat/deep/2.PNG", "ant/3.jpg", "cat/notes.txt", ".git/4.png", "cat/.5.png"):
        write(tmp_path / "classes" / name)
    (tmp_path / "classes/bee").mkdir()
    data = Folder(tmp_path / "classes")
    assert data.classes == ("ant", "bee", "cat")
    assert [(each.name, each.targets) for each in data] == [
        ("ant/3.jpg", (0,)),
        ("cat/1.png", (2,)),
        ("cat/deep/2.PNG", (2,)),
    ]
    write(tmp_path / "classes/top.png")
    plain = Folder(tmp_path / "classes")
    assert (plain.classes, list(plain)) == ((), [Example("top.png", tmp_path / "classes/top.png")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        len(Folder(tmp_path / "empty"))
    with pytest.raises(ValueError, match="no folder of pictures in '.*nowhere'"):
        len(Folder(tmp_path / "nowhere"))


CSV = """\ufeffpath,target,boxes,note
a.jpg,cat,"[[0, 0, 4.5, 3], [1, 1, 2, 2]]",x
sub/b.jpg,ant,,
a.jpg,ant,"[[5, 5, 6, 6]]"

c.jpg,,
"""


def test_tables(tmp_path):
    data = Table(write(tmp_path / "t.csv", CSV))
    assert data.classes == ("ant", "cat")
    assert [each.name for each in data] == ["a.jpg", "sub/b.jpg", "c.jpg"]
    assert data[0].things == (Thing(1, (0, 0, 4.5, 3)), Thing(1, (1, 1, 2, 2)), Thing(0, (5, 5, 6, 6)))
    assert data[1] == Example("sub/b.jpg", tmp_path / "sub/b.jpg", (Thing(0),))
    assert data[2].things == ()
    given_names = Table(tmp_path / "t.csv", names=("cat", "dog", "ant"))
    assert given_names[0].targets == (0, 2)
    numbers = Table(write(tmp_path / "n.csv", "target,path\n3,a.jpg\n1,b.jpg\n"))
    assert numbers.classes == ("class 0", "class 1", "class 2", "class 3")
    assert numbers[0].targets == (3,)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.jpg,bat,", r"t\.csv', line 3: the data set has no class 'bat'; did you mean cat or ant\?"),
        ("a.jpg,7,", r"line 3: the data set has no class '7'"),
        ("a.jpg,cat,[[1]]", r"line 3: boxes must be \[\[left, top, right, bottom\], …\]; got \[\[1\]\]"),
        ("a.jpg,cat,[[", r"line 3: boxes must be"),
        ('a.jpg,cat,"[[1, 2, 3, ""x""]]"', r"line 3: a box must be four numbers"),
        ('a.jpg,cat,"[[1, 2, NaN, 4]]"', r"line 3: a box must be four numbers"),
        ('a.jpg,,"[[1, 2, 3, 4]]"', r"line 3: boxes need a target"),
    ],
)
def test_a_damaged_row_is_told_of_its_picture_alone(tmp_path, line, reason):
    data = Table(write(tmp_path / "t.csv", f"path,target,boxes\nb.jpg,cat,\n{line}\n"), names=("ant", "cat"))
    assert (len(data), data[0].targets) == (2, (1,))
    with pytest.raises(ValueError, match=reason):
        data[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", r"has no column 'path'; its columns are empty"),
        ("path,label\n", r"has no column 'target'; its columns are path, label"),
        ("path,target\n", r"has no rows"),
        ("path,target\na.jpg,x,y\n", r"line 2: 3 values; expected 2"),
        ("path,target\n,x\n", r"line 2: path must be .* got ''"),
        ('path,target\na.jpg,"x\n', r"line 2: unexpected end of data; expected CSV"),
        (
            "path,target\na.jpg,99999999999\n",
            r"^[^,]*t\.csv', line 2: a target must be a number below 1000000; got 99999999999$",
        ),
    ],
)
def test_a_damaged_table(tmp_path, content, reason):
    data = Table(write(tmp_path / "t.csv", content))
    with pytest.raises(ValueError, match=reason):
        list(data)
    with pytest.raises(ValueError, match="there is no table"):
        len(Table(tmp_path / "u.csv"))


def test_a_table_numbers_classes_of_which_two_have_one_name(tmp_path):
    """ImageNet has two classes called "crane"."""
    data = Table(write(tmp_path / "t.csv", "path,target\na.jpg,517\nb.jpg,999\n"))
    assert data.classes[134] == data.classes[517]
    assert [example.targets for example in data] == [(517,), (999,)]


def test_a_table_that_is_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"path,target\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=r"t\.csv' is not UTF-8 text at byte 12"):
        len(Table(tmp_path / "t.csv"))


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = {"path": ["a.jpg", "b.jpg", "a.jpg"], "target": [4, None, 1]}
    boxes = {"boxes": [[[0.0, 0.0, 4.5, 3.0]], None, []], "note": [1, 2, 3]}
    parquet.write_table(arrow.table(rows | boxes), tmp_path / "t.parquet")
    data = Table(tmp_path / "t.parquet")
    assert (len(data), len(data.classes)) == (2, 5)
    assert data[0].things == (Thing(4, (0, 0, 4.5, 3)), Thing(1))
    assert data[1].things == ()
    parquet.write_table(arrow.table(rows | {"boxes": ["[[0, 0, 1, 1]]", "", "[[1"]}), tmp_path / "u.parquet")
    with pytest.raises(ValueError, match=r"u\.parquet', row 3: boxes must be"):
        Table(tmp_path / "u.parquet")[0]
    write(tmp_path / "v.parquet", "path,target")
    with pytest.raises(ValueError, match=r"cannot read '.*v\.parquet'.*expected a Parquet file"):
        len(Table(tmp_path / "v.parquet"))


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write(tmp_path / "t.parquet")
    with pytest.raises(ModuleNotFoundError, match=r'pip install "sfumato\[parquet\]"'):
        len(Table(tmp_path / "t.parquet"))


# Masks, difficult lists and subsets


def test_pictures_with_masks(tmp_path):
    for name in ("apple/1", "apple/2", "pear/1"):
        write(tmp_path / f"images/{name}.jpg")
    picture(tmp_path / "masks/apple/1.png", mode="L", colour=1)
    picture(tmp_path / "masks/pear/1.png", size=(3, 3), mode="L")
    data = Masked(tmp_path)
    assert data.classes == ("apple", "pear")
    assert truth(data[0], 0, (8, 6)).places.all()
    with pytest.raises(ValueError, match="class 0 has no box or mask in 'apple/2.jpg'"):
        truth(data[1], 0, (8, 6))
    with pytest.raises(ValueError, match=r"must have the picture's size \(8, 6\); got 3 × 3 pixels"):
        truth(data[2], 1, (8, 6))
    (tmp_path / "masks/pear/1.png").write_bytes(
        (tmp_path / "masks/pear/1.png").read_bytes()[:60]
    )  # size, but no pixels
    with pytest.raises(ValueError, match=r"got 3 × 3 pixels"):
        truth(data[2], 1, (8, 6))
    with pytest.raises(ValueError, match="cannot read mask"):
        pixels(Thing(0, mask=tmp_path / "images/pear/1.jpg"), (8, 6))


@pytest.mark.parametrize(
    ("mode", "colour"), [("1", 1), ("L", 1), ("I;16", 3), ("RGB", (0, 0, 1)), ("RGBA", (9, 0, 0, 255))]
)
def test_masks_of_any_kind(tmp_path, mode, colour):
    canvas = Image.new(mode, (8, 6))
    canvas.putpixel((5, 2), colour)
    canvas.save(tmp_path / "mask.png")
    assert pixels(Thing(0, mask=tmp_path / "mask.png"), (8, 6)).nonzero().tolist() == [[2, 5]]


SCENE = {
    "classes": ["person", "dog", "kite"],
    "images": [
        {"file": "1.jpg", "width": 10, "height": 10, "boxes": [
            {"label": 0, "xyxy": [0, 0, 10, 10]}, {"label": 1, "xyxy": [0, 0, 5, 5]}, {"label": 2, "xyxy": [9, 0, 14, 4.8]}]},
        {"file": "2.jpg", "width": 10, "height": 10, "boxes": [{"label": 1, "xyxy": [0, 0, 1, 1]}]},
        {"file": "3.jpg", "width": 10, "height": 10, "boxes": [{"label": 7, "xyxy": [0, 0, 1, 1]}]},
        {"file": "4.jpg", "width": 10, "height": 10, "boxes": [
            {"label": 0, "xyxy": [2, 2, 4, 4]}, {"label": 2, "xyxy": [0, 0, 10, 10]}],
            "person_polygons": [[2, 2, 4, 2, 4, 4, 2, 4]]},
    ],
}  # fmt: skip


@pytest.fixture
def scene(tmp_path):
    write(tmp_path / "annotations.json", SCENE)
    return Annotated(tmp_path)


def test_annotated_pictures(scene):
    assert scene.classes == ("person", "dog", "kite")
    assert scene[0].things[2] == Thing(2, (9, 0, 14, 4.8))  # beyond the picture: kept as it is
    assert truth(scene[0], 2, (10, 10)).places.nonzero().tolist() == [[row, 9] for row in range(5)]
    assert scene[3].things[0].polygons == ((2, 2, 4, 2, 4, 4, 2, 4),)
    with pytest.raises(ValueError, match=r"annotations\.json', picture 2: label must be an index below 3; got 7"):
        scene[2]


def test_the_difficult_rule(scene):
    cases = {(each.name, label): truth(each, label, each.size).difficult for each in (scene[0], scene[1], scene[3])
             for label in each.targets}  # fmt: skip
    # Of 1.jpg the dog covers a quarter, not less; of 2.jpg there is nothing besides the dog.
    assert cases == {
        ("1.jpg", 0): False, ("1.jpg", 1): False, ("1.jpg", 2): True,
        ("2.jpg", 1): False, ("4.jpg", 0): True, ("4.jpg", 2): False,
    }  # fmt: skip
    assert truth(scene[1], 1, (10, 10), listed=True).difficult
    assert not truth(scene[3], 0, (10, 10), listed=False).difficult


def test_lists_of_difficult_cases(tmp_path, scene):
    flags = write(tmp_path / "flags.txt", "1\t0\t1\t0\n4\t0\t0\t0\n")
    data = Listed(scene, flags)
    assert (data[0].listed, data[3].listed, data[1].listed) == ((1,), (), None)
    assert truth(data[0], 1, (10, 10)).difficult
    assert not truth(data[3], 0, (10, 10)).difficult
    assert [each.name for each in Subset(data, difficult=True)[:1]] == ["1.jpg"]
    named = Listed(scene, write(tmp_path / "named.csv", "picture,class\n1,dog\n1,kite\n4.jpg,person\n"))
    assert (named[0].listed, named[3].listed, named[1].listed) == ((1, 2), (0,), ())
    for content, reason in (
        ("1\t0\t1\n", r"line 1: expected a name and 0 or 1 for each of 3 classes; got"),
        ("1\t0\t1\t0\n2\t0\t2\t0\n", "line 2: expected a name"),
        ("1 0 1 0\n", "line 1: expected names and tabs"),
        ("picture,class\n1,dig\n", r"line 2: the data set has no class 'dig'; did you mean dog\?"),
    ):
        with pytest.raises(ValueError, match=reason):
            Listed(scene, write(tmp_path / "list.txt", content))[0]
    with pytest.raises(ValueError, match="there is no list of difficult cases"):
        Listed(scene, tmp_path / "none.txt")[0]


def test_subsets(scene):
    def cases(subset):
        found = []
        for index in range(len(subset)):
            try:
                found.append((subset[index].name, subset[index].targets))
            except ValueError:
                found.append(None)  # 3.jpg, whose annotation is damaged
        return found

    assert cases(Subset(scene, first=2)) == [("1.jpg", (0, 1, 2)), ("2.jpg", (1,))]
    assert cases(Subset(scene, skip=1)) == cases(scene)[1:]
    assert cases(Subset(scene, first=1, skip=1)) == [("2.jpg", (1,))]
    assert cases(Subset(scene, sample=3, skip=1)) == cases(scene)[1:]
    with pytest.raises(ValueError, match="meets its conditions, after the first 9"):
        len(Subset(scene, skip=9))
    assert cases(Subset(scene, without=("person",))) == [("1.jpg", (1, 2)), ("2.jpg", (1,)), None, ("4.jpg", (2,))]
    assert cases(Subset(scene, only=("person",))) == [("1.jpg", (0,)), None, ("4.jpg", (0,))]
    assert cases(Subset(scene, difficult=True)) == [("1.jpg", (2,)), None, ("4.jpg", (0,))]
    assert cases(Subset(scene, difficult=True, without=("person",))) == [("1.jpg", (2,)), None]
    assert cases(Subset(scene, smaller=0.05, first=1)) == [("2.jpg", (1,))]
    assert cases(Subset(Subset(scene, difficult=True), without=("kite",))) == [None, ("4.jpg", (0,))]
    kept = Subset(scene, difficult=True)[0]
    assert truth(kept, 2, (10, 10)).others == 2  # what is left out is still there
    with pytest.raises(ValueError, match=r"no class 'dof'; did you mean dog\?"):
        len(Subset(scene, without=("dof",)))


def test_an_empty_subset(tmp_path):
    write(
        tmp_path / "annotations.json", {"classes": ["a", "b"], "images": [{"file": "x", "label": 0, "boxes_227": []}]}
    )
    with pytest.raises(ValueError, match="the subset is empty"):
        len(Subset(Annotated(tmp_path), only=("b",)))


def test_samples_are_drawn_by_their_seed(tmp_path):
    for index in range(40):
        write(tmp_path / f"{index:02}.jpg")
    whole = Folder(tmp_path)

    def names(count, seed):
        return [each.name for each in Subset(whole, sample=count, seed=seed)]

    assert names(10, 0) == names(10, 0) == sorted(names(10, 0))
    assert names(10, 0) != names(10, 1)
    assert set(names(10, 0)) < set(names(20, 0))
    assert len(names(100, 0)) == 40


def test_sizes_come_from_the_file_where_nothing_else_gives_them(tmp_path):
    picture(tmp_path / "a.png", size=(20, 10))
    table = 'path,target,boxes\na.png,x,"[[0, 0, 10, 4]]"\na.png,y,"[[0, 0, 20, 10]]"\nb.png,x,"[[0, 0, 1, 1]]"\n'
    data = Subset(Table(write(tmp_path / "t.csv", table)), smaller=0.21)
    assert [(each.name, each.targets) for each in data] == [("a.png", (0,)), ("b.png", (0,))]  # b.png is to fail later


def test_a_subset_keeps_what_lies_outside_its_picture_to_be_told_when_it_is_used(tmp_path):
    picture(tmp_path / "a.png", size=(20, 10))
    data = Subset(Table(write(tmp_path / "t.csv", 'path,target,boxes\na.png,x,"[[30, 0, 40, 4]]"\n')), difficult=True)
    assert [each.targets for each in data] == [(0,)]
    with pytest.raises(
        ValueError, match=r"'a.png': the box .* of class 0 has no pixel in the picture of 20 × 10 pixels"
    ):
        truth(data[0], 0, (20, 10))


# Pixels


def odd_crossings(polygon, x, y):
    """Whether a ray to the left of the point meets an odd number of edges; `None` where the point is on one."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    polygon_pixels = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 <= y) != (y1 <= y):
            crossing = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
            if abs(crossing - x) < 1e-9:
                return None
            polygon_pixels ^= crossing < x
    return polygon_pixels


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 45), st.integers(-5, 35)), min_size=3, max_size=9))
def test_polygons_hold_the_pixels_whose_centres_are_within(points):
    polygon = tuple(value / 3 for point in points for value in point)
    found = polygon_pixels(polygon, (12, 9))
    wanted = [[odd_crossings(polygon, x + 0.5, y + 0.5) for x in range(12)] for y in range(9)]
    if not any(value for line in wanted for value in line):
        return  # too thin: what that gets is asked elsewhere
    for y in range(9):
        for x in range(12):
            assert wanted[y][x] in {None, bool(found[y, x])}


def border(mask):
    """The pixels with others in and out of the mask around them."""
    values = torch.from_numpy(mask)[None, None].float()
    grown, shrunk = (torch.nn.functional.max_pool2d(each, 3, 1, 1)[0, 0] > 0 for each in (values, 1 - values))
    return (grown & shrunk).numpy()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools beside NumPy 2
def test_polygons_of_pycocotools(shared):
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    overlaps = []
    for example in itertools.islice(Annotated(shared / "coco-val-free"), 0, None, 4):
        (person,) = (thing for thing in example.things if thing.polygons)
        width, height = example.size
        wanted = mask.decode(mask.merge(mask.frPyObjects(list(map(list, person.polygons)), height, width))).astype(bool)
        found = pixels(person, example.size).numpy()
        overlaps.append((wanted & found).sum() / (wanted | found).sum())
        assert not ((found != wanted) & ~border(wanted) & ~border(found)).any()
    assert np.mean(overlaps) > 0.99


@given(st.floats(-5, 15), st.floats(-5, 15), st.floats(0, 15), st.floats(0, 15))
def test_boxes_hold_the_pixels_whose_centres_are_within(left, top, width, height):
    found = box_pixels((left, top, left + width, top + height), (10, 8))
    columns = [x for x in range(10) if left <= x + 0.5 < left + width]
    rows = [y for y in range(8) if top <= y + 0.5 < top + height]
    # A box that holds no centre still has a line of pixels in its middle, unless it lies beside the picture.
    columns = columns or middle(left, left + width, 10)
    rows = rows or middle(top, top + height, 8)
    assert found.nonzero().tolist() == [[y, x] for y in rows for x in columns]


def middle(first, last, length):
    """The pixel in the middle of what a line of so many sees of an interval; none where it sees nothing."""
    first, last = max(first, 0), min(last, length)
    return [min(int((first + last) / 2), length - 1)] if first <= last else []


def test_runs_that_do_not_fit():
    assert run_pixels(Run((2, 3), (1, 2, 3))).int().tolist() == [[0, 0], [1, 0], [1, 0]]
    for lengths in ((1, 2), (10**15, 1), (7, -1), ()):
        with pytest.raises(ValueError, match=r"do not make a mask of 2 × 3"):
            run_pixels(Run((2, 3), lengths))
    with pytest.raises(ValueError, match="does not fit the picture"):
        pixels(Thing(0, run=Run((2, 3), (6,))), (3, 2))


def test_truth_of_a_class():
    run = Run((4, 3), (4, 2, 6))  # column 1, rows 1 and 2
    example = Example(
        "x", Path("x"), (Thing(1, run=run), Thing(1, (2, 0, 4, 1)), Thing(0), Thing(2, (0, 0, 1, 1), difficult=True))
    )
    found = truth(example, 1, (4, 3))
    assert found.places.int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert found.boxes.tolist() == [[1, 1, 2, 3], [2, 0, 4, 1]]
    assert (found.share, found.others) == (4 / 12, 2)
    assert example.targets == (0, 1)
    with pytest.raises(ValueError, match="class 0 has no box or mask in 'x'"):
        truth(example, 0, (4, 3))


# The shared pictures


def test_shared_pictures(shared):
    coco = Annotated(shared / "coco-val-free")
    assert (len(coco), len(coco.classes)) == (276, 80)
    assert sum(len(each.targets) for each in coco) == 862
    subset = Subset(coco, difficult=True, without=("person",))
    assert sum(len(each.targets) for each in subset) == 472  # as the index of the shared data says
    squashed = Annotated(shared / "imagenet-val-dev")
    assert (len(squashed), len(squashed.classes)) == (800, 1000)
    entries = json.loads((shared / "imagenet-val-dev/annotations.json").read_text())["images"]
    small = {each.name for each in Subset(squashed, smaller=0.25)}
    # The share of the pixels whose centres the boxes hold differs from that of the boxes' areas by their edges.
    assert {each["file"] for each in entries if each["box_cover"] < 0.24} <= small
    assert small <= {each["file"] for each in entries if each["box_cover"] < 0.26}
    masked = Masked(shared / "fss-20")
    assert (len(masked), masked.classes) == (20, ("apple", "basketball"))
    assert all(0 < truth(each, each.targets[0], (224, 224)).share < 1 for each in masked)
    assert all(each.path.is_file() for data in (coco, squashed, masked) for each in data)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_category_names_are_read_however_they_are_escaped(tmp_path, ascii_only):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 4}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 2, 2]}],
        "categories": [{"id": 7, "name": "café ✓"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content, ensure_ascii=ascii_only), encoding="utf-8")
    assert COCO(str(tmp_path), annotations="instances.json", pictures=".").classes == ("café ✓",)
