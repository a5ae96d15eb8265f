"""The report of an ablation study: a self-contained page, the same as Markdown, and CSV files."""

from nnunetv2_xattnres.ablation.report.write import write_report

__all__ = ["write_report"]
