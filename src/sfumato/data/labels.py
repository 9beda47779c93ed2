"""Names of classes, and the search for a class from text that a person types."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files

LISTED = 8  # candidates that an error names

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of PASCAL VOC, in alphabetical order."""

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant",
    "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra",
    "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork",
    "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut",
    "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO, in the order of their numbers."""


@cache
def imagenet() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k in the order of a network's outputs, with synonyms after commas.

    >>> imagenet()[281]
    'tabby, tabby cat'
    """
    return tuple((files("sfumato") / "data" / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines())


def default_labels(count: int) -> tuple[str, ...]:
    """Labels for `count` classes without names: those of ImageNet-1k for 1000 classes, otherwise "class 0", "class 1", …

    >>> default_labels(2)
    ('class 0', 'class 1')
    """
    return imagenet() if count == len(imagenet()) else tuple(f"class {index}" for index in range(count))


def name_of(labels: Sequence[str], index: int) -> str:
    """The name of a class; of one output, class 1 is what its only label is not.

    >>> name_of(("cat", "dog"), 1), name_of(("tumour",), 1), name_of((), 1)
    ('dog', 'not tumour', 'class 1')
    """
    if index < len(labels):
        return labels[index]
    return f"not {labels[0]}" if len(labels) == 1 else f"class {index}"


def synonyms(label: str) -> list[str]:
    """The parts of a label between commas.

    >>> synonyms("tabby, tabby cat")
    ['tabby', 'tabby cat']
    """
    return [part.strip() for part in label.split(",")]


def find(labels: Sequence[str], text: str) -> int:
    """The index of the class that `text` means: an index, a label, a synonym, a word or a part of a word.

    These readings are tried in this order, for labels and synonyms first with and then without regard to case. The first that
    fits any class decides. Raises `ValueError`, with the most similar classes, if it fits several classes, or if none fits.

    >>> find(imagenet(), "281"), find(imagenet(), "tabby"), find(imagenet(), "egyptian")
    (281, 281, 285)
    >>> find(imagenet(), "Cardigan"), find(imagenet(), "cardigan")
    (264, 474)
    """
    text = text.strip()
    if not text:
        raise ValueError("the class is empty; expected an index or a label such as 'tabby'")
    if text.isdecimal():
        return _index(labels, int(text))
    for reading in _readings(text):
        fitting = [index for index, label in enumerate(labels) if reading(label)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise ValueError(
                f"{text!r} fits {len(fitting)} classes: {_listed(labels, fitting)}; give the whole label or the index"
            )
    raise ValueError(f"no class is called {text!r}{_similar(labels, text)}; expected an index or a part of one label")


def _readings(text: str) -> Iterable[Callable[[str], bool]]:
    """The possible meanings of `text`, the strictest first, as tests of a label."""
    folded = text.casefold()
    word = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
    return (
        lambda label: label == text,
        lambda label: text in synonyms(label),
        lambda label: label.casefold() == folded,
        lambda label: folded in synonyms(label.casefold()),
        lambda label: word.search(label) is not None,
        lambda label: folded in label.casefold(),
    )


def _index(labels: Sequence[str], index: int) -> int:
    if index >= len(labels):
        raise ValueError(f"there is no class {index}; expected an index from 0 to {len(labels) - 1}")
    return index


def _listed(labels: Sequence[str], indices: Sequence[int]) -> str:
    listed = ", ".join(f"{index} {synonyms(labels[index])[0]!r}" for index in indices[:LISTED])
    more = len(indices) - LISTED
    return f"{listed} and {more} more" if more > 0 else listed


def _similar(labels: Sequence[str], text: str) -> str:
    """The part of an error that names the classes with the most similar spelling; empty if there is none."""
    spellings = {part.casefold(): index for index, label in enumerate(labels) for part in (label, *synonyms(label))}
    matches = difflib.get_close_matches(text.casefold(), spellings, n=LISTED, cutoff=0.7)
    indices = list(dict.fromkeys(spellings[spelling] for spelling in matches))
    return f" (near: {_listed(labels, indices)})" if indices else ""
