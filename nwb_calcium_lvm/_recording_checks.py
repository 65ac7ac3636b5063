"""Validation of what a Recording is made of: each error says what was received, what was expected, and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.provenance import Segments

_GAP = 1.5  # A step between timestamps longer than this many median steps is a gap in the recording.


def as_traces(dff: ArrayLike, roi_ids: ArrayLike | None) -> NDArray[np.floating]:
    traces = np.asarray(dff)
    if traces.ndim != 2:
        raise DataError(
            f"dff has shape {traces.shape}. Expected (time, roi). One trace is dff[:, None]; "
            "trials of shape (trial, time, roi) go to an estimator as they are."
        )
    if np.iscomplexobj(traces) or not (np.issubdtype(traces.dtype, np.number) or traces.dtype == bool):
        raise DataError(f"dff has dtype {traces.dtype}. Expected real numbers.")
    if 0 in traces.shape:
        raise DataError(f"dff has shape {traces.shape}: there is nothing in it. Expected (time, roi).")
    n_ids = None if roi_ids is None else len(np.asarray(roi_ids))
    if n_ids is not None and n_ids != traces.shape[1]:
        turned = n_ids == traces.shape[0]
        advice = " Suite2p's F.npy is (roi, time): pass F.T, or use read_suite2p." if turned else ""
        raise DataError(f"dff has shape {traces.shape} but roi_ids has {n_ids} entries. Expected (time, roi).{advice}")
    return traces if np.issubdtype(traces.dtype, np.floating) else traces.astype(float)


def as_roi_ids(roi_ids: ArrayLike | None, shape: Sequence[int]) -> NDArray[Any]:
    ids = np.arange(shape[1]) if roi_ids is None else np.asarray(roi_ids)
    if ids.ndim != 1:
        raise DataError(f"roi_ids has shape {ids.shape}; expected one name per ROI, ({shape[1]},).")
    values, counts = np.unique(ids, return_counts=True)
    if len(values) != len(ids):
        raise DataError(f"roi_ids repeat: {shorten(values[counts > 1])}. Expected unique ids.")
    return ids


def as_mask(mask: ArrayLike | None, dff: NDArray[np.floating], roi_ids: NDArray[Any]) -> NDArray[np.bool_]:
    observed = np.ones(dff.shape, bool) if mask is None else np.array(mask)
    if observed.shape != dff.shape or observed.dtype != bool:
        raise DataError(
            f"mask has shape {observed.shape} and dtype {observed.dtype}; expected booleans of shape {dff.shape}, "
            "True where observed."
        )
    bad = observed & ~np.isfinite(dff)
    if bad.any():
        frame, roi = np.argwhere(bad)[0]
        raise DataError(
            f"dff contains NaN or infinity outside the mask: {bad.sum()} samples, the first at frame {frame} of ROI "
            f"{roi_ids[roi]}. If these samples are missing, pass Recording(dff, mask=np.isfinite(dff))."
        )
    return observed


def as_timestamps(
    timestamps: ArrayLike | None, n_frames: int, segments: Segments | None
) -> NDArray[np.floating] | None:
    if timestamps is None:
        return None
    times = np.asarray(timestamps, float)
    if times.shape != (n_frames,):
        raise DataError(f"timestamps has shape {times.shape}; expected one per frame, ({n_frames},).")
    if not np.isfinite(times).all():
        raise DataError(f"timestamps holds {np.sum(~np.isfinite(times))} values that are NaN or infinite.")
    # Windows around events may overlap or come in any order, so time need only increase within a segment.
    starts = set() if segments is None else set(segments.bounds[:, 0].tolist())
    back = [int(i) for i in np.flatnonzero(np.diff(times) <= 0) + 1 if i not in starts]
    if back:
        i = back[0]
        raise DataError(
            f"timestamps go back or stand still at {len(back)} frames, the first at frame {i} "
            f"({times[i - 1]:.6g} s, then {times[i]:.6g} s). Expected increasing times in s: sort the frames, or pass "
            "sampling_rate instead if the frames are regular."
        )
    return times


def as_rate(rate: float | None, times: NDArray[np.floating] | None, segments: Segments | None) -> float | None:
    if rate is not None and not (np.isfinite(rate) and rate > 0):
        raise DataError(f"sampling_rate={rate!r} is not a rate. Expected frames per second, above 0.")
    if times is None or len(times) < 2:
        return None if rate is None else float(rate)
    steps = np.diff(times)
    if segments is not None:
        steps = np.delete(steps, segments.bounds[1:, 0] - 1)
    steps = steps[steps > 0]
    if len(steps) == 0:
        return None if rate is None else float(rate)
    measured = 1.0 / float(np.median(steps))
    if rate is None:
        return measured
    if abs(rate / measured - 1) > 0.02:
        warnings.warn(
            f"sampling_rate={rate:.6g} Hz, but the timestamps' median step says {measured:.6g} Hz. "
            "The timestamps are used; check which of them is right.",
            DataWarning,
            stacklevel=4,
        )
        return measured
    return float(rate)


def split_at_gaps(times: NDArray[np.floating] | None, n_frames: int) -> Segments:
    starts = np.array([0])
    if times is not None and n_frames > 2:
        steps = np.diff(times)
        starts = np.concatenate([[0], np.flatnonzero(steps > _GAP * np.median(steps)) + 1])
    return Segments(np.column_stack([starts, np.append(starts[1:], n_frames)]))


def check_segments(segments: Segments, n_frames: int) -> None:
    bounds, ids = segments.bounds, segments.trial_ids
    starts = np.concatenate([[0], bounds[:-1, 1]])
    if bounds[-1, 1] != n_frames or np.any(bounds[:, 0] != starts) or np.any(bounds[:, 1] <= bounds[:, 0]):
        raise DataError(
            f"The segments {shorten(bounds)} do not hold the {n_frames} frames of dff one after the other. Expected "
            "bounds (first frame, frame after the last) from 0 to the number of frames, each beginning where the one "
            "before ends."
        )
    if ids is not None and len(ids) != len(bounds):
        raise DataError(f"There are {len(bounds)} segments but {len(ids)} trial ids; expected one for each.")


def as_trials(trials: Any) -> dict[str, NDArray[Any]] | None:
    if trials is None:
        return None
    table = {str(k): np.asarray(trials[k]) for k in trials}
    missing = {"start_time", "stop_time"} - set(table)
    if missing:
        raise DataError(
            f"The trials table lacks {' and '.join(sorted(missing))}; it has {', '.join(table) or 'no columns'}. "
            "Expected start_time and stop_time in s."
        )
    lengths = {k: len(v) for k, v in table.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"The columns of the trials table differ in length: {lengths}.")
    # pandas keeps the ids of an NWB table in the index.
    index = getattr(trials, "index", None)
    rows = np.asarray(index) if getattr(index, "name", None) == "id" else np.arange(len(table["start_time"]))
    table.setdefault("id", rows)
    return table


def rows_of(ids: Any, known: NDArray[Any]) -> NDArray[np.integer]:
    rows: dict[Any, list[int]] = {}
    for i, value in enumerate(known.tolist()):  # a trial that a gap runs through is several segments
        rows.setdefault(value, []).append(i)
    wanted = np.atleast_1d(np.asarray(ids)).tolist()
    unknown = [i for i in wanted if i not in rows]
    if unknown:
        raise DataError(f"There are no trials {shorten(unknown)}. Known: {shorten(known)}.")
    return np.array([row for i in wanted for row in rows[i]], int)


def split_at(
    bounds: NDArray[np.integer], ids: NDArray[Any], borders: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[Any]]:
    """Cut runs of frames (first, after the last) at the given frames; the pieces keep the id of the whole."""
    pieces = [
        (np.concatenate([[a], inner]), np.concatenate([inner, [b]]))
        for a, b in bounds
        for inner in [borders[(borders > a) & (borders < b)]]
    ]
    cut = np.concatenate([np.column_stack(piece) for piece in pieces]).astype(int)
    return cut, np.repeat(ids, [len(starts) for starts, _ in pieces])


def nearest(clock: NDArray[np.floating], times: NDArray[np.floating]) -> NDArray[np.integer]:
    right = np.clip(np.searchsorted(clock, times), 1, max(1, len(clock) - 1))
    right = np.minimum(right, len(clock) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(np.abs(times - clock[left]) <= np.abs(clock[right] - times), left, right)


def shorten(values: Any, most: int = 8) -> str:
    items = [str(v) for v in np.asarray(values).tolist()]
    return ", ".join(items[:most]) + (f", ... ({len(items)} in all)" if len(items) > most else "")
