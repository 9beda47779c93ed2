"""A result as a notebook shows it: the page of its own masks, kept apart from the notebook's in a frame."""

from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.page import page
from sfumato.figures.report.results import Result, attribution, entries, method_name, section

MOST = 4
"""Queries that are shown."""

HEIGHT = 640
"""Pixels; more is scrolled to."""


def notebook(result: Result) -> str:
    """HTML to stand in a notebook's output. The result knows no picture: its masks are shown alone, as heat maps."""
    count = len(attribution(result))
    parts: list[Html] = [section(each, place) for place, each in enumerate(entries(result)[:MOST])]
    if count > MOST:
        parts.append(tag("p", f"… and {count - MOST} more queries; result[index] shows one."))
    content = page(method_name(result), *parts)
    return tag(
        "iframe",
        srcdoc=content,
        sandbox="allow-scripts",
        title=method_name(result),
        width="100%",
        height=HEIGHT,
        frameborder=0,
    )
