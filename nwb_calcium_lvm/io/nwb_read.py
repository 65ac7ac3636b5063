"""Reading the traces of an NWB file into a Recording: found, put the right way round, scaled, and made dF/F."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm import indicators
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.indicators import Indicator
from nwb_calcium_lvm.io._classes import NwbObject
from nwb_calcium_lvm.io._open import opened
from nwb_calcium_lvm.io._series_values import copy_values, dtype_of, frames_recorded, read_values
from nwb_calcium_lvm.io.nwb_series import Candidate, Pick, as_candidate, choose, find_series, object_path
from nwb_calcium_lvm.io.nwb_tables import accepted_rois, plain_columns, trial_table
from nwb_calcium_lvm.io.scratch import Scratch, frames_per_slab
from nwb_calcium_lvm.preprocessing import dff_from_raw, noise_level
from nwb_calcium_lvm.provenance import Source
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.stream import RecordingStream, silent

JOIN = " + "  # between the paths of several planes read as one
logger = logging.getLogger(__name__)

_FROM_RAW = ("raw", "demixed", "corrected")  # raw light: a baseline makes it dF/F
_NOT_FOR_MODELS = ("deconvolved", "denoised", "result", "neuropil")
_RATE_TOLERANCE = 0.02
_COPIES = ("traces", "neuropil")  # names in a temporary file


def read_nwb(
    src: Any,
    *,
    series: str | None = None,
    neuropil: str | bool | None = None,
    plane: int | None = None,
    accepted: bool | str = True,
    neuropil_coefficient: float = 0.7,
    baseline: str = "maximin",
    trials: str | None = "trials",
    indicator: str | Indicator | None = None,
    sampling_rate: float | None = None,
    strict: bool = False,
) -> Recording:
    """Read the traces of an NWB file, into memory; the file is closed again.

    Raw fluorescence with its neuropil is preferred: the neuropil is subtracted and a baseline makes it dF/F. Else
    dF/F is read as it is, else raw fluorescence alone. Deconvolved and denoised traces are read only if ``series``
    names them, with a warning.

    Parameters
    ----------
    src : path, NWBFile, RoiResponseSeries, h5py.File or binary file object
        What to read. Objects that are open stay open.
    series : str, optional
        Path of the series, such as ``"processing/ophys/DfOverF/plane0"``, or the end of it. Needed where several
        could be meant.
    neuropil : str or False, optional
        Path of the neuropil; False subtracts none. Default: the series of the same ROIs named so.
    plane : int, optional
        Imaging plane. Default: all planes of one clock and one table of ROIs.
    accepted : bool or str
        True: only ROIs that the file says are cells (columns ``iscell``, ``is_accepted``, ``accepted``, ``Accepted``,
        ``keep`` or ``valid_roi``), all if it does not say. False: all. A name: by that column.
    neuropil_coefficient : float
        Share of the neuropil in the ROI's light, 0.7 as Suite2p has it.
    baseline : {"maximin", "percentile", "constant", "constant_percentile"}
        How F0 is found, see :func:`nwb_calcium_lvm.preprocessing.baseline`.
    trials : str or None
        Intervals table to keep; None keeps none.
    indicator : str or Indicator, optional
        Default: as the imaging plane says, if it is a known one.
    sampling_rate : float, optional
        Frames per second, for files that do not say or say it wrong.
    strict : bool
        Whether an ROI that has to be left out is an error rather than a warning.

    Returns
    -------
    Recording
        dF/F of shape (time, roi); ``units="unknown"`` where the file does not tell what the traces are.

    Raises
    ------
    AmbiguousDataError
        If several series could be meant; the message lists them.
    DataError
        If there is nothing to read, or it contradicts itself.
    """
    with opened(src) as (nwbfile, only, path):
        found = _find(nwbfile, only, path, series, neuropil, plane, accepted, trials, indicator, sampling_rate)
        parts = _read_picks(found)
    traces = _as_dff(parts, found.clock.frames_per_second, neuropil_coefficient, baseline)
    recording = _recording(found, traces)
    recording = _with_noise(_without_dead(recording, traces.usable & recording.usable, strict))
    logger.info("Read %s", recording)
    return recording


def stream_nwb(
    src: str | os.PathLike[str],
    *,
    series: str | None = None,
    neuropil: str | bool | None = None,
    plane: int | None = None,
    accepted: bool | str = True,
    neuropil_coefficient: float = 0.7,
    baseline: str = "maximin",
    trials: str | None = "trials",
    indicator: str | Indicator | None = None,
    sampling_rate: float | None = None,
    scratch: str | os.PathLike[str] | None = None,
) -> RecordingStream:
    """Open an NWB file, to be read some ROIs at a time as :func:`read_nwb` reads all of them.

    For files larger than memory: ``S2SSpikeEstimator.infer`` takes what this returns. A file holds frame after frame,
    and a baseline needs all frames of a ROI, so the traces are first copied to a temporary file once, from the first
    frame to the last. ROIs without a signal are named in a warning when all have been read.

    Parameters
    ----------
    src : path
    series, neuropil, plane, accepted, neuropil_coefficient, baseline, trials, indicator, sampling_rate
        As of :func:`read_nwb`.
    scratch : path, optional
        Folder of the temporary file, which takes as much room as the traces and their neuropil. Default: the system's.
    """
    with opened(Path(src)) as (nwbfile, only, path):
        found = _find(nwbfile, only, path, series, neuropil, plane, accepted, trials, indicator, sampling_rate)
        units = _units([p.trace.kind for p in found.picks])
        n_frames = _n_frames(found.picks)

    def blocks(size: int) -> Iterator[Recording]:
        copy = Scratch(scratch)
        with opened(Path(src)) as (nwbfile, only, path), warnings.catch_warnings(action="ignore"):
            # The series found before are those of a file that is closed; what is odd about them has been said.
            again = _find(nwbfile, only, path, series, neuropil, plane, accepted, trials, indicator, sampling_rate)
            _copy_picks(again, n_frames, copy)
        left_out: list[Any] = []
        for part, columns in _columns(found, size):
            traces = _as_dff(
                [_copied(found, part, copy, columns)], found.clock.frames_per_second, neuropil_coefficient, baseline
            )
            recording = _recording(found.take(part, columns), traces._replace(units=units))
            usable = traces.usable & recording.usable
            left_out += recording.roi_ids[~usable].tolist()
            if usable.any():
                yield _with_noise(recording if usable.all() else recording.isel(roi=usable))
        _say_dead(left_out, len(found.facts["roi_ids"]), strict=False)

    facts = {k: found.facts[k] for k in ("trials", "metadata", "indicator")}
    frames = Recording(silent(n_frames), units=units, **facts, **found.clock.arguments(n_frames, found.picks[0].trace))
    return RecordingStream(frames, found.facts["roi_ids"], blocks, found.facts["source"], found.facts["roi_metadata"])


@dataclass(frozen=True)
class _Found:
    """What of a file is read: series, which of their ROIs, when, and what is known of them."""

    picks: list[Pick]
    columns: list[NDArray[np.integer]]  # of each series, those that are kept
    clock: _Clock
    facts: dict[str, Any]

    def take(self, part: int, columns: slice) -> _Found:
        """Return the same of some of the kept columns of one series."""
        first = sum(len(c) for c in self.columns[:part])
        rois = np.arange(first + columns.start, first + columns.stop)
        facts = self.facts | {
            "roi_ids": self.facts["roi_ids"][rois],
            "roi_metadata": {k: v[rois] for k, v in self.facts["roi_metadata"].items()},
            "source": self.facts["source"].take(rois),
        }
        return replace(self, facts=facts)


def _find(
    nwbfile: NwbObject,
    only: NwbObject | None,
    path: Path | None,
    series: str | None,
    neuropil: str | bool | None,
    plane: int | None,
    accepted: bool | str,
    trials: str | None,
    indicator: str | Indicator | None,
    sampling_rate: float | None,
) -> _Found:
    if only is not None:
        candidates = find_series(nwbfile) if nwbfile is not None else [as_candidate(only, None)]
        series = object_path(only, nwbfile)
    else:
        candidates = find_series(nwbfile)
    picks = choose(candidates, series=series, neuropil=neuropil, plane=plane)
    table = picks[0].trace.series.rois.table
    rows = np.concatenate([p.trace.rows for p in picks])
    _check_rows(rows, len(table), picks)
    columns = plain_columns(table, rows)
    keep = accepted_rois(columns, accepted)
    keep = np.ones(len(rows), bool) if keep is None else keep
    facts: dict[str, Any] = {
        "roi_ids": _roi_ids(table, rows)[keep],
        "roi_metadata": {k: v[keep] for k, v in columns.items()},
        "trials": None if nwbfile is None else trial_table(nwbfile, trials),
        "metadata": _metadata(nwbfile, table.imaging_plane),
        "indicator": indicator or indicators.find(str(table.imaging_plane.indicator)),
        "source": _source(picks, nwbfile, path, rows, keep),
    }
    ends = np.cumsum([len(p.trace.rows) for p in picks])[:-1]
    chosen: list[NDArray[np.integer]] = [np.flatnonzero(k) for k in np.split(keep, ends)]
    return _Found(picks, chosen, _clock(picks[0].trace.series, sampling_rate, table.imaging_plane), facts)


def _recording(found: _Found, traces: _Traces) -> Recording:
    return Recording(
        traces.dff,
        mask=traces.mask,
        units=traces.units,
        **found.clock.arguments(len(traces.dff), found.picks[0].trace),
        **found.facts,
    )


def describe_nwb(path: str | Path) -> list[dict[str, Any]]:
    """Say which traces an NWB file has and what :func:`read_nwb` would read.

    Returns
    -------
    list of dict
        One per RoiResponseSeries: ``path``, ``kind``, ``shape`` (as stored), ``n_rois``, ``n_frames``, ``rate`` (Hz,
        None if not known), ``n_accepted`` (None if the file does not say), ``plane``, ``indicator``, ``problem``
        (why it cannot be read, or empty), ``read_as`` (``"traces"``, ``"neuropil"`` or empty, as by default).
    """
    with opened(path) as (nwbfile, _, _):
        candidates = find_series(nwbfile)
        roles: dict[str, str] = {}
        try:
            for pick in choose(candidates, series=None, neuropil=None, plane=None):
                roles[pick.trace.path] = "traces"
                if pick.neuropil is not None:
                    roles[pick.neuropil.path] = "neuropil"
        except DataError as error:  # ambiguous or nothing: there is no default, and reading says why
            logger.info("%s", error)
        return [_described(c, roles.get(c.path, "")) for c in candidates]


def _described(candidate: Candidate, role: str) -> dict[str, Any]:
    series = candidate.series
    table = series.rois.table
    rate = float(series.rate) if series.rate else None
    if series.timestamps is not None and len(series.timestamps) > 1:
        rate = 1.0 / float(np.median(np.diff(series.timestamps[:])))
    try:
        kept = accepted_rois(plain_columns(table, candidate.rows), True)
        n_accepted = None if kept is None else int(kept.sum())
    except DataError:
        n_accepted = 0
    return {
        "path": candidate.path,
        "kind": candidate.kind,
        "shape": candidate.shape,
        "n_rois": len(candidate.rows),
        "n_frames": candidate.n_frames,
        "rate": rate,
        "n_accepted": n_accepted,
        "plane": candidate.plane,
        "indicator": str(table.imaging_plane.indicator),
        "problem": candidate.problem,
        "read_as": role,
    }


# -- Clock ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clock:
    """Frames per second (None: as the timestamps say), time of the first frame, and of each frame where stored."""

    rate: float | None
    start: float
    timestamps: NDArray[np.floating] | None = None

    @property
    def frames_per_second(self) -> float:
        if self.rate is not None or self.timestamps is None:
            return self.rate or 1.0
        steps = np.diff(self.timestamps)
        return 1.0 / float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0

    def arguments(self, n_frames: int, trace: Candidate) -> dict[str, Any]:
        """Return what a Recording is told; where frames were cut off so are their times, else all have to fit."""
        times = self.timestamps
        cut = times if times is None or n_frames == trace.n_frames else times[:n_frames]
        return {"sampling_rate": self.rate, "timestamps": cut, "starting_time": self.start}


def _clock(series: NwbObject, wanted: float | None, imaging_plane: Any) -> _Clock:
    """Return the rate, the time of the first frame and, where stored, of each frame."""
    if series.timestamps is not None:
        times = np.asarray(series.timestamps[:], float)
        if len(times) > 1:
            # Recording compares the rate with the timestamps, and refuses those that go back.
            return _Clock(wanted, float(times[0]), times)
    said = float(series.rate) if series.rate is not None and np.isfinite(series.rate) else 0.0
    start = float(series.starting_time or 0.0) if series.timestamps is None else float(series.timestamps[0])
    if wanted is not None:
        if said > 0 and abs(wanted / said - 1) > _RATE_TOLERANCE:
            _warn(f"sampling_rate={wanted:.6g} Hz is used, though the file says {said:.6g} Hz.")
        return _Clock(float(wanted), start)
    if said <= 0:
        raise DataError(
            f"The series {series.name!r} has rate {series.rate} and no timestamps, so there is no clock. Pass "
            "sampling_rate=HZ, the frames per second of this plane."
        )
    frame_rate = getattr(imaging_plane, "imaging_rate", None)
    if frame_rate and np.isfinite(frame_rate) and frame_rate > 0 and abs(said / frame_rate - 1) > _RATE_TOLERANCE:
        default = " 10 Hz is what Suite2p writes when nobody set its fs." if said == 10.0 else ""
        _warn(
            f"The series {series.name!r} says {said:.6g} Hz, but its imaging plane {frame_rate:.6g} Hz.{default} "
            f"{said:.6g} Hz is used; if that is wrong pass sampling_rate=HZ."
        )
    return _Clock(said, start)


# -- Traces -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Traces of one pick as stored, scaled, (time, roi)."""

    kind: str
    traces: NDArray[np.floating]
    neuropil: NDArray[np.floating] | None


