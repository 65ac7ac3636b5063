"""Traces and spike counts on other clocks, each by one exact integral, so that any frame rate may meet any other.

A frame at time t stands for the interval half-way to its neighbours. Traces are averaged over the new intervals (the
integral of their linear interpolant, hence anti-aliased when the new clock is slower); counts and rates keep their sum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def frame_edges(times: Array) -> Array:
    """Return the limits between frames, shape (time + 1,): half-way to the neighbours, half a step at the ends."""
    if len(times) == 1:
        raise ValueError("one frame alone has no length; expected at least 2 times")
    middle = 0.5 * (times[1:] + times[:-1])
    first, last = 1.5 * times[0] - 0.5 * times[1], 1.5 * times[-1] - 0.5 * times[-2]
    return np.concatenate([[first], middle, [last]])


def grid_edges(start: float, n: int, rate: float) -> Array:
    """Return the limits of ``n`` intervals of a regular clock whose first sample is centred on ``start``."""
    return start + (np.arange(n + 1) - 0.5) / rate


def grid_over(times: Array, rate: float) -> Array:
    """Return the limits of the intervals of a regular clock that begins on the first time and holds the last."""
    # What is a whole number of intervals but for rounding is one.
    n = int(np.ceil((times[-1] - times[0]) * rate - 1e-9)) + 1
    return grid_edges(float(times[0]), n, rate)


def average_over(values: Array, times: Array, edges: Array) -> Array:
    """Average the linear interpolant of a trace over the intervals between successive edges.

    Parameters
    ----------
    values : ndarray, shape (time,) or (time, roi)
    times : ndarray, shape (time,)
        Increasing, in s. Before the first and after the last the value there is held; so is that of one alone.
    edges : ndarray, shape (n + 1,)
        Increasing, in s.

    Returns
    -------
    ndarray, shape (n,) or (n, roi)
    """
    if len(times) == 1:
        return np.repeat(values, len(edges) - 1, axis=0)
    steps = np.diff(times)
    column = (...,) + (None,) * (values.ndim - 1)
    areas = 0.5 * (values[1:] + values[:-1]) * steps[column]
    before = np.concatenate([np.zeros_like(values[:1]), np.cumsum(areas, axis=0)])
    left = np.clip(np.searchsorted(times, edges, side="right") - 1, 0, len(times) - 2)
    inside = np.clip(edges - times[left], 0.0, steps[left])
    slope = (values[left + 1] - values[left]) / steps[left][column]
    integral = before[left] + (values[left] + 0.5 * slope * inside[column]) * inside[column]
    # Outside the recording the end values are held, and inside both of these are 0.
    integral = integral + values[0] * np.minimum(edges - times[0], 0.0)[column]
    integral = integral + values[-1] * np.maximum(edges - times[-1], 0.0)[column]
    return np.diff(integral, axis=0) / np.diff(edges)[column]


def integrate_over(rates: Array, rate_edges: Array, edges: Array) -> Array:
    """Integrate a rate that is constant between ``rate_edges`` over the intervals between ``edges``.

    Parameters
    ----------
    rates : ndarray, shape (n,) or (n, roi)
        Per s; 0 outside ``rate_edges``.
    rate_edges : ndarray, shape (n + 1,)
    edges : ndarray, shape (m + 1,)

    Returns
    -------
    ndarray, shape (m,) or (m, roi)
        Counts, if rates are spikes per s.
    """
    column = (...,) + (None,) * (rates.ndim - 1)
    widths = np.diff(rate_edges)
    before = np.concatenate([np.zeros_like(rates[:1]), np.cumsum(rates * widths[column], axis=0)])
    left = np.clip(np.searchsorted(rate_edges, edges, side="right") - 1, 0, len(rates) - 1)
    inside = np.clip(edges - rate_edges[left], 0.0, widths[left])
    return np.diff(before[left] + rates[left] * inside[column], axis=0)


def count_over(spike_times: Array, edges: Array) -> Array:
    """Count sorted spike times in each interval [edge, next edge)."""
    return np.diff(np.searchsorted(spike_times, edges, side="left")).astype(float)
