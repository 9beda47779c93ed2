"""HTML put together from parts, in which no text can pass for markup: whatever is not `Html` is escaped."""

import re

from markupsafe import Markup as Html
from markupsafe import escape

__all__ = ["Html", "joined", "tag", "text"]

VOID = frozenset({"br", "img", "input", "link", "meta"})
"""Elements that have no end."""


def tag(name: str, /, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """An element. Children that are not `Html` are text; of attributes, `None` and `False` leave them out, `True` gives them no
    value. A `_` in an attribute's name is a hyphen, and one at its end is nothing.

    >>> print(tag("p", "1 < 2", tag("br"), class_="small", hidden=True, id=None))
    <p class="small" hidden>1 &lt; 2<br></p>
    """
    given = Html().join(map(_attribute, attributes.items()))
    if name in VOID:
        return Html("<{}{}>").format(name, given)
    return Html("<{0}{1}>{2}</{0}>").format(name, given, joined(*children))


def joined(*children: str | None) -> Html:
    """Parts one after the other; `None` is nothing."""
    return Html().join(text(child) for child in children if child is not None)


def text(words: str) -> Html:
    """Words as markup.

    >>> print(text("<script>"), text(Html("<br>")), text("a\\x00b\\ud800"))
    &lt;script&gt; <br> a\ufffdb\ufffd
    """
    return words if isinstance(words, Html) else escape(_printable(words))


def _attribute(given: tuple[str, str | float | bool | None]) -> Html:
    name, value = given[0].rstrip("_").replace("_", "-"), given[1]
    if value is None or value is False:
        return Html()
    return Html(" {}").format(name) if value is True else Html(' {}="{}"').format(name, _printable(str(value)))


def _printable(words: str) -> str:
    """Without what no file of HTML may hold: control characters, and halves of surrogate pairs, as of file names that are not
    UTF-8."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "\ufffd", words)
