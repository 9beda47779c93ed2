"""Self-contained pages of HTML about what methods found, and about runs."""

from sfumato.figures.report.notebook import notebook
from sfumato.figures.report.results import html, write
from sfumato.figures.report.run import for_run

__all__ = ["for_run", "html", "notebook", "write"]
