"""A recording on the clock that the filter works on, and what it infers there back on the recording's own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.indicators import Indicator
from nwb_calcium_lvm.observations.cells import CellPrior
from nwb_calcium_lvm.preprocessing import fill_missing
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.base import frame_durations
from nwb_calcium_lvm.spikes.clocks import average_over, frame_edges, grid_edges, integrate_over

Array = NDArray[np.floating]

_NEAR = 1.3  # times the wanted clock up to which a recording's own is used as it is
_DECAY, _RISE = 0.7, 0.07  # s, where the indicator is not known
_RATE = 1.0  # Hz, for the prior
_SPREAD_UNKNOWN, _SPREAD_KNOWN = 0.7, 0.35  # sd of the log of a time constant


class OnClock(NamedTuple):
    """Traces of some ROIs on the clock of the filter.

    Attributes
    ----------
    y : (frame, roi) array
        0 where not observed.
    mask : (frame, roi) array of bool
    first : array of int
        First frame of each segment.
    bounds : list of (int, int)
        Frames of each segment.
    edges : list of array
        Limits of each segment's frames in s; None where the clock is the recording's own.
    rate : float
        Frames per s.
    """

    y: Array
    mask: NDArray[np.bool_]
    first: NDArray[np.integer]
    bounds: list[tuple[int, int]]
    edges: list[Array] | None
    rate: float


def on_clock(recording: Recording, rois: NDArray[np.integer], wanted: float) -> OnClock:
    """Average traces to about ``wanted`` frames per s, unless they have no more than that."""
    own = recording.sampling_rate or 1.0
    mask = recording.mask[:, rois]
    if own <= _NEAR * wanted:
        y = np.where(mask, recording.dff[:, rois], 0.0).astype(float)
        bounds = [(int(a), int(b)) for a, b in recording.segments.bounds]
        return OnClock(y, mask, recording.segments.bounds[:, 0], bounds, None, own)
    filled = fill_missing(recording.dff[:, rois], mask).astype(float)
    values, seen, edges, bounds = [], [], [], []
    for a, b in recording.segments.bounds:
        times = recording.timestamps[a:b]
        # The first frame of the clock begins where the recording's first frame does.
        n_frames = max(1, int(np.ceil((times[-1] - times[0] + 1.0 / own) * wanted - 1e-6)))
        grid = grid_edges(times[0] + 0.5 * (1.0 / wanted - 1.0 / own), n_frames, wanted)
        if b - a > 1:
            values.append(average_over(filled[a:b], times, grid))
            seen.append(average_over(mask[a:b].astype(float), times, grid) >= 0.5)
        else:
            values.append(filled[a:b])
            seen.append(mask[a:b])
        edges.append(grid)
        start = bounds[-1][1] if bounds else 0
        bounds.append((start, start + len(values[-1])))
    mask = np.concatenate(seen)
    y = np.where(mask, np.concatenate(values), 0.0)
    return OnClock(y, mask, np.array([a for a, _ in bounds]), bounds, edges, wanted)


def own_counts(recording: Recording, clock: OnClock, per_frame: Array) -> Array:
    """Spread what is counted per frame of the filter's clock over the recording's frames, (time, roi)."""
    if clock.edges is None:
        return per_frame
    out = np.empty((recording.n_frames, per_frame.shape[1]))
    for (a, b), (i, j), edges in zip(recording.segments.bounds, clock.bounds, clock.edges, strict=True):
        rates = per_frame[i:j] / np.diff(edges)[:, None]
        out[a:b] = integrate_over(rates, edges, _limits(recording, int(a), int(b)))
    return out


def own_levels(recording: Recording, clock: OnClock, levels: Array) -> Array:
    """Interpolate levels between the filter's frames onto the recording's, (time, roi)."""
    if clock.edges is None:
        return levels
    out = np.empty((recording.n_frames, levels.shape[1]))
    for (a, b), (i, j), edges in zip(recording.segments.bounds, clock.bounds, clock.edges, strict=True):
        middle = 0.5 * (edges[1:] + edges[:-1])
        for roi in range(levels.shape[1]):
            out[a:b, roi] = np.interp(recording.timestamps[a:b], middle, levels[i:j, roi])
    return out


def _limits(recording: Recording, a: int, b: int) -> Array:
    times = recording.timestamps[a:b]
    if len(times) > 1:
        return frame_edges(times)
    half = 0.5 * frame_durations(recording)[a]
    return np.array([times[0] - half, times[0] + half])


def cell_prior(indicator: Indicator | None, rate: float) -> CellPrior:
    """Return what is believed of a cell at ``rate`` frames per s, knowing its indicator or not."""
    decay = _DECAY if indicator is None else indicator.decay_time
    rise = _RISE if indicator is None else max(indicator.rise_time, 0.01)
    spread = _SPREAD_UNKNOWN if indicator is None else _SPREAD_KNOWN
    return CellPrior(
        decay=(float(np.log(decay * rate)), spread),
        rise=(float(np.log(rise * rate)), spread),
        rate=(float(np.log(_RATE / rate)), 1.0),
    )
