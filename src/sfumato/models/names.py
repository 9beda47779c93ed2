"""Suggestions for a name that nothing has."""

import difflib
from collections.abc import Iterable


def near(name: str, names: Iterable[str]) -> str:
    """The end of an error's sentence.

    >>> near("resnet5", ["resnet50", "vgg16"])
    '; did you mean resnet50?'
    """
    found = difflib.get_close_matches(name, list(names))
    return f"; did you mean {' or '.join(found)}?" if found else ""
