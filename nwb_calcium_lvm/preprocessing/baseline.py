"""The fluorescence of a silent cell, F0, and dF/F."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, minimum_filter1d

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.preprocessing.frames import as_floats, fill_missing
from nwb_calcium_lvm.preprocessing.noise import frame_noise

METHODS = ("maximin", "percentile", "constant", "constant_percentile")
# Suite2p has called its constant percentile by two names; neither is a running percentile.
_SUITE2P_NAMES = {"prctile": "constant_percentile", "constant_prctile": "constant_percentile"}
_NODES_PER_WINDOW = 20


def baseline(
    Fc: ArrayLike,
    method: str = "maximin",
    *,
    sampling_rate: float,
    window: float = 60.0,
    sigma: float = 10.0,
    percentile: float = 8.0,
    mask: ArrayLike | None = None,
) -> NDArray[np.floating]:
    """Estimate F0, the fluorescence without activity, of each ROI over time.

    Missing samples are interpolated first, so that none spreads over its neighbourhood.

    Parameters
    ----------
    Fc : array_like of float, shape (time, roi)
        Fluorescence, neuropil removed.
    method : {"maximin", "percentile", "constant", "constant_percentile"}
        ``"maximin"``: Suite2p's running maximum of the running minimum of the smoothed trace (as in Suite2p 1.1:
        kernel of 3 sigma, odd window, edges held). ``"percentile"``: running percentile; better where activity is
        dense or noise strong, since maximin sits at the bottom of the noise. ``"constant"``: minimum of the smoothed
        trace, each ROI its own (Suite2p takes one minimum over all ROIs, which gives no dF/F).
        ``"constant_percentile"``: one percentile of the whole trace, in Suite2p ``"prctile"`` or
        ``"constant_prctile"``, which are understood too.
    sampling_rate : float
        Frames per second.
    window : float
        Length of the running window in s. Much longer than the transients, shorter than drift; 60 s is usual.
    sigma : float
        Width of the Gaussian smoothing in **frames**, as in Suite2p.
    percentile : float
        0 to 100.
    mask : array_like of bool, shape (time, roi) or (time,), optional
        True where observed.

    Returns
    -------
    ndarray of float, shape (time, roi)
        NaN for ROIs without any observed sample.

    Examples
    --------
    >>> import numpy as np
    >>> trace = 100.0 + np.r_[np.zeros(300), 50 * np.exp(-np.arange(60) / 20), np.zeros(300)][:, None]
    >>> baseline(trace, sampling_rate=10.0)[330].round(1)
    array([100.])
    """
    method = _SUITE2P_NAMES.get(method, method)
    if method not in METHODS:
        raise DataError(
            f"baseline method {method!r} is not known. Expected one of {', '.join(METHODS)}, or Suite2p's "
            f"{' or '.join(_SUITE2P_NAMES)}."
        )
    for name, value, least in (("sampling_rate", sampling_rate, 0), ("window", window, 0)):
        if not (np.isfinite(value) and value > least):
            raise DataError(f"{name}={value!r} is out of range. Expected a number above {least}.")
    if not (np.isfinite(sigma) and sigma >= 0):
        raise DataError(f"sigma={sigma!r} is out of range. Expected a width in frames, 0 or more.")
    if not 0 <= percentile <= 100:
        raise DataError(f"percentile={percentile!r} is out of range. Expected 0 to 100.")
    filled = fill_missing(as_floats(Fc, "Fc"), mask)
    if len(filled) == 0:
        raise DataError(f"Fc has shape {filled.shape}: there is no frame in it. Expected (time, roi).")
    frames = max(1, int(window * sampling_rate))
    if method == "maximin":
        return _maximin(filled, frames, sigma)
    if method == "percentile":
        return _running_percentile(filled, frames, percentile)
    if method == "constant":
        return np.broadcast_to(_smooth(filled, sigma).min(axis=0), filled.shape).copy()
    level = np.percentile(filled, percentile, axis=0).astype(filled.dtype)
    return np.broadcast_to(level, filled.shape).copy()


def dff(
    Fc: ArrayLike, F0: ArrayLike, floor: float | ArrayLike | None = None
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return dF/F = (Fc - F0) / F0 and which ROIs have one.

    Parameters
    ----------
    Fc, F0 : array_like of float, shape (time, roi)
        Fluorescence and its baseline.
    floor : float or array_like of shape (roi,), optional
        An ROI whose baseline is ever at or under this has no meaningful dF/F. Default: the standard deviation of
        its frame-to-frame noise, since a cell dimmer than its own noise gives a dF/F of any size. Never under 0.

    Returns
    -------
    dff : ndarray of float, shape (time, roi)
        As a fraction; NaN for ROIs that are not usable.
    usable : ndarray of bool, shape (roi,)
    """
    cells, base = as_floats(Fc, "Fc"), as_floats(F0, "F0")
    if cells.shape != base.shape:
        raise DataError(f"Fc has shape {cells.shape} and F0 {base.shape}. Expected the same, (time, roi).")
    if floor is None:
        floor = np.nan_to_num(frame_noise(cells))
    usable = np.all(base > np.maximum(floor, 0), axis=0)  # False for NaN too
    safe = np.where(usable, base, 1)
    return np.where(usable, (cells - safe) / safe, np.nan).astype(cells.dtype, copy=False), usable


def _smooth(traces: NDArray[np.floating], sigma: float) -> NDArray[np.floating]:
    if sigma == 0:
        return traces
    return gaussian_filter1d(traces, sigma, axis=0, mode="nearest", radius=round(3 * sigma))


def _maximin(traces: NDArray[np.floating], frames: int, sigma: float) -> NDArray[np.floating]:
    # An even window would shift the baseline by half a frame; one beyond both ends of the trace changes nothing.
    size = min(frames, 2 * len(traces)) // 2 * 2 + 1
    lowest = minimum_filter1d(_smooth(traces, sigma), size, axis=0, mode="nearest")
    return maximum_filter1d(lowest, size, axis=0, mode="nearest")


def _running_percentile(traces: NDArray[np.floating], frames: int, percentile: float) -> NDArray[np.floating]:
    """Percentile of a window around each frame, exact at nodes a twentieth of a window apart, linear between.

    A baseline that moves within a twentieth of its window is not one, and the cost falls by the same factor.
    Windows at the ends lie inside the trace, so no sample is made up.
    """
    n_frames = len(traces)
    size = min(frames, n_frames)
    step = max(1, size // _NODES_PER_WINDOW)
    nodes = np.unique(np.append(np.arange(0, n_frames, step), n_frames - 1))
    starts = np.clip(nodes - size // 2, 0, n_frames - size)
    out = np.empty_like(traces)
    for roi, trace in enumerate(traces.T):
        windows = np.lib.stride_tricks.sliding_window_view(trace, size)
        levels = np.percentile(windows[starts], percentile, axis=1)
        out[:, roi] = np.interp(np.arange(n_frames), nodes, levels)
    return out
