"""Formulas as MathML, which browsers set by themselves: the pages need no script, and nothing from the network."""

import re
import zlib
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

_log = logging.getLogger(__name__)

MENDED = (
    (r"\\dots(?![A-Za-z])", r"\\ldots"),  # what docutils does not know, and what does as well
    (r"\\[Bb]ig(?![A-Za-z])", ""),
    (r"(\\(?:bar|hat|tilde)\s*\w)(?=[_^])", r"{\1{}}"),  # else an index is set below the letter
    (
        r"(\\[dt]?frac)\s*(\d)\s*(\d)",
        r"\1{\2}{\3}",
    ),  # TeX reads one digit for each part, docutils all of them for the first
)


def _inline(self: Any, node: nodes.Element) -> None:
    self.body.append(_set(self, node, as_block=False))
    raise nodes.SkipNode


def _display(self: Any, node: nodes.Element) -> None:
    self.body.append(f"{self.starttag(node, 'div')}{_set(self, node, as_block=True)}</div>\n")
    raise nodes.SkipNode


def _set(self: Any, node: nodes.Element, as_block: bool) -> str:
    formula = node.astext()
    for pattern, instead in MENDED:
        formula = re.sub(pattern, instead, formula)
    try:
        found = tex2mathml(formula, as_block=as_block)
        found = found.replace('"mathopen">|', '"mathopen" form="prefix">|')  # not spaced as a relation is
        return found.replace(">‖<", ' stretchy="false">‖<')  # lines as high as letters
    except MathError as error:
        _log.warning("docutils cannot set the formula %r: %s", node.astext(), error, location=node)
        return f"<code>{self.encode(node.astext())}</code>"


def setup(app: Any) -> dict[str, int]:
    """Make it known as the renderer "mathml". After a change of this file, a build sets all pages again."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    version = zlib.crc32(Path(__file__).read_bytes())
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