def _read_picks(found: _Found) -> list[_Part]:
    n_frames = _n_frames(found.picks)
    parts: list[_Part] = []
    for (trace, neuropil), chosen in zip(found.picks, found.columns, strict=True):
        other = None if neuropil is None else read_values(neuropil, chosen, n_frames)
        parts.append(_Part(trace.kind, read_values(trace, chosen, n_frames), other))
    return parts


def _n_frames(picks: list[Pick]) -> int:
    """Return how many frames all picks have, and say what is odd about them."""
    lengths = [frames_recorded([c for c in pick if c is not None]) for pick in picks]
    for pick, length in zip(picks, lengths, strict=True):
        if length < pick.trace.n_frames:
            _warn(f"The last {pick.trace.n_frames - length} frames of {pick.trace.path} are zeros and left out.")
    n_frames, longest = min(lengths), max(lengths)
    if n_frames < longest:
        _warn(f"The planes have {n_frames} to {longest} frames; all are cut to {n_frames}.")
    for trace, _ in picks:
        if trace.transposed:
            _warn(f"{trace.path} is stored as (roi, time), against the standard, and is turned round.")
        if trace.kind in _NOT_FOR_MODELS:
            _warn(
                f"{trace.path} looks {trace.kind}. Models of calcium expect the fluorescence with its noise: their "
                "noise and time constants will be off. Its unit is taken as unknown."
            )
    return n_frames


