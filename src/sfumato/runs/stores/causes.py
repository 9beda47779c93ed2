"""Why items failed, whatever the picture: the reasons that say the same of different pictures are one cause."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

LONGEST = 300
"""Characters of a cause."""

PASSES = 8
"""Times that a text is gone through, until nothing is left to take out: what is taken out may uncover more."""

GAP = "…"
NUMBER = "N"

QUOTED = re.compile(r"""(?<!\w)(?:'[^']*[/\\][^']*'|"[^"]*[/\\][^"]*"|'[^'\s]+\.\w{2,5}'|"[^"\s]+\.\w{2,5}")""")
"""A path between quotes, or the name of a file."""

PATH = re.compile(
    r"(?<![\w.…])(?:[A-Za-z]:[\\/]|~?/|\.{1,2}/)[^\s'\",;:()\[\]]+|(?<![\w/.…])(?:[\w.-]+/)+[\w.-]+\.\w{2,5}\b"
)
"""A path without quotes, from a root or to a file."""

ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+\b")
HASH = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE
)
DIGITS = re.compile(r"(?<![\w.])[-+−]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?(?=$|[^\w.]|\.(?!\d)|[A-Za-zµ%]{1,3}\b|[x×]\d)")
"""A number that is no part of a name such as `layer4` or `conv2d`; a unit may follow."""

PRODUCT = re.compile(rf"{NUMBER}(?:[x×]\d+(?:\.\d+)?)+")
SERIES = re.compile(rf"{NUMBER}(?:\s*,\s*{NUMBER})+,?")


def cause(reason: str, example_name: str = "") -> str:
    """A reason without what differs from picture to picture: its name, paths, numbers, addresses in memory and hashes.

    A cause is its own cause.

    >>> cause("cannot read '/data/pets/0017.jpg': 3 bytes are missing at 0x7f3a", "0017")
    'cannot read …: N bytes are missing at …'
    >>> cause("layer4 puts out [2, 512, 7, 7], not 2048 channels")
    'layer4 puts out [N, …], not N channels'
    """
    text, names = " ".join(reason.split()), _names(example_name)
    for _ in range(PASSES):
        before, text = text, _without(text, names)
        if text == before:
            break
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + GAP


def _without(text: str, names: Sequence[str]) -> str:
    text = QUOTED.sub(GAP, text)
    for name in names:
        text = text.replace(repr(name), GAP)
        if re.search(r"[\d\W_]", name) and not name.isdecimal():  # a plain word is also one of sentences
            text = re.sub(rf"(?<![\w/.]){re.escape(name)}(?![\w/]|\.\w)", GAP, text)
    text = PATH.sub(GAP, text)
    text = ADDRESS.sub(GAP, text)
    text = HASH.sub(GAP, text)
    text = DIGITS.sub(NUMBER, text)
    text = PRODUCT.sub(NUMBER, text)
    return SERIES.sub(f"{NUMBER}, {GAP}", text)


def _names(example: str) -> list[str]:
    """What messages may call an example, the longest first."""
    path = PurePosixPath(example)
    names = {example, path.name, path.stem, path.with_suffix("").as_posix() if path.name else ""}
    return sorted(filter(lambda name: re.search(r"\w", name), names), key=lambda name: (-len(name), name))
