"""A run of an earlier format brought to the present one: its rows, recipes and notes stay, and what is done stays done."""

import json
from typing import Any

from sfumato.runs.stores.content import digest
from sfumato.runs.stores.tables import FORMAT, TABLES, Rows
from sfumato.settings import CLASS, current_path

PAGE = 5000


def brought_up(rows: Rows, version: int) -> None:
    """Bring the tables of a run of an earlier format to this one, in the transaction that is under way."""
    if version < 2:
        _keyed_by_query(rows)
    _named_anew(rows)
    rows("UPDATE format SET version = ?", FORMAT)


def _named_anew(rows: Rows) -> None:
    """Formats 1 and 2 named the package's classes by their modules, some of which have moved."""
    for number, about in rows("SELECT id, about FROM recipes"):
        recipe = _current(json.loads(about))
        rows("UPDATE recipes SET hash = ?, about = ? WHERE id = ?", digest(recipe), json.dumps(recipe), number)


def _current(value: Any) -> Any:
    """Plain JSON with the present names of the package's classes."""
    if isinstance(value, dict):
        return {
            name: current_path(item) if name == CLASS and isinstance(item, str) else _current(item)
            for name, item in value.items()
        }
    return [_current(item) for item in value] if isinstance(value, list) else value


def _keyed_by_query(rows: Rows) -> None:
    """The tables of format 1 as those of format 2.

    In format 1 an item was known by a hash; here it is a recipe and a query. Nothing is known there of a query but the names of
    its data set and example, and its target. Where several rows have these alike, as a picture or annotation had changed,
    nothing says which is that of the present one: none is kept, and the item is done anew.
    """
    for statement in (
        "DROP TABLE claims",
        "ALTER TABLE recipes RENAME TO recipes_1",
        "ALTER TABLE done RENAME TO done_1",
        "DROP INDEX done_of",
    ):
        rows(statement)
    for statement in TABLES:
        if not statement.startswith(("CREATE TABLE format ", "CREATE TABLE notes ")):
            rows(statement)
    hashes = _recipes(rows)
    _done(rows, hashes)
    _notes(rows, hashes)
    rows("DROP TABLE recipes_1")
    rows("DROP TABLE done_1")


def _recipes(rows: Rows) -> dict[str, tuple[int, str, bool]]:
    """Each recipe's number, its data set, and whether its rows need to say which part of the pictures is for tuning, by its
    hash."""
    found = rows("SELECT hash, about FROM recipes_1 ORDER BY hash")
    rows.each("INSERT INTO recipes (hash, about) VALUES (?, ?)", found)
    numbers = dict(rows("SELECT hash, id FROM recipes"))
    told = {name: json.loads(about) for name, about in found}
    return {
        name: (numbers[name], str(about.get("data", "")), "WeakLocalisation" in json.dumps(about.get("protocol")))
        for name, about in told.items()
    }


def _done(rows: Rows, hashes: dict[str, tuple[int, str, bool]]) -> None:
    examples: dict[tuple[str, str], int] = {}
    queries: dict[tuple[int, int], int] = {}
    shapes: dict[str, int] = {}
    places: dict[str, int] = {}
    after = ""
    statement = f"""SELECT key, recipe, example, target, measured, reason, seconds, masks FROM done_1 WHERE key > ?
        ORDER BY key LIMIT {PAGE}"""
    while page := rows(statement, after):
        after = page[-1][0]
        for _, recipe, name, target, measured, reason, seconds, masks in page:
            number, data, tuned = hashes.get(recipe, (0, "", False))
            if (data, name) not in examples:
                place = places.setdefault(data, 0)
                places[data] += 1
                examples[data, name] = _inserted(
                    rows,
                    """INSERT INTO examples (data, place, name, annotation, content, stamp, files, body)
                    VALUES (?, ?, ?, '', '', '', '[]', '{}') RETURNING id""",
                    *(data, place, name),
                )
            query = (examples[data, name], target)
            if query not in queries:
                queries[query] = _inserted(
                    rows, "INSERT INTO queries (example, target, live) VALUES (?, ?, 1) RETURNING id", *query
                )
            row = None if measured is None else _row(json.loads(measured), tuned)
            names = None if row is None else json.dumps(list(row))
            if names is not None and names not in shapes:
                shapes[names] = _inserted(rows, "INSERT INTO shapes (names) VALUES (?) RETURNING id", names)
            values = reason if row is None else json.dumps(list(row.values()), separators=(",", ":"))
            rows(
                """INSERT INTO done (recipe, query, shape, measured, seconds, masks) VALUES (?, ?, ?, ?, ?, ?)
                ON CONFLICT (recipe, query) DO UPDATE SET seconds = -1""",
                *(number, queries[query], shapes[names] if names else 0, values, seconds, masks or None),
            )
    rows("DELETE FROM done WHERE seconds < 0")


def _row(row: dict[str, Any], tuned: bool) -> dict[str, Any]:
    """A row without its picture's name, which its query has; and with what that name decided."""
    name = row.pop("picture", "")
    if tuned:
        from sfumato.metrics.weak_localisation import tunes  # torch, which most runs are looked at without

        row["tuning"] = tunes(str(name))
    return row


def _notes(rows: Rows, hashes: dict[str, tuple[int, str, bool]]) -> None:
    """The places of the table name their recipes by numbers, and each data set says how large it is."""
    for (value,) in rows("SELECT value FROM notes WHERE name = 'places'"):
        places = [
            {
                **{name: each[name] for name in ("data", "model", "method", "protocol")},
                "recipe": hashes[each["recipe"]][0],
            }
            for each in json.loads(value)
        ]
        rows("UPDATE notes SET value = ? WHERE name = 'places'", json.dumps(places))
    for data, examples, queries in rows(
        """SELECT data, count(DISTINCT examples.id), count(*) FROM examples
        JOIN queries ON queries.example = examples.id GROUP BY data"""
    ):
        about: dict[str, Any] = {"sources": "", "classes": [], "examples": examples, "queries": queries}
        rows("INSERT INTO notes (name, value) VALUES (?, ?)", f"data {data}", json.dumps(about))


def _inserted(rows: Rows, statement: str, *values: Any) -> int:
    """The number of a new row."""
    ((number,),) = rows(statement, *values)
    return int(number)
