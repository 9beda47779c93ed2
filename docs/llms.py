"""`llms.txt`, the list of pages for language models (https://llmstxt.org), and the pages' own text in Markdown beside it.

Both are made of the pages as they are built: the title of each, and the first sentence of its text.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_content

HERE = Path(__file__).parent
SECTIONS = {
    "Start here": ("tasks", "tutorial", "howto/", "methods/"),
    "Use": ("explorer", "evidence", "runs", "compatibility", "migration", "glossary"),
    "Reference": ("reference",),
    "Examples": ("auto_examples/",),
    "Measured": ("results", "benchmarks", "planted"),
}
"""The sections, and the pages or folders in each. All other pages are in the last section."""
LAST = "Optional"
LONGEST = 240
"""Characters of a sentence."""


def first_sentence(document: nodes.document) -> str:
    """The first sentence of the text of a page; empty without any."""
    for paragraph in document.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section | nodes.document | desc_content) and (text := _words(paragraph)):
            sentence = re.split(r"(?<=[.?!])(?<!e\.g\.)(?<!al\.)\s+(?=[A-Z`])", text)[0]
            return sentence if len(sentence) <= LONGEST else sentence[:LONGEST].rsplit(" ", 1)[0] + " …"
    return ""


def _words(node: nodes.Node) -> str:
    return " ".join(node.astext().split())


def section_of(page: str) -> str:
    """The section that a page is in."""
    for section, places in SECTIONS.items():
        for place in places:
            if page == place or page.startswith(place if place.endswith("/") else f"{place}/"):
                return section
    return LAST


def pages_of(env: Any) -> Iterator[str]:
    """All pages in the order of the tables of contents, without the first."""
    seen, waiting = {env.config.root_doc}, list(reversed(env.toctree_includes.get(env.config.root_doc, [])))
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            yield page
            waiting.extend(reversed(env.toctree_includes.get(page, [])))


def text_of(entries: dict[str, tuple[str, str, str]], name: str, summary: str) -> str:
    """The file: for each page its title, link and first sentence, in sections."""
    lines = [f"# {name}", "", f"> {summary}"]
    for section in (*SECTIONS, LAST):
        pages = [page for page in entries if section_of(page) == section]
        if pages:
            lines += ["", f"## {section}", ""]
        for page in pages:
            title, link, sentence = entries[page]
            lines.append(f"- [{title}]({link})" + (f": {sentence}" if sentence else ""))
    return "\n".join(lines) + "\n"


def written(app: Any, failure: Exception | None) -> None:
    """Write the list, and copy the pages that are written in Markdown."""
    if failure or app.builder.name not in ("html", "dirhtml"):
        return
    env, out = app.env, Path(app.outdir)
    entries = {}
    for page in pages_of(env):
        source = Path(env.doc2path(page))
        link = f"{page}.md" if source.suffix == ".md" and page != "reference" else app.builder.get_target_uri(page)
        if link.endswith(".md"):
            (out / link).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, out / link)
        entries[page] = _words(env.titles[page]), link, first_sentence(env.get_doctree(page))
    (out / "llms.txt").write_text(text_of(entries, app.config.project, app.config.llms_summary), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Have Sphinx write it at the end of a build."""
    app.add_config_value("llms_summary", "", "html")
    app.connect("build-finished", written)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
