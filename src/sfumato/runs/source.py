"""The code that results come from, as a hash: the version's number alone would not tell a changed working copy."""

import hashlib
from functools import cache
from pathlib import Path

ABOVE = ("annotations", "behaviour", "cli", "outline", "panels", "plots", "progress", "report", "runs", "sheets", "web")
"""Packages and modules that show and store results, or ask something else: no row of a run comes from them."""


@cache
def code() -> str:
    """A hash of the files of this package that results depend on."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.with_suffix("").parts[0] not in ABOVE:
            digest.update(f"{name.as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
