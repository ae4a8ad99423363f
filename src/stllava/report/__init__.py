"""The report of a run: one page and its figures, from records alone.

`page` puts it together; `compare` holds the statistics and may be used without a page.
"""

from __future__ import annotations

from stllava.report.page import write_report

__all__ = ["write_report"]
