"""What a spike network is shown of a trace: its baseline taken off, its scale known or made, its noise level stated."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.preprocessing import frame_noise
from nwb_calcium_lvm.provenance import Segments

Array = NDArray[np.floating]

_LOW, _HIGH = 0.2, 0.98  # quantiles that stand for the baseline and for the size of transients
_LOW_OF_NOISE = 0.8416  # the lower of them lies this many standard deviations below the mean of white noise
_FAR, _SMOOTH = 0.1, 3.0  # s; a trace whose steps over this are so many times those between frames is smooth
_STEP_OF_NOISE = 95.387  # noise level ν of white noise of unit sd sampled at 1 Hz: 100 times the median absolute step


class Scale(NamedTuple):
    """Baseline, divisor and noise of traces, each of shape (roi,).

    The noise is that of a frame at ``rate``, the frame rate; or a slower one, if the trace was made from slower frames.
    """

    baseline: Array
    divisor: Array
    noise: Array
    rate: Array


def scale_of(traces: Array, mask: NDArray[np.bool_], segments: Segments, rate: float, units: str) -> Scale:
    """Find the baseline (and, for traces of unknown unit, the divisor) of each trace.

    The baseline is the 20 % quantile, raised by what white noise of the trace's own size lowers it. dF/F keeps its
    scale; traces of unknown unit are divided by how far their 98 % quantile lies above the baseline, so that small and
    large transients of one trace keep their proportion.

    Parameters
    ----------
    traces : ndarray, shape (time, roi)
    mask : ndarray of bool, shape (time, roi)
        True where observed.
    segments : Segments
        Runs of frames without a gap.
    rate : float
        Frames per s.
    units : {"dff", "unknown", "zscore"}
        ``"zscore"``: mean and standard deviation, as the published network has it.
    """
    noise, own_rate = noise_of(traces, mask, segments, rate)
    seen = [v[m] if m.any() else np.zeros(1) for v, m in zip(traces.T, mask.T, strict=True)]
    if units == "zscore":
        return Scale(np.array([v.mean() for v in seen]), _not_zero(np.array([v.std() for v in seen])), noise, own_rate)
    low, high = np.array([np.quantile(v, [_LOW, _HIGH]) for v in seen]).reshape(-1, 2).T
    baseline = low + _LOW_OF_NOISE * noise
    if units == "dff":
        return Scale(baseline, np.ones_like(baseline), noise, own_rate)
    return Scale(baseline, _not_zero(high - baseline), noise, own_rate)


def noise_of(traces: Array, mask: NDArray[np.bool_], segments: Segments, rate: float) -> tuple[Array, Array]:
    """Return the noise of a frame and the rate of the frames it belongs to, each of shape (roi,).

    Noise is told by the steps between neighbouring frames. In traces that were interpolated to a faster clock, or
    smoothed, these are far smaller than steps over 0.1 s, while white noise makes them the same and calcium (in
    recordings as they come) less than 2.5 times smaller. Such traces are taken for what they were: slower ones.
    """
    noise = np.nan_to_num(frame_noise(traces, mask, segments))
    rates = np.full(noise.shape, float(rate))
    lag = round(_FAR * rate)
    if lag < 2:
        return noise, rates
    labels = segments.labels()
    both = mask[lag:] & mask[:-lag] & (labels[lag:] == labels[:-lag])[:, None]
    far = np.zeros(noise.shape)
    for roi in np.flatnonzero(both.any(axis=0)):
        kept = both[:, roi]
        far[roi] = np.median(np.abs(traces[lag:, roi][kept] - traces[:-lag, roi][kept])) / _STEP_OF_NOISE * 100.0
    smooth = far > _SMOOTH * noise
    return np.where(smooth, far, noise), np.where(smooth, rate / lag, rates)


def _not_zero(divisor: Array) -> Array:
    return np.where(divisor > np.finfo(float).tiny, divisor, 1.0)


def conditions_of(noise: Array, rate: Any, units: str) -> Array:
    """Return what the network is told of each trace, shape (roi, 3): noise level, frame rate, unit.

    Parameters
    ----------
    noise : ndarray, shape (roi,)
        Standard deviation of the white noise of a frame, in the unit in which the network sees the trace.
    rate : float or ndarray, shape (roi,)
        Frames per s.
    units : {"dff", "unknown"}
    """
    level = np.log(np.clip(noise_level_of(noise, rate), 0.05, 50.0))
    speed = np.broadcast_to(np.log(np.clip(rate, 1.0, 1000.0) / 30.0), level.shape)
    return np.stack([level, speed, np.full_like(level, float(units == "unknown"))], axis=-1)


def noise_level_of(noise: Any, rate: Any) -> Any:
    """Return CASCADE's noise level ν of white noise of that sd per frame."""
    return _STEP_OF_NOISE * noise / np.sqrt(rate)


def noise_to_reach(nu: float, present: float, rate: float) -> float:
    """Return the sd of white noise that raises a trace from noise level ``present`` to ``nu`` at ``rate`` Hz."""
    return float(np.sqrt(max(nu**2 - present**2, 0.0) * rate) / _STEP_OF_NOISE)
