"""HTML built from parts. Everything that is not `Html` is escaped, so that text cannot become markup."""

import re

from markupsafe import Markup as Html
from markupsafe import escape

__all__ = ["Html", "concatenate", "tag", "text"]

VOID = frozenset({"br", "img", "input", "link", "meta"})
"""Elements without an end tag."""


def tag(name: str, /, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """An element. Children that are not `Html` are text.

    An attribute that is `None` or `False` is left out; one that is `True` has no value. A `_` in the name of an attribute
    becomes a hyphen, and a `_` at its end is removed.

    >>> print(tag("p", "1 < 2", tag("br"), class_="small", hidden=True, id=None))
    <p class="small" hidden>1 &lt; 2<br></p>
    """
    attributes_html = Html().join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html("<{}{}>").format(name, attributes_html)
    return Html("<{0}{1}>{2}</{0}>").format(name, attributes_html, concatenate(*children))


def concatenate(*children: str | None) -> Html:
    """The children one after the other, without those that are `None`."""
    return Html().join(text(child) for child in children if child is not None)


def text(words: str) -> Html:
    """Text as HTML. It is escaped, unless it is `Html` already.

    >>> print(text("<script>"), text(Html("<br>")), text("a\\x00b\\ud800"))
    &lt;script&gt; <br> a\ufffdb\ufffd
    """
    return words if isinstance(words, Html) else escape(_printable(words))


def _attribute(key: str, value: str | float | bool | None) -> Html:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return Html()
    return Html(" {}").format(name) if value is True else Html(' {}="{}"').format(name, _printable(str(value)))


def _printable(words: str) -> str:
    """The text without characters that HTML cannot have: control characters, and lone surrogates, as in file names that are
    not UTF-8."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", "\ufffd", words)
