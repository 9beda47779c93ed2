"""The page around a report's parts: one file that asks nobody for anything."""

import base64
import hashlib
import os
from functools import cache
from importlib.resources import files

from sfumato.about import versions
from sfumato.figures.report.markup import Html, joined, tag
from sfumato.files import written


def page(title: str, *parts: str | None, style: str = "") -> str:
    """A whole page. Its policy lets a browser run its own script, use its style, show the pictures that are in it, and nothing
    else: no request leaves it, and no script could come in with a name. `style` is added to the page's own."""
    script, style = _own("script.js"), _own("style.css") + Html(style)
    allowed = (
        f"default-src 'none'; img-src data:; script-src '{_hashed(script)}'; style-src '{_hashed(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=allowed),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    made = tag("footer", f"Made with sfumato {versions()['sfumato'].replace('unknown', '')}".strip())
    body = tag("body", tag("main", tag("h1", title), *parts), made, tag("script", script))
    return str(joined(Html("<!DOCTYPE html>\n"), tag("html", head, body, lang="en"))) + "\n"


def write_page(content: str, path: str | os.PathLike[str]) -> None:
    """Write a page, whole or not at all."""
    with written(path) as partial:
        partial.write_text(content, encoding="utf-8")


def wide(label: str, *parts: str | None) -> Html:
    """What may be wider than the screen, and then moves under it, also by keyboard."""
    return tag("div", *parts, class_="wide", role="region", aria_label=label, tabindex=0)


@cache
def _own(name: str) -> Html:
    """A file that lies beside this one; what is in it must not end its element."""
    return Html((files(__package__) / name).read_text(encoding="utf-8"))


def _hashed(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
