"""The one shape in which every reader hands over data and every estimator takes it."""

from __future__ import annotations

import html
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm._recording_checks import (
    as_mask,
    as_rate,
    as_roi_ids,
    as_timestamps,
    as_traces,
    as_trials,
    check_segments,
    nearest,
    rows_of,
    shorten,
    split_at,
    split_at_gaps,
)
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.indicators import Indicator
from nwb_calcium_lvm.provenance import Segments, Source

UNITS = ("dff", "unknown")


@dataclass(init=False, repr=False, eq=False)
class Recording:
    """Fluorescence of one population of neurons on one clock.

    Parameters
    ----------
    dff : array_like of float, shape (time, roi)
        dF/F as a fraction (0.5 is 50 %), or traces of another unit with ``units="unknown"``.
    sampling_rate : float, optional
        Frames per second. Derived from ``timestamps`` when those are given alone.
    timestamps : array_like of float, shape (time,), optional
        Time of each frame in s, increasing. A step of more than 1.5 median steps is a gap: models do not carry
        calcium over it.
    roi_ids : array_like, shape (roi,), optional
        Unique names of the ROIs. Default: 0, 1, ...
    mask : array_like of bool, shape (time, roi), optional
        True where observed. Default: everything. Values outside the mask are never looked at.
    trials : mapping or DataFrame, optional
        A table with columns ``start_time`` and ``stop_time`` in s and any others; ``id`` names the trials (default:
        row number).
    units : {"dff", "unknown"}
        ``"unknown"``: models that need a scale normalise each trace robustly.
    metadata : mapping, optional
        Anything about the recording as a whole.
    source : Source, optional
        Where the data came from; kept so that results can go back.
    roi_metadata : mapping of str to array_like, each of length roi, optional
        What is known of each ROI: cell probability, red-cell flag, labels, noise level, ...
    indicator : str or Indicator, optional
        A preset such as ``"gcamp6s"`` (see :mod:`nwb_calcium_lvm.indicators`).
    starting_time : float
        Time of the first frame in s, where there are no timestamps.
    segments : Segments, optional
        Runs of frames without a gap between them. Default: one, or as the gaps of ``timestamps`` say.

    Raises
    ------
    DataError
        If shapes disagree, values are missing outside the mask, or the clock runs backward.

    Examples
    --------
    >>> import numpy as np
    >>> rec = Recording(np.random.default_rng(0).normal(size=(300, 4)), sampling_rate=30.0)
    >>> rec
    Recording(4 ROIs x 300 frames, 30 Hz, 10 s, dF/F)
    >>> rec.isel(time=slice(0, 150), roi=[0, 2]).shape
    (150, 2)
    """

    dff: NDArray[np.floating]
    sampling_rate: float | None
    roi_ids: NDArray[Any]
    mask: NDArray[np.bool_]
    trials: dict[str, NDArray[Any]] | None
    units: str
    metadata: dict[str, Any]
    source: Source
    roi_metadata: dict[str, NDArray[Any]]
    indicator: Indicator | None
    starting_time: float
    segments: Segments
    _timestamps: NDArray[np.floating] | None = field(default=None)

    def __init__(
        self,
        dff: ArrayLike,
        *,
        sampling_rate: float | None = None,
        timestamps: ArrayLike | None = None,
        roi_ids: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        trials: Any = None,
        units: str = "dff",
        metadata: Mapping[str, Any] | None = None,
        source: Source | None = None,
        roi_metadata: Mapping[str, ArrayLike] | None = None,
        indicator: str | Indicator | None = None,
        starting_time: float = 0.0,
        segments: Segments | None = None,
    ):
        self.dff = as_traces(dff, roi_ids)
        n_frames, n_rois = self.dff.shape
        self.roi_ids = as_roi_ids(roi_ids, self.dff.shape)
        self.mask = as_mask(mask, self.dff, self.roi_ids)
        if units not in UNITS:
            raise DataError(f"units={units!r} is not known. Expected one of {UNITS}.")
        self.units = units
        self._timestamps = as_timestamps(timestamps, n_frames, segments)
        self.sampling_rate = as_rate(sampling_rate, self._timestamps, segments)
        self.starting_time = float(starting_time if self._timestamps is None else self._timestamps[0])
        self.segments = segments if segments is not None else split_at_gaps(self._timestamps, n_frames)
        check_segments(self.segments, n_frames)
        self.trials = as_trials(trials)
        self.metadata = dict(metadata or {})
        self.source = source or Source()
        self.roi_metadata = {k: np.asarray(v) for k, v in (roi_metadata or {}).items()}
        for key, values in self.roi_metadata.items():
            if len(values) != n_rois:
                raise DataError(f"roi_metadata[{key!r}] has {len(values)} entries; expected one per ROI, {n_rois}.")
        self.indicator = None if indicator is None else Indicator.named(indicator)

    # -- What it is -----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and ROIs."""
        return self.dff.shape  # pyright: ignore[reportReturnType]

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.dff.shape[0]

    @property
    def n_rois(self) -> int:
        """Number of ROIs."""
        return self.dff.shape[1]

    @property
    def has_clock(self) -> bool:
        """Whether times are in seconds; else they are frame numbers."""
        return self.sampling_rate is not None

    @property
    def timestamps(self) -> NDArray[np.floating]:
        """Time of each frame, shape (time,): in s, or the frame number where there is no clock."""
        if self._timestamps is not None:
            return self._timestamps
        return self.starting_time + np.arange(self.n_frames) / (self.sampling_rate or 1.0)

    @property
    def is_regular(self) -> bool:
        """Whether frames are evenly spaced, so that a rate and a starting time tell all times."""
        if self._timestamps is None:
            return True
        steps = np.diff(self._timestamps)
        return bool(len(steps) == 0 or np.ptp(steps) < 1e-3 * np.median(steps))

    @property
    def duration(self) -> float:
        """Length of what was recorded in s (or frames), gaps left out."""
        return self.n_frames / (self.sampling_rate or 1.0)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Whether each ROI has any observed sample and is not constant, shape (roi,)."""
        observed = np.where(self.mask, self.dff, np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN columns are what is asked about
            spread = np.nanmax(observed, axis=0) - np.nanmin(observed, axis=0)
        return np.nan_to_num(spread, nan=0.0) > 0

    @property
    def trial_id(self) -> NDArray[Any] | None:
        """Trial of each frame, shape (time,), where the segments are trials."""
        ids = self.segments.trial_ids
        return None if ids is None else np.repeat(ids, self.segments.lengths)

    def __len__(self) -> int:
        return self.n_frames

    def __repr__(self) -> str:
        return f"Recording({', '.join(self._facts())})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<li>{html.escape(fact)}</li>" for fact in self._facts())
        return f"<b>Recording</b><ul>{rows}</ul>"

    def _facts(self) -> list[str]:
        facts = [f"{self.n_rois} ROIs x {self.n_frames} frames"]
        if self.has_clock:
            facts += [f"{self.sampling_rate:.4g} Hz", f"{self.duration:.4g} s"]
        else:
            facts.append("no sampling rate")
        facts.append({"dff": "dF/F", "unknown": "unknown unit"}[self.units])
        if len(self.segments) > 1:
            facts.append(f"{len(self.segments)} {'segments' if self.segments.trial_ids is None else 'trials'}")
        if self.trials is not None and self.segments.trial_ids is None:
            facts.append(f"{len(self.trials['id'])} trials in its table")
        missing = 1.0 - self.mask.mean()
        if missing:
            facts.append(f"{100 * missing:.2g} % missing")
        if self.indicator is not None:
            facts.append(self.indicator.name)
        if self.source.path is not None:
            facts.append(f"from {self.source.path.name}" + (f":{self.source.series}" if self.source.series else ""))
        return facts

    # -- Parts of it ----------------------------------------------------------------------------------------------

    def isel(self, time: Any = None, roi: Any = None) -> Recording:
        """Return the chosen frames and ROIs: slices, indices or boolean masks, as NumPy has them.

        Frames that are not neighbours in this recording end up in segments of their own, so that models do not
        carry calcium from one to the next.
        """
        frames = np.arange(self.n_frames)
        frames = frames if time is None else np.atleast_1d(frames[time])
        rois = np.arange(self.n_rois)
        rois = rois if roi is None else np.atleast_1d(rois[roi])
        if len(frames) == 0 or len(rois) == 0:
            raise DataError(
                f"Nothing is left: {len(frames)} of {self.n_frames} frames and {len(rois)} of {self.n_rois} ROIs "
                "are chosen. Check the slice or mask (boolean masks are True for what to keep)."
            )
        return self._take(frames, rois, Segments.from_frames(frames, self.segments))

    def sel(self, start: float | None = None, stop: float | None = None) -> Recording:
        """Return the frames with start <= time < stop, in s."""
        times = self.timestamps
        return self.isel(
            time=(times >= (-np.inf if start is None else start)) & (times < (np.inf if stop is None else stop))
        )

    def _take(self, frames: NDArray[np.integer], rois: NDArray[np.integer], segments: Segments) -> Recording:
        # Frames of one unbroken run keep the rate as their clock; anything else keeps each frame's own time.
        whole = self._timestamps is None and len(segments) == 1
        return Recording(
            self.dff[np.ix_(frames, rois)],
            sampling_rate=self.sampling_rate,
            timestamps=None if whole or not self.has_clock else self.timestamps[frames],
            starting_time=float(self.timestamps[frames[0]]),
            roi_ids=self.roi_ids[rois],
            mask=self.mask[np.ix_(frames, rois)],
            trials=self.trials,
            units=self.units,
            metadata=self.metadata,
            source=self.source.take(rois),
            roi_metadata={k: v[rois] for k, v in self.roi_metadata.items()},
            indicator=self.indicator,
            segments=segments,
        )

    def exclude(self, frames: ArrayLike) -> Recording:
        """Mask out frames, such as those of motion or running; the clock stays whole.

        Parameters
        ----------
        frames : array_like
            Booleans of shape (time,), True for what to leave out; or intervals of shape (n, 2) in s (start, stop).
        """
        out = np.asarray(frames)
        if out.dtype == bool and out.shape == (self.n_frames,):
            left_out = out
        elif out.ndim == 2 and out.shape[1] == 2 and out.dtype != bool:
            times = self.timestamps[:, None]
            left_out = np.any((times >= out[:, 0]) & (times < out[:, 1]), axis=1)
        else:
            raise DataError(
                f"frames has shape {out.shape} and dtype {out.dtype}. Expected booleans of shape ({self.n_frames},), "
                "True for what to leave out, or intervals of shape (n, 2) in s."
            )
        kept = replaced(self, mask=self.mask & ~left_out[:, None])
        if not kept.mask.any():
            raise DataError("Every frame is excluded; nothing would be left to fit.")
        return kept

    # -- Trials ---------------------------------------------------------------------------------------------------

    def select_trials(self, ids: Any = None) -> Recording:
        """Return the frames of the given trials, each trial a segment (several, where it runs over a gap).

        Parameters
        ----------
        ids : sequence, optional
            Trial ids in the wanted order. Default: all trials.
        """
        if self.segments.trial_ids is not None:
            known, bounds = self.segments.trial_ids, self.segments.bounds
        else:
            table = self._trial_table()
            known = table["id"]
            times = self._rising_clock()
            bounds = np.column_stack(
                [np.searchsorted(times, table["start_time"]), np.searchsorted(times, table["stop_time"])]
            )
        rows = np.arange(len(known)) if ids is None else rows_of(ids, known)
        return self._from_bounds(bounds[rows], known[rows])

    def align(self, event: str | ArrayLike = "start_time", window: tuple[float, float] = (-1.0, 3.0)) -> Recording:
        """Cut a window of equal length around an event of every trial.

        Parameters
        ----------
        event : str or array_like of float, shape (n,)
            A column of the trials table, or the times themselves in s. Trials whose event is missing (NaN) or whose
            window leaves the recording, or runs over a gap in it, are left out with a warning.
        window : (float, float)
            Start and stop relative to the event, in s.
        """
        start, stop = window
        if not stop > start:
            raise DataError(f"window={window} is empty; expected (start, stop) in s with start < stop.")
        if self.sampling_rate is None:
            raise DataError("Trials are cut in seconds but this recording has no clock. Pass sampling_rate.")
        if isinstance(event, str):
            table = self._trial_table()
            if event not in table:
                raise DataError(f"The trials table has no column {event!r}. It has: {', '.join(table)}.")
            times, ids = np.asarray(table[event], float), table["id"]
        else:
            times = np.atleast_1d(np.asarray(event, float))
            ids = np.arange(len(times))
        n = max(1, round((stop - start) * self.sampling_rate))
        clock, labels = self._rising_clock(), self.segments.labels()
        present = np.isfinite(times)
        first = nearest(clock, np.where(present, times, clock[0]) + start)
        last = first + n - 1
        inside = present & (last < self.n_frames)
        inside &= np.abs(clock[first] - (np.where(present, times, 0.0) + start)) <= 1.0 / self.sampling_rate
        inside &= labels[first] == labels[np.minimum(last, self.n_frames - 1)]
        if not inside.all():
            warnings.warn(
                f"{np.sum(~inside)} of {len(ids)} trials have no event or a window that leaves the recording or runs "
                f"over a gap, and are left out: {shorten(ids[~inside])}.",
                DataWarning,
                stacklevel=2,
            )
        if not inside.any():
            raise DataError(
                f"No trial has its whole window {window} s inside the recording ({clock[0]:.4g} to {clock[-1]:.4g} s)."
            )
        return self._from_bounds(np.column_stack([first, last + 1])[inside], ids[inside])

    def trial_list(self) -> list[NDArray[np.floating]]:
        """Return the traces of each segment, a list of arrays (time, roi)."""
        return [self.dff[a:b] for a, b in self.segments.bounds]

    def _trial_table(self) -> dict[str, NDArray[Any]]:
        if self.trials is None:
            raise DataError(
                "This recording has no trials table. Pass trials={'start_time': ..., 'stop_time': ...} in s, or read "
                "the file with trials='NAME' of its intervals table."
            )
        return self.trials

    def _rising_clock(self) -> NDArray[np.floating]:
        times = self.timestamps
        if np.any(np.diff(times) <= 0):
            raise DataError(
                "The frames of this recording are not in the order of time (it was cut into windows that overlap, or "
                "reordered), so trials cannot be found in it. Cut them from the recording as it was read."
            )
        return times

    def _from_bounds(self, bounds: NDArray[np.integer], ids: NDArray[Any]) -> Recording:
        empty = bounds[:, 1] <= bounds[:, 0]
        if empty.any():
            warnings.warn(
                f"{empty.sum()} trials hold no frame and are left out: {shorten(ids[empty])}.",
                DataWarning,
                stacklevel=3,
            )
            bounds, ids = bounds[~empty], ids[~empty]
        if len(bounds) == 0:
            raise DataError("No trial holds a frame. Are the trials' times on the recording's clock (s)?")
        bounds, ids = split_at(bounds, ids, self.segments.bounds[1:, 0])
        frames = np.concatenate([np.arange(a, b) for a, b in bounds])
        ends = np.cumsum(bounds[:, 1] - bounds[:, 0])
        segments = Segments(np.column_stack([np.concatenate([[0], ends[:-1]]), ends]), ids)
        return self._take(frames, np.arange(self.n_rois), segments)

    # -- Elsewhere ------------------------------------------------------------------------------------------------

    def to_pynapple(self) -> Any:
        """Return a pynapple ``TsdFrame`` with the ROI metadata as its metadata and segments as time support."""
        import pynapple as nap

        times = self.timestamps
        half = 0.5 / (self.sampling_rate or 1.0)
        bounds = self.segments.bounds
        support = nap.IntervalSet(start=times[bounds[:, 0]] - half, end=times[bounds[:, 1] - 1] + half)
        plain = {k: v for k, v in self.roi_metadata.items() if v.ndim == 1}
        return nap.TsdFrame(
            t=times,
            d=np.where(self.mask, self.dff, np.nan),
            columns=self.roi_ids,
            time_support=support,
            metadata=plain or None,
        )

    def to_xarray(self) -> Any:
        """Return an xarray ``DataArray`` with dimensions (time, roi); missing samples are NaN."""
        import xarray as xr

        coords: dict[str, Any] = {"time": self.timestamps, "roi": self.roi_ids}
        if self.trial_id is not None:
            coords["trial_id"] = ("time", self.trial_id)
        coords |= {k: ("roi", v) for k, v in self.roi_metadata.items() if v.ndim == 1}
        attrs = {"units": self.units} | ({"sampling_rate": self.sampling_rate} if self.has_clock else {})
        return xr.DataArray(
            np.where(self.mask, self.dff, np.nan),
            dims=("time", "roi"),
            coords=coords,
            name="dff",
            attrs=attrs,
        )


def replaced(recording: Recording, **changes: Any) -> Recording:
    """Return the recording with some of the constructor's arguments changed."""
    kept = {
        "dff": recording.dff,
        "sampling_rate": recording.sampling_rate,
        "timestamps": recording._timestamps,
        "starting_time": recording.starting_time,
        "roi_ids": recording.roi_ids,
        "mask": recording.mask,
        "trials": recording.trials,
        "units": recording.units,
        "metadata": recording.metadata,
        "source": recording.source,
        "roi_metadata": recording.roi_metadata,
        "indicator": recording.indicator,
        "segments": recording.segments,
    }
    return Recording(**kept | changes)
