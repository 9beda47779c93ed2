"""The data sets of a plan, as its run keeps them: read from their annotations once, and again where these have changed."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sfumato.data import Data, Example
from sfumato.data.plain import annotation, files, plain
from sfumato.runs.plans.plan import PREDICTED, DataEntry
from sfumato.runs.stores.content import stamp
from sfumato.runs.stores.store import Listed, Store, data_note
from sfumato.runs.work.items import PREDICTED_TARGET, UNKNOWN_TARGET
from sfumato.settings import as_key

AT_ONCE = 1000
"""Examples that go into the store together."""


def register(store: Store, name: str, entry: DataEntry) -> None:
    """See that the store holds the examples and queries of a data set as they are now.

    A data set whose `sources` (the files that it reads its annotations from) have the size and times that they had is not
    read again; one that names none is gone through each time. Raises `ValueError` where the set cannot be read.
    """
    sources = _sources(entry)
    if _known(store, name, sources):
        return
    classes = list(entry.data.classes)
    count = 0
    examples = _examples(entry.data, entry.targets)
    while block := list(islice(examples, AT_ONCE)):
        store.lists(name, count, block)
        count += len(block)
    queries = store.listed(name, count)
    store.note(data_note(name), {"sources": sources, "classes": classes, "examples": count, "queries": queries})


def registered(store: Store, name: str, entry: DataEntry) -> bool:
    """Whether the store holds a data set as it is now, as far as that is known without reading it."""
    return _known(store, name, _sources(entry))


def _known(store: Store, name: str, sources: str) -> bool:
    return bool(sources) and store.notes().get(data_note(name), {}).get("sources") == sources


def _sources(entry: DataEntry) -> str:
    """A hash of all that the examples come from; empty where that is not known."""
    paths = getattr(entry.data, "sources", None)
    if paths is None:
        return ""
    listed = sorted(map(str, paths))
    told = [as_key(entry.data), entry.targets, listed, stamp(listed)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _examples(data: Data, targets: str) -> Iterator[Listed]:
    """The examples of a data set in its order. What is wrong with the annotation of one becomes a query that says so."""
    for index in range(len(data)):
        try:
            example = data[index]
        except ValueError as error:
            yield _unknown(f"example {index}", str(error))
        else:
            predicted = targets == PREDICTED or not data.classes
            yield _listed(example, (PREDICTED_TARGET,) if predicted else tuple(example.targets))


def _listed(example: Example, targets: tuple[int, ...]) -> Listed:
    body: dict[str, Any] = plain(example)
    paths = tuple(str(path) for path in files(example))
    return Listed(example.name, annotation(example), paths, json.dumps(body, separators=(",", ":")), targets)


def _unknown(name: str, reason: str) -> Listed:
    body = json.dumps({"name": name, "reason": reason})
    return Listed(name, hashlib.sha256(body.encode()).hexdigest()[:32], (), body, (UNKNOWN_TARGET,))
