"""Self-contained pages of HTML about what methods found, and about runs."""

from sfumato.report.results import html, write
from sfumato.report.run import for_run

__all__ = ["for_run", "html", "write"]
