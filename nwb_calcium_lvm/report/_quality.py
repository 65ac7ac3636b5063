"""How good the traces of each ROI are, from a block of ROIs at a time."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.preprocessing import noise_level
from nwb_calcium_lvm.recording import Recording

_NEAR_TOP = 0.01  # of the range of a trace
_AT_CEILING = 0.01  # share of frames that near the top that no indicator that decays gives


@dataclass(frozen=True)
class Quality:
    """Measures of each ROI, all of shape (roi,).

    Attributes
    ----------
    roi_ids : ndarray
    noise_level : ndarray of float
        ν, % per √Hz; NaN without a clock.
    peak : ndarray of float
        99.9 % quantile of the trace.
    observed : ndarray of float
        Share of samples that were observed.
    at_ceiling : ndarray of float
        Share of samples within 1 % of the range below the maximum.
    dead : ndarray of bool
        Whether there is no signal; all else is NaN then.
    """

    roi_ids: NDArray[np.generic]
    noise_level: NDArray[np.floating]
    peak: NDArray[np.floating]
    observed: NDArray[np.floating]
    at_ceiling: NDArray[np.floating]
    dead: NDArray[np.bool_]

    @property
    def saturated(self) -> NDArray[np.bool_]:
        """Whether a trace stays at its ceiling, as a detector or indicator that is saturated does."""
        return (np.nan_to_num(self.at_ceiling) > _AT_CEILING) & ~self.dead


def quality_of(recording: Recording) -> Quality:
    """Measure the ROIs of a recording, or of a block of one."""
    traces = np.where(recording.mask, recording.dff, np.nan)
    rate = recording.sampling_rate
    nothing = np.full(recording.n_rois, np.nan)
    noise = (
        nothing if rate is None else noise_level(recording.dff, rate, mask=recording.mask, segments=recording.segments)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a ROI that was never observed has no quantiles
        peak = np.nanquantile(traces, 0.999, axis=0)
        low, high = np.nanmin(traces, axis=0), np.nanmax(traces, axis=0)
        near = traces >= high - _NEAR_TOP * (high - low)
        n_observed = recording.mask.sum(axis=0)
        share = near.sum(axis=0) / np.maximum(n_observed, 1)
    return Quality(
        recording.roi_ids,
        np.asarray(noise, float),
        peak.astype(float),
        n_observed / recording.n_frames,
        share,
        ~recording.usable,
    )


def joined(parts: list[Quality], roi_ids: NDArray[np.generic]) -> Quality:
    """Put blocks together in the order of ``roi_ids``; ROIs that are in none of them are dead."""
    place = {roi: i for i, roi in enumerate(roi_ids.tolist())}
    n = len(roi_ids)
    columns = {name: np.full(n, np.nan) for name in ("noise_level", "peak", "observed", "at_ceiling")}
    dead = np.ones(n, bool)
    for part in parts:
        rows = [place[roi] for roi in part.roi_ids.tolist()]
        dead[rows] = part.dead
        for name, values in columns.items():
            values[rows] = getattr(part, name)
    return Quality(roi_ids, dead=dead, **columns)
