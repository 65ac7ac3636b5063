"""One page of HTML on a recording and on what was inferred from it: quality, results, doubts, and what to try next."""

from nwb_calcium_lvm.report._write import plan_report, write_report

__all__ = ["plan_report", "write_report"]
