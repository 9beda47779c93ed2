"""What a run has noted of which class is which, as people read it."""

from collections.abc import Mapping
from typing import Any

IN_ORDER = "in order"

LISTED = 8
"""Classes that a message names, and lines that it gives to write."""


def class_line(note: Mapping[str, Any]) -> str:
    """A line that says what `ClassMap.as_json` holds.

    >>> class_line({"data": "pets", "model": "net", "classes": 2, "ways": {"by name": 2}, "shown": []})
    'pets → net: 2 of 2 classes by name'
    """
    ways, total = note["ways"], note["classes"]
    if not ways:
        return f"{note['data']} → {note['model']}: none of {total} classes is explained"
    first, *rest = (f"{count} {way}" for way, count in ways.items())
    line = f"{note['data']} → {note['model']}: {first.replace(' ', f' of {total} classes ', 1)}"
    if (left := total - sum(ways.values())) > 0:
        rest.append(f"{left} never explained")
    line = ", ".join([line, *rest]) + (": no name of one is a name of the other" if IN_ORDER in ways else "")
    named = [f"{name} is {label!r}" for name, label, _ in note["shown"][:LISTED]]
    more = len(note["shown"]) - len(named)
    return line + (f" ({', '.join(named)}{f' and {more} more' if more > 0 else ''})" if named else "")
