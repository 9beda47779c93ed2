import pytest

from sfumato.data import labels

IMAGENET = labels.imagenet()


def test_imagenet_is_whole_and_in_order():
    assert len(IMAGENET) == 1000
    known = {0: "tench", 285: "Egyptian cat", 872: "tripod", 967: "espresso", 999: "toilet tissue"}
    assert {index: labels.synonyms(IMAGENET[index])[0] for index in known} == known


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("0", 0),
        (" 999 ", 999),
        ("tabby, tabby cat", 281),
        ("Tabby", 281),
        ("tabby cat", 281),
        ("espresso", 967),
        ("maillot, tank suit", 639),
        ("tusker", 101),
        ("collie", 231),  # also a word of "Border collie", but a whole synonym goes first
        ("chihuahua", 151),
    ],
)
def test_finds_one_class(text, index):
    assert labels.find(IMAGENET, text) == index


def test_every_label_finds_itself_but_the_two_cranes():
    missed = []
    for index, label in enumerate(IMAGENET):
        try:
            assert labels.find(IMAGENET, label) == index
        except ValueError:
            missed.append(label)
    assert missed == ["crane", "crane"]


def test_an_ambiguous_word_lists_the_candidates():
    with pytest.raises(ValueError, match="'cat' fits 7 classes: 281 'tabby', 282 'tiger cat', 283"):
        labels.find(IMAGENET, "cat")
    with pytest.raises(ValueError, match="'dog' fits 14 classes: 153 'Maltese dog', .* and 6 more; give the whole"):
        labels.find(IMAGENET, "dog")
    with pytest.raises(ValueError, match="134 'crane', 517 'crane'; give the whole label or the index"):
        labels.find(IMAGENET, "crane")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("expresso", "near: 967 'espresso'"),
        ("xyzzy", "no class is called 'xyzzy'; expected an index"),
        ("1000", "there is no class 1000; expected an index from 0 to 999"),
        ("-1", "no class is called '-1'"),
        ("(", "fits|no class"),
        ("", "the class is empty"),
    ],
)
def test_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        labels.find(IMAGENET, text)


def test_unnamed_classes_are_numbered():
    assert labels.default_labels(3) == ("class 0", "class 1", "class 2")
    assert labels.default_labels(1000) == IMAGENET
    assert labels.find(labels.default_labels(30), "class 7") == 7
