"""What is done to one session, wherever it runs: read, fit or apply, score, write, report, and note it."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nwb_calcium_lvm._core.base import is_fitted
from nwb_calcium_lvm.batch.records import Record, write_record
from nwb_calcium_lvm.batch.settings import Settings, make_estimator
from nwb_calcium_lvm.exceptions import DataError

logger = logging.getLogger(__name__)

_OF_NWB_ONLY = ("series", "trials", "event", "window")
# Sessions share filters of warnings and settings of Matplotlib, so a worker of several threads takes one by one.
_ONE_AT_A_TIME = threading.Lock()
_OF_CUTTING = ("event", "window")


@dataclass(frozen=True)
class Job:
    """One session, and all that is needed to work on it in another process.

    ``only_report``: the result is there, and the page is wanted.
    """

    session: Path
    name: str
    key: str
    settings: Settings
    only_report: bool = False
    earlier: Record | None = None


def run_job(job: Job) -> Record:
    """Do the job, and write and return its record; whatever goes wrong is in the record."""
    with _ONE_AT_A_TIME:
        return _run(job)


def _run(job: Job) -> Record:
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a batch tells what failed; a session alone tells all
            record = _report_only(job) if job.only_report else _whole(job)
    except Exception as error:  # one bad file never stops the rest
        logger.info("%s failed", job.session, exc_info=True)
        record = Record(str(job.session), job.name, job.key, "failed", error=_in_a_line(error))
    finally:
        _remove(partial(job))
    seconds = round(time.monotonic() - started, 2)
    record = replace(record, seconds=record.seconds if job.only_report and record.seconds else seconds)
    write_record(job.settings.folder, record)
    return record


def partial(job: Job) -> Path:
    """Return where the result is written before it is whole: beside its place, so that relative links hold."""
    return job.settings.folder / f".{job.name}.partial{_ending(job.session)}"


def output_of(session: Path, name: str) -> str:
    """Return the name of the file of results."""
    return f"{name}{_ending(session)}"


def _ending(session: Path) -> str:
    return ".nwb.zarr" if _is_store(session) else ".nwb"


def _is_store(session: Path) -> bool:
    from nwb_calcium_lvm.io.zarr_store import is_store

    return is_store(session)


def _whole(job: Job) -> Record:
    from nwb_calcium_lvm.io import write_nwb
    from nwb_calcium_lvm.result import installed_versions

    settings = job.settings
    settings.folder.mkdir(parents=True, exist_ok=True)
    _remove(partial(job))  # of a run that was killed
    estimator = _estimator(job)
    data = _data(job.session, settings, estimator)
    result, score = _inferred(estimator, data, settings)
    is_folder = job.session.is_dir() and not _is_store(job.session)
    written = write_nwb(
        result,
        partial(job),
        source=data if is_folder and not hasattr(data, "make") else None,
        name=settings.result_name,
        schema=settings.schema,
    )
    target = settings.folder / output_of(job.session, job.name)
    if target.is_dir():
        shutil.rmtree(target)  # no store takes another's place in one step; a kill in between leaves it to do
    os.replace(written, target)
    record = Record(
        str(job.session),
        job.name,
        job.key,
        "done",
        score=score,
        n_rois=len(result.roi_ids),
        n_frames=len(result.time),
        converged=bool(result.converged),
        output=target.name,
        versions=dict(result.versions or installed_versions()),
    )
    # Noted before the report, so that a report that fails does not cost the fit.
    write_record(settings.folder, record)
    return _with_report(job, record) if settings.report else record


def _report_only(job: Job) -> Record:
    if job.earlier is None:
        raise DataError(f"There is no result of {job.session} to report on.")
    return _with_report(job, job.earlier)


def _with_report(job: Job, record: Record) -> Record:
    from nwb_calcium_lvm.report import write_report

    folder = job.settings.folder
    try:
        page = write_report(folder / record.output, folder / f"{job.name}_report.html", overwrite=True)
    except Exception as error:  # the result stands
        return replace(record, error=f"no report: {_in_a_line(error)}")
    return replace(record, report=page.name, error="")


def _estimator(job: Job) -> Any:
    estimator = make_estimator(job.settings)
    folder = getattr(estimator, "checkpoint_dir", None)
    if folder is not None:  # sessions must not go on from one another's training
        estimator.checkpoint_dir = Path(folder) / job.name
    return estimator


def _data(session: Path, settings: Settings, estimator: Any) -> Any:
    """Return the recording, or a stream where it is large and the model takes ROIs one by one."""
    from nwb_calcium_lvm.io import read_nwb, read_suite2p, stream_nwb, stream_suite2p

    if not session.exists():
        raise DataError(f"{session} does not exist. Expected an NWB file or a Suite2p folder.")
    read = settings.read
    options = {k: v for k, v in read.items() if k not in _OF_CUTTING}
    is_folder = session.is_dir() and not _is_store(session)
    if is_folder and set(read) & set(_OF_NWB_ONLY):
        raise DataError(
            f"{', '.join(k for k in _OF_NWB_ONLY if k in read)} in [read] is for NWB files, and {session} is a folder."
        )
    if getattr(estimator, "takes_any_rois", False):
        from nwb_calcium_lvm.spikes.streaming import LARGE

        stream = (
            stream_suite2p(session, **options) if is_folder else stream_nwb(session, **options, scratch=settings.folder)
        )
        if stream.n_bytes > LARGE:
            return stream
    recording = read_suite2p(session, **options) if is_folder else read_nwb(session, **options)
    if "event" in read:
        return recording.align(read["event"], tuple(read.get("window", (-1.0, 3.0))))
    return recording.select_trials() if "trials" in read else recording


def _inferred(estimator: Any, data: Any, settings: Settings) -> tuple[Any, float | None]:
    is_stream = hasattr(data, "make")
    if not is_fitted(estimator):
        estimator.fit(data.frames if is_stream else data)
    if is_stream:
        return estimator.infer(data, stream=True, scratch=settings.folder), None
    result = estimator.infer(data)
    return result, float(estimator.score(data)) if settings.model in ("hmm", "gpfa", "lfads") else None


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
