"""A batch: what is still to do, done, noted, and summed up."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from nwb_calcium_lvm.batch import cluster
from nwb_calcium_lvm.batch.records import Record, key_of, name_of, read_record, write_record
from nwb_calcium_lvm.batch.settings import Settings
from nwb_calcium_lvm.batch.summary import write_summary
from nwb_calcium_lvm.batch.work import Job, output_of
from nwb_calcium_lvm.exceptions import DataError, NameClashError, WriteError
from nwb_calcium_lvm.io._atomic import check_writable

logger = logging.getLogger(__name__)

ACTIONS = {
    "run": "to do",
    "retry": "failed before: to do again",
    "report": "done: its report is to be written",
    "done": "done",
    "changed": "done with another configuration, or its input has changed since",
}


class Planned(NamedTuple):
    """One session, and what would be done about it.

    Attributes
    ----------
    job : Job
    action : str
        Key of :data:`ACTIONS`.
    """

    job: Job
    action: str


def plan_batch(settings: Settings, sessions: Sequence[str | Path], *, redo: bool = False) -> list[Planned]:
    """Say what is to do for each session; nothing is written.

    Raises
    ------
    DataError
        If a session is named twice, or there is none.
    """
    paths = [Path(os.path.abspath(Path(s).expanduser())) for s in sessions]
    if not paths:
        raise DataError("There is no session. Expected paths of NWB files or Suite2p folders.")
    twice = sorted({str(p) for p in paths if paths.count(p) > 1})
    if twice:
        raise DataError(f"{', '.join(twice)} is named twice. Name each session once.")
    configuration = settings.configuration()
    return [_planned(settings, path, key_of(path, configuration), redo) for path in paths]


def _planned(settings: Settings, path: Path, key: str, redo: bool) -> Planned:
    name = name_of(path)
    earlier = read_record(settings.folder, name)
    job = Job(path, name, key, settings)
    if earlier is None:
        return Planned(job, "run")
    if earlier.status != "done":
        return Planned(job, "retry")
    if not (settings.folder / output_of(path, name)).exists():
        return Planned(job, "run")
    if earlier.key != key:
        return Planned(job, "run" if redo else "changed")
    if settings.report and not (earlier.report and (settings.folder / earlier.report).exists()):
        return Planned(replace(job, only_report=True, earlier=earlier), "report")
    return Planned(replace(job, earlier=earlier), "done")


def run_batch(
    settings: Settings,
    sessions: Sequence[str | Path],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    redo: bool = False,
    tell: Callable[[Record, int, int], Any] | None = None,
    verbose: int = 0,
) -> list[Record]:
    """Run a model over sessions, and return what became of each, in their order.

    Sessions that are done, with this configuration and unchanged, are not done again: after a kill, the same call goes
    on. What fails is noted, and tried again by the next call.

    Parameters
    ----------
    settings : Settings
        From :func:`read_settings`.
    sessions : sequence of path
        NWB files and Suite2p folders.
    workers : int, optional
        Processes on this machine; 0 works in this process, without Dask. Default: one for two processors.
    scheduler : str, optional
        Address of a Dask scheduler to use instead; its workers must see the same files under the same paths.
    redo : bool
        Do sessions again that were done with another configuration, or have changed since. Those that were done with
        this one are not, so that a kill costs nothing here either.
    tell : callable, optional
        Called with each record as it comes, how many are through, and of how many.
    verbose : int
        1 shows a progress bar.

    Raises
    ------
    NameClashError
        If results of another configuration are there, and ``redo`` is False; nothing has been done then.
    DataError, WriteError
        If the batch as a whole cannot run.
    """
    planned = plan_batch(settings, sessions, redo=redo)
    changed = [p for p in planned if p.action == "changed"]
    if changed:
        raise NameClashError(
            f"{settings.folder} holds results of {len(changed)} of these sessions that were made with another "
            f"configuration, or whose input has changed since, such as {changed[0].job.session}. Choose another folder "
            "in [output], or pass redo=True to replace them."
        )
    if workers is not None and workers < 0:
        raise DataError(f"workers={workers}; expected 0 (in this process) or more.")
    _make(settings.folder)
    jobs = [p.job for p in planned if p.action != "done"]
    records = {p.job.name: p.job.earlier for p in planned if p.action == "done"}
    with _alone(settings.folder), _where(workers, scheduler, len(jobs)) as run, _bar(len(jobs), verbose) as bar:
        try:
            for job, outcome in run(jobs) if jobs else ():
                record = outcome if isinstance(outcome, Record) else _lost(job, outcome)
                records[job.name] = record
                with bar.external_write_mode(file=sys.stdout):
                    if tell is not None:
                        tell(record, len(records), len(planned))
                bar.update()
        finally:  # interrupted or not, the table says what there is
            _sum_up(settings, planned, records)
    return [found for p in planned if (found := records[p.job.name]) is not None]


def _sum_up(settings: Settings, planned: Sequence[Planned], records: dict[str, Record | None]) -> None:
    rows = []
    for p in planned:
        found = records.get(p.job.name) or read_record(settings.folder, p.job.name)
        rows.append(found or Record(str(p.job.session), p.job.name, p.job.key, "interrupted"))
    for path in write_summary(settings.folder, rows):
        logger.info("Wrote %s", path)


def _lost(job: Job, error: Exception) -> Record:
    """Record a job whose worker died; it could not do so itself."""
    why = (
        "its worker process died, twice: not enough memory, perhaps. Run fewer workers, or this session alone"
        if type(error).__name__ == "KilledWorker"
        else f"{type(error).__name__}: {error}"
    )
    record = Record(str(job.session), job.name, job.key, "failed", error=" ".join(why.split())[:2000])
    write_record(job.settings.folder, record)
    return record


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"The folder {folder} cannot be made ({error}). Choose another one in [output].") from error
    check_writable(folder / "summary.csv")


@contextlib.contextmanager
def _where(workers: int | None, scheduler: str | None, n_jobs: int) -> Iterator[cluster.Runner]:
    if scheduler is not None and workers is not None:
        raise DataError("workers and scheduler exclude each other: the scheduler has workers of its own.")
    if n_jobs == 0 or workers == 0:
        yield cluster.in_this_process
    elif scheduler is not None:
        with cluster.remote(scheduler) as run:
            yield run
    else:
        n_workers = min(cluster.default_workers() if workers is None else workers, n_jobs)
        with cluster.local(n_workers) as run:
            yield run


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder for this batch, where the system has locks: two at once would do everything twice."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / ".batch.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WriteError(f"Another batch is at work in {folder}. Wait for it, or choose another folder.") from None
        except OSError as error:  # some network disks have no locks
            logger.info("%s cannot be locked (%s)", folder, error)
        yield


@contextlib.contextmanager
def _bar(total: int, verbose: int) -> Iterator[Any]:
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Sessions", unit="session", disable=None if verbose else True) as bar:
        yield bar
