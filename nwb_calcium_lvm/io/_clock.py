"""When the frames of a result were, as an NWB file can say it: in order of time, by rate or by the time of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.result import InferenceResult

# A rate stands in for times that it gives back to a millionth of a frame; jitter above that is kept.
_JITTER = 1e-6


@dataclass(frozen=True)
class Clock:
    """When the frames of the file were.

    Parameters
    ----------
    order : ndarray of int, shape (time,), or None
        Frame of the result at each place in the file; None: as in the result.
    rate : float or None
        Frames per second, where frames are evenly spaced.
    times : ndarray, shape (time,)
        Time of each frame in s, increasing.
    step : float
        Length of a frame in s.
    """

    order: NDArray[np.integer] | None
    rate: float | None
    times: NDArray[np.floating]
    step: float

    def ordered(self, values: Any) -> NDArray[Any]:
        """Return the values of the result's frames in the order of the file."""
        loaded = np.asarray(values[:])
        return loaded if self.order is None else loaded[self.order]

    def places(self) -> NDArray[np.integer]:
        """Return the place in the file of each frame of the result, shape (time,)."""
        if self.order is None:
            return np.arange(len(self.times))
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(places))
        return places


def clock_of(result: InferenceResult) -> Clock:
    """Return the clock of a result.

    Raises
    ------
    DataError
        If NWB has no way to say it: see :func:`why_no_clock`.
    """
    reason = why_no_clock(result)
    if reason:
        raise DataError(reason)
    times = np.asarray(result.time, float)
    order = _order(result)
    times = times if order is None else times[order]
    step = _step(times, result.sampling_rate)
    return Clock(order, _rate(times, result.sampling_rate), times, step)


def why_no_clock(result: InferenceResult) -> str:
    """Return why the frames cannot be a time series of NWB, or nothing if they can."""
    if result.time_unit != "s":
        return (
            "The result has no clock: its times are frame numbers, and NWB stores seconds. Pass sampling_rate to the "
            "estimator, or fit a Recording that has one."
        )
    times, order = np.asarray(result.time, float), _order(result)
    times = times if order is None else times[order]
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back):
        i = int(back[0])
        return (
            f"Trials overlap in time: a frame at {times[i]:.6g} s is followed by one at {times[i + 1]:.6g} s. NWB "
            "series need increasing times: infer over windows that do not overlap, or over the whole recording."
        )
    return ""


def _order(result: InferenceResult) -> NDArray[np.integer] | None:
    """Return the frames by time where trials are in another order than they happened."""
    bounds = result.segments.bounds
    starts = np.asarray(result.time, float)[bounds[:, 0]]
    if np.all(np.diff(starts) >= 0):
        return None
    return np.concatenate([np.arange(*bounds[i]) for i in np.argsort(starts, kind="stable")])


def _rate(times: NDArray[np.floating], said: float | None) -> float | None:
    if len(times) < 2:
        return said
    step = (times[-1] - times[0]) / (len(times) - 1)
    for rate in (said, 1.0 / step):
        # Times after hours are known to fewer digits of a frame.
        tolerance = None if rate is None else _JITTER / rate + 4 * np.spacing(np.abs(times).max())
        if rate is not None and np.max(np.abs(times - times[0] - np.arange(len(times)) / rate)) <= tolerance:
            return rate
    return None


def _step(times: NDArray[np.floating], rate: float | None) -> float:
    if rate is not None:
        return 1.0 / rate
    return float(np.median(np.diff(times))) if len(times) > 1 else 1.0