class _Traces(NamedTuple):
    dff: NDArray[np.floating]
    mask: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    units: str


def _as_dff(parts: list[_Part], rate: float, coefficient: float, method: str) -> _Traces:
    """Turn raw light into dF/F and leave everything else as it is; the picks side by side."""
    done: list[tuple[NDArray[np.floating], NDArray[np.bool_], NDArray[np.bool_]]] = []
    for part in parts:
        seen = np.isfinite(part.traces)
        if part.neuropil is not None:
            seen &= np.isfinite(part.neuropil)
        values, good = part.traces, np.ones(part.traces.shape[1], bool)
        if part.kind in _FROM_RAW:
            values, good = dff_from_raw(
                part.traces,
                part.neuropil,
                sampling_rate=rate,
                neuropil_coefficient=coefficient,
                method=method,
                mask=seen,
            )
        done.append((values, seen & np.isfinite(values), good))
    dff, mask, usable = (np.concatenate(found, axis=-1) for found in zip(*done, strict=True))
    return _Traces(dff, mask, usable, _units([part.kind for part in parts]))


def _units(kinds: list[str]) -> str:
    if "other" in kinds:
        _warn("Nothing in the file says whether these traces are raw or dF/F: their unit is taken as unknown.")
    return "dff" if {*kinds} <= {*_FROM_RAW, "dff"} else "unknown"


