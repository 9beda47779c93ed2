"""Self-contained HTML pages about results and about runs.

- `results`: a page about results: a section for each query, in which `panel` shows each method with its `curve` and `numbers`;
- `run`: a page about a run: tables, and `notable` cases of each protocol with `thumbnails`;
- `notebook`: the page of a result in a notebook;
- `page`, `markup`, `encoding`: the HTML of all of them.
"""

from sfumato.figures.report.notebook import notebook
from sfumato.figures.report.results import html, write
from sfumato.figures.report.run import for_run

__all__ = ["for_run", "html", "notebook", "write"]
