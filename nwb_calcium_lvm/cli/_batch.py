"""``nwb-calcium-lvm batch``: what a batch says on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from nwb_calcium_lvm.batch import Record, plan_batch, read_settings, run_batch
from nwb_calcium_lvm.batch.run import ACTIONS
from nwb_calcium_lvm.batch.settings import Settings
from nwb_calcium_lvm.batch.work import output_of
from nwb_calcium_lvm.cli._console import Say, table


def run_batch_command(
    fit: Path,
    sessions: Sequence[Path],
    say: Say,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    redo: bool = False,
    report: bool = False,
    dry_run: bool = False,
    verbose: int = 0,
) -> None:
    """Run a batch, or say what it would do; leave with exit code 1 if a session failed."""
    settings = read_settings(fit)
    if report:
        settings = replace(settings, report=True)
    if dry_run:
        _say_plan(settings, sessions, redo, say)
        return

    there = sum(p.action == "done" for p in plan_batch(settings, sessions, redo=redo))
    if there:
        say(f"{there} of {len(sessions)} sessions are done already")

    def tell(record: Record, done: int, total: int) -> None:
        say(f"[{done}/{total}] {_outcome(record)}")

    records = run_batch(settings, sessions, workers=workers, scheduler=scheduler, redo=redo, tell=tell, verbose=verbose)
    failed = [r for r in records if r.status != "done"]
    say(f"{len(records) - len(failed)} of {len(records)} sessions done; the table is {settings.folder / 'summary.csv'}")
    if failed:
        say(f"{len(failed)} failed, and are tried again by the same command. Errors are in the table.")
        raise typer.Exit(1)


def _outcome(record: Record) -> str:
    if record.status != "done":
        return f"{record.session}: {record.status.upper()}, {record.error}"
    score = "" if record.score is None else f"score {record.score:.4f}, "
    unsure = ", not converged" if record.converged is False else ""
    trouble = f" ({record.error})" if record.error else ""
    return f"{record.session}: {score}{record.n_rois} ROIs, {record.seconds:.1f} s{unsure}{trouble}"


def _say_plan(settings: Settings, sessions: Sequence[Path], redo: bool, say: Say) -> None:
    planned = plan_batch(settings, sessions, redo=redo)
    what = "apply" if settings.fitted else "fit"
    say(f"Would {what} {settings.model} ({settings.result_name}), {settings.parameters or 'with default parameters'}")
    rows = [(p.job.session, ACTIONS[p.action], output_of(p.job.session, p.job.name)) for p in planned]
    say(table(rows, ("session", "state", "output")))
    pending = sum(p.action not in ("done", "changed") for p in planned)
    say(f"{pending} of {len(planned)} sessions to do, results into {settings.folder}")
    if any(p.action == "changed" for p in planned):
        say("Those with another configuration are refused: choose another folder in [output], or pass --redo.")
    say("Nothing was written (--dry-run).")
