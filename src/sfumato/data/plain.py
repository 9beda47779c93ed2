"""An example as plain JSON, and back: what a run keeps of its data sets."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.data.example import Example, Run, Thing


def plain(example: Example) -> dict[str, Any]:
    """An example as JSON has it, with only what is said of it.

    >>> plain(Example("a", Path("a.png"), (Thing(3),)))
    {'name': 'a', 'path': 'a.png', 'things': [{'label': 3}]}
    """
    found = {
        "name": example.name,
        "path": str(example.path),
        "things": [_thing(thing) for thing in example.things],
        "size": example.size,
        "asked": example.asked,
        "listed": example.listed,
    }
    return {name: value for name, value in found.items() if value is not None}


def example_of(found: Mapping[str, Any]) -> Example:
    """The example that `plain` wrote."""
    return Example(
        found["name"],
        Path(found["path"]),
        tuple(_thing_of(each) for each in found["things"]),
        *(None if found.get(name) is None else tuple(found[name]) for name in ("size", "asked", "listed")),
    )


def annotation(example: Example) -> str:
    """A hash of an example's name and annotation: of its files the names alone, so that a set may lie anywhere."""
    found = plain(example)
    del found["path"]
    for thing in found["things"]:
        if "mask" in thing:
            thing["mask"] = Path(thing["mask"]).name
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:32]


def files(example: Example) -> list[Path]:
    """The files that hold an example: its picture, and the masks of its things."""
    masks = (thing.mask for thing in example.things if thing.mask is not None)
    return list(dict.fromkeys([example.path, *masks]))


def _thing(thing: Thing) -> dict[str, Any]:
    found: dict[str, Any] = {
        "label": thing.label,
        "box": thing.box,
        "polygons": thing.polygons or None,
        "run": None if thing.run is None else [thing.run.size, thing.run.lengths],
        "mask": None if thing.mask is None else str(thing.mask),
        "difficult": thing.difficult or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _thing_of(found: Mapping[str, Any]) -> Thing:
    box, run, mask = (found.get(name) for name in ("box", "run", "mask"))
    return Thing(
        found["label"],
        None if box is None else (box[0], box[1], box[2], box[3]),
        tuple(tuple(polygon) for polygon in found.get("polygons", ())),
        None if run is None else Run((run[0][0], run[0][1]), tuple(run[1])),
        None if mask is None else Path(mask),
        found.get("difficult", False),
    )
