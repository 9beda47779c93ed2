"""Which example is at which place of a data set, by what its files hold: examples keep their rows when they move."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sfumato.runs.stores.tables import Rows

GONE = -1
"""The place of an example that has left its data set."""

Hashed = tuple[int, str, str]
"""An example, the stamp of its files and the hash of their content."""


@dataclass(frozen=True)
class Moves:
    """What new hashes of files mean for the examples of a data set."""

    known: tuple[Hashed, ...]
    """Examples that stay where they are."""
    arrivals: tuple[Hashed, ...]
    """Examples whose places hold something else: what they hold belongs to another example, or to a new one."""
    changed: frozenset[int]
    """The arrivals that were hashed before. They leave their places."""
    spare: dict[tuple[str, str], list[int]]
    """By annotation and content, the examples that another place may have."""
    annotations: dict[int, str]

    @property
    def examples(self) -> set[int]:
        """All examples that may move."""
        return {example for example, _, _ in self.arrivals}.union(*self.spare.values())


def find_moves(rows: Rows, data: str, hashed: Sequence[Hashed]) -> Moves:
    """Compare new hashes with those that the run has.

    Where a place has another content than its example, it gets the example with the same annotation and that content, if the
    run has one to spare; else a new example. (Of several examples with one annotation, some may have changed places.)
    """
    before = {
        example: (annotation, content)
        for example, annotation, content in rows(
            "SELECT id, annotation, content FROM examples WHERE id IN (SELECT listed.value FROM $ids)",
            json.dumps([example for example, _, _ in hashed]),
        )
    }
    annotations = {example: annotation for example, (annotation, _) in before.items()}
    others = [entry for entry in hashed if entry[0] in before and before[entry[0]][1] != entry[2]]
    changed = [example for example, _, _ in others if before[example][1]]
    spare = _spare_examples(rows, data, {annotations[example] for example, _, _ in others}, before)
    for example in changed:
        spare.setdefault(before[example], []).append(example)
    arrivals = [entry for entry in others if before[entry[0]][1] or (annotations[entry[0]], entry[2]) in spare]
    moving = {example for example, _, _ in arrivals}
    known = [entry for entry in hashed if entry[0] in before and entry[0] not in moving]
    return Moves(tuple(known), tuple(arrivals), frozenset(changed), spare, annotations)


def move(rows: Rows, data: str, moves: Moves) -> None:
    """Set the stamps and hashes, and move examples."""
    update = "UPDATE examples SET stamp = ?, content = ? WHERE id = ?"
    rows.each(update, [(stamp, content, example) for example, stamp, content in moves.known])
    spots = {example: _spot_of(rows, example) for example, _, _ in moves.arrivals}
    spare = {key: list(examples) for key, examples in moves.spare.items()}
    _leave(rows, moves.changed)
    for example, stamp, content in moves.arrivals:
        annotation = moves.annotations[example]
        fitting = spare.get((annotation, content), [])
        if not fitting and example not in moves.changed:
            rows(update, stamp, content, example)
            continue
        if example not in moves.changed:
            _leave(rows, [example])
        if fitting:
            _exchange(rows, data, annotation, fitting.pop(0), spots[example], stamp, instead=example)
        else:
            _insert(rows, data, annotation, spots[example], stamp, content)


class _Spot(NamedTuple):
    """A place of a data set, and what belongs to it whatever example is there."""

    place: int
    name: str
    files: str
    body: str
    targets: frozenset[int]
    """The targets that are planned."""


def _spot_of(rows: Rows, example: int) -> _Spot:
    ((place, name, files, body),) = rows("SELECT place, name, files, body FROM examples WHERE id = ?", example)
    targets = rows("SELECT target FROM queries WHERE example = ? AND live = 1", example)
    return _Spot(place, name, files, body, frozenset(target for (target,) in targets))


def _spare_examples(
    rows: Rows, data: str, annotations: Collection[str], without: Collection[int]
) -> dict[tuple[str, str], list[int]]:
    """The examples with these annotations that another place may have: first those without a place, then those whose files are
    others since they were hashed."""
    spare: dict[tuple[str, str], list[int]] = {}
    if not annotations:
        return spare
    # Without the "+", SQLite would go through all examples of the data set in the order of their places.
    statement = """SELECT annotation, content, id FROM examples
        WHERE data = ? AND annotation IN (SELECT listed.value FROM $words) AND content <> ''
            AND (place = ? OR stamp = '') ORDER BY +place, id"""
    for annotation, content, example in rows(statement, data, json.dumps(sorted(annotations)), GONE):
        if example not in without:
            spare.setdefault((annotation, content), []).append(example)
    return spare


def _exchange(rows: Rows, data: str, annotation: str, example: int, to: _Spot, stamp: str, instead: int) -> None:
    """Move an example to a place. If it has a place until now, `instead` goes there, or a new example if `instead` has another
    place already; that is to be hashed there."""
    spot = _spot_of(rows, example)
    if spot.place != GONE:
        if _spot_of(rows, instead).place == GONE:
            _put(rows, instead, spot, "")
        else:
            _insert(rows, data, annotation, spot, "", "")
    _put(rows, example, to, stamp)


def _leave(rows: Rows, examples: Collection[int]) -> None:
    rows.each("UPDATE examples SET place = ? WHERE id = ?", [(GONE, example) for example in sorted(examples)])


def _put(rows: Rows, example: int, spot: _Spot, stamp: str) -> None:
    rows(
        "UPDATE examples SET stamp = ?, place = ?, name = ?, files = ?, body = ? WHERE id = ?",
        *(stamp, spot.place, spot.name, spot.files, spot.body, example),
    )
    _set_live(rows, example, spot.targets)


def _insert(rows: Rows, data: str, annotation: str, spot: _Spot, stamp: str, content: str) -> None:
    ((number,),) = rows(
        """INSERT INTO examples (data, annotation, content, stamp, place, name, files, body)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id""",
        *(data, annotation, content, stamp, spot.place, spot.name, spot.files, spot.body),
    )
    _set_live(rows, number, spot.targets)


def _set_live(rows: Rows, example: int, targets: Collection[int]) -> None:
    """Plan these targets of an example, and no others."""
    there = {target for (target,) in rows("SELECT target FROM queries WHERE example = ?", example)}
    rows("UPDATE queries SET live = 0 WHERE example = ?", example)
    rows.each(
        "UPDATE queries SET live = 1 WHERE example = ? AND target = ?",
        [(example, target) for target in sorted(there & set(targets))],
    )
    rows.each(
        "INSERT INTO queries (example, target, live) VALUES (?, ?, 1)",
        [(example, target) for target in sorted(set(targets) - there)],
    )