def _copy_picks(found: _Found, n_frames: int, copy: Scratch) -> None:
    """Copy what is kept of each series, frame after frame."""
    for i, (pick, chosen) in enumerate(zip(found.picks, found.columns, strict=True)):
        for name, candidate in zip(_COPIES, pick, strict=True):
            if candidate is not None and len(chosen):
                dtype = dtype_of(candidate)
                out = copy.create(f"{name}_{i}", (n_frames, len(chosen)), dtype)
                step = frames_per_slab(n_frames, len(candidate.rows), dtype.itemsize)
                copy_values(candidate, chosen, n_frames, out, step)


def _copied(found: _Found, part: int, copy: Scratch, columns: slice) -> _Part:
    trace, other = found.picks[part]
    neuropil = None if other is None else copy.rois(f"{_COPIES[1]}_{part}", columns)
    return _Part(trace.kind, copy.rois(f"{_COPIES[0]}_{part}", columns), neuropil)


def _columns(found: _Found, size: int) -> Iterator[tuple[int, slice]]:
    """Yield, some at a time, which series and which of its kept columns."""
    for part, chosen in enumerate(found.columns):
        for first in range(0, len(chosen), size):
            yield part, slice(first, min(first + size, len(chosen)))


def _without_dead(recording: Recording, usable: NDArray[np.bool_], strict: bool) -> Recording:
    if usable.all():
        return recording
    _say_dead(recording.roi_ids[~usable].tolist(), len(usable), strict)
    return recording.isel(roi=usable)


