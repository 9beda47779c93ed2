"""The data sets of a plan in its run's store: annotations are read once, and again if they have changed."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sfumato.data import Data, Example
from sfumato.data.plain import annotation, files, plain
from sfumato.runs.plans.plan import PREDICTED, DataEntry
from sfumato.runs.stores.content import stamp
from sfumato.runs.stores.store import Store, StoredExample, data_note
from sfumato.runs.work.items import PREDICTED_TARGET, UNKNOWN_TARGET
from sfumato.settings import as_key

AT_ONCE = 1000
"""How many examples are written in one transaction."""


def register(store: Store, name: str, entry: DataEntry) -> None:
    """Bring the examples and queries of a data set in the store up to date.

    A data set is not read again if its `sources` (the files with its annotations) have the same sizes and times as before. One
    that has no `sources` is read each time. Raises `ValueError` if the data set cannot be read.
    """
    sources = _sources(entry)
    if _known(store, name, sources):
        return
    classes = list(entry.data.classes)
    count = 0
    examples = _examples(entry.data, entry.targets)
    while block := list(islice(examples, AT_ONCE)):
        store.put_examples(name, count, block)
        count += len(block)
    queries = store.finish_examples(name, count)
    store.note(data_note(name), {"sources": sources, "classes": classes, "examples": count, "queries": queries})


def is_registered(store: Store, name: str, entry: DataEntry) -> bool:
    """Whether a data set in the store is up to date, as far as sizes and times of its files tell."""
    return _known(store, name, _sources(entry))


def _known(store: Store, name: str, sources: str) -> bool:
    return bool(sources) and store.notes().get(data_note(name), {}).get("sources") == sources


def _sources(entry: DataEntry) -> str:
    """A hash of all that the examples come from; empty if the data set does not name its sources."""
    paths = getattr(entry.data, "sources", None)
    if paths is None:
        return ""
    names = sorted(map(str, paths))
    facts = [as_key(entry.data), entry.targets, names, stamp(names)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _examples(data: Data, targets: str) -> Iterator[StoredExample]:
    """The examples of a data set in its order. One whose annotation cannot be read becomes a query that says why."""
    for index in range(len(data)):
        try:
            example = data[index]
        except ValueError as error:
            yield _unknown(f"example {index}", str(error))
        else:
            predicted = targets == PREDICTED or not data.classes
            yield _stored(example, (PREDICTED_TARGET,) if predicted else tuple(example.targets))


def _stored(example: Example, targets: tuple[int, ...]) -> StoredExample:
    body: dict[str, Any] = plain(example)
    paths = tuple(str(path) for path in files(example))
    return StoredExample(example.name, annotation(example), paths, json.dumps(body, separators=(",", ":")), targets)


def _unknown(name: str, reason: str) -> StoredExample:
    body = json.dumps({"name": name, "reason": reason})
    return StoredExample(name, hashlib.sha256(body.encode()).hexdigest()[:32], (), body, (UNKNOWN_TARGET,))
