"""HTML put together from parts, in which no text can pass for markup: whatever is not `Html` is escaped."""

import re
from html import escape

VOID = frozenset({"br", "img", "input", "link", "meta"})
"""Elements that have no end."""


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """An element. Children that are not `Html` are text; of attributes, `None` and `False` leave them out, `True` gives them no
    value. A `_` in an attribute's name is a hyphen, and one at its end is nothing.

    >>> tag("p", "1 < 2", tag("br"), class_="small", hidden=True, id=None)
    '<p class="small" hidden>1 &lt; 2<br></p>'
    """
    given = "".join(map(_attribute, attributes.items()))
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Html:
    """Parts one after the other; `None` is nothing."""
    return Html("".join(text(child) for child in children if child is not None))


def text(words: str) -> Html:
    """Words as markup.

    >>> text("<script>"), text(Html("<br>")), text("a\\x00b\\ud800")
    ('&lt;script&gt;', '<br>', 'a\ufffdb\ufffd')
    """
    return words if isinstance(words, Html) else Html(escape(_printable(words)))


def _attribute(given: tuple[str, str | float | bool | None]) -> str:
    name, value = given[0].rstrip("_").replace("_", "-"), given[1]
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(_printable(str(value)))}"'


def _printable(words: str) -> str:
    """Without what no file of HTML may hold: control characters, and halves of surrogate pairs, as of file names that are not
    UTF-8."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "\ufffd", words)
