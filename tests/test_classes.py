"""Which of a model's outputs a data set's classes are: by names, as the plan says, in order, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import Folder, Listed, Subset
from sfumato.data import labels as known_labels
from sfumato.runs.plans.class_notes import class_line
from sfumato.runs.plans.classes import ClassNames, match_classes, target_classes
from sfumato.runs.plans.plan import parse
from sfumato.runs.plans.spellings import parts, plain
from sfumato.runs.plans.unmatched import ClassesError


def names(value):
    return ClassNames.read(value, ("data", "pets", "classes"))


@pytest.mark.parametrize(
    ("classes", "labels", "indices"),
    [
        (["cat", "dog"], ["dog", "cat", "lynx"], (1, 0)),
        (["CAT", "Dog"], ["dog", "cat"], (1, 0)),
        (["hot_dog", "t-shirt"], ["T shirt", "hot dog"], (1, 0)),
        (["crème brûlée", "cafe"], ["café", "creme brulee"], (1, 0)),
        (["cats", "puppies", "box"], ["boxes", "puppy", "cat"], (2, 1, 0)),
        (["house cat", "dog"], ["dog, hound", "cat, house cat"], (1, 0)),
        (["cat, house cat", "dog"], ["hound, dog", "house cat"], (1, 0)),
        (["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], ["Japanese spaniel", "Chihuahua"], (1, 0)),
        (["001.Black_footed_Albatross", "002.Crow"], ["Crow", "Black footed Albatross"], (1, 0)),
        (list(known_labels.VOC), ["background", *known_labels.VOC], tuple(range(1, 21))),
        (["n01440764", "n01443537"], ["tench", "goldfish"], (0, 1)),  # no name of one is a name of the other
        (["cat", "dog"], ["class 0", "class 1"], (0, 1)),
        (["0", "1", "-1"], ["-1", "1", "0"], (2, 1, 0)),  # to the letter, though without signs two are alike
        (["C", "C++"], ["C++", "C"], (1, 0)),
    ],
)
def test_names_that_mean_one_label_each(classes, labels, indices):
    assert match_classes(classes, labels).indices == indices


@pytest.mark.parametrize(
    ("classes", "labels", "said", "line"),
    [
        # Taken in order, cats would be explained as dogs.
        (["cat", "dog", "puma"], ["dog", "cat", "lynx"], r"'puma' fits none \(without a class is 2 'lynx'\)", 'puma = "lynx"'),
        (["cat", "hourse"], ["horse", "cat"], r"'hourse' fits none \(near: 0 'horse'\)", 'hourse = "horse"'),
        (["Crane", "dog"], ["crane", "dog", "Crane, lifting device"], r"'Crane' fits 2", None),
        (["Cardigan"], known_labels.imagenet(), r"'Cardigan' fits 2 \(264 .*, 474 'cardigan'\)", "Cardigan = 264  # 264: "),
        (["cat", "Cat"], ["cat", "dog"], r"'cat' fits 0 'cat' as 'Cat' does", "cat = 0  # 0: cat"),
        (["tabby", "tabby cat"], ["tabby, tabby cat", "dog"], r"as 'tabby cat' does", None),
        (["cat", "cat"], ["cat", "dog"], r"2 of 2 classes", None),
        (known_labels.VOC, known_labels.COCO, r"4 of 20 .*'aeroplane' .*\(near: 4 'airplane'\)", 'aeroplane = "airplane"'),
        (["kitty", "doggy"], ["dog", "cat"], r"'doggy' fits none \(near: 0 'dog'\)", 'doggy = "…"'),  # not in order
        (["cat", "dog"], ["cat"], r"'dog' fits none", None),
        (["no", "yes"], ["yes"], r"'no' fits none", "no = 1  # what speaks against yes"),  # one output
        (["cat", "dog"], [], r"2 of 2 classes cannot be told from its 0 labels", None),
        (["n02", "n01"], ["tench", "goldfish"], r"2 of 2", None),
        (["!", "?"], ["?!", "!?", "dog"], r"2 of 2 classes", None),
    ],
)  # fmt: skip
def test_what_is_doubtful_is_refused_with_the_lines_to_write(classes, labels, said, line):
    with pytest.raises(ClassesError, match=said) as refused:
        match_classes(classes, labels)
    remedy = refused.value.remedy("pets")
    assert "[data.pets.classes]" in remedy
    assert line is None or f"\n  {line}" in remedy
    assert ('classes = "in order"' in remedy) == (len(classes) == len(labels))


def test_classes_that_are_numbers_are_offered_in_order():
    with pytest.raises(ClassesError, match="4 of 4 classes"):
        match_classes(["0", "1", "10", "2"], ["a", "b", "c", "d"])  # folders, sorted as words
    with pytest.raises(ClassesError, match="3 of 3 classes") as refused:
        match_classes(["class 0", "class 1", "class 2"], ["a", "b", "c", "d"])
    assert refused.value.remedy("pets").splitlines()[1:] == ["  [data.pets]", '  classes = "in order"']
    assert match_classes(["class 0", "class 1", "class 2"], ["a", "b", "c", "d"], names("in order")).indices == (
        0,
        1,
        2,
    )


def test_the_lines_that_are_offered_are_taken():
    classes, labels = ["cat", "dog", "puma"], ["dog", "cat", "lynx"]
    assert match_classes(classes, labels, names({"puma": "lynx"})).indices == (1, 0, 2)
    assert match_classes(classes, labels, names({"puma": 2})).indices == (1, 0, 2)
    assert match_classes(classes, labels, names({"puma": ["Lynx lynx", "lynx"]})).indices == (1, 0, 2)
    assert match_classes(classes, labels, names("in order")).indices == (0, 1, 2)
    assert match_classes(["cat", "dog"], ["void", "a", "b"], names("in order from 1")).indices == (1, 2)
    assert match_classes(["no", "yes"], ["yes"], names({"no": 1})).indices == (1, 0)


@pytest.mark.parametrize(
    ("told", "key", "said"),
    [
        ({"pumma": "lynx"}, "pumma", "no class 'pumma'; did you mean puma"),
        ({"puma": "linx"}, "puma", "no label 'linx'; did you mean lynx"),
        ({"puma": 3}, "puma", "no output 3; it has 3, from 0 up"),
        ({"puma": ["dog", "lynx"]}, "puma", "2 labels, 0 'dog' and 2 'lynx'"),
        ("in order from 1", "", "has 3 outputs"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(told, key, said):
    with pytest.raises(ClassesError, match=said) as refused:
        match_classes(["cat", "dog", "puma"], ["dog", "cat", "lynx"], names(told))
    assert refused.value.key == key


def test_a_model_for_other_classes_can_be_left_out():
    with pytest.raises(ClassesError, match=r"56 of 80 .* and 48 more") as refused:
        match_classes(known_labels.COCO, known_labels.imagenet())
    assert "name those that are for these:\n  [data.coco]\n  models = […]\n" in refused.value.remedy("coco")
    assert 'person = "…"' in refused.value.remedy("coco")  # and not "prison"


def test_labels_that_are_not_as_many_as_outputs_say_nothing():
    with pytest.raises(ClassesError, match="21 outputs and 20 labels") as refused:
        match_classes(known_labels.VOC, known_labels.VOC, outputs=21)  # the background comes first
    assert 'classes = "in order from 1"' in refused.value.remedy("voc")
    assert match_classes(known_labels.VOC, known_labels.VOC, names("in order from 1"), 21).indices == tuple(
        range(1, 21)
    )
    assert match_classes(["cat", "dog"], ["dog", "cat"], outputs=1).indices == (
        1,
        0,
    )  # the output, and what speaks against it


def test_imagenet_has_two_cranes_each_in_its_place():
    labels = known_labels.imagenet()
    assert match_classes(labels, labels).indices == tuple(range(1000))
    assert match_classes([label.split(",")[0] for label in labels], labels).indices == tuple(range(1000))
    with pytest.raises(ClassesError, match="'crane' fits 2"):
        match_classes(["hen", "crane"], labels)


def test_only_classes_that_are_explained_need_a_label():
    assert match_classes(["cat", "person", "dog"], ["dog", "cat"], targets={0, 2}).indices == (1, None, 0)
    with pytest.raises(ValueError, match="no output for class 1"):
        match_classes(["cat", "person"], ["dog", "cat"], targets={0})[1]


def test_a_subset_says_which_classes_are_explained(tmp_path):
    for name in ("cat", "dog", "person"):
        (tmp_path / name).mkdir()
    folder = Folder(str(tmp_path))
    assert target_classes(folder) == {0, 1, 2}
    assert target_classes(Subset(folder, without=("person",))) == {0, 1}
    assert target_classes(Subset(Subset(folder, without=("person",)), only=("dog", "person"))) == {1}
    assert target_classes(Listed(Subset(folder, only=("cat",)), str(tmp_path / "list"))) == {0}


@given(st.permutations(range(6)), st.integers(0, 3))
def test_an_order_of_the_labels_changes_no_class(order, left_out):
    """By names, whatever the order; with one name that is unknown, refused whatever the order."""
    classes = ["cat", "dog", "puma", "horse", "sheep", "cow"]
    labels = [classes[place] for place in order]
    assert [labels[index] for index in match_classes(classes, labels).indices] == classes
    unknown = [label if label != classes[left_out] else "okapi" for label in labels]
    with pytest.raises(ClassesError, match=f"1 of 6 classes .*'{classes[left_out]}' fits none"):
        match_classes(classes, unknown)


@given(st.text(max_size=12))
def test_plain_names_are_plain(name):
    assert plain(plain(name)) == plain(name)
    assert all(plain(part) == part for part in parts(name))


def test_other_scripts_keep_their_vowels():
    assert plain("की") != plain("का")
    assert plain("が") != plain("か")


def test_a_line_says_how_classes_are_mapped():
    def line(classes, labels, told=None, **more):
        mapped = match_classes(classes, labels, names(told) if told is not None else None, **more)
        return class_line(mapped.as_json("pets", "net", classes, labels))

    assert line(["cat"], ["cat"]) == "pets → net: 1 of 1 classes by name"
    assert line(["cats", "dog"], ["dog", "cat"]) == "pets → net: 1 of 2 classes by name, 1 by a plural (cats is 'cat')"
    assert line(["a", "b"], ["x", "y"]) == (
        "pets → net: 2 of 2 classes in order: no name of one is a name of the other (a is 'x', b is 'y')"
    )
    assert line(["cat", "puma"], ["cat", "lynx"], {"puma": 1}) == (
        "pets → net: 1 of 2 classes by name, 1 as the plan says (puma is 'lynx')"
    )
    assert line(["cat", "puma"], ["cat", "lynx"], "in order") == (
        "pets → net: 2 of 2 classes in order, as the plan says (cat is 'cat', puma is 'lynx')"
    )
    assert line(["cat", "man"], ["cat"], targets={0}) == "pets → net: 1 of 2 classes by name, 1 never explained"


PLAN = """
[models]
net = "lite0"
[methods]
gradient = "Gradient"
[data.pets]
use = "Folder"
path = "pictures"
[data.pets.classes]
puma = "lynx"
"hot dog" = 3
[protocols]
accuracy = "Accuracy"
"""


def test_a_plan_says_what_models_call_classes(tmp_path):
    entry = parse(PLAN, tmp_path).data["pets"]
    assert entry.classes == ClassNames((("puma", "lynx"), ("hot dog", 3)))
    in_order = PLAN.replace('path = "pictures"', 'path = "pictures"\nclasses = "in order from 1"')
    in_order = in_order.replace('[data.pets.classes]\npuma = "lynx"\n"hot dog" = 3\n', "")
    assert parse(in_order, tmp_path).data["pets"].classes == ClassNames(first=1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('puma = "lynx"', "puma = 1.5", r"line 10, data.pets.classes.puma: .*got 1.5"),
        ('"hot dog" = 3', '"hot dog" = -3', r"line 11, data.pets.classes.hot dog: .*got -3"),
        ('puma = "lynx"', "puma = true", r"line 10, data.pets.classes.puma: .*got True"),
        (
            '[data.pets.classes]\npuma = "lynx"\n"hot dog" = 3',
            'classes = "in oder"',
            r'line 9, data.pets.classes: classes are "in order", .*got \'in oder\'',
        ),
        (
            '[data.pets.classes]\npuma = "lynx"\n"hot dog" = 3',
            'classes = ["cat"]',
            r"line 9, data.pets.classes: classes are a table such as puma",
        ),
    ],
)
def test_a_mapping_that_means_nothing_is_refused_with_its_line(tmp_path, old, new, said):
    assert old in PLAN
    with pytest.raises(ValueError, match=said):
        parse(PLAN.replace(old, new), tmp_path, "plan.toml")
