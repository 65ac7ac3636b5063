"""``nwb-calcium-lvm report``: one page of HTML on a file and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nwb_calcium_lvm.cli._console import Say
from nwb_calcium_lvm.report import plan_report, write_report


def run_report(
    path: Path,
    out: Path | None,
    names: Sequence[str] | None,
    reading: Mapping[str, Any],
    say: Say,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Write the page, or say what it would be."""
    chosen = list(names) if names else None
    if dry_run:
        plan = plan_report(path, out, chosen, overwrite=overwrite)
        results = ", ".join(plan.results) or "no results: the recording only"
        say(f"Would write {plan.out}{' (replaces the one there)' if plan.out.exists() else ''}, of {results}")
        say("Nothing was written (--dry-run).")
        return
    written = write_report(path, out, chosen, overwrite=overwrite, reading=reading)
    say(f"Wrote {written} ({written.stat().st_size / 2**20:.1f} MB); open it in a browser")
