"""Rates moved in time and smoothed, for estimators whose output says where calcium has risen."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.clocks import integrate_over


def moved_and_smoothed(
    rates: NDArray[np.floating], durations: NDArray[np.floating], recording: Recording, lag: float, smoothing: float
) -> NDArray[np.floating]:
    """Return rates (time, roi) moved later by ``lag`` s and smoothed by a Gaussian of ``smoothing`` s, by segment.

    Parameters
    ----------
    rates : ndarray, shape (time, roi)
    durations : ndarray, shape (time,)
        Of each frame, s.
    recording : Recording
        Whose segments and frame rate count.
    lag, smoothing : float
        In s.
    """
    out = rates.copy()
    frame_rate = recording.sampling_rate or 1.0
    for a, b in recording.segments.bounds:
        if smoothing > 0:
            out[a:b] = gaussian_filter1d(out[a:b], smoothing * frame_rate, axis=0, mode="constant")
        if lag:
            edges = np.concatenate([[0.0], np.cumsum(durations[a:b])])
            out[a:b] = integrate_over(out[a:b], edges + lag, edges) / durations[a:b, None]
    return out


def checked_lag(lag: float) -> float:
    """Return a shift in s as it is; DataError for what is none."""
    if not isinstance(lag, Real) or not np.isfinite(float(lag)):
        raise DataError(f"lag={lag!r} is not a shift. Expected s, such as -0.05.")
    return float(lag)
