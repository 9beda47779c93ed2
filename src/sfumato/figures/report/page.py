"""The page around the parts of a report: one file that loads nothing else."""

import base64
import hashlib
import os
from functools import cache
from importlib.resources import files

from sfumato.about import versions
from sfumato.figures.report.markup import Html, concatenate, tag
from sfumato.files import written


def page(title: str, *parts: str | None, style: str = "") -> str:
    """A complete page. `style` is added to the page's own style.

    Its content security policy allows the page's own script and style, and pictures that are in the page. So the page makes no
    requests, and a name with markup cannot run a script.
    """
    script, style = _read_file("script.js"), _read_file("style.css") + Html(style)
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    footer = tag("footer", f"Made with sfumato {versions()['sfumato'].replace('unknown', '')}".strip())
    body = tag("body", tag("main", tag("h1", title), *parts), footer, tag("script", script))
    return str(concatenate(Html("<!DOCTYPE html>\n"), tag("html", head, body, lang="en"))) + "\n"


def write_page(content: str, path: str | os.PathLike[str]) -> None:
    """Write a page, completely or not at all. Raises `OSError`."""
    with written(path) as partial:
        partial.write_text(content, encoding="utf-8")


def scrollable(label: str, *parts: str | None) -> Html:
    """An element that can be scrolled sideways, also with the keyboard, if it is wider than the screen."""
    return tag("div", *parts, class_="wide", role="region", aria_label=label, tabindex=0)


@cache
def _read_file(name: str) -> Html:
    """The content of a file of this package, which must not contain the end tag of its element."""
    return Html((files(__package__) / name).read_text(encoding="utf-8"))


def _hash(content: str) -> str:
    """The hash of a script or style, for the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