def _say_dead(left_out: list[Any], n_rois: int, strict: bool) -> None:
    """Name the ROIs that are left out; an error where none is left, or where that was asked for."""
    if not left_out:
        return
    names = ", ".join(map(str, left_out[:8]))
    found = (
        f"{len(left_out)} of {n_rois} ROIs carry no signal (constant, all missing, or with a baseline at or "
        f"under the noise, so that dF/F has no scale): {names}{', ...' if len(left_out) > 8 else ''}."
    )
    if strict:
        raise DataError(f"{found} Reject them in the file, or pass strict=False to leave them out.")
    if len(left_out) == n_rois:
        raise DataError(f"{found} Nothing would be left. Check that the series holds traces, and its offset.")
    _warn(f"{found} They are left out.")


def _with_noise(recording: Recording) -> Recording:
    if recording.units == "dff" and recording.sampling_rate is not None and recording.n_frames > 1:
        noise = noise_level(recording.dff, recording.sampling_rate, recording.mask, recording.segments)
        recording.roi_metadata["noise_level"] = noise
    return recording


# -- Facts about the ROIs and the session ---------------------------------------------------------------------------


def _check_rows(rows: NDArray[np.integer], n_rows: int, picks: list[Pick]) -> None:
    if len(rows) and (rows.min() < 0 or rows.max() >= n_rows):
        raise DataError(
            f"The ROIs of {picks[0].trace.path} point to rows {rows.min()} to {rows.max()} of a table of {n_rows} "
            "rows. The file contradicts itself: its region must hold row numbers, not ids."
        )
    if len(np.unique(rows)) < len(rows):
        raise DataError(f"The ROIs of {picks[0].trace.path} point to the same row of their table more than once.")


def _roi_ids(table: Any, rows: NDArray[np.integer]) -> NDArray[Any]:
    ids = np.asarray(table.id[:])[rows]
    return ids if len(np.unique(ids)) == len(ids) else rows


def _source(
    picks: list[Pick], nwbfile: NwbObject | None, path: Path | None, rows: NDArray[np.integer], keep: NDArray[np.bool_]
) -> Source:
    planes = np.concatenate([np.full(len(p.trace.rows), p.trace.plane or 0) for p in picks])
    first = picks[0].trace.series
    return Source(
        kind="nwb",
        path=path,
        series=JOIN.join(p.trace.path for p in picks),
        neuropil=JOIN.join(p.neuropil.path for p in picks if p.neuropil is not None) or None,
        plane_segmentation=object_path(first.rois.table, nwbfile),
        table_rows=rows[keep],
        planes=planes[keep],
        object_id=first.object_id,
    )


def _metadata(nwbfile: NwbObject | None, imaging_plane: Any) -> dict[str, Any]:
    """Return what is known of the session, as plain text."""
    facts: dict[str, Any] = {"location": imaging_plane.location, "indicator": imaging_plane.indicator}
    if nwbfile is not None:
        start = nwbfile.session_start_time
        facts |= {
            "session_description": nwbfile.session_description,
            "identifier": nwbfile.identifier,
            "session_id": nwbfile.session_id,
            "session_start_time": None if start is None else start.isoformat(),
            "subject_id": None if nwbfile.subject is None else nwbfile.subject.subject_id,
        }
    return {k: v for k, v in facts.items() if v is not None}


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=3)
