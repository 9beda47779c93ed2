"""Converts examples to plain JSON and back. A run stores its examples in this form."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.data.example import Example, Run, Thing


def plain(example: Example) -> dict[str, Any]:
    """An example as JSON values, without empty fields.

    >>> plain(Example("a", Path("a.png"), (Thing(3),)))
    {'name': 'a', 'path': 'a.png', 'things': [{'label': 3}]}
    """
    record = {
        "name": example.name,
        "path": str(example.path),
        "things": [_thing(thing) for thing in example.things],
        "size": example.size,
        "asked": example.asked,
        "listed": example.listed,
    }
    return {name: value for name, value in record.items() if value is not None}


def example_of(record: Mapping[str, Any]) -> Example:
    """The example of a record that `plain` made."""
    return Example(
        record["name"],
        Path(record["path"]),
        tuple(_thing_of(thing) for thing in record["things"]),
        *(None if record.get(name) is None else tuple(record[name]) for name in ("size", "asked", "listed")),
    )


def annotation(example: Example) -> str:
    """A hash of an example's name and annotations. It does not depend on the folder that the data set is in."""
    record = plain(example)
    del record["path"]
    for thing in record["things"]:
        if "mask" in thing:
            thing["mask"] = Path(thing["mask"]).name
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]


def files(example: Example) -> list[Path]:
    """The files of an example: its picture, and the masks of its things."""
    masks = (thing.mask for thing in example.things if thing.mask is not None)
    return list(dict.fromkeys([example.path, *masks]))


def _thing(thing: Thing) -> dict[str, Any]:
    record: dict[str, Any] = {
        "label": thing.label,
        "box": thing.box,
        "polygons": thing.polygons or None,
        "run": None if thing.run is None else [thing.run.size, thing.run.lengths],
        "mask": None if thing.mask is None else str(thing.mask),
        "difficult": thing.difficult or None,
    }
    return {name: value for name, value in record.items() if value is not None}


def _thing_of(record: Mapping[str, Any]) -> Thing:
    box, run, mask = (record.get(name) for name in ("box", "run", "mask"))
    return Thing(
        record["label"],
        None if box is None else (box[0], box[1], box[2], box[3]),
        tuple(tuple(polygon) for polygon in record.get("polygons", ())),
        None if run is None else Run((run[0][0], run[0][1]), tuple(run[1])),
        None if mask is None else Path(mask),
        record.get("difficult", False),
    )
