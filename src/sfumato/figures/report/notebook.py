"""A result in a notebook: the page of its masks, in a frame of its own."""

from sfumato.figures.report.markup import Html, tag
from sfumato.figures.report.page import page
from sfumato.figures.report.results import Result, attribution, entries, method_name, section

MOST = 4
"""The largest number of queries that are shown."""

HEIGHT = 640
"""The height of the frame in pixels; a longer page is scrolled."""


def notebook(result: Result) -> str:
    """HTML for the output of a notebook: the masks over the pictures, or as heat maps if the result does not hold these."""
    count = len(attribution(result))
    shown = result[:MOST]
    pictures = attribution(shown).pictures
    parts: list[Html] = [section(entry, index) for index, entry in enumerate(entries(shown, pictures))]
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
