"""What users pass as X and y, as recordings and spike times."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm._core.coerce import Trials, coerce
from nwb_calcium_lvm._recording_checks import shorten
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.preprocessing import noise_level
from nwb_calcium_lvm.recording import Recording, replaced
from nwb_calcium_lvm.spikes.clocks import frame_edges

_RAW_BASELINE, _RAW_TRANSIENT = 5.0, 50.0  # dF/F as a fraction hardly rests at the first or rises by the second


class Given(NamedTuple):
    """Recordings, and whether they came as a list of independent ones."""

    items: list[Trials]
    is_list: bool

    def restore(self, values: list[NDArray[Any]]) -> Any:
        """Give one array per recording the form of X."""
        found = [item.restore(v) for item, v in zip(self.items, values, strict=True)]
        return found if self.is_list else found[0]

    def only_one(self, what: str) -> Recording:
        """Return the recording; DataError where there are several."""
        if self.is_list:
            raise DataError(f"X is a list of {len(self.items)} Recordings, but {what} is of one. Pass them one by one.")
        return self.items[0].recording


def take(estimator: Any, X: Any, *, groups: Any = None) -> Given:
    """Turn X into recordings with a clock; a list of Recordings is several, each with neurons of its own.

    Raises
    ------
    DataError
        If X is nothing of what is accepted, or says no sampling rate.
    """
    is_list = isinstance(X, list | tuple) and len(X) > 0 and all(isinstance(x, Recording) for x in X)
    table: Any = X
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):  # a DataFrame: its columns name the ROIs
        X = Recording(table.to_numpy(), sampling_rate=estimator.sampling_rate, roi_ids=list(table.columns))
    sources = list(X) if is_list else [X]
    items = [coerce(estimator, x, groups=None if is_list else groups, reset=False) for x in sources]
    given = Given([_clocked(item, estimator.sampling_rate) for item in items], is_list)
    for i, item in enumerate(given.items):
        if item.recording.sampling_rate is None:
            where = f"Recording {i} of X" if is_list else "X"
            raise DataError(
                f"{where} says no sampling rate, and spikes per second cannot be had without one. Pass sampling_rate "
                f"(Hz) to {type(estimator).__name__}, or Recording(..., sampling_rate=...)."
            )
    return given


def _clocked(item: Trials, rate: float | None) -> Trials:
    """Give a recording without a clock the rate that the estimator was told."""
    recording = item.recording
    if rate is None or recording.sampling_rate is not None:
        return item
    made = replaced(recording, sampling_rate=rate, timestamps=None)
    return Trials(made, item.form)


def frame_durations(recording: Recording) -> NDArray[np.floating]:
    """Return the length of each frame in s, shape (time,): half-way to its neighbours in the segment."""
    out = np.full(recording.n_frames, 1.0 / (recording.sampling_rate or 1.0))
    for a, b in recording.segments.bounds:
        if b - a > 1:
            steps = np.diff(recording.timestamps[a:b])
            out[a:b] = 0.5 * (np.append(steps, steps[-1]) + np.insert(steps, 0, steps[0]))
    return out


class Findings(NamedTuple):
    """What is odd about the traces of a recording, each of shape (roi,).

    Parameters
    ----------
    roi_ids : ndarray
    usable : ndarray of bool
        Whether a trace has any observed sample and is not constant.
    low, high : ndarray
        Quantiles of 20 and 98 %; NaN where the unit is not dF/F, or nothing is known.
    noise_level : ndarray
        ν, in % per square root of Hz; NaN where it is not known.
    """

    roi_ids: NDArray[Any]
    usable: NDArray[np.bool_]
    low: NDArray[np.floating]
    high: NDArray[np.floating]
    noise_level: NDArray[np.floating]

    @property
    def unlike_dff(self) -> NDArray[np.bool_]:
        """Whether a trace called dF/F does not look like it."""
        return (np.abs(np.nan_to_num(self.low)) > _RAW_BASELINE) | (
            np.nan_to_num(self.high - self.low) > _RAW_TRANSIENT
        )


def look_at(recording: Recording) -> Findings:
    """Look for what users should know of before they trust what comes out."""
    usable = recording.usable
    low, high = np.full((2, recording.n_rois), np.nan)
    if recording.units == "dff":
        for roi in np.flatnonzero(recording.mask.any(axis=0)):
            seen = recording.mask[:, roi]
            low[roi], high[roi] = np.quantile(recording.dff[seen, roi], [0.2, 0.98])
    nu = noise_level(recording.dff, recording.sampling_rate or 1.0, recording.mask, recording.segments)
    return Findings(recording.roi_ids, usable, low, high, nu)


def together(findings: Sequence[Findings]) -> Findings:
    """Join what was found in parts of a recording."""
    return Findings(*(np.concatenate(part) for part in zip(*findings, strict=True)))


def warn_of_units(found: Findings) -> None:
    """Warn where traces called dF/F do not look like it."""
    raw = found.unlike_dff
    if raw.any():
        i = int(np.argmax(raw))
        warnings.warn(
            f"{raw.sum()} of {len(raw)} traces do not look like dF/F as a fraction, where 0.5 is 50 %: "
            f"ROI {found.roi_ids[i]} goes from {found.low[i]:.3g} to {found.high[i]:.3g}. Raw fluorescence: compute "
            "dF/F first (see nwb_calcium_lvm.preprocessing.dff_from_raw). Another unit: pass "
            'Recording(..., units="unknown").',
            DataWarning,
            stacklevel=4,
        )


def warn_of_dead(found: Findings) -> None:
    """Warn of traces that are constant or were never observed."""
    if not found.usable.all():
        warnings.warn(
            f"{np.sum(~found.usable)} of {len(found.usable)} ROIs are constant or never observed, and their "
            f"rates are NaN: {shorten(found.roi_ids[~found.usable])}.",
            DataWarning,
            stacklevel=4,
        )


def ground_truth(X: Any, y: Any, groups: Any) -> tuple[Any, Any, Any]:
    """Take apart a list of what the readers of ground truth return."""
    is_truth = isinstance(X, list | tuple) and len(X) > 0 and all(hasattr(x, "recording") for x in X)
    if not is_truth:
        return X, y, groups
    return [x.recording for x in X], [[x.spikes] for x in X], [x.dataset for x in X] if groups is None else groups


def labels_of(given: Given, groups: Any) -> list[Any]:
    """Return the data set of each recording."""
    if not given.is_list or groups is None:
        return [0] * len(given.items)
    if len(groups) != len(given.items):
        raise DataError(f"groups has {len(groups)} entries for {len(given.items)} Recordings; expected one for each.")
    return list(groups)


def spike_times(y: Any, given: Given) -> list[list[NDArray[np.floating]]]:
    """Return the spike times of each ROI of each recording, in s on its clock, from any form of y.

    Parameters
    ----------
    y : counts per frame in the form of X, or spike times
        Counts (time, roi), or (time,) for all ROIs alike; spike times: a list of one array in s per ROI. For a list of
        Recordings, a list of these.
    given : Given
        What :func:`take` made of X.
    """
    if y is None:
        raise DataError(
            "This estimator requires y to be passed, but the target y is None. Expected spike counts per frame, "
            " or a list with the spike times (s) of each ROI. Without spikes of your own use from_pretrained()."
        )
    if not given.is_list:
        return [_times_of(y, given.items[0])]
    if len(y) != len(given.items):
        raise DataError(f"y has {len(y)} entries for {len(given.items)} Recordings; expected one for each.")
    return [_times_of(part, item) for part, item in zip(y, given.items, strict=True)]


def _times_of(y: Any, item: Trials) -> list[NDArray[np.floating]]:
    recording = item.recording
    if _is_spike_times(y, item):
        if len(y) != recording.n_rois:
            raise DataError(
                f"y has spike times of {len(y)} neurons for {recording.n_rois} ROIs; expected one array each."
            )
        times = [np.sort(np.asarray(t, float).ravel()) for t in y]
        if not all(np.isfinite(t).all() for t in times):
            raise DataError(
                "y holds spike times that are NaN or infinite. Expected times in s on the recording's clock."
            )
        return times
    counts = _counts(y, item)
    clock = recording.timestamps
    out: list[list[NDArray[np.floating]]] = [[] for _ in range(recording.n_rois)]
    for a, b in recording.segments.bounds:
        half = 0.5 / (recording.sampling_rate or 1.0)
        edges = frame_edges(clock[a:b]) if b - a > 1 else np.array([clock[a] - half, clock[a] + half])
        for roi in range(recording.n_rois):
            out[roi].append(_spread(counts[a:b, roi], edges))
    return [np.sort(np.concatenate(parts)) for parts in out]


def _is_spike_times(y: Any, item: Trials) -> bool:
    """Whether y is a list of spike times: arrays with one axis, not of one count per frame."""
    if item.form == "list" or not isinstance(y, list | tuple):
        return False
    return all(np.ndim(part) == 1 for part in y)


def _counts(y: Any, item: Trials) -> NDArray[np.integer]:
    recording = item.recording
    parts = [np.asarray(p) for p in y] if item.form in ("list", "tensor") and np.ndim(y[0]) > 0 else [np.asarray(y)]
    counts = np.concatenate([p[:, None] if p.ndim == 1 else p for p in parts])
    if counts.shape == (recording.n_frames, 1):
        counts = np.broadcast_to(counts, recording.shape)
    if counts.shape != recording.shape:
        raise DataError(
            f"y has shape {counts.shape} but X {recording.shape}. Expected spike counts of each frame, (time, roi), or "
            "a list with the spike times (s) of each ROI."
        )
    values = counts.astype(float)
    wrong = ~np.isfinite(values) | (values < 0) | (values != np.round(values))
    if wrong.any():
        frame, roi = np.argwhere(wrong)[0]
        raise DataError(
            f"y holds {wrong.sum()} entries that are no counts, such as {values[frame, roi]:.4g} at frame {frame} of "
            f"ROI {recording.roi_ids[roi]}. Expected whole numbers of spikes per frame, 0 or more; or pass "
            "spike times in s."
        )
    return values.astype(int)


def _spread(counts: NDArray[np.integer], edges: NDArray[np.floating]) -> NDArray[np.floating]:
    """Place the spikes of each frame evenly within it."""
    frames = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(frames)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = np.diff(edges)[frames]
    return edges[frames] + (rank + 0.5) / counts[frames] * width
