"""One self-contained HTML page per experiment."""

from analysis.report.build import build_report, write_report

__all__ = ["build_report", "write_report"]
