"""Upgrade a run of an earlier format: its rows, recipes and notes stay, and items that are done stay done."""

import json
from typing import Any

from sfumato.runs.stores.content import digest
from sfumato.runs.stores.tables import FORMAT, TABLES, Rows
from sfumato.settings import CLASS, current_path

PAGE = 5000


def upgrade(rows: Rows, version: int) -> None:
    """Upgrade the tables of a run of an earlier format, in the open transaction."""
    if version < 2:
        _upgrade_format_1(rows)
    _rename_classes(rows)
    rows("UPDATE format SET version = ?", FORMAT)


def _rename_classes(rows: Rows) -> None:
    """Name the package's classes as now: formats 1 and 2 named them by their modules, some of which have moved."""
    for number, about in rows("SELECT id, about FROM recipes"):
        recipe = _rename_in(json.loads(about))
        rows("UPDATE recipes SET hash = ?, about = ? WHERE id = ?", digest(recipe), json.dumps(recipe), number)


def _rename_in(value: Any) -> Any:
    """Plain JSON with the present names of the package's classes."""
    if isinstance(value, dict):
        return {
            name: current_path(item) if name == CLASS and isinstance(item, str) else _rename_in(item)
            for name, item in value.items()
        }
    return [_rename_in(item) for item in value] if isinstance(value, list) else value


def _upgrade_format_1(rows: Rows) -> None:
    """The tables of format 1 as those of format 2.

    In format 1 an item was a hash; now it is a recipe and a query. Format 1 has only the names of a query's data set and
    example, and its target. If several rows have the same three, as a picture or annotation had changed, nothing tells which
    belongs to the present picture: none is kept, and the item is done again.
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
    records = rows("SELECT hash, about FROM recipes_1 ORDER BY hash")
    rows.each("INSERT INTO recipes (hash, about) VALUES (?, ?)", records)
    numbers = dict(rows("SELECT hash, id FROM recipes"))
    recipes = {name: json.loads(about) for name, about in records}
    return {
        name: (numbers[name], str(about.get("data", "")), "WeakLocalisation" in json.dumps(about.get("protocol")))
        for name, about in recipes.items()
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
                examples[data, name] = _insert(
                    rows,
                    """INSERT INTO examples (data, place, name, annotation, content, stamp, files, body)
                    VALUES (?, ?, ?, '', '', '', '[]', '{}') RETURNING id""",
                    *(data, place, name),
                )
            query = (examples[data, name], target)
            if query not in queries:
                queries[query] = _insert(
                    rows, "INSERT INTO queries (example, target, live) VALUES (?, ?, 1) RETURNING id", *query
                )
            row = None if measured is None else _row(json.loads(measured), tuned)
            names = None if row is None else json.dumps(list(row))
            if names is not None and names not in shapes:
                shapes[names] = _insert(rows, "INSERT INTO shapes (names) VALUES (?) RETURNING id", names)
            values = reason if row is None else json.dumps(list(row.values()), separators=(",", ":"))
            rows(
                """INSERT INTO done (recipe, query, shape, measured, seconds, masks) VALUES (?, ?, ?, ?, ?, ?)
                ON CONFLICT (recipe, query) DO UPDATE SET seconds = -1""",
                *(number, queries[query], shapes[names] if names else 0, values, seconds, masks or None),
            )
    rows("DELETE FROM done WHERE seconds < 0")


def _row(row: dict[str, Any], tuned: bool) -> dict[str, Any]:
    """A row without the name of its picture, which its query has, and with the fact that the name decided."""
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
                **{name: place[name] for name in ("data", "model", "method", "protocol")},
                "recipe": hashes[place["recipe"]][0],
            }
            for place in json.loads(value)
        ]
        rows("UPDATE notes SET value = ? WHERE name = 'places'", json.dumps(places))
    for data, examples, queries in rows(
        """SELECT data, count(DISTINCT examples.id), count(*) FROM examples
        JOIN queries ON queries.example = examples.id GROUP BY data"""
    ):
        about: dict[str, Any] = {"sources": "", "classes": [], "examples": examples, "queries": queries}
        rows("INSERT INTO notes (name, value) VALUES (?, ?)", f"data {data}", json.dumps(about))


def _insert(rows: Rows, statement: str, *values: Any) -> int:
    """The number of a new row."""
    ((number,),) = rows(statement, *values)
    return int(number)
